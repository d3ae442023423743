"""The handshake engine, byte by byte. Expected bytes are written out by hand from the protocol."""

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbd_talk import (
    ABORT,
    EXPORT_NAME,
    EXTENDED,
    GO,
    INFO,
    LIST,
    LIST_META,
    PEEK,
    SET_META,
    STARTTLS,
    STRUCTURED,
    info,
    option,
    queries,
    request,
    string,
)  # fmt: skip

from nbexport.bits import Extents
from nbexport.nbd import Export, MetaContext, ServerNegotiation, ServerTransmission
from nbexport.nbd.negotiation import OUTPUT_MAX

GREETING = b"NBDMAGIC" + b"IHAVEOPT" + b"\0\3"
BOTH = b"\0\0\0\3"
ACK, SERVER, INFO_REPLY, META = 1, 2, 3, 4
UNSUP, POLICY, INVALID, UNKNOWN, BLOCK_SIZE, TOO_BIG = (
    1 << 31 | number for number in (1, 2, 3, 6, 8, 9)
)


def reply(number, kind, data=b""):
    return bytes.fromhex("0003e889045565a9") + struct.pack(">III", number, kind, len(data)) + data


def clean(start, end):
    return Extents.uniform(start, end, 0)


def context(name, number):
    return MetaContext(name, number, clean)


ALPHA = Export(
    "alpha", 1 << 20, lambda _offset, _buffer: None,
    contexts=(
        context("base:allocation", 0), context("qemu:allocation-depth", 1),
        context("qemu:dirty-bitmap:b0", 2), context("qemu:dirty-bitmap:b: 1ö", 3),
    ),
    description="the first",
)  # fmt: skip
BETA = Export(
    "", 512, lambda _offset, _buffer: None, contexts=(context("base:allocation", 0),),
    request_alignment=512, multi_conn=False,
)  # fmt: skip
EXPORTS = {export.name: export for export in (ALPHA, BETA)}


def negotiate(*pieces, exports=EXPORTS):
    """Return the engine and what it answers behind the greeting."""
    engine = ServerNegotiation(lambda: exports)
    assert engine.data_to_send() == GREETING
    for piece in pieces:
        engine.receive_data(piece)
    return engine, engine.data_to_send()


def answer(*options):
    return negotiate(BOTH, *options)[1]


def test_the_greeting_comes_before_anything_is_read():
    engine = ServerNegotiation(lambda: EXPORTS)
    assert engine.data_to_send() == GREETING
    assert engine.data_to_send() == b""


@pytest.mark.parametrize("flags", [4, 7, 1 << 31, 0xFFFFFFFF])
def test_unknown_client_flags_close(flags):
    engine, sent = negotiate(struct.pack(">I", flags), option(LIST))
    assert engine.closed
    assert sent == b""


def test_a_client_that_cannot_negotiate_may_only_name_an_export():
    engine, sent = negotiate(b"\0\0\0\0", option(LIST))
    assert (engine.closed, sent) == (True, b"")
    engine, sent = negotiate(b"\0\0\0\0", option(EXPORT_NAME, b"alpha"))
    assert engine.choice is not None
    assert sent == bytes.fromhex("0000000000100000 050f") + bytes(124)


def test_export_name_without_zeroes_has_ten_bytes():
    assert answer(option(EXPORT_NAME, b"")) == bytes.fromhex("0000000000000200 040f")


@pytest.mark.parametrize("name", [b"none", b"alph", b"alpha\0", b"n" * 4097])
def test_export_name_can_only_close(name):
    engine, sent = negotiate(BOTH, option(EXPORT_NAME, name))
    assert (engine.closed, sent, engine.choice) == (True, b"", None)


def test_list_gives_exports_in_order_with_their_descriptions():
    assert answer(option(LIST)) == (
        reply(LIST, SERVER, b"\0\0\0\5alphathe first") + reply(LIST, SERVER, b"\0\0\0\0")
        + reply(LIST, ACK)
    )  # fmt: skip


def test_list_of_nothing():
    assert negotiate(BOTH, option(LIST), exports={})[1] == reply(LIST, ACK)


BETA_SIZES = bytes.fromhex("0003 00000200 00001000 02000000")
BETA_SIZE_HIDDEN = bytes.fromhex("0003 00000001 00001000 02000000")
BETA_EXPORT = bytes.fromhex("0000 0000000000000200 040f")
ALPHA_SIZES = bytes.fromhex("0003 00000001 00001000 02000000")
ALPHA_EXPORT = bytes.fromhex("0000 0000000000100000 050f")


def infos(number, *payloads):
    return b"".join(reply(number, INFO_REPLY, payload) for payload in payloads)


def test_go_tells_description_sizes_and_export_then_transmission_begins():
    engine, sent = negotiate(BOTH, option(GO, info(b"alpha")) + request(0, 0, 4))
    assert sent == infos(GO, b"\0\2the first", ALPHA_SIZES, ALPHA_EXPORT) + reply(GO, ACK)
    assert engine.choice.export is ALPHA
    assert not engine.choice.structured
    assert engine.trailing_data() == request(0, 0, 4)


def test_the_name_is_told_when_asked_for():
    sent = answer(option(INFO, info(b"alpha", 77, 1, 1, 0, 0xFFFF)))
    expected = infos(INFO, b"\0\1alpha", b"\0\2the first", ALPHA_SIZES, ALPHA_EXPORT)
    assert sent == expected + reply(INFO, ACK)


def test_a_client_that_ignores_block_sizes_is_warned_by_info_but_may_go():
    assert answer(option(INFO, info(b"", 3))) == (
        infos(INFO, BETA_SIZES, BETA_EXPORT) + reply(INFO, ACK)
    )
    text = b"request NBD_INFO_BLOCK_SIZE to use this export"
    assert answer(option(INFO, info(b""))) == (
        infos(INFO, BETA_SIZES, BETA_EXPORT) + reply(INFO, BLOCK_SIZE, text)
    )
    assert answer(option(GO, info(b""))) == (
        infos(GO, BETA_SIZE_HIDDEN, BETA_EXPORT) + reply(GO, ACK)
    )


def test_fragments_can_be_forbidden_only_with_structured_replies():
    before, after = (
        answer(*first, option(INFO, info(b"alpha")))[-22:-20]
        for first in ((), (option(STRUCTURED),))
    )
    assert (before, after) == (b"\x05\x0f", b"\x05\x8f")


OTHERS = [0, PEEK, EXTENDED, 12, 99, 0xFFFFFFFF]
REFUSALS = [
    *((option(n, data), reply(n, UNSUP, f"Unsupported option {n} (<unknown>)".encode()))
      for n in OTHERS for data in (b"", b"x", bytes(4096))),
    (option(STARTTLS), reply(STARTTLS, POLICY, b"TLS not configured")),
    *((option(n, b"x"), reply(n, INVALID, f"option '{name}' has unexpected length".encode()))
      for n, name in ((LIST, "list"), (STARTTLS, "starttls"), (STRUCTURED, "structured reply"))),
    *((option(n, info(b"none")), reply(n, UNKNOWN, b"export 'none' not present"))
      for n in (INFO, GO)),
    (option(INFO, info(b"n" * 79)),
     reply(INFO, UNKNOWN, b"export '" + b"n" * 79 + b"' not present")),
    (option(INFO, info(b"n" * 4096)),
     reply(INFO, UNKNOWN, b"export '" + b"n" * 80 + b"...' not present")),
    (option(INFO, info(b"n" * 4097)), reply(INFO, INVALID, b"Invalid name length: 4097")),
    (option(INFO, b"\xff\xff\xff\xff\0\0"),
     reply(INFO, INVALID, b"Invalid name length: 4294967295")),
    (option(GO, info(b"al\0")), reply(GO, INVALID, b"Unexpected embedded NUL in option go")),
    (option(GO, info(b"alpha") + b"x"), reply(GO, INVALID, b"option 'go' has unexpected length")),
    *((option(GO, data), reply(GO, INVALID, b"Inconsistent lengths in option go"))
      for data in (b"", b"\0\0\0", b"\0\0\0\6alpha", string(b"alpha"),
                   string(b"alpha") + b"\0\1\0")),
    (option(SET_META, queries(b"alpha")), reply(SET_META, INVALID,
     b"request option 'set meta context' when structured reply is not negotiated")),
    (option(LIST_META, queries(b"none")), reply(LIST_META, UNKNOWN, b"export 'none' not present")),
    (option(LIST_META, string(b"alpha") + b"\xff\xff\xff\xff"),
     reply(LIST_META, INVALID, b"Inconsistent lengths in option list meta context")),
    (option(LIST_META, queries(b"alpha", b"x:\0")),
     reply(LIST_META, INVALID, b"Unexpected embedded NUL in option list meta context")),
    (option(LIST_META, queries(b"alpha") + b"x"),
     reply(LIST_META, INVALID, b"option 'list meta context' has unexpected length")),
    (option(INFO, bytes(4 + 256 * 4100 + 1)), reply(INFO, TOO_BIG, b"option 'info' is too long")),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "expected"), REFUSALS)
def test_a_refused_option_leaves_the_stream_in_step(sent, expected):
    assert answer(sent, option(LIST)) == expected + answer(option(LIST))


@pytest.mark.parametrize("length", [(32 << 20) + 1, 1 << 31, 0xFFFFFFFF])
@pytest.mark.parametrize("number", [LIST, GO, 99])
def test_an_option_beyond_every_bound_closes(number, length):
    engine, sent = negotiate(BOTH, option(number, b"", length))
    assert (engine.closed, sent) == (True, b"")


def test_a_long_unknown_option_is_dropped_as_it_comes():
    engine, _ = negotiate(BOTH, option(99, b"", 32 << 20))
    for _ in range(32):
        engine.receive_data(bytes(1 << 20))
        assert len(engine._input) == 0
    assert engine.data_to_send().endswith(b"(<unknown>)")


def test_bad_magic_closes():
    engine, sent = negotiate(BOTH, b"IHAVEOPX" + option(LIST)[8:])
    assert (engine.closed, sent) == (True, b"")


@pytest.mark.parametrize("data", [b"", b"why not"])
def test_abort_is_acknowledged(data):
    engine, sent = negotiate(BOTH, option(ABORT, data) + option(LIST))
    assert (engine.closed, sent) == (True, reply(ABORT, ACK))
    engine.receive_data(option(LIST))
    assert engine.data_to_send() == b""


def test_structured_replies_are_agreed_once():
    text = b"structured reply already negotiated"
    assert answer(option(STRUCTURED), option(STRUCTURED)) == (
        reply(STRUCTURED, ACK) + reply(STRUCTURED, INVALID, text)
    )


def context_replies(number, *texts):
    payloads = (struct.pack(">I", id_) + name for id_, name in texts)
    return b"".join(reply(number, META, data) for data in payloads) + reply(number, ACK)


B0, B1 = b"qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b: 1ö".encode()
ALL = (b"base:allocation", b"qemu:allocation-depth", B0, B1)
LISTED = [
    ((), ALL), ((b"base:",), ALL[:1]), ((b"qemu:",), ALL[1:]), ((b"qemu:dirty-bitmap:",), ALL[2:]),
    ((b"qemu:", B0), ALL[1:]), ((B1, B0, B1), (B0, B1)), ((b"qemu:dirty-bitmap:b",), ()),
    ((b"x:y", b"", b":", b"base", b"qemu", b"base:allocationx"), ()), ((b"x" * 9000, B0), (B0,)),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "expected"), LISTED)
def test_listing_contexts(asked, expected):
    sent = answer(option(LIST_META, queries(b"alpha", *asked)))
    assert sent == context_replies(LIST_META, *((0, name) for name in expected))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((), ()), ((b"base:", b"qemu:", b"qemu:dirty-bitmap:"), ()),
        ((B1, b"base:allocation", B1), ((0, b"base:allocation"), (3, B1))),
        (ALL[::-1], tuple(enumerate(ALL))),
    ],
)  # fmt: skip
def test_setting_contexts(asked, expected):
    engine, sent = negotiate(
        BOTH, option(STRUCTURED), option(SET_META, queries(b"alpha", *asked)),
        option(GO, info(b"alpha")),
    )  # fmt: skip
    wanted = context_replies(SET_META, *expected)
    assert sent[len(reply(STRUCTURED, ACK)) :].startswith(wanted)
    assert [context.id for context in engine.choice.contexts] == [number for number, _ in expected]


def chosen(*options):
    engine, _ = negotiate(BOTH, option(STRUCTURED), *options)
    return [context.id for context in engine.choice.contexts]


def test_what_forgets_the_selection():
    select = option(SET_META, queries(b"alpha", B0))
    go = option(GO, info(b"alpha"))
    assert chosen(select, go) == [2]
    assert chosen(select, option(EXPORT_NAME, b"alpha")) == [2]
    harmless = (INFO, info(b"")), (LIST, b""), (LIST_META, queries(b"")), (GO, info(b"none"))
    assert chosen(select, *(option(*each) for each in harmless), go) == [2]
    assert chosen(select, option(GO, info(b""))) == []
    for failing in (queries(b"none", B0), queries(b"alpha") + b"x", b"", queries(b"alpha")):
        assert chosen(select, option(SET_META, failing), go) == []
    again = option(SET_META, queries(b"alpha", b"base:allocation"))
    assert chosen(select, again, go) == [0]


def test_a_name_that_two_contexts_bear_means_the_first():
    twice = Export("", 512, lambda _o, _b: None, contexts=(context("x:y", 2), context("x:y", 3)))
    exports = {"": twice}
    _, sent = negotiate(BOTH, option(LIST_META, queries(b"")), exports=exports)
    assert sent == context_replies(LIST_META, (0, b"x:y"), (0, b"x:y"))
    _, sent = negotiate(
        BOTH, option(STRUCTURED), option(SET_META, queries(b"", b"x:y")), exports=exports
    )
    assert sent == reply(STRUCTURED, ACK) + context_replies(SET_META, (2, b"x:y"))


def test_a_name_that_is_no_utf8_can_be_exported_and_is_shown_readably():
    name = b"\xff\xfe"
    odd = Export(name.decode("utf-8", "surrogateescape"), 512, lambda _o, _b: None)
    exports = {odd.name: odd}
    engine, _ = negotiate(BOTH, option(GO, info(name)), exports=exports)
    assert engine.choice.export is odd
    _, sent = negotiate(BOTH, option(INFO, info(b"\xff")), exports=exports)
    assert sent == reply(INFO, UNKNOWN, "export '\ufffd' not present".encode())


def test_the_end_of_the_data_closes_at_every_byte():
    data = BOTH + option(STRUCTURED) + option(SET_META, queries(b"alpha", B0))
    for length in range(len(data) + 1):
        engine, _ = negotiate(data[:length])
        engine.receive_eof()
        assert engine.closed
        assert engine.choice is None


# Any bytes, cut anywhere

OPTIONS = st.one_of(
    st.builds(option, st.integers(0, 12), st.binary(max_size=40)),
    st.builds(
        lambda number, name, kinds: option(number, info(name, *kinds)),
        st.sampled_from((INFO, GO)), st.sampled_from((b"alpha", b"", b"none")),
        st.lists(st.integers(0, 4), max_size=4),
    ),
    st.builds(
        lambda number, name, texts: option(number, queries(name, *texts)),
        st.sampled_from((LIST_META, SET_META)), st.sampled_from((b"alpha", b"", b"none")),
        st.lists(st.sampled_from((*ALL, b"qemu:", b"base:", b"x:", b"")), max_size=4),
    ),
    st.sampled_from((option(STRUCTURED), option(LIST), option(EXPORT_NAME, b"alpha"))),
)  # fmt: skip
STREAMS = st.builds(
    lambda flags, options, rest: flags + b"".join(options) + rest,
    st.sampled_from((BOTH, b"\0\0\0\1")), st.lists(OPTIONS, max_size=6), st.binary(max_size=40),
)  # fmt: skip


def cut(data, at):
    bounds = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds)]


@given(STREAMS, st.lists(st.integers(0, 1 << 16), max_size=12))
def test_any_split_gives_the_same_answers(data, at):
    whole, expected = negotiate(data)
    engine, sent = negotiate(*cut(data, at))
    assert sent == expected
    assert engine.closed == whole.closed
    assert engine.choice == whole.choice
    assert engine.trailing_data() == whole.trailing_data()


@given(st.binary(max_size=300))
def test_no_bytes_raise(data):
    engine, sent = negotiate(BOTH, data)
    assert engine.closed or len(sent) >= 0
    if engine.choice is not None:
        ServerTransmission(engine.choice).receive_data(engine.trailing_data())
    assert len(engine._input) <= 300


def test_answers_wait_for_room_and_none_is_lost():
    """A client that asks many times in one piece is answered as what was answered is sent."""
    exports = {f"{i:04}": Export(f"{i:04}", 512, ALPHA.read_into) for i in range(1000)}
    (engine, first), (_, one) = (
        negotiate(BOTH, option(LIST) * count + option(EXPORT_NAME, b"0007"), exports=exports)
        for count in (200, 0)
    )
    listing = answer_of(exports)
    pieces = [first]
    while pieces[-1]:
        assert len(pieces[-1]) < OUTPUT_MAX + len(listing)
        assert (engine.choice is None) == (len(b"".join(pieces)) < 200 * len(listing))
        pieces.append(engine.data_to_send())
    assert b"".join(pieces) == 200 * listing + one
    assert engine.choice.export is exports["0007"]


def answer_of(exports):
    return negotiate(BOTH, option(LIST), exports=exports)[1]


def test_uniform_maps_are_maps():
    assert np.array_equal(clean(0, 512).bounds, [0, 512])
