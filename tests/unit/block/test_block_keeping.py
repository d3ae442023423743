"""Filters that keep what was read, compress what is written, and have room prepared."""

import errno

import pytest

from nbexport.block import (
    CompressNode,
    CopyOnReadNode,
    FilterNode,
    PreallocateNode,
    begin,
    check_image,
    create,
    open_image,
)
from nbexport.block import Plan as ImagePlan
from nbexport.block.file import FileNode
from nbexport.block.qcow2 import Qcow2Node

SIZE = 1 << 20
CLUSTER = 65536


def writable(path, file=None, backing=None):
    file = file or FileNode(path, writable=True)
    disk = Qcow2Node(file, backing=backing, writable=True)
    disk.begin_writing(*begin(disk, file))
    disk.adopt(file)
    return disk


def make(path, **plan):
    path.touch()
    with FileNode(path, writable=True) as file:
        create(file, ImagePlan(SIZE, **plan))
    return path


@pytest.fixture
def chain(tmp_path):
    """Return an image above two others: 0 to 1 from the lowest, 2 to 3 from the one between."""
    names = [tmp_path / name for name in ("low.qcow2", "mid.qcow2", "top.qcow2")]
    for number, path in enumerate(names):
        make(path, **({"backing_file": str(names[number - 1]), "backing_format": "qcow2"}
                      if number else {}))  # fmt: skip
        backing = open_image(names[number - 1]) if number else None
        with writable(path, backing=backing) as disk:
            at = 2 * number * CLUSTER
            if number < 2:
                disk.write_from(at, memoryview(bytes([7 + number]) * CLUSTER))
        if backing is not None:
            backing.close()
    mid = open_image(names[1])
    top = writable(names[2], backing=mid)
    yield top, mid, names[2]
    top.close()
    mid.close()


def depths(disk):
    return [(start // CLUSTER, flags) for start, _, flags in disk.depth()]


def test_what_was_read_is_kept(chain):
    top, _, path = chain
    node = CopyOnReadNode(top)
    assert node.read(100, 10) == b"\7" * 10
    assert node.read(2 * CLUSTER - 10, 20) == bytes(10) + b"\10" * 10
    # a cluster of zeroes, which nobody has, is kept as one
    assert depths(node) == [(0, 1), (3, 0)]
    node.write_from(0, memoryview(b"x" * 10))
    top.close()
    assert check_image(str(path)).corruptions == 0
    with open_image(path) as again:
        assert again.read(0, 11) == b"x" * 10 + b"\7"


def test_only_the_upper_layers_are_copied_from(chain):
    top, mid, _ = chain
    node = CopyOnReadNode(top, mid)
    assert node.read(0, 4 * CLUSTER)[0] == 7
    assert depths(node) == [(0, 3), (1, 0), (2, 1), (3, 0)]


def test_what_was_read_is_no_write(chain):
    top, _, _ = chain
    node = CopyOnReadNode(top)
    told = []
    top.guards = (lambda offset, length: told.append(offset),)
    node.read(0, 10)
    assert told == []
    node.write_from(0, memoryview(b"x"))
    assert told == [0]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("extended", [False, True])
def test_what_is_written_is_compressed(tmp_path, kind, extended):
    path = make(tmp_path / "a.qcow2", compression=kind, extended_l2=extended)
    with writable(path) as disk:
        node = CompressNode(disk)
        assert node.request_alignment == CLUSTER
        text = bytes(range(256)) * 1024
        node.write_from(0, memoryview(text))
        assert node.read(0, len(text)) == text
        node.write_from(8 * CLUSTER + 10, memoryview(b"part"))
        with pytest.raises(OSError, match="holds data") as caught:
            node.write_from(0, memoryview(text))
        assert caught.value.errno == errno.EIO
    found = check_image(str(path))
    assert (found.corruptions, found.leaks) == (0, 0)
    assert found.compressed_clusters == 5
    with open_image(path) as again:
        assert again.read(0, len(text)) == text
        assert again.read(8 * CLUSTER + 8, 8) == b"\0\0part\0\0"


def test_what_does_not_get_shorter_is_stored_as_it_is(tmp_path):
    import random

    path = make(tmp_path / "a.qcow2")
    noise = random.Random(1).randbytes(CLUSTER)
    with writable(path) as disk:
        disk.write_compressed(0, memoryview(noise))
        assert disk.read(0, CLUSTER) == noise
    assert check_image(str(path)).compressed_clusters == 0


def test_parts_of_clusters_are_not_compressed(tmp_path):
    with writable(make(tmp_path / "a.qcow2")) as disk:
        for offset, length in ((512, CLUSTER), (0, 512)):
            with pytest.raises(OSError, match="whole clusters") as caught:
                disk.write_compressed(offset, memoryview(bytes(length)))
            assert caught.value.errno == errno.EINVAL
        assert disk.compresses
        assert not FilterNode(disk.file).compresses


def test_room_is_prepared_and_given_back(tmp_path):
    path = make(tmp_path / "a.qcow2")
    file = FileNode(path, writable=True)
    room = PreallocateNode(file, align=CLUSTER, length=SIZE)
    with writable(path, room) as disk:
        disk.write_from(0, memoryview(b"x" * 10))
        assert file.size > SIZE > room.size
        assert file.size % CLUSTER == 0
    room.close()
    file.close()
    assert path.stat().st_size < SIZE
    assert check_image(str(path)).corruptions == 0
