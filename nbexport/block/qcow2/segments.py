"""How a range of the disk lies on clusters and tables, and what a writer asks about the disk."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Disk(Protocol):
    """What a writer asks about the disk that it changes."""

    @property
    def backing(self) -> object | None:
        """What answers for clusters that are not allocated, if anything but zeroes does."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer with the disk's bytes."""

    def is_known_zero(self, start: int, end: int, *, fast: bool = False) -> bool:
        """Return whether the maps say that a range reads as zeroes."""


class Segment(NamedTuple):
    """The part of a request that one L2 table maps."""

    table: int  # its number
    first: int  # entry
    last: int  # entry behind the last
    start: int  # of the part, in the disk
    end: int


def segments(start: int, end: int, span: int, size: int) -> list[Segment]:
    """Split a range of the disk by the tables that map it.

    Args:
        start: first byte.
        end: behind the last byte.
        span: bytes that a table maps.
        size: of a cluster.
    """
    found = []
    while start < end:
        table = start // span
        base = table * span
        stop = min(end, base + span)
        first, last = (start - base) // size, -(-(stop - base) // size)
        found.append(Segment(table, first, last, start, stop))
        start = stop
    return found


def whole(start: int, end: int, unit: int, disk: int) -> tuple[int, int]:
    """Return the part of a range that is whole units; the last one of the disk may be cut.

    The first value is larger than the second if the range lies inside a unit.
    """
    return -(-start // unit) * unit, end if end == disk else end // unit * unit
