"""The protocol layer: a file or block device of the host."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import threading
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbexport.bits import Extents
from nbexport.block.locks import FileLocks, Permission
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


# fallocate(2)
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10

_FIRST_BLOCK = 4096

_NOT_SUPPORTED = frozenset((errno.ENOTSUP, errno.ENOSYS, errno.ENOTTY))
_ZEROES = memoryview(bytes(1 << 20))
"""What is written where the host cannot zero a range itself, a MiB at a time."""


class FileNode(BlockNode):
    """A regular file of the host.

    Its length is rounded up to 512 bytes as in QEMU; the added tail is a hole, and writing there
    makes the file longer.

    Args:
        path: the file; opened without waiting for anything.
        writable: open it for writing too.

    Attributes:
        locks: what other processes are told of our use; who opens an image takes them.

    Raises:
        OSError: it cannot be opened, or is not a regular file. The text is QEMU's line.
    """

    driver: ClassVar[str] = "file"

    def __init__(self, path: str | Path, *, writable: bool = False) -> None:
        name = str(path)
        self._fd = -1
        fd = _open(name, writable=writable)
        try:
            info = os.fstat(fd)
            self._check_kind(name, info)
            length = os.lseek(fd, 0, os.SEEK_END)
        except BaseException:
            os.close(fd)
            raise
        super().__init__(name, align_up(length, SECTOR_SIZE))
        self._fd = fd
        self.locks = FileLocks(fd, name)
        self._length = length
        self._writable = writable
        self.read_only = not writable
        self._state = threading.Lock()
        self._changes = 0  # the file's times are too coarse to tell two writes apart
        self._flush_error: OSError | None = None
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

    def read_now(self, offset: int, buffer: memoryview) -> bool:
        """Fill ``buffer`` from what the kernel has in memory; return whether all of it is there."""
        if offset < 0 or offset + len(buffer) > self._length or self.fence is not None:
            return False
        try:
            return os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
        except OSError:
            return False  # not there, or this file system cannot tell

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
        times = info.st_mtime_ns, info.st_ctime_ns
        return self._changes, *times, info.st_size, info.st_blocks

    # Writing

    @property
    def writable(self) -> bool:
        """Whether the file was opened for writing."""
        return self._writable

    def grow(self, size: int) -> None:
        """Make the file longer; what is added is a hole. One that is long enough stays as it is.

        Raises:
            OSError: the file is not open for writing, or the host failed.
        """
        if not self._writable:
            raise self._not_writable()
        if size > self._length:
            try:
                os.ftruncate(self._fd, size)
            except OSError as error:
                raise self._cannot("grow", size, error) from error
            self._changed(size)
        self.size = max(self.size, align_up(size, SECTOR_SIZE))

    def resize(self, size: int) -> None:
        """Make the file longer by a hole, or cut it.

        Raises:
            OSError: the file is not open for writing, or the host failed; QEMU's text.
        """
        if not self._writable:
            raise self._not_writable()
        try:
            _truncate(self._fd, size, new=self._length == 0)
        except OSError as error:
            text = f"Could not resize file: {error.strerror}"
            raise HostFileError(error.errno, text, self.filename) from error
        with self._state:
            self._length = size
            self._changes += 1
        self.size = align_up(size, SECTOR_SIZE)

    def reopen(self, *, writable: bool) -> None:
        """Open the same file for writing too, or for reading only; its locks stay.

        Whoever reads meanwhile goes on to read.

        Raises:
            OSError: the file cannot be opened so, or the host failed. Nothing has changed.
        """
        # By the descriptor: another file may have come to the path.
        access = os.O_RDWR if writable else os.O_RDONLY
        try:
            new = os.open(f"/proc/self/fd/{self._fd}", access | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            text = f"Could not reopen file: {error.strerror}"
            raise HostFileError(error.errno, text, self.filename) from error
        try:
            self.locks.copy_to(new)
            os.dup2(new, self._fd, inheritable=False)
        finally:
            os.close(new)
        self._writable = writable
        self.read_only = not writable

    def _changed(self, end: int) -> None:
        """Note a change of the bytes up to ``end``, after it and before anybody is told."""
        with self._state:
            self._length = max(self._length, end)
            self._changes += 1

    def _write(self, offset: int, data: memoryview) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done : done + _READ_MAX], offset + done)
        except OSError as error:
            raise self._cannot("write", offset + done, error) from error
        finally:
            self._changed(offset + done)

    def _write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        modes = [_PUNCH_HOLE | _KEEP_SIZE, _ZERO_RANGE] if unmap else [_ZERO_RANGE]
        for mode in modes:
            # Beyond the end of the file a hole would not make it longer; nothing reads there.
            if self._fallocate(mode, offset, length):
                return
        if no_fallback:
            text = f"{self.filename}: the host cannot zero a range without writing it"
            raise HostFileError(errno.ENOTSUP, text, self.filename)
        for start in range(offset, offset + length, len(_ZEROES)):
            self._write(start, _ZEROES[: min(len(_ZEROES), offset + length - start)])

    def _discard(self, offset: int, length: int) -> None:
        self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, offset, length)

    def _fallocate(self, mode: int, offset: int, length: int) -> bool:
        """Return whether the host has done it; False if it has no such operation here."""
        try:
            _fallocate(self._fd, mode, offset, length)
        except OSError as error:
            # A device refuses what is not aligned to its blocks by EINVAL.
            if error.errno in _NOT_SUPPORTED or error.errno == errno.EINVAL:
                return False
            raise self._cannot("zero or discard", offset, error) from error
        finally:
            self._changed(0 if mode & _KEEP_SIZE else offset + length)
        return True

    def _flush(self) -> None:
        # The kernel tells of a lost page once; whoever asks later must not be told all is well.
        if self._flush_error is not None:
            raise self._flush_error
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            text = f"{self.filename}: cannot flush: {error.strerror}"
            self._flush_error = HostFileError(error.errno, text, self.filename)
            raise self._flush_error from error

    def _cannot(self, what: str, offset: int, error: OSError) -> OSError:
        text = f"{self.filename}: cannot {what} at offset {offset}: {error.strerror}"
        return HostFileError(error.errno, text, self.filename)

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
            text = (
                f"'host_device' driver requires '{name}' to be either a character or block device"
            )
            raise HostFileError(errno.EINVAL, text, name)

    def allocated_size(self) -> int:
        """Return the length: a device has no holes that it tells of."""
        return self.size


def open_file(path: str | Path, *, writable: bool = False) -> FileNode:
    """Open a regular file or a block device, whichever ``path`` is.

    Args:
        path: the file.
        writable: open it for writing too.

    Raises:
        OSError: it is neither, or cannot be opened.
    """
    try:
        is_device = stat.S_ISBLK(os.stat(path).st_mode)  # noqa: PTH116 # path may be a str
    except (OSError, ValueError):
        is_device = False  # the attempt to open it tells why
    return (HostDeviceNode if is_device else FileNode)(path, writable=writable)


def _truncate(fd: int, size: int, *, new: bool) -> None:
    """Give a file another length; one that was empty gets a first block, as QEMU's do."""
    os.ftruncate(fd, size)
    if new and size:
        _write_first(fd, size)


def _write_first(fd: int, size: int) -> None:
    """Let a new file begin with a block that has its room.

    What a file system asks for in direct access can be found out by reading such a block only.
    """
    with contextlib.suppress(OSError):
        os.pwrite(fd, _ZEROES[: _FIRST_BLOCK if size >= _FIRST_BLOCK else SECTOR_SIZE], 0)


def create_file(path: str, size: int, preallocation: str = "off") -> None:
    """Make a file of a length, or give that to one that is there; nothing of its content stays.

    Args:
        path: the file.
        size: in bytes.
        preallocation: ``off``; ``falloc`` or ``full`` to have its room at once.

    Raises:
        ImageLockedError: another user does not allow it.
        OSError: the host failed; QEMU's text.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        number = getattr(error, "errno", None) or errno.EINVAL
        raise HostFileError(number, f"Could not create '{path}': {reason}", path) from error
    try:
        held = FileLocks(fd, path)
        held.acquire(Permission.WRITE | Permission.RESIZE, Permission.RESIZE)
        try:
            os.ftruncate(fd, 0)
            if preallocation == "falloc" and size:
                os.posix_fallocate(fd, 0, size)
                _write_first(fd, size)
            elif preallocation == "full":
                for start in range(0, size, len(_ZEROES)):
                    os.pwrite(fd, _ZEROES[: min(len(_ZEROES), size - start)], start)
                os.fsync(fd)
            elif preallocation == "metadata":
                text = "Unsupported preallocation mode: metadata"
                raise HostFileError(errno.ENOTSUP, text, path)
            else:
                _truncate(fd, size, new=True)
        except HostFileError:
            raise
        except (OSError, OverflowError) as error:
            what = "preallocate new data" if preallocation == "falloc" else "resize file"
            text = f"Could not {what}: "
            number = getattr(error, "errno", None) or errno.EINVAL
            raise HostFileError(number, text + os.strerror(number), path) from error
    finally:
        os.close(fd)


def _open(name: str, *, writable: bool) -> int:
    # O_NONBLOCK: opening a FIFO without a writer would wait forever.
    access = os.O_RDWR if writable else os.O_RDONLY
    try:
        return os.open(name, access | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        text = f"Could not open '{name}': {error.strerror}"
        raise HostFileError(error.errno, text, name) from error
    except ValueError as error:  # a NUL in the name
        text = f"Could not open {name!r}: {error}"
        raise HostFileError(errno.EINVAL, text, name) from error


_libc = ctypes.CDLL(None, use_errno=True)
_host_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_host_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_host_fallocate.restype = ctypes.c_int


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2), which Python's library has no name for."""
    while _host_fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Let a range of a file read as zeroes and give its storage back; the file keeps its length.

    Returns:
        Whether that was done; False where the host has no such operation.

    Raises:
        OSError: the host failed.
    """
    try:
        _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
    except OSError as error:
        if error.errno in _NOT_SUPPORTED or error.errno == errno.EINVAL:
            return False
        raise
    return True
