"""A run-length map of a disk: what bitmaps, allocation maps and NBD replies have in common."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Self

import numpy as np

from nbexport.errors import ProtocolError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

_WIRE_LENGTH_MAX = (1 << 32) - 1
"""A compact block-status descriptor has 32 bits for a length."""


class Extents:
    """An immutable map of the range ``[start, end)`` of a disk.

    Extent ``i`` covers ``[bounds[i], bounds[i + 1])`` and carries ``flags[i]``, whose meaning is
    the context's (dirty; hole and zero; depth). Neighbours differ: equal ones are merged when the
    value is made, so two maps are equal exactly if they say the same of every byte.

    Args:
        bounds: strictly increasing offsets in bytes.
        flags: one value per extent.

    Shape: bounds (n + 1,) int64, flags (n,) uint32, both read-only; an empty map has bounds (1,).

    Raises:
        UsageError: the arrays do not fit together or the bounds do not increase.
    """

    __slots__ = ("bounds", "flags")

    bounds: NDArray[np.int64]
    flags: NDArray[np.uint32]

    def __init__(
        self, bounds: NDArray[np.int64] | list[int], flags: NDArray[np.uint32] | list[int]
    ) -> None:
        limits = np.asarray(bounds, dtype=np.int64)
        values = np.asarray(flags, dtype=np.uint32)
        if limits.ndim != 1 or values.ndim != 1 or len(limits) != len(values) + 1:
            raise UsageError("extents need one more bound than they have flags")
        if len(limits) > 1 and not np.all(limits[1:] > limits[:-1]):
            raise UsageError("the bounds of extents must increase")
        if len(values) > 1:
            keep = values[1:] != values[:-1]
            if not keep.all():
                values = values[np.concatenate([[True], keep])]
                limits = np.concatenate([limits[:1], limits[1:-1][keep], limits[-1:]])
        limits = np.array(limits)  # own copies, so that freezing them freezes nobody else's
        values = np.array(values)
        limits.flags.writeable = False
        values.flags.writeable = False
        self.bounds = limits
        self.flags = values

    @classmethod
    def empty(cls, at: int = 0) -> Self:
        """Return the map of no bytes at offset ``at``."""
        return cls([at], [])

    @classmethod
    def uniform(cls, start: int, end: int, flags: int) -> Self:
        """Return the map of ``[start, end)`` in one extent, or the empty map if that is empty."""
        return cls([start, end], [flags]) if end > start else cls([start], [])

    @classmethod
    def from_lengths(
        cls,
        lengths: NDArray[np.int64] | list[int],
        flags: NDArray[np.uint32] | list[int],
        start: int = 0,
    ) -> Self:
        """Return consecutive extents from ``start``; those of length 0 are left out.

        Shape: lengths (n,) bytes, flags (n,).

        Raises:
            UsageError: a length is negative.
        """
        counts = np.asarray(lengths, dtype=np.int64)
        values = np.asarray(flags, dtype=np.uint32)
        if (counts < 0).any():
            raise UsageError("the length of an extent must not be negative")
        real = counts > 0
        bounds = np.empty(int(real.sum()) + 1, dtype=np.int64)
        bounds[0] = start
        np.cumsum(counts[real], out=bounds[1:])
        bounds[1:] += start
        return cls(bounds, values[real])

    @classmethod
    def concatenate(cls, parts: Iterable[Extents]) -> Self:
        """Return the map that consecutive maps form together.

        Raises:
            UsageError: there is no part, or one does not begin where the one before it ends.
        """
        pieces = list(parts)
        if not pieces:
            raise UsageError("nothing to concatenate")
        for before, after in itertools.pairwise(pieces):
            if before.end != after.start:
                raise UsageError(f"extents do not touch: {before.end} and {after.start}")
        bounds = np.concatenate([pieces[0].bounds, *(piece.bounds[1:] for piece in pieces[1:])])
        return cls(bounds, np.concatenate([piece.flags for piece in pieces]))

    @classmethod
    def from_wire(cls, payload: bytes | memoryview, start: int) -> Self:
        """Decode the descriptors of a block-status chunk for a request at offset ``start``.

        Layout of each descriptor, big-endian: 0 4 length, 4 4 flags.

        Raises:
            ProtocolError: there is no descriptor, a partial one, or one of length 0.

        Source: NBD protocol, ``NBD_REPLY_TYPE_BLOCK_STATUS``.
        """
        if not payload or len(payload) % 8:
            raise ProtocolError(f"block status of {len(payload)} bytes is not a list of extents")
        pairs = np.frombuffer(payload, dtype=">u4").reshape(-1, 2)
        if not pairs[:, 0].all():
            raise ProtocolError("block status with an extent of length 0")
        return cls.from_lengths(pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.uint32), start)

    @property
    def start(self) -> int:
        """Offset of the first byte."""
        return int(self.bounds[0])

    @property
    def end(self) -> int:
        """Offset behind the last byte."""
        return int(self.bounds[-1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each extent. Shape: (n,) int64; a copy."""
        return np.diff(self.bounds)

    def __len__(self) -> int:
        """Return the number of extents."""
        return len(self.flags)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Yield ``(offset, length, flags)``; for printing and tests, not for computing."""
        return zip(
            self.bounds[:-1].tolist(), self.lengths.tolist(), self.flags.tolist(), strict=True
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Extents):
            return NotImplemented
        return bool(
            np.array_equal(self.bounds, other.bounds) and np.array_equal(self.flags, other.flags)
        )

    def __hash__(self) -> int:
        return hash((self.bounds.tobytes(), self.flags.tobytes()))

    def __repr__(self) -> str:
        return f"Extents([{self.start}, {self.end}), {len(self)} extents)"

    def at(self, offset: int) -> int:
        """Return the flags of the byte at ``offset``.

        Raises:
            UsageError: the offset is outside the map.
        """
        if not self.start <= offset < self.end:
            raise UsageError(f"offset {offset} is outside [{self.start}, {self.end})")
        return int(self.flags[np.searchsorted(self.bounds, offset, side="right") - 1])

    def clip(self, start: int, end: int) -> Extents:
        """Return the part of the map in ``[start, end)``.

        Raises:
            UsageError: the range is not inside the map.
        """
        if not self.start <= start <= end <= self.end:
            raise UsageError(
                f"range [{start}, {end}) is outside the map [{self.start}, {self.end})"
            )
        if (start, end) == (self.start, self.end):
            return self
        if start == end:
            return Extents.empty(start)
        first = int(np.searchsorted(self.bounds, start, side="right")) - 1
        last = int(np.searchsorted(self.bounds, end, side="left"))
        bounds = self.bounds[first : last + 1].copy()
        bounds[0] = start
        bounds[-1] = end
        return Extents(bounds, self.flags[first:last])

    def shift(self, delta: int) -> Extents:
        """Return the same map ``delta`` bytes further on."""
        return Extents(self.bounds + delta, self.flags)

    def extend(self, end: int, flags: int) -> Extents:
        """Return the map with ``[self.end, end)`` added; the same map if it reaches ``end``."""
        if end <= self.end:
            return self
        return Extents.concatenate([self, Extents.uniform(self.end, end, flags)])

    def map_flags(self, function: Callable[[NDArray[np.uint32]], NDArray[np.uint32]]) -> Extents:
        """Return the map with every flag replaced; ``function`` gets and gives the whole array."""
        return Extents(self.bounds, np.asarray(function(self.flags), dtype=np.uint32))

    def combine(
        self,
        other: Extents,
        function: Callable[[NDArray[np.uint32], NDArray[np.uint32]], NDArray[np.uint32]],
    ) -> Extents:
        """Return the map whose flags are a function of two maps' flags at the same bytes.

        Args:
            other: a map of the same range.
            function: gets the flags of both on the union of their bounds, gives the new ones.

        Shape: function gets two (m,) uint32 arrays and returns one (m,).

        Raises:
            UsageError: the two maps cover different ranges.
        """
        if (self.start, self.end) != (other.start, other.end):
            raise UsageError(
                f"maps of different ranges: [{self.start}, {self.end}) "
                f"and [{other.start}, {other.end})"
            )
        bounds = np.union1d(self.bounds, other.bounds)
        at = bounds[:-1]
        mine = self.flags[np.searchsorted(self.bounds, at, side="right") - 1]
        theirs = other.flags[np.searchsorted(other.bounds, at, side="right") - 1]
        return Extents(bounds, np.asarray(function(mine, theirs), dtype=np.uint32))

    def total(self, flags: int) -> int:
        """Return how many bytes carry exactly ``flags``."""
        return int(self.lengths[self.flags == flags].sum())

    def totals(self) -> dict[int, int]:
        """Return the number of bytes for each value of the flags, in rising order of value."""
        values, which = np.unique(self.flags, return_inverse=True)
        sums = np.zeros(len(values), dtype=np.int64)
        np.add.at(sums, which, self.lengths)
        return dict(zip(values.tolist(), sums.tolist(), strict=True))

    def to_wire(self, max_extents: int) -> bytes:
        """Encode as block-status descriptors, at most ``max_extents`` of them.

        An extent longer than a descriptor can say is split; what does not fit is left out, and
        the client asks again from where the reply ends.

        Layout of each descriptor, big-endian: 0 4 length, 4 4 flags.

        Raises:
            UsageError: the map is empty; a reply must hold at least one extent.

        Source: NBD protocol, ``NBD_REPLY_TYPE_BLOCK_STATUS``.
        """
        if not len(self):
            raise UsageError("a block status reply needs at least one extent")
        lengths = self.lengths[:max_extents]
        flags = self.flags[:max_extents]
        if int(lengths.max()) > _WIRE_LENGTH_MAX:
            pieces = -(-lengths // _WIRE_LENGTH_MAX)
            tails = lengths - (pieces - 1) * _WIRE_LENGTH_MAX
            # No more pieces than are asked for: 2**62 bytes would be 2**30 of them.
            used = int(np.searchsorted(np.cumsum(pieces), max_extents)) + 1
            pieces, tails, flags = pieces[:used], tails[:used], flags[:used]
            excess = int(pieces.sum()) - max_extents
            if excess > 0:
                pieces[-1] -= excess
                tails[-1] = _WIRE_LENGTH_MAX
            last = np.cumsum(pieces) - 1
            flags = np.repeat(flags, pieces)
            lengths = np.full(int(pieces.sum()), _WIRE_LENGTH_MAX, dtype=np.int64)
            lengths[last] = tails
        pairs = np.empty((min(len(lengths), max_extents), 2), dtype=">u4")
        pairs[:, 0] = lengths[:max_extents]
        pairs[:, 1] = flags[:max_extents]
        return pairs.tobytes()
