"""What is thrown at the protocol's engines, and what must hold whatever it is.

Each target takes bytes: the first say how, the rest what. Part of the bytes goes to the engine as
it is, part of it as numbers that choose from what is worth trying. A target fails by an exception;
the errors that an engine is meant to raise are caught here.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from unittest import mock

from nbd_talk import info, option, queries, request, string

from nbexport.bits import Bitmap, Extents
from nbexport.errors import PeerError, UsageError
from nbexport.nbd import (
    QEMU_7_2,
    QEMU_8_2,
    SPEC,
    Choice,
    Client,
    Export,
    MetaContext,
    ServerNegotiation,
    ServerTransmission,
    TlsMode,
    list_exports,
    negotiation,
    wire,
)  # fmt: skip
from nbexport.nbd.requests import answer

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 100_000
BITS = Bitmap(SIZE, 512)
for _at in range(0, SIZE - 1024, 3072):
    BITS.set(_at, 1024)
BASE = Extents.from_lengths([4096, 4096, 1, SIZE - 8193], [0, 3, 0, 3])
CONTEXTS = (
    MetaContext("base:allocation", 0, BASE.clip),
    MetaContext("qemu:dirty-bitmap:b", 2, BITS.extents, source=lambda: BITS),
)


def fill(_offset: int, buffer: memoryview) -> None:
    buffer[:] = bytes(len(buffer))


class Disk:
    """Takes writes and keeps none."""

    writable = True

    def write_from(self, offset: int, data: memoryview) -> None:
        assert 0 <= offset <= offset + len(data) <= SIZE

    def write_zeroes(self, offset: int, length: int, **_how: bool) -> None:
        assert 0 <= offset <= offset + length <= SIZE

    def discard(self, offset: int, length: int) -> None:
        assert 0 <= offset <= offset + length <= SIZE

    def flush(self) -> None:
        pass


READ_ONLY = Export("disk", SIZE, fill, BASE.clip, CONTEXTS, description="text")
WRITABLE = Export("", SIZE, fill, BASE.clip, CONTEXTS, writer=Disk(), unmap=True)
EXPORTS = {export.name: export for export in (READ_ONLY, WRITABLE)}
NAMES = (b"", b"disk", b"none", b"n" * 4096, b"n" * 4097, b"a\0b", b"\xff")
TEXTS = (b"base:allocation", b"qemu:dirty-bitmap:b", b"base:", b"qemu:", b"", b"x" * 4097, b"a:b")
NUMBERS = (0, 1, 511, 512, SIZE - 1, SIZE, SIZE + 1, 1 << 25, (1 << 25) + 1, (1 << 32) - 1)
WIDE = (*NUMBERS, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


class Source:
    """Takes decisions from bytes; behind their end every decision is 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._data)

    def number(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one(self, choices: Any) -> Any:
        return choices[self.number() % len(choices)]

    def bytes(self) -> bytes:
        length = self.number()
        self._at += length
        return self._data[self._at - length : self._at]


def pieces(data: bytes, step: int) -> list[bytes]:
    """Split data; a step of 0 keeps it in one piece."""
    step = step or max(len(data), 1)
    edges = [*range(0, len(data), step), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


# The server's handshake


def some_option(source: Source) -> bytes:
    number = source.one((*range(13), 99, 0xFFFFFFFF))
    name = source.one(NAMES)
    kind = source.number() % 6
    if kind == 0:
        return option(number)
    if kind == 1:
        return option(number, name)
    if kind == 2:
        return option(number, info(name, *source.bytes()))
    if kind == 3:
        return option(
            number, queries(name, *(source.one(TEXTS) for _ in range(source.number() % 5)))
        )
    if kind == 4:
        return option(number, string(name) + struct.pack(">I", source.one(WIDE) & 0xFFFFFFFF))
    return option(number, source.bytes(), source.one(WIDE) & 0xFFFFFFFF)


def handshake(data: bytes) -> None:
    """Whatever a client sends before it has chosen an export."""
    source = Source(data)
    mode, profile = source.one(tuple(TlsMode)), source.one((QEMU_7_2, QEMU_8_2, SPEC))
    step = source.number()
    sent = struct.pack(">I", source.one((3, 0, 1, 2, 4)))
    while not source.is_empty:
        sent += source.bytes() if source.number() % 8 == 0 else some_option(source)
    whole, split = _negotiate(mode, profile, sent, 0), _negotiate(mode, profile, sent, step)
    if mode is TlsMode.NONE:  # else it matters what comes in one piece with STARTTLS
        assert whole == split


def _negotiate(mode: TlsMode, profile: Any, sent: bytes, step: int) -> tuple[Any, ...]:
    engine = ServerNegotiation(lambda: EXPORTS, profile=profile, tls=mode)
    told = b""
    for piece in pieces(sent, step):
        engine.receive_data(piece)
        assert len(engine._input) <= wire.OPTION_BODY_MAX + len(piece) + wire.OPTION.size
        while got := engine.data_to_send():
            assert len(got) <= 2 * negotiation.OUTPUT_MAX
            told += got
        if engine.starting_tls:
            engine.tls_started()
        if engine.choice is not None or engine.closed:
            break
    choice = engine.choice
    if choice is None:
        return told, engine.closed
    if mode is TlsMode.REQUIRED:
        assert engine.secure
    assert choice.export in EXPORTS.values()
    assert set(choice.contexts) <= set(CONTEXTS)
    return told, choice.export.name, choice.contexts, choice.structured, choice.extended


# The server's transmission phase


def some_request(source: Source, *, extended: bool) -> bytes:
    command, flags = (
        source.one((*range(10), 0xFFFF)),
        source.one((0, 1, 2, 4, 8, 16, 32, 64, 0x8000)),
    )
    cookie, offset, length = source.number(), source.one(WIDE), source.one(WIDE)
    payload = source.bytes() if source.number() % 2 else b""
    if command == wire.CMD_WRITE and source.number() % 4:
        length = len(payload)
    if not extended:
        return request(command, offset, length & 0xFFFFFFFF, flags, cookie) + payload
    if flags & wire.CMD_FLAG_PAYLOAD_LEN and source.number() % 4:
        length = len(payload)
    head = wire.EXTENDED_REQUEST.pack(
        wire.EXTENDED_REQUEST_MAGIC, flags, command, cookie, offset, length
    )
    return head + payload


def transmission(data: bytes) -> None:
    """Whatever a client sends to an export."""
    source = Source(data)
    export = source.one((READ_ONLY, WRITABLE))
    form, profile = source.number() % 3, source.one((QEMU_7_2, QEMU_8_2, SPEC))
    contexts = source.one(((), CONTEXTS[:1], CONTEXTS))
    choice = Choice(export, form > 0, contexts if form else (), form == 2)
    step = source.number()
    sent = b""
    while not source.is_empty:
        if source.number() % 8 == 0:
            sent += source.bytes()
        else:
            sent += some_request(source, extended=choice.extended)
    assert _serve(choice, profile, sent, 0) == _serve(choice, profile, sent, step)


def _serve(choice: Choice, profile: Any, sent: bytes, step: int) -> list[bytes]:
    engine = ServerTransmission(choice, profile)
    told = []
    for piece in pieces(sent, step):
        engine.receive_data(piece)
        while (got := engine.next_request()) is not None:
            reply = engine.kept_reply(got) if got.command in {0, 7} else None
            reply = answer(engine, got) if reply is None else reply
            told.append(b"".join(reply))
            _check_reply(choice, got, told[-1])
        room = wire.PAYLOAD_MAX + wire.EXTENDED_REQUEST.size
        assert len(engine._input) <= room + len(piece)
        if engine.closed or engine.disconnected:
            break
    # Refusals may come before or after answers; each must come, in order.
    refusals = engine.data_to_send()
    return [*sorted(told), refusals]


def _check_reply(choice: Choice, got: Any, reply: bytes) -> None:
    """Take a reply apart as a client does."""
    at, done = 0, False
    while at < len(reply):
        assert not done
        if choice.extended:
            magic, flags, _, cookie, offset, length = wire.EXTENDED_CHUNK.unpack_from(reply, at)
            assert (magic, offset) == (wire.EXTENDED_CHUNK_MAGIC, got.offset)
            at += wire.EXTENDED_CHUNK.size + length
        elif reply[at : at + 4] == struct.pack(">I", wire.SIMPLE_REPLY_MAGIC):
            _, error, cookie = wire.SIMPLE_REPLY.unpack_from(reply, at)
            length = got.length if got.command == wire.CMD_READ and not error else 0
            at, flags = at + wire.SIMPLE_REPLY.size + length, wire.CHUNK_FLAG_DONE
        else:
            assert choice.structured
            magic, flags, _, cookie, length = wire.CHUNK.unpack_from(reply, at)
            assert magic == wire.CHUNK_MAGIC
            at += wire.CHUNK.size + length
        assert cookie == got.cookie
        done = bool(flags & wire.CHUNK_FLAG_DONE)
    assert done
    assert at == len(reply)


# The client


class FakeSocket:
    """A server that sends what it sends, whatever it is asked."""

    def __init__(self, data: bytes, step: int) -> None:
        self._pieces = pieces(data, step)[::-1]

    def recv_into(self, buffer: memoryview) -> int:
        if not self._pieces:
            return 0
        piece = self._pieces.pop()
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        if piece[count:]:
            self._pieces.append(piece[count:])
        return count

    def recv(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(memoryview(buffer))])

    def sendall(self, data: bytes) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


def _reply(number: int, kind: int, data: bytes = b"") -> bytes:
    return wire.OPTION_REPLY.pack(wire.REPLY_MAGIC, number, kind, len(data)) + data


_GREETING = b"NBDMAGICIHAVEOPT\0\3"
_META = struct.pack(">I", 4) + b"x:y"
_SIZES = struct.pack(">HIII", 3, 1, 4096, 32 << 20)


def _agreed(*, extended: bool) -> bytes:
    if extended:
        return _GREETING + _reply(11, 1)
    return _GREETING + _reply(11, 0x80000001) + _reply(8, 1)


def _ready(*, extended: bool) -> bytes:
    said = _agreed(extended=extended)
    for number in (9, 10):
        said += _reply(number, 4, _META) + _reply(number, 1)
    told = struct.pack(">HQH", 0, SIZE, 0x8F)
    return said + _reply(7, 3, _SIZES) + _reply(7, 3, told) + _reply(7, 1)


def some_reply(source: Source) -> bytes:
    kind = source.one((1, 2, 3, 4, 0x80000001, 0x80000006, 99))
    return _reply(source.one((*range(12),)), kind, source.one((b"", _META, source.bytes())))


def some_chunk(source: Source, *, extended: bool) -> bytes:
    kind, done = source.one((0, 1, 2, 5, 6, 0x8001, 0x8002, 99)), source.number() & 1
    cookie = source.number() % 4
    payload = source.one((
        b"",
        source.bytes(),
        struct.pack(">Q", source.one(WIDE)) + bytes(source.one((0, 1, 100, 512))),
        struct.pack(">QI", source.one(WIDE), source.one(NUMBERS)),
        struct.pack(">III", 4, source.one(NUMBERS), source.number()),
        struct.pack(">IIQQ", 4, source.number() % 3, source.one(WIDE), source.one(WIDE)),
        struct.pack(">IH", source.number(), source.number()) + source.bytes(),
    ))  # fmt: skip
    length = source.one(WIDE) if source.number() % 8 == 0 else len(payload)
    if extended:
        head = (wire.EXTENDED_CHUNK_MAGIC, done, kind, cookie, 0, length)
        return wire.EXTENDED_CHUNK.pack(*head) + payload
    if source.number() % 8 == 0:
        return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, source.number(), cookie) + payload
    head = (wire.CHUNK_MAGIC, done, kind, cookie, length & 0xFFFFFFFF)
    return wire.CHUNK.pack(*head) + payload


def client(data: bytes) -> None:
    """Whatever a server sends."""
    source = Source(data)
    extended, stage = bool(source.number() & 1), source.number() % 3
    step, what = source.number(), source.number() % 4
    sent = (b"", _agreed(extended=extended), _ready(extended=extended))[stage]
    while not source.is_empty:
        if source.number() % 8 == 0:
            sent += source.bytes()
        elif stage == 2:
            sent += some_chunk(source, extended=extended)
        else:
            sent += some_reply(source)
    assert _ask(sent, 0, what) == _ask(sent, step, what)


def _ask(sent: bytes, step: int, what: int) -> Any:
    try:
        with mock.patch("nbexport.nbd.link._connect", return_value=FakeSocket(sent, step)):
            if what == 3:
                return list_exports("nbd://host/")
            with Client.connect("nbd://host/") as connected:
                if what == 0:
                    return connected.read(0, 512)
                if what == 1:
                    return connected.block_status(0, 4096)
                return connected.map()
    except (PeerError, UsageError) as error:
        return str(error)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "handshake": handshake,
    "transmission": transmission,
    "client": client,
}
