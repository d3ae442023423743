"""Many block-status replies to one map of each context.

Descriptors are kept as they came. What is in them is looked at when all replies of a round are
there, over all of them at once; where replies ended early, the next round asks for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbexport.bits import Extents
from nbexport.nbd import wire
from nbexport.nbd.pipeline import Ask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nbexport.nbd.link import Head, Link

_REACH_MAX = 1 << 63
"""Where no extent may end: offsets are int64, and no export is as large."""


class Asking(Ask):
    """A block status.

    Args:
        offset: first byte.
        length: how many bytes are asked about.
        contexts: the selected contexts that the server is to tell: names and numbers.
        flags: of the request.
        payload: the filter of contexts, where one is sent.

    Attributes:
        told: the descriptors that came, by the number of the context.
    """

    def __init__(
        self,
        offset: int,
        length: int,
        contexts: Mapping[str, int],
        *,
        flags: int = 0,
        payload: memoryview | None = None,
    ) -> None:
        super().__init__(wire.CMD_BLOCK_STATUS, offset, length, flags, payload)
        self.told: dict[int, memoryview] = {}
        self._contexts = contexts

    def take(self, head: Head, link: Link) -> None:
        """Take the extents of one context."""
        kind, length = head.kind, head.length
        if kind == wire.CHUNK_NONE and not length:
            return
        expected, first, unit = wire.CHUNK_BLOCK_STATUS, wire.CONTEXT_ID.size, 8
        if link.extended:
            expected, first, unit = wire.CHUNK_BLOCK_STATUS_EXT, wire.CONTEXT_ID_COUNT.size, 16
        if kind != expected or length <= first or (length - first) % unit:
            name = wire.command_name(self.command)
            raise link.fail(f"chunk of type {kind} and {length} bytes in the reply to a {name}")
        payload = link.receive(length)
        (number,) = wire.CONTEXT_ID.unpack_from(payload)
        if number not in self._contexts.values() or number in self.told:
            where = f"in the reply to {self.doing}"
            raise link.fail(f"extents of context {number}, which was not asked for, {where}")
        if link.extended:
            _, count = wire.CONTEXT_ID_COUNT.unpack_from(payload)
            if count != (length - first) // unit:
                raise link.fail(f"{count} extents announced, {(length - first) // unit} come")
        self.told[number] = memoryview(payload)[first:]

    def finish(self, link: Link) -> None:
        """Take the end of the reply."""
        if len(self.told) < len(self._contexts):
            missing = next(name for name, n in self._contexts.items() if n not in self.told)
            raise link.fail(f"no extents of context '{missing}' at offset {self.offset}")


class _Told(NamedTuple):
    """What a round of replies says of one context.

    Attributes:
        lengths: of all extents, in bytes. Shape: (n,) int64.
        flags: of each. Shape: (n,) uint32.
        first: the first extent of each reply, and ``n``. Shape: (replies + 1,).
        totals: bytes that each reply tells of. Shape: (replies,) int64.
    """

    lengths: NDArray[np.int64]
    flags: NDArray[np.uint32]
    first: NDArray[np.int64]
    totals: NDArray[np.int64]

    def cut(self, known: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.uint32]]]:
        """Return lengths and flags of each reply, up to so many bytes of it; all positive."""
        pieces = []
        for number, total in enumerate(known.tolist()):
            part = slice(int(self.first[number]), int(self.first[number + 1]))
            lengths, flags = self.lengths[part], self.flags[part]
            if total < int(self.totals[number]):
                ends = np.cumsum(lengths)
                count = int(np.searchsorted(ends, total)) + 1
                lengths, flags = lengths[:count].copy(), flags[:count]
                lengths[-1] -= int(ends[count - 1]) - total
            pieces.append((lengths, flags))
        return pieces


def decode(asked: Sequence[Asking], number: int, link: Link) -> _Told:
    """Return what complete replies, at least one, say of a context.

    Args:
        asked: the requests.
        number: of the context.
        link: where they came from.

    Raises:
        PeerError: they say something impossible.
    """
    parts = [asking.told[number] for asking in asked]
    width = 8 if link.extended else 4
    pairs = np.frombuffer(b"".join(parts), dtype=f">u{width}").reshape(-1, 2)
    counts = np.fromiter((len(part) for part in parts), np.int64, len(parts)) // (2 * width)
    first = np.concatenate(([0], np.cumsum(counts)))
    lengths, flags = pairs[:, 0].astype(np.int64), pairs[:, 1]

    def doing(bad: NDArray[np.bool_]) -> str:
        reply = int(np.searchsorted(first, int(bad.argmax()), side="right")) - 1
        return asked[reply].doing

    if not lengths.all():
        raise link.fail(f"an extent of no bytes in the reply to {doing(lengths == 0)}")
    if link.extended:
        # In floating point, where nothing wraps: 2**63 is far from what is allowed.
        sums = np.add.reduceat(lengths.astype(np.float64), first[:-1])
        if (lengths < 0).any() or (sums >= _REACH_MAX).any():
            raise link.fail("extents of impossible length in the reply to a block status")
        if int(flags.max()) > 0xFFFFFFFF:
            raise link.fail(f"flags {int(flags.max()):#x} in the reply to {doing(flags >> 32 > 0)}")
    totals = np.add.reduceat(lengths, first[:-1])
    return _Told(lengths, flags.astype(np.uint32), first, totals)


class Collector:
    """Collects the replies of a map.

    Args:
        contexts: the selected ones: names and numbers.
        start: where the map begins.
        link: where the replies come from.
    """

    def __init__(self, contexts: Mapping[str, int], start: int, link: Link) -> None:
        self._contexts = contexts
        self._start = start
        self._link = link
        self._pieces: dict[int, list[tuple[int, NDArray[np.int64], NDArray[np.uint32]]]] = {
            number: [] for number in contexts.values()
        }

    def keep(self, asked: Sequence[Asking]) -> list[tuple[int, int]]:
        """Keep what complete replies, in rising order of offset, say.

        Returns:
            The ranges that they leave unknown: offsets and lengths.

        Raises:
            PeerError: they say something impossible.
        """
        told = {number: decode(asked, number, self._link) for number in self._pieces}
        lengths = np.array([asking.length for asking in asked], dtype=np.int64)
        offsets = np.array([asking.offset for asking in asked], dtype=np.int64)
        # Contexts of one reply may end at different offsets; all are known up to the first.
        known = np.minimum.reduce([lengths, *(one.totals for one in told.values())])
        whole = bool((offsets[1:] == (offsets + known)[:-1]).all())
        for number, one in told.items():
            if whole and (one.totals == known).all():
                self._pieces[number].append((asked[0].offset, one.lengths, one.flags))
            else:
                self._pieces[number] += [
                    (asking.offset, *piece)
                    for asking, piece in zip(asked, one.cut(known), strict=True)
                ]
        open_ = np.flatnonzero(known < lengths)
        at, rest = (offsets + known)[open_], (lengths - known)[open_]
        return list(zip(at.tolist(), rest.tolist(), strict=True))

    def maps(self) -> dict[str, Extents]:
        """Return the map of each context, of all that was told."""
        found = {}
        for name, number in self._contexts.items():
            pieces = sorted(self._pieces[number], key=lambda piece: piece[0])
            if not pieces:
                found[name] = Extents.empty(self._start)
                continue
            bounds = np.empty(sum(len(lengths) for _, lengths, _ in pieces) + 1, dtype=np.int64)
            bounds[0] = self._start
            np.concatenate([lengths for _, lengths, _ in pieces], out=bounds[1:])
            np.cumsum(bounds, out=bounds)
            found[name] = Extents(bounds, np.concatenate([flags for _, _, flags in pieces]))
        return found
