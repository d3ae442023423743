"""A disk that becomes another one under its user."""

from __future__ import annotations

import threading

import pytest

from nbexport import block
from nbexport.errors import UsageError

SIZE = 1 << 20


def disk(tmp_path, name, fill):
    (tmp_path / name).write_bytes(fill * SIZE)
    return block.FileNode(tmp_path / name, writable=True)


def test_requests_reach_the_disk_that_is_there(tmp_path):
    with disk(tmp_path, "a", b"a") as first, disk(tmp_path, "b", b"b") as second:
        front = block.Front(first)
        buffer = bytearray(4)
        front.read_into(0, memoryview(buffer))
        before = front.version()
        assert buffer == b"aaaa"
        with front.quiet():
            front.exchange(second)
        assert front.version() != before
        front.write_from(1, memoryview(b"XY"))
        front.read_into(0, memoryview(buffer))
        assert buffer == b"bXYb"
        assert first.read(0, 4) == b"aaaa"
        assert (front.size, front.writable, front.filename) == (SIZE, True, second.filename)


def test_requests_wait_while_nothing_may_be_under_way(tmp_path):
    with disk(tmp_path, "a", b"a") as first, disk(tmp_path, "b", b"b") as second:
        front = block.Front(first)
        buffer = bytearray(4)
        done = threading.Event()

        def read():
            front.read_into(0, memoryview(buffer))
            done.set()

        with front.quiet():
            thread = threading.Thread(target=read)
            thread.start()
            assert not done.wait(0.1)
            assert not front.read_now(0, memoryview(bytearray(4)))
            front.exchange(second)
        assert done.wait(5)
        thread.join(5)
        assert buffer == b"bbbb"


def test_a_shorter_disk_cannot_take_the_place(tmp_path):
    short = block.NullNode(512)
    with disk(tmp_path, "a", b"a") as first, pytest.raises(UsageError, match="shorter"):
        block.Front(first).exchange(short)
