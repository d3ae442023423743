"""Many block-status replies to one map of each context.

The descriptors are kept as they came; what makes extents of them runs once, over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nbexport.bits import Extents
from nbexport.errors import ProtocolError
from nbexport.nbd import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from nbexport.nbd.link import Chunk

_DESCRIPTOR = np.dtype([("length", ">u4"), ("flags", ">u4")])


@dataclass
class Answer:
    """The reply to one request, as far as it has come.

    Attributes:
        offset: first byte that was asked about.
        length: how many bytes were.
        found: for each context that was told, by number: lengths and flags. Shape: (n,) each.
    """

    offset: int
    length: int
    found: dict[int, tuple[NDArray[np.int64], NDArray[np.uint32]]] = field(default_factory=dict)


class Collector:
    """Collects the replies of a map; they may come in any order.

    Args:
        contexts: the selected ones: names and numbers.
        start: where the map begins.
    """

    def __init__(self, contexts: Mapping[str, int], start: int) -> None:
        self._contexts = contexts
        self._numbers = frozenset(contexts.values())
        self._start = start
        self._pieces: dict[int, list[tuple[int, NDArray[np.int64], NDArray[np.uint32]]]] = {
            number: [] for number in contexts.values()
        }

    def take(self, answer: Answer, chunk: Chunk) -> None:
        """Take one chunk of a reply.

        Raises:
            ProtocolError: it is no block status, or not of a context that was asked for.
        """
        where = f"in the reply to a block status at offset {answer.offset}"
        size = wire.CONTEXT_ID.size
        payload = memoryview(chunk.payload)
        rest = len(payload) - size
        if chunk.kind != wire.CHUNK_BLOCK_STATUS or rest <= 0 or rest % _DESCRIPTOR.itemsize:
            raise ProtocolError(f"chunk of type {chunk.kind} and {len(payload)} bytes {where}")
        (number,) = wire.CONTEXT_ID.unpack_from(payload)
        if number not in self._numbers or number in answer.found:
            raise ProtocolError(f"extents of context {number}, which was not asked for, {where}")
        descriptors = np.frombuffer(payload[size:], dtype=_DESCRIPTOR)
        lengths = descriptors["length"].astype(np.int64)
        if not lengths.all():
            raise ProtocolError(f"an extent of no bytes {where}")
        answer.found[number] = lengths, descriptors["flags"].astype(np.uint32)

    def finish(self, answer: Answer) -> int:
        """Take the end of a reply; return up to where all contexts are known by it.

        Raises:
            ProtocolError: a context was not told.
        """
        for name, number in self._contexts.items():
            if number not in answer.found:
                raise ProtocolError(f"no extents of context '{name}' at offset {answer.offset}")
        # Contexts of one reply may end at different offsets; all are known up to the first.
        known = min(answer.length, *(int(lengths.sum()) for lengths, _ in answer.found.values()))
        for number, (lengths, flags) in answer.found.items():
            ends = np.cumsum(lengths)
            count = int(np.searchsorted(ends, known)) + 1
            lengths = lengths[:count]
            lengths[-1] -= int(ends[count - 1]) - known
            self._pieces[number].append((answer.offset, lengths, flags[:count]))
        return answer.offset + known

    def maps(self) -> dict[str, Extents]:
        """Return the map of each context, of all that was told."""
        found = {}
        for name, number in self._contexts.items():
            pieces = sorted(self._pieces[number], key=lambda piece: piece[0])
            if not pieces:
                found[name] = Extents.empty(self._start)
                continue
            lengths = np.concatenate([lengths for _, lengths, _ in pieces])
            flags = np.concatenate([flags for _, _, flags in pieces])
            found[name] = Extents.from_lengths(lengths, flags, start=self._start)
        return found
