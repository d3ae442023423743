"""What a server offers under a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbexport.bits import Extents
from nbexport.nbd import wire
from nbexport.nbd.contexts import (
    ALLOCATION_DEPTH,
    ALLOCATION_DEPTH_ID,
    BASE_ALLOCATION,
    BASE_ALLOCATION_ID,
    FIRST_BITMAP_ID,
    ExtentsOf,
    MetaContext,
    dirty_bitmap_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.block import BlockNode

ExtentsProvider = Callable[[], Extents]
"""Gives all extents of a dirty bitmap as they are now, from offset 0 to the end of its disk."""


@dataclass(frozen=True, eq=False)
class Export:
    """A disk that clients can choose, read-only.

    Attributes:
        name: what clients ask for; empty for the default export.
        size: length in bytes.
        read_into: fills a buffer from an offset; called in worker threads, several at a time.
        allocation: extents with the flags of base:allocation, for leaving out zeroes of reads;
            None if not known.
        contexts: the metadata contexts, in the order in which they are listed.
        description: shown beside the name.
        request_alignment: smallest request in bytes that the disk is made for.
        multi_conn: whether several connections see the same disk.
    """

    name: str
    size: int
    read_into: Callable[[int, memoryview], None]
    allocation: ExtentsOf | None = None
    contexts: tuple[MetaContext, ...] = field(default=())
    description: str | None = None
    request_alignment: int = 1
    multi_conn: bool = True

    def flags(self, *, structured: bool) -> int:
        """Return the transmission flags; fragmenting can be forbidden only where it is possible."""
        flags = wire.HAS_FLAGS | wire.READ_ONLY | wire.SEND_FLUSH | wire.SEND_FUA | wire.SEND_CACHE
        if self.multi_conn:
            flags |= wire.CAN_MULTI_CONN
        if structured:
            flags |= wire.SEND_DF
        return flags


def from_node(
    node: BlockNode,
    name: str,
    *,
    size: int | None = None,
    description: str | None = None,
    allocation_depth: bool = False,
    bitmaps: Sequence[tuple[str, ExtentsProvider]] = (),
    multi_conn: bool = True,
) -> Export:
    """Return the export of a block node.

    The contexts are base:allocation, then the depth if asked for, then the bitmaps in the given
    order. A bitmap that is shorter than the disk is clean behind its end.

    Args:
        node: the disk; must stay open while it is exported.
        name: the export's name.
        size: bytes of the disk to export; all of it if None.
        description: shown beside the name.
        allocation_depth: whether to offer qemu:allocation-depth.
        bitmaps: names, and what gives their extents.
        multi_conn: whether to promise that several connections see the same disk.
    """
    length = node.size if size is None else size
    contexts = [MetaContext(BASE_ALLOCATION, BASE_ALLOCATION_ID, node.allocation)]
    if allocation_depth:
        contexts.append(MetaContext(ALLOCATION_DEPTH, ALLOCATION_DEPTH_ID, node.depth))
    for number, (bitmap, extents) in enumerate(bitmaps, FIRST_BITMAP_ID):
        provider = _ranged(extents)
        contexts.append(MetaContext(dirty_bitmap_name(bitmap), number, provider))
    return Export(
        name,
        length,
        node.read_into,
        node.allocation,
        tuple(contexts),
        description,
        node.request_alignment,
        multi_conn,
    )


def _ranged(extents: ExtentsProvider) -> ExtentsOf:
    """Return what gives a range of a bitmap that may be shorter than the export."""

    def in_range(start: int, end: int) -> Extents:
        whole = extents()
        if start >= whole.end:
            return Extents.uniform(start, end, 0)
        return whole.clip(start, min(end, whole.end)).extend(end, 0)

    return in_range
