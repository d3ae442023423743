"""What is left of bitmaps when their writer dies at any moment: the old, the new, or distrust."""

from __future__ import annotations

import contextlib
import random
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from crash_journal import Journal
from peers import run

from nbexport.block import FileNode, check_image, edit_bitmaps, open_image, open_writable

if TYPE_CHECKING:
    from pathlib import Path

    from nbexport.bits import Bitmap

pytestmark = pytest.mark.interop

KiB, MiB = 1 << 10, 1 << 20
SIZE = 3 * MiB


def bits(path: Path) -> dict[str, Bitmap | None]:
    with open_image(path) as node:
        return {one.name: one.bitmap for one in node.bitmaps.values()}


def edit(path: Path, journal: Journal) -> int:
    """Change bitmaps in every way; return when the disk was written meanwhile."""
    with edit_bitmaps(path) as store:
        store.add("new", 4 * KiB)
        store.merge("new", store.find("fine"))
        store.remove("gone")
        store.clear("coarse")
        store.disable("coarse")
        written = len(journal.operations)
        store._node.tracking.begin()
        store._node.tracking.end(MiB, 5 * KiB)
        store.add("late", 64 * KiB, enabled=False)
    return written


OPTIONS: list[tuple[str, ...]] = [
    ("cluster_size=512",),
    ("cluster_size=512", "refcount_bits=1"),
    ("cluster_size=4k", "refcount_bits=64"),
    ("cluster_size=64k",),
]


@pytest.mark.parametrize("options", OPTIONS, ids=",".join)
def test_a_crash_leaves_each_bitmap_old_or_new_or_inconsistent(tmp_path, monkeypatch, options):
    path, crashed = tmp_path / "a.qcow2", tmp_path / "crashed.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), path, str(SIZE))
    for name, size in (("fine", "512"), ("gone", "1k"), ("coarse", "64k")):
        run("qemu-img", "bitmap", "--add", "-g", size, path, name)
    run("qemu-io", "-c", "write 300k 70k", "-c", "write 2M 1k", path)
    before = path.read_bytes()
    old = bits(path)
    journal = Journal(monkeypatch)
    written = edit(path, journal)
    monkeypatch.undo()
    new = bits(path)
    assert list(new) == ["fine", "coarse", "new", "late"]
    assert not any(bitmap is None for bitmap in (*old.values(), *new.values()))
    choose = random.Random(7)
    seen: set[Any] = set()
    count = len(journal.operations)
    for at in range(count + 1):
        for random_source in (None, choose, choose, choose):
            image = journal.after_crash(before, at, random_source)
            if image in seen:
                continue
            seen.add(image)
            crashed.write_bytes(image)
            found = check_image(str(crashed))
            assert found.corruptions == 0, (at, found.messages)
            assert found.check_errors == 0, at
            left = bits(crashed)
            for name, bitmap in left.items():
                if bitmap is None:
                    continue  # not to be believed
                if bitmap != new.get(name):
                    assert at <= written, (at, name)
                    assert bitmap == old[name], (at, name)
            if random_source is None and at % max(1, count // 15) == 0:
                done = run("qemu-img", "check", crashed, check=False)
                assert done.returncode in {0, 3}, (at, done.stdout, done.stderr)
                # QEMU can open it for writing, and drop what is left.
                later = tmp_path / "later.qcow2"
                shutil.copy(crashed, later)
                for name in left:
                    run("qemu-img", "bitmap", "--remove", later, name)
                done = run("qemu-img", "check", later, check=False)
                assert done.returncode in {0, 3}, (at, done.stdout, done.stderr)
    assert bits(crashed) == new
    assert len(seen) > 20


def test_a_close_that_fails_leaves_the_bitmaps_in_use(tmp_path, monkeypatch):
    path = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    run("qemu-img", "bitmap", "--add", path, "b0")
    run("qemu-io", "-c", "write 0 1k", path)

    def broken(node: FileNode) -> None:
        raise OSError(5, "broken")

    def change() -> None:
        with edit_bitmaps(path) as store:
            store.add("b1")
            monkeypatch.setattr(FileNode, "_flush", broken)

    with pytest.raises(OSError, match="broken"):
        change()
    monkeypatch.undo()
    assert bits(path) == {"b0": None}
    assert check_image(str(path)).corruptions == 0


def test_the_first_bitmap_and_the_last_one_can_be_torn_in_the_header(tmp_path, monkeypatch):
    path, crashed = tmp_path / "a.qcow2", tmp_path / "crashed.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    choose = random.Random(3)
    for action in ("add", "remove"):
        before, old = path.read_bytes(), bits(path)
        journal = Journal(monkeypatch)
        with edit_bitmaps(path) as store:
            getattr(store, action)("b")
        monkeypatch.undo()
        new = bits(path)
        for at in range(len(journal.operations) + 1):
            for _ in range(12):
                crashed.write_bytes(journal.after_crash(before, at, choose))
                assert check_image(str(crashed)).corruptions == 0
                left = bits(crashed)
                assert left in (old, new, {}, {"b": None}), at
                assert run("qemu-img", "info", crashed).returncode == 0 if at % 4 == 0 else True


WRITING: list[tuple[str, ...]] = [
    ("cluster_size=512",),
    ("cluster_size=4k", "refcount_bits=64"),
    ("cluster_size=16k", "extended_l2=on"),
    ("cluster_size=64k", "lazy_refcounts=on"),
]


@pytest.mark.parametrize(("options", "seed"), [*((one, 11) for one in WRITING), (WRITING[0], 2)])
def test_no_bitmap_says_clean_where_a_crashed_writer_wrote(tmp_path, monkeypatch, options, seed):
    path, crashed = tmp_path / "a.qcow2", tmp_path / "crashed.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), path, str(SIZE))
    run("qemu-io", "-c", "write -P 1 300k 700k", "-c", "write -P 2 2M 100k", path)
    for name, size in (("fine", "512"), ("coarse", "64k")):
        run("qemu-img", "bitmap", "--add", "-g", size, path, name)
    before = path.read_bytes()
    with open_image(path) as node:
        content = np.frombuffer(node.read(0, SIZE), dtype=np.uint8)
    journal = Journal(monkeypatch)
    choose = random.Random(seed)
    flushed = []  # operations, and what the disk held when they were flushed
    with contextlib.closing(open_writable(path, "qcow2")) as node:
        for _ in range(14):
            at, length = choose.randrange(SIZE // 512) * 512, choose.randrange(1, 150_000)
            length = min(length, SIZE - at)
            what = choose.choice(["write", "write", "zero", "discard", "flush"])
            if what == "write":
                node.write_from(at, memoryview(bytes([choose.randrange(3, 256)]) * length))
            elif what == "zero":
                node.write_zeroes(at, length, unmap=choose.random() < 0.5)
            elif what == "discard":
                node.discard(at, length)
            else:
                node.flush()
                flushed.append((len(journal.operations), bytes(node.read(0, SIZE))))
        final = {one.name: one.bitmap.copy() for one in node.bitmaps.values()}
        whole = bytes(node.read(0, SIZE))
    monkeypatch.undo()
    assert bits(path) == final
    count = len(journal.operations)
    trusted = 0
    for at in range(0, count + 1, max(1, count // 60)) if count > 60 else range(count + 1):
        for random_source in (None, choose, choose):
            crashed.write_bytes(journal.after_crash(before, at, random_source))
            found = check_image(str(crashed))
            assert found.corruptions == 0, (at, found.messages)
            with open_image(crashed) as node:
                now = np.frombuffer(node.read(0, SIZE), dtype=np.uint8)
                changed = np.flatnonzero(now != content)
                for one in node.bitmaps.values():
                    if one.bitmap is None:
                        continue
                    trusted += 1
                    marks = np.zeros(SIZE, dtype=np.bool_)
                    for start, length, flags in one.bitmap.extents():
                        marks[start : start + length] = bool(flags)
                    assert marks[changed].all(), (at, one.name)
    assert trusted
    crashed.write_bytes(journal.after_crash(before, count, None))
    assert bits(crashed) == final
    with open_image(crashed) as node:
        assert node.read(0, SIZE) == whole
    # What was flushed is there, unless something later has changed it.
    for number, (at, then) in enumerate(flushed):
        later = flushed[number + 1][0] if number + 1 < len(flushed) else count
        crashed.write_bytes(journal.after_crash(before, at, None))
        with open_image(crashed) as node:
            assert node.read(0, SIZE) == then, (at, later)
