"""A host that dies at any moment: what was flushed is there, and nothing lies.

What reaches the file is recorded. A crash keeps everything up to the last flush, and of what came
after it any part, as a disk's cache may.
"""

from __future__ import annotations

import json
import random
import shutil

import pytest
from crash_journal import Journal
from peers import run

from nbexport import block

pytestmark = pytest.mark.interop

SIZE = 3 << 20
CRASHES = 40


def changes(chance):
    for _ in range(30):
        kind = chance.choice(["write", "write", "write", "zero", "discard", "flush"])
        offset = chance.randrange(SIZE // 512) * 512
        yield kind, offset, min(SIZE - offset, 512 * chance.randrange(1, 400))


def do(node, kind, offset, length, byte):
    if kind == "write":
        node.write_from(offset, memoryview(bytes([byte]) * length))
    elif kind == "zero":
        node.write_zeroes(offset, length)
    elif kind == "discard":
        node.discard(offset, length)
    else:
        node.flush()


@pytest.mark.parametrize("options", ["", "cluster_size=512", "extended_l2=on", "refcount_bits=1"])
@pytest.mark.parametrize("variant", ["plain", "snapshot", "compressed"])
def test_a_crash_at_any_moment(options, variant, tmp_path, monkeypatch):
    if "refcount_bits=1" in options and variant == "snapshot":
        variant = "plain"
    image = tmp_path / "disk.qcow2"
    words = ["-o", options] if options else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *words, image, str(SIZE))
    packed = ["-c", "write -c -P 3 1M 64k"] if variant == "compressed" else []
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 64k 300k", *packed, image)
    if variant == "snapshot":
        run("qemu-img", "snapshot", "-c", "s", image)
    run("qemu-img", "bitmap", "--add", image, "b0")
    chance = random.Random(f"{options}/{variant}")
    before = image.read_bytes()
    journal = Journal(monkeypatch)
    flushed = []  # how much was logged, what the disk was then
    done = []  # how much was logged before and after, which range
    with block.open_writable(image, "qcow2") as node:
        opened = len(journal.operations)
        flushed.append((opened, node.read(0, SIZE)))
        for number, (kind, offset, length) in enumerate(changes(chance), 1):
            begun = len(journal.operations)
            do(node, kind, offset, length, number)
            if kind == "flush":
                flushed.append((len(journal.operations), node.read(0, SIZE)))
            else:
                done.append((begun, offset, length))
    monkeypatch.undo()
    after = tmp_path / "after.qcow2"
    shutil.copy(image, tmp_path / "end.qcow2")
    for _ in range(CRASHES):
        at = chance.randrange(opened, len(journal.operations) + 1)
        after.write_bytes(journal.after_crash(before, at, chance))
        check(after, at, flushed, done, closed=at == len(journal.operations))


def check(image, at, flushed, done, *, closed):
    told = run("qemu-img", "check", "--output=json", image, check=False)
    assert told.returncode in {0, 3}, told.stdout + told.stderr  # clean, or leaks only
    report = json.loads(told.stdout)
    assert not report.get("corruptions"), report
    info = json.loads(run("qemu-img", "info", "--output=json", image).stdout)
    bitmaps = info["format-specific"]["data"].get("bitmaps", [])
    if not closed and not any("in-use" in bitmap["flags"] for bitmap in bitmaps):
        # The last thing that closing does: none is trusted while the directory changes, then the
        # bits are those of the whole history.
        assert at > done[-1][0]
    assert bitmaps or not closed
    target = image.with_suffix(".raw")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, target)
    found = target.read_bytes()
    logged, expected = [entry for entry in flushed if entry[0] <= at][-1]
    # What nothing has touched since the flush is as it was then.
    touched = bytearray(SIZE // 512)
    for begun, offset, length in done:
        if logged <= begun <= at:
            touched[offset // 512 : (offset + length) // 512] = b"\1" * (length // 512)
    for sector in range(SIZE // 512):
        if not touched[sector]:
            part = slice(sector * 512, sector * 512 + 512)
            assert found[part] == expected[part], f"sector {sector} of what was flushed"
    with block.open_image(image) as node:
        assert node.read(0, SIZE) == found
