"""What the user of a disk holds on to while the disk under it becomes another one."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from nbexport.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from nbexport.bits import Extents
    from nbexport.block.node import BlockNode


class Front:
    """A disk whose node can be exchanged: requests that come meanwhile wait.

    Both nodes show the same data, so what was read of one is true of the other.

    Args:
        disk: the node.

    Attributes:
        disk: the node that requests reach.
    """

    def __init__(self, disk: BlockNode) -> None:
        self.disk = disk
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = 0

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Let no request be under way while the block lasts."""
        with self._changed:
            self._closed += 1
            while self._inside:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._closed -= 1
                self._changed.notify_all()

    def _enter(self) -> BlockNode:
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._inside += 1
            return self.disk

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if self._closed:
                self._changed.notify_all()

    # What an export needs of a disk

    @property
    def filename(self) -> str:
        """What error texts call the disk."""
        return self.disk.filename

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.disk.size

    @property
    def request_alignment(self) -> int:
        """Smallest request in bytes that the disk is made for."""
        return self.disk.request_alignment

    @property
    def request_max(self) -> int:
        """Longest request in bytes that the disk should get; 0 for no limit of its own."""
        return self.disk.request_max

    @property
    def writable(self) -> bool:
        """Whether the disk can be written."""
        return self.disk.writable

    def version(self) -> Hashable:
        """Return a value that changes with every change of the maps, as the node does."""
        return self.disk.version()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer, as the node does."""
        disk = self._enter()
        try:
            disk.read_into(offset, buffer)
        finally:
            self._leave()

    def read_now(self, offset: int, buffer: memoryview) -> bool:
        """Fill a buffer if that takes no waiting; return whether it did."""
        with self._changed:
            if self._closed:
                return False
            self._inside += 1
        try:
            return self.disk.read_now(offset, buffer)
        finally:
            self._leave()

    def allocation(self, start: int = 0, end: int | None = None) -> Extents:
        """Return NBD's ``base:allocation``, as the node does."""
        disk = self._enter()
        try:
            return disk.allocation(start, end)
        finally:
            self._leave()

    def depth(self, start: int = 0, end: int | None = None) -> Extents:
        """Return ``qemu:allocation-depth``, as the node does."""
        disk = self._enter()
        try:
            return disk.depth(start, end)
        finally:
            self._leave()

    def write_from(self, offset: int, data: memoryview) -> None:
        """Store bytes, as the node does."""
        disk = self._enter()
        try:
            disk.write_from(offset, data)
        finally:
            self._leave()

    def write_zeroes(
        self, offset: int, length: int, *, unmap: bool = True, no_fallback: bool = False
    ) -> None:
        """Make a range read as zeroes, as the node does."""
        disk = self._enter()
        try:
            disk.write_zeroes(offset, length, unmap=unmap, no_fallback=no_fallback)
        finally:
            self._leave()

    def discard(self, offset: int, length: int) -> None:
        """Give up a range, as the node does."""
        disk = self._enter()
        try:
            disk.discard(offset, length)
        finally:
            self._leave()

    def flush(self) -> None:
        """Make durable what was written, as the node does."""
        disk = self._enter()
        try:
            disk.flush()
        finally:
            self._leave()

    def exchange(self, disk: BlockNode) -> None:
        """Have another node serve the requests; nothing may be under way, see `quiet`.

        Raises:
            UsageError: the node has another length.
        """
        if disk.size < self.disk.size:
            raise UsageError(f"{disk.filename}: is shorter than {self.disk.filename}")
        self.disk = disk
