"""Dirty bitmaps that follow the writes of a node."""

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

    def mark(self, offset: int, length: int) -> None:
        """Mark a range of the node in every bitmap."""
        if not length or not self._bitmaps:
            return
        with self._lock:
            for bitmap in self._bitmaps:
                bitmap.set(offset, length)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep writes from being marked while the block lasts: they wait."""
        with self._lock:
            yield
