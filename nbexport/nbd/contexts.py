"""What a metadata context is, and which of them a query selects.

Sources: NBD protocol, "Metadata querying"; QEMU, ``docs/interop/nbd.txt``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.bits import Bitmap, Extents
from nbexport.nbd.meanings import DIRTY_BITMAP_PREFIX

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

BASE_ALLOCATION = "base:allocation"
ALLOCATION_DEPTH = "qemu:allocation-depth"

# The numbers that QEMU gives since 5.2; bitmap number i of an export has FIRST_BITMAP_ID + i.
BASE_ALLOCATION_ID = 0
ALLOCATION_DEPTH_ID = 1
FIRST_BITMAP_ID = 2

ExtentsOf = Callable[[int, int], Extents]
"""Gives the extents of the bytes [start, end) of an export."""


@dataclass(frozen=True)
class MetaContext:
    """One thing that a server can tell of each byte of an export.

    Attributes:
        name: namespace, colon, leaf.
        id: what marks its extents in block-status replies; unique in its export.
        extents: gives the extents of a range; called in a worker thread.
        version: gives a value that changes when the extents do, so that they can be kept; None
            from it, or instead of it, says that they have to be asked for each time.
        source: gives the bitmap behind the extents where there is one; it tells of changes
            itself, and is looked at in windows.
    """

    name: str
    id: int
    extents: ExtentsOf
    version: Callable[[], Hashable] | None = None
    source: Callable[[], Bitmap | None] | None = None


def dirty_bitmap_name(bitmap: str) -> str:
    """Return the context's name of a dirty bitmap."""
    return DIRTY_BITMAP_PREFIX + bitmap


def select(
    contexts: Sequence[MetaContext], queries: Iterable[bytes], *, listing: bool
) -> list[MetaContext]:
    """Return the contexts that queries select, in the order of the export.

    A wildcard (``base:``, ``qemu:``, ``qemu:dirty-bitmap:``) selects its group when listing and
    nothing when setting. What is unknown selects nothing. A name that occurs twice in an export
    selects its first bearer.

    Args:
        contexts: all that the export has.
        queries: as the client sent them.
        listing: whether the option was LIST_META_CONTEXT.
    """
    chosen: set[int] = set()
    first: dict[bytes, int] = {}
    for context in contexts:
        first.setdefault(context.name.encode("utf-8", "surrogateescape"), context.id)
    for query in queries:
        if query in first:
            chosen.add(first[query])
        elif listing and query in _WILDCARDS:
            prefix = query.decode()
            chosen.update(context.id for context in contexts if context.name.startswith(prefix))
    return [context for context in contexts if context.id in chosen]


_WILDCARDS = frozenset((b"base:", b"qemu:", DIRTY_BITMAP_PREFIX.encode()))
