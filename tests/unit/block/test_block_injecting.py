"""Error injection: which request fails, after which event, in which state, and how it is cut."""

import errno

import pytest

from nbexport.block import BlkdebugNode, Limits, NullNode, Rule, create, open_image
from nbexport.block import Plan as ImagePlan
from nbexport.block import begin as begin_writing
from nbexport.block.file import FileNode
from nbexport.block.qcow2 import Qcow2Node

SIZE = 1 << 20


class Listening(NullNode):
    """A disk that remembers its requests."""

    def __init__(self):
        super().__init__(SIZE)
        self.seen = []

    def _read(self, offset, buffer):
        self.seen.append(("read", offset, len(buffer)))
        super()._read(offset, buffer)

    def _write(self, offset, data):
        self.seen.append(("write", offset, len(data)))

    def _write_zeroes(self, offset, length, **more):
        self.seen.append(("zero", offset, length))

    def _discard(self, offset, length):
        self.seen.append(("discard", offset, length))

    def _flush(self):
        self.seen.append(("flush", 0, 0))


def fails(act, *arguments):
    """Return the number of the error of an act, 0 if it succeeds."""
    try:
        act(*arguments)
    except OSError as error:
        return error.errno
    return 0


def write(node, offset, length=512):
    return fails(node.write_from, offset, memoryview(bytes(length)))


def test_an_error_waits_for_its_event():
    node = BlkdebugNode(Listening(), [Rule("write_aio", number=errno.ENOSPC)])
    assert write(node, 0) == 0
    node.event("write_aio")
    assert write(node, 0) == errno.ENOSPC
    assert fails(node.read, 0, 512) == errno.ENOSPC  # it stays, whatever comes


def test_an_error_comes_once():
    node = BlkdebugNode(Listening(), [Rule("pwritev", once=True)])
    assert [write(node, 0), write(node, 0)] == [errno.EIO, 0]


def test_an_error_is_for_some_requests():
    node = BlkdebugNode(Listening(), [Rule("none", types=frozenset({"discard"}))])
    assert write(node, 0) == 0
    assert fails(node.discard, 0, 512) == errno.EIO


def test_an_error_is_for_a_sector():
    node = BlkdebugNode(Listening(), [Rule("none", offset=1024)])
    assert [write(node, 512), write(node, 1024), write(node, 512, 1024)] == [0, 5, 5]
    assert fails(node.flush) == 0


def test_maps_fail_when_asked_for():
    node = BlkdebugNode(Listening(), [Rule("none", types=frozenset({"block-status"}))])
    assert fails(node.read, 0, 512) == 0
    assert fails(node.allocation) == errno.EIO
    assert len(BlkdebugNode(Listening(), [Rule("none")]).allocation().flags) == 1


def test_a_flush_fails_if_there_is_something_to_flush():
    node = BlkdebugNode(Listening(), [Rule("none", types=frozenset({"flush"}))])
    assert fails(node.flush) == 0
    write(node, 0)
    assert fails(node.flush) == errno.EIO


def test_states_follow_each_other():
    rules = [
        Rule("pwritev", state=1, new_state=2),
        Rule("pwritev", state=2, new_state=3),
        Rule("pwritev", state=3, once=True),
    ]
    node = BlkdebugNode(Listening(), rules)
    assert [write(node, 0) for _ in range(4)] == [0, 0, errno.EIO, 0]


def test_a_new_error_takes_the_place_of_the_old_one():
    rules = [Rule("read_aio", number=1), Rule("write_aio", number=2)]
    node = BlkdebugNode(Listening(), rules)
    node.event("read_aio")
    assert write(node, 0) == 1
    node.event("write_aio")
    assert write(node, 0) == 2


def test_long_requests_are_cut():
    file = Listening()
    node = BlkdebugNode(file, limits=Limits(transfer=4096))
    node.write_from(512, memoryview(bytes(10000 - 512 - 272)))
    assert [(at, length) for _, at, length in file.seen] == [
        (512, 4096), (4608, 4096), (8704, 1024)
    ]  # fmt: skip


def test_requests_are_aligned_by_reading_what_is_around():
    file = Listening()
    node = BlkdebugNode(file, limits=Limits(align=4096))
    assert node.request_alignment == 4096
    node.write_from(512, memoryview(bytes(4096)))
    assert file.seen == [("read", 0, 4096), ("read", 4096, 4096), ("write", 0, 8192)]


def test_parts_of_units_are_zeroed_by_writing():
    file = Listening()
    node = BlkdebugNode(file, limits=Limits(zero_align=65536, zero_most=131072))
    node.write_zeroes(4096, 5 * 65536)
    assert file.seen == [
        ("write", 4096, 61440), ("zero", 65536, 131072), ("zero", 196608, 131072),
        ("write", 327680, 4096),
    ]  # fmt: skip
    assert fails(lambda: node.write_zeroes(0, 512, no_fallback=True)) == errno.ENOTSUP


def test_discards_are_cut_where_units_are():
    file = Listening()
    node = BlkdebugNode(file, limits=Limits(discard_align=65536))
    node.discard(4096, 65536)
    assert file.seen == [("discard", 4096, 61440), ("discard", 65536, 4096)]


def image(tmp_path, *rules):
    """Return an empty image above a node that injects errors, open for writing."""
    path = tmp_path / "a.qcow2"
    path.touch()
    with FileNode(path, writable=True) as file:
        create(file, ImagePlan(SIZE))
    node = BlkdebugNode(FileNode(path, writable=True), rules)
    disk = Qcow2Node(node, backing=None, writable=True)
    disk.begin_writing(*begin_writing(disk, node))
    return path, disk


@pytest.mark.parametrize("event", ["cluster_alloc", "write_aio", "cluster_alloc_space"])
def test_a_step_of_qcow2_that_fails_fails_the_write(tmp_path, event):
    path, disk = image(tmp_path, Rule(event, once=True))
    assert write(disk, 0) == errno.EIO
    assert write(disk, 0) == 0
    disk.close()
    with open_image(path) as again:
        assert again.depth().flags.tolist() == [1, 0]


@pytest.mark.parametrize("event", ["l2_update", "l1_update", "flush_to_disk"])
def test_a_step_of_qcow2_that_fails_fails_the_flush(tmp_path, event):
    path, disk = image(tmp_path, Rule(event, once=True))
    assert fails(disk.flush) == 0  # there is nothing to do
    assert write(disk, 0) == 0
    assert (fails(disk.flush), fails(disk.flush)) == (errno.EIO, 0)
    disk.close()
    with open_image(path) as again:
        assert again.depth().flags.tolist() == [1, 0]


def test_a_flush_is_told_of_whatever_there_is_to_do(tmp_path):
    _, disk = image(tmp_path, Rule("flush_to_os", once=True))
    assert [fails(disk.flush), write(disk, 0), write(disk, 0)] == [0, errno.EIO, 0]


def test_a_compressed_read_is_a_step_of_its_own(tmp_path):
    _, disk = image(tmp_path, Rule("read_compressed"), Rule("write_compressed", state=2))
    disk.write_compressed(0, memoryview(bytes(65536)))
    assert fails(disk.read, 0, 512) == errno.EIO
