"""L1 and L2 tables: what each unit of the disk is, for a read and for a whole map.

A unit is a cluster, or a subcluster where the image has extended L2 entries.

A map is made of whole L2 tables, many at a time; ranges without a table cost nothing.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

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

_FEW_TABLES: Final = 16
"""Tables that are looked for in memory; more are read, a run of them at once."""


class Units(NamedTuple):
    """What consecutive units of the disk are: clusters, or subclusters where there are any.

    Attributes:
        kinds: UNALLOCATED ... BAD. Shape: (n,) uint8.
        hosts: offset of each in the file, meaningful for NORMAL. Shape: (n,) int64.
        words: first word of the L2 entry each belongs to. Shape: (n,) uint64.
    """

    kinds: NDArray[np.uint8]
    hosts: NDArray[np.int64]
    words: NDArray[np.uint64]

    @classmethod
    def unallocated(cls, count: int) -> Units:
        """Return as many units that are not allocated."""
        return cls(
            np.full(count, UNALLOCATED, dtype=np.uint8),
            np.zeros(count, dtype=np.int64),
            np.zeros(count, dtype=np.uint64),
        )


class Tables:
    """The two levels of tables of one image.

    Args:
        file: where the image is.
        header: its checked header.

    Shape: the L1 table is held whole, (l1_entries,) uint64, at most 32 MiB.

    Raises:
        OSError: the host cannot read.

    Attributes:
        pending: L2 tables by number that the file does not have yet, or not as they are. A table
            is never changed in place, so that who reads it meanwhile sees the old or the new one.
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
        self._parts = header.subclusters
        self._per_table = header.l2_entries * self._parts
        self.pending: dict[int, NDArray[np.uint64]] = {}

    @property
    def mapped_units(self) -> int:
        """Units that all L2 tables have which exist: what a whole map costs."""
        return len(self._present) * self._per_table

    def units(self, first: int, count: int) -> Units:
        """Return what the guest's units ``[first, first + count)`` are.

        Raises:
            FormatError: the offset of a table is not aligned.
            OSError: the host cannot read.
        """
        found = Units.unallocated(count)
        low, high = first // self._per_table, -(-(first + count) // self._per_table)
        # Only the tables that exist, at most one for each table's span of the request.
        begin, stop = np.searchsorted(self._present, [low, high])
        for index in self._present[begin:stop].tolist():
            base = index * self._per_table
            at, to = max(first, base), min(first + count, base + self._per_table)
            # Whole entries, of which the request may touch only some subclusters.
            head, tail = (at - base) // self._parts, -(-(to - base) // self._parts)
            part = self._classify(self._table(index)[head:tail])
            skipped = at - base - head * self._parts
            mine, theirs = slice(at - first, to - first), slice(skipped, skipped + to - at)
            found.kinds[mine] = part.kinds[theirs]
            found.hosts[mine] = part.hosts[theirs]
            found.words[mine] = part.words[theirs]
        return found

    def _classify(self, entries: NDArray[np.uint64]) -> Units:
        """Return the units of L2 entries.

        Shape: entries (n, words of an entry) uint64; result of n * subclusters units.

        Source: qcow2 specification, "L2 table entry" and "Extended L2 Entries"; the order of the
        tests is QEMU's.
        """
        word = entries[:, 0]
        compressed = word & np.uint64(layout.L2_COMPRESSED) != 0
        offsets = word & np.uint64(layout.L2_OFFSET_MASK)
        unaligned = offsets & np.uint64(self._header.cluster_size - 1) != 0
        hosts = offsets.astype(np.int64)
        # An external data file has no compressed clusters.
        packed = COMPRESSED if self._header.data_file is None else BAD
        if not self._header.extended_l2:
            zero = word & np.uint64(layout.L2_ZERO) != 0
            kinds = np.where(self._has_place(word), NORMAL, UNALLOCATED).astype(np.uint8)
            kinds[zero] = ZERO
            kinds[unaligned] = BAD
            if self._header.version == 2:
                kinds[zero] = BAD
            kinds[compressed] = packed
            return Units(kinds, hosts, word)
        flags = entries[:, 1]
        bits = np.arange(layout.SUBCLUSTERS, dtype=np.uint64)
        allocated = flags[:, None] >> bits & np.uint64(1) != 0
        zero = flags[:, None] >> (bits + np.uint64(layout.SUBCLUSTERS)) & np.uint64(1) != 0
        kinds = np.where(allocated, NORMAL, UNALLOCATED).astype(np.uint8)
        kinds[zero] = ZERO
        both = flags >> np.uint64(layout.SUBCLUSTERS) & flags != 0
        nowhere = ~self._has_place(word) & (flags & np.uint64(layout.ALL_ALLOCATED) != 0)
        kinds[both | nowhere | unaligned] = BAD
        kinds[compressed] = packed
        inside = np.arange(layout.SUBCLUSTERS, dtype=np.int64) * self._header.unit_size
        return Units(
            kinds.reshape(-1),
            (hosts[:, None] + inside).reshape(-1),
            np.repeat(word, layout.SUBCLUSTERS),
        )

    def _has_place(self, words: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return whether L2 entries that are not compressed name a cluster.

        Offset 0 is the header's, so it means none, except in an external data file.
        """
        mask = layout.L2_OFFSET_MASK
        if self._header.data_file is not None:
            mask |= layout.COPIED
        named: NDArray[np.bool_] = words & np.uint64(mask) != 0
        return named

    def map_runs(
        self, start: int, end: int, *, placed: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
        """Return the runs of guest units in ``[start, end)`` that are not unallocated.

        A run is of one kind, and contiguous in the file too if it is NORMAL.

        Args:
            start: first guest unit.
            end: behind the last one.
            placed: tell of every unit that has a place in the file, also if it reads as zeroes
                or from the backing file; runs then end where places do, and -1 is no place.

        Shape: four arrays (n,): first unit, unit behind the last, kind, offset in the file
        (meaningful for NORMAL only, unless ``placed``). Runs are sorted and do not overlap.

        Raises:
            OSError: the host cannot read.
        """
        per_table = self._per_table
        begin, stop = np.searchsorted(self._present, [start // per_table, -(-end // per_table)])
        batch = max(1, layout.MAP_BATCH_ENTRIES // per_table)
        # Memory that was used before costs less than memory that is new for each batch.
        words = self._header.cluster_size // layout.ENTRY_SIZE
        room = np.empty((min(batch, int(stop - begin)), words), dtype=">u8")
        parts = [
            self._runs_of(self._present[at : min(at + batch, stop)], room, placed=placed)
            for at in range(int(begin), int(stop), batch)
        ]
        if not parts:
            nothing = np.zeros(0, dtype=np.int64)
            return nothing, nothing, nothing.astype(np.uint8), nothing
        firsts, ends, kinds, hosts = (np.concatenate(column) for column in zip(*parts, strict=True))
        inside = (firsts < end) & (ends > start)
        firsts, ends, kinds, hosts = firsts[inside], ends[inside], kinds[inside], hosts[inside]
        cut = np.maximum(start - firsts, 0)
        hosts = np.where(hosts < 0, hosts, hosts + cut * self._header.unit_size)
        return firsts + cut, np.minimum(ends, end), kinds, hosts

    # What a writer does

    def entries(self, index: int) -> NDArray[np.uint64]:
        """Return an L2 table, all zeroes if there is none. Shape: (l2_entries, words)."""
        if not self._l1[index]:
            words = self._header.cluster_size // layout.ENTRY_SIZE
            return np.zeros(words, dtype=np.uint64).reshape(self._header.l2_entries, -1)
        return self._table(index)

    def offset_of(self, index: int) -> int:
        """Return where in the file an L2 table is, 0 if there is none."""
        return int(self._l1[index])

    def put(self, index: int, table: NDArray[np.uint64]) -> None:
        """Replace an L2 table, which nobody changes any more."""
        self.pending[index] = table

    def move(self, index: int, offset: int, table: NDArray[np.uint64]) -> None:
        """Give an L2 table another place, or a first one; its content is pending from now on."""
        self.put(index, table)
        self._l1[index] = offset
        self._present = np.union1d(self._present, [index])

    def settle(self) -> None:
        """Take note that the file has what was pending."""
        written, cached = self.pending, self._cache_max
        with self._lock:
            for index, table in written.items():
                self._cache[index] = table
                self._cache.move_to_end(index)
            while len(self._cache) > cached:
                self._cache.popitem(last=False)
        self.pending = {}

    def compressed_place(self, entry: int) -> tuple[int, int]:
        """Return offset and length in the file of the data that a compressed descriptor names.

        Source: qcow2 specification, "Compressed Clusters Descriptor".
        """
        extra_bits = self._header.cluster_bits - 8
        offset_bits = 62 - extra_bits
        offset = entry & (1 << offset_bits) - 1
        sectors = (entry >> offset_bits & (1 << extra_bits) - 1) + 1
        return offset, sectors * layout.COMPRESSED_SECTOR - offset % layout.COMPRESSED_SECTOR

    def compressed_word(self, offset: int, length: int) -> int:
        """Return the descriptor of compressed data; the inverse of `compressed_place`."""
        offset_bits = 62 - (self._header.cluster_bits - 8)
        sector = layout.COMPRESSED_SECTOR
        sectors = (offset + length - 1) // sector - offset // sector
        return layout.L2_COMPRESSED | sectors << offset_bits | offset

    def _runs_of(
        self, indexes: NDArray[np.int64], room: NDArray[np.uint64], *, placed: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
        """Return the runs of the L2 tables with these numbers, in the form of `map_runs`.

        Shape: room (k, words of a table) big-endian uint64, k >= n; what the tables are read into.
        """
        cluster_size = self._header.cluster_size
        stored = room[: len(indexes)]
        offsets = self._l1[indexes]
        sound = offsets & np.uint64(cluster_size - 1) == 0
        stored[~sound] = 0
        data = stored.view(np.uint8).reshape(-1).data
        # One read for tables that follow each other in the file.
        new = np.flatnonzero((np.diff(offsets) != cluster_size) | ~sound[1:] | ~sound[:-1]) + 1
        edges = [0, *new.tolist(), len(indexes)]
        held = self._held(indexes)
        for row, end in itertools.pairwise(edges):
            if sound[row] and any(table is None for table in held[row:end]):
                part = data[row * cluster_size : end * cluster_size]
                self._file.event("l2_load")
                self._file.read_padded(int(offsets[row]), part)
        for row, table in enumerate(held):
            if table is not None:
                stored[row] = table.reshape(-1)
        pending = self.pending
        for row, index in enumerate(indexes.tolist() if pending else ()):
            if index in pending:
                stored[row] = pending[index].reshape(-1)
        entries = stored.reshape(len(indexes) * self._header.l2_entries, -1)
        # Most entries of most disks are 0, which is unallocated whatever the version.
        rows = np.flatnonzero(stored.view(np.uint64).reshape(-1) != 0)
        if entries.shape[1] > 1:
            rows = np.unique(rows // entries.shape[1])
        kinds, hosts, words_of = self._classify(entries[rows].astype(np.uint64))
        if placed:
            has_place = self._has_place(words_of)
            has_place &= (kinds != COMPRESSED) & (kinds != BAD)
            hosts[~has_place] = -1
        table, column = np.divmod(rows, self._header.l2_entries)
        first = indexes[table] * self._per_table + column * self._parts
        numbers = (first[:, None] + np.arange(self._parts)).reshape(-1)
        used = np.flatnonzero((kinds != UNALLOCATED) | has_place if placed else kinds)
        kinds, hosts, numbers = kinds[used], hosts[used], numbers[used]
        if not sound.all():
            bad = indexes[~sound][:, None] * self._per_table + np.arange(self._per_table)
            numbers = np.concatenate([numbers, bad.reshape(-1)])
            kinds = np.concatenate([kinds, np.full(bad.size, BAD, dtype=kinds.dtype)])
            hosts = np.concatenate([hosts, np.full(bad.size, -1, dtype=hosts.dtype)])
            order = np.argsort(numbers, kind="stable")
            numbers, kinds, hosts = numbers[order], kinds[order], hosts[order]
        starts = run_starts(numbers, kinds, hosts, self._header.unit_size, placed=placed)
        lasts = np.append(starts[1:], len(numbers))[: len(starts)] - 1
        return numbers[starts], numbers[lasts] + 1, kinds[starts], hosts[starts]

    def _held(self, indexes: NDArray[np.int64]) -> list[NDArray[np.uint64] | None]:
        """Return tables that are in memory already, if few are asked for."""
        if len(indexes) > _FEW_TABLES:
            return [None] * len(indexes)
        with self._lock:
            return [self._cache.get(index) for index in indexes.tolist()]

    def _table(self, index: int) -> NDArray[np.uint64]:
        """Return one L2 table, (l2_entries, words of an entry), from the cache if it is there."""
        table = self.pending.get(index)
        if table is not None:
            return table
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
        stored = np.zeros(self._header.cluster_size // layout.ENTRY_SIZE, dtype=">u8")
        self._file.event("l2_load")
        self._file.read_padded(offset, stored.view(np.uint8).data)
        table = stored.astype(np.uint64).reshape(self._header.l2_entries, -1)
        with self._lock:
            self._cache[index] = table
            while len(self._cache) > self._cache_max:
                self._cache.popitem(last=False)
        return table

    def raise_bad(self, unit: int) -> None:
        """Raise the error that tells what is wrong with a guest unit of kind BAD.

        Raises:
            FormatError: always; QEMU's text.
        """
        index, column = divmod(unit // self._parts, self._header.l2_entries)
        entry = self._table(index)[column].tolist()
        offset = entry[0] & layout.L2_OFFSET_MASK
        where = f"(L2 offset: {int(self._l1[index]):#x}, L2 index: {column:#x})"
        if self._header.version == 2 and entry[0] & layout.L2_ZERO:
            text = f"Zero cluster entry found in pre-v3 image {where}"
        elif offset % self._header.cluster_size:
            text = f"Cluster allocation offset {offset:#x} unaligned {where}"
        else:
            text = f"Invalid cluster entry found  {where}"
        raise FormatError(text, path=self._file.filename)


def run_starts(
    numbers: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    hosts: NDArray[np.int64],
    unit_size: int,
    *,
    placed: bool = False,
) -> NDArray[np.int64]:
    """Return at which positions a new run begins.

    A run ends where the kind changes, where guest units are not consecutive, and, if NORMAL or if
    ``placed`` and there is a place, where the units in the file are not.

    Shape: three arrays (n,); result (k,) int64, sorted, with 0 first if n > 0.
    """
    if not len(numbers):
        return np.zeros(0, dtype=np.int64)
    breaks = (kinds[1:] != kinds[:-1]) | (numbers[1:] != numbers[:-1] + 1)
    if placed:
        breaks |= ((hosts[1:] >= 0) | (hosts[:-1] >= 0)) & (hosts[1:] != hosts[:-1] + unit_size)
    else:
        breaks |= (kinds[1:] == NORMAL) & (hosts[1:] != hosts[:-1] + unit_size)
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
