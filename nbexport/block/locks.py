"""Locks on image files, by which processes that use an image see each other.

QEMU keeps one byte of the file for each permission that a user can hold, and one for each that a
user denies to others. Holding and denying are both shared locks, so that any number of users may
say the same; whoever comes later looks whether the opposite byte of what it wants is locked. The
bytes need not exist in the file, and nothing is written.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import struct
from typing import TYPE_CHECKING, Final

from nbexport.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.block.node import BlockNode

HELD_BASE: Final = 100
"""Offset of the byte of the first permission that is held."""
DENIED_BASE: Final = 200
"""Offset of the byte of the first permission that is denied to others."""

_FLOCK: Final = struct.Struct("@hhqqi4x")
"""``struct flock`` of 64-bit Linux: type, whence, start, length, process; padded to 8."""


class Permission(enum.IntFlag):
    """What a user of an image may do; the bit's number is that of the byte in the file."""

    CONSISTENT_READ = 1 << 0
    WRITE = 1 << 1
    WRITE_UNCHANGED = 1 << 2
    RESIZE = 1 << 3


NOTHING: Final = Permission(0)
_NAMES: Final = {
    Permission.CONSISTENT_READ: "consistent read",
    Permission.WRITE: "write",
    Permission.WRITE_UNCHANGED: "write unchanged",
    Permission.RESIZE: "resize",
}


class ImageLockedError(OSError):
    """Another process uses the image in a way that does not go with ours.

    Args:
        reason: which lock it is about, in QEMU's words.
        filename: the file.

    Attributes:
        reason: the same; what a monitor replies. The error's text has a second line, which asks
            for the other process, as QEMU's tools print it.
    """

    def __init__(self, reason: str, filename: str) -> None:
        text = f"{reason}\nIs another process using the image [{filename}]?"
        super().__init__(errno.EAGAIN, text, filename)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.strerror)

    def below(self, prefix: str) -> ImageLockedError:
        """Return the same error with ``prefix`` before its reason."""
        return ImageLockedError(prefix + self.reason, self.filename)


def for_data(*, writable: bool, force_share: bool = False) -> tuple[Permission, Permission]:
    """Return what the user of a raw disk holds, and what it denies to others.

    Raises:
        UsageError: sharing is forced for a disk that is to be written.
    """
    return _checked(writable, force_share, _reading(writable), NOTHING)


def for_format(
    *, writable: bool, force_share: bool = False, facts_only: bool = False
) -> tuple[Permission, Permission]:
    """Return what an image format holds on its file, and what it denies to others.

    Its metadata must not be changed by others. A writer may make the file longer.

    Args:
        writable: the image is opened for writing.
        force_share: deny nothing; reading only, and what is read may be torn.
        facts_only: no data will be read.

    Raises:
        UsageError: sharing is forced for an image that is to be written.
    """
    held = NOTHING if facts_only else _reading(writable)
    if writable:
        held |= Permission.RESIZE
    return _checked(writable, force_share, held, Permission.WRITE | Permission.RESIZE)


def for_data_file(*, writable: bool, force_share: bool = False) -> tuple[Permission, Permission]:
    """Return what an image holds on its external data file, and what it denies to others.

    Raises:
        UsageError: sharing is forced for an image that is to be written.
    """
    held = _reading(writable)
    if writable:
        held |= Permission.RESIZE
    return _checked(writable, force_share, held, Permission.RESIZE)


def _reading(writable: bool) -> Permission:  # noqa: FBT001
    held = Permission.CONSISTENT_READ
    return held | Permission.WRITE if writable else held


def _checked(
    writable: bool,  # noqa: FBT001
    force_share: bool,  # noqa: FBT001
    held: Permission,
    denied: Permission,
) -> tuple[Permission, Permission]:
    if not force_share:
        return held, denied
    if writable:
        raise UsageError("force-share=on can only be used with read-only images")
    return held, NOTHING


def keep_length(node: BlockNode) -> None:
    """Deny others to change the length of the file below ``node``, which is being exported.

    Raises:
        ImageLockedError: another process may change it.
        OSError: the host failed.
    """
    while node.file is not None:
        node = node.file
    file_locks = getattr(node, "locks", None)
    if isinstance(file_locks, FileLocks):
        file_locks.acquire(NOTHING, Permission.RESIZE)


class FileLocks:
    """The locks of one open file; they end when the file is closed.

    Args:
        fd: the open file. Its duplicates share the locks.
        filename: how errors name it.

    Attributes:
        held: permissions that are held now.
        denied: permissions that are denied to others now.
    """

    def __init__(self, fd: int, filename: str) -> None:
        self._fd = fd
        self._filename = filename
        self.held = NOTHING
        self.denied = NOTHING
        self._supported: bool | None = None

    def acquire(self, held: Permission, denied: Permission) -> None:
        """Hold and deny these permissions beside those already held and denied.

        Where the host's file system knows no such locks, nothing is locked, as in QEMU.

        Args:
            held: what we do.
            denied: what others must not do.

        Raises:
            ImageLockedError: another process does what is to be denied, or denies what is to be
                held. Nothing has changed.
            OSError: the host failed.
        """
        if not self._is_supported():
            return
        new = [HELD_BASE + bit for bit in _bits(held & ~self.held)]
        new += [DENIED_BASE + bit for bit in _bits(denied & ~self.denied)]
        taken: list[int] = []
        try:
            # First our own, then a look at the others': two that come together both see it.
            for byte in new:
                self._set(byte, fcntl.F_RDLCK)
                taken.append(byte)
            for bit in _bits(held):
                self._check(DENIED_BASE + bit, f'Failed to get "{_name(bit)}" lock')
            for bit in _bits(denied):
                self._check(HELD_BASE + bit, f'Failed to get shared "{_name(bit)}" lock')
        except BaseException:
            for byte in taken:
                self._set(byte, fcntl.F_UNLCK)
            raise
        self.held |= held
        self.denied |= denied

    def release(self) -> None:
        """Give up all locks.

        Raises:
            OSError: the host failed.
        """
        self.keep(NOTHING, NOTHING)

    def keep(self, held: Permission, denied: Permission) -> None:
        """Give up all locks but those for these permissions.

        Raises:
            OSError: the host failed.
        """
        gone = [HELD_BASE + bit for bit in _bits(self.held & ~held)]
        gone += [DENIED_BASE + bit for bit in _bits(self.denied & ~denied)]
        self.held &= held
        self.denied &= denied
        for byte in gone:
            self._set(byte, fcntl.F_UNLCK)

    def copy_to(self, fd: int) -> None:
        """Take the same locks for another opening of the file, which is to replace this one.

        Raises:
            OSError: the host failed.
        """
        other = FileLocks(fd, self._filename)
        for bit in _bits(self.held):
            other._set(HELD_BASE + bit, fcntl.F_RDLCK)
        for bit in _bits(self.denied):
            other._set(DENIED_BASE + bit, fcntl.F_RDLCK)

    def _is_supported(self) -> bool:
        """Return whether the kernel and the file system have locks of open files."""
        if self._supported is None:
            try:
                self._ask(0, 0)
            except OSError:
                self._supported = False
            else:
                self._supported = True
        return self._supported

    def _set(self, byte: int, kind: int) -> None:
        request = _FLOCK.pack(kind, 0, byte, 1, 0)
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, request)
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                raise ImageLockedError(f"Failed to lock byte {byte}", self._filename) from error
            raise

    def _ask(self, byte: int, length: int) -> bool:
        """Return whether another open file has a lock on the range; length 0 is all that follow."""
        request = _FLOCK.pack(fcntl.F_WRLCK, 0, byte, length, 0)
        answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, request)
        kind: int = _FLOCK.unpack(answer)[0]
        return kind != fcntl.F_UNLCK

    def _check(self, byte: int, reason: str) -> None:
        if self._ask(byte, 1):
            raise ImageLockedError(reason, self._filename)


def _bits(permissions: Permission) -> Iterator[int]:
    """Yield the numbers of the permissions, lowest first."""
    return (bit for bit in range(len(_NAMES)) if permissions & 1 << bit)


def _name(bit: int) -> str:
    return _NAMES[Permission(1 << bit)]
