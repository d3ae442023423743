"""The same changes to an image by us and to its twin by qemu-io: contents, maps and bitmaps."""

from __future__ import annotations

import itertools
import json
import random
import subprocess

import pytest
from beside import ours, uri
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peers import nbdinfo_map, qemu_nbd, run

from nbexport import block
from nbexport.errors import FormatError, UsageError

pytestmark = pytest.mark.interop

SIZE = (6 << 20) + 7 * 512
BACKING_SIZE = (4 << 20) + 512
OPTIONS = [
    "", "compat=0.10", "cluster_size=512", "cluster_size=2M", "cluster_size=4k,refcount_bits=1",
    "refcount_bits=64", "extended_l2=on", "extended_l2=on,cluster_size=16k", "data_file=TWIN.data",
    "data_file=TWIN.data,data_file_raw=on", "lazy_refcounts=on", "compression_type=zstd",
    "preallocation=metadata",
]  # fmt: skip
VARIANTS = ["plain", "backing compressed", "snapshot compressed", "backing snapshot"]


def possible(options, variant):
    if "snapshot" in variant and ("refcount_bits=1" in options or "data_file" in options):
        return False
    if "compressed" in variant and ("data_file" in options or "2M" in options):
        return False
    return not ("backing" in variant and ("raw" in options or "preallocation" in options))


MATRIX = [each for each in itertools.product(OPTIONS, VARIANTS) if possible(*each)]


def has_bitmaps(options):
    return "compat=0.10" not in options


def io(image, *commands):
    words = [word for line in commands for word in ("-c", line)]
    run("qemu-io", "-d", "unmap", "-f", "qcow2", *words, image)


def twins(folder, options, variant):
    """Make an image twice: theirs, ours."""
    words = []
    if "backing" in variant:
        base = folder / "base.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", base, str(BACKING_SIZE))
        io(base, "write -P 77 0 3M", "write -P 78 3500k 100k")
        words = ["-b", base, "-F", "qcow2"]
    made = []
    for name in ("theirs", "ours"):
        image = folder / f"{name}.qcow2"
        given = ["-o", options.replace("TWIN", str(folder / name))] if options else []
        run("qemu-img", "create", "-q", "-f", "qcow2", *given, *words, image, str(SIZE))
        if "compressed" in variant and "preallocation" not in options:
            io(image, "write -c -P 9 2M 128k", "write -c -P 8 4M 64k")
        io(image, "write -P 5 100k 300k")
        if "snapshot" in variant:
            run("qemu-img", "snapshot", "-c", "s", image)
        if has_bitmaps(options):
            run("qemu-img", "bitmap", "--add", image, "on")
            run("qemu-img", "bitmap", "--add", "-g", "4096", image, "off")
            run("qemu-img", "bitmap", "--disable", image, "off")
        made.append(image)
    return made


def change(chance):
    """Return a random change: its kind, offset, length and byte."""
    kind = chance.choice(["write"] * 5 + ["zero", "unmap", "discard", "flush"])
    offset = chance.randrange(SIZE // 512) * 512
    length = chance.choice([512, 1024, 4096, 65536, 200 << 10, 512 * chance.randrange(1, 2000)])
    return kind, offset, min(length, SIZE - offset), chance.randrange(1, 255)


WORDS = {
    "write": "write -P {2} {0} {1}", "zero": "write -z {0} {1}", "unmap": "write -z -u {0} {1}",
    "discard": "discard {0} {1}", "flush": "flush",
}  # fmt: skip


def do(node, kind, offset, length, byte):
    if kind == "write":
        node.write_from(offset, memoryview(bytes([byte]) * length))
    elif kind == "flush":
        node.flush()
    elif kind == "discard":
        node.discard(offset, length)
    else:
        node.write_zeroes(offset, length, unmap=kind == "unmap")


def raw_content(image, *options):
    target = image.with_suffix(".raw")
    run("qemu-img", "convert", *options, "-f", "qcow2", "-O", "raw", image, target)
    return target.read_bytes()


def told_map(image):
    """Return what qemu-img map tells, without places and with equal neighbours joined."""
    found = []
    for entry in json.loads(run("qemu-img", "map", "--output=json", image).stdout):
        # Where data are zeroes of the file is the file system's affair, and that of who wrote it.
        kind = entry["data"], entry["zero"] and not entry["data"], entry["depth"]
        if found and found[-1][1] == kind:
            found[-1][0] += entry["length"]
        else:
            found.append([entry["length"], kind])
    return found


def bitmap_maps(image, folder):
    words = ["-B", "on", "-B", "off"]
    with qemu_nbd(image, folder, *words) as where:
        maps = [nbdinfo_map(where, f"qemu:dirty-bitmap:{name}") for name in ("on", "off")]
    info = json.loads(run("qemu-img", "info", "--output=json", image).stdout)
    return maps, info["format-specific"]["data"]["bitmaps"]


@pytest.mark.parametrize(("options", "variant"), MATRIX)
def test_the_same_changes_give_the_same_disk(options, variant, tmp_path):
    theirs, mine = twins(tmp_path, options, variant)
    chance = random.Random(f"{options}/{variant}")
    changes = [change(chance) for _ in range(50)]
    io(theirs, *(WORDS[kind].format(*rest) for kind, *rest in changes))
    with block.open_writable(mine, "qcow2") as node:
        for each in changes:
            do(node, *each)
        seen = node.read(0, node.size)
    assert "No errors were found" in run("qemu-img", "check", mine).stdout
    assert raw_content(mine) == raw_content(theirs) == seen
    if "data_file_raw" in options:
        assert (tmp_path / "ours.data").read_bytes()[:SIZE] == seen
    elif not ("extended_l2" in options and "compressed" in variant):
        # Which subclusters of a compressed cluster become data is the one choice that may differ.
        assert told_map(mine) == told_map(theirs)
    if "snapshot" in variant:
        assert raw_content(mine, "-l", "s") == raw_content(theirs, "-l", "s")
    if has_bitmaps(options):
        assert bitmap_maps(mine, tmp_path) == bitmap_maps(theirs, tmp_path)


STEPS = st.lists(
    st.tuples(
        st.sampled_from([*WORDS, "write", "write", "reopen"]),
        st.integers(0, SIZE // 512 - 1).map(lambda sector: sector * 512),
        st.integers(1, 900).map(lambda sectors: sectors * 512),
        st.integers(1, 254),
    ),
    min_size=1,
    max_size=25,
)


@pytest.mark.parametrize("options", ["", "cluster_size=1k", "extended_l2=on", "compat=0.10"])
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_any_changes_with_the_image_opened_again_between_them(options, steps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins")
    theirs, mine = twins(folder, options, "backing")
    steps = [(kind, at, min(length, SIZE - at), byte) for kind, at, length, byte in steps]
    io(theirs, *(WORDS[kind].format(*rest) for kind, *rest in steps if kind in WORDS))
    node = block.open_writable(mine, "qcow2")
    for each in steps:
        if each[0] == "reopen":
            node.close()
            assert "No errors were found" in run("qemu-img", "check", mine).stdout
            node = block.open_writable(mine, "qcow2")
        else:
            do(node, *each)
    node.close()
    assert "No errors were found" in run("qemu-img", "check", mine).stdout
    assert "identical" in run("qemu-img", "compare", mine, theirs).stdout


def test_what_a_change_shows_at_once(tmp_path):
    """Maps and data follow each write, before anything is stored."""
    image = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "8M")
    with block.open_writable(image, "qcow2") as node:
        assert list(node.allocation()) == [(0, 8 << 20, 3)]
        before = node.version()
        node.write_from(100_000, memoryview(b"x" * 10))
        assert node.version() != before
        assert [flags for _, _, flags in node.allocation()] == [3, 0, 3]
        assert node.read(99_999, 12) == b"\0" + b"x" * 10 + b"\0"
        node.discard(65536, 65536)
        assert node.read(100_000, 10) == bytes(10)
        with pytest.raises(UsageError, match="outside the disk"):
            node.write_from(8 << 20, memoryview(b"x"))


def test_what_cannot_be_written_is_refused(tmp_path):
    image = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    for bit, text in ((0, "was not closed cleanly"), (1, "Image is corrupt; cannot be opened")):
        data = bytearray(image.read_bytes())
        data[72 + 7] |= 1 << bit
        damaged = tmp_path / f"damaged{bit}.qcow2"
        damaged.write_bytes(data)
        with pytest.raises(FormatError, match=text):
            block.open_writable(damaged, "qcow2")
        assert damaged.read_bytes() == data
    with pytest.raises(FormatError, match="vdi"):
        block.open_writable(image, "vdi")
    with block.open_writable(image, "qcow2"):
        done = run("qemu-io", "-f", "qcow2", "-c", "write 0 512", image, check=False)
        assert 'Failed to get "write" lock' in done.stderr + done.stdout


@pytest.mark.parametrize("options", ["", "extended_l2=on", "data_file=TWIN.data"])
def test_clients_write_through_a_server_and_bitmaps_are_kept(options, tmp_path):
    theirs, mine = twins(tmp_path, options, "plain")
    source = tmp_path / "source.raw"
    source.write_bytes(random.Random(3).randbytes(SIZE - (1 << 20)) + bytes(1 << 20))
    with qemu_nbd(theirs, tmp_path, "--discard=unmap", "-f", "qcow2") as where:
        write_by_clients(where, source)
    with ours(mine, tmp_path / "s", "-f", "qcow2", "--writable", "--discard", "unmap") as process:
        write_by_clients(uri(tmp_path / "s"), source)
        process.terminate()
        assert process.wait(20) == 0
    assert "No errors were found" in run("qemu-img", "check", mine).stdout
    assert "identical" in run("qemu-img", "compare", mine, theirs).stdout
    assert bitmap_maps(mine, tmp_path) == bitmap_maps(theirs, tmp_path)


def write_by_clients(where, source):
    subprocess.run(["nbdcopy", str(source), where], check=True, timeout=60)
    words = ["-c", "write -P 9 1000 5000", "-c", "write -z 3M 100k", "-c", "flush"]
    run("qemu-io", "-f", "raw", *words, where)
