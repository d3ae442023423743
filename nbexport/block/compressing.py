"""compress: a filter whose writes are stored compressed, and preallocate: one that saves room."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, ClassVar, Final

from nbexport.block.passing import FilterNode
from nbexport.units import SECTOR_SIZE, MiB, align_down, align_up

if TYPE_CHECKING:
    from nbexport.block.node import BlockNode

PREALLOCATED: Final = 128 * MiB
"""How much is preallocated behind what is written, unless it is said."""
PREALLOCATED_ALIGN: Final = MiB


class CompressNode(FilterNode):
    """A disk that is the node below, which stores compressed what is written here.

    A cluster is written whole, with what was there around the part that is written.

    Args:
        file: the node below, an image that can compress.
    """

    driver: ClassVar[str] = "compress"

    def __init__(self, file: BlockNode) -> None:
        super().__init__(file)
        self._unit = file.cluster_size or SECTOR_SIZE
        self.request_alignment = self._unit
        self._merging = threading.Lock()

    def _write(self, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        start = align_down(offset, self._unit)
        stop = min(align_up(end, self._unit), self.size)
        if (start, stop) == (offset, end):
            self.file.write_compressed(offset, data)
            return
        with self._merging:
            whole = memoryview(bytearray(stop - start))
            self.file.read_into(start, whole)
            whole[offset - start : end - start] = data
            self.file.write_compressed(start, whole)


class PreallocateNode(FilterNode):
    """A file that is the node below, which has zeroes behind its end as long as it is used.

    So a format above that grows its file step by step has the host asked for room seldom. When the
    node closes, the file ends where the format's data do.

    Args:
        file: the node below.
        align: what the file is as long as a multiple of.
        length: how much to keep ready.
    """

    driver: ClassVar[str] = "preallocate"

    def __init__(
        self, file: BlockNode, *, align: int = PREALLOCATED_ALIGN, length: int = PREALLOCATED
    ) -> None:
        self._end: int | None = None
        super().__init__(file)
        self.prepare(align, length)

    def prepare(self, align: int, length: int) -> None:
        """Keep so much ready from now on; the arguments are those of the class."""
        self._align, self._length = max(1, align), length

    @property
    def size(self) -> int:
        """Where the data end."""
        return self.file.size if self._end is None else self._end

    @size.setter
    def size(self, value: int) -> None:
        """Leave it: the node below has its own."""

    def grow(self, size: int) -> None:
        """Let the data end farther behind."""
        if size <= self.size:
            return
        old = self.file.size
        self._end = align_up(size, SECTOR_SIZE)
        if self._end <= old:
            return
        self.file.grow(align_up(self._end + self._length, self._align))
        with contextlib.suppress(OSError):
            # Without help of the host there is nothing to be gained.
            self.file.write_zeroes(old, self.file.size - old, unmap=False, no_fallback=True)

    def resize(self, size: int) -> None:
        """Give the file another length, with nothing kept ready."""
        self.file.resize(size)
        self._end = None

    def drop(self) -> None:
        """Let the file end where the data do.

        Raises:
            OSError: the host failed.
        """
        end, self._end = self._end, None
        if end is not None and end < self.file.size:
            self.file.resize(end)

    def _close_own(self) -> None:
        with contextlib.suppress(OSError):
            self.drop()
