"""The client: extended headers, requests in flight, and servers that are slow."""

import contextlib
import socket
import struct
import threading
import time

import numpy as np
import pytest
from nbd_script import (
    AGREED,
    COMPACT,
    GREETING,
    READY,
    SIZE,
    SIZES,
    export_info,
    hole,
    meta,
    reply,
    scripted,
)  # fmt: skip
from nbd_talk import EXTENDED, GO, INFO, LIST, LIST_META, SET_META, STRUCTURED, serving

from nbexport.bits import Extents
from nbexport.errors import PeerError, UsageError
from nbexport.nbd import QEMU_8_2, Client, Export, MetaContext, list_exports, wire
from nbexport.nbd import client as module

LARGE = 16 << 40
CHECKER = Extents(np.arange(0, (1 << 20) + 1, 512), np.arange(2048) % 2).extend(LARGE, 0)
EVEN = Extents.uniform(0, LARGE, 3)


def fill(offset, buffer):
    buffer[:] = (np.arange(offset, offset + len(buffer)) % 251).astype(np.uint8).tobytes()


def large(**options):
    contexts = (
        MetaContext("base:allocation", 0, EVEN.clip),
        MetaContext("qemu:dirty-bitmap:c", 5, CHECKER.clip),
    )
    return Export("", LARGE, fill, contexts=contexts, **options)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    path = tmp_path_factory.mktemp("server") / "s"
    with serving(path, large(), profile=QEMU_8_2):
        yield f"nbd+unix:///?socket={path}"


# Extended headers, against our server


def test_they_are_used_where_the_server_has_them(uri):
    with Client.connect(uri) as client:
        assert (client.structured, client.extended) == (True, True)
        assert client.transmission_flags & wire.BLOCK_STATUS_PAYLOAD
        assert client.read(1000, 100_000) == (np.arange(1000, 101_000) % 251).astype("u1").tobytes()
        assert client.map() == {"base:allocation": EVEN, "qemu:dirty-bitmap:c": CHECKER}
    with Client.connect(uri, extended=False) as client:
        assert (client.structured, client.extended) == (True, False)
        assert client.map(0, 1 << 34)["base:allocation"] == EVEN.clip(0, 1 << 34)


def test_one_block_status_of_the_whole_disk(uri):
    with Client.connect(uri) as client:
        assert client.block_status(0, LARGE) == {
            "base:allocation": EVEN, "qemu:dirty-bitmap:c": CHECKER,
        }  # fmt: skip
        only = client.block_status(512, LARGE - 512, only=["qemu:dirty-bitmap:c"])
        assert only == {"qemu:dirty-bitmap:c": CHECKER.clip(512, LARGE)}
        with pytest.raises(UsageError, match="'qemu:dirty-bitmap:x' was not selected"):
            client.block_status(0, 512, only=["qemu:dirty-bitmap:x"])
        with pytest.raises(UsageError, match="no metadata context"):
            client.block_status(0, 512, only=[])
    with Client.connect(uri, extended=False) as client:
        with pytest.raises(UsageError, match="cannot tell some contexts only"):
            client.block_status(0, 512, only=["qemu:dirty-bitmap:c"])
        with pytest.raises(UsageError, match="1 to 4294967295 can be asked for"):
            client.block_status(0, 1 << 32)


def test_the_longest_trim_is_several_short_ones(tmp_path):
    """Without extended headers a request cannot say 10 GiB."""
    asked = []
    flags = wire.HAS_FLAGS | wire.SEND_TRIM | wire.SEND_WRITE_ZEROES
    info = reply(GO, 3, struct.pack(">HQH", 0, 10 << 30, flags)) + reply(GO, 1)
    done = b"".join(struct.pack(">IIQ", 0x67446698, 0, cookie) for cookie in range(1, 7))
    with asked_of(tmp_path, simple(info) + done, asked) as where, Client.connect(where) as client:
        client.trim(1 << 20, (10 << 30) - (1 << 20))
        client.write_zeroes(0, 10 << 30, may_trim=False)
    ranges = [(offset, length) for _, _, command, _, offset, length in requests(asked)[:6]]
    step = (1 << 32) - 4096
    rest = (2 << 30) + 8192
    assert ranges == [
        (1 << 20, step), ((1 << 20) + step, step), ((1 << 20) + 2 * step, rest - (1 << 20)),
        (0, step), (step, step), (2 * step, rest),
    ]  # fmt: skip


def simple(info):
    return COMPACT + reply(STRUCTURED, 1 << 31 | 1) + info


@contextlib.contextmanager
def asked_of(tmp_path, data, asked):
    """Do as `scripted`, and keep what the client sends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "asked"))
    listener.listen()

    def serve():
        with contextlib.suppress(OSError):
            peer, _ = listener.accept()
            with peer:
                peer.sendall(data)
                peer.settimeout(10)
                while came := peer.recv(65536):
                    asked.append(came)
                    if requests(asked) and requests(asked)[-1][2] == wire.CMD_DISC:
                        return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"nbd+unix:///?socket={tmp_path}/asked"
    finally:
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def requests(asked):
    """Return the compact requests among what a client sent."""
    data = b"".join(asked)
    begin = data.find(struct.pack(">I", wire.REQUEST_MAGIC))
    whole = (len(data) - begin) // wire.REQUEST.size if begin >= 0 else 0
    size = wire.REQUEST.size
    return [wire.REQUEST.unpack_from(data, begin + n * size) for n in range(whole)]


# Extended headers, against servers that misbehave

WIDE = GREETING + reply(EXTENDED, 1) + meta(LIST_META, 0) + reply(LIST_META, 1)
WIDE += meta(SET_META) + reply(SET_META, 1)
WIDE += reply(GO, 3, SIZES) + reply(GO, 3, struct.pack(">HQH", 0, SIZE, 0x108F)) + reply(GO, 1)


def wide(kind, payload, *, done=True, cookie=1, length=None):
    size = len(payload) if length is None else length
    return struct.pack(">IHHQQQ", 0x6E8A278C, int(done), kind, cookie, 0, size) + payload


def told(*pairs, number=4, count=None):
    words = [word for pair in pairs for word in pair]
    announced = len(pairs) if count is None else count
    return wide(6, struct.pack(f">II{len(words)}Q", number, announced, *words))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (told((0, 0)), "an extent of no bytes"),
        (told((SIZE, 1 << 32)), "flags 0x100000000"),
        (told((1 << 63, 0)), "extents of impossible length"),
        (told(((1 << 64) - 1, 0), (2, 1)), "extents of impossible length"),
        (told((SIZE, 0), count=2), "2 extents announced, 1 come"),
        (told((SIZE, 0), number=9), "context 9"),
        (wide(5, struct.pack(">III", 4, SIZE, 0)), "chunk of type 5 and 12 bytes"),
        (wide(6, bytes(8)), "chunk of type 6 and 8 bytes"),
        (wide(6, b"", length=1 << 40), "chunk of 1099511627776 bytes"),
        (struct.pack(">IIQ", 0x67446698, 0, 1) + bytes(16), "not a reply: magic 0x67446698"),
        (wide(0, b"", cookie=7), "block status at offset 0: a reply to no request"),
        (wide(0x8001, struct.pack(">IH", 22, 3) + b"bad"), r"bad \(EINVAL\)"),
    ],
    ids=range(12),
)
def test_asking_a_bad_server(tmp_path, data, message):
    with (
        scripted(tmp_path, WIDE + data) as uri,
        Client.connect(uri) as client,
        pytest.raises(PeerError, match=message),
    ):
        client.map()


def test_extents_behind_the_disk_are_cut(tmp_path):
    data = told((SIZE // 2, 1), ((1 << 62), 0))
    with scripted(tmp_path, WIDE + data) as uri, Client.connect(uri) as client:
        assert list(client.map()["x:y"]) == [(0, SIZE // 2, 1), (SIZE // 2, SIZE // 2, 0)]


def test_a_simple_reply_to_a_read_after_structured_ones_were_agreed(tmp_path):
    data = struct.pack(">IIQ", 0x67446698, 0, 1) + bytes(100)
    with (
        scripted(tmp_path, READY + data) as uri,
        Client.connect(uri) as client,
        pytest.raises(PeerError, match="a simple reply after structured ones were agreed"),
    ):
        client.read(0, 100)


def test_a_chunk_without_structured_replies(tmp_path):
    with (
        scripted(tmp_path, simple(export_info()) + hole(0, 100)) as uri,
        Client.connect(uri) as client,
        pytest.raises(PeerError, match="not a simple reply: magic 0x668e33ef"),
    ):
        client.read(0, 100)


# Requests in flight


def test_answers_may_come_in_any_order(tmp_path, monkeypatch):
    """Simple replies, the last one first, to a read that takes several requests."""
    monkeypatch.setattr(module, "PIECE_SIZE", 4096)
    info = reply(GO, 3, struct.pack(">HQH", 0, SIZE, 3)) + reply(GO, 1)
    data = b"".join(
        struct.pack(">IIQ", 0x67446698, 0, cookie) + bytes([cookie]) * 4096
        for cookie in (3, 1, 4, 2)
    )
    with scripted(tmp_path, simple(info) + data) as uri, Client.connect(uri) as client:
        expected = b"".join(bytes([cookie]) * 4096 for cookie in (1, 2, 3, 4))
        assert client.read(8192, 16384) == expected


def test_after_an_error_the_rest_is_awaited_and_the_connection_is_of_use(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIECE_SIZE", 4096)
    info = reply(GO, 3, struct.pack(">HQH", 0, SIZE, 3)) + reply(GO, 1)
    head = struct.Struct(">IIQ")
    data = head.pack(0x67446698, 0, 2) + bytes(4096) + head.pack(0x67446698, 5, 1)
    data += head.pack(0x67446698, 0, 3) + bytes(4096) + head.pack(0x67446698, 0, 4) + b"after"
    with scripted(tmp_path, simple(info) + data) as uri, Client.connect(uri) as client:
        with pytest.raises(PeerError, match=r"read at offset 0: failed \(EIO\)"):
            client.read(0, 3 * 4096)
        assert client.read(0, 5) == b"after"


def test_after_a_broken_answer_nothing_more_is_asked(tmp_path):
    with (
        scripted(tmp_path, READY + hole(500, 1) + bytes(100)) as uri,
        Client.connect(uri) as client,
    ):
        with pytest.raises(PeerError, match="outside the range"):
            client.read(0, 100)
        with pytest.raises(UsageError, match="broke off in the middle of a reply"):
            client.read(0, 100)


def test_after_a_function_failed_nothing_more_is_asked(uri):
    def stop(_offset, _data):
        raise KeyboardInterrupt

    with Client.connect(uri) as client:
        with pytest.raises(KeyboardInterrupt):
            client.read_ranges([(0, 4096), (4096, 4096)], stop, stop)
        with pytest.raises(UsageError, match="broke off"):
            client.map()


# Servers that are slow

TRICKLES = {
    "greeting": (b"", GREETING),
    "option": (GREETING, reply(EXTENDED, 1 << 31 | 1, b"no" * 1000)),
    "replies": (AGREED, meta(LIST_META, 0) * 1000),
    "data": (READY, struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, 1, 8 + 4096, 0) + bytes(4096)),
    "chunks": (READY, hole(0, 1, done=False) * 4096),
}


@pytest.mark.parametrize("where", TRICKLES)
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(tmp_path, where):
    """It is never silent for long, and would take minutes in all."""
    before, slowly = TRICKLES[where]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    over = threading.Event()

    def serve():
        with contextlib.suppress(OSError):
            peer, _ = listener.accept()
            with peer:
                peer.sendall(before)
                for byte in slowly:
                    peer.sendall(bytes([byte]))
                    if over.wait(0.05):
                        return

    thread = threading.Thread(target=serve)
    thread.start()
    begin = time.monotonic()
    try:
        with (
            pytest.raises(PeerError, match="the server takes too long"),
            Client.connect(f"nbd+unix:///?socket={tmp_path}/s", timeout=0.4) as client,
        ):
            client.read(0, 4096)
    finally:
        over.set()
        thread.join(10)
        listener.close()
    assert time.monotonic() - begin < 10  # a byte each 50 ms would be longer
    assert not thread.is_alive()


# Lists


def test_an_export_that_is_refused_hides_no_other(tmp_path):
    first, second = (struct.pack(">I", 1) + name for name in (b"a", b"b"))
    data = AGREED + reply(LIST, 2, first + b"kept back") + reply(LIST, 2, second) + reply(LIST, 1)
    data += reply(LIST_META, 1 << 31 | 2, b"not for you")
    data += meta(LIST_META, 0) + reply(LIST_META, 1)
    data += reply(INFO, 3, struct.pack(">HQH", 0, SIZE, 3)) + reply(INFO, 1)
    with scripted(tmp_path, data) as uri:
        kept, open_ = list_exports(uri)
    assert (kept.name, kept.refusal, kept.description) == ("a", "not for you", "kept back")
    assert (open_.name, open_.refusal, open_.size, open_.contexts) == ("b", None, SIZE, ["x:y"])
