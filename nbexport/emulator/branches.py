"""The branches of QEMU that can be emulated, and what their numbers mean.

Nothing is imported here that takes time: a command tells its version by this alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nbexport.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

Version = tuple[int, int, int]

# The newest stable release of each branch, which a bare "7.2" means.
_NEWEST_STABLE: Mapping[tuple[int, int], int] = {
    (2, 12): 1, (3, 0): 1, (3, 1): 1, (4, 0): 1, (4, 1): 1, (4, 2): 1, (5, 0): 1, (5, 1): 0,
    (5, 2): 0, (6, 0): 1, (6, 1): 1, (6, 2): 0, (7, 0): 0, (7, 1): 0, (7, 2): 22, (8, 0): 5,
    (8, 1): 5, (8, 2): 10, (9, 0): 4, (9, 1): 3, (9, 2): 4, (10, 0): 13, (10, 1): 5, (10, 2): 2,
    (11, 0): 3,
}  # fmt: skip
# Branches that may have got more since this was written.
_STILL_KEPT = frozenset({(10, 0), (10, 1), (10, 2), (11, 0)})

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?\Z")


def known_releases() -> list[str]:
    """Return the branches that can be emulated, oldest first."""
    return [f"{major}.{minor}" for major, minor in sorted(_NEWEST_STABLE)]


def parse_version(text: str) -> Version:
    """Return the release that ``text`` names: ``7.2``, the newest of its branch, or ``7.2.14``.

    Raises:
        UsageError: it is no release number, or the interface of that release is not known.
    """
    found = _VERSION.match(text)
    branch = (int(found[1]), int(found[2])) if found else (0, 0)
    if found is None or branch not in _NEWEST_STABLE:
        raise UsageError(f"unknown release '{text}' (known: {', '.join(known_releases())})")
    newest = _NEWEST_STABLE[branch]
    micro = int(found[3]) if found[3] is not None else newest
    if micro > newest and branch not in _STILL_KEPT:
        raise UsageError(
            f"unknown release '{text}' (its branch ends with {found[1]}.{found[2]}.{newest})"
        )
    return (*branch, micro)
