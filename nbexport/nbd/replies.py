"""The replies of a server: simple ones, chunks, and chunks with extended headers. No I/O.

Source: NBD protocol, "Transmission" and its extension "extended headers"; which form is chosen
where several are allowed is QEMU's decision.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbexport.bits import Extents
from nbexport.nbd import wire
from nbexport.units import KiB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.nbd.maps import Piece

Buffer = bytes | memoryview

STATE_ZERO = 2
"""The bit of base:allocation that says that bytes read as zeroes."""


_CLEARED_MAX = 64 * KiB
"""From here on clearing the memory first would cost more than asking for it."""
_HEAD = struct.Struct(">IHHQII")
"""The header of a structured chunk, and the number of a context behind it."""
_WIDE_PAIR = struct.Struct(">QQ")
_UNIFORM = wire.CONTEXT_ID.size + 8  # payload of a chunk with one descriptor


@lru_cache(maxsize=64)
def _uniform(count: int) -> struct.Struct:
    """Return the layout of so many chunks with one descriptor each."""
    return struct.Struct(">" + "IHHQIIII" * count)


def room_for(length: int) -> memoryview:
    """Return memory for the data of a read, all of which will be written before it is sent."""
    if length < _CLEARED_MAX:
        return memoryview(bytearray(length))
    return np.empty(length, dtype=np.uint8).data


class SimpleReplies:
    """What a client gets that negotiated nothing.

    Attributes:
        wide: whether descriptors have 64 bits.
    """

    wide: ClassVar[bool] = False

    def done(self, cookie: int, offset: int) -> bytes:  # noqa: ARG002 # other forms tell it
        """Return the reply to a request that succeeded and has nothing to tell."""
        return wire.pack_simple_reply(cookie)

    def error(self, cookie: int, offset: int, error: int, message: str) -> bytes:  # noqa: ARG002
        """Return the reply to a request that failed; there is no room for the message."""
        return wire.pack_simple_reply(cookie, error)

    def read(
        self,
        cookie: int,
        offset: int,  # noqa: ARG002
        data: memoryview,
        zeroes: Piece | None,  # noqa: ARG002
    ) -> list[Buffer]:
        """Return the pieces of the reply to a read.

        Args:
            cookie: what the reply repeats.
            offset: where the data begin.
            data: the bytes.
            zeroes: base:allocation of exactly their range; None if not known or not wanted.
        """
        header = wire.pack_simple_reply(cookie)
        return [header, data] if len(data) else [header]

    def block_status(
        self, cookie: int, offset: int, answers: Sequence[tuple[int, Piece]]
    ) -> list[Buffer]:
        """Return the reply to a block status: ids of contexts, and what they say."""
        del cookie, offset, answers
        raise AssertionError("a block status needs structured replies")

    def uniform(
        self, cookie: int, offset: int, length: int, ids: Sequence[int], flags: Sequence[int]
    ) -> bytes:
        """Return the reply to a block status in which each context has one extent."""
        del cookie, offset, length, ids, flags
        raise AssertionError("a block status needs structured replies")

    def narrow(
        self, cookie: int, ids: Sequence[int], answers: Sequence[bytes | bytearray]
    ) -> bytes:
        """Return the reply to a block status whose descriptors are made already."""
        del cookie, ids, answers
        raise AssertionError("a block status needs structured replies")


class StructuredReplies(SimpleReplies):
    """What a client gets that negotiated structured replies."""

    def uniform(
        self, cookie: int, offset: int, length: int, ids: Sequence[int], flags: Sequence[int]
    ) -> bytes:
        """Return the reply to a block status in which each context has one extent.

        Args:
            cookie: what the reply repeats.
            offset: first byte.
            length: of the extent, in bytes.
            ids: the numbers of the contexts.
            flags: the flags of each.
        """
        del offset
        last = len(ids) - 1
        fields: list[int] = []
        for number, flag in enumerate(flags):
            done = wire.CHUNK_FLAG_DONE if number == last else 0
            fields += (wire.CHUNK_MAGIC, done, wire.CHUNK_BLOCK_STATUS, cookie, _UNIFORM)
            fields += (ids[number], length, flag)
        return _uniform(len(ids)).pack(*fields)

    def narrow(
        self, cookie: int, ids: Sequence[int], answers: Sequence[bytes | bytearray]
    ) -> bytes:
        """Return the reply to a block status: contexts' numbers, and 32-bit descriptors of each."""
        parts: list[bytes | bytearray] = []
        last = len(ids) - 1
        for number, data in enumerate(answers):
            done = wire.CHUNK_FLAG_DONE if number == last else 0
            length = wire.CONTEXT_ID.size + len(data)
            kind = wire.CHUNK_BLOCK_STATUS
            parts += (_HEAD.pack(wire.CHUNK_MAGIC, done, kind, cookie, length, ids[number]), data)
        return b"".join(parts)

    def _chunk(self, cookie: int, offset: int, kind: int, length: int, *, done: bool) -> bytes:  # noqa: ARG002
        return wire.pack_chunk(cookie, kind, length, done=done)

    def error(self, cookie: int, offset: int, error: int, message: str) -> bytes:
        """Return the reply to a request that failed."""
        text = message.encode("utf-8", "backslashreplace")
        payload = wire.ERROR.pack(error, len(text)) + text
        return self._chunk(cookie, offset, wire.CHUNK_ERROR, len(payload), done=True) + payload

    def read(
        self, cookie: int, offset: int, data: memoryview, zeroes: Piece | None
    ) -> list[Buffer]:
        """Return chunks; ranges that are known to read as zeroes become holes."""
        if not len(data):
            return [self._chunk(cookie, offset, wire.CHUNK_NONE, 0, done=True)]
        if zeroes is None or not zeroes.any_of(STATE_ZERO):
            return [self._data(cookie, offset, offset, len(data), done=True), data]
        pieces: list[Buffer] = []
        found = Extents(zeroes.bounds, zeroes.flags & np.uint32(STATE_ZERO))
        last = len(found) - 1
        # One piece of Python for each chunk: as many system calls' worth of work as there are.
        for number, (at, length, zero) in enumerate(found):
            done = number == last
            if zero:
                payload = wire.HOLE.pack(at, length)
                kind = wire.CHUNK_OFFSET_HOLE
                header = self._chunk(cookie, offset, kind, len(payload), done=done)
                pieces.append(header + payload)
            else:
                pieces.append(self._data(cookie, offset, at, length, done=done))
                pieces.append(data[at - offset : at - offset + length])
        return pieces

    def _data(self, cookie: int, offset: int, at: int, length: int, *, done: bool) -> bytes:
        kind = wire.CHUNK_OFFSET_DATA
        header = self._chunk(cookie, offset, kind, wire.OFFSET.size + length, done=done)
        return header + wire.OFFSET.pack(at)

    def block_status(
        self, cookie: int, offset: int, answers: Sequence[tuple[int, Piece]]
    ) -> list[Buffer]:
        """Return one chunk for each context, the last of them marked so."""
        pieces: list[Buffer] = []
        for number, (context_id, piece) in enumerate(answers, 1):
            kind, payload = self._extents(context_id, piece)
            done = number == len(answers)
            pieces.append(self._chunk(cookie, offset, kind, len(payload), done=done) + payload)
        return pieces

    def _extents(self, context_id: int, piece: Piece) -> tuple[int, bytes]:
        return wire.CHUNK_BLOCK_STATUS, wire.CONTEXT_ID.pack(context_id) + piece.to_wire()


class ExtendedReplies(StructuredReplies):
    """What a client gets that negotiated extended headers: chunks only, with 64-bit lengths."""

    wide: ClassVar[bool] = True

    def uniform(
        self, cookie: int, offset: int, length: int, ids: Sequence[int], flags: Sequence[int]
    ) -> bytes:
        """Return the reply to a block status in which each context has one extent."""
        pieces = []
        for number, (context_id, flag) in enumerate(zip(ids, flags, strict=True), 1):
            payload = wire.CONTEXT_ID_COUNT.pack(context_id, 1) + _WIDE_PAIR.pack(length, flag)
            kind, done = wire.CHUNK_BLOCK_STATUS_EXT, number == len(ids)
            pieces.append(self._chunk(cookie, offset, kind, len(payload), done=done) + payload)
        return b"".join(pieces)

    def _chunk(self, cookie: int, offset: int, kind: int, length: int, *, done: bool) -> bytes:
        flags = wire.CHUNK_FLAG_DONE if done else 0
        magic = wire.EXTENDED_CHUNK_MAGIC
        return wire.EXTENDED_CHUNK.pack(magic, flags, kind, cookie, offset, length)

    def done(self, cookie: int, offset: int) -> bytes:
        """Return the reply to a request that succeeded and has nothing to tell."""
        return self._chunk(cookie, offset, wire.CHUNK_NONE, 0, done=True)

    def _extents(self, context_id: int, piece: Piece) -> tuple[int, bytes]:
        head = wire.CONTEXT_ID_COUNT.pack(context_id, len(piece))
        return wire.CHUNK_BLOCK_STATUS_EXT, head + piece.to_wide_wire()
