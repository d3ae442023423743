"""copy-on-read: a filter that keeps in the image below what was read from its backing files."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbexport.block.node import ALLOCATED, BlockNode
from nbexport.block.passing import FilterNode
from nbexport.units import MiB, align_down, align_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_PIECE = MiB
"""Bytes that are copied at a time."""


class CopyOnReadNode(FilterNode):
    """A disk that is the node below, and has what was read of it stored there.

    What is stored so does not change the disk: dirty bitmaps do not hear of it.

    Args:
        file: the node below.
        bottom: the lowest layer of its chain that is copied from; None for all.
    """

    driver: ClassVar[str] = "copy-on-read"

    def __init__(self, file: BlockNode, bottom: BlockNode | None = None) -> None:
        super().__init__(file)
        self._bottom = bottom
        self._copying = threading.Lock()

    def _read(self, offset: int, buffer: memoryview) -> None:
        if self.file.writable:
            end = offset + len(buffer)
            unit = self.file.cluster_size or 1
            start, end = align_down(offset, unit), min(align_up(end, unit), self.size)
            if any(True for _ in self._missing(start, end)):
                with self._copying:
                    for at, stop in list(self._missing(start, end)):
                        self._copy(at, stop)
        self.file.read_into(offset, buffer)

    def _missing(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that the layer below lacks, and is to get."""
        wanted = self.file._status(start, end, want_zero=False).map_flags(_lacks)
        if self._bottom is not None and wanted.flags.any():
            below = self.file.backing
            while below is not None:
                inside = max(start, min(end, below.size))
                if start < inside:
                    there = below._status(start, inside, want_zero=False).map_flags(_has)
                    wanted = wanted.combine(there.extend(end, 0), _mark)
                if _bare(below) is self._bottom:
                    break
                below = below.backing
            wanted = wanted.map_flags(_is_marked)
        for at, length, flags in wanted:
            if flags:
                yield at, at + length

    def _copy(self, start: int, end: int) -> None:
        for at in range(start, end, _PIECE):
            data = memoryview(bytearray(min(_PIECE, end - at)))
            self.file.read_into(at, data)
            self.file.event("cor_write")
            if np.frombuffer(data, dtype=np.uint8).any():
                self.file._write(at, data)
            else:
                self.file._write_zeroes(at, len(data), unmap=False, no_fallback=False)

    def _write(self, offset: int, data: memoryview) -> None:
        with self._copying:
            super()._write(offset, data)

    def _write_compressed(self, offset: int, data: memoryview) -> None:
        with self._copying:
            super()._write_compressed(offset, data)

    def _write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        with self._copying:
            super()._write_zeroes(offset, length, unmap=unmap, no_fallback=no_fallback)

    def _discard(self, offset: int, length: int) -> None:
        with self._copying:
            super()._discard(offset, length)


def _bare(node: BlockNode) -> BlockNode:
    """Return the node below all filters."""
    while isinstance(node, FilterNode):
        node = node.file
    return node


_LACKS, _MARKED = 1, 2


def _lacks(flags: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.where(flags & ALLOCATED, 0, _LACKS).astype(np.uint32)


def _has(flags: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.where(flags & ALLOCATED, _MARKED, 0).astype(np.uint32)


def _mark(wanted: NDArray[np.uint32], there: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.where(wanted & _LACKS, wanted | there, wanted).astype(np.uint32)


def _is_marked(flags: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.where(flags == _LACKS | _MARKED, 1, 0).astype(np.uint32)
