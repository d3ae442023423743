"""What is left of bitmaps when their writer dies at any moment: the old, the new, or distrust."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from peers import run

from nbexport.block import FileNode, check_image, edit_bitmaps, open_image

if TYPE_CHECKING:
    from pathlib import Path

    from nbexport.bits import Bitmap

pytestmark = pytest.mark.interop

KiB, MiB = 1 << 10, 1 << 20
SIZE = 3 * MiB


class Journal:
    """What a program does to its files, in order: enough to play any crash."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.operations: list[tuple[str, int, bytes]] = []
        write, grow, flush = FileNode._write, FileNode.grow, FileNode._flush

        def logged_write(node: FileNode, offset: int, data: memoryview) -> None:
            self.operations.append(("write", offset, bytes(data)))
            write(node, offset, data)

        def logged_grow(node: FileNode, size: int) -> None:
            self.operations.append(("grow", size, b""))
            grow(node, size)

        def logged_flush(node: FileNode) -> None:
            self.operations.append(("flush", 0, b""))
            flush(node)

        monkeypatch.setattr(FileNode, "_write", logged_write)
        monkeypatch.setattr(FileNode, "grow", logged_grow)
        monkeypatch.setattr(FileNode, "_flush", logged_flush)

    def after_crash(self, before: bytes, at: int, choose: random.Random | None) -> bytes:
        """Return the file after the first ``at`` operations.

        Args:
            before: the file at the beginning.
            at: how many operations happened.
            choose: what drops or tears some of those that no flush followed; None keeps all.
        """
        flushed = max((n + 1 for n in range(at) if self.operations[n][0] == "flush"), default=0)
        image = bytearray(before)
        for number, (what, offset, data) in enumerate(self.operations[:at]):
            if number >= flushed and choose is not None:
                if choose.random() < 0.5:
                    continue
                if offset >= 512:  # a sector, such as the header's, is written wholly or not
                    data = data[: choose.randint(0, 2 * len(data))]
            if what == "grow" and offset > len(image):
                image.extend(bytes(offset - len(image)))
            elif what == "write":
                image.extend(bytes(max(0, offset + len(data) - len(image))))
                image[offset : offset + len(data)] = data
        return bytes(image)


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
        store._node.tracking.mark(MiB, 5 * KiB)
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
