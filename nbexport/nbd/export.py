"""What a server offers under a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from nbexport.bits import Bitmap, Extents
from nbexport.errors import UsageError
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
from nbexport.nbd.maps import Maps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.block import BlockNode, Front

ExtentsProvider = Callable[[], Extents | Bitmap]
"""Gives a dirty bitmap as it is now, or its extents from offset 0 to the end of its disk. A bitmap
is preferred: it says when it changes, and only what is asked for is looked at."""


class WritableDisk(Protocol):
    """What a writable export needs of its disk; block nodes have it. Called in worker threads."""

    def write_from(self, offset: int, data: memoryview) -> None:
        """Store bytes."""

    def write_zeroes(
        self, offset: int, length: int, *, unmap: bool = True, no_fallback: bool = False
    ) -> None:
        """Make a range read as zeroes; ENOTSUP if that is slow and must not be."""

    def discard(self, offset: int, length: int) -> None:
        """Give up a range."""

    def flush(self) -> None:
        """Make every finished write durable, on whichever connection it came."""


@dataclass(frozen=True, eq=False)
class Export:
    """A disk that clients can choose.

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
        writer: takes writes; None for a read-only export.
        unmap: whether trimming and zeroing may give storage back.
        read_now: fills a buffer as ``read_into`` does if that takes no waiting, and tells whether
            it did; called in the event loop. None if nothing is known to be quick.
        request_max: longest request in bytes that the disk should get; 0 for no limit of its own.
        maps: what is kept of the contexts' extents.
    """

    name: str
    size: int
    read_into: Callable[[int, memoryview], None]
    allocation: ExtentsOf | None = None
    contexts: tuple[MetaContext, ...] = field(default=())
    description: str | None = None
    request_alignment: int = 1
    multi_conn: bool = True
    writer: WritableDisk | None = None
    unmap: bool = False
    read_now: Callable[[int, memoryview], bool] | None = None
    request_max: int = 0
    maps: Maps = field(init=False, repr=False)
    zeroes: MetaContext | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make what is kept."""
        object.__setattr__(self, "maps", Maps(self.size, self.contexts))
        # What tells holes for reads is most often what base:allocation is offered from.
        zeroes = next((c for c in self.contexts if c.extents == self.allocation), None)
        if zeroes is None and self.allocation is not None:
            zeroes = MetaContext(BASE_ALLOCATION, BASE_ALLOCATION_ID, self.allocation)
        object.__setattr__(self, "zeroes", zeroes)

    @property
    def writable(self) -> bool:
        """Whether clients may write."""
        return self.writer is not None

    def flags(self, *, structured: bool, payload: bool = False) -> int:
        """Return the transmission flags.

        Args:
            structured: replies come in chunks; fragmenting can be forbidden only then.
            payload: a block status may name the contexts that it asks for.
        """
        flags = wire.HAS_FLAGS | wire.SEND_FLUSH | wire.SEND_FUA | wire.SEND_CACHE
        if self.writable:
            flags |= wire.SEND_TRIM | wire.SEND_WRITE_ZEROES | wire.SEND_FAST_ZERO
        else:
            flags |= wire.READ_ONLY
        if self.multi_conn:
            flags |= wire.CAN_MULTI_CONN
        if structured:
            flags |= wire.SEND_DF
        if payload:
            flags |= wire.BLOCK_STATUS_PAYLOAD
        return flags


def from_node(
    node: BlockNode | Front,
    name: str,
    *,
    size: int | None = None,
    description: str | None = None,
    allocation_depth: bool = False,
    bitmaps: Sequence[tuple[str, ExtentsProvider]] = (),
    first_bitmap_id: int = FIRST_BITMAP_ID,
    multi_conn: bool = True,
    writable: bool = False,
    unmap: bool = False,
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
        bitmaps: names, and what gives them as they are now.
        first_bitmap_id: the number of the first bitmap's context.
        multi_conn: whether to promise that several connections see the same disk.
        writable: whether clients may write.
        unmap: whether trimming and zeroing may give storage back; otherwise a trim does nothing,
            as with QEMU's ``discard=ignore``.

    Raises:
        UsageError: the export is to be writable and the node is not.
    """
    if writable and not node.writable:
        raise UsageError(f"{node.filename}: cannot be written, so it cannot be exported writable")
    length = node.size if size is None else size
    version = node.version
    contexts = [MetaContext(BASE_ALLOCATION, BASE_ALLOCATION_ID, node.allocation, version)]
    if allocation_depth:
        contexts.append(MetaContext(ALLOCATION_DEPTH, ALLOCATION_DEPTH_ID, node.depth, version))
    for number, (bitmap, provider) in enumerate(bitmaps, first_bitmap_id):
        extents, source = _ranged(provider), _source(provider)
        contexts.append(MetaContext(dirty_bitmap_name(bitmap), number, extents, source=source))
    return Export(
        name,
        length,
        node.read_into,
        node.allocation,
        tuple(contexts),
        description,
        node.request_alignment,
        multi_conn,
        node if writable else None,
        unmap,
        node.read_now,
        request_max=node.request_max,
    )


def _source(provider: ExtentsProvider) -> Callable[[], Bitmap | None]:
    """Return what gives the bitmap itself, where the provider has one."""
    known: list[bool] = []

    def source() -> Bitmap | None:
        if known and not known[0]:
            return None
        found = provider()
        known[:] = [isinstance(found, Bitmap)]
        return found if isinstance(found, Bitmap) else None

    return source


def _ranged(provider: ExtentsProvider) -> ExtentsOf:
    """Return what gives a range of a bitmap that may be shorter than the export."""

    def in_range(start: int, end: int) -> Extents:
        found = provider()
        length = found.size if isinstance(found, Bitmap) else found.end
        if start >= length:
            return Extents.uniform(start, end, 0)
        stop = min(end, length)
        clip = found.extents if isinstance(found, Bitmap) else found.clip
        return clip(start, stop).extend(end, 0)

    return in_range
