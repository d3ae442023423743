"""Damaged images are refused with the words of QEMU, and accepted where QEMU accepts them."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import pytest
from peers import run

from nbexport.block import open_image
from nbexport.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.interop

BITMAPS = struct.pack(">II", 0x23852875, 24)
U64 = (1 << 64) - 1


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> dict[str, bytes]:
    """Good images: `plain`, `v2`, `bitmaps` (two of them) and `overlay` (of plain)."""
    folder = tmp_path_factory.mktemp("good")
    made: dict[str, bytes] = {}

    def create(name: str, *options: str) -> None:
        run("qemu-img", "create", "-q", "-f", "qcow2", *options, f"{name}.qcow2", "1M", cwd=folder)

    create("plain")
    create("v2", "-o", "compat=0.10")
    create("overlay", "-u", "-b", "missing.img", "-F", "raw")
    create("bitmaps", "-o", "cluster_size=4k")
    for name in ("first", "second"):
        run("qemu-img", "bitmap", "--add", folder / "bitmaps.qcow2", name)
    for path in folder.iterdir():
        made[path.stem] = path.read_bytes()
    return made


def peer_refusal(path: Path, *options: str) -> str | None:
    """Return QEMU's reason not to open an image read-only; None if it opens."""
    done = run("qemu-io", "-r", *options, "-c", "quit", path, check=False)
    lines = [line for line in done.stderr.splitlines() if "can't open" in line]
    if not lines:
        assert done.returncode == 0, done.stderr
        return None
    return re.sub(r"^.*?can't open( device [^:]*)?: ", "", lines[0])


def own_refusal(path: Path, format_name: str | None = "qcow2") -> str | None:
    try:
        open_image(path, format=format_name).close()
    except FormatError as error:
        # The text for a user begins with the file, the text of QEMU is the rest.
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return str(error)
    return None


# image, offset in the file, layout, value or values
HEADER_FAULTS = {
    "magic": ("plain", 0, ">I", 0x514649FA),
    "version 1": ("plain", 4, ">I", 1),
    "version 4": ("plain", 4, ">I", 4),
    "backing offset beyond the cluster": ("plain", 8, ">Q", 65537),
    "backing offset huge": ("plain", 8, ">Q", U64),
    "backing name too long": ("overlay", 16, ">I", 1024),
    "backing name of the longest length": ("overlay", 16, ">I", 1023),
    "backing name length huge": ("overlay", 16, ">I", 0xFFFFFFFF),
    "backing name length 0": ("overlay", 16, ">I", 0),
    "cluster bits 8": ("plain", 20, ">I", 8),
    "cluster bits 9": ("plain", 20, ">I", 9),
    "cluster bits 22": ("plain", 20, ">I", 22),
    "cluster bits huge": ("plain", 20, ">I", 0xFFFFFFFF),
    "size 0": ("plain", 24, ">Q", 0),
    "size not in sectors": ("plain", 24, ">Q", 1000),
    "size beyond L1": ("plain", 24, ">Q", (1 << 29) + 1),
    "size 2^62": ("plain", 24, ">Q", 1 << 62),
    "size 2^63": ("plain", 24, ">Q", 1 << 63),
    "size 2^64-1": ("plain", 24, ">Q", U64),
    "encryption 3": ("plain", 32, ">I", 3),
    "encryption luks without header": ("plain", 32, ">I", 2),
    "L1 too large": ("plain", 36, ">I", (4 << 20) + 1),
    "L1 largest": ("plain", 36, ">I", 4 << 20),
    "L1 empty": ("plain", 36, ">I", 0),
    "L1 unaligned": ("plain", 40, ">Q", 0x30001),
    "L1 offset huge": ("plain", 40, ">Q", U64 & ~0xFFFF),
    "L1 behind the end": ("plain", 40, ">Q", 1 << 40),
    "L1 offset of the largest": ("plain", 40, ">Q", (1 << 63) - 65536),
    "refcount table offset of the largest": ("plain", 48, ">Q", (1 << 63) - (2 << 16)),
    "refcount table behind the end": ("plain", 48, ">Q", 1 << 40),
    "refcount table unaligned": ("plain", 48, ">Q", 0x10008),
    "refcount table of nothing": ("plain", 56, ">I", 0),
    "refcount table too large": ("plain", 56, ">I", 129),
    "refcount table largest": ("plain", 56, ">I", 128),
    "snapshots too many": ("plain", 60, ">I", 65537),
    "snapshots unaligned": ("plain", 64, ">Q", 512),
    "snapshots of garbage": ("plain", 60, ">IQ", (40, 0x20000)),
    "snapshots at the header": ("plain", 60, ">IQ", (40, 0)),
    "snapshots behind the end": ("plain", 60, ">IQ", (40, 1 << 40)),
    "feature raw data file": ("plain", 88, ">Q", 2),
    "encryption huge": ("plain", 32, ">I", 0xFF000000),
    "feature dirty": ("plain", 72, ">Q", 1),
    "feature corrupt": ("plain", 72, ">Q", 2),
    "feature compression without type": ("plain", 72, ">Q", 8),
    "feature unknown": ("plain", 72, ">Q", 1 << 29 | 1 << 5),
    "feature compatible unknown": ("plain", 80, ">Q", U64),
    "feature autoclear unknown": ("plain", 88, ">Q", U64 & ~3),
    "refcount order 7": ("plain", 96, ">I", 7),
    "refcount order 6": ("plain", 96, ">I", 6),
    "header too short": ("plain", 100, ">I", 103),
    "header without compression type": ("plain", 100, ">I", 104),
    "header length odd": ("plain", 100, ">I", 109),
    "header exceeds cluster": ("plain", 100, ">I", 65544),
    "header longer": ("plain", 100, ">I", 120),
    "compression type 2": ("plain", 104, ">B", 2),
    "compression type without feature": ("plain", 104, ">B", 1),
    "extension too large": ("plain", 112 + 4, ">I", 65536),
    "extension length huge": ("plain", 112 + 4, ">I", 0xFFFFFFFF),
    "extension unknown": ("plain", 112, ">I", 0x12345678),
    "extension of LUKS": ("plain", 112, ">I", 0x0537BE77),
    "backing format too long": ("overlay", 112 + 4, ">I", 16),
    "v2 features are not features": ("v2", 72, ">Q", 0),
    "good": ("plain", 0, ">4s", b"QFI\xfb"),
    "good v2": ("v2", 4, ">I", 2),
    "missing backing file": ("overlay", 4, ">I", 3),
}

# Offsets from the bitmaps extension's header ("ext") or from a directory entry.
BITMAP_FAULTS = {
    "extension length": ("ext", 4, ">I", 16),
    "no bitmaps": ("ext", 8, ">I", 0),
    "too many bitmaps": ("ext", 8, ">I", 65536),
    "more than said": ("ext", 8, ">I", 1),
    "fewer than said": ("ext", 8, ">I", 3),
    "reserved": ("ext", 12, ">I", 1),
    "directory of nothing": ("ext", 16, ">Q", 0),
    "directory too large": ("ext", 16, ">Q", 67107841),
    "directory largest": ("ext", 16, ">Q", 67107840),
    "directory cut": ("ext", 16, ">Q", 40),
    "directory cut in an entry": ("ext", 16, ">Q", 16),
    "directory longer": ("ext", 16, ">Q", 72),
    "directory unaligned": ("ext", 24, ">Q", 0x4008),
    "directory behind the end": ("ext", 24, ">Q", 1 << 40),
    "directory offset huge": ("ext", 24, ">Q", U64 & ~0xFFF),
    "table unaligned": ("first", 0, ">Q", 0x6008),
    "table at 0": ("first", 0, ">Q", 0),
    "table behind the end": ("first", 0, ">Q", 1 << 40),
    "table of nothing": ("first", 8, ">I", 0),
    "table too long": ("first", 8, ">I", 2),
    "table far too long": ("first", 8, ">I", 131073),
    "table largest": ("first", 8, ">I", 131072),
    "flag unknown": ("first", 12, ">I", 8),
    "flag extra": ("first", 12, ">I", 4),
    "in use": ("first", 12, ">I", 3),
    "type": ("first", 16, ">B", 2),
    "granularity small": ("first", 17, ">B", 8),
    "granularity smallest": ("first", 17, ">B", 9),
    "granularity largest": ("first", 17, ">B", 31),
    "granularity large": ("first", 17, ">B", 32),
    "name empty": ("first", 18, ">H", 0),
    "name long": ("first", 18, ">H", 1024),
    "name shorter": ("first", 18, ">H", 2),
    "name over the end": ("second", 18, ">H", 4000),
    "extra data": ("second", 20, ">I", 8),
    "extra data huge": ("second", 20, ">I", 0xFFFFFFFF),
    "same name": ("second", 24, ">6s", b"first\0"),
    "name with NUL": ("second", 24, ">6s", b"se\0ond"),
    "entry reserved": ("first table", 0, ">Q", 2),
    "entry high bits": ("first table", 0, ">Q", 1 << 60),
    "entry unaligned": ("first table", 0, ">Q", 0x800),
    "entry with both": ("first table", 0, ">Q", 0x1001),
    "entry of ones": ("first table", 0, ">Q", 1),
    "entry behind the end": ("first table", 0, ">Q", 1 << 40),
    "autoclear bit lost": ("header", 88, ">Q", 0),
}


def damaged(good: bytes, folder: Path, offset: int, layout: str, value: object) -> Path:
    data = bytearray(good)
    struct.pack_into(layout, data, offset, *(value if isinstance(value, tuple) else (value,)))
    path = folder / "bad.qcow2"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("fault", HEADER_FAULTS)
def test_header(fault, images, tmp_path):
    name, offset, layout, value = HEADER_FAULTS[fault]
    path = damaged(images[name], tmp_path, offset, layout, value)
    assert own_refusal(path) == peer_refusal(path, "-f", "qcow2")


def places(good: bytes) -> dict[str, int]:
    extension = good.index(BITMAPS)
    _, _, _, directory = struct.unpack_from(">IIQQ", good, extension + 8)
    return {
        "header": 0,
        "ext": extension,
        "first": directory,
        "second": directory + 32,
        "first table": struct.unpack_from(">Q", good, directory)[0],
    }


@pytest.mark.parametrize("fault", BITMAP_FAULTS)
def test_bitmaps(fault, images, tmp_path):
    place, offset, layout, value = BITMAP_FAULTS[fault]
    good = images["bitmaps"]
    path = damaged(good, tmp_path, places(good)[place] + offset, layout, value)
    assert own_refusal(path) == peer_refusal(path, "-f", "qcow2")


@pytest.mark.parametrize("length", [0, 1, 4, 8, 72, 104, 111, 112, 511, 600, 65536, 150_000])
@pytest.mark.parametrize("format_name", ["qcow2", None])
def test_truncated(length, format_name, images, tmp_path):
    path = tmp_path / "cut.qcow2"
    path.write_bytes(images["plain"][:length])
    options = ["-f", format_name] if format_name else []
    assert own_refusal(path, format_name) == peer_refusal(path, *options)


def overlay(folder: Path, name: str, backing: str, backing_format: str | None) -> Path:
    """Make an overlay that names a backing file without looking at it."""
    words = ["-F", backing_format] if backing_format else []
    path = folder / name
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing, *words, path, "1M")
    return path


@pytest.mark.parametrize(
    ("backing", "backing_format"),
    [
        (backing, backing_format)
        for backing in ("missing", "garbage", ".", "abc:def", "file:garbage", "second")
        for backing_format in ("qcow2", "raw", "file")
        # QEMU takes the protocol from the format "file", and the colon into the path.
        if (backing, backing_format) != ("abc:def", "file")
    ],
)
def test_backing_files(backing, backing_format, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garbage").write_bytes(b"garbage\n" * 100)
    overlay(tmp_path, "second", "missing", "raw")
    path = overlay(tmp_path, "top.qcow2", backing, backing_format)
    assert own_refusal(path) == peer_refusal(path, "-f", "qcow2")


def test_unknown_backing_format(tmp_path):
    path = overlay(tmp_path, "top.qcow2", "x", "raw")
    (tmp_path / "x").write_bytes(b"x")
    raw = path.read_bytes()
    path.write_bytes(
        raw.replace(
            struct.pack(">II", 0xE2792ACA, 3) + b"raw", struct.pack(">II", 0xE2792ACA, 3) + b"rew"
        )
    )
    assert own_refusal(path) == peer_refusal(path, "-f", "qcow2")
    assert own_refusal(path) == "Could not open backing file: Unknown driver 'rew'"


def test_files(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("missing", "folder"):
        assert own_refusal(tmp_path / name, None) == peer_refusal(tmp_path / name)
    assert own_refusal(tmp_path / "missing", None) == (
        f"Could not open '{tmp_path}/missing': No such file or directory"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
            "Encryption 'luks' is not supported",
        ),
        ("encrypt.format=aes,encrypt.key-secret=s", "Encryption 'aes' is not supported"),
    ],
)
def test_what_qemu_reads_and_we_do_not_is_named(options, expected, tmp_path):
    path = tmp_path / "a.qcow2"
    secret = ["--object", "secret,id=s,data=123456"] if "secret" in options else []
    words = ["create", "-q", *secret, "-f", "qcow2", "-o", options, path, "1M"]
    for left in reversed(range(20)):
        made = run("qemu-img", *words, cwd=tmp_path, check=not left)
        # For LUKS it measures how fast the processor is, and gives up where others need that, too.
        if "Unable to get accurate CPU usage" not in made.stderr:
            break
    assert own_refusal(path) == expected


def test_a_data_file_must_be_named_and_be_there(tmp_path):
    path, data = tmp_path / "a.qcow2", tmp_path / "data.raw"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", path, "1M")
    with open_image(path) as node:
        assert node.read(0, 1 << 20) == bytes(1 << 20)
    data.rename(tmp_path / "away.raw")
    text = f"Could not open '{data}': No such file or directory"
    assert own_refusal(path) == peer_refusal(path) == text
    content = path.read_bytes().replace(b"DATA", b"atad", 1)
    path.write_bytes(content)
    assert own_refusal(path) == peer_refusal(path) == "'data-file' is required for this image"


@pytest.mark.parametrize("other", ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels", "qcow"])
def test_other_formats_are_not_taken_for_raw(other, tmp_path):
    path = tmp_path / "a.img"
    run("qemu-img", "create", "-q", "-f", other, path, "1M")
    assert own_refusal(path, None) == f"Driver '{other}' is not supported"


# A mapping that QEMU calls corruption: the request fails, those beside it do not.
ENTRY_FAULTS = {
    "unaligned data": (3, 1 << 63 | 0x51200, "Cluster allocation offset 0x51200 unaligned"),
    "unaligned zero cluster": (3, 0x51201, "Cluster allocation offset 0x51200 unaligned"),
    "compressed garbage": (3, 1 << 62 | 0x50000, "does not inflate to 65536 bytes"),
}


@pytest.mark.parametrize("fault", [*ENTRY_FAULTS, "unaligned table", "zero cluster in v2"])
def test_damaged_entries(fault, tmp_path):
    path = tmp_path / "a.qcow2"
    options = ["-o", "compat=0.10"] if "v2" in fault else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, path, "1G")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", "-c", "write -P 8 700M 1M", path)
    data = bytearray(path.read_bytes())
    (l1,) = struct.unpack_from(">Q", data, 40)
    l2 = struct.unpack_from(">Q", data, l1)[0] & ~(1 << 63)
    sound = 0
    if fault in ENTRY_FAULTS:
        index, entry, text = ENTRY_FAULTS[fault]
        struct.pack_into(">Q", data, l2 + 8 * index, entry)
        bad = 65536 * index
    elif fault == "zero cluster in v2":
        struct.pack_into(">Q", data, l2 + 8 * 5, 1)
        bad, text = 65536 * 5, "Zero cluster entry found in pre-v3 image"
    else:
        struct.pack_into(">Q", data, l1, 1 << 63 | l2 + 512)
        bad, text, sound = 0, "L2 table offset", 700 << 20
    path.write_bytes(data)

    def peer_reads(offset: int) -> bool:
        done = run("qemu-io", "-r", "-f", "qcow2", "-c", f"read {offset} 512", path, check=False)
        return "failed" not in done.stdout + done.stderr

    with open_image(path) as node:
        assert peer_reads(sound)
        assert node.read(sound, 512) in {b"\7" * 512, b"\x08" * 512}
        assert not peer_reads(bad)
        with pytest.raises(FormatError, match=text):
            node.read(bad, 512)
        assert len(node.allocation(sound, sound + 65536)) == 1
        if "garbage" not in fault:
            with pytest.raises(FormatError, match=text):
                node.allocation()
            with pytest.raises(FormatError, match=text):
                node.depth(bad, bad + 1)


# The second word of an extended entry, and the first word's offset where that is the fault.
EXTENDED_FAULTS = {
    "allocated and zero": (1 << 32 | 1, None, "Invalid cluster entry found"),
    "allocated nowhere": (1, 0, "Invalid cluster entry found"),
    "unaligned data": (1, 0x30200, "Cluster allocation offset 0x30200 unaligned"),
}


@pytest.mark.parametrize("fault", EXTENDED_FAULTS)
def test_damaged_extended_entries(fault, tmp_path):
    path = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", path, "4M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", path)
    data = bytearray(path.read_bytes())
    (l1,) = struct.unpack_from(">Q", data, 40)
    l2 = struct.unpack_from(">Q", data, l1)[0] & ~(1 << 63)
    flags, offset, text = EXTENDED_FAULTS[fault]
    struct.pack_into(">Q", data, l2 + 16 * 3 + 8, flags)
    if offset is not None:
        struct.pack_into(">Q", data, l2 + 16 * 3, offset)
    path.write_bytes(data)
    with open_image(path) as node:
        # All subclusters of the cluster are lost, its neighbours are not.
        for at, sound in ((2, True), (3, False), (3 + 31 / 32, False), (4, True)):
            where = int(at * 65536)
            command = f"read -P 7 {where} 512"
            peer = run("qemu-io", "-r", "-f", "qcow2", "-c", command, path, check=False)
            assert ("failed" not in peer.stdout + peer.stderr) is sound
            if sound:
                assert node.read(where, 512) == b"\7" * 512
            else:
                with pytest.raises(FormatError, match=text):
                    node.read(where, 512)


@pytest.mark.parametrize("bits", [9, 13])
def test_subclusters_of_less_than_a_sector(bits, tmp_path):
    path = tmp_path / "a.qcow2"
    options = "extended_l2=on,cluster_size=16k"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "1M")
    data = bytearray(path.read_bytes())
    data[23] = bits
    path.write_bytes(data)
    assert own_refusal(path) == peer_refusal(path)
    assert own_refusal(path) == f"Unsupported subcluster size: {(1 << bits) // 32}"
