"""What the interface was in each release, and when each piece of it came and went.

`Timeline` tells the lives of elements, `computed_since` dates every piece of any schemas,
`check_tags` holds the written releases against that; ``migration`` says what to call when.
"""

from __future__ import annotations

from nbexport.timeline.computed import Since, Snapshot, computed_since, release_snapshots
from nbexport.timeline.elements import Element, find_element, parse_element
from nbexport.timeline.history import (
    EffectiveMember,
    History,
    availability,
    effective_members,
    history,
)
from nbexport.timeline.lifecycle import Change, Lifecycle
from nbexport.timeline.lives import Timeline
from nbexport.timeline.tags import TagDifference, check_tags

__all__ = [
    "Change",
    "EffectiveMember",
    "Element",
    "History",
    "Lifecycle",
    "Since",
    "Snapshot",
    "TagDifference",
    "Timeline",
    "availability",
    "check_tags",
    "computed_since",
    "effective_members",
    "find_element",
    "history",
    "parse_element",
    "release_snapshots",
]
