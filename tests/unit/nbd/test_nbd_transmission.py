"""The transmission engine: the requests it hands on, its answers, the replies it builds."""

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbd_talk import (
    CACHE,
    DF,
    DISC,
    FAST_ZERO,
    FLUSH,
    FUA,
    NO_HOLE,
    PAYLOAD_LEN,
    READ,
    REQ_ONE,
    STATUS,
    TRIM,
    WRITE,
    ZEROES,
    request,
)  # fmt: skip

from nbexport.bits import Extents
from nbexport.errors import FormatError
from nbexport.nbd import Choice, Export, MetaContext, Request, ServerTransmission
from nbexport.nbd import transmission as module

SIZE = 100_000
COOKIE = 0x1122334455667788
EINVAL = 22
MAX = 32 << 20


def whole(*lengths_and_flags):
    lengths, flags = zip(*lengths_and_flags, strict=True)
    return Extents.from_lengths(list(lengths), list(flags))


BASE = whole((4096, 0), (4096, 3), (1, 0), (SIZE - 8193, 3))
DIRTY = whole((65536, 1), (SIZE - 65536, 0))


def context(name, number, extents):
    return MetaContext(name, number, extents.clip)


CONTEXTS = context("base:allocation", 0, BASE), context("qemu:dirty-bitmap:b", 7, DIRTY)
EXPORT = Export("", SIZE, lambda _offset, _buffer: None, BASE.clip, CONTEXTS)


def engine_for(*, structured=True, contexts=CONTEXTS, export=EXPORT):
    return ServerTransmission(Choice(export, structured, contexts))


def feed(engine, *pieces):
    """Return the requests that get through, as tuples, and what is answered at once."""
    requests = []
    for piece in pieces:
        engine.receive_data(piece)
        while (got := engine.next_request()) is not None:
            requests.append((got.command, got.flags, got.cookie, got.offset, got.length))
    return requests, engine.data_to_send()


def simple(error, cookie=COOKIE):
    return bytes.fromhex("67446698") + struct.pack(">IQ", error, cookie)


def chunk(kind, payload, *, done, cookie=COOKIE):
    return struct.pack(">IHHQI", 0x668E33EF, int(done), kind, cookie, len(payload)) + payload


def error_chunk(text, error=EINVAL):
    text = text.encode()
    return chunk(0x8001, struct.pack(">IH", error, len(text)) + text, done=True)


SERVED = [
    (READ, 0, 1, 0), (READ, 1, 3, FUA), (READ, 0, SIZE, DF), (READ, SIZE, 0, 0), (FLUSH, 0, 0, 0),
    (FLUSH, 0, 0, FUA), (CACHE, 0, SIZE, 0), (STATUS, 0, SIZE, REQ_ONE | FUA),
    (STATUS, SIZE - 1, 1, 0),
]  # fmt: skip


@pytest.mark.parametrize(("command", "offset", "length", "flags"), SERVED)
def test_a_good_request_gets_through(command, offset, length, flags):
    got, sent = feed(engine_for(), request(command, offset, length, flags))
    assert got == [(command, flags, COOKIE, offset, length)]
    assert sent == b""


REFUSED = [
    (READ, SIZE, 1, 0, f"operation past EOF; From: {SIZE}, Len: 1, Size: {SIZE}"),
    (READ, SIZE + 1, 0, 0, f"operation past EOF; From: {SIZE + 1}, Len: 0, Size: {SIZE}"),
    (READ, 2**64 - 1, 2, 0, f"operation past EOF; From: {2**64 - 1}, Len: 2, Size: {SIZE}"),
    (READ, 0, MAX + 1, 0, f"len ({MAX + 1} ) is larger than max len ({MAX})"),
    (READ, 0, 2**32 - 1, 0, f"len ({2**32 - 1} ) is larger than max len ({MAX})"),
    (CACHE, 0, MAX + 1, 0, f"len ({MAX + 1} ) is larger than max len ({MAX})"),
    (READ, 0, 1, REQ_ONE, "unsupported flags for command read (got 0x8)"),
    (READ, 0, 1, PAYLOAD_LEN, "unsupported flags for command read (got 0x20)"),
    (FLUSH, 0, 0, DF, "unsupported flags for command flush (got 0x4)"),
    (CACHE, 0, 1, NO_HOLE, "unsupported flags for command cache (got 0x2)"),
    (STATUS, 0, 1, DF, "unsupported flags for command block status (got 0x4)"),
    (STATUS, 0, 0, 0, "need non-zero length"),
    (STATUS, 0, SIZE + 1, 0, f"operation past EOF; From: 0, Len: {SIZE + 1}, Size: {SIZE}"),
    (TRIM, 0, 1, 0, "Export is read-only"),
    (ZEROES, 2**64 - 1, 9, FAST_ZERO, "Export is read-only"),
    (WRITE, 0, 0, 0, "Export is read-only"),
    (8, 0, 1, 0, "invalid request type (8) received"),
    (0xFFFF, 0, 1, DF, "unsupported flags for command <unknown> (got 0x4)"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "offset", "length", "flags", "text"), REFUSED)
def test_a_bad_request_is_answered_and_the_next_one_gets_through(
    command, offset, length, flags, text
):
    for structured in (True, False):
        engine = engine_for(structured=structured)
        got, sent = feed(engine, request(command, offset, length, flags) + request(FLUSH))
        assert sent == (error_chunk(text) if structured else simple(EINVAL))
        assert got == [(FLUSH, 0, COOKIE, 0, 0)]
        assert not engine.closed


def test_fragments_cannot_be_forbidden_without_structured_replies():
    got, sent = feed(engine_for(structured=False), request(READ, 0, 1, DF))
    assert (got, sent) == ([], simple(EINVAL))


def test_block_status_without_contexts():
    got, sent = feed(engine_for(contexts=()), request(STATUS, 0, 1))
    assert (got, sent) == ([], error_chunk("CMD_BLOCK_STATUS not negotiated"))


@pytest.mark.parametrize("length", [1, 28, 100_000, MAX])
def test_the_data_of_a_refused_write_are_not_taken_for_requests(length):
    data = (request(DISC) * (length // 28 + 1))[:length]
    engine = engine_for()
    got, sent = feed(engine, request(WRITE, 0, length), data, request(READ, 0, 1))
    assert sent == error_chunk("Export is read-only")
    assert got == [(READ, 0, COOKIE, 0, 1)]


def test_the_data_of_a_refused_write_are_not_kept():
    engine = engine_for()
    engine.receive_data(request(WRITE, 0, MAX))
    assert engine.next_request() is None
    for _ in range(32):
        assert engine.data_to_send() == b""
        engine.receive_data(bytes(1 << 20))
        assert engine.next_request() is None
        assert len(engine._input) == 0
    assert engine.data_to_send() == error_chunk("Export is read-only")


def test_a_write_too_long_to_drop_closes():
    engine = engine_for()
    got, sent = feed(engine, request(WRITE, 0, MAX + 1) + request(READ, 0, 1))
    assert (got, engine.closed) == ([], True)
    assert sent == error_chunk(f"len ({MAX + 1} ) is larger than max len ({MAX})")


def test_bad_magic_is_named_then_closes():
    engine = engine_for()
    got, sent = feed(engine, b"\x12" + request(READ, 0, 1)[1:] + request(READ, 0, 1))
    assert (got, engine.closed) == ([], True)
    assert sent == error_chunk("invalid magic (got 0x12609513)")


def test_disconnect_has_no_answer_whatever_it_carries():
    engine = engine_for()
    got, sent = feed(engine, request(DISC, 2**64 - 1, 2**32 - 1, 0xFFFF) + request(READ, 0, 1))
    assert (got, sent, engine.disconnected, engine.closed) == ([], b"", True, False)


def test_the_end_of_the_data_in_a_request():
    engine = engine_for()
    assert feed(engine, request(READ, 0, 1)[:27]) == ([], b"")
    engine.receive_eof()
    assert engine.next_request() is None
    assert engine.disconnected


# Replies


def read_reply(engine, offset, length, flags=0):
    data = bytes((offset + i) % 251 for i in range(length))
    got = Request(READ, flags, COOKIE, offset, length)
    return data, b"".join(engine.read_reply(got, memoryview(data)))


def test_a_simple_read():
    data, sent = read_reply(engine_for(structured=False), 5, 100)
    assert sent == simple(0) + data


def test_a_read_of_nothing():
    assert read_reply(engine_for(), 5, 0)[1] == chunk(0, b"", done=True)
    assert read_reply(engine_for(structured=False), 5, 0)[1] == simple(0)


@pytest.mark.parametrize(("flags", "allocation"), [(DF, True), (0, False), (DF, False)])
def test_a_read_in_one_chunk(flags, allocation):
    unknown = Export("", SIZE, lambda _offset, _buffer: None)
    engine = engine_for(export=EXPORT if allocation else unknown)
    data, sent = read_reply(engine, 4000, 200, flags)
    assert sent == chunk(1, struct.pack(">Q", 4000) + data, done=True)


def test_a_read_with_holes():
    data, sent = read_reply(engine_for(), 4090, 8193 - 4090 + 50)
    assert sent == (
        chunk(1, struct.pack(">Q", 4090) + data[:6], done=False)
        + chunk(2, struct.pack(">QI", 4096, 4096), done=False)
        + chunk(1, struct.pack(">Q", 8192) + data[4102:4103], done=False)
        + chunk(2, struct.pack(">QI", 8193, 50), done=True)
    )


def disk_of(allocation):
    return Export("", allocation.end, lambda _offset, _buffer: None, allocation.clip)


def test_zero_bits_count_not_whole_flags():
    allocation = whole((10, 2), (10, 3), (10, 1))
    _, sent = read_reply(engine_for(export=disk_of(allocation)), 0, 30)
    assert sent == (
        chunk(2, struct.pack(">QI", 0, 20), done=False)
        + chunk(1, struct.pack(">Q", 20) + bytes(range(20, 30)), done=True)
    )


def status(offset, length, flags=0, contexts=CONTEXTS):
    got = Request(STATUS, flags, COOKIE, offset, length)
    return b"".join(engine_for(contexts=contexts).block_status_reply(got))


def test_one_block_status_chunk_for_each_context():
    assert status(4095, 4100) == (
        chunk(5, struct.pack(">9I", 0, 1, 0, 4096, 3, 1, 0, 2, 3), done=False)
        + chunk(5, struct.pack(">3I", 7, 4100, 1), done=True)
    )


def test_req_one_gives_the_first_extent_of_each_context():
    assert status(4095, 4100, REQ_ONE) == (
        chunk(5, struct.pack(">3I", 0, 1, 0), done=False)
        + chunk(5, struct.pack(">3I", 7, 4100, 1), done=True)
    )


def test_contexts_are_cut_at_the_same_offset(monkeypatch):
    monkeypatch.setattr(module.wire, "EXTENTS_MAX", 2)
    assert status(0, SIZE) == (
        chunk(5, struct.pack(">5I", 0, 4096, 0, 4096, 3), done=False)
        + chunk(5, struct.pack(">3I", 7, 8192, 1), done=True)
    )


def extents_told(contexts, offset, length):
    sent, found = status(offset, length, contexts=contexts), []
    while sent:
        end = 20 + int.from_bytes(sent[16:20], "big")
        found.append(Extents.from_wire(sent[24:end], offset))
        sent = sent[end:]
    return found


def test_the_number_of_extents_is_bounded_as_in_qemu():
    size = 512 * 200_001
    bounds = np.arange(0, size + 1, 512)
    checker = Extents(bounds, np.arange(len(bounds) - 1) % 2)
    contexts = context("x:y", 1, checker), context("x:z", 2, Extents.uniform(0, size, 0))
    first, second = extents_told(contexts, 0, size)
    assert len(first) == 131072
    assert first.end == second.end == 131072 * 512
    again, _ = extents_told(contexts, first.end, size - first.end)
    assert Extents.concatenate([first, again]) == checker


def test_the_longest_request_of_a_uniform_disk_is_one_extent():
    huge = 1 << 40
    contexts = (context("x:y", 1, Extents.uniform(0, huge, 3)),)
    for offset in (0, 1, 511, 65535):
        for length in (2**32 - 1, 2**32 - 2, 2**32 - 512, 2**31):
            sent = status(offset, length, contexts=contexts)
            assert sent == chunk(5, struct.pack(">3I", 1, length, 3), done=True)


def test_a_context_that_cannot_be_read_raises():
    def broken(_start, _end):
        raise FormatError("bad table")

    contexts = CONTEXTS[0], MetaContext("x:y", 9, broken)
    with pytest.raises(FormatError, match="bad table"):
        status(0, 512, contexts=contexts)


# Any requests, cut anywhere

REQUESTS = st.builds(
    lambda command, offset, length, flags, cookie, extra: (
        request(command, offset, length, flags, cookie) + extra
    ),
    st.integers(0, 9), st.sampled_from((0, 1, 4096, SIZE, 2**64 - 1)),
    st.sampled_from((0, 1, 30, 512, SIZE, MAX + 1)), st.sampled_from((0, 0, 0, 1, 4, 8, 64)),
    st.integers(0, 2**64 - 1), st.sampled_from((b"", b"", bytes(30))),
)  # fmt: skip


@given(
    st.lists(REQUESTS, max_size=6).map(b"".join),
    st.lists(st.integers(0, 1 << 16), max_size=12),
    st.booleans(),
)
def test_any_split_gives_the_same_requests_and_answers(data, at, structured):
    bounds = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(bounds)]
    one, many = engine_for(structured=structured), engine_for(structured=structured)
    assert feed(one, data) == feed(many, *pieces)
    assert (one.closed, one.disconnected) == (many.closed, many.disconnected)


@given(st.data())
def test_chunks_cover_every_read_once(data):
    lengths = data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=20))
    flags = data.draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    allocation = Extents.from_lengths(lengths, flags)
    start = data.draw(st.integers(0, allocation.end - 1))
    end = data.draw(st.integers(start + 1, allocation.end))
    disk = np.zeros(allocation.end, dtype=np.uint8)
    for offset, length, flag in allocation:
        if not flag & 2:
            disk[offset : offset + length] = 1 + offset % 200
    piece = disk[start:end].tobytes()
    got = Request(READ, 0, 3, start, end - start)
    engine = engine_for(export=disk_of(allocation))
    sent = b"".join(engine.read_reply(got, memoryview(piece)))
    at, found, done = 0, {}, False
    while at < len(sent):
        assert not done
        magic, mark, kind, cookie, length = struct.unpack_from(">IHHQI", sent, at)
        assert (magic, cookie) == (0x668E33EF, 3)
        done = bool(mark)
        body = sent[at + 20 : at + 20 + length]
        offset = int.from_bytes(body[:8], "big")
        found[offset] = body[8:] if kind == 1 else bytes(int.from_bytes(body[8:], "big"))
        assert found[offset]
        at += 20 + length
    assert done
    reached = start
    for offset in sorted(found):
        assert offset == reached
        reached += len(found[offset])
    assert b"".join(found[offset] for offset in sorted(found)) == piece
