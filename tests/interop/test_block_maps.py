"""What QEMU says of an image over NBD is what this package reads from it."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from peers import nbdinfo_map, qemu_nbd, run

from nbexport.bits import Extents
from nbexport.block import FileNode, RawNode, open_image

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.interop

MiB = 1 << 20


def create(path: Path, size: str, *options: str, backing: Path | None = None) -> Path:
    """Make a qcow2 image; the backing file's format is its suffix."""
    words = ["-o", ",".join(options)] if options else []
    if backing is not None:
        words += ["-b", backing.name, "-F", backing.suffix[1:]]
    run("qemu-img", "create", "-q", "-f", "qcow2", *words, path, size, cwd=path.parent)
    return path


def io(path: Path, *commands: str) -> None:
    """Run qemu-io commands on an image, whose format is its suffix."""
    words = [word for command in commands for word in ("-c", command)]
    run("qemu-io", "-f", path.suffix[1:], *words, path)


def patch(path: Path, offset: int, layout: str, *values: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack(layout, *values))


# Each maker builds one image in an empty folder and returns it and its bitmaps' names.


def small_clusters(folder: Path) -> tuple[Path, list[str]]:
    image = create(folder / "a.qcow2", "3M", "cluster_size=512")
    run("qemu-img", "bitmap", "--add", "-g", "512", image, "fine")
    io(
        image,
        "write -P 1 0 5k", "write -P 2 33k 512", "write -z 100k 20k", "write -P 3 2047k 3k",
        "discard 1k 1k", "write -P 9 3145216 512",
    )  # fmt: skip
    return image, ["fine"]


def large_clusters(folder: Path) -> tuple[Path, list[str]]:
    image = create(folder / "a.qcow2", "67M", "cluster_size=2M")
    for name, granularity in (("b", "2M"), ("a:b c\u00e9", "1M"), ("whole", "2G")):
        run("qemu-img", "bitmap", "--add", "-g", granularity, image, name)
    io(image, "write -P 1 5M 7k", "write -P 2 66M 1M", "write -z 20M 4M", "write -c -P 3 40M 2M")
    return image, ["b", "a:b c\u00e9", "whole"]


def version_two(folder: Path) -> tuple[Path, list[str]]:
    base = create(folder / "base.qcow2", "2M", "compat=0.10")
    io(base, "write -P 1 64k 1M")
    image = create(folder / "a.qcow2", "3M", "compat=0.10", backing=base)
    io(image, "write -P 2 1M 300k", "discard 64k 128k", "write -c -P 3 2M 64k")
    return image, []


def zstd_clusters(folder: Path) -> tuple[Path, list[str]]:
    image = create(folder / "a.qcow2", "5M", "compression_type=zstd", "cluster_size=16k")
    io(image, "write -c -P 7 1M 64k", "write -P 5 2M 20k", "write -z 3M 1M")
    raw = folder / "noise.raw"
    raw.write_bytes(bytes(range(256)) * 1024 + os.urandom(1 << 16) + b"text " * 50000)
    packed = folder / "packed.qcow2"
    options = ["-c", "-O", "qcow2", "-o", "compression_type=zstd,cluster_size=4k"]
    run("qemu-img", "convert", "-f", "raw", *options, raw, packed)
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", packed.name, image)
    return image, []


def subclusters(folder: Path) -> tuple[Path, list[str]]:
    base = create(folder / "base.qcow2", "3M", "extended_l2=on", "cluster_size=128k")
    io(base, "write -P 1 0 200k", "write -P 2 1M 10k", "write -P 3 2500k 90k")
    image = create(folder / "a.qcow2", "4M", "extended_l2=on", "cluster_size=32k", backing=base)
    run("qemu-img", "bitmap", "--add", "-g", "512", image, "fine")
    io(
        image,
        "write -P 4 3k 2k", "write -P 5 1M 3k", "write -z 100k 7k", "write -z 1034k 96k",
        "discard 1100k 20k", "write -P 6 2M 300k", "write -z 2050k 2k", "discard 2080k 64k",
        "write -c -P 7 1536k 64k", "write -P 8 1540k 1k", "write -c -P 9 3200k 32k",
    )  # fmt: skip
    return image, ["fine"]


def depth_chain(folder: Path) -> tuple[Path, list[str]]:
    layers = [[(0, 4)], [(2, 4)], [(1, 2), (5, 2)], [(1, 1), (5, 1)]]
    image = None
    for number, writes in enumerate(layers, 1):
        image = create(folder / f"f{number}.qcow2", "8M", backing=image)
        io(image, *(f"write -P {number} {at}M {length}M" for at, length in writes))
    assert image is not None
    return image, []


def uneven_chain(folder: Path) -> tuple[Path, list[str]]:
    base = create(folder / "f1.qcow2", "1000k")
    io(base, "write -P 1 0 100k", "write -P 2 900k 100k")
    run("qemu-img", "bitmap", "--add", "-g", "64k", base, "below")
    run("qemu-img", "bitmap", "--add", "-g", "64k", base, "both")
    io(base, "write -P 3 512k 64k")
    middle = create(folder / "f2.qcow2", "5M", "cluster_size=4k", backing=base)
    io(middle, "write -P 4 200k 4k", "write -P 5 3M 8k", "write -z 4M 100k")
    short = create(folder / "f3.qcow2", "2M", backing=middle)
    top = create(folder / "f4.qcow2", "6M", "cluster_size=1k", backing=short)
    run("qemu-img", "bitmap", "--add", "-g", "4k", top, "both")
    io(top, "write -P 6 5k 3k", "discard 10k 20k", "write -P 7 5M 1k")
    return top, ["below", "both"]


def over_raw(folder: Path) -> tuple[Path, list[str]]:
    base = folder / "base.raw"
    base.write_bytes(b"")
    os.truncate(base, 3 * MiB + 777)
    io(base, "write -P 1 1M 64k", "write -P 2 2M 4k")
    image = create(folder / "a.qcow2", "5M", backing=base)
    io(image, "write -P 3 64k 64k", "write -z 1M 64k")
    return image, []


def raw_holes(folder: Path) -> tuple[Path, list[str]]:
    image = folder / "a.raw"
    with image.open("wb") as file:
        file.truncate(9 * MiB + 513)
        for at, length in ((0, 4096), (70000, 5000), (2 * MiB, MiB), (9 * MiB, 300)):
            file.seek(at)
            file.write(b"x" * length)
    return image, []


def raw_odd_tail(folder: Path) -> tuple[Path, list[str]]:
    image = folder / "a.raw"
    image.write_bytes(b"y" * 65537)
    return image, []


def compressed(folder: Path) -> tuple[Path, list[str]]:
    source = folder / "source.raw"
    words = b"".join(b"%d bottles\n" % n for n in range(400_000))
    source.write_bytes(words[: 3 * MiB - 2048] + b"\0" * MiB)
    image = folder / "a.qcow2"
    run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "cluster_size=16k", source, image)
    io(image, "write -P 5 100k 20k")
    source.unlink()
    return image, []


def preallocated(mode: str) -> Callable[[Path], tuple[Path, list[str]]]:
    def make(folder: Path) -> tuple[Path, list[str]]:
        image = create(folder / "a.qcow2", "12M", f"preallocation={mode}", "cluster_size=16k")
        io(image, "write -P 1 1M 100k", "write -P 2 5M 4k", "discard 2M 1M", "write -z 8M 64k")
        return image, []

    return make


def preallocated_narrow(bits: int) -> Callable[[Path], tuple[Path, list[str]]]:
    def make(folder: Path) -> tuple[Path, list[str]]:
        options = ("preallocation=metadata", "cluster_size=4k", f"refcount_bits={bits}")
        image = create(folder / "a.qcow2", "10M", *options)
        io(image, "write -P 1 1M 8k", "write -P 2 5M 4k")
        return image, []

    return make


def sparse_writes(folder: Path) -> tuple[Path, list[str]]:
    image = create(folder / "a.qcow2", "4M")
    io(image, *(f"write -P 1 {at}k 4k" for at in range(0, 4096, 128)))
    return image, []


def disabled_bitmap(folder: Path) -> tuple[Path, list[str]]:
    image = create(folder / "a.qcow2", "10M")
    run("qemu-img", "bitmap", "--add", "-g", "64k", image, "frozen")
    io(image, "write -P 1 1M 1M")
    run("qemu-img", "bitmap", "--disable", image, "frozen")
    run("qemu-img", "bitmap", "--add", "--disable", "-g", "1M", image, "empty")
    io(image, "write -P 1 5M 1M")
    return image, ["frozen", "empty"]


def all_ones_beyond_end(folder: Path) -> tuple[Path, list[str]]:
    """A bitmap whose table entry says all set, and a table behind the end of the file."""
    image = create(folder / "a.qcow2", "1000000")
    for name in ("ones", "gone"):
        run("qemu-img", "bitmap", "--add", "-g", "4k", image, name)
    raw = image.read_bytes()
    for name, (entry, offset) in {"ones": (1, None), "gone": (None, 1 << 40)}.items():
        at = raw.index(name.encode() + b"\0") - 24
        if entry is not None:
            patch(image, struct.unpack_from(">Q", raw, at)[0], ">Q", entry)
        if offset is not None:
            patch(image, at, ">Q", offset)
    return image, ["ones", "gone"]


def tables_beyond_end(folder: Path) -> tuple[Path, list[str]]:
    """An L2 table and a data cluster behind the end of the file read as zeroes."""
    image = create(folder / "a.qcow2", "2M", "cluster_size=4k")
    io(image, "write -P 1 0 64k", "write -P 2 2093056 4k")
    raw = image.read_bytes()
    (l1,) = struct.unpack_from(">Q", raw, 40)
    l2 = struct.unpack_from(">Q", raw, l1)[0] & ~(1 << 63)
    patch(image, l2 + 8, ">Q", 1 << 63 | 1 << 40)
    overlay = create(folder / "b.qcow2", "6M", "cluster_size=4k", backing=image)
    io(overlay, "write -P 3 0 8k", "write -P 4 2M 8k", "write -P 5 4M 8k")
    (l1,) = struct.unpack_from(">Q", overlay.read_bytes(), 40)
    patch(overlay, l1 + 8, ">Q", 1 << 63 | 1 << 45)
    return overlay, []


def empty_disk(folder: Path) -> tuple[Path, list[str]]:
    return create(folder / "a.qcow2", "1T", "cluster_size=64k"), []


MAKERS = {
    "v3 of 512-byte clusters": small_clusters,
    "2 MiB clusters": large_clusters,
    "v2": version_two,
    "zstd": zstd_clusters,
    "subclusters": subclusters,
    "depth chain": depth_chain,
    "chain of uneven sizes": uneven_chain,
    "over raw": over_raw,
    "raw with holes": raw_holes,
    "raw with an odd tail": raw_odd_tail,
    "compressed": compressed,
    "preallocation=metadata": preallocated("metadata"),
    "preallocation=falloc": preallocated("falloc"),
    "preallocation=full": preallocated("full"),
    "metadata, 1-bit refcounts": preallocated_narrow(1),
    "metadata, 4-bit refcounts": preallocated_narrow(4),
    "metadata, 64-bit refcounts": preallocated_narrow(64),
    "sparse writes": sparse_writes,
    "disabled bitmaps": disabled_bitmap,
    "bitmap of ones, bitmap gone": all_ones_beyond_end,
    "tables behind the end": tables_beyond_end,
    "empty 1 TiB": empty_disk,
}


@pytest.fixture(scope="module", params=[*MAKERS, "two-bitmaps"])
def image(request, tmp_path_factory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("image")
    if request.param == "two-bitmaps":
        data = Path(__file__).resolve().parent.parent.parent / "data" / "images"
        for name in ("two-bitmaps.qcow2", "two-bitmaps.base.qcow2"):
            shutil.copy(data / name, folder)
        return folder / "two-bitmaps.qcow2", ["weekly", "daily"]
    return MAKERS[request.param](folder)


def peer_extents(uri: str, context: str) -> Extents:
    rows = nbdinfo_map(uri, context)
    return Extents.from_lengths([row["length"] for row in rows], [row["type"] for row in rows])


def test_every_context_is_the_one_qemu_nbd_serves(image, tmp_path):
    path, names = image
    options = [
        "-r",
        "-A",
        "-f",
        path.suffix[1:],
        *(word for name in names for word in ("-B", name)),
    ]
    with (
        open_image(path, format=path.suffix[1:]) as node,
        qemu_nbd(path, tmp_path, *options) as uri,
    ):
        assert list(node.allocation()) == list(peer_extents(uri, "base:allocation"))
        assert list(node.depth()) == list(peer_extents(uri, "qemu:allocation-depth"))
        assert int(run("nbdinfo", "--size", uri).stdout) == node.size
        for name in names:
            found = node.find_bitmap(name)
            assert found is not None
            _, stored = found
            assert stored.bitmap is not None
            ours = stored.bitmap.extents()
            ours = ours.clip(0, min(ours.end, node.size)).extend(node.size, 0)
            assert list(ours) == list(peer_extents(uri, f"qemu:dirty-bitmap:{name}"))


def test_data_is_what_qemu_img_reads(image, tmp_path):
    path, _ = image
    with open_image(path, format=path.suffix[1:]) as node:
        if node.size > 128 * MiB:
            assert node.allocation().totals() == {3: node.size}
            return
        raw = tmp_path / "out.raw"
        run("qemu-img", "convert", "-f", path.suffix[1:], "-O", "raw", path, raw)
        expected = raw.read_bytes()
        assert node.read(0, node.size) == expected
        # Odd requests, across clusters of every size.
        for offset in range(1, node.size, node.size // 97 | 1):
            length = min(70001, node.size - offset)
            assert node.read(offset, length) == expected[offset : offset + length]


def test_probing_finds_the_same_image(image, tmp_path):
    path, _ = image
    with open_image(path) as node:
        assert node.driver == path.suffix[1:]
        assert node.request_alignment == (512 if node.driver == "raw" else 1)
        with qemu_nbd(path, tmp_path, "-r", "-A") as uri:
            # Where the bottom is probed as raw its requests are rounded, maps are not.
            assert list(node.allocation()) == list(peer_extents(uri, "base:allocation"))


def test_parts_of_maps_are_parts_of_the_whole(image):
    path, _ = image
    with open_image(path, format=path.suffix[1:]) as node:
        base, depth = node.allocation(), node.depth()
        for start in range(0, node.size, node.size // 13 | 1):
            end = min(node.size, start + node.size // 7 + 5)
            assert node.allocation(start, end) == base.clip(start, end)
            assert node.depth(start, end) == depth.clip(start, end)


def test_maps_made_range_by_range_are_the_same(image, monkeypatch):
    path, _ = image
    with (
        open_image(path, format=path.suffix[1:]) as node,
        open_image(path, format=path.suffix[1:]) as ranged,
    ):
        for layer in ranged.chain():
            monkeypatch.setattr(layer, "_map_is_bounded", lambda: False)
        for start in range(0, node.size, node.size // 5 | 1):
            end = min(node.size, start + node.size // 4 + 3)
            assert ranged.allocation(start, end) == node.allocation(start, end)
            assert ranged.depth(start, end) == node.depth(start, end)


def test_raw_window_is_qemus(tmp_path):
    path, _ = raw_holes(tmp_path)
    copied = tmp_path / "copied"
    with FileNode(path) as file:
        for offset in (0, 512, 4096, 2 * MiB + 1024):
            with qemu_nbd(path, tmp_path, "-r", "-f", "raw", "-o", str(offset)) as uri:
                node = RawNode(file, offset)
                assert int(run("nbdinfo", "--size", uri).stdout) == node.size
                assert list(node.allocation()) == list(peer_extents(uri, "base:allocation"))
                run("nbdcopy", uri, copied)
                assert node.read(0, node.size) == copied.read_bytes()
