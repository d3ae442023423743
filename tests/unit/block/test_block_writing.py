"""Raw files that are written: data, zeroes, holes, and what the maps say afterwards."""

import errno
import os

import pytest

from nbexport.block import FileNode, RawNode
from nbexport.block import file as module
from nbexport.errors import UsageError

SIZE = 1 << 20


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"A" * SIZE)
    with FileNode(path, writable=True) as file:
        yield RawNode(file)


def refuse(number):
    def call(*_arguments):
        raise OSError(number, os.strerror(number))

    return call


def test_what_is_written_is_read(disk):
    assert disk.writable
    disk.write_from(1000, memoryview(b"hello"))
    disk.write_from(SIZE, memoryview(b""))
    disk.flush()
    assert disk.read(999, 7) == b"AhelloA"


def test_a_node_that_was_opened_for_reading_is_not_written(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"A" * 512)
    with FileNode(path) as file:
        node = RawNode(file)
        assert not node.writable
        for call in (
            lambda: node.write_from(0, memoryview(b"x")),
            lambda: node.write_zeroes(0, 1),
            lambda: node.discard(0, 1),
        ):
            with pytest.raises(OSError, match="read-only"):
                call()
        node.flush()  # nothing to do
    assert path.read_bytes() == b"A" * 512


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 1), (-1, 1), (0, SIZE + 1)])
def test_writing_outside_the_disk_is_refused(disk, offset, length):
    for call in (
        lambda: disk.write_from(offset, memoryview(bytes(length))),
        lambda: disk.write_zeroes(offset, length),
        lambda: disk.discard(offset, length),
    ):
        with pytest.raises(UsageError, match="write outside the disk"):
            call()


def test_a_window_is_written_where_it_lies(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"A" * 4096)
    with FileNode(path, writable=True) as file:
        window = RawNode(file, 1024, 512)
        window.write_from(0, memoryview(b"x" * 512))
        window.write_zeroes(10, 2, unmap=False)
    assert path.read_bytes() == b"A" * 1024 + b"x" * 10 + b"\0\0" + b"x" * 500 + b"A" * 2560


@pytest.mark.parametrize("unmap", [True, False])
def test_zeroes_read_as_zeroes_and_storage_is_kept_unless_it_may_go(disk, unmap):
    before = disk.allocated_size()
    disk.write_zeroes(65536, 65536, unmap=unmap)
    disk.flush()
    assert disk.read(65535, 65538) == b"A" + bytes(65536) + b"A"
    assert (disk.allocated_size() < before) == unmap


def test_a_host_that_cannot_zero_is_written_to_unless_that_is_forbidden(disk, monkeypatch):
    monkeypatch.setattr(module, "_fallocate", refuse(errno.EOPNOTSUPP))
    with pytest.raises(OSError, match="cannot zero a range") as caught:
        disk.write_zeroes(0, 4096, no_fallback=True)
    assert caught.value.errno == errno.ENOTSUP
    assert disk.read(0, 1) == b"A"
    disk.write_zeroes(3, SIZE - 3)
    assert disk.read(0, SIZE) == b"AAA" + bytes(SIZE - 3)
    disk.discard(0, 3)  # that it cannot is no failure
    assert disk.read(0, 3) == b"AAA"


def test_a_failure_of_the_host_names_the_file(disk, monkeypatch):
    monkeypatch.setattr(module, "_fallocate", refuse(errno.EIO))
    with pytest.raises(OSError, match=r"disk\.raw: cannot zero or discard at offset 5"):
        disk.discard(5, 1)


def test_a_failed_flush_is_remembered(disk, monkeypatch):
    monkeypatch.setattr(os, "fdatasync", refuse(errno.EIO))
    with pytest.raises(OSError, match="cannot flush"):
        disk.flush()
    monkeypatch.undo()
    with pytest.raises(OSError, match="cannot flush"):
        disk.flush()


def test_writing_behind_the_end_of_a_file_makes_it_longer(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"A" * 100)
    with FileNode(path, writable=True) as file:
        node = RawNode(file)
        node.write_from(200, memoryview(b"xy"))
        assert node.read(0, 512) == b"A" * 100 + bytes(100) + b"xy" + bytes(310)
    assert path.stat().st_size == 202


def test_maps_follow_each_write(tmp_path):
    path = tmp_path / "disk.raw"
    path.touch()
    os.truncate(path, SIZE)
    with FileNode(path, writable=True) as file:
        node = RawNode(file)
        for step in range(8):
            version = node.version()
            at = step * 131072
            node.write_from(at, memoryview(b"x" * 65536))
            assert node.version() != version
            assert list(node.allocation(at, at + 131072)) == [
                (at, 65536, 0),
                (at + 65536, 65536, 3),
            ]
        assert node.allocation().total(0) == SIZE // 2
        assert node.allocation().total(0) == SIZE // 2  # now from the kept map
        node.write_zeroes(0, SIZE)
        assert list(node.allocation()) == [(0, SIZE, 3)]


def test_what_the_kernel_has_in_memory_is_read_without_waiting(disk, monkeypatch):
    disk.write_from(100, memoryview(b"hello"))
    buffer = bytearray(7)
    assert disk.read_now(99, memoryview(buffer))
    assert buffer == b"AhelloA"
    assert not disk.read_now(SIZE - 3, memoryview(buffer))
    assert not disk.read_now(-1, memoryview(buffer))
    monkeypatch.setattr(os, "preadv", refuse(errno.EAGAIN))
    assert not disk.read_now(99, memoryview(buffer))
