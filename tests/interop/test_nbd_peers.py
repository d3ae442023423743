"""Our client against qemu-nbd and nbdkit; their clients against our server; and round trips."""

import contextlib
import hashlib
import json

import numpy as np
import pytest
from nbd_talk import LIST, LIST_META, STRUCTURED, Talk, queries, serving
from peers import background, nbdinfo_map, peer, qemu_nbd, run

from nbexport.bits import Bitmap, Extents
from nbexport.errors import PeerError
from nbexport.nbd import Client, Export, MetaContext, list_exports

pytestmark = pytest.mark.interop

CONTEXTS = (
    "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:weekly",
    "qemu:dirty-bitmap:daily",
)  # fmt: skip
SIZE = 64 << 20


def triples(extents):
    return [(extent["offset"], extent["length"], extent["type"]) for extent in extents]


@pytest.fixture(scope="module")
def qemu(two_bitmaps, tmp_path_factory):
    # qemu-nbd turns the order of its bitmaps round.
    words = ("-r", "-A", "-B", "daily", "-B", "weekly", "-D", "two of them", "-x", "a b")
    with qemu_nbd(two_bitmaps, tmp_path_factory.mktemp("qemu"), *words) as uri:
        yield uri.replace("///?", "///a%20b?")


def test_our_client_sees_what_nbdinfo_sees_in_qemu_nbd(qemu):
    with Client.connect(qemu) as client:
        assert client.export_size == SIZE
        assert client.description == "two of them"
        assert client.block_size == (1, 4096, 32 << 20)
        assert tuple(client.contexts) == CONTEXTS
        maps = client.map()
        for name in CONTEXTS:
            assert list(maps[name]) == triples(nbdinfo_map(qemu, name))
    with Client.connect(qemu, contexts=CONTEXTS[3:]) as client:
        assert client.contexts == {CONTEXTS[3]: 3}
        assert client.map()[CONTEXTS[3]] == maps[CONTEXTS[3]]


def test_our_listing_of_qemu_nbd(qemu):
    (only,) = list_exports(qemu)
    assert (only.name, only.size, only.description) == ("a b", SIZE, "two of them")
    assert tuple(only.contexts) == CONTEXTS


def test_our_client_reads_what_qemu_img_reads(qemu, two_bitmaps, tmp_path):
    raw = tmp_path / "raw"
    run("qemu-img", "convert", "-O", "raw", two_bitmaps, raw)
    with Client.connect(qemu) as client:
        expected = raw.read_bytes()
        assert client.read(0, SIZE) == expected
        for offset, length in ((0, 1), (65535, 3), (9_000_001, 999_999), (SIZE - 1, 1), (5, 0)):
            assert client.read(offset, length) == expected[offset : offset + length]


def test_refusals_of_qemu_nbd_are_told(qemu):
    with pytest.raises(PeerError, match="export 'none' not present"):
        Client.connect(qemu.replace("a%20b", "none"))


def test_any_range_of_qemus_maps_is_a_part_of_the_whole(qemu):
    numbers = np.random.default_rng(7)
    with Client.connect(qemu) as client:
        whole = client.map()
        for _ in range(60):
            start, end = sorted(numbers.integers(0, SIZE + 1, 2).tolist())
            for name, extents in client.map(start, end).items():
                assert extents == whole[name].clip(start, end)


@contextlib.contextmanager
def nbdkit(folder, *words):
    socket = folder / "nbdkit.sock"
    socket.unlink(missing_ok=True)
    with background(peer("nbdkit"), "-f", "-U", socket, *words, ready=socket):
        yield f"nbd+unix:///?socket={socket}"


def test_our_client_and_nbdkit(tmp_path):
    with nbdkit(tmp_path, "-r", "data", "1 2 3 @0x100000 4*65536", "size=4M") as uri:
        with Client.connect(uri) as client:
            assert list(client.contexts) == ["base:allocation"]
            assert list(client.map()["base:allocation"]) == triples(
                nbdinfo_map(uri, "base:allocation")
            )
            assert client.read(0, 5) == b"\1\2\3\0\0"
            assert client.read((1 << 20) - 1, 3) == b"\0\4\4"
        (only,) = list_exports(uri)
        assert (only.name, only.size) == ("", 4 << 20)


def test_our_client_and_a_server_without_structured_replies(tmp_path):
    with nbdkit(tmp_path, "--no-sr", "-r", "pattern", "1M") as uri, Client.connect(uri) as client:
        assert (client.structured, client.contexts) == (False, {})
        assert client.read(8, 8) == (8).to_bytes(8, "big")


def test_our_client_and_a_disk_beyond_32_bits(tmp_path):
    size = (1 << 62) - 512
    with nbdkit(tmp_path, "-r", "null", str(8 << 40)) as uri, Client.connect(uri) as client:
        assert list(client.map()["base:allocation"]) == [(0, 8 << 40, 3)]
    with nbdkit(tmp_path, "-r", "null", str(size)) as uri, Client.connect(uri) as client:
        assert client.export_size == size
        assert client.map(size - 1000, size)["base:allocation"].totals() == {3: 1000}


def test_our_client_is_told_of_a_failed_read(tmp_path):
    words = ("-r", "--filter=error", "pattern", "1M", "error-pread=EIO", "error-pread-rate=100%")
    with nbdkit(tmp_path, *words) as uri, Client.connect(uri) as client:
        for _ in range(2):
            with pytest.raises(PeerError, match="EIO"):
                client.read(0, 512)


# Read from QEMU by our client, served again by our server


def again(client, maps):
    contexts = tuple(
        MetaContext(name, client.contexts[name], extents.clip) for name, extents in maps.items()
    )
    data = memoryview(client.read(0, client.export_size))

    def read_into(offset, buffer):
        buffer[:] = data[offset : offset + len(buffer)]

    return Export(
        "a b", client.export_size, read_into, maps[CONTEXTS[0]].clip, contexts, client.description
    )


@pytest.fixture(scope="module")
def copy(qemu, tmp_path_factory):
    path = tmp_path_factory.mktemp("copy") / "s"
    with Client.connect(qemu) as client:
        export = again(client, client.map())
    with serving(path, export):
        yield f"nbd+unix:///a%20b?socket={path}"


def test_clients_cannot_tell_a_copy_from_qemu(qemu, copy):
    for name in CONTEXTS:
        assert nbdinfo_map(copy, name) == nbdinfo_map(qemu, name)
    told = []
    for uri in (qemu, copy):
        text = run("nbdinfo", "--json", uri).stdout.replace(json.dumps(uri)[1:-1], "URI")
        told.append(json.loads(text))
        listing = run("qemu-nbd", "--list", "-k", uri.partition("?socket=")[2]).stdout
        told[-1]["list"] = listing
        for export in told[-1]["exports"]:
            export.pop("uri", None)
    assert told[0] == told[1]


def test_copies_of_a_copy_are_the_disk(qemu, copy, tmp_path):
    sums = []
    for name, uri in (("a", qemu), ("b", copy)):
        run("nbdcopy", "--connections=4", "--requests=32", uri, tmp_path / name)
        sums.append(hashlib.sha256((tmp_path / name).read_bytes()).digest())
    assert sums[0] == sums[1]
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", qemu, copy).stdout


def test_a_bitmap_in_more_extents_than_a_reply_holds(tmp_path):
    size = 160 << 20
    bitmap = Bitmap(size, 512)
    every_other = Bitmap.from_bytes(b"\x55" * (bitmap.n_bits // 8), size, 512)
    extents = every_other.extents()
    base = Extents.from_lengths([size // 2, size - size // 2], [0, 3])
    export = Export(
        "", size, lambda _offset, _buffer: None, base.clip,
        (MetaContext("base:allocation", 0, base.clip),
         MetaContext("qemu:dirty-bitmap:b", 2, extents.clip)),
    )  # fmt: skip
    with serving(tmp_path / "s", export):
        uri = f"nbd+unix:///?socket={tmp_path}/s"
        with Client.connect(uri) as client:
            assert client.map() == {"base:allocation": base, "qemu:dirty-bitmap:b": extents}
        assert triples(nbdinfo_map(uri, "qemu:dirty-bitmap:b")) == list(extents)


# What differs from QEMU on purpose, each with its reason


def test_bytes_behind_the_last_query_are_refused(qemu, copy):
    """The protocol calls such an option invalid; QEMU takes the bytes for what comes next."""
    replies = []
    for uri in (qemu, copy):
        with Talk(uri.partition("?socket=")[2]) as talk:
            talk.flags()
            talk.option(STRUCTURED)
            replies.append(talk.option(LIST_META, queries(b"a b") + b"x"))
            if uri == copy:
                assert talk.option(LIST).endswith(b"\0\0\0\3\0\0\0\1\0\0\0\0")
    assert replies[0][12:16] == b"\0\0\0\4"
    assert replies[1][12:16] == b"\x80\0\0\3"
