"""Disks of every kind, made by QEMU's tools."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from peers import run

if TYPE_CHECKING:
    from pathlib import Path

CHAIN = [("qcow2", "5M", "", ("write -P 1 1M 300k", "write -P 2 4M 64k")),
         ("qcow2", "3M", "cluster_size=4k", ("write -P 3 1100k 9k", "write -z 2M 100k")),
         ("qcow2", "6M", "cluster_size=1k", ("write -P 4 5k 3k", "write -P 5 5M 1k"))]  # fmt: skip
WRITES = ("write -P 1 0 5k", "write -P 2 33k 512", "write -z 100k 20k", "write -P 3 1047k 3k")
DISKS = {
    "raw": [("raw", "5M", "", WRITES)],
    "version 2": [("qcow2", "2M", "compat=0.10", ("write -P 1 64k 1M",)),
                  ("qcow2", "3M", "compat=0.10", ("write -P 2 1M 300k", "write -c -P 3 2M 64k"))],
    "clusters of 512 bytes": [("qcow2", "3M", "cluster_size=512", WRITES)],
    "clusters of 2 MiB": [("qcow2", "9M", "cluster_size=2M",
                           (*WRITES, "write -c -P 3 4M 2M"))],
    "a chain whose middle is short": CHAIN,
    "over a raw disk": [("raw", "3M", "", WRITES), ("qcow2", "5M", "", ("write -P 9 64k 64k",))],
    "compressed": [("qcow2", "4M", "cluster_size=16k",
                    ("write -c -P 7 1M 64k", "write -P 5 100k 20k", "write -c -P 8 2M 16k"))],
    "compressed by zstd": [("qcow2", "4M", "compression_type=zstd",
                            ("write -c -P 7 1M 64k", "write -P 5 2M 20k"))],
    "zero clusters": [("qcow2", "4M", "", ("write -P 1 0 2M",)),
                      ("qcow2", "4M", "", ("write -z 64k 640k", "write -P 4 128k 1k",
                                           "write -z -u 1M 512k"))],
    "subclusters": [("qcow2", "3M", "extended_l2=on", ("write -P 1 0 200k", "write -P 2 1M 10k")),
                    ("qcow2", "4M", "extended_l2=on,cluster_size=32k",
                     ("write -P 4 3k 2k", "write -z 100k 7k", "write -c -P 7 1536k 64k"))],
    "data file": [("qcow2", "4M", "data_file=DIR/data.raw", WRITES)],
}  # fmt: skip
RAW_SIZE = (40 << 20) + 512


def raw_disk(path: Path) -> Path:
    """Make a disk of 40 MiB and a sector with data in a few places."""
    with path.open("wb") as file:
        file.truncate(RAW_SIZE)
        for offset, length in ((0, 4096), (1 << 20, 65536), (3 << 20, 1 << 20), (33 << 20, 4096)):
            file.seek(offset)
            file.write(bytes(range(256)) * (length // 256))
    return path


def layers(folder: Path, *description: Any) -> Path:
    """Make a chain of images, bottom first, and return the top.

    Each layer is (suffix, size, creation options, qemu-io commands); the options of a raw layer
    are not read.
    """
    image: Path | None = None
    for number, (suffix, size, options, commands) in enumerate(description):
        below, image = image, folder / f"layer{number}.{suffix}"
        words = ["-o", options.replace("DIR", str(folder))] if options and suffix != "raw" else []
        if below is not None:
            words += ["-b", below.name, "-F", below.suffix[1:]]
        run("qemu-img", "create", "-q", "-f", suffix, *words, image, str(size), cwd=folder)
        write(image, *commands)
    assert image is not None
    return image


def write(image: Path, *commands: str) -> None:
    """Run qemu-io commands on an image, whose format is its suffix."""
    if commands:
        words = [word for command in commands for word in ("-c", command)]
        run("qemu-io", "-f", image.suffix[1:], *words, image)


def pattern_runs(content):
    """Return a few (offset, length) of equal bytes, most of them at odd places."""
    found, at = [], 0
    while at < len(content) and len(found) < 12:
        rest = content[at : at + (1 << 20)]
        length = len(rest) - len(rest.lstrip(rest[:1]))
        found.append((at, length))
        at += length
    return found


def alternating(path: Path, size: int, written: int) -> Path:
    """Make an image whose bitmap "b" has every other bit set, up to ``written`` bytes."""
    layers(path.parent, ("qcow2", size, "", ())).rename(path)
    run("qemu-img", "bitmap", "--add", "-g", "512", path, "b")
    write(path, f"write -q -z 0 {written}")
    full = b"\xff" * (written // 512 // 8)
    data = path.read_bytes()
    at = data.index(full)  # the only cluster that holds so many full bytes
    assert at % 65536 == 0
    path.write_bytes(data[:at] + b"\x55" * len(full) + data[at + len(full) :])
    return path


def bitmap_entries(data: bytes | bytearray) -> dict[str, int]:
    """Return where the bitmaps' entries in the directory of a qcow2 image are."""
    extension = data.index(struct.pack(">II", 0x23852875, 24))
    count, _, _, at = struct.unpack_from(">IIQQ", data, extension + 8)
    found = {}
    for _ in range(count):
        name_length, extra = struct.unpack_from(">HI", data, at + 18)
        start = at + 24 + extra
        found[data[start : start + name_length].decode()] = at
        at += (24 + extra + name_length + 7) // 8 * 8
    return found
