"""The raw format: a disk that is a file, or a window of one."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar, Final

from nbexport.bits import Extents
from nbexport.block.node import ALLOCATED, ZERO, BlockNode, HostFileError
from nbexport.block.probing import PROBE_BYTES, recognised
from nbexport.errors import UsageError
from nbexport.units import SECTOR_SIZE, align_up

if TYPE_CHECKING:
    from collections.abc import Hashable

SIZE_MAX: Final = (1 << 63) - SECTOR_SIZE
"""The longest disk: offsets are signed numbers of 64 bits."""


class RawNode(BlockNode):
    """A disk whose bytes are those of another node.

    Args:
        file: the node below; stays open when this one closes.
        offset: where in it the disk begins.
        size: length of the disk, a multiple of 512; None for all that follows ``offset``.
        probed: the format was guessed; QEMU then serves whole sectors only, and refuses to write
            what would make another format of the image.

    Raises:
        UsageError: the window does not lie inside the file. The text is QEMU's.
    """

    driver: ClassVar[str] = "raw"

    def __init__(
        self, file: BlockNode, offset: int = 0, size: int | None = None, *, probed: bool = False
    ) -> None:
        if offset < 0 or (size is not None and size < 0):
            raise UsageError(f"offset and size must not be negative: {offset}, {size}")
        if offset > file.size:
            raise UsageError(
                f"Offset ({offset}) cannot be greater than size of the containing file "
                f"({file.size})"
            )
        if size is not None and offset + size > file.size:
            raise UsageError(
                # The two blanks are QEMU's, and clients see its text.
                f"The sum of offset ({offset}) and size ({size}) has to be smaller or equal to "
                f"the  actual size of the containing file ({file.size})"
            )
        if size is not None and size % SECTOR_SIZE:
            raise UsageError(f"Specified size is not multiple of {SECTOR_SIZE}")
        self.file: BlockNode = file
        self.offset = offset
        self._window = size
        super().__init__(file.filename, self.size)
        self.file = file
        self._moves = 0
        self._probed = probed
        self.cluster_size = file.cluster_size
        self.read_only = file.read_only
        self.request_max = file.request_max
        self.request_alignment = SECTOR_SIZE if probed else file.request_alignment

    @property
    def size(self) -> int:
        """Length in bytes: as it was given, or as far as the file goes by now."""
        if self._window is not None:
            return self._window
        return align_up(max(0, self.file.size - self.offset), SECTOR_SIZE)

    @size.setter
    def size(self, value: int) -> None:
        """Leave it: it follows from the window and the file."""

    def reopen(self, file: BlockNode, offset: int = 0, size: int | None = None) -> None:
        """Become another window, or one of another node; the arguments are those of the class.

        Raises:
            UsageError: the window does not lie inside the file. Nothing has changed.
        """
        new = RawNode(file, offset, size)
        with self._map_lock:
            self.file, self.offset, self._window = file, new.offset, size
            self.cluster_size, self.read_only = new.cluster_size, new.read_only
            self._moves += 1

    def allocated_size(self) -> int:
        """Return the bytes of storage of the node below."""
        return self.file.allocated_size()

    def resize(self, size: int) -> None:
        """Have the node below end where the disk does."""
        if self._window is not None:
            text = "Cannot resize fixed-size raw disks"
            raise HostFileError(errno.ENOTSUP, text, self.filename)
        if self.offset + size > SIZE_MAX:
            raise HostFileError(errno.EINVAL, "Disk size too large for the chosen offset")
        self.file.resize(self.offset + size)

    def _read(self, offset: int, buffer: memoryview) -> None:
        self.file.event("read_aio")
        self.file.read_padded(self.offset + offset, buffer)

    def read_now(self, offset: int, buffer: memoryview) -> bool:
        """Ask the node below."""
        if offset < 0 or offset + len(buffer) > self.size or self.fence is not None:
            return False
        return self.file.read_now(self.offset + offset, buffer)

    @property
    def writable(self) -> bool:
        """Whether the node below is."""
        return self.file.writable

    def _write(self, offset: int, data: memoryview) -> None:
        if self._probed and offset < PROBE_BYTES:
            self._check_begin(offset, data)
        self.file.event("write_aio")
        self.file.write_from(self.offset + offset, data)

    def _check_begin(self, offset: int, data: memoryview) -> None:
        """Refuse what the next one who guesses would take for an image that names other files."""
        begin = bytearray(PROBE_BYTES)
        self.read_padded(0, memoryview(begin))
        inside = data[: PROBE_BYTES - offset]
        begin[offset : offset + len(inside)] = inside
        if recognised(begin) != self.driver:
            text = f"{self.filename}: would look like another format than raw"
            raise HostFileError(errno.EPERM, text, self.filename)

    def _write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        self.file.write_zeroes(self.offset + offset, length, unmap=unmap, no_fallback=no_fallback)

    def _discard(self, offset: int, length: int) -> None:
        self.file.discard(self.offset + offset, length)

    def _flush(self) -> None:
        self.file.flush()

    def _status(self, start: int, end: int, *, want_zero: bool) -> Extents:
        low = self.offset + start
        high = max(low, min(self.offset + end, self.file.size))
        if high == low:
            return Extents.uniform(start, end, ZERO | ALLOCATED)
        found = self.file._status(low, high, want_zero=want_zero)
        return found.shift(-self.offset).extend(end, ZERO | ALLOCATED)

    def _generation(self) -> Hashable:
        return self._moves, id(self.file), self.file._generation()

    def _map_is_bounded(self) -> bool:
        return self.file._map_is_bounded()

    def _raise_damage(self, offset: int) -> None:
        self.file._raise_damage(self.offset + offset)
