"""Damaged and hostile images, statement by statement: served or refused as by qemu-nbd."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import pytest
from beside import (
    BASE,
    BITMAP,
    EIO,
    NBEXPORT,
    Pair,
    begin,
    beside,
    error_of,
    ours,
    same,
    theirs,
    uri,
)  # fmt: skip
from click.testing import CliRunner
from disks import bitmap_entries, layers, write
from nbd_talk import DF, READ, STATUS, Talk, request
from peers import background, nbdinfo_map, run

from nbexport.cli.main import cli
from nbexport.errors import NbexportError

pytestmark = pytest.mark.interop

MiB = 1 << 20
K64 = 65536
COPIED = 1 << 63
MEMORY_MAX = 400 << 20  # of a process that has read hostile tables; it starts with about 60 MiB

# Image, where in the file, layout, value. The rows of the header, then those of its bitmaps.
HEADER = {
    "magic": ("plain", 0, ">I", 0x514649FA), "version": ("plain", 4, ">I", 4),
    "backing name behind the first cluster": ("plain", 8, ">Q", K64 + 1),
    "backing name too long": ("overlay", 16, ">I", 1024),
    "cluster size": ("plain", 20, ">I", 22), "encryption": ("plain", 32, ">I", 3),
    "encryption without its header": ("plain", 32, ">I", 2),
    "L1 too small": ("plain", 36, ">I", 0), "L1 unaligned": ("plain", 40, ">Q", 0x30001),
    "no refcounts": ("plain", 56, ">I", 0), "snapshots": ("plain", 60, ">I", 65537),
    "unknown feature": ("plain", 72, ">Q", 1 << 5), "unnamed feature": ("plain", 72, ">Q", 1 << 33),
    "compression feature alone": ("plain", 72, ">Q", 8),
    "compression type alone": ("plain", 104, ">B", 1),
    "compression type": ("plain", 104, ">B", 2), "refcount width": ("plain", 96, ">I", 7),
    "header too short": ("plain", 100, ">I", 103), "header too long": ("plain", 100, ">I", 65544),
    "extension too large": ("plain", 116, ">I", K64),
    "raw data file without a data file": ("plain", 88, ">Q", 2),
}  # fmt: skip
BITMAPS = {
    "extension length": ("extension", 4, ">I", 16), "reserved": ("extension", 12, ">I", 1),
    "none": ("extension", 8, ">I", 0), "too many": ("extension", 8, ">I", 65536),
    "more than said": ("extension", 8, ">I", 1), "fewer than said": ("extension", 8, ">I", 3),
    "directory unaligned": ("extension", 24, ">Q", 0x4008),
    "directory too big": ("extension", 16, ">Q", 67107841),
    "directory of nothing": ("extension", 16, ">Q", 0),
    "directory not filled": ("extension", 16, ">Q", 40),
    "granularity": ("first", 17, ">B", 8), "large granularity": ("first", 17, ">B", 32),
    "name too long": ("first", 18, ">H", 1024), "unknown flag": ("first", 12, ">I", 8),
    "extra data flag": ("first", 12, ">I", 4), "type": ("first", 16, ">B", 2),
    "table at 0": ("first", 0, ">Q", 0), "table unaligned": ("first", 0, ">Q", 0x6008),
    "table too long": ("first", 8, ">I", 2), "extra data": ("first", 20, ">I", 8),
    "same name": ("second", 24, ">6s", b"first\0"),
    "table entry": ("table", 0, ">Q", 2), "table entry unaligned": ("table", 0, ">Q", 0x800),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of good images: plain, overlay, and one of two bitmaps."""
    folder = tmp_path_factory.mktemp("good")
    made = {"plain": layers(folder, ("qcow2", "1M", "", ())).read_bytes()}
    words = ("-u", "-b", "missing.raw", "-F", "raw", folder / "overlay.qcow2", "1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", *words)
    made["overlay"] = (folder / "overlay.qcow2").read_bytes()
    image = layers(folder, ("qcow2", "1M", "cluster_size=4k", ()))
    for name in ("first", "second"):
        run("qemu-img", "bitmap", "--add", image, name)
    made["bitmaps"] = image.read_bytes()
    return made


def refusals(image, *options):
    """Return why qemu-nbd and our command do not serve an image: without name and program."""
    words = [*options, "-f", "qcow2", str(image), "-k"]
    done = run("qemu-nbd", "-r", "-t", *words, image.parent / "s", check=False)
    assert done.returncode == 1
    line = done.stderr.strip().rpartition("qemu-nbd: ")[2]
    its = line.removeprefix(f"Failed to blk_new_open '{image}': ")
    # Should it not be refused it has nowhere to listen.
    result = CliRunner().invoke(cli, ["serve", *words, str(image.parent / "none" / "s")])
    assert isinstance(result.exception, NbexportError | OSError), result.output
    return its, str(result.exception).removeprefix(f"{image}: ")


def place(data, name):
    if name == "extension":
        return data.index(struct.pack(">II", 0x23852875, 24))
    entries = bitmap_entries(data)
    if name == "table":
        return struct.unpack_from(">Q", data, entries["first"])[0]
    return entries[name]


@pytest.mark.parametrize("fault", HEADER)
def test_123_a_header_with_a_fault_is_refused_in_qemus_words(fault, good, tmp_path):
    """One field of a good image is changed; neither server starts, and both say the same."""
    name, offset, layout, value = HEADER[fault]
    data = bytearray(good[name])
    struct.pack_into(layout, data, offset, value)
    image = tmp_path / "bad.qcow2"
    image.write_bytes(data)
    theirs, mine = refusals(image)
    assert mine == theirs


@pytest.mark.parametrize("fault", BITMAPS)
def test_123_a_bitmap_with_a_fault_is_refused_in_qemus_words(fault, good, tmp_path):
    """The same for the extension of bitmaps, their directory and their tables."""
    name, offset, layout, value = BITMAPS[fault]
    data = bytearray(good["bitmaps"])
    struct.pack_into(layout, data, place(good["bitmaps"], name) + offset, value)
    image = tmp_path / "bad.qcow2"
    image.write_bytes(data)
    theirs, mine = refusals(image, "-B", "second")
    assert mine == theirs


def zstd_bomb(size, count):
    """Return a frame of ``count`` blocks that repeat a byte ``size`` times each."""
    frame = struct.pack("<IBB", 0xFD2FB528, 0, 7 << 3)  # no checksum; a window of 128 KiB
    for number in range(count):
        header = int(number == count - 1) | 1 << 1 | size << 3
        frame += header.to_bytes(3, "little") + b"x"
    return frame


def tables(data):
    """Return the offsets of the L1 table and of the first L2 table."""
    (l1,) = struct.unpack_from(">Q", data, 40)
    return l1, struct.unpack_from(">Q", data, l1)[0] & ~COPIED


def hostile(kind, data):
    l1, l2 = tables(data)
    end = len(data)
    if kind == "L1 behind the end":
        struct.pack_into(">Q", data, 40, 1 << 40)
    elif kind == "largest L1":
        struct.pack_into(">I", data, 36, 4 << 20)
    elif kind == "L2 behind the end":
        struct.pack_into(">Q", data, l1, COPIED | 1 << 45)
    elif kind == "data behind the end":
        struct.pack_into(">2Q", data, l2 + 8, COPIED | 1 << 45, COPIED | 1 << 55)
    elif kind == "L1 is its own L2":
        struct.pack_into(">Q", data, l1, COPIED | l1)
    elif kind == "L2 is its own data":
        struct.pack_into(">3Q", data, l2, COPIED | l2, COPIED | l1, COPIED)
    elif kind == "unaligned":
        struct.pack_into(">Q", data, l2 + 8, COPIED | 0x51200)
    elif kind == "compressed garbage":
        struct.pack_into(">Q", data, l2 + 8, 1 << 62 | 0x50000)
    elif kind == "compressed behind the end":
        struct.pack_into(">Q", data, l2 + 8, 1 << 62 | end + K64)
    else:  # 4 KiB that would become 127 MiB
        bomb = zstd_bomb(128 << 10, 1018)
        assert 4000 < len(bomb) <= 4096
        data += bomb.ljust(4096, b"\0")
        sectors = 4096 // 512 - 1
        struct.pack_into(">Q", data, l2 + 8, 1 << 62 | sectors << 54 | end)
    return data


HOSTILE = ("L1 behind the end", "largest L1", "L2 behind the end", "data behind the end",
           "L1 is its own L2", "L2 is its own data", "unaligned", "compressed garbage",
           "compressed behind the end", "zstd bomb")  # fmt: skip


def peak_memory(process):
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) << 10


@pytest.mark.parametrize("kind", HOSTILE)
def test_124_hostile_tables_cost_an_error_and_not_the_server(kind, tmp_path):
    """Each cluster reads as with qemu-nbd, or fails alone; memory stays bounded."""
    options = "compression_type=zstd" if kind == "zstd bomb" else ""
    image = layers(tmp_path, ("qcow2", "4M", options, ("write -P 7 0 1M", "write -P 8 3M 64k")))
    image.write_bytes(hostile(kind, bytearray(image.read_bytes())))

    def script(t):
        begin(t)
        for at in (*range(0, 5 * K64, K64), 3 * MiB, 4 * MiB - 512):
            length = min(K64, 4 * MiB - at)
            t.send(request(READ, at, length, DF))
            reply = t.take_reply()
            assert error_of(reply) in {0, EIO}

    pair = Pair(tmp_path / "t", tmp_path / "o")
    with (
        theirs(image, pair.theirs, "-r", "-f", "qcow2"),
        ours(image, pair.ours, "-f", "qcow2") as process,
        Talk(pair.ours) as talk,
    ):
        same(pair, script)
        begin(talk, BASE)
        assert error_of(talk.request(STATUS, 0, 4 * MiB)) in {0, EIO}
        talk.send(request(READ, 0, 4 * MiB))
        assert error_of(talk.take_reply()) in {0, EIO}
        assert error_of(talk.request(READ, 3 * MiB, 512, DF)) in {0, EIO}
        assert peak_memory(process) < MEMORY_MAX


def test_124_bits_behind_the_end_of_the_file_are_clear(two_bitmaps_copy, tmp_path):
    """The table of one bitmap and the bits of the other lie where the file has nothing."""
    data = bytearray(two_bitmaps_copy.read_bytes())
    entries = bitmap_entries(data)
    struct.pack_into(">Q", data, entries["weekly"], 1 << 40)
    (table,) = struct.unpack_from(">Q", data, entries["daily"])
    struct.pack_into(">Q", data, table, 1 << 45)
    two_bitmaps_copy.write_bytes(data)
    names = ("weekly", "daily")
    with beside(two_bitmaps_copy, tmp_path, "-f", "qcow2", bitmaps=names) as pair:
        for name in names:
            maps = [nbdinfo_map(uri(path), BITMAP + name) for path in pair]
            assert maps[0] == maps[1]
            assert [row["type"] for row in maps[1]] == [0]


def link(image, backing, form):
    """Make an overlay without looking at what it names."""
    words = ("-u", "-b", str(backing), "-F", form, image, "1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", *words)
    return image


def test_125_a_chain_that_bites_its_tail_is_refused(tmp_path):
    """a over b over a, and a over itself: a clear error, at once."""
    link(tmp_path / "a.qcow2", "b.qcow2", "qcow2")
    link(tmp_path / "b.qcow2", "a.qcow2", "qcow2")
    link(tmp_path / "self.qcow2", "self.qcow2", "qcow2")
    for name in ("a", "b", "self"):
        image = tmp_path / f"{name}.qcow2"
        result = CliRunner().invoke(cli, ["serve", str(image), "-k", str(tmp_path / "s")])
        assert isinstance(result.exception, NbexportError)
        assert "Backing chain is a loop" in str(result.exception)
        assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("backing", "form"), [("none.raw", "raw"), ("/none/x.qcow2", "qcow2"), (".", "raw"),
                          ("garbage", "qcow2")]
)  # fmt: skip
def test_125_a_backing_file_that_cannot_be_used_is_named(backing, form, tmp_path, monkeypatch):
    """Missing, a folder, or of another format: both servers say the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garbage").write_bytes(b"garbage\n" * 100)
    image = link(tmp_path / "top.qcow2", backing, form)
    theirs, mine = refusals(image)
    assert mine == theirs


ELSEWHERE = ("nbd://127.0.0.1:1/x", "json:{'driver':'nbd','host':'127.0.0.1','port':'1'}")


@pytest.mark.parametrize("backing", ELSEWHERE)
def test_125_other_protocols_are_not_followed(backing, tmp_path):
    """An image must not make a server connect to wherever it says."""
    link(image := tmp_path / "top.qcow2", backing.replace("'", '"'), "raw")
    result = CliRunner().invoke(cli, ["serve", str(image), "-k", str(tmp_path / "s")])
    assert isinstance(result.exception, NbexportError | OSError)
    assert str(result.exception).startswith(f"{image}: ")


@pytest.mark.parametrize("kind", ["relative", "absolute", "data file"])
def test_125_files_in_other_folders_are_found(kind, tmp_path):
    """Names are seen from the folder of the image that has them, wherever the server runs."""
    for name in ("below", "above"):
        (tmp_path / name).mkdir()
    image = tmp_path / "above" / "top.qcow2"
    if kind == "data file":
        options = f"data_file={tmp_path}/below/data.raw"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, "1M")
    else:
        base = layers(tmp_path / "below", ("raw", "1M", "", ("write -P 5 64k 64k",)))
        link(image, f"../below/{base.name}" if kind == "relative" else base, "raw")
    write(image, "write -P 6 512k 64k")

    def script(t):
        begin(t, BASE)
        t.request(STATUS, 0, MiB)
        t.request(READ, 0, MiB, DF)

    with beside(image, tmp_path, "-f", "qcow2") as pair:
        reply = same(pair, script)[-1]
    assert reply[28 + 512 * 1024 :][:K64] == b"\6" * K64


def mark_in_use(image, name):
    data = bytearray(image.read_bytes())
    at = bitmap_entries(data)[name] + 15
    assert data[at] == 2  # enabled
    data[at] |= 1
    image.write_bytes(data)


def test_126_a_bitmap_marked_in_use_is_refused_and_its_neighbour_is_not(two_bitmaps_copy, tmp_path):
    """Its writer has crashed or is still at it: nothing it says can be relied on."""
    mark_in_use(two_bitmaps_copy, "weekly")
    theirs, mine = refusals(two_bitmaps_copy, "-B", "weekly")
    assert mine == theirs == "Bitmap 'weekly' is inconsistent and cannot be used"
    with beside(two_bitmaps_copy, tmp_path, "-f", "qcow2", bitmaps=("daily",)) as pair:
        maps = [nbdinfo_map(uri(path), f"{BITMAP}daily") for path in pair]
    assert maps[0] == maps[1]
    assert len(maps[1]) > 5


def test_126_bitmaps_of_a_careless_writer_are_left_out_with_a_warning(two_bitmaps_copy, tmp_path):
    """Without the autoclear bit an image has no bitmaps, and its user is told why."""
    data = bytearray(two_bitmaps_copy.read_bytes())
    assert struct.unpack_from(">Q", data, 88) == (1,)
    struct.pack_into(">Q", data, 88, 0)
    two_bitmaps_copy.write_bytes(data)
    theirs, mine = refusals(two_bitmaps_copy, "-B", "weekly")
    assert mine == theirs == "Bitmap 'weekly' is not found"
    path = tmp_path / "s"
    with background(
        *NBEXPORT, "serve", two_bitmaps_copy, "-k", path, ready=path, stdout=subprocess.DEVNULL
    ) as process:
        listed = run("nbdinfo", "--json", uri(path)).stdout
        assert "base:allocation" in listed
        assert "dirty-bitmap" not in listed
        process.terminate()
        process.wait(20)
        warning = process.stderr.read().decode()
    assert warning.count("\n") == 1
    assert "a program without bitmap support wrote to this image" in warning


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_127_a_served_image_is_not_changed(two_bitmaps_copy, tmp_path, number):
    """Neither by what clients ask, nor by the way in which the server ends."""

    def state():
        return {path.name: (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns)
                for path in sorted(tmp_path.glob("*.qcow2"))}  # fmt: skip

    before = state()
    path = tmp_path / "s"
    words = ("-f", "qcow2", "-A", "-B", "weekly", "-B", "daily")
    with ours(two_bitmaps_copy, path, *words) as process, Talk(path) as talk:
        begin(talk, f"{BITMAP}daily")
        run("nbdinfo", "--map=qemu:dirty-bitmap:weekly", uri(path))
        run("qemu-io", "-r", "-f", "raw", "-c", "read 0 1M", uri(path))
        talk.send(request(READ, 0, 4096, DF) * 16)
        process.send_signal(number)
        assert process.wait(20) == (-number if number == signal.SIGKILL else 0)
    assert state() == before


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_128_an_image_that_is_cut_costs_errors_and_not_the_server(form, tmp_path):
    """What is gone cannot be read; the rest can, and so can all of it when it is back.

    QEMU reads zeroes behind the new end of a raw file, which clients would take for the disk's.
    """
    image = layers(tmp_path, (form, "4M", "", ("write -P 7 0 4M",)))
    whole = shutil.copy(image, tmp_path / "whole")
    path = tmp_path / "s"
    with ours(image, path, "-f", form), Talk(path) as talk:
        begin(talk, BASE)
        assert talk.request(READ, 0, 4 * MiB, DF)[28:] == b"\7" * (4 * MiB)
        os.truncate(image, 2 * MiB)
        talk.send(request(READ, 3 * MiB, MiB, DF))
        assert error_of(talk.take_reply()) == EIO
        talk.send(request(READ, MiB, 2 * MiB, DF))
        assert error_of(talk.take_reply()) == EIO
        assert talk.request(READ, MiB, 4096, DF)[28:] == b"\7" * 4096
        assert error_of(talk.request(STATUS, 0, 4 * MiB)) in {0, EIO}
        shutil.copyfile(whole, image)
        assert talk.request(READ, 3 * MiB, 4096, DF)[28:] == b"\7" * 4096
        with image.open("ab") as file:
            file.write(b"x" * MiB)
        assert talk.request(READ, 3 * MiB, 4096, DF)[28:] == b"\7" * 4096
        assert run("nbdinfo", "--size", uri(path)).stdout.strip() == str(4 * MiB)
