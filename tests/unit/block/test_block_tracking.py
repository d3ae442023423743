"""Bitmaps that follow a node's writes."""

from __future__ import annotations

import pytest

from nbexport.bits import Bitmap
from nbexport.block import FileNode, HostFileError, RawNode
from nbexport.block.tracking import default_granularity
from nbexport.errors import UsageError

SIZE = 64 * 1024


@pytest.fixture
def node(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(SIZE))
    with FileNode(path, writable=True) as file, RawNode(file) as node:
        yield node


def dirty(bitmap: Bitmap) -> list[tuple[int, int]]:
    return [(start, length) for start, length, flags in bitmap.extents() if flags]


def test_writes_zeroes_and_discards_are_marked(node):
    bitmap = Bitmap(SIZE, 512)
    node.tracking.start(bitmap)
    node.write_from(700, memoryview(b"x" * 10))
    node.write_zeroes(4096, 1)
    node.discard(8192, 513)
    assert dirty(bitmap) == [(512, 512), (4096, 512), (8192, 1024)]


def test_nothing_is_marked_before_the_start_and_after_the_stop(node):
    first, second = Bitmap(SIZE, 512), Bitmap(SIZE, 512)
    node.write_from(0, memoryview(b"x"))
    node.tracking.start(first)
    node.tracking.start(second)
    node.tracking.start(first)
    node.write_from(512, memoryview(b"x"))
    node.tracking.stop(first)
    node.tracking.stop(first)
    node.write_from(1024, memoryview(b"x"))
    assert dirty(first) == [(512, 512)]
    assert dirty(second) == [(512, 1024)]


def test_what_was_refused_is_not_marked_and_what_failed_is(node, monkeypatch):
    bitmap = Bitmap(SIZE, 512)
    node.tracking.start(bitmap)
    node.write_from(0, memoryview(b""))
    with pytest.raises(UsageError):
        node.write_from(SIZE - 1, memoryview(b"xx"))
    assert dirty(bitmap) == []

    def fail(*_, **__):
        raise HostFileError(5, "broken", "disk")

    for name in ("_write", "_write_zeroes", "_discard"):
        monkeypatch.setattr(node, name, fail)
    with pytest.raises(HostFileError):
        node.write_from(512, memoryview(b"x"))
    with pytest.raises(HostFileError):
        node.write_zeroes(2048, 1)
    with pytest.raises(HostFileError):
        node.discard(4096, 1)
    assert dirty(bitmap) == [(512, 512), (2048, 512), (4096, 512)]


def test_a_change_is_seen_by_those_who_keep_what_they_computed(node):
    bitmap = Bitmap(SIZE, 512)
    node.tracking.start(bitmap)
    version = bitmap.version
    node.write_from(0, memoryview(b"x"))
    assert bitmap.version != version


@pytest.mark.parametrize(
    ("cluster_size", "expected"),
    [(None, 65536), (512, 4096), (4096, 4096), (32768, 32768), (65536, 65536), (1 << 21, 65536)],
)
def test_the_default_granularity_is_the_cluster_size_within_bounds(cluster_size, expected):
    assert default_granularity(cluster_size) == expected
