"""A dirty bitmap in memory: one bit for each ``granularity`` bytes of a disk."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Self

import numpy as np

from nbexport.bits import kernels
from nbexport.bits.extents import Extents
from nbexport.errors import UsageError
from nbexport.units import is_power_of_two

if TYPE_CHECKING:
    from numpy.typing import NDArray

_versions = itertools.count()

MIN_GRANULARITY = 512
"""QEMU's smallest granularity; a bitmap cannot be finer than a sector."""


class Bitmap:
    """Which parts of a disk were written.

    The bits are packed least significant first: bit ``k`` is bit ``k % 8`` of byte ``k // 8``,
    the order in which a qcow2 image stores them. Bits behind the last granule are always 0.

    Args:
        size: length of the disk in bytes; the last granule may stick out.
        granularity: bytes per bit, a power of two of at least 512.

    Attributes:
        version: another number after each change; what was computed from the bits is kept by it.

    Raises:
        UsageError: the size is negative or the granularity is not a power of two >= 512.

    Source: qcow2 specification, "Bitmap data".
    """

    __slots__ = ("_data", "granularity", "size", "version")

    def __init__(self, size: int, granularity: int) -> None:
        if size < 0:
            raise UsageError(f"bitmap size must not be negative: {size}")
        if granularity < MIN_GRANULARITY or not is_power_of_two(granularity):
            raise UsageError(
                f"granularity must be a power of two and at least {MIN_GRANULARITY}: {granularity}"
            )
        self.size = size
        self.granularity = granularity
        self.version = next(_versions)
        self._data: NDArray[np.uint8] = np.zeros(-(-self.n_bits // 8), dtype=np.uint8)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, size: int, granularity: int) -> Self:
        """Return the bitmap whose packed bits are ``data``.

        Bits behind the end of the disk are ignored; bytes that are missing count as zero.
        """
        bitmap = cls(size, granularity)
        given = np.frombuffer(data, dtype=np.uint8)[: len(bitmap._data)]
        bitmap._data[: len(given)] = given
        bitmap._trim()
        return bitmap

    @classmethod
    def from_extents(cls, extents: Extents, size: int, granularity: int) -> Self:
        """Return the bitmap that marks every granule that an extent with any flag touches.

        Raises:
            UsageError: the extents reach outside the disk.
        """
        bitmap = cls(size, granularity)
        if extents.start < 0 or extents.end > size:
            raise UsageError(f"extents [{extents.start}, {extents.end}) on a disk of {size} bytes")
        marked = extents.flags != 0
        # A counter that rises where an extent begins and falls where it ends is positive inside.
        steps = np.zeros(bitmap.n_bits + 1, dtype=np.int64)
        np.add.at(steps, extents.bounds[:-1][marked] // granularity, 1)
        np.add.at(steps, -(-extents.bounds[1:][marked] // granularity), -1)
        bitmap._data = np.packbits(np.cumsum(steps[:-1]) > 0, bitorder="little")
        return bitmap

    @property
    def n_bits(self) -> int:
        """The number of granules."""
        return -(-self.size // self.granularity)

    @property
    def count(self) -> int:
        """Marked granules times granularity, in bytes: what QEMU calls ``count``.

        May exceed ``size`` by less than one granule.
        """
        return int(np.bitwise_count(self._data).sum(dtype=np.int64)) * self.granularity

    def count_changes(self) -> int:
        """Return how often the disk changes between clean and dirty: its extents, or one less."""
        return kernels.count_changes(self._data)

    def set(self, offset: int, length: int) -> None:
        """Mark every granule that ``[offset, offset + length)`` touches.

        Raises:
            UsageError: the range is not inside the disk.
        """
        first, last = self._range(offset, length)
        kernels.fill(self._data, first, last, value=True)
        self.version = next(_versions)

    def reset(self, offset: int, length: int) -> None:
        """Unmark every granule that lies wholly in ``[offset, offset + length)``.

        A granule that is only touched stays marked: unmarking it would lose a change. The last,
        partial granule of the disk counts as whole when the range reaches the disk's end.

        Raises:
            UsageError: the range is not inside the disk.
        """
        self._range(offset, length)
        first = -(-offset // self.granularity)
        end = offset + length
        last = self.n_bits if end == self.size else end // self.granularity
        kernels.fill(self._data, first, last, value=False)
        self.version = next(_versions)

    def clear(self) -> None:
        """Unmark everything."""
        self._data[:] = 0
        self.version = next(_versions)

    def merge(self, other: Bitmap) -> None:
        """Mark what ``other`` marks as well; the granularities may differ.

        Raises:
            UsageError: the bitmaps are of disks of different sizes.
        """
        if other.size != self.size:
            raise UsageError(
                f"bitmaps of disks of different sizes cannot be merged: {self.size}, {other.size}"
            )
        self._data |= other.at_granularity(self.granularity)._data
        self.version = next(_versions)

    def at_granularity(self, granularity: int) -> Bitmap:
        """Return a copy at another granularity, in which nothing marked here is unmarked."""
        result = Bitmap(self.size, granularity)
        if self.n_bits == 0:
            return result
        if granularity <= self.granularity:
            factor = self.granularity // granularity
            result._data = kernels.spread(self._data, self.n_bits, factor, result.n_bits)
        else:
            factor = granularity // self.granularity
            result._data = kernels.gather(self._data, self.n_bits, factor)
        return result

    def copy(self) -> Bitmap:
        """Return an independent copy."""
        result = Bitmap(self.size, self.granularity)
        result._data = self._data.copy()
        return result

    def extents(self, start: int = 0, end: int | None = None) -> Extents:
        """Return extents with flag 1 where the disk is dirty and 0 where it is clean.

        Only the bits of the range are looked at.

        Args:
            start: first byte.
            end: behind the last byte; the end of the disk if None.

        Shape: the result covers [start, end); its inner bounds are multiples of the granularity.

        Raises:
            UsageError: the range is not inside the disk.
        """
        stop = self.size if end is None else end
        first, last = self._range(start, stop - start)
        if start == stop:
            return Extents.empty(start)
        low = first // 8
        data = self._data[low : -(-last // 8)]
        at = kernels.changes(data, last - low * 8) + low * 8
        inner = at[(at * self.granularity > start) & (at * self.granularity < stop)]
        # What the first byte is follows from the number of changes up to it.
        is_dirty = (len(at) - len(inner)) % 2 == 1
        bounds = np.empty(len(inner) + 2, dtype=np.int64)
        bounds[0], bounds[-1] = start, stop
        bounds[1:-1] = inner * self.granularity
        flags = np.zeros(len(bounds) - 1, dtype=np.uint32)
        flags[int(not is_dirty) :: 2] = 1
        return Extents(bounds, flags)

    def to_bytes(self) -> bytes:
        """Return the packed bits, ``ceil(n_bits / 8)`` bytes."""
        return self._data.tobytes()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitmap):
            return NotImplemented
        return (
            self.size == other.size
            and self.granularity == other.granularity
            and bool(np.array_equal(self._data, other._data))
        )

    __hash__ = None  # type: ignore[assignment] # a mutable value

    def __repr__(self) -> str:
        return f"Bitmap(size={self.size}, granularity={self.granularity}, count={self.count})"

    def _range(self, offset: int, length: int) -> tuple[int, int]:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise UsageError(
                f"range outside the disk: offset {offset}, length {length}, size {self.size}"
            )
        if length == 0:
            return 0, 0
        return offset // self.granularity, -(-(offset + length) // self.granularity)

    def _trim(self) -> None:
        if self.n_bits % 8:
            self._data[-1] &= 0xFF >> 8 - self.n_bits % 8
