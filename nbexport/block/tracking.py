"""Dirty bitmaps that follow the writes of a node, and writes that wait until they may go on."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from nbexport.units import KiB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.bits import Bitmap

DEFAULT_GRANULARITY_MIN: Final = 4 * KiB
DEFAULT_GRANULARITY_MAX: Final = 64 * KiB


def default_granularity(cluster_size: int | None) -> int:
    """Return what a new bitmap has if nothing is asked: the cluster size within 4 to 64 KiB."""
    if cluster_size is None:
        return DEFAULT_GRANULARITY_MAX
    return min(max(cluster_size, DEFAULT_GRANULARITY_MIN), DEFAULT_GRANULARITY_MAX)


class Tracking:
    """The enabled bitmaps of one node.

    Writes, zeroes and discards all count, also those that failed: part of them may have happened.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._quiet = threading.Condition(self._lock)
        self._under_way = 0
        self._pauses = 0
        self._pauser: int | None = None
        self._bitmaps: tuple[Bitmap, ...] = ()

    def start(self, bitmap: Bitmap) -> None:
        """Mark in ``bitmap`` what is written from now on; starting twice is harmless."""
        with self._lock:
            if all(known is not bitmap for known in self._bitmaps):
                self._bitmaps += (bitmap,)

    def stop(self, bitmap: Bitmap) -> None:
        """Leave ``bitmap`` as it is from now on; stopping twice is harmless."""
        with self._lock:
            self._bitmaps = tuple(known for known in self._bitmaps if known is not bitmap)

    def take(self, bitmap: Bitmap, offset: int, length: int) -> None:
        """Clear a range of a bitmap, lest a write that ends meanwhile is lost."""
        with self._lock:
            bitmap.reset(offset, length)

    def begin(self) -> None:
        """Begin a write; it waits while writes are paused. `end` must follow."""
        with self._lock:
            while self._pauses and self._pauser != threading.get_ident():
                self._quiet.wait()
            self._under_way += 1

    def end(self, offset: int, length: int) -> None:
        """End a write, which is marked in every bitmap."""
        with self._lock:
            for bitmap in self._bitmaps:
                bitmap.set(offset, length)
            self._under_way -= 1
            if self._pauses:
                self._quiet.notify_all()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let no write of the node be under way while the block lasts: those that come wait.

        What lies between two pauses of the same thread is paused, too.
        """
        me = threading.get_ident()
        with self._lock:
            while self._pauses and self._pauser != me:
                self._quiet.wait()
            self._pauses += 1
            self._pauser = me
            while self._under_way:
                self._quiet.wait()
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                if not self._pauses:
                    self._pauser = None
                    self._quiet.notify_all()
