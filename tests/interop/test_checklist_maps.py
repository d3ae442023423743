"""What maps say of every kind of disk and bitmap, statement by statement, qemu-nbd beside us."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
from beside import BASE, BITMAP, DEPTH, beside, qemu_options, uri
from disks import bitmap_entries, layers, write
from peers import nbdinfo_map, run

pytestmark = pytest.mark.interop

MiB = 1 << 20
K64 = 65536
MAPPED = {0, 2}  # a cluster that is mapped: the host's file may have a hole there
# What a disk is made of, and what base:allocation says at places of it, in KiB.
ROWS = {
    "clusters of every kind": (
        [("qcow2", "4M", "", ("write -P 1 0 64k", "write -c -P 2 128k 64k", "write -P 3 256k 128k",
                              "write -z 256k 64k", "write -z -u 320k 64k", "write -z 512k 64k"))],
        {0: {0}, 128: {0}, 256: {3}, 320: {3}, 512: {3}, 1024: {3}, 4095: {3}},
    ),
    "compressed by zstd": (
        [("qcow2", "1M", "compression_type=zstd", ("write -c -P 2 128k 64k",))],
        {0: {3}, 128: {0}, 192: {3}},
    ),
    "an overlay": (
        [("qcow2", "2M", "", ("write -P 1 0 128k", "write -z 256k 64k", "write -P 1 1M 64k",
                              "write -c -P 4 512k 64k")),
         ("qcow2", "4M", "", ("write -P 2 64k 64k", "write -z 1M 64k"))],
        {0: {0}, 64: {0}, 128: {3}, 256: {3}, 512: {0}, 1024: {3}, 2048: {3}, 4095: {3}},
    ),
    "a raw file": (
        [("raw", "4M", "", ("write -P 1 64k 64k", "write -P 0 128k 64k", "write -P 1 1M 300"))],
        {64: {0}, 128: {0}, 256: {3}, 1024: {0}, 2048: {3}, 4095: {3}},
    ),
    "metadata made before": (
        [("qcow2", "8M", "preallocation=metadata", ("write -P 1 1M 64k", "write -z 2M 64k"))],
        {0: {2}, 1024: {0}, 2048: {3}, 8191: {2}},
    ),
    "space made before": (
        [("qcow2", "2M", "preallocation=falloc", ("write -P 1 1M 64k",))],
        {0: {0}, 1024: {0}, 2047: {0}},
    ),
    "zeroes written before": ([("qcow2", "2M", "preallocation=full", ())], {0: {0}, 2047: {0}}),
    "clusters that are partly written": (
        [("qcow2", "4M", "", tuple(f"write -P 1 {at}k 4k" for at in range(0, 2048, 128)))],
        {0: {0}, 32: MAPPED, 64: {3}, 128: {0}, 1952: MAPPED, 3072: {3}},
    ),
    "subclusters": (
        [("qcow2", "2M", "extended_l2=on", ("write -P 1 64k 4k", "write -z 70k 4k",
                                            "write -P 3 256k 64k", "write -z 260k 8k"))],
        {0: {3}, 64: {0}, 68: {3}, 70: {3}, 256: {0}, 262: {3}, 280: {0}, 1024: {3}},
    ),
    "a data file": (
        [("qcow2", "2M", "data_file=DIR/data.raw", ("write -P 1 64k 64k", "write -z 256k 64k"))],
        {0: {3}, 64: {0}, 256: {3}, 1024: {3}},
    ),
    "a raw data file": (
        [("qcow2", "2M", "data_file=DIR/data.raw,data_file_raw=on",
          ("write -P 1 64k 64k", "write -z 256k 64k"))],
        {0: {0}, 64: {0}, 256: {3}, 1024: {0}},
    ),
}  # fmt: skip


def flags_at(rows, offset):
    (found,) = [row["type"] for row in rows
                if row["offset"] <= offset < row["offset"] + row["length"]]  # fmt: skip
    return found


def zero_and_data(rows):
    """Join what qemu-img tells apart by where it is stored."""
    found = []
    for row in rows:
        if found and found[-1][1:] == [row["zero"], row["data"]]:
            found[-1][0] += row["length"]
        else:
            found.append([row["length"], row["zero"], row["data"]])
    return found


@pytest.mark.parametrize("kind", ROWS)
def test_106_base_allocation_says_what_the_disk_is_made_of(kind, tmp_path):
    """Data, holes and zeroes of each kind of disk: as qemu-nbd says, and as the file is."""
    description, expected = ROWS[kind]
    image = layers(tmp_path, *description)
    form = image.suffix[1:]
    with beside(image, tmp_path, "-f", form) as pair:
        rows = [nbdinfo_map(uri(path), BASE) for path in pair]
        assert rows[0] == rows[1]
        for at, allowed in expected.items():
            assert flags_at(rows[1], at << 10) in allowed, at
        maps = [run("qemu-img", "map", "--output=json", *words).stdout
                for words in ((qemu_options(pair.ours),), ("-f", form, image))]  # fmt: skip
        assert zero_and_data(json.loads(maps[0])) == zero_and_data(json.loads(maps[1]))


def depths(folder, image):
    """Return the depths that both servers tell, as (length, depth), and nbdinfo's words."""
    with beside(image, folder, "-f", "qcow2" if image.suffix == ".qcow2" else "raw", "-A") as pair:
        rows = [nbdinfo_map(uri(path), DEPTH) for path in pair]
    assert rows[0] == rows[1]
    for row in rows[1]:
        word = {0: "absent", 1: "local"}.get(row["type"], f"backing depth {row['type']}")
        assert row["description"] == word
    return [(row["length"], row["type"]) for row in rows[1]]


def test_108_depths_of_a_chain(tmp_path):
    """Four layers, each MiB of them written where none above it is: the depths are counted."""
    image = layers(
        tmp_path, ("qcow2", "8M", "", ("write -P 1 0 4M",)),
        ("qcow2", "8M", "", ("write -P 2 2M 4M",)),
        ("qcow2", "8M", "", ("write -P 3 1M 2M", "write -P 3 5M 2M")),
        ("qcow2", "8M", "", ("write -P 4 1M 1M", "write -P 4 5M 1M")),
    )  # fmt: skip
    expected = [(MiB, 4), (MiB, 1), (MiB, 2), (2 * MiB, 3), (MiB, 1), (MiB, 2), (MiB, 0)]
    assert depths(tmp_path, image) == expected


SHORT_OR_RAW = {
    "short": ([("qcow2", "1M", "", ("write -P 1 0 64k",)), ("qcow2", "2M", "", ())],
              [(K64, 2), (MiB - K64, 0), (MiB, 2)]),
    "over-raw": ([("raw", "2M", "", ("write -P 1 64k 64k",)),
                  ("qcow2", "2M", "", ("write -P 2 1M 64k",))],
                 [(MiB, 2), (K64, 1), (MiB - K64, 2)]),
    "over-short-raw": ([("raw", "1M", "", ()), ("qcow2", "2M", "", ("write -z 0 64k",))],
                       [(K64, 1), (2 * MiB - K64, 2)]),
    "raw": ([("raw", "2M", "", ())], [(2 * MiB, 1)]),
    "discarded": ([("qcow2", "1M", "", ("write -P 1 0 1M",)),
                   ("qcow2", "1M", "", ("write -P 2 0 128k", "discard 0 64k"))],
                  [(2 * K64, 1), (MiB - 2 * K64, 2)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHORT_OR_RAW)
def test_109_depths_over_what_is_short_or_raw(kind, tmp_path):
    """Behind its end a short layer still counts; a raw layer has all of its range."""
    description, expected = SHORT_OR_RAW[kind]
    assert depths(tmp_path, layers(tmp_path, *description)) == expected


def bitmap_maps(pair, names):
    """Return the (offset, length) of what is dirty by each bitmap, the same from both servers."""
    found = {}
    for name in names:
        rows = [nbdinfo_map(uri(path), BITMAP + name) for path in pair]
        assert rows[0] == rows[1]
        found[name] = [(row["offset"], row["length"]) for row in rows[1] if row["type"] == 1]
    return found


def granules(writes, granularity, size):
    """Return the dirty ranges that writes make in a bitmap."""
    bits = sorted(
        {
            bit
            for at, length in writes
            for bit in range(at // granularity, -(-(at + length) // granularity))
        }
    )
    found = []
    for bit in bits:
        start, end = bit * granularity, min((bit + 1) * granularity, size)
        if found and sum(found[-1]) == start:
            found[-1] = (found[-1][0], end - found[-1][0])
        else:
            found.append((start, end - start))
    return found  # fmt: skip


def test_110_bits_of_every_granularity(tmp_path):
    """512 bytes to 2 GiB, over several clusters of bits; the last granule ends with the disk."""
    size = 5 * MiB + 1536
    image = layers(tmp_path, ("qcow2", size, "cluster_size=512", ()))
    sizes = [512 << shift for shift in (0, 1, 3, 7, 11, 12, 15, 20, 22)]
    names = [f"g{granularity}" for granularity in sizes]
    for name, granularity in zip(names, sizes, strict=True):
        run("qemu-img", "bitmap", "--add", "-g", str(granularity), image, name)
    # Bits 0 and 15 of the finest are those whose order in a byte is told by nothing else.
    writes = [(0, 512), (15 * 512, 512), (4095 * 512, 1024), (3 * MiB + 17, 4000),
              (size - 1, 1), (2 * MiB + 512, 1)]  # fmt: skip
    write(image, *(f"write -q -P 1 {at} {length}" for at, length in writes))
    with beside(image, tmp_path, "-f", "qcow2", bitmaps=tuple(names)) as pair:
        found = bitmap_maps(pair, names)
    for name, granularity in zip(names, sizes, strict=True):
        assert found[name] == granules(writes, granularity, size), name


def test_110_table_entries_that_stand_for_all_bits(tmp_path):
    """All ones mark up to the end of the disk, no cluster is clean; bits behind do not leak."""
    size = 5 * MiB + 1536
    names = ("ones", "zeroes", "second", "tail")
    image = layers(tmp_path, ("qcow2", size, "cluster_size=512", ()))
    for name in names:
        run("qemu-img", "bitmap", "--add", "-g", "512", image, name)
    write(image, "write -q -P 1 2M 5k", f"write -q -P 1 {size - 512} 512")
    data = bytearray(image.read_bytes())
    entries = bitmap_entries(data)
    tables = {name: struct.unpack_from(">QI", data, entries[name]) for name in names}
    for name, (table, length) in tables.items():
        assert length == 3  # of 2 MiB each
        before = struct.unpack_from(">3Q", data, table)
        if name == "tail":
            # The last granule is bit 2 of its byte: set the rest of the cluster behind it.
            at = (size - 4 * MiB) // 512 - 1
            bits = before[2] + at // 8
            assert data[bits] == 1 << at % 8
            end = before[2] + 512
            data[bits:end] = bytes([0xFF & -(1 << at % 8)]) + b"\xff" * (end - bits - 1)
        else:
            chosen = {"ones": (1, 1, 1), "zeroes": (0, 0, 0), "second": (0, 1, 0)}[name]
            struct.pack_into(">3Q", data, table, *chosen)
    image.write_bytes(data)
    with beside(image, tmp_path, "-f", "qcow2", bitmaps=names) as pair:
        found = bitmap_maps(pair, names)
    assert found == {
        "ones": [(0, size)], "zeroes": [], "second": [(2 * MiB, 2 * MiB)],
        "tail": [(2 * MiB, 5120), (size - 512, 512)],
    }  # fmt: skip


def test_111_bitmaps_of_backing_files(tmp_path):
    """Found below, hidden by one of the same name above, clean behind the end of their disk."""
    base = layers(tmp_path, ("qcow2", "3M", "", ()))
    for name in ("below", "both"):
        run("qemu-img", "bitmap", "--add", base, name)
    write(base, "write -q -P 1 1M 64k", f"write -q -P 1 {3 * MiB - 512} 512")
    top = tmp_path / "top.qcow2"
    shutil.copy(base, tmp_path / "base.qcow2")
    words = ("-b", "base.qcow2", "-F", "qcow2", top, "5M")
    run("qemu-img", "create", "-q", "-f", "qcow2", *words, cwd=tmp_path)
    run("qemu-img", "bitmap", "--add", top, "both")
    write(top, "write -q -P 2 4M 64k")
    with beside(top, tmp_path, "-f", "qcow2", bitmaps=("below", "both")) as pair:
        found = bitmap_maps(pair, ("below", "both"))
    assert found == {
        "below": [(MiB, K64), (3 * MiB - K64, K64)], "both": [(4 * MiB, K64)],
    }  # fmt: skip
