"""The server's side of the transmission phase, without I/O.

Bytes come in by `ServerTransmission.receive_data`; `next_request` gives the requests that need the
disk; what is refused is answered here. The other methods build the replies to the rest.

Source: NBD protocol, "Transmission"; checks, their order and their texts are those of QEMU 7.2,
for extended headers those of QEMU 8.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nbexport.nbd import wire
from nbexport.nbd.profile import QEMU_7_2, Profile
from nbexport.nbd.replies import (
    Buffer,
    ExtendedReplies,
    SimpleReplies,
    StructuredReplies,
    room_for,
)

if TYPE_CHECKING:
    from nbexport.nbd.contexts import MetaContext
    from nbexport.nbd.maps import Joint, Piece, Window
    from nbexport.nbd.negotiation import Choice

# Command flags beside FUA, which every command takes.
_FLAGS = {
    wire.CMD_BLOCK_STATUS: wire.CMD_FLAG_REQ_ONE,
    wire.CMD_WRITE_ZEROES: wire.CMD_FLAG_NO_HOLE | wire.CMD_FLAG_FAST_ZERO,
}
_BOUNDED = frozenset((wire.CMD_READ, wire.CMD_WRITE, wire.CMD_CACHE))
_WRITING = frozenset((wire.CMD_WRITE, wire.CMD_WRITE_ZEROES, wire.CMD_TRIM))
_SERVED = frozenset(wire.COMMAND_NAMES) - {wire.CMD_DISC}
_STATUS_PAYLOAD_MIN = wire.UINT64.size + wire.UINT32.size
"""The payload of a block status: 0 8 length of the range, then ids of contexts, at least one."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that passed every check and needs the disk.

    Attributes:
        command: its type.
        flags: its command flags.
        cookie: what the reply repeats.
        offset: first byte.
        length: in bytes; not 0 for a block status.
        data: what is to be written.
        contexts: those that a block status asks for; None for all that are selected.
    """

    command: int
    flags: int
    cookie: int
    offset: int
    length: int
    data: memoryview | None = None
    contexts: tuple[MetaContext, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Refusal:
    error: int
    message: str


JOINT_AFTER = 128
"""Answers from memory after which one table for all contexts pays off."""
JOINT_EXTENTS = 4
"""An answer that tells of more extents in a context could not come from the table."""


class ServerTransmission:
    """The requests of one connection.

    Args:
        choice: what the handshake ended with.
        profile: whom to behave like.

    Attributes:
        disconnected: whether the client has said goodbye: answer what is under way, then close.
        closed: whether the stream is out of step: close at once, after what is left to send.
    """

    def __init__(self, choice: Choice, profile: Profile = QEMU_7_2) -> None:
        self.choice = choice
        self.disconnected = False
        self.closed = False
        self._profile = profile
        self._header = wire.EXTENDED_REQUEST if choice.extended else wire.REQUEST
        self._magic = wire.EXTENDED_REQUEST_MAGIC if choice.extended else wire.REQUEST_MAGIC
        if choice.extended:
            self.replies: SimpleReplies = ExtendedReplies()
        else:
            self.replies = StructuredReplies() if choice.structured else SimpleReplies()
        self._input = bytearray()
        self._output = bytearray()
        self._to_drop = 0  # bytes of a refused payload
        self._after_drop: bytes = b""
        self._awaiting: Request | None = None  # its payload is on the way
        self._awaited = 0
        self._ids = [context.id for context in choice.contexts]
        # One table for all contexts; looked at again when the client has sent something new.
        self._joint: Joint | None = None
        self._joint_is_fresh = False
        self._without_joint = 0
        # The maps of all contexts, likewise.
        self._windows: list[Window] | None = None
        self._windows_are_fresh = False

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the client."""
        self._joint_is_fresh = self._windows_are_fresh = False
        if not (self.closed or self.disconnected):
            self._input += data

    def joint_is_worth(self) -> bool:
        """Return whether so much was answered without a joint table that one should be made.

        It is said once for each `JOINT_AFTER` answers.
        """
        if self._without_joint < JOINT_AFTER or len(self.choice.contexts) == 0:
            return False
        self._without_joint = 0
        return True

    def receive_eof(self) -> None:
        """Take the end of the client's data: what is under way is still answered."""
        self.disconnected = True

    @property
    def wanted(self) -> int:
        """How many bytes more the payload that is on the way has, 0 if there is none."""
        return max(0, self._awaited - len(self._input)) if self._awaiting is not None else 0

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
            if self._awaiting is not None:
                if len(self._input) < self._awaited:
                    return None
                request = self._complete()
            else:
                if len(self._input) < self._header.size:
                    return None
                fields = self._header.unpack_from(self._input)
                del self._input[: self._header.size]
                request = self._check(fields)
            if request is not None:
                return request
        self._input.clear()
        return None

    def _take(self, length: int) -> bytearray:
        if length == len(self._input):
            data, self._input = self._input, bytearray()
        else:
            data = self._input[:length]
            del self._input[:length]
        return data

    def _complete(self) -> Request | None:
        """Return the request whose payload is there, unless that is refused."""
        assert self._awaiting is not None
        request, self._awaiting = self._awaiting, None
        payload = self._take(self._awaited)
        if request.command == wire.CMD_WRITE:
            return replace(request, data=memoryview(payload))
        (length,) = wire.UINT64.unpack_from(payload)
        ids = [i for (i,) in wire.UINT32.iter_unpack(memoryview(payload)[wire.UINT64.size :])]
        known = {context.id: context for context in self.choice.contexts}
        if len(set(ids)) != len(ids) or not known.keys() >= set(ids):
            refusal: _Refusal | None = self._bad_payload()
        else:
            flags = request.flags & ~wire.CMD_FLAG_PAYLOAD_LEN
            refusal = self._refusal(flags, request.command, request.offset, length)
        if refusal is not None:
            self._output += self._refuse(request.cookie, request.offset, refusal)
            return None
        # In the order in which replies tell of them, whatever the order of the ids.
        contexts = tuple(context for number, context in known.items() if number in ids)
        return replace(request, length=length, contexts=contexts)

    def _bad_payload(self) -> _Refusal:
        if not self.choice.contexts:
            return _Refusal(wire.EINVAL, "CMD_BLOCK_STATUS not negotiated")
        return _Refusal(wire.EINVAL, "CMD_BLOCK_STATUS payload not valid")

    def _check(self, fields: tuple[int, ...]) -> Request | None:
        """Return the request if it can be served and is complete; else answer or await it."""
        magic, flags, command, cookie, offset, length = fields
        if magic != self._magic:
            # Nobody knows where the next request begins; QEMU says so before it closes.
            text = f"invalid magic (got {magic:#x})"
            self._output += self.replies.error(cookie, offset, wire.EINVAL, text)
            self.closed = True
            return None
        if command == wire.CMD_DISC:
            self.disconnected = True
            return None
        announced = self.choice.extended and bool(flags & wire.CMD_FLAG_PAYLOAD_LEN)
        # A write has its data even if its client forgot to say so.
        payload = length if announced or command == wire.CMD_WRITE else 0
        if payload > wire.PAYLOAD_MAX:
            # More than anybody may send: it will not be read.
            refusal = self._too_long(length)
            self.closed = True
        elif announced and command == wire.CMD_BLOCK_STATUS:
            most = wire.UINT64.size + wire.UINT32.size * len(self.choice.contexts)
            if payload % 4 == 0 and _STATUS_PAYLOAD_MIN <= payload <= most:
                self._awaiting = Request(command, flags, cookie, offset, 0)
                self._awaited = payload
                return None
            refusal = self._bad_payload()
        else:
            foreign = announced and command != wire.CMD_WRITE
            known = flags & ~wire.CMD_FLAG_PAYLOAD_LEN if announced and not foreign else flags
            # What came with a command that has no payload is not the length of its range.
            found = self._refusal(known, command, offset, 0 if foreign else length)
            if found is None and payload:
                self._awaiting = Request(command, flags, cookie, offset, length)
                self._awaited = payload
                return None
            if found is None:
                data = memoryview(b"") if command == wire.CMD_WRITE else None
                return Request(command, flags, cookie, offset, length, data)
            refusal = found
        answer = self._refuse(cookie, offset, refusal)
        if payload and not self.closed:
            self._to_drop, self._after_drop = payload, answer
        else:
            self._output += answer
        return None

    def _refuse(self, cookie: int, offset: int, refusal: _Refusal) -> bytes:
        # Whatever the reason, QEMU's clients are told EINVAL.
        error = wire.EINVAL if self._profile.one_errno else refusal.error
        return self.replies.error(cookie, offset, error, refusal.message)

    def _too_long(self, length: int) -> _Refusal:
        blank = " " if self._profile.blank_in_length else ""
        text = f"len ({length}{blank}) is larger than max len ({wire.PAYLOAD_MAX})"
        return _Refusal(wire.EINVAL, text)

    def _refusal(self, flags: int, command: int, offset: int, length: int) -> _Refusal | None:
        """Return why a request cannot be served, None if it can."""
        export = self.choice.export
        if command in _BOUNDED and length > wire.PAYLOAD_MAX:
            return self._too_long(length)
        if command in _WRITING and not export.writable:
            return _Refusal(wire.EPERM, "Export is read-only")
        size = export.size
        if offset > size or length > size - offset:
            full = command in {wire.CMD_WRITE, wire.CMD_WRITE_ZEROES}
            text = f"operation past EOF; From: {offset}, Len: {length}, Size: {size}"
            return _Refusal(wire.ENOSPC if full else wire.EINVAL, text)
        allowed = wire.CMD_FLAG_FUA | _FLAGS.get(command, 0)
        if command == wire.CMD_READ and (self.choice.structured or self.choice.extended):
            allowed |= wire.CMD_FLAG_DF
        if flags & ~allowed:
            name = wire.command_name(command)
            text = f"unsupported flags for command {name} (got {flags:#x})"
            return _Refusal(wire.EINVAL, text)
        if command == wire.CMD_BLOCK_STATUS:
            if not length:
                return _Refusal(wire.EINVAL, "need non-zero length")
            if not self.choice.contexts:
                return _Refusal(wire.EINVAL, "CMD_BLOCK_STATUS not negotiated")
        if command not in _SERVED:
            return _Refusal(wire.EINVAL, f"invalid request type ({command}) received")
        if (
            self._profile.checks_alignment
            and command != wire.CMD_FLUSH
            and (offset | length) % self.choice.alignment
        ):
            text = f"request is not aligned to the block size of {self.choice.alignment}"
            return _Refusal(wire.EINVAL, text)
        return None

    # Replies

    def done(self, request: Request) -> bytes:
        """Return the reply to a request that succeeded and has nothing to tell."""
        return self.replies.done(request.cookie, request.offset)

    def error(self, request: Request, error: int, message: str) -> bytes:
        """Return the reply to a request that failed."""
        return self.replies.error(request.cookie, request.offset, error, message)

    def read_reply(self, request: Request, data: memoryview) -> list[Buffer]:
        """Return the pieces of the reply to a read.

        With chunks, ranges that are known to read as zeroes become holes, unless the client
        forbade fragments.

        Raises:
            What base:allocation raises: OSError or FormatError where the disk cannot be read.
        """
        export = self.choice.export
        zeroes = None
        fragments = self.choice.chunked and not request.flags & wire.CMD_FLAG_DF
        if export.zeroes is not None and fragments and request.length:
            end = request.offset + request.length
            zeroes = export.maps.piece(export.zeroes, request.offset, end, request.length)
        return self.replies.read(request.cookie, request.offset, data, zeroes)

    def block_status_reply(self, request: Request) -> list[Buffer]:
        """Return the reply to a block status: one chunk for each context that was asked for.

        All contexts end at the same offset, so that a client that steps by one of them does not
        lose extents of the others; with REQ_ONE each tells its first extent only.

        Raises:
            What a context's extents raise: OSError or FormatError where the disk cannot be read.
        """
        contexts, start, end, limit = self._asked(request)
        return self._status(request, self.choice.export.maps.pieces(contexts, start, end, limit))

    def kept_reply(self, request: Request) -> list[Buffer] | None:
        """Return the reply to a block status or a read if nobody has to wait, else None."""
        if request.command == wire.CMD_READ:
            return self._kept_read(request)
        contexts, start, end, limit = self._asked(request)
        maps = self.choice.export.maps
        if not self._joint_is_fresh:
            self._joint = maps.joint(contexts) if request.contexts is None else None
            self._joint_is_fresh = True
        if self._joint is not None and request.contexts is None:
            flags = self._joint.flags(start, end)
            if flags is not None:
                ids = self._ids
                return [self.replies.uniform(request.cookie, start, request.length, ids, flags)]
        if limit > 1 and request.contexts is None and not self.replies.wide:
            if not self._windows_are_fresh:
                self._windows = maps.whole(contexts)
                self._windows_are_fresh = True
            told = self._windows and maps.descriptors(self._windows, start, end, limit)
            if told:
                answers, most = told
                self._without_joint += most <= JOINT_EXTENTS
                return [self.replies.narrow(request.cookie, self._ids, answers)]
        pieces = maps.kept_pieces(contexts, start, end, limit)
        if pieces is None:
            return None
        # A table is of use to small questions only; who maps the disk asks large ones.
        self._without_joint += max(map(len, pieces)) <= JOINT_EXTENTS
        return self._status(request, pieces)

    def _kept_read(self, request: Request) -> list[Buffer] | None:
        export, end = self.choice.export, request.offset + request.length
        if export.read_now is None or not request.length:
            return None
        data = room_for(request.length)
        if not export.read_now(request.offset, data):
            return None
        zeroes = None
        # After the data: what became a hole meanwhile may be told, what became data may not.
        fragments = self.choice.chunked and not request.flags & wire.CMD_FLAG_DF
        if export.zeroes is not None and fragments:
            limit = request.length
            kept = export.maps.kept_pieces((export.zeroes,), request.offset, end, limit)
            if kept is None:
                return None
            zeroes = kept[0]
        return self.replies.read(request.cookie, request.offset, data, zeroes)

    def _asked(self, request: Request) -> tuple[tuple[MetaContext, ...], int, int, int]:
        """Return the contexts, the range, and how many extents may be told."""
        contexts = self.choice.contexts if request.contexts is None else request.contexts
        limit = 1 if request.flags & wire.CMD_FLAG_REQ_ONE else wire.EXTENTS_MAX
        return contexts, request.offset, request.offset + request.length, limit

    def _status(self, request: Request, pieces: list[Piece]) -> list[Buffer]:
        contexts = self.choice.contexts if request.contexts is None else request.contexts
        if len(pieces) > 1 and not request.flags & wire.CMD_FLAG_REQ_ONE:
            common = min([piece.end for piece in pieces])
            pieces = [piece.cut(common) for piece in pieces]
        ids = [context.id for context in contexts]
        answers = list(zip(ids, pieces, strict=True))
        return self.replies.block_status(request.cookie, request.offset, answers)
