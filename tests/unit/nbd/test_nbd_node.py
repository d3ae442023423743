"""An export as a disk: what it reads, writes and maps, and connections that break."""

import errno
import random
from unittest import mock

import pytest
from nbd_talk import serving

from nbexport import block, nbd
from nbexport.errors import PeerError

MiB = 1 << 20
SIZE = 2 * MiB + 512


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(random.Random(1).randbytes(MiB))
    with path.open("r+b") as file:
        file.truncate(SIZE)
    with block.FileNode(str(path), writable=True) as node:
        yield node


def export(disk, **more):
    return nbd.from_node(disk, "e", **{"size": SIZE, "writable": True, "unmap": True, **more})


@pytest.fixture
def uri(tmp_path):
    return nbd.NbdUri(export="e", socket=str(tmp_path / "s"))


def test_it_reads_writes_and_maps_as_the_disk_behind_it(disk, uri):
    expected = bytearray(disk.read(0, SIZE))
    chance = random.Random(2)
    with (
        serving(uri.socket, export(disk)),
        nbd.NbdNode(uri, writable=True) as node,
    ):
        assert (node.size, node.filename) == (SIZE, f"nbd+unix:///e?socket={uri.socket}")
        for _ in range(40):
            offset = chance.randrange(SIZE)
            length = chance.randrange(1, min(200_000, SIZE - offset) + 1)
            if chance.random() < 0.7:
                data = chance.randbytes(length)
                node.write_from(offset, memoryview(data))
            else:
                data = bytes(length)
                node.write_zeroes(offset, length, unmap=chance.random() < 0.5)
            expected[offset : offset + length] = data
        node.flush()
        assert node.read(0, SIZE) == expected == disk.read(0, SIZE)
        node.discard(0, 65536)
        assert node.read(65536, 1000) == expected[65536:66536]
        assert node.allocation() == disk.allocation()
        assert node.depth().flags.tolist() == [1]
        # What others write is seen: no map is kept.
        disk.write_from(SIZE - 512, memoryview(b"x" * 512))
        assert node.allocation() == disk.allocation()
        assert node.version() is None


def test_a_read_only_export_is_not_written(disk, uri):
    with serving(uri.socket, export(disk, writable=False)):
        with pytest.raises(OSError, match="Could not open image: Permission denied") as caught:
            nbd.NbdNode(uri, writable=True)
        assert caught.value.errno == errno.EACCES
        with nbd.NbdNode(uri) as node:
            assert node.is_read_only_export
            with pytest.raises(OSError, match="read-only"):
                node.write_from(0, memoryview(b"x"))


def test_what_is_not_there(disk, uri, tmp_path):
    with pytest.raises(PeerError):
        nbd.NbdNode(uri)
    with serving(uri.socket, export(disk)):
        with pytest.raises(nbd.RefusedError):
            nbd.NbdNode(nbd.NbdUri(export="other", socket=uri.socket))
        with pytest.raises(OSError, match="Could not open image: Invalid argument"):
            nbd.NbdNode(uri, context="qemu:dirty-bitmap:b")


def test_a_connection_that_broke_is_made_again(disk, uri):
    with nbd_node_of(disk, uri) as node:
        with pytest.raises(OSError, match="nbd") as caught:
            node.read(0, 512)
        assert caught.value.errno == errno.EIO
        with serving(uri.socket, export(disk)):
            assert node.read(0, 512) == disk.read(0, 512)


def nbd_node_of(disk, uri):
    """Return a node whose server has gone."""
    with serving(uri.socket, export(disk)):
        node = nbd.NbdNode(uri, writable=True)
        assert node.read(0, 512) == disk.read(0, 512)
    return node


def test_an_export_that_came_back_with_another_size_is_not_the_same_disk(disk, uri):
    with nbd_node_of(disk, uri) as node:
        with pytest.raises(OSError, match="nbd"):
            node.read(0, 512)
        with (
            serving(uri.socket, export(disk, size=MiB)),
            pytest.raises(OSError, match="the export has another size now"),
        ):
            node.read(0, 512)


def test_a_request_waits_for_a_server_that_went_away(disk, uri):
    with serving(uri.socket, export(disk)):
        node = nbd.NbdNode(uri, reconnect_seconds=0.3)
    with node:
        with pytest.raises(OSError, match="nbd"):
            node.read(0, 512)  # the connection broke under this one
        with pytest.raises(OSError, match="nbd"):
            node.read(0, 512)  # and this one waits in vain
        with serving(uri.socket, export(disk)):
            assert node.read(0, 512) == disk.read(0, 512)


def test_what_the_server_refuses_fails_for_its_reason_and_leaves_the_connection(disk, uri):
    with (
        serving(uri.socket, export(disk)),
        nbd.NbdNode(uri, writable=True) as node,
    ):
        client = nbd_client_of(node)
        full = OSError(errno.ENOSPC, "full")
        with mock.patch.object(disk, "_write", side_effect=full):
            with pytest.raises(OSError, match="ENOSPC") as caught:
                node.write_from(0, memoryview(b"x" * 512))
            assert caught.value.errno == errno.ENOSPC
        assert nbd_client_of(node) is client
        node.write_from(0, memoryview(b"y" * 512))
        assert node.read(0, 512) == b"y" * 512


def nbd_client_of(node):
    return node._client
