"""What can be told of a map in numbers: what coarse granules cost, how long extents are, where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nbexport.bits.bitmap import MIN_GRANULARITY
from nbexport.bits.extents import Extents
from nbexport.errors import UsageError
from nbexport.units import is_power_of_two

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray


def from_writes(
    offsets: NDArray[np.int64] | Sequence[int],
    lengths: NDArray[np.int64] | Sequence[int],
    size: int,
) -> Extents:
    """Return the map of what writes touched: flag 1 where any did, 0 elsewhere.

    Args:
        offsets: of the writes, in any order; they may overlap.
        lengths: of each; 0 touches nothing.
        size: of the disk.

    Shape: offsets and lengths (n,) bytes; the result covers [0, size).

    Raises:
        UsageError: a write is not inside the disk.
    """
    starts = np.asarray(offsets, dtype=np.int64)
    ends = starts + np.asarray(lengths, dtype=np.int64)
    if len(starts) and (starts.min() < 0 or ends.max() > size or (ends < starts).any()):
        raise UsageError(f"a write reaches outside the disk of {size} bytes")
    real = ends > starts
    starts, ends = starts[real], ends[real]
    order = np.argsort(starts, kind="stable")
    return _from_ranges(starts[order], ends[order], size)


def _from_ranges(starts: NDArray[np.int64], ends: NDArray[np.int64], size: int) -> Extents:
    """Return the map of the union of ranges, which are sorted by their starts and not empty."""
    if not len(starts):
        return Extents.uniform(0, size, 0)
    # A range begins something new where it lies behind all that came before it.
    reach = np.maximum.accumulate(ends)
    first = np.concatenate([[True], starts[1:] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    lows, highs = starts[first], reach[last]
    lengths = np.empty(2 * len(lows) + 1, dtype=np.int64)
    lengths[0] = lows[0]
    lengths[1::2] = highs - lows
    lengths[2:-1:2] = lows[1:] - highs[:-1]
    lengths[-1] = size - highs[-1]
    flags = np.zeros(len(lengths), dtype=np.uint32)
    flags[1::2] = 1
    return Extents.from_lengths(lengths, flags)


def coarsen(extents: Extents, granularity: int) -> Extents:
    """Return the map that a dirty bitmap of a granularity would keep of another map.

    Every granule that any marked byte touches is marked. The cost grows with the extents, not
    with the granules, unlike that of a `Bitmap`.

    Args:
        extents: a map from offset 0 on; what has any flag counts as marked.
        granularity: bytes, a power of two of at least 512.

    Shape: the result covers the same range; its inner bounds are multiples of the granularity.

    Raises:
        UsageError: the granularity is none, or the map does not begin at 0.
    """
    if granularity < MIN_GRANULARITY or not is_power_of_two(granularity):
        raise UsageError(
            f"granularity must be a power of two and at least {MIN_GRANULARITY}: {granularity}"
        )
    if extents.start != 0:
        raise UsageError(f"a bitmap begins at offset 0, not at {extents.start}")
    marked = extents.flags != 0
    starts = extents.bounds[:-1][marked] // granularity * granularity
    ends = -(-extents.bounds[1:][marked] // granularity) * granularity
    return _from_ranges(starts, np.minimum(ends, extents.end), extents.end)


@dataclass(frozen=True)
class Cost:
    """What a granularity costs.

    Attributes:
        granularity: in bytes.
        bitmap_bytes: of the bits, in memory and in an image.
        extents: of the map, clean ones included: what a client has to be sent.
        dirty: bytes that the bitmap marks.
        over_reported: those of them that were not written.
    """

    granularity: int
    bitmap_bytes: int
    extents: int
    dirty: int
    over_reported: int


def costs(extents: Extents, granularities: Iterable[int]) -> list[Cost]:
    """Return what bitmaps of each granularity would cost for the same writes.

    Args:
        extents: which bytes were written, as exactly as it is known.
        granularities: in bytes; finer than the map itself they tell nothing new.

    Raises:
        UsageError: a granularity is none, or the map does not begin at 0.
    """
    written = extents.end - extents.start - extents.total(0)
    found = []
    for granularity in granularities:
        seen = coarsen(extents, granularity)
        n_bits = -(-extents.end // granularity)
        dirty = seen.total(1)
        found.append(Cost(granularity, -(-n_bits // 8), len(seen), dirty, dirty - written))
    return found


@dataclass(frozen=True)
class Lengths:
    """How long the extents of a map are, in classes of powers of two.

    Attributes:
        exponents: class ``k`` holds lengths in [2**k, 2**(k + 1)) bytes. Shape: (n,) int64.
        counts: extents of each class. Shape: (n,) int64.
        totals: bytes in the extents of each class. Shape: (n,) int64.
    """

    exponents: NDArray[np.int64]
    counts: NDArray[np.int64]
    totals: NDArray[np.int64]


def length_classes(extents: Extents, *, background: int = 0) -> Lengths:
    """Return the distribution of the lengths of extents whose flags are not ``background``.

    The classes run from the shortest to the longest; all arrays are empty if there is no extent.
    """
    lengths = extents.lengths[extents.flags != background]
    if not len(lengths):
        empty = np.zeros(0, dtype=np.int64)
        return Lengths(empty, empty, empty)
    # frexp is exact for lengths below 2**53; a disk has fewer bytes
    classes = np.frexp(lengths.astype(np.float64))[1].astype(np.int64) - 1
    low, high = int(classes.min()), int(classes.max())
    counts = np.bincount(classes - low, minlength=high - low + 1)
    totals = np.zeros(high - low + 1, dtype=np.int64)
    np.add.at(totals, classes - low, lengths)
    return Lengths(np.arange(low, high + 1), counts, totals)


def busiest(extents: Extents, length: int) -> tuple[int, int]:
    """Return the window of ``length`` bytes, on a grid of half windows, with the most extents.

    The first of several; the whole map if it is not longer than that.

    Raises:
        UsageError: the length is not positive.
    """
    if length <= 0:
        raise UsageError(f"a window must have a length, not {length}")
    if extents.end - extents.start <= length:
        return extents.start, extents.end
    step = max(1, length // 2)
    begins = np.append(np.arange(extents.start, extents.end - length, step), extents.end - length)
    inside = np.searchsorted(extents.bounds, begins + length) - np.searchsorted(
        extents.bounds, begins
    )
    start = int(begins[int(np.argmax(inside))])
    return start, start + length
