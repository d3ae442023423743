"""Copies of a disk as it was at one moment, made while the disk is written.

Source: QEMU's ``docs/interop/live-block-operations.rst``, "Live disk backup".
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from nbexport.bits import Bitmap
from nbexport.block.fence import Fence
from nbexport.block.node import NBD_STATE_ZERO, HostFileError
from nbexport.errors import FormatError
from nbexport.units import KiB, MiB, align_down, align_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nbexport.block.node import BlockNode

MIN_CLUSTER: Final = 64 * KiB
MAX_CHUNK: Final = 1 * MiB
"""Bytes that one copy moves at the most; each worker holds a buffer of that size."""


def cluster_of(target: BlockNode) -> int:
    """Return the unit in bytes in which disks are copied to ``target``."""
    return max(MIN_CLUSTER, target.cluster_size or 0)


class SourceReadError(OSError):
    """The source of a copy could not be read.

    Args:
        reason: what was wrong.
    """

    def __init__(self, reason: Exception) -> None:
        number = reason.errno if isinstance(reason, OSError) and reason.errno else errno.EIO
        super().__init__(number, str(reason))


class CopyBefore:
    """Copies clusters of a disk, each once, before they are overwritten or when asked for.

    Thread safe: a cluster that one thread copies is waited for by the others.

    Args:
        source: the disk.
        target: what gets the copies; writable, of the same length or longer.
        wanted: what to copy, at the granularity of the clusters; None for all.

    Attributes:
        remaining: clusters that are still to be copied.
        touched: clusters that writers have asked for.
        accessible: clusters whose old data are kept.
        cluster: bytes of a cluster.
        chunk: bytes that one copy moves at the most, or a cluster if that is more.
        copied: bytes that were copied.
    """

    def __init__(
        self,
        source: BlockNode,
        target: BlockNode,
        *,
        wanted: Bitmap | None = None,
        compress: bool = False,
    ) -> None:
        self.source = source
        self.target = target
        self._compress = compress
        self.cluster = cluster_of(target)
        if wanted is None:
            wanted = Bitmap(source.size, self.cluster)
            wanted.set(0, source.size)
        self.remaining = wanted
        self.touched = Bitmap(source.size, self.cluster)
        self.accessible = wanted.copy()
        self.copied = 0
        self.chunk = MAX_CHUNK
        self._changed = threading.Condition()
        self._in_hand: list[tuple[int, int]] = []
        self._reading: list[tuple[int, int]] = []
        self._fence = target.fence or Fence()
        target.fence = self._fence

    def before(self, offset: int, length: int) -> None:
        """Copy what is about to be overwritten and was not copied yet.

        Raises:
            FormatError: the source or the target is damaged.
            OSError: reading or writing failed; nothing may be overwritten.
        """
        start = align_down(offset, self.cluster)
        end = min(align_up(offset + length, self.cluster), self.source.size)
        at = start
        while at < end:
            piece = self._claim(at, end, wait=True)
            if piece is None:
                break
            self._copy(*piece)
            at = piece[1]
        with self._changed:
            self.touched.set(start, end - start)
            while any(a < end and start < b for a, b in self._reading):
                self._changed.wait()

    @contextlib.contextmanager
    def kept(self, start: int, end: int) -> Iterator[tuple[BlockNode, int]]:
        """Say where old data are; nobody overwrites them while the block lasts.

        Returns:
            The disk that has them, the source or the target, and up to where it has.

        Raises:
            HostFileError: those of a part of the range are not kept.
        """
        with self._changed:
            if not self.accessible.extents(start, end).flags.all():
                text = os.strerror(errno.EACCES)
                raise HostFileError(errno.EACCES, text, self.source.filename)
            copied = self.touched.extents(start, end)
            stop = int(copied.bounds[1])
            if copied.flags[0]:
                disk, held = self.target, None
            else:
                disk, held = self.source, (start, stop)
                self._reading.append(held)
        try:
            yield disk, stop
        finally:
            if held is not None:
                with self._changed:
                    self._reading.remove(held)
                    self._changed.notify_all()

    def give_up(self, offset: int, length: int) -> None:
        """Keep the old data of a range no longer; of a cluster that it only touches they stay."""
        with self._changed:
            self.accessible.reset(offset, length)
            self.remaining.reset(offset, length)

    def next_chunk(self) -> int | None:
        """Copy the next clusters that remain.

        Returns:
            The bytes that were copied; None if nothing remains.

        Raises:
            SourceReadError: the source could not be read; the clusters remain.
            OSError: writing failed; the clusters remain.
        """
        piece = self._claim(0, self.source.size, wait=False)
        if piece is None:
            return None
        self._copy(*piece)
        return piece[1] - piece[0]

    def skip(self, offset: int, length: int) -> None:
        """Leave out clusters of a range; what is only touched by it stays."""
        with self._changed:
            self.remaining.reset(offset, length)

    def progress(self) -> tuple[int, int]:
        """Return the bytes that were copied and those that are still to be, whole clusters."""
        with self._changed:
            in_hand = sum(end - start for start, end in self._in_hand)
            return self.copied, self.remaining.count + in_hand

    def _claim(self, start: int, end: int, *, wait: bool) -> tuple[int, int] | None:
        """Take the first clusters of a range that remain, so that nobody else copies them.

        Args:
            start: where to begin, a multiple of the cluster.
            end: where to end.
            wait: whether to wait for clusters that others have in hand.
        """
        with self._changed:
            while True:
                if wait and any(a < end and start < b for a, b in self._in_hand):
                    self._changed.wait()
                    continue
                dirty = self.remaining.extents(start, end)
                marked = np.flatnonzero(dirty.flags)
                if not len(marked):
                    return None
                first = int(dirty.bounds[marked[0]])
                last = min(int(dirty.bounds[marked[0] + 1]), first + max(self.chunk, self.cluster))
                self.remaining.reset(first, last - first)
                self._in_hand.append((first, last))
                return first, last

    def _copy(self, start: int, end: int) -> None:
        done = False
        try:
            self._move(start, end)
            done = True
        finally:
            with self._changed:
                self._in_hand.remove((start, end))
                if done:
                    self.copied += end - start
                else:
                    self.remaining.set(start, end - start)
                self._changed.notify_all()

    def _move(self, start: int, end: int) -> None:
        """Copy a range; whole clusters that read as zeroes are not moved as data."""
        at = start
        for first, last in self._zeroes(start, end):
            self._move_data(at, first)
            with self._fence.exclusive():
                self.target.write_zeroes(first, last - first, unmap=False)
            at = last
        self._move_data(at, end)

    def _move_data(self, start: int, end: int) -> None:
        if start == end:
            return
        try:
            data = self.source.read(start, end - start)
        except (FormatError, OSError) as error:
            raise SourceReadError(error) from error
        with self._fence.exclusive():
            if self._compress:
                self.target.write_compressed(start, memoryview(data))
            else:
                self.target.write_from(start, memoryview(data))

    def _zeroes(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the clusters of a range that read as zeroes throughout."""
        try:
            known = self.source.allocation(start, end)
        except (FormatError, OSError) as error:
            raise SourceReadError(error) from error
        found = []
        for first, length, flags in known.map_flags(_is_zero):
            last = first + length
            low = align_up(first, self.cluster)
            high = last if last == self.source.size else align_down(last, self.cluster)
            if flags and low < high:
                found.append((low, high))
        return found


def _is_zero(flags: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return flags & np.uint32(NBD_STATE_ZERO)
