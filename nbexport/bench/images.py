"""Images for the benchmark, written directly: QEMU's tools would take minutes for the large ones.

Source of the layout: QEMU, ``docs/interop/qcow2.txt``.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nbexport.errors import UsageError
from nbexport.units import GiB, KiB, MiB

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

CLUSTER = 64 * KiB
_L2_ENTRIES = CLUSTER // 8
_COPIED = 1 << 63
_REFCOUNTS = CLUSTER // 2  # 16 bits each
# Clusters of the file for the data; shared by 2**24 blocks of a disk each is used 65,536 times
# less one at most, which is what 16 bits can count.
_HOSTS = 512
_GRANULARITY_BITS = 16
_AUTO = 2
_BITMAPS_EXTENSION = 0x23852875
_SIZE_MAX = 64 << 40


@dataclass(frozen=True)
class Scattered:
    """An image whose allocated clusters are scattered over the disk.

    Attributes:
        path: the file.
        size: of the disk, in bytes.
        blocks: allocated clusters of 64 KiB; many share their data, so that the file stays small.
        bitmaps: names of its bitmaps; in each these clusters are dirty.
    """

    path: Path
    size: int
    blocks: int
    bitmaps: tuple[str, ...]


def write_scattered(
    path: Path,
    size: int,
    blocks: int,
    *,
    bitmaps: tuple[str, ...] = ("b0", "b1"),
    seed: int = 7,
    run: int = 1,
) -> Scattered:
    """Write a qcow2 image with randomly scattered clusters, dirty in each of its bitmaps.

    Args:
        path: the new file.
        size: of the disk, in bytes; whole clusters, at most 64 TiB.
        blocks: how many clusters; at most half of the disk.
        bitmaps: their names.
        seed: of the random positions.
        run: clusters that lie side by side, at least; ``blocks`` must be a multiple of it.

    Raises:
        UsageError: the sizes do not fit together.
    """
    clusters = size // CLUSTER
    if size % CLUSTER or not 0 < size <= _SIZE_MAX or not 0 <= blocks <= clusters // 2:
        raise UsageError(f"no image of {size} bytes with {blocks} scattered clusters can be made")
    if run < 1 or blocks % run or blocks > clusters // run * run:
        raise UsageError(f"{blocks} clusters cannot be scattered in runs of {run}")
    starts = np.random.default_rng(seed).choice(clusters // run, blocks // run, replace=False)
    starts.sort()
    chosen = (starts[:, None] * run + np.arange(run)).ravel()
    tables = np.unique(chosen // _L2_ENTRIES)
    l1_entries = -(-clusters // _L2_ENTRIES)
    l1_clusters = -(-l1_entries * 8 // CLUSTER)
    data_clusters = -(-clusters // 8 // CLUSTER) or 1
    table_clusters = -(-data_clusters * 8 // CLUSTER)
    hosts = min(blocks, _HOSTS)
    used = hosts + 1 + l1_clusters + len(tables) + bool(bitmaps)
    used += len(bitmaps) * (table_clusters + data_clusters)
    # refcount blocks count themselves and their table
    refcount_blocks = 1
    while refcount_blocks * _REFCOUNTS < used + 1 + refcount_blocks:
        refcount_blocks += 1
    total = used + 1 + refcount_blocks
    host = total - hosts  # the data come last
    l1 = 1
    l2 = l1 + l1_clusters
    directory = l2 + len(tables)
    first_bitmap = directory + bool(bitmaps)
    refcount_table = host - 1 - refcount_blocks
    with path.open("wb") as file:
        file.truncate(total * CLUSTER)
        entries = np.zeros(l1_clusters * _L2_ENTRIES, ">u8")
        entries[tables] = (np.arange(len(tables), dtype=np.uint64) + l2) * CLUSTER | _COPIED
        _put(file, l1, entries)
        _write_l2(file, l2, tables, chosen, host)
        file.seek(host * CLUSTER)
        file.write(np.random.default_rng(seed).bytes(hosts * CLUSTER))
        records = b""
        bits = np.packbits(_bits(clusters, chosen), bitorder="little")
        for number, name in enumerate(bitmaps):
            table = first_bitmap + number * (table_clusters + data_clusters)
            data = table + table_clusters
            offsets = (np.arange(data_clusters, dtype=np.uint64) + data) * CLUSTER
            _put(file, table, offsets.astype(">u8"))
            _put(file, data, bits)
            records += _record(name, table * CLUSTER, data_clusters)
        if bitmaps:
            file.seek(directory * CLUSTER)
            file.write(records)
        counts = np.zeros(refcount_blocks * _REFCOUNTS, ">u2")
        counts[:total] = 1
        counts[host:total] = np.bincount(np.arange(blocks) % _HOSTS, minlength=hosts)[:hosts]
        blocks_at = refcount_table + 1
        _put(
            file,
            refcount_table,
            ((np.arange(refcount_blocks, dtype=np.uint64) + blocks_at) * CLUSTER).astype(">u8"),
        )
        _put(file, blocks_at, counts)
        file.seek(0)
        file.write(
            _header(size, l1 * CLUSTER, l1_entries, refcount_table * CLUSTER, len(bitmaps))
            + _extension(len(bitmaps), len(records), directory * CLUSTER)
        )
    return Scattered(path, size, blocks, bitmaps)


def _put(file: BinaryIO, cluster: int, data: np.ndarray) -> None:
    file.seek(cluster * CLUSTER)
    file.write(data.tobytes())


def _write_l2(
    file: BinaryIO, first: int, tables: np.ndarray, chosen: np.ndarray, host: int
) -> None:
    """Write the L2 tables, a group at a time: all of a large disk's would take gigabytes."""
    group = 16 * MiB // CLUSTER
    for start in range(0, len(tables), group):
        part = tables[start : start + group]
        low, high = np.searchsorted(chosen, [part[0] * _L2_ENTRIES, (part[-1] + 1) * _L2_ENTRIES])
        inside = chosen[low:high]
        entries = np.zeros((len(part), _L2_ENTRIES), ">u8")
        places = (np.arange(low, high, dtype=np.uint64) % _HOSTS + host) * CLUSTER
        entries[np.searchsorted(part, inside // _L2_ENTRIES), inside % _L2_ENTRIES] = places
        _put(file, first + start, entries)


def _bits(clusters: int, chosen: np.ndarray) -> np.ndarray:
    bits = np.zeros(clusters, np.uint8)
    bits[chosen] = 1
    return bits


def _record(name: str, table: int, entries: int) -> bytes:
    """Return a directory entry: enabled, with the granularity of a cluster."""
    text = name.encode()
    head = struct.pack(">QIIBBHI", table, entries, _AUTO, 1, _GRANULARITY_BITS, len(text), 0)
    record = head + text
    return record + bytes(-len(record) % 8)


def _header(size: int, l1: int, l1_entries: int, refcount_table: int, bitmaps: int) -> bytes:
    return struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(b"QFI\xfb", 3, 0, 0, 16, size, 0, l1_entries, l1),
        *(refcount_table, 1, 0, 0, 0, 0, int(bitmaps > 0), 4, 104),
    )


def _extension(bitmaps: int, length: int, directory: int) -> bytes:
    if not bitmaps:
        return bytes(8)
    data = struct.pack(">IIQQ", bitmaps, 0, length, directory)
    return struct.pack(">II", _BITMAPS_EXTENSION, len(data)) + data + bytes(8)


def write_pieces(path: Path, size: int, pieces: int, *, seed: int = 7) -> Path:
    """Write a raw image with holes between scattered pieces of 4 KiB, each in 64 KiB of its own.

    Args:
        path: the new file.
        size: of the disk, in bytes; a multiple of 64 KiB.
        pieces: how many; at most half of the disk's 64 KiB.
        seed: of the random positions.

    Raises:
        UsageError: the sizes do not fit together.
    """
    places = size // CLUSTER
    if size % CLUSTER or not 0 <= pieces <= places // 2:
        raise UsageError(f"no image of {size} bytes with {pieces} scattered pieces can be made")
    data = np.random.default_rng(seed).bytes(4 * KiB)
    chosen = np.random.default_rng(seed).choice(places, pieces, replace=False)
    with path.open("wb") as file:
        file.truncate(size)
        for place in np.sort(chosen).tolist():
            os.pwrite(file.fileno(), data, place * CLUSTER)
    return path


def write_data(path: Path, size: int, *, seed: int = 7) -> Path:
    """Write a raw image without holes, of data that do not repeat.

    Raises:
        UsageError: it would be larger than 64 GiB.
    """
    if size > 64 * GiB:
        raise UsageError(f"no data of {size} bytes are made")
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        for start in range(0, size, 16 * MiB):
            file.write(random.bytes(min(16 * MiB, size - start)))
    return path
