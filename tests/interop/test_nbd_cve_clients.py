"""Faults around TLS, and what must not be sent to clients: by the faults that others have had.

After each test the same process serves a new client rightly, and holds no more than before.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import struct
import time

import pytest
import tls_files
from beside import DATA, HOLE, assemble, chunks, error_of, ours, uri
from nbd_talk import (
    ABORT,
    CLOSED,
    DISC,
    EXPORT_NAME,
    GO,
    INFO,
    LIST,
    LIST_META,
    PEEK,
    READ,
    SET_META,
    STARTTLS,
    STATUS,
    STRUCTURED,
    Talk,
    info,
    option,
    queries,
    request,
)  # fmt: skip
from peers import run
from watched import PATTERN, SIZE, MiB, Server, leave, make_image, unharmed

pytestmark = pytest.mark.interop

FLAGS = struct.pack(">I", 3)
EINVAL = 22
ALL_OPTIONS = (EXPORT_NAME, ABORT, LIST, PEEK, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META,
               11, 99)  # fmt: skip
WITH_NAMES = (INFO, GO, LIST_META, SET_META)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("image") / "disk.raw")


@pytest.fixture(scope="module")
def running(image, tmp_path_factory):
    path = tmp_path_factory.mktemp("server") / "s"
    with ours(image, path, "-f", "raw") as process:
        server = Server(process, path)
        server.check()
        yield server


@pytest.fixture
def server(running):
    with unharmed(running):
        yield running


@pytest.fixture(scope="module")
def secured(image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    folders = tls_files.make(folder)
    words = ("-f", "raw", "--tls-creds", str(folders.server), "--no-tls-verify-peer")
    with ours(image, folder / "s", *words, "--tls", "optional") as process:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(folders.server / "ca-cert.pem")
        yield Server(process, folder / "s"), context


def test_cve_2021_3716_what_was_agreed_in_clear_is_forgotten(secured):
    server, context = secured
    with server.talk() as talk:
        talk.flags()
        talk.option(STRUCTURED)
        talk.option(SET_META, queries(b"", b"base:allocation"))
        talk.start_tls(context)
        talk.option(GO, info(b""))
        assert talk.request(READ, 4096, 1)[:4] == bytes.fromhex("67446698")
        assert error_of(talk.request(STATUS, 0, 512)) == EINVAL
    with server.talk() as talk:
        talk.send(FLAGS + option(STARTTLS) + option(STRUCTURED))
        assert talk.end() == CLOSED
    server.check()


def test_busy_tls_2024_an_idle_client_costs_nothing(secured):
    server, context = secured
    with server.talk() as talk:
        talk.flags()
        talk.start_tls(context)
        talk.option(GO, info(b""))
        before = server.cpu_ticks
        time.sleep(2)
        assert server.cpu_ticks - before <= 20  # a tenth of the time; a busy loop takes all


@pytest.mark.parametrize("by_reset", [False, True], ids=["end", "reset"])
def test_clients_leave_at_many_points_of_a_tls_handshake(secured, by_reset):
    server, context = secured
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    layer = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        layer.do_handshake()
    hello = outgoing.read()
    for cut in range(0, len(hello), 16):
        talk = server.talk()
        talk.flags()
        talk.option(STARTTLS)
        talk.send(hello[:cut])
        leave(talk, by_reset=by_reset)
    server.check()


# What clients must not be sent


def test_cve_2017_2630_lists_are_as_long_as_they_say(image, tmp_path):
    name = "n" * 4000
    with ours(image, tmp_path / "s", "-f", "raw", "-x", name, "-D", "d" * 4000):
        with Talk(tmp_path / "s") as talk:
            talk.flags()
            reply = talk.option(LIST)
        length = struct.unpack_from(">I", reply, 16)[0]
        assert reply[20 + length :][12:] == struct.pack(">II", 1, 0)
        assert struct.unpack_from(">I", reply, 20)[0] == 4000
        assert json.loads(run("nbdinfo", "--json", uri(tmp_path / "s", name)).stdout)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, SIZE), (MiB - 7, 20), (MiB - 512, 1024), (5, 1)]
)
def test_cve_2019_14842_and_2022_0485_chunks_stay_in_the_range(server, offset, length):
    with server.talk() as talk:
        talk.flags()
        talk.option(STRUCTURED)
        talk.option(GO, info(b""))
        data, parts = assemble(talk.request(READ, offset, length), offset, length)
    assert data == (PATTERN * (MiB // 256)).ljust(SIZE, b"\0")[offset : offset + length]
    assert {kind for kind, _, _ in parts} <= {DATA, HOLE}


def test_libnbd_2023_a_block_status_has_extents(server):
    with server.talk() as talk:
        talk.flags()
        talk.option(STRUCTURED)
        talk.option(SET_META, queries(b"", b"base:allocation"))
        talk.option(GO, info(b""))
        for offset, length in ((0, 1), (SIZE - 1, 1), (0, SIZE), (MiB, 1)):
            for chunk in chunks(talk.request(STATUS, offset, length)):
                assert len(chunk.payload) % 8 == 4
                assert len(chunk.payload) > 4


def test_cve_2023_5215_and_5871_sizes_and_flags_are_in_range(server):
    told = json.loads(run("nbdinfo", "--json", uri(server.path)).stdout)["exports"][0]
    assert 0 < told["export-size"] < 1 << 63
    listed = json.loads(run("nbdinfo", "--map", "--json", uri(server.path)).stdout)
    assert {extent["type"] for extent in listed} <= {0, 1, 2, 3}


def test_goodbye_in_the_middle_of_everything(server):
    for before in (b"", request(READ, 0, SIZE), request(STATUS, 0, SIZE)):
        with server.talk() as talk:
            talk.flags()
            talk.option(GO, info(b""))
            talk.send(before + request(DISC) + request(READ, 0, 1))
            assert talk.end().endswith(CLOSED)
