"""Copies made before writes, filters, and disks without storage, without any peer."""

from __future__ import annotations

import errno
import random
import threading

import pytest

from nbexport.bits import Bitmap
from nbexport.block import (
    CopyBefore,
    CopyBeforeWriteNode,
    FileNode,
    NullAioNode,
    NullNode,
    SourceReadError,
)
from nbexport.block.copying import MAX_CHUNK
from nbexport.block.fence import Fence
from nbexport.units import KiB, MiB

CLUSTER = 64 * KiB
LIMIT = 30


@pytest.fixture
def disk(tmp_path):
    opened = []

    def make(name, size=2 * MiB, fill=None):
        path = tmp_path / name
        path.write_bytes(bytes([fill]) * size if fill is not None else b"")
        with path.open("r+b") as stream:
            stream.truncate(size)
        opened.append(FileNode(path, writable=True))
        return opened[-1]

    yield make
    for node in opened:
        node.close()


def test_what_is_overwritten_was_copied_before(disk):
    source, target = disk("s", fill=1), disk("t")
    filtered = CopyBeforeWriteNode(source, target)
    filtered.write_from(CLUSTER + 5, memoryview(b"x" * 10))
    assert target.read(0, 3 * CLUSTER) == bytes(CLUSTER) + b"\1" * CLUSTER + bytes(CLUSTER)
    assert source.read(CLUSTER + 5, 10) == filtered.read(CLUSTER + 5, 10) == b"x" * 10
    copying = filtered.copying
    assert copying.copied == CLUSTER
    assert copying.remaining.count == 2 * MiB - CLUSTER
    assert copying.touched.count == CLUSTER


def test_a_cluster_is_copied_once(disk):
    source, target = disk("s", fill=1), disk("t")
    filtered = CopyBeforeWriteNode(source, target)
    for value in (2, 3):
        filtered.write_from(0, memoryview(bytes([value]) * CLUSTER))
    filtered.discard(0, CLUSTER)
    assert target.read(0, CLUSTER) == b"\1" * CLUSTER
    assert filtered.copying.copied == CLUSTER


def test_zeroes_and_discards_count_as_overwriting(disk):
    source, target = disk("s", fill=7), disk("t")
    filtered = CopyBeforeWriteNode(source, target)
    filtered.write_zeroes(0, 1)
    filtered.discard(CLUSTER, 512)
    assert target.read(0, 2 * CLUSTER) == b"\7" * 2 * CLUSTER


def test_what_is_not_wanted_is_not_copied(disk):
    source, target = disk("s", fill=1), disk("t")
    wanted = Bitmap(source.size, CLUSTER)
    wanted.set(CLUSTER, 1)
    filtered = CopyBeforeWriteNode(source, target, wanted=wanted)
    filtered.write_from(0, memoryview(bytes(3 * CLUSTER)))
    assert target.read(0, 3 * CLUSTER) == bytes(CLUSTER) + b"\1" * CLUSTER + bytes(CLUSTER)


def test_all_chunks_together_are_the_disk(disk):
    source, target = disk("s", size=3 * MiB + 512, fill=9), disk("t", size=3 * MiB + 512)
    copying = CopyBefore(source, target)
    sizes = []
    while (size := copying.next_chunk()) is not None:
        sizes.append(size)
    assert sum(sizes) == source.size
    assert max(sizes) <= MAX_CHUNK
    assert target.read(0, target.size) == source.read(0, source.size)
    assert copying.remaining.count == 0


def test_holes_are_copied_as_zeroes_and_not_as_data(disk, monkeypatch):
    source, target = disk("s", size=8 * MiB), disk("t", size=8 * MiB, fill=1)
    written, write_from = [], type(target).write_from

    def record(node, offset, data):
        written.append((offset, len(data)))
        write_from(node, offset, data)

    source.write_from(MiB, memoryview(b"d" * 512))
    monkeypatch.setattr(type(target), "write_from", record)
    copying = CopyBefore(source, target)
    while copying.next_chunk() is not None:
        pass
    assert target.read(0, target.size) == source.read(0, source.size)
    assert written == [(MiB, CLUSTER)]


def test_a_write_that_cannot_be_copied_first_fails_and_changes_nothing(disk):
    source = disk("s", fill=1)
    target = NullNode(source.size)

    def refuse(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "no room")

    target._write = refuse
    filtered = CopyBeforeWriteNode(source, target)
    with pytest.raises(OSError, match="no room"):
        filtered.write_from(0, memoryview(b"x"))
    assert source.read(0, 1) == b"\1"
    assert filtered.copying.remaining.count == source.size
    assert filtered.copying.copied == 0


def test_an_unreadable_source_is_told_from_a_full_target(disk):
    source, target = disk("s", fill=1), disk("t")

    def refuse(*_arguments):
        raise OSError(errno.EIO, "bad sector")

    source._read = refuse
    copying = CopyBefore(source, target)
    with pytest.raises(SourceReadError, match="bad sector"):
        copying.next_chunk()
    assert copying.remaining.count == source.size


def test_the_filter_says_what_the_node_below_says(disk):
    source, target = disk("s"), disk("t")
    source.write_from(CLUSTER, memoryview(b"x" * CLUSTER))
    filtered = CopyBeforeWriteNode(source, target)
    assert list(filtered.allocation()) == list(source.allocation())
    assert list(filtered.depth()) == list(source.depth())
    assert filtered.allocated_size() == source.allocated_size()
    assert filtered.writable


def test_a_copy_stays_one_moment_under_writers_and_a_background_copy(disk):
    source, target = disk("s", size=4 * MiB), disk("t", size=4 * MiB)
    chance = random.Random(7)
    for at in range(0, source.size, 4096):
        source.write_from(at, memoryview(chance.randbytes(4096)))
    before = source.read(0, source.size)
    filtered = CopyBeforeWriteNode(source, target)

    def write(seed):
        mine = random.Random(seed)
        for _ in range(150):
            at = mine.randrange(0, source.size - 4096)
            filtered.write_from(at, memoryview(mine.randbytes(mine.randrange(1, 4096))))

    def copy():
        while filtered.copying.next_chunk() is not None:
            pass

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    threads.append(threading.Thread(target=copy))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert target.read(0, target.size) == before
    assert source.read(0, source.size) != before


def test_guards_see_every_change_and_can_refuse_it(disk):
    node = disk("s", fill=1)
    seen = []

    def guard(offset, length):
        seen.append((offset, length))
        if offset == 512:
            raise OSError(errno.EPERM, "not here")

    node.guards = (guard,)
    node.write_from(0, memoryview(b"ab"))
    node.write_zeroes(1024, 5)
    node.discard(4096, 512)
    with pytest.raises(OSError, match="not here"):
        node.write_from(512, memoryview(b"x"))
    assert seen == [(0, 2), (1024, 5), (4096, 512), (512, 1)]
    assert node.read(512, 1) == b"\1"


def test_a_fence_lets_readers_in_together_and_a_copy_alone():
    fence, inside, together = Fence(), [], threading.Barrier(2)

    def read():
        with fence.shared(), fence.shared():  # entering again takes no waiting
            inside.append("reader")
            together.wait(LIMIT)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join(LIMIT)
    assert inside == ["reader", "reader"]

    seen = []

    def read_later():
        with fence.shared():
            seen.append("read")

    with fence.exclusive(), fence.shared():  # whoever copies may look
        later = threading.Thread(target=read_later)
        later.start()
        later.join(0.1)
        assert not seen
    later.join(LIMIT)
    assert seen == ["read"]


def test_nothing_is_kept_by_a_null_disk():
    node = NullNode(1000)
    assert node.size == 1024
    node.write_from(0, memoryview(b"x" * 512))
    node.write_zeroes(0, 512)
    node.discard(0, 512)
    node.flush()
    assert node.read(0, 1024) == bytes(1024)
    assert node.allocated_size() == 0
    assert [flags for *_, flags in node.allocation()] == [1]
    assert [flags for *_, flags in NullAioNode(512, read_zeroes=True).allocation()] == [3]
    assert [flags for *_, flags in node.depth()] == [0]
    assert [flags for *_, flags in NullNode(512, read_zeroes=True).depth()] == [1]
    assert (NullNode.driver, NullAioNode.driver) == ("null-co", "null-aio")
    assert NullNode().size == 1 << 30
