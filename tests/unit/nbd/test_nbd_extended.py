"""Extended headers: negotiation, requests with payloads, 64-bit replies."""

import struct

import pytest
from extended import COOKIE, chunk, error, ids, request
from hypothesis import given
from hypothesis import strategies as st
from nbd_talk import (
    CACHE,
    DF,
    EXPORT_NAME,
    EXTENDED,
    FLUSH,
    GO,
    INFO,
    PAYLOAD_LEN,
    READ,
    REQ_ONE,
    SET_META,
    STATUS,
    STRUCTURED,
    TRIM,
    WRITE,
    ZEROES,
    info,
    option,
    queries,
)  # fmt: skip

from nbexport.bits import Extents
from nbexport.nbd import (
    QEMU_7_2,
    QEMU_8_2,
    SPEC,
    Choice,
    Export,
    MetaContext,
    ServerNegotiation,
    ServerTransmission,
)

SIZE = 16 << 40
MAX = 32 << 20
BASE = MetaContext("base:allocation", 0, lambda a, b: Extents.uniform(a, b, 3))
DIRTY = MetaContext("qemu:dirty-bitmap:b", 7, Extents([0, 512, SIZE], [1, 0]).clip)


class Writer:
    def __init__(self):
        self.done = []

    def write_from(self, offset, data):
        self.done.append((offset, bytes(data)))


def export(*, writable=False, **options):
    writer = Writer() if writable else None
    return Export("", SIZE, lambda _o, _b: None, contexts=(BASE, DIRTY), writer=writer, **options)


# Negotiation


def negotiate(*options, profile=QEMU_8_2):
    exports = {"": export()}
    engine = ServerNegotiation(lambda: exports, profile=profile)
    engine.data_to_send()
    engine.receive_data(b"\0\0\0\3")
    replies = []
    for data in options:
        engine.receive_data(data)
        got = engine.data_to_send()
        at = 0
        while at < len(got):
            _, number, kind, length = struct.unpack_from(">QIII", got, at)
            replies.append((number, kind, got[at + 20 : at + 20 + length]))
            at += 20 + length
    return engine, replies


ACK, INVALID, UNSUP, EXT_REQD = 1, 0x80000003, 0x80000001, 0x8000000A


def test_115_agreed_once_and_only_without_data():
    _, replies = negotiate(option(EXTENDED, b"x"), option(EXTENDED), option(EXTENDED))
    assert replies == [
        (EXTENDED, INVALID, b"option 'extended headers' has unexpected length"),
        (EXTENDED, ACK, b""),
        (EXTENDED, INVALID, b"extended headers already negotiated"),
    ]


def test_115_structured_replies_before_are_kept_and_after_are_refused():
    engine, replies = negotiate(
        option(STRUCTURED), option(EXTENDED), option(STRUCTURED), option(GO, info(b""))
    )
    assert [kind for _, kind, _ in replies[:3]] == [ACK, ACK, EXT_REQD]
    assert replies[2][2] == b"extended headers already negotiated"
    assert engine.choice.extended


def test_115_an_export_by_name_closes():
    engine, _ = negotiate(option(EXTENDED), option(EXPORT_NAME, b""))
    assert engine.closed
    assert engine.choice is None


def test_122_a_server_without_them_says_so_and_goes_on():
    _, replies = negotiate(option(EXTENDED), option(EXTENDED, b"xy"), profile=QEMU_7_2)
    text = b"Unsupported option 11 (<unknown>)"
    assert replies == [(EXTENDED, UNSUP, text)] * 2


def flags_of(replies):
    (data,) = [data for _, kind, data in replies if kind == 3 and data[:2] == b"\0\0"]
    return int.from_bytes(data[10:12], "big")


@pytest.mark.parametrize("number", [INFO, GO])
@pytest.mark.parametrize("selected", [True, False])
@pytest.mark.parametrize("extended", [True, False])
def test_118_the_payload_flag(number, selected, extended):
    steps = [option(EXTENDED if extended else STRUCTURED)]
    if selected:
        steps.append(option(SET_META, queries(b"", b"base:allocation")))
    _, replies = negotiate(*steps, option(number, info(b"", 3)))
    flags = flags_of(replies)
    assert bool(flags & 0x1000) == (extended and (selected or number == INFO))
    assert flags & 0x80  # DF comes with either


# Transmission


def engine_for(*contexts, writable=False, profile=QEMU_8_2, alignment=1):
    choice = Choice(export(writable=writable), False, contexts, True, alignment)
    return ServerTransmission(choice, profile)


def feed(engine, data, *, at_once=True):
    got = []
    for piece in [data] if at_once else [data[i : i + 1] for i in range(len(data))]:
        engine.receive_data(piece)
        while (found := engine.next_request()) is not None:
            got.append(found)
    return got, engine.data_to_send()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_write_with_its_payload(at_once):
    engine = engine_for(writable=True)
    data = request(WRITE, 1 << 40, 5, PAYLOAD_LEN, b"hello") + request(WRITE, 3, 2, 0, b"hi")
    got, sent = feed(engine, data + request(FLUSH), at_once=at_once)
    assert sent == b""
    assert [(r.command, r.offset, bytes(r.data or b"")) for r in got] == [
        (WRITE, 1 << 40, b"hello"), (WRITE, 3, b"hi"), (FLUSH, 0, b"")
    ]  # fmt: skip


def test_116_plain_success_and_errors_are_chunks_with_the_offset():
    engine = engine_for()
    (got,), _ = feed(engine, request(CACHE, 4096, 512))
    assert engine.done(got) == chunk(0, offset=4096)
    assert engine.error(got, 5, "broken") == error("broken", offset=4096, number=5)
    (got,), _ = feed(engine, request(READ, 512, 3))
    sent = b"".join(engine.read_reply(got, memoryview(b"abc")))
    assert sent == chunk(1, struct.pack(">Q", 512) + b"abc", offset=512)
    (got,), _ = feed(engine, request(READ, 9, 0, DF))
    assert b"".join(engine.read_reply(got, memoryview(b""))) == chunk(0, offset=9)


def status(engine, *arguments, **options):
    (got,), sent = feed(engine, request(STATUS, *arguments, **options))
    assert sent == b""
    return b"".join(engine.block_status_reply(got))


def test_117_sixteen_tebibytes_are_one_extent():
    assert status(engine_for(BASE, DIRTY), 0, SIZE) == (
        chunk(6, struct.pack(">IIQQ", 0, 1, SIZE, 3), done=False)
        + chunk(6, struct.pack(">IIQQQQ", 7, 2, 512, 1, SIZE - 512, 0))
    )


def test_117_one_extent_where_one_is_asked_for():
    assert status(engine_for(DIRTY), 100, 1 << 40, REQ_ONE) == (
        chunk(6, struct.pack(">IIQQ", 7, 1, 412, 1), offset=100)
    )


def test_119_the_filter_returns_what_was_asked_for():
    engine = engine_for(BASE, DIRTY)
    asked = ids(1 << 40, 7)
    sent = status(engine, 512, len(asked), PAYLOAD_LEN, asked)
    assert sent == chunk(6, struct.pack(">IIQQ", 7, 1, 1 << 40, 0), offset=512)
    both = ids(512, 7, 0)
    sent = status(engine, 0, len(both), PAYLOAD_LEN, both)
    assert sent.count(struct.pack(">II", 0x6E8A278C, 6)) == 1
    assert sent[:8] == struct.pack(">IHH", 0x6E8A278C, 0, 6)


@pytest.mark.parametrize(
    "data",
    [ids(512), ids(512, 9), ids(512, 7, 7), ids(512, 0) + b"x",
     ids(512, 0, 7, 0), b"", b"1234", bytes(4096)],
    ids=["none", "unknown", "twice", "odd", "many", "empty", "short", "long"],
)  # fmt: skip
def test_119_a_bad_filter_is_drained_and_refused(data):
    engine = engine_for(BASE, DIRTY)
    steps = request(STATUS, 0, len(data), PAYLOAD_LEN, data) + request(FLUSH)
    got, sent = feed(engine, steps)
    assert [r.command for r in got] == [FLUSH]
    assert sent == error("CMD_BLOCK_STATUS payload not valid")


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, "need non-zero length"),
        (SIZE + 1, f"operation past EOF; From: 0, Len: {SIZE + 1}, Size: {SIZE}"),
        (2**64 - 1, f"operation past EOF; From: 0, Len: {2**64 - 1}, Size: {SIZE}"),
    ],
)
def test_119_the_length_in_a_filter_is_checked_as_any(length, text):
    asked = ids(length, 0)
    got, sent = feed(engine_for(BASE), request(STATUS, 0, len(asked), PAYLOAD_LEN, asked))
    assert (got, sent) == ([], error(text))


@pytest.mark.parametrize(
    ("command", "name"),
    [(READ, "read"), (FLUSH, "flush"), (TRIM, "trim"), (CACHE, "cache"), (ZEROES, "write zeroes")],
)
def test_120_a_payload_of_any_other_command_is_drained(command, name):
    engine = engine_for(writable=True)
    data = request(READ, 0, 1) * 3
    got, sent = feed(engine, request(command, 0, len(data), PAYLOAD_LEN, data) + request(FLUSH))
    assert [r.command for r in got] == [FLUSH]
    assert sent == error(f"unsupported flags for command {name} (got 0x20)")


@pytest.mark.parametrize("command", [READ, WRITE, STATUS, 99])
def test_a_payload_beyond_the_limit_closes(command):
    engine = engine_for(BASE, writable=True)
    got, sent = feed(engine, request(command, 0, MAX + 1, PAYLOAD_LEN))
    assert (got, engine.closed) == ([], True)
    assert sent == error(f"len ({MAX + 1}) is larger than max len ({MAX})")


@pytest.mark.parametrize("length", [1 << 45, 2**64 - 1, 2**63])
def test_121_lengths_of_64_bits_do_not_overflow(length):
    engine = engine_for(BASE)
    got, sent = feed(engine, request(STATUS, 5, length) + request(READ, 5, length))
    assert got == []
    past = error(f"operation past EOF; From: 5, Len: {length}, Size: {SIZE}", offset=5)
    assert sent == past + error(f"len ({length}) is larger than max len ({MAX})", offset=5)
    assert not engine.closed


def test_a_compact_request_waits_for_the_rest_then_closes():
    engine = engine_for()
    compact = struct.pack(">IHHQQI", 0x25609513, 0, READ, COOKIE, 0, 512)
    assert feed(engine, compact) == ([], b"")
    got, sent = feed(engine, bytes(4))
    assert (got, engine.closed) == ([], True)
    assert b"invalid magic (got 0x25609513)" in sent


# What the protocol wants where QEMU decided otherwise


@pytest.mark.parametrize(
    ("command", "offset", "length", "number"),
    [(WRITE, SIZE, 1, 28), (ZEROES, SIZE, 1, 28), (TRIM, SIZE, 1, 22), (READ, SIZE, 1, 22)],
)
def test_d2_writing_behind_the_end_has_no_space(command, offset, length, number):
    for profile, expected in ((SPEC, number), (QEMU_8_2, 22)):
        engine = engine_for(writable=True, profile=profile)
        data = b"x" if command == WRITE else b""
        _, sent = feed(engine, request(command, offset, length, 0, data))
        assert int.from_bytes(sent[32:36], "big") == expected


@pytest.mark.parametrize("command", [WRITE, ZEROES, TRIM])
def test_d1_writing_to_a_read_only_export_is_not_permitted(command):
    for profile, expected in ((SPEC, 1), (QEMU_8_2, 22)):
        data = b"x" if command == WRITE else b""
        _, sent = feed(engine_for(profile=profile), request(command, 0, 1, 0, data))
        assert int.from_bytes(sent[32:36], "big") == expected


@pytest.mark.parametrize(("offset", "length"), [(1, 512), (0, 511)])
def test_d9_a_client_that_asked_for_the_block_size_keeps_to_it(offset, length):
    for profile, refused in ((SPEC, True), (QEMU_8_2, False)):
        engine = engine_for(profile=profile, alignment=512)
        got, sent = feed(engine, request(READ, offset, length) + request(READ, 0, 512))
        assert len(got) == (1 if refused else 2)
        assert bool(sent) == refused
        assert not engine.closed


# Any bytes, cut anywhere


@given(
    st.lists(
        st.builds(
            request,
            st.integers(0, 9),
            st.sampled_from((0, 512, SIZE, 2**64 - 1)),
            st.sampled_from((0, 1, 12, 16, 40, MAX + 1, SIZE)),
            st.sampled_from((0, 0, PAYLOAD_LEN, PAYLOAD_LEN, 8, 1 << 15)),
            st.sampled_from((b"", ids(512, 0), ids(0, 7), bytes(40))),
        ),
        max_size=5,
    ).map(b"".join),
)
def test_any_split_gives_the_same_requests_and_answers(data):
    one, many = (engine_for(BASE, DIRTY, writable=True) for _ in range(2))
    first, second = feed(one, data), feed(many, data, at_once=False)
    assert [(r.command, r.offset, r.length, r.contexts) for r in first[0]] == [
        (r.command, r.offset, r.length, r.contexts) for r in second[0]
    ]
    assert first[1] == second[1]
    assert (one.closed, one.disconnected) == (many.closed, many.disconnected)
