"""Patterns of writes, for disks that do not exist: which bytes a day's work touches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbexport.errors import UsageError
from nbexport.units import KiB

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Writes = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""Offsets and lengths in bytes. Shape: two arrays (n,) int64."""

PAGE = 4 * KiB
_STREAMS = 8
_FILES = 48
_HOT_PLACES = 12
_HOT_SHARE = 2048
"""Two thirds of a hot place's writes are within two such parts of the disk."""


def make_writes(pattern: str, size: int, count: int, *, seed: int = 0, day: int = 0) -> Writes:
    """Return writes of a pattern on a disk, all of whole pages of 4 KiB.

    Args:
        pattern: ``random``: single pages all over the disk; ``files``: single pages of files,
            which are a quarter of the disk; ``hot``: database pages of 16 KiB around a few
            places; ``sequential``: some streams of 64 KiB each, as logs and copies make them;
            ``mixed``: a third of each of the last three.
        size: of the disk; a multiple of 4 KiB, and at least 4 MiB.
        count: how many writes.
        seed: of the random numbers, and of where files and hot places are.
        day: another day's work on the same disk, in the same files and places.

    Raises:
        UsageError: there is no such pattern, the disk is too small or the count negative.
    """
    if pattern not in PATTERNS:
        raise UsageError(f"unknown pattern '{pattern}' (known: {', '.join(PATTERNS)})")
    if size < 1024 * PAGE or size % PAGE:
        raise UsageError(f"a pattern needs a disk of whole pages, 4 MiB or more, not {size} bytes")
    if count < 0:
        raise UsageError(f"{count} writes cannot be made")
    disk = _Disk(size, np.random.default_rng(seed), np.random.default_rng([seed, day + 1]))
    return PATTERNS[pattern](disk, count)


class _Disk(NamedTuple):
    """A disk, what decides where things are on it, and what decides what a day brings."""

    size: int
    places: np.random.Generator
    day: np.random.Generator


def _random(disk: _Disk, count: int) -> Writes:
    return disk.day.integers(0, disk.size // PAGE, count) * PAGE, _each(PAGE, count)


def _files(disk: _Disk, count: int) -> Writes:
    pages = disk.size // PAGE
    longest = pages // (2 * _FILES)
    begins = disk.places.integers(0, pages - longest, _FILES)
    # Some files are written far more often than others.
    file = np.minimum(disk.day.geometric(3 / _FILES, count) - 1, _FILES - 1)
    return (begins[file] + disk.day.integers(0, longest, count)) * PAGE, _each(PAGE, count)


def _hot(disk: _Disk, count: int) -> Writes:
    length = 4 * PAGE
    pages = disk.size // length
    begins = disk.places.integers(0, pages, _HOT_PLACES)
    chosen = begins[np.minimum(disk.day.geometric(4 / _HOT_PLACES, count) - 1, _HOT_PLACES - 1)]
    # Each place is hottest in its middle.
    spread = disk.day.normal(0, pages / _HOT_SHARE, count).astype(np.int64)
    return (chosen + spread) % pages * length, _each(length, count)


def _sequential(disk: _Disk, count: int) -> Writes:
    length = min(16 * PAGE, disk.size // 1024 // PAGE * PAGE)
    blocks = disk.size // length
    begins = disk.day.integers(0, blocks, _STREAMS)
    number = np.arange(count)
    return (begins[number % _STREAMS] + number // _STREAMS) % blocks * length, _each(length, count)


def _mixed(disk: _Disk, count: int) -> Writes:
    third = count // 3
    parts = [_files(disk, third), _hot(disk, third), _sequential(disk, count - 2 * third)]
    offsets = np.concatenate([part[0] for part in parts])
    return offsets, np.concatenate([part[1] for part in parts])


def _each(length: int, count: int) -> NDArray[np.int64]:
    return np.full(count, length, dtype=np.int64)


PATTERNS: dict[str, Callable[[_Disk, int], Writes]] = {
    "random": _random,
    "files": _files,
    "hot": _hot,
    "sequential": _sequential,
    "mixed": _mixed,
}
"""What `make_writes` knows, by name."""
