"""L1 and L2 tables: what each guest cluster is, for a read and for a whole map.

A map is made of whole L2 tables, many at a time; ranges without a table cost nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np

from nbexport.bits import Extents
from nbexport.block.qcow2 import layout
from nbexport.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nbexport.block.node import BlockNode
    from nbexport.block.qcow2.header import Header

# Kinds of clusters
UNALLOCATED: Final = 0
NORMAL: Final = 1
ZERO: Final = 2
COMPRESSED: Final = 3
BAD: Final = 4  # an entry or a table offset that QEMU calls corruption


class Tables:
    """The two levels of tables of one image.

    Args:
        file: where the image is.
        header: its checked header.

    Shape: the L1 table is held whole, (l1_entries,) uint64, at most 32 MiB.

    Raises:
        OSError: the host cannot read.
    """

    def __init__(self, file: BlockNode, header: Header) -> None:
        self._file = file
        self._header = header
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, NDArray[np.uint64]] = OrderedDict()
        self._cache_max = max(2, layout.L2_CACHE_BYTES // header.cluster_size)
        stored = np.zeros(header.l1_entries, dtype=">u8")
        file.read_padded(header.l1_table_offset, stored.view(np.uint8).data)
        self._l1 = stored.astype(np.uint64) & np.uint64(layout.L1_OFFSET_MASK)
        # A table behind the end of the file reads as zeroes: nothing is allocated there.
        aligned = self._l1 & np.uint64(header.cluster_size - 1) == 0
        self._l1[aligned & (self._l1 >= np.uint64(file.size))] = 0
        self._present = np.flatnonzero(self._l1)

    @property
    def span(self) -> int:
        """Bytes of the disk that one L2 table maps."""
        return self._header.cluster_size * self._header.l2_entries

    @property
    def mapped_entries(self) -> int:
        """Entries in all L2 tables that exist: what a whole map costs."""
        return len(self._present) * self._header.l2_entries

    def entries(self, first: int, count: int) -> NDArray[np.uint64]:
        """Return the L2 entries of the guest clusters ``[first, first + count)``.

        Shape: (count,) uint64 in native order.

        Raises:
            FormatError: the offset of a table is not aligned.
            OSError: the host cannot read.
        """
        per_table = self._header.l2_entries
        result = np.zeros(count, dtype=np.uint64)
        low, high = first // per_table, -(-(first + count) // per_table)
        # Only the tables that exist, at most one for each `span` bytes of the request.
        begin, stop = np.searchsorted(self._present, [low, high])
        for index in self._present[begin:stop].tolist():
            table = self._table(index)
            base = index * per_table
            at, to = max(first, base), min(first + count, base + per_table)
            result[at - first : to - first] = table[at - base : to - base]
        return result

    def kinds(self, entries: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Classify L2 entries.

        Shape: entries (n,) uint64; result (n,) uint8 of UNALLOCATED ... BAD.

        Source: qcow2 specification, "L2 table entry"; the order of the tests is QEMU's.
        """
        compressed = entries & np.uint64(layout.L2_COMPRESSED) != 0
        zero = entries & np.uint64(layout.L2_ZERO) != 0
        offsets = entries & np.uint64(layout.L2_OFFSET_MASK)
        result = np.where(offsets != 0, NORMAL, UNALLOCATED).astype(np.uint8)
        result[zero] = ZERO
        result[offsets & np.uint64(self._header.cluster_size - 1) != 0] = BAD
        if self._header.version == 2:
            result[zero] = BAD
        result[compressed] = COMPRESSED
        return result

    def map_runs(
        self, start: int, end: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
        """Return the runs of guest clusters in ``[start, end)`` that are not unallocated.

        A run is of one kind, and contiguous in the file too if it is NORMAL.

        Args:
            start: first guest cluster.
            end: behind the last one.

        Shape: four arrays (n,): first cluster, cluster behind the last, kind, offset in the file
        (meaningful for NORMAL only). Runs are sorted and do not overlap.

        Raises:
            OSError: the host cannot read.
        """
        per_table = self._header.l2_entries
        begin, stop = np.searchsorted(self._present, [start // per_table, -(-end // per_table)])
        batch = max(1, layout.MAP_BATCH_ENTRIES // per_table)
        parts = [
            self._runs_of(self._present[at : min(at + batch, stop)])
            for at in range(int(begin), int(stop), batch)
        ]
        if not parts:
            nothing = np.zeros(0, dtype=np.int64)
            return nothing, nothing, nothing.astype(np.uint8), nothing
        firsts, ends, kinds, hosts = (np.concatenate(column) for column in zip(*parts, strict=True))
        inside = (firsts < end) & (ends > start)
        firsts, ends, kinds, hosts = firsts[inside], ends[inside], kinds[inside], hosts[inside]
        cut = np.maximum(start - firsts, 0)
        return firsts + cut, np.minimum(ends, end), kinds, hosts + cut * self._header.cluster_size

    def _runs_of(
        self, indexes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
        """Return the runs of the L2 tables with these numbers, in the form of `map_runs`."""
        per_table = self._header.l2_entries
        cluster_size = self._header.cluster_size
        stored = np.zeros((len(indexes), per_table), dtype=">u8")
        offsets = self._l1[indexes]
        sound = offsets & np.uint64(cluster_size - 1) == 0
        for row, offset in enumerate(offsets.tolist()):  # one read a table
            if sound[row]:
                self._file.read_padded(offset, stored[row].view(np.uint8).data)
        entries = stored.reshape(-1).astype(np.uint64)
        kinds = self.kinds(entries)
        kinds.reshape(-1, per_table)[~sound] = BAD
        clusters = (indexes[:, None] * per_table + np.arange(per_table)).reshape(-1)
        used = np.flatnonzero(kinds)
        entries, kinds, clusters = entries[used], kinds[used], clusters[used]
        hosts = (entries & np.uint64(layout.L2_OFFSET_MASK)).astype(np.int64)
        starts = run_starts(clusters, kinds, hosts, cluster_size)
        lasts = np.append(starts[1:], len(clusters))[: len(starts)] - 1
        return clusters[starts], clusters[lasts] + 1, kinds[starts], hosts[starts]

    def _table(self, index: int) -> NDArray[np.uint64]:
        """Return one L2 table, from the cache if it is there."""
        with self._lock:
            table = self._cache.get(index)
            if table is not None:
                self._cache.move_to_end(index)
                return table
        offset = int(self._l1[index])
        if offset % self._header.cluster_size:
            raise FormatError(
                f"L2 table offset {offset:#x} unaligned (L1 index: {index:#x})",
                path=self._file.filename,
            )
        stored = np.zeros(self._header.l2_entries, dtype=">u8")
        self._file.read_padded(offset, stored.view(np.uint8).data)
        table = stored.astype(np.uint64)
        with self._lock:
            self._cache[index] = table
            while len(self._cache) > self._cache_max:
                self._cache.popitem(last=False)
        return table

    def raise_bad(self, cluster: int) -> None:
        """Raise the error that tells what is wrong with a guest cluster of kind BAD.

        Raises:
            FormatError: always; QEMU's text.
        """
        index, column = divmod(cluster, self._header.l2_entries)
        entry = int(self._table(index)[column])
        where = f"(L2 offset: {int(self._l1[index]):#x}, L2 index: {column:#x})"
        if self._header.version == 2 and entry & layout.L2_ZERO:
            text = f"Zero cluster entry found in pre-v3 image {where}"
        else:
            offset = entry & layout.L2_OFFSET_MASK
            text = f"Cluster allocation offset {offset:#x} unaligned {where}"
        raise FormatError(text, path=self._file.filename)


def run_starts(
    clusters: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    hosts: NDArray[np.int64],
    cluster_size: int,
) -> NDArray[np.int64]:
    """Return at which positions a new run begins.

    A run ends where the kind changes, where guest clusters are not consecutive, and, if NORMAL,
    where the clusters in the file are not.

    Shape: three arrays (n,); result (k,) int64, sorted, with 0 first if n > 0.
    """
    if not len(clusters):
        return np.zeros(0, dtype=np.int64)
    breaks = (kinds[1:] != kinds[:-1]) | (clusters[1:] != clusters[:-1] + 1)
    breaks |= (kinds[1:] == NORMAL) & (hosts[1:] != hosts[:-1] + cluster_size)
    return np.concatenate([[0], np.flatnonzero(breaks) + 1]).astype(np.int64)


def fill_gaps(
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    flags: NDArray[np.uint32],
    start: int,
    end: int,
) -> Extents:
    """Return the map of ``[start, end)`` with these extents and flag 0 between them.

    Shape: three arrays (n,), sorted, not overlapping, inside the range.
    """
    if end <= start:
        return Extents.empty(start)
    lengths = np.empty(2 * len(starts) + 1, dtype=np.int64)
    lengths[0::2] = np.append(starts, end) - np.concatenate([[start], ends])
    lengths[1::2] = ends - starts
    values = np.zeros(len(lengths), dtype=np.uint32)
    values[1::2] = flags
    return Extents.from_lengths(lengths, values, start)
