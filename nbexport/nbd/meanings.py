"""What the flags of an extent mean in each metadata context, in the words that libnbd's tools use.

Sources: NBD protocol, "Metadata querying" (``base:``); QEMU's NBD interoperability notes
(``qemu:``).
"""

from __future__ import annotations

DIRTY_BITMAP_PREFIX = "qemu:dirty-bitmap:"

_ALLOCATION = {0: "data", 1: "hole", 2: "zero", 3: "hole,zero"}
_DEPTH = {0: "absent", 1: "local"}
_DIRTY = {0: "clean", 1: "dirty"}


def describe(context: str, flags: int) -> str | None:
    """Return the word for ``flags`` in ``context``, or None where there is none.

    >>> describe("base:allocation", 3), describe("qemu:allocation-depth", 2)
    ('hole,zero', 'backing depth 2')
    """
    if context == "base:allocation":
        return _ALLOCATION.get(flags)
    if context == "qemu:allocation-depth":
        return _DEPTH.get(flags, f"backing depth {flags}")
    if context.startswith(DIRTY_BITMAP_PREFIX):
        return _DIRTY.get(flags)
    return None
