"""copy-before-write: a filter that saves what is about to be overwritten."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nbexport.block.copying import CopyBefore
from nbexport.block.node import BlockNode

if TYPE_CHECKING:
    from collections.abc import Hashable

    from nbexport.bits import Bitmap, Extents


class CopyBeforeWriteNode(BlockNode):
    """A disk that is the node below, and whose overwritten parts can be found in another.

    Args:
        file: the node below; stays open when this one closes.
        target: what gets the old data.
        wanted: what is worth keeping, at the target's granularity; None for all.

    Attributes:
        copying: what is copied and what was.

    Source: QEMU's ``BlockdevOptionsCbw``.
    """

    driver: ClassVar[str] = "copy-before-write"

    def __init__(
        self,
        file: BlockNode,
        target: BlockNode,
        *,
        wanted: Bitmap | None = None,
        copying: CopyBefore | None = None,
    ) -> None:
        super().__init__(file.filename, file.size)
        self.file: BlockNode = file
        self.backing = file.backing
        self.cluster_size = file.cluster_size
        self.read_only = file.read_only
        self.request_alignment = file.request_alignment
        self.copying = copying or CopyBefore(file, target, wanted=wanted)
        self.guards = (self.copying.before,)

    def allocated_size(self) -> int:
        """Return the bytes of storage of the node below."""
        return self.file.allocated_size()

    @property
    def writable(self) -> bool:
        """Whether the node below is."""
        return self.file.writable

    def _read(self, offset: int, buffer: memoryview) -> None:
        self.file.read_into(offset, buffer)

    def read_now(self, offset: int, buffer: memoryview) -> bool:
        """Ask the node below."""
        return self.file.read_now(offset, buffer)

    def _write(self, offset: int, data: memoryview) -> None:
        self.file.write_from(offset, data)

    def _write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        self.file.write_zeroes(offset, length, unmap=unmap, no_fallback=no_fallback)

    def _discard(self, offset: int, length: int) -> None:
        self.file.discard(offset, length)

    def _flush(self) -> None:
        self.file.flush()

    def _status(self, start: int, end: int, *, want_zero: bool) -> Extents:
        # With the backing chain of the node below this layer counts as that node, as in QEMU.
        return self.file._status(start, end, want_zero=want_zero)

    def _generation(self) -> Hashable:
        return self.file._generation()

    def _map_is_bounded(self) -> bool:
        return self.file._map_is_bounded()

    def _raise_damage(self, offset: int) -> None:
        self.file._raise_damage(offset)
