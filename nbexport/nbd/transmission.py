"""The server's side of the transmission phase, without I/O.

Bytes come in by `ServerTransmission.receive_data`; `next_request` gives the requests that need the
disk; what is refused is answered here. The functions below build the replies to the others.

Source: NBD protocol, "Transmission"; checks, their order and their texts are those of QEMU 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nbexport.nbd import wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nbexport.bits import Extents
    from nbexport.nbd.contexts import MetaContext
    from nbexport.nbd.negotiation import Choice

STATE_ZERO = 2
"""The bit of base:allocation that says that bytes read as zeroes."""

# Command flags beside FUA, which every command takes.
_FLAGS = {wire.CMD_BLOCK_STATUS: wire.CMD_FLAG_REQ_ONE}
_BOUNDED = frozenset((wire.CMD_READ, wire.CMD_WRITE, wire.CMD_CACHE))
_WRITING = frozenset((wire.CMD_WRITE, wire.CMD_WRITE_ZEROES, wire.CMD_TRIM))
_SERVED = frozenset((wire.CMD_READ, wire.CMD_FLUSH, wire.CMD_CACHE, wire.CMD_BLOCK_STATUS))


@dataclass(frozen=True, slots=True)
class Request:
    """A request that passed every check and needs the disk.

    Attributes:
        command: its type.
        flags: its command flags.
        cookie: what the reply repeats.
        offset: first byte.
        length: in bytes; not 0 for a block status.
    """

    command: int
    flags: int
    cookie: int
    offset: int
    length: int


class ServerTransmission:
    """The requests of one connection.

    Args:
        choice: what the handshake ended with.

    Attributes:
        disconnected: whether the client has said goodbye: answer what is under way, then close.
        closed: whether the stream is out of step: close at once, after what is left to send.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.disconnected = False
        self.closed = False
        self._input = bytearray()
        self._output = bytearray()
        self._to_drop = 0  # bytes of a refused write
        self._after_drop: bytes = b""

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the client."""
        if not (self.closed or self.disconnected):
            self._input += data

    def receive_eof(self) -> None:
        """Take the end of the client's data: what is under way is still answered."""
        self.disconnected = True

    def data_to_send(self) -> bytes:
        """Return the answers to refused requests, once."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def next_request(self) -> Request | None:
        """Return the next request that needs the disk, or None until more bytes come."""
        while not (self.closed or self.disconnected):
            if self._to_drop:
                length = min(self._to_drop, len(self._input))
                del self._input[:length]
                self._to_drop -= length
                if self._to_drop:
                    return None
                self._output += self._after_drop
            if len(self._input) < wire.REQUEST.size:
                return None
            fields = wire.REQUEST.unpack_from(self._input)
            del self._input[: wire.REQUEST.size]
            request = self._check(fields)
            if request is not None:
                return request
        self._input.clear()
        return None

    def _check(self, fields: tuple[int, ...]) -> Request | None:
        """Return the request if it can be served; else answer it."""
        magic, flags, command, cookie, offset, length = fields
        if magic != wire.REQUEST_MAGIC:
            # Nobody knows where the next request begins; QEMU says so before it closes.
            text = f"invalid magic (got 0x{magic:08x})"
            self._output += self.error(cookie, wire.EINVAL, text)
            self.closed = True
            return None
        if command == wire.CMD_DISC:
            self.disconnected = True
            return None
        message = self._refusal(flags, command, offset, length)
        if message is None:
            return Request(command, flags, cookie, offset, length)
        # Whatever the reason, QEMU's clients are told EINVAL.
        answer = self.error(cookie, wire.EINVAL, message)
        if command == wire.CMD_WRITE and 0 < length <= wire.PAYLOAD_MAX:
            self._to_drop, self._after_drop = length, answer
            return None
        self._output += answer
        if command == wire.CMD_WRITE and length:
            # More data than anybody may send: they will not be read.
            self.closed = True
        return None

    def _refusal(self, flags: int, command: int, offset: int, length: int) -> str | None:
        """Return why a request cannot be served, None if it can."""
        if command in _BOUNDED and length > wire.PAYLOAD_MAX:
            return f"len ({length} ) is larger than max len ({wire.PAYLOAD_MAX})"
        if command in _WRITING:
            return "Export is read-only"
        size = self.choice.export.size
        if offset > size or length > size - offset:
            return f"operation past EOF; From: {offset}, Len: {length}, Size: {size}"
        allowed = wire.CMD_FLAG_FUA | _FLAGS.get(command, 0)
        if command == wire.CMD_READ and self.choice.structured:
            allowed |= wire.CMD_FLAG_DF
        if flags & ~allowed:
            name = wire.command_name(command)
            return f"unsupported flags for command {name} (got {flags:#x})"
        if command == wire.CMD_BLOCK_STATUS:
            if not length:
                return "need non-zero length"
            if not self.choice.contexts:
                return "CMD_BLOCK_STATUS not negotiated"
        if command not in _SERVED:
            return f"invalid request type ({command}) received"
        return None

    # Replies

    def done(self, cookie: int) -> bytes:
        """Return the reply to a request that succeeded and has nothing to tell."""
        return wire.pack_simple_reply(cookie)

    def error(self, cookie: int, error: int, message: str) -> bytes:
        """Return the reply to a request that failed."""
        if self.choice.structured:
            return wire.pack_error_chunk(cookie, error, message)
        return wire.pack_simple_reply(cookie, error)

    def read_reply(
        self, request: Request, data: memoryview, allocation: Extents | None
    ) -> Iterator[bytes | memoryview]:
        """Yield the pieces of the reply to a read.

        Without structured replies that is header and data. With them, ranges that are known to
        read as zeroes become hole chunks, unless the client forbade fragments.

        Args:
            request: the read.
            data: its bytes.
            allocation: base:allocation of exactly its range; None if not known.
        """
        cookie = request.cookie
        if not self.choice.structured:
            yield wire.pack_simple_reply(cookie)
            yield data
        elif not request.length:
            yield wire.pack_chunk(cookie, wire.CHUNK_NONE, 0, done=True)
        elif allocation is None or request.flags & wire.CMD_FLAG_DF:
            yield self._data_header(request, request.offset, request.length, done=True)
            yield data
        else:
            yield from self._fragments(request, data, allocation)

    def _fragments(
        self, request: Request, data: memoryview, allocation: Extents
    ) -> Iterator[bytes | memoryview]:
        zeroes = allocation.map_flags(lambda flags: flags & np.uint32(STATE_ZERO))
        last = len(zeroes) - 1
        # One piece of Python for each chunk: as many system calls' worth of work as the reply has.
        for number, (offset, length, zero) in enumerate(zeroes):
            if zero:
                payload = wire.HOLE.pack(offset, length)
                kind = wire.CHUNK_OFFSET_HOLE
                header = wire.pack_chunk(request.cookie, kind, len(payload), done=number == last)
                yield header + payload
            else:
                yield self._data_header(request, offset, length, done=number == last)
                start = offset - request.offset
                yield data[start : start + length]

    @staticmethod
    def _data_header(request: Request, offset: int, length: int, *, done: bool) -> bytes:
        payload_length = wire.OFFSET.size + length
        kind = wire.CHUNK_OFFSET_DATA
        return wire.pack_chunk(request.cookie, kind, payload_length, done=done) + wire.OFFSET.pack(
            offset
        )

    def block_status_reply(self, request: Request) -> bytes:
        """Return the reply to a block status: one chunk for each selected context.

        All contexts end at the same offset, so that a client that steps by one of them does not
        lose extents of the others; with REQ_ONE each tells its first extent only.

        Raises:
            What a context's extents raise: OSError or FormatError where the disk cannot be read.
        """
        contexts = self.choice.contexts
        maps = extents_of_request(contexts, request)
        chunks = []
        for number, (context, extents) in enumerate(zip(contexts, maps, strict=True), 1):
            payload = wire.CONTEXT_ID.pack(context.id) + extents.to_wire(wire.EXTENTS_MAX)
            kind, done = wire.CHUNK_BLOCK_STATUS, number == len(contexts)
            header = wire.pack_chunk(request.cookie, kind, len(payload), done=done)
            chunks.append(header + payload)
        return b"".join(chunks)


def extents_of_request(contexts: Sequence[MetaContext], request: Request) -> list[Extents]:
    """Return for each context what a block-status reply tells of it."""
    start, end = request.offset, request.offset + request.length
    maps = [context.extents(start, end) for context in contexts]
    if request.flags & wire.CMD_FLAG_REQ_ONE:
        return [extents.clip(start, int(extents.bounds[1])) for extents in maps]
    common = min(int(extents.bounds[min(len(extents), wire.EXTENTS_MAX)]) for extents in maps)
    return [extents.clip(start, common) for extents in maps]
