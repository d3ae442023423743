"""The handshake's engine before and after TLS, without any TLS."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbd_talk import (
    ABORT,
    EXPORT_NAME,
    EXTENDED,
    GO,
    LIST,
    SET_META,
    STARTTLS,
    STRUCTURED,
    info,
    option,
    queries,
)  # fmt: skip

from nbexport.bits import Extents
from nbexport.nbd import SPEC, Export, MetaContext, ServerNegotiation, TlsMode

ACK, INVALID, POLICY, TLS_REQD = 1, 0x80000003, 0x80000002, 0x80000005
BASE = MetaContext("base:allocation", 0, lambda a, b: Extents.uniform(a, b, 0))
EXPORTS = {"": Export("", 1 << 20, lambda _o, _b: None, contexts=(BASE,))}
FLAGS = b"\0\0\0\3"


def engine_for(mode, *, profile=SPEC):
    engine = ServerNegotiation(lambda: EXPORTS, profile=profile, tls=mode)
    engine.data_to_send()
    return engine


def kinds(engine, data=b""):
    engine.receive_data(data)
    got, found, at = engine.data_to_send(), [], 0
    while at < len(got):
        _, _, kind, length = struct.unpack_from(">QIII", got, at)
        found.append(kind)
        at += 20 + length
    return found


def test_056_a_server_without_tls_refuses_it_and_goes_on():
    engine = engine_for(TlsMode.NONE)
    assert kinds(engine, FLAGS + option(STARTTLS) + option(99)) == [POLICY, 0x80000001]


@pytest.mark.parametrize("mode", [TlsMode.OPTIONAL, TlsMode.REQUIRED])
def test_060_everything_learnt_before_tls_is_forgotten(mode):
    engine = engine_for(mode)
    if mode is TlsMode.OPTIONAL:
        steps = option(STRUCTURED) + option(EXTENDED) + option(SET_META, queries(b"", b"base:"))
        kinds(engine, FLAGS + steps + option(SET_META, queries(b"", b"base:allocation")))
        assert (engine._structured, engine._extended, len(engine._selected)) == (True, True, 1)
        assert kinds(engine, option(STARTTLS)) == [ACK]
    else:
        assert kinds(engine, FLAGS + option(STARTTLS)) == [ACK]
    assert engine.starting_tls
    engine.tls_started()
    assert kinds(engine, option(STARTTLS)) == [INVALID]
    engine.receive_data(option(GO, info(b"")))
    assert engine.choice.contexts == ()
    assert not engine.choice.chunked


@pytest.mark.parametrize("mode", [TlsMode.OPTIONAL, TlsMode.REQUIRED])
@pytest.mark.parametrize("behind", [b"x", option(LIST), option(GO, info(b""))])
def test_061_bytes_behind_starttls_close(mode, behind):
    engine = engine_for(mode)
    assert kinds(engine, FLAGS + option(STARTTLS) + behind) == []
    assert engine.closed
    assert engine.choice is None


def test_057_before_required_tls_only_tls_and_goodbye():
    for number in (LIST, STRUCTURED, EXTENDED, SET_META, GO, 99):
        engine = engine_for(TlsMode.REQUIRED)
        assert kinds(engine, FLAGS + option(number, b"abc") + option(LIST)) == [TLS_REQD] * 2
        assert not engine.closed
    engine = engine_for(TlsMode.REQUIRED)
    assert kinds(engine, FLAGS + option(ABORT)) == [ACK]
    assert engine.closed
    engine = engine_for(TlsMode.REQUIRED)
    assert kinds(engine, FLAGS + option(EXPORT_NAME)) == []
    assert engine.closed


def test_058_starttls_with_data():
    engine = engine_for(TlsMode.OPTIONAL)
    assert kinds(engine, FLAGS + option(STARTTLS, b"x") + option(LIST)) == [INVALID, 2, ACK]
    engine = engine_for(TlsMode.REQUIRED)
    assert kinds(engine, FLAGS + option(STARTTLS, b"x")) == [INVALID]
    assert engine.closed


@given(
    st.lists(
        st.builds(
            option,
            st.sampled_from((LIST, STARTTLS, STRUCTURED, GO, ABORT, EXPORT_NAME, 99)),
            st.sampled_from((b"", b"", b"x", info(b""))),
        ),
        max_size=5,
    ).map(b"".join)
)
def test_without_tls_nothing_is_ever_chosen_where_it_is_required(data):
    engine = engine_for(TlsMode.REQUIRED)
    found = kinds(engine, FLAGS + data)
    assert engine.choice is None
    assert set(found) <= {ACK, TLS_REQD, INVALID}
