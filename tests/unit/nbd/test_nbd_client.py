"""The client: against our server, and against servers that misbehave."""

import contextlib
import socket
import struct
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbd_script import (
    AGREED,
    COMPACT,
    GREETING,
    LISTED,
    READY,
    SELECTED,
    chunk,
    data_chunk,
    export_info,
    hole,
    meta,
    reply,
    scripted,
    status,
)  # fmt: skip
from nbd_talk import EXTENDED, GO, LIST, LIST_META, SET_META, STRUCTURED, serving

from nbexport.bits import Bitmap, Extents
from nbexport.errors import PeerError, UsageError
from nbexport.nbd import Client, Export, MetaContext, NbdUri, from_node, list_exports
from nbexport.nbd import client as module

SIZE = 1 << 20


def fill(offset, buffer):
    buffer[:] = (np.arange(offset, offset + len(buffer)) % 251).astype(np.uint8).tobytes()


def context(name, number, extents):
    return MetaContext(name, number, extents.clip)


BASE = Extents.from_lengths([4096, 8192, SIZE - 12288], [0, 3, 0])
CHECKER = Extents(np.arange(0, SIZE + 1, 512), np.arange(SIZE // 512) % 2)


def export(name="", **options):
    contexts = (
        context("base:allocation", 0, BASE), context("qemu:dirty-bitmap:c", 5, CHECKER),
        context("qemu:dirty-bitmap:n", 6, Extents.uniform(0, SIZE, 0)),
    )  # fmt: skip
    return Export(name, SIZE, fill, contexts=contexts, **options)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    path = tmp_path_factory.mktemp("server") / "s"
    with serving(path, export(description="hello"), export("ö b", request_alignment=512)):
        yield f"nbd+unix:///?socket={path}"


def named(uri, name):
    return NbdUri(name, NbdUri.parse(uri).socket)


# Against our server


def test_what_a_client_is_told(uri):
    with Client.connect(uri) as client:
        assert client.export_size == SIZE
        assert client.transmission_flags == 0x58F
        assert client.block_size == (1, 4096, 32 << 20)
        assert client.description == "hello"
        assert list(client.contexts.items()) == [
            ("base:allocation", 0), ("qemu:dirty-bitmap:c", 5), ("qemu:dirty-bitmap:n", 6),
        ]  # fmt: skip
        assert client.server_contexts == list(client.contexts)
    with Client.connect(named(uri, "ö b"), contexts=["x:y", "qemu:dirty-bitmap:n"]) as client:
        assert client.block_size == (512, 4096, 32 << 20)
        assert client.contexts == {"qemu:dirty-bitmap:n": 6}
        assert client.description is None


def test_all_exports(uri):
    first, second = list_exports(uri)
    assert (first.name, first.size, first.description) == ("", SIZE, "hello")
    assert (second.name, second.flags) == ("ö b", 0x58F)
    assert second.contexts == ["base:allocation", "qemu:dirty-bitmap:c", "qemu:dirty-bitmap:n"]


def test_maps_are_whole_and_in_order(uri):
    with Client.connect(uri) as client:
        maps = client.map()
        assert list(maps) == list(client.contexts)
        assert list(maps.values()) == [BASE, CHECKER, Extents.uniform(0, SIZE, 0)]
        assert client.map(1000, 5000)["base:allocation"] == BASE.clip(1000, 5000)
        assert client.map(7, 7)["base:allocation"] == Extents.empty(7)


@pytest.mark.parametrize("req_one", [False, True])
def test_block_status(uri, req_one):
    with Client.connect(uri) as client:
        found = client.block_status(5000, 2000, req_one=req_one)
        assert found["base:allocation"] == Extents.uniform(5000, 7000, 3)
        bitmap = CHECKER.clip(5000, 5120 if req_one else 7000)
        assert found["qemu:dirty-bitmap:c"] == bitmap


@settings(max_examples=30)
@given(start=st.integers(0, SIZE), length=st.integers(0, 70_000))
def test_reads(uri, start, length):
    length = min(length, SIZE - start)
    expected = bytearray(length)
    fill(start, memoryview(expected))
    with Client.connect(uri) as client:
        assert client.read(start, length) == bytes(expected)


def test_a_read_beyond_one_request(tmp_path):
    size = (33 << 20) + 5
    big = Export("", size, fill)
    with (
        serving(tmp_path / "s", big),
        Client.connect(f"nbd+unix:///?socket={tmp_path}/s") as client,
    ):
        data = np.frombuffer(client.read(0, size), dtype=np.uint8)
        assert np.array_equal(data, (np.arange(size) % 251).astype(np.uint8))
        with pytest.raises(UsageError, match="no metadata context was selected"):
            client.map()


@pytest.mark.parametrize("range_", [(-1, 1), (0, SIZE + 1), (SIZE, 1), (0, -1)])
def test_ranges_outside_the_disk(uri, range_):
    with Client.connect(uri) as client:
        for method in (client.read, client.block_status):
            with pytest.raises(UsageError, match="outside the disk"):
                method(*range_)


def test_an_export_that_is_not_there(uri):
    with pytest.raises(PeerError, match="export 'none' not present"):
        Client.connect(named(uri, "none"))


def test_nobody_there(tmp_path):
    with pytest.raises(PeerError, match="No such file"):
        Client.connect(f"nbd+unix:///?socket={tmp_path}/none")
    with pytest.raises(PeerError, match=r"nbd://127.0.0.1:1/: Connection refused"):
        Client.connect("nbd://127.0.0.1:1/")


def test_a_bitmap_shorter_than_its_export(tmp_path):
    bitmap = Bitmap(65536, 512)
    bitmap.set(65024, 512)

    class Node:
        size = 1 << 20
        request_alignment = 1
        request_max = 0

        def read_into(self, offset, buffer):
            pass

        def allocation(self, start, end):
            return Extents.uniform(start, end, 0)

        def version(self):
            return None

        def read_now(self, offset, buffer):
            return False

        depth = allocation

    made = from_node(Node(), "", allocation_depth=True, bitmaps=[("b", bitmap.extents)])
    assert [(c.name, c.id) for c in made.contexts] == [
        ("base:allocation", 0), ("qemu:allocation-depth", 1), ("qemu:dirty-bitmap:b", 2),
    ]  # fmt: skip
    with (
        serving(tmp_path / "s", made),
        Client.connect(f"nbd+unix:///?socket={tmp_path}/s") as client,
    ):
        found = client.map()["qemu:dirty-bitmap:b"]
        assert list(found) == [(0, 65024, 0), (65024, 512, 1), (65536, (1 << 20) - 65536, 0)]
        assert client.map(70000, 80000)["qemu:dirty-bitmap:b"].totals() == {0: 10000}


# Against servers that misbehave: each sends what a script says, whatever the client asks

CONNECTING = [
    (b"", "closed the connection"),
    (GREETING[:17], "closed the connection"),
    (b"HTTP/1.1 400 Bad Request\r\n", "not an NBD server"),
    (b"NBDMAGIC" + bytes.fromhex("0000420281861253") + bytes(136), "fixed newstyle"),
    (b"NBDMAGICIHAVEOPT\0\2", "fixed newstyle"),
    (COMPACT + bytes(20), "not a reply to option 'structured reply'"),
    (COMPACT + reply(LIST, 1), "not a reply to option 'structured reply'"),
    (COMPACT + reply(STRUCTURED, 2)[:16] + b"\xff\xff\xff\xff", "option reply of 4294967295"),
    (AGREED + reply(LIST_META, 1 << 31 | 6, b"no such thing"), "no such thing"),
    (AGREED + reply(LIST_META, 1 << 31 | 2), "denied by policy"),
    (AGREED + reply(LIST_META, 4, b"\0\0"), "a context without an id"),
    (LISTED + meta(SET_META, name=b"z:z") + reply(SET_META, 1), "'z:z' was not asked for"),
    (SELECTED + reply(GO, 1), "does not tell the size"),
    (SELECTED + reply(GO, 3, b"\0\0\0") + reply(GO, 1), "does not tell the size"),
    (SELECTED + export_info(1 << 63), "impossible size"),
    (SELECTED + export_info(2**64 - 1), "impossible size"),
    (SELECTED + export_info(sizes=b"\0\3\0"), "block sizes of a wrong length"),
    *((SELECTED + export_info(sizes=struct.pack(">HIII", 3, *sizes)), "impossible block sizes")
      for sizes in ((3, 4096, 4096), (1, 4096, 512), (0, 4096, 8192))),
    (SELECTED + reply(GO, 1 << 31 | 99), "error 0x80000063"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), CONNECTING, ids=count())
def test_connecting_to_a_bad_server(tmp_path, data, message):
    with scripted(tmp_path, data) as uri:
        with pytest.raises(PeerError, match=message) as caught:
            Client.connect(uri)
        assert str(caught.value).startswith(uri)


READING = [
    (b"", "closed the connection"),
    (b"x" * 20, "not a reply"),
    (data_chunk(0, 100, cookie=2), "a reply to no request"),
    (data_chunk(0, 101), "outside the range"),
    (data_chunk(2**64 - 50, 50), "outside the range"),
    (hole(50, 51), "outside the range"),
    (hole(0, 2**32 - 1), "outside the range"),
    (hole(0, 0), "outside the range"),
    (chunk(1, bytes(8)), "chunk of type 1"),
    (chunk(2, bytes(8)), "chunk of type 2"),
    (chunk(5, bytes(12)), "chunk of type 5"),
    (chunk(0, b"x"), "chunk of type 0"),
    (chunk(77, b""), "chunk of type 77"),
    (chunk(1, b"", length=2**32 - 1), "chunk of 4294967295 bytes"),
    (data_chunk(0, 50), "ends at offset 50"),
    (hole(50, 50), "overlap or leave a gap"),
    (data_chunk(0, 50, done=False) + data_chunk(0, 50), "overlap or leave a gap"),
    (data_chunk(0, 60, done=False) + hole(40, 60), "overlap or leave a gap"),
    (chunk(0, b""), "ends at offset 0"),
    (chunk(0x8001, b""), "error without a value"),
    (chunk(0x8001, struct.pack(">IH", 5, 3) + b"bad"), r"bad \(EIO\)"),
    (chunk(0x8001, struct.pack(">IH", 5, 9999) + b"bad"), r"bad \(EIO\)"),
    (chunk(0x8002, struct.pack(">IHQ", 22, 0, 0), done=False) + hole(0, 100), r"failed \(EINVAL\)"),
    (struct.pack(">IIQ", 0x67446698, 5, 1), r"failed \(EIO\)"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), READING, ids=count())
def test_reading_from_a_bad_server(tmp_path, data, message):
    with scripted(tmp_path, READY + data) as uri, Client.connect(uri) as client:
        with pytest.raises(PeerError, match=message) as caught:
            client.read(0, 100)
        assert str(caught.value).startswith(uri)


ASKING = [
    (status((10, 0), number=9), "context 9"),
    (status((10, 0), done=False) + status((10, 0)), "context 4"),
    (status(), "chunk of type 5 and 4 bytes"),
    (chunk(5, struct.pack(">IIII", 4, 10, 0, 10)), "chunk of type 5 and 16 bytes"),
    (status((0, 0)), "an extent of no bytes"),
    (status((10, 0), (0, 1)), "an extent of no bytes"),
    (chunk(5, b"\0\0"), "chunk of type 5"),
    (chunk(0, b""), "no extents of context 'x:y' at offset 0"),
    (hole(0, 10), "chunk of type 2"),
    (chunk(0x8001, struct.pack(">IH", 22, 0)), r"block status at offset 0: failed \(EINVAL\)"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), ASKING, ids=count())
def test_asking_a_bad_server_for_block_status(tmp_path, data, message):
    with (
        scripted(tmp_path, READY + data) as uri,
        Client.connect(uri) as client,
        pytest.raises(PeerError, match=message),
    ):
        client.map()


def test_a_context_that_is_left_out(tmp_path):
    listed = AGREED + meta(LIST_META, 0) + meta(LIST_META, 0, b"x:z") + reply(LIST_META, 1)
    both = listed + meta(SET_META) + meta(SET_META, 5, b"x:z") + reply(SET_META, 1)
    with (
        scripted(tmp_path, both + export_info() + status((SIZE, 1))) as uri,
        Client.connect(uri) as client,
        pytest.raises(PeerError, match=r"no extents of .*'x:z'"),
    ):
        client.map()


def test_two_contexts_with_one_id(tmp_path):
    listed = AGREED + meta(LIST_META, 0) + meta(LIST_META, 0, b"x:z") + reply(LIST_META, 1)
    both = listed + meta(SET_META) + meta(SET_META, 4, b"x:z") + reply(SET_META, 1)
    with scripted(tmp_path, both) as uri, pytest.raises(PeerError, match="two contexts"):
        Client.connect(uri)


@pytest.mark.parametrize("zeroes", [True, False])
def test_a_server_that_only_knows_export_name(tmp_path, zeroes):
    greeting = b"NBDMAGICIHAVEOPT\0" + (b"\1" if zeroes else b"\3")
    old = (
        greeting
        + reply(EXTENDED, 1 << 31 | 1)
        + reply(STRUCTURED, 1 << 31 | 1)
        + reply(GO, 1 << 31 | 1)
    )
    old += struct.pack(">QH", SIZE, 3) + bytes(124 if zeroes else 0)
    data = struct.pack(">IIQ", 0x67446698, 0, 1) + b"abcde"
    with scripted(tmp_path, old + data) as uri, Client.connect(uri) as client:
        assert (client.export_size, client.block_size) == (SIZE, None)
        assert client.read(0, 5) == b"abcde"


def test_extents_that_reach_behind_the_disk_are_cut(tmp_path):
    with (
        scripted(tmp_path, READY + status((SIZE // 2, 1), (2**32 - 1, 0))) as uri,
        Client.connect(uri) as client,
    ):
        assert list(client.map()["x:y"]) == [(0, SIZE // 2, 1), (SIZE // 2, SIZE // 2, 0)]


def test_contexts_of_different_lengths_are_joined_where_they_belong(tmp_path):
    listed = AGREED + meta(LIST_META, 0) + meta(LIST_META, 0, b"x:z") + reply(LIST_META, 1)
    both = listed + meta(SET_META) + meta(SET_META, 5, b"x:z") + reply(SET_META, 1)
    first = status((1000, 1), (500, 2), done=False) + status((700, 8), number=5)
    second = status((SIZE - 700, 9), number=5, done=False, cookie=2)
    second += status((300, 1), (500, 2), (SIZE - 1500, 3), cookie=2)
    with (
        scripted(tmp_path, both + export_info() + first + second) as uri,
        Client.connect(uri) as client,
    ):
        maps = client.map()
    assert list(maps["x:y"]) == [(0, 1000, 1), (1000, 500, 2), (1500, SIZE - 1500, 3)]
    assert list(maps["x:z"]) == [(0, 700, 8), (700, SIZE - 700, 9)]


@pytest.mark.parametrize(
    ("data", "endless", "bound", "message"),
    [
        (AGREED, meta(LIST_META, 0), "nbexport.nbd.link.REPLIES_MAX", "endless replies to option"),
        (READY, hole(0, 1, done=False), "nbexport.nbd.pipeline.CHUNKS_MAX", "endless reply"),
    ],
    ids=["options", "chunks"],
)
def test_endless_replies_end(tmp_path, monkeypatch, data, endless, bound, message):
    monkeypatch.setattr(bound, 100)
    with (
        scripted(tmp_path, data, endless=endless) as uri,
        pytest.raises(PeerError, match=message),
        Client.connect(uri) as client,
    ):
        client.read(0, 100)


def test_a_server_that_tells_a_byte_at_a_time_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STATUS_REPLIES_MAX", 50)
    steps = b"".join(status((1, n % 2), cookie=n) for n in range(1, 100))
    with (
        scripted(tmp_path, READY + steps) as uri,
        Client.connect(uri) as client,
        pytest.raises(PeerError, match=f"endless replies for {SIZE} bytes"),
    ):
        client.map()


def test_a_silent_server(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(PeerError, match="the server stayed silent"):
            Client.connect(f"nbd+unix:///?socket={tmp_path}/s", timeout=0.2)


def test_goodbye_to_a_server_that_goes_on_talking_ends_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GOODBYE_SECONDS", 0.3)
    with scripted(tmp_path, READY, endless=bytes(1000)) as uri:
        client = Client.connect(uri)
        client.close()
        client.close()


def test_a_server_without_structured_replies(tmp_path):
    old = COMPACT + reply(STRUCTURED, 1 << 31 | 1) + export_info()
    data = struct.pack(">IIQ", 0x67446698, 0, 1) + b"abcde" + struct.pack(">IIQ", 0x67446698, 22, 2)
    with scripted(tmp_path, old + data) as uri, Client.connect(uri) as client:
        assert (client.structured, client.contexts, client.server_contexts) == (False, {}, [])
        assert client.read(0, 5) == b"abcde"
        with pytest.raises(PeerError, match=r"read at offset 5: failed \(EINVAL\)"):
            client.read(5, 1)
        with pytest.raises(UsageError, match="no metadata context was selected"):
            client.map()


def test_a_server_without_contexts(tmp_path):
    without = AGREED + reply(LIST_META, 1 << 31 | 1) + reply(SET_META, 1 << 31 | 1) + export_info()
    with scripted(tmp_path, without) as uri, Client.connect(uri) as client:
        assert (client.structured, client.contexts) == (True, {})


def test_listing_a_bad_server(tmp_path):
    for data, message in (
        (AGREED + reply(LIST, 1 << 31 | 2), "cannot list exports: denied by policy"),
        (AGREED + reply(LIST, 2, b"\0\0\0\x09short") + reply(LIST, 1), "a string longer than"),
        (AGREED + reply(LIST, 2, b"\0") + reply(LIST, 1), "a string longer than"),
            ):  # fmt: skip
        with scripted(tmp_path, data) as uri, pytest.raises(PeerError, match=message):
            list_exports(uri)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from((GREETING, COMPACT, AGREED, SELECTED, READY)))
def test_any_bytes_end_in_an_answer_or_a_peer_error(tmp_path_factory, data, before):
    with scripted(tmp_path_factory.mktemp("any"), before + data) as uri:
        talk(uri)


def talk(uri):
    """Use a server; whatever is raised beside a PeerError fails the test."""
    with contextlib.suppress(PeerError), Client.connect(uri) as client:
        client.read(0, 100)
        client.map()
