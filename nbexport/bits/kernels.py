"""From packed bits to run boundaries, the one step whose cost grows with the size of a disk.

Two ways lead there, and which is faster depends on how many changes a 64-bit word holds: few are
picked one by one, where many are everything is unpacked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BUSY_EDGES = 16
"""Changes for each word above which unpacking everything wins (measured at 2**24 bits)."""
_PART = 1 << 14
"""Words that are looked at at a time: 128 KiB, which are 1 MiB unpacked."""


def pad_to_words(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return ``data`` as little-endian 64-bit words, zero-padded to a whole number of them.

    Shape: data (n,) uint8; result (ceil(n / 8),) uint64, a view where no padding was needed.
    """
    missing = -len(data) % 8
    if missing:
        data = np.concatenate([data, np.zeros(missing, dtype=np.uint8)])
    return np.ascontiguousarray(data).view("<u8")


def changes(data: NDArray[np.uint8], n_bits: int) -> NDArray[np.int64]:
    """Return the positions at which the bit differs from the bit before it.

    The bit before the first counts as 0, so a bitmap that begins with 1 has a change at 0; the
    runs of ones are then ``[changes[0], changes[1])``, ``[changes[2], changes[3])`` and so on,
    the last one open if the number of changes is odd.

    Args:
        data: packed bits, least significant first.
        n_bits: how many of them count; bits behind are ignored.

    Shape: data (ceil(n_bits / 8),) uint8; result (k,) int64, sorted, in [0, n_bits); a copy.
    """
    if n_bits == 0:
        return np.zeros(0, dtype=np.int64)
    words = pad_to_words(data)
    parts = []
    before = np.uint64(0)
    for at in range(0, len(words), _PART):
        part = words[at : at + _PART]
        # Bit k of `edges` says whether bit k of the word differs from its predecessor.
        edges = part ^ (part << np.uint64(1))
        edges[0] ^= before
        edges[1:] ^= part[:-1] >> np.uint64(63)
        before = part[-1] >> np.uint64(63)
        busy = np.flatnonzero(edges)
        busy_edges = edges[busy]
        counts = np.bitwise_count(busy_edges)
        if int(counts.sum(dtype=np.int64)) > len(part) * _BUSY_EDGES:
            found = np.flatnonzero(np.unpackbits(edges.view(np.uint8), bitorder="little"))
        else:
            found = _positions(busy, busy_edges, counts)
        parts.append(found + at * 64)
    found = np.concatenate(parts)
    return found[: np.searchsorted(found, n_bits)].astype(np.int64, copy=False)


def _positions(
    at: NDArray[np.int64], words: NDArray[np.uint64], counts: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Return the numbers of the bits that are set, in rising order.

    Each round takes the lowest bit of every word that has any left, and knows its place.

    Shape: three arrays (n,): the number of each word, the word, not 0, and how many bits it has.
    """
    ends = np.cumsum(counts, dtype=np.int64)
    place = ends - counts
    found = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
    base, rest = at * 64, words
    one = np.uint64(1)
    while len(rest):
        below = rest - one
        found[place] = base + np.bitwise_count(~rest & below)
        rest = rest & below
        more = np.flatnonzero(rest)
        rest, base, place = rest[more], base[more], place[more] + 1
    return found


def count_changes(data: NDArray[np.uint8]) -> int:
    """Return how many bits differ from the bit before them, as `changes` would find them.

    Shape: data (n,) uint8, packed least significant first; bits behind the end are 0.
    """
    words = pad_to_words(data)
    if not len(words):
        return 0
    edges = words ^ (words << np.uint64(1))
    edges[1:] ^= words[:-1] >> np.uint64(63)
    return int(np.bitwise_count(edges).sum(dtype=np.int64))


def fill(data: NDArray[np.uint8], first: int, last: int, *, value: bool) -> None:
    """Set the bits ``[first, last)`` of ``data`` to ``value``, in place.

    Shape: data (n,) uint8, packed least significant first; 0 <= first <= last <= 8 n.
    """
    if first >= last:
        return
    head, tail = first // 8, (last - 1) // 8
    head_mask = 0xFF << first % 8 & 0xFF
    tail_mask = 0xFF >> 7 - (last - 1) % 8
    if head == tail:
        head_mask &= tail_mask
    if value:
        data[head] |= head_mask
    else:
        data[head] &= 0xFF ^ head_mask
    if head == tail:
        return
    data[head + 1 : tail] = 0xFF if value else 0
    if value:
        data[tail] |= tail_mask
    else:
        data[tail] &= 0xFF ^ tail_mask


def spread(data: NDArray[np.uint8], n_bits: int, factor: int, n_out: int) -> NDArray[np.uint8]:
    """Repeat each bit ``factor`` times: the same bitmap at a finer granularity.

    Shape: data (ceil(n_bits / 8),) uint8; result (ceil(n_out / 8),) uint8; a copy.
    """
    bits = np.unpackbits(data, count=n_bits, bitorder="little")
    return np.packbits(np.repeat(bits, factor)[:n_out], bitorder="little")


def gather(data: NDArray[np.uint8], n_bits: int, factor: int) -> NDArray[np.uint8]:
    """Join each ``factor`` bits by OR: the same bitmap at a coarser granularity.

    Shape: data (ceil(n_bits / 8),) uint8; result (ceil(n_bits / factor / 8),) uint8; a copy.
    """
    bits = np.unpackbits(data, count=n_bits, bitorder="little")
    starts = np.arange(0, n_bits, factor)
    return np.packbits(np.bitwise_or.reduceat(bits, starts), bitorder="little")
