"""snapshot-access: a disk as it was when a copy-before-write filter began to keep what it was."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, ClassVar

from nbexport.bits import Extents
from nbexport.block.filter import CopyBeforeWriteNode
from nbexport.block.node import BlockNode, HostFileError

if TYPE_CHECKING:
    from collections.abc import Hashable


class SnapshotAccessNode(BlockNode):
    """What a copy-before-write filter keeps: overwritten parts of its target, the rest of its disk.

    It can be read and discarded. What is discarded is kept no longer and cannot be read again.

    Args:
        file: the node below; stays open when this one closes. Requests fail unless it is a
            copy-before-write filter.

    Source: QEMU's ``BlockdevDriver``, ``snapshot-access``.
    """

    driver: ClassVar[str] = "snapshot-access"

    def __init__(self, file: BlockNode) -> None:
        super().__init__(file.filename, file.size)
        self.file: BlockNode = file
        self.request_alignment = file.request_alignment
        self.read_only = False

    @property
    def writable(self) -> bool:
        """Whether what is kept may be discarded; nothing can be written."""
        return not self.read_only

    def allocated_size(self) -> int:
        """Return the bytes of storage of the node below."""
        return self.file.allocated_size()

    def _filter(self) -> CopyBeforeWriteNode:
        if not isinstance(self.file, CopyBeforeWriteNode):
            raise _error(errno.ENOTSUP, self.filename)
        if self.file.snapshot_error is not None:
            raise _error(errno.EACCES, self.filename)
        return self.file

    def _read(self, offset: int, buffer: memoryview) -> None:
        below = self._filter()
        at, end = offset, offset + len(buffer)
        while at < end:
            with below.copying.kept(at, end) as (disk, stop):
                part = buffer[at - offset : stop - offset]
                if disk is below.copying.target:
                    disk.read_padded(at, part)
                else:
                    disk.read_into(at, part)
            at = stop

    def _status(self, start: int, end: int, *, want_zero: bool) -> Extents:
        below = self._filter()
        parts = []
        at = start
        while at < end:
            with below.copying.kept(at, end) as (disk, stop):
                parts.append(disk._status(at, stop, want_zero=want_zero))
            at = stop
        return Extents.concatenate(parts)

    def _discard(self, offset: int, length: int) -> None:
        copying = self._filter().copying
        copying.give_up(offset, length)
        copying.target.discard(offset, length)

    def _write(self, offset: int, data: memoryview) -> None:  # noqa: ARG002 # nothing is stored
        raise _error(errno.ENOTSUP, self.filename)

    def _write_zeroes(self, *_range: object, **_how: object) -> None:
        raise _error(errno.ENOTSUP, self.filename)

    def _generation(self) -> Hashable:
        return self.file._generation()

    def _map_is_bounded(self) -> bool:
        # It changes with every write to the disk.
        return False

    def _raise_damage(self, offset: int) -> None:
        self.file._raise_damage(offset)


def _error(number: int, filename: str) -> HostFileError:
    return HostFileError(number, os.strerror(number), filename)
