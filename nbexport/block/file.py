"""The protocol layer: a file or block device of the host."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbexport.bits import Extents
from nbexport.block.node import ALLOCATED, DATA, ZERO, BlockNode, HostFileError, fill_zeroes
from nbexport.units import SECTOR_SIZE, align_up

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

MAX_HOST_EXTENTS = 1 << 22
"""Boundaries between data and holes that are asked of the kernel for one map; what follows counts
as data, which is always a true answer. 4 Mi boundaries are 32 MiB of offsets."""

_READ_MAX = 1 << 30
"""Linux transfers less than 2 GiB a call; half of that is far above any request."""


class FileNode(BlockNode):
    """A regular file of the host.

    Its length is rounded up to 512 bytes as in QEMU; the added tail is a hole.

    Args:
        path: the file; opened for reading, without waiting for anything.

    Raises:
        OSError: it cannot be opened, or is not a regular file. The text is QEMU's line.
    """

    driver: ClassVar[str] = "file"

    def __init__(self, path: str | Path) -> None:
        name = str(path)
        self._fd = -1
        fd = _open(name)
        try:
            info = os.fstat(fd)
            self._check_kind(name, info)
            length = os.lseek(fd, 0, os.SEEK_END)
        except BaseException:
            os.close(fd)
            raise
        super().__init__(name, align_up(length, SECTOR_SIZE))
        self._fd = fd
        self._length = length
        self.identity = (info.st_dev, info.st_ino)

    @classmethod
    def _check_kind(cls, name: str, info: os.stat_result) -> None:
        if not stat.S_ISREG(info.st_mode):
            text = f"'file' driver requires '{name}' to be a regular file"
            raise HostFileError(errno.EINVAL, text, name)

    def allocated_size(self) -> int:
        """Return the bytes of storage that the host spends on the file."""
        return os.fstat(self._fd).st_blocks * SECTOR_SIZE

    def _read(self, offset: int, buffer: memoryview) -> None:
        inside = max(0, min(len(buffer), self._length - offset))
        done = 0
        while done < inside:
            part = buffer[done : min(inside, done + _READ_MAX)]
            try:
                count = os.preadv(self._fd, [part], offset + done)
            except OSError as error:
                text = f"{self.filename}: cannot read at offset {offset + done}: {error.strerror}"
                raise HostFileError(error.errno, text, self.filename) from error
            if count == 0:
                # Zeroes here would pass for the disk's content.
                text = f"{self.filename}: file ends before offset {offset + done}: it was cut"
                raise HostFileError(errno.EIO, text, self.filename)
            done += count
        if inside < len(buffer):
            fill_zeroes(buffer[inside:])

    def _status(self, start: int, end: int, *, want_zero: bool) -> Extents:
        if not want_zero:
            return Extents.uniform(start, end, DATA | ALLOCATED)
        # The kernel tells one boundary a call, so this is the one loop over extents: of system
        # calls, not of arithmetic.
        bounds = [start]
        at = start
        in_data = False  # before the first boundary: an empty hole, dropped below
        while at < end and len(bounds) < MAX_HOST_EXTENTS:
            try:
                at = os.lseek(self._fd, at, os.SEEK_HOLE if in_data else os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                    at = end
                elif error.errno in {errno.EINVAL, errno.EOPNOTSUPP}:  # no notion of holes
                    return Extents.uniform(start, end, DATA | ALLOCATED)
                else:
                    text = f"{self.filename}: cannot find holes: {error.strerror}"
                    raise HostFileError(error.errno, text, self.filename) from error
            bounds.append(min(at, end))
            in_data = not in_data
        offsets = np.array(bounds, dtype=np.int64)
        flags = np.full(len(bounds) - 1, DATA | ALLOCATED, dtype=np.uint32)
        flags[::2] = ZERO | ALLOCATED
        found = Extents.from_lengths(np.diff(offsets), flags, start)
        return found.extend(end, DATA | ALLOCATED)

    def _generation(self) -> Hashable:
        info = os.fstat(self._fd)
        return info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_blocks

    def _close_own(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class HostDeviceNode(FileNode):
    """A block device of the host.

    Args:
        path: the device; opened for reading.

    Raises:
        OSError: it cannot be opened, or is not a block device.
    """

    driver: ClassVar[str] = "host_device"

    @classmethod
    def _check_kind(cls, name: str, info: os.stat_result) -> None:
        if not stat.S_ISBLK(info.st_mode):
            text = f"'host_device' driver requires '{name}' to be a block device"
            raise HostFileError(errno.EINVAL, text, name)

    def allocated_size(self) -> int:
        """Return the length: a device has no holes that it tells of."""
        return self.size


def open_file(path: str | Path) -> FileNode:
    """Open a regular file or a block device, whichever ``path`` is.

    Raises:
        OSError: it is neither, or cannot be opened.
    """
    try:
        is_device = stat.S_ISBLK(os.stat(path).st_mode)  # noqa: PTH116 # path may be a str
    except (OSError, ValueError):
        is_device = False  # the attempt to open it tells why
    return HostDeviceNode(path) if is_device else FileNode(path)


def _open(name: str) -> int:
    # O_NONBLOCK: opening a FIFO without a writer would wait forever.
    try:
        return os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        text = f"Could not open '{name}': {error.strerror}"
        raise HostFileError(error.errno, text, name) from error
    except ValueError as error:  # a NUL in the name
        text = f"Could not open {name!r}: {error}"
        raise HostFileError(errno.EINVAL, text, name) from error
