"""Many block-status replies to one map of each context.

The descriptors are kept as they came; what makes extents of them runs once, over all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbexport.bits import Extents
from nbexport.nbd import wire
from nbexport.nbd.pipeline import Ask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from nbexport.nbd.link import Head, Link

_REACH_MAX = 1 << 63
"""Where no extent may end: offsets are int64, and no export is as large."""


class Told(NamedTuple):
    """What one reply says of one context.

    Attributes:
        lengths: of its extents, in bytes. Shape: (n,) int64.
        flags: of each. Shape: (n,) uint32.
        total: the sum of the lengths.
    """

    lengths: NDArray[np.int64]
    flags: NDArray[np.uint32]
    total: int

    def cut(self, total: int) -> Told:
        """Return the part in front of ``total``, which is positive."""
        if total == self.total:
            return self
        ends = np.cumsum(self.lengths)
        count = int(np.searchsorted(ends, total)) + 1
        lengths = self.lengths[:count].copy()
        lengths[-1] -= int(ends[count - 1]) - total
        return Told(lengths, self.flags[:count], total)


class Asking(Ask):
    """A block status.

    Args:
        offset: first byte.
        length: how many bytes are asked about.
        contexts: the selected contexts that the server is to tell: names and numbers.
        flags: of the request.
        payload: the filter of contexts, where one is sent.
        finished: told when the reply is complete.

    Attributes:
        told: what came, by the number of the context.
    """

    def __init__(
        self,
        offset: int,
        length: int,
        contexts: Mapping[str, int],
        *,
        flags: int = 0,
        payload: memoryview | None = None,
        finished: Callable[[Asking], None] = lambda _asking: None,
    ) -> None:
        super().__init__(wire.CMD_BLOCK_STATUS, offset, length, flags, payload)
        self.told: dict[int, Told] = {}
        self._contexts = contexts
        self._finished = finished

    def take(self, head: Head, link: Link) -> None:
        """Take the extents of one context."""
        if head.kind == wire.CHUNK_NONE and not head.length:
            return
        pairs = self._pairs(head, link)
        lengths = pairs[0::2]
        if not lengths.all():
            raise link.fail(f"an extent of no bytes in the reply to {self.doing}")
        # In floating point, where nothing wraps: 2**63 is far from what is allowed.
        if link.extended and float(lengths.sum(dtype=np.float64)) >= _REACH_MAX:
            raise link.fail(f"extents of impossible length in the reply to {self.doing}")
        flags = pairs[1::2]
        if link.extended and int(flags.max()) > 0xFFFFFFFF:
            raise link.fail(f"flags {int(flags.max()):#x} in the reply to {self.doing}")
        sizes = lengths.astype(np.int64)
        self.told[self._number] = Told(sizes, flags.astype(np.uint32), int(sizes.sum()))

    def _pairs(self, head: Head, link: Link) -> NDArray[np.uint64]:
        """Return the descriptors, one number after the other. Shape: (2 n,), n > 0."""
        kind, first, width = wire.CHUNK_BLOCK_STATUS, wire.CONTEXT_ID.size, 4
        if link.extended:
            kind, first, width = wire.CHUNK_BLOCK_STATUS_EXT, wire.CONTEXT_ID_COUNT.size, 8
        rest = head.length - first
        if head.kind != kind or rest <= 0 or rest % (2 * width):
            name = wire.command_name(self.command)
            raise link.fail(
                f"chunk of type {head.kind} and {head.length} bytes in the reply to a {name}"
            )
        payload = link.receive_view(head.length)
        (self._number,) = wire.CONTEXT_ID.unpack_from(payload)
        if self._number not in self._contexts.values() or self._number in self.told:
            where = f"in the reply to {self.doing}"
            raise link.fail(f"extents of context {self._number}, which was not asked for, {where}")
        # Copied: the view is of use for a moment only.
        pairs = np.frombuffer(payload[first:], dtype=f">u{width}").astype(f"u{width}")
        if link.extended:
            _, count = wire.CONTEXT_ID_COUNT.unpack_from(payload)
            if count != len(pairs) // 2:
                raise link.fail(f"{count} extents announced, {len(pairs) // 2} come")
        return pairs

    def finish(self, link: Link) -> None:
        """Take the end of the reply."""
        for name, number in self._contexts.items():
            if number not in self.told:
                raise link.fail(f"no extents of context '{name}' at offset {self.offset}")
        self._finished(self)


class Collector:
    """Collects the replies of a map; they may come in any order.

    Args:
        contexts: the selected ones: names and numbers.
        start: where the map begins.
    """

    def __init__(self, contexts: Mapping[str, int], start: int) -> None:
        self._contexts = contexts
        self._start = start
        self._pieces: dict[int, list[tuple[int, Told]]] = {
            number: [] for number in contexts.values()
        }

    def keep(self, asking: Asking) -> int:
        """Keep what a complete reply says; return up to where all contexts are known by it."""
        # Contexts of one reply may end at different offsets; all are known up to the first.
        known = min(asking.length, *(told.total for told in asking.told.values()))
        for number, told in asking.told.items():
            self._pieces[number].append((asking.offset, told.cut(known)))
        return asking.offset + known

    def maps(self) -> dict[str, Extents]:
        """Return the map of each context, of all that was told."""
        found = {}
        for name, number in self._contexts.items():
            pieces = sorted(self._pieces[number], key=lambda piece: piece[0])
            if not pieces:
                found[name] = Extents.empty(self._start)
                continue
            lengths = np.concatenate([told.lengths for _, told in pieces])
            flags = np.concatenate([told.flags for _, told in pieces])
            found[name] = Extents.from_lengths(lengths, flags, start=self._start)
        return found
