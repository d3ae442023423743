"""Reference counts that this package writes, as qemu-img's check sees them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peers import run

from nbexport.block import FileNode
from nbexport.block.qcow2 import allocator as module
from nbexport.block.qcow2.allocator import Allocator
from nbexport.block.qcow2.header import read_header
from nbexport.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.interop


def create(path: Path, *options: str, size: str = "1M") -> None:
    path.unlink(missing_ok=True)
    words = ["-o", ",".join(options)] if options else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *words, path, size)


def opened(path: Path) -> tuple[FileNode, Allocator]:
    file = FileNode(path, writable=True)
    return file, Allocator(file, read_header(file))


def found(path: Path) -> dict[str, int]:
    """Return the counts of faults that qemu-img finds."""
    done = run("qemu-img", "check", "--output=json", path, check=False)
    facts = json.loads(done.stdout)
    return {name: facts.get(name, 0) for name in ("corruptions", "leaks", "check-errors")}


def sound(leaks: int) -> dict[str, int]:
    return {"corruptions": 0, "leaks": leaks, "check-errors": 0}


WIDTHS = [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize("bits", WIDTHS)
@settings(
    max_examples=3,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_what_is_allocated_is_counted_once_and_what_is_freed_not_at_all(tmp_path, bits, data):
    path = tmp_path / "a.qcow2"
    create(path, "cluster_size=512", f"refcount_bits={bits}")
    held: list[tuple[int, int]] = []
    file, allocator = opened(path)
    for _ in range(data.draw(st.integers(1, 12))):
        if held and data.draw(st.booleans()):
            allocator.free(*held.pop(data.draw(st.integers(0, len(held) - 1))))
        else:
            count = data.draw(st.sampled_from([1, 2, 7, 64, 500, 3000]))
            offset = allocator.allocate(count)
            assert offset % 512 == 0
            for other, length in held:
                assert offset + count * 512 <= other or other + length * 512 <= offset
            held.append((offset, count))
        if data.draw(st.booleans()):
            allocator.flush()
            assert found(path) == sound(sum(count for _, count in held))
            if data.draw(st.booleans()):
                file.close()
                file, allocator = opened(path)
    allocator.flush()
    assert all(allocator.count_of(offset) == 1 for offset, _ in held)
    file.close()
    assert found(path) == sound(sum(count for _, count in held))
    file, allocator = opened(path)
    for place in held:
        allocator.free(*place)
    allocator.flush()
    file.close()
    assert found(path) == sound(0)


@pytest.mark.parametrize("bits", [16, 64])  # narrower ones need a million clusters
def test_the_table_grows_again_and_again(tmp_path, bits, monkeypatch):
    path = tmp_path / "a.qcow2"
    create(path, "cluster_size=512", f"refcount_bits={bits}")
    monkeypatch.setattr(module, "CACHE_BYTES", 1024)  # two blocks: they come and go
    file, allocator = opened(path)
    tables = {read_header(file).refcount_table_offset}
    per_table = 64 * 512 * 8 // bits
    total = 0
    while len(tables) < 3:
        count = max(200, per_table // 3)
        allocator.allocate(count)
        total += count
        allocator.flush()
        tables.add(read_header(file).refcount_table_offset)
    file.close()
    assert found(path) == sound(total)
    # QEMU goes on with it.
    run("qemu-io", "-c", "write 0 1M", path)
    assert found(path) == sound(total)
    if total < 10000:
        run("qemu-img", "check", "-r", "leaks", path)
        assert found(path) == sound(0)


def test_the_lowest_room_is_used_first(tmp_path):
    path = tmp_path / "a.qcow2"
    create(path)
    file, allocator = opened(path)
    with file:
        a, b, c = (allocator.allocate(1) for _ in range(3))
        assert (b - a, c - b) == (65536, 65536)
        allocator.free(a, 1)
        allocator.free(c, 1)
        assert allocator.allocate(2) == c
        assert allocator.allocate(1) == a


def test_counts_that_cannot_be_are_refused(tmp_path):
    path = tmp_path / "a.qcow2"
    create(path, "refcount_bits=2")
    file, allocator = opened(path)
    with file:
        offset = allocator.allocate(2)
        for _ in range(2):
            allocator.count_more(offset, 2)
        assert allocator.count_of(offset) == 3
        with pytest.raises(FormatError, match="too narrow"):
            allocator.count_more(offset, 2)
        for _ in range(3):
            allocator.free(offset, 2)
        with pytest.raises(FormatError, match="does not allow"):
            allocator.free(offset, 1)
        with pytest.raises(FormatError, match="does not allow"):
            allocator.free(1 << 40, 1)
        assert allocator.count_of(1 << 40) == 0


@pytest.mark.parametrize("what", ["header", "l1", "table", "block"])
def test_metadata_that_is_counted_as_free_is_never_given_away(tmp_path, what):
    path = tmp_path / "a.qcow2"
    create(path)
    with FileNode(path) as file:
        header = read_header(file)
        table = header.refcount_table_offset
        block = int.from_bytes(file.read(table, 8), "big")
    place = {"header": 0, "l1": header.l1_table_offset, "table": table, "block": block}[what]
    stored = bytearray(path.read_bytes())
    at = block + place // 65536 * 2
    stored[at : at + 2] = b"\0\0"
    path.write_bytes(stored)
    file, allocator = opened(path)
    with file, pytest.raises(FormatError, match="counted as free"):
        allocator.allocate(1)


def test_tables_at_the_same_place_are_refused(tmp_path):
    path = tmp_path / "a.qcow2"
    create(path)
    with FileNode(path) as file:
        header = read_header(file)
    stored = bytearray(path.read_bytes())
    stored[header.refcount_table_offset : header.refcount_table_offset + 8] = (
        header.l1_table_offset.to_bytes(8, "big")
    )
    path.write_bytes(stored)
    with FileNode(path, writable=True) as file, pytest.raises(FormatError, match="two tables"):
        Allocator(file, read_header(file))
    assert path.read_bytes() == stored


def test_metadata_is_not_freed_for_whoever_claims_it(tmp_path):
    path = tmp_path / "a.qcow2"
    create(path)
    file, allocator = opened(path)
    with file, pytest.raises(FormatError, match="as if it were its own"):
        allocator.free(read_header(file).l1_table_offset, 1)
