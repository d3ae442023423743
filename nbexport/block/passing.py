"""What filters have in common: a disk that is the node below unless a filter does more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.block.node import BlockNode

if TYPE_CHECKING:
    from collections.abc import Hashable

    from nbexport.bits import Extents


class FilterNode(BlockNode):
    """A disk that is the node below; it stays open when this one closes.

    Size and backing file are those of the node below, whatever becomes of it.

    Args:
        file: the node below.
    """

    def __init__(self, file: BlockNode) -> None:
        super().__init__(file.filename, file.size)
        self.file: BlockNode = file
        self.cluster_size = file.cluster_size
        self.read_only = file.read_only
        self.request_alignment = file.request_alignment
        self.request_max = file.request_max

    @property
    def size(self) -> int:
        """Length in bytes, that of the node below."""
        return self.file.size

    @size.setter
    def size(self, value: int) -> None:
        """Leave it: the node below has its own."""

    @property
    def backing(self) -> BlockNode | None:
        """With the backing chain of the node below this layer counts as that node, as in QEMU."""
        return self.file.backing

    @backing.setter
    def backing(self, value: BlockNode | None) -> None:
        """Leave it: the node below has its own."""

    def allocated_size(self) -> int:
        """Return the bytes of storage of the node below."""
        return self.file.allocated_size()

    @property
    def writable(self) -> bool:
        """Whether the node below is."""
        return self.file.writable

    def grow(self, size: int) -> None:
        """Have the node below grow."""
        self.file.grow(size)

    def resize(self, size: int) -> None:
        """Have the node below take another length."""
        self.file.resize(size)

    def _read(self, offset: int, buffer: memoryview) -> None:
        self.file.read_into(offset, buffer)

    def _write(self, offset: int, data: memoryview) -> None:
        self.file.write_from(offset, data)

    def _write_compressed(self, offset: int, data: memoryview) -> None:
        self.file.write_compressed(offset, data)

    @property
    def compresses(self) -> bool:
        """Whether the node below can store data compressed."""
        return self.file.compresses

    def _write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        self.file.write_zeroes(offset, length, unmap=unmap, no_fallback=no_fallback)

    def _discard(self, offset: int, length: int) -> None:
        self.file.discard(offset, length)

    def _flush(self) -> None:
        self.file.flush()

    def _status(self, start: int, end: int, *, want_zero: bool) -> Extents:
        return self.file._status(start, end, want_zero=want_zero)

    def _generation(self) -> Hashable:
        return self.file._generation()

    def _map_is_bounded(self) -> bool:
        return self.file._map_is_bounded()

    def _raise_damage(self, offset: int) -> None:
        self.file._raise_damage(offset)
