"""What the interface was in each release."""

from __future__ import annotations

from nbexport.timeline.history import (
    EffectiveMember,
    History,
    availability,
    effective_members,
    history,
)

__all__ = ["EffectiveMember", "History", "availability", "effective_members", "history"]
