"""Clusters of the image's file, given and taken back by their reference counts.

    allocator = Allocator(file, header)    # the file is open for writing
    offset = allocator.allocate(3)         # three clusters side by side, counted once each
    allocator.flush()                      # before anything durable refers to them
    allocator.free(offset, 3)              # after nothing durable refers to them any more

Followed in that order a crash can leak clusters, and cannot leave one in use uncounted. What a new
cluster holds is not known: write all of it. Each call is thread safe.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from nbexport.block.node import HostFileError
from nbexport.block.qcow2 import layout
from nbexport.block.qcow2.refcounts import counts_of
from nbexport.errors import FormatError
from nbexport.units import MiB

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nbexport.block.node import BlockNode
    from nbexport.block.qcow2.header import Header

CACHE_BYTES: Final = 4 * MiB
"""Refcount blocks kept: 64 of 64 KiB, which count 128 GiB of file with counts of 16 bits; two of
the largest kind."""

_Change = Callable[["NDArray[np.uint64]"], "NDArray[np.uint64]"]

_TABLE_FIELDS: Final = struct.Struct(">QI")
_TABLE_FIELDS_OFFSET: Final = 48  # refcount_table_offset, refcount_table_clusters


class Allocator:
    """The reference counts of an image that is open for writing.

    Args:
        file: where the image is; grows as needed.
        header: its checked header.

    Raises:
        FormatError: two tables are at the same place; writing one would destroy the other.
        OSError: the host cannot read.

    Source: qcow2 specification, "Host cluster management".
    """

    def __init__(self, file: BlockNode, header: Header) -> None:
        self._lock = threading.RLock()
        self._file = file
        self._header = header
        self._size = header.cluster_size
        self._bits = header.refcount_bits
        self._per_block = self._size * 8 // self._bits
        self._max = (1 << self._bits) - 1
        self._table_offset = header.refcount_table_offset
        file.event("reftable_load")
        try:
            self._table = self._read_words(
                self._table_offset, header.refcount_table_clusters * self._words
            ) & np.uint64(layout.REFCOUNT_OFFSET_MASK)
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO)
            text = f"Could not initialize refcount handling: {reason}"
            raise HostFileError(error.errno, text, file.filename) from error
        self._blocks: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._dirty: set[int] = set()
        self._new_entries: set[int] = set()
        self._hint = 0  # below it every cluster is in use
        self._packed_end = 0  # where the last part of a cluster that was given away ends
        self._fixed, self._l2 = self._metadata()

    @property
    def _words(self) -> int:
        """Entries of a table that a cluster holds."""
        return self._size // layout.ENTRY_SIZE

    # What a user calls

    def allocate(self, count: int) -> int:
        """Return the offset of the first ``count`` free clusters side by side, now counted once.

        The file is long enough for them afterwards.

        Raises:
            FormatError: the counts say that metadata is free; the image is corrupt.
            OSError: the file would be too large, or the host failed.
        """
        self._file.event("cluster_alloc")
        with self._lock:
            return self._allocate(count)

    def allocate_bytes(self, length: int) -> int:
        """Return where ``length`` bytes are free, a cluster at the most; they are counted now.

        They follow those that were given away last, if there is room; several may share a cluster,
        which is counted once for each.

        Raises:
            FormatError: the counts say that metadata is free; the image is corrupt.
            OSError: the file would be too large, or the host failed.
        """
        self._file.event("cluster_alloc_bytes")
        with self._lock:
            offset = self._packed_end
            free = -offset % self._size
            if free and not 0 < self.count_of(offset) < self._max:
                offset = free = 0
            if free >= length:
                self._change(offset // self._size, 1, 1)
            else:
                cluster = self._allocate(1)
                if free and offset + free == cluster:
                    self._change(offset // self._size, 1, 1)
                else:
                    offset = cluster
            self._packed_end = offset + length
            return offset

    def _allocate(self, count: int) -> int:
        if count == 1 and self._bits >= 8:
            next_one = self._take_next()
            if next_one is not None:
                return next_one
        while True:
            first = self._find(count)
            blocks = range(first // self._per_block, (first + count - 1) // self._per_block + 1)
            missing = [index for index in blocks if not self._has_block(index)]
            if not missing:
                break
            self._make_block(missing[0])  # may take a cluster of the run: look again
        self._take(first, count)
        return first * self._size

    def _take_next(self) -> int | None:
        """Allocate the cluster where the search begins, if it is free and nothing else is to do.

        A file that grows cluster by cluster needs no more; anything else takes the longer way.
        """
        cluster = self._hint
        index, at = divmod(cluster, self._per_block)
        if not self._has_block(index):
            return None
        counts = counts_of(self._block(index), self._bits)
        known = (self._fixed, self._l2)
        if counts[at] or any(len(part) and int(part[-1]) >= cluster for part in known):
            return None
        end = (cluster + 1) * self._size
        if end > self._file.size:
            self._file.grow(end)
        self._file.event("refblock_alloc")
        counts[at] = 1
        self._dirty.add(index)
        self._hint = cluster + 1
        return cluster * self._size

    def free(self, offset: int, count: int) -> None:
        """Count ``count`` clusters from ``offset`` once less.

        Raises:
            FormatError: one of them is not counted at all, or holds a table that the image needs.
            OSError: the host failed.
        """
        self._file.event("cluster_free")
        with self._lock:
            first = offset // self._size
            low, high = np.searchsorted(self._fixed, [first, first + count])
            if low < high:
                at = int(self._fixed[low]) * self._size
                raise FormatError(
                    f"something refers to the metadata at offset {at:#x} as if it were its own; "
                    "the image is corrupt, and is not written",
                    path=self._file.filename,
                )
            self._change(first, count, -1)
            low, high = np.searchsorted(self._l2, [first, first + count])
            if low < high:  # tables that have moved
                self._l2 = np.delete(self._l2, np.arange(low, high))

    def replace_table(self, old: tuple[int, int], new: tuple[int, int]) -> None:
        """Count a table that only the header names no more, and know the one in its place.

        Args:
            old: offset and clusters of the table that the header no longer names.
            new: those of the table that it names now.
        """
        with self._lock:
            gone = np.arange(old[1]) + old[0] // self._size
            taken = np.arange(new[1]) + new[0] // self._size
            self._fixed = np.union1d(np.setdiff1d(self._fixed, gone), taken)
            if old[1]:
                self.free(*old)

    def holds_table(self, offset: int, count: int) -> bool:
        """Return whether one of ``count`` clusters from ``offset`` was a table at the beginning."""
        first = offset // self._size
        ends = [first, first + count]
        return any(np.diff(np.searchsorted(known, ends))[0] for known in (self._fixed, self._l2))

    def count_more(self, offset: int, count: int) -> None:
        """Count clusters that are in use once more: something else refers to them too.

        Raises:
            FormatError: one of them is not in use, or is counted as often as a count can say.
            OSError: the host failed.
        """
        with self._lock:
            self._change(offset // self._size, count, 1)

    def count_of(self, offset: int) -> int:
        """Return how often the cluster at ``offset`` is counted.

        Raises:
            FormatError: the block of its count is at an impossible place.
            OSError: the host cannot read.
        """
        with self._lock:
            index, at = divmod(offset // self._size, self._per_block)
            if not self._has_block(index):
                return 0
            return int(_counts(self._block(index), self._bits, at, at + 1)[0])

    def flush(self) -> None:
        """Store the counts and make them durable, with everything that was written before.

        Raises:
            OSError: the host failed.
        """
        with self._lock:
            for index in sorted(self._dirty):
                self._write_block(index)
            self._dirty.clear()
            if self._new_entries:
                self._name_new_blocks()
            self._file.flush()

    def _name_new_blocks(self) -> None:
        """Let the table name new blocks, each behind the one that counts it."""
        while self._new_entries:
            self._file.flush()  # a block must be there before the table names it
            counted_by = {
                index: int(self._table[index]) // self._size // self._per_block
                for index in self._new_entries
            }
            ready = [
                index
                for index, owner in counted_by.items()
                if owner == index or owner not in counted_by
            ]
            for index in sorted(ready or counted_by):
                self._file.event("refblock_alloc_hookup")
                self._write(
                    self._table_offset + index * layout.ENTRY_SIZE,
                    int(self._table[index]).to_bytes(layout.ENTRY_SIZE, "big"),
                )
                self._new_entries.discard(index)

    # Finding room

    def _find(self, count: int) -> int:
        """Return the first of ``count`` clusters side by side that nobody counts."""
        index, begin = divmod(self._hint, self._per_block)
        # Most often the file only grows, and there is room just here.
        if (
            begin + count <= self._per_block
            and self._has_block(index)
            and not _counts(self._block(index), self._bits, begin, begin + count).any()
        ):
            return self._found(self._hint, count)
        run = first = 0
        for index in range(self._hint // self._per_block, len(self._table)):
            base = index * self._per_block
            if not self._has_block(index):
                if run == 0:
                    first = max(base, self._hint)
                run = base + self._per_block - first
            else:
                # A run goes on from the block before, or begins behind a cluster in use.
                low = max(base, self._hint)
                start = first if run else low
                counts = _counts(self._block(index), self._bits, low - base, self._per_block)
                used = np.flatnonzero(counts) + low
                bounds = np.concatenate([[start - 1], used, [base + self._per_block]])
                gaps = np.diff(bounds) - 1
                fits = np.flatnonzero(gaps >= count)
                if len(fits):
                    return self._found(int(bounds[fits[0]]) + 1, count)
                run = int(gaps[-1])
                first = int(bounds[-2]) + 1
            if run >= count:
                return self._found(first, count)
        # Behind what the table can name all is free.
        return self._found(first if run else len(self._table) * self._per_block, count)

    def _found(self, first: int, count: int) -> int:
        if count == 1:
            self._hint = max(self._hint, first)
        for known in (self._fixed, self._l2):
            if not len(known) or int(known[-1]) < first:  # most often: the file grows
                continue
            at = int(np.searchsorted(known, first))
            if int(known[at]) >= first + count:
                continue
            offset = int(known[at]) * self._size
            raise FormatError(
                f"the metadata at offset {offset:#x} is counted as free; the image is corrupt, and "
                "is not written",
                path=self._file.filename,
            )
        return first

    def _metadata(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the clusters of all tables: they must never be given away.

        Shape: those that only this class moves (n,), L2 tables (m,); both sorted.

        Raises:
            FormatError: a cluster belongs to two of them.
        """
        header = self._header
        ranges = [
            (0, 1),
            (self._table_offset, header.refcount_table_clusters * self._size),
            (header.l1_table_offset, header.l1_size * layout.ENTRY_SIZE),
            (header.snapshots_offset, header.snapshots_length),
        ]
        l1 = self._read_words(header.l1_table_offset, header.l1_size)
        l1 &= np.uint64(layout.L1_OFFSET_MASK)
        parts = [
            np.arange(at // self._size, -(-(at + length) // self._size), dtype=np.int64)
            for at, length in ranges
            if length
        ]
        parts += [
            (table[table != 0] // np.uint64(self._size)).astype(np.int64)
            for table in (self._table, l1)
        ]
        clusters = np.sort(np.concatenate(parts))
        twice = np.flatnonzero(clusters[1:] == clusters[:-1])
        if len(twice):
            offset = int(clusters[twice[0]]) * self._size
            raise FormatError(
                f"two tables are at offset {offset:#x}; the image is corrupt, and is not written",
                path=self._file.filename,
            )
        parts.pop()
        return np.sort(np.concatenate(parts)), np.setdiff1d(clusters, np.concatenate(parts))

    # Counts

    def _take(self, first: int, count: int) -> None:
        """Count clusters that are free once; their blocks exist."""
        end = (first + count) * self._size
        if end > self._file.size:
            self._file.grow(end)
        self._apply(first, count, np.ones_like)
        if first == self._hint:
            self._hint = first + count

    def _change(self, first: int, count: int, by: int) -> None:
        ends = range(first // self._per_block, (first + count - 1) // self._per_block + 1)
        if not all(self._has_block(index) for index in ends):
            raise self._miscounted(first)

        def changed(counts: NDArray[np.uint64]) -> NDArray[np.uint64]:
            if (counts == 0).any() or (by > 0 and (counts == np.uint64(self._max)).any()):
                raise self._miscounted(first)
            return counts + np.uint64(1) if by > 0 else counts - np.uint64(1)

        self._apply(first, count, changed)
        if by < 0:
            self._hint = min(self._hint, first)

    def _apply(self, first: int, count: int, change: _Change) -> None:
        """Replace the counts of a range of clusters, block by block."""
        at = first
        while at < first + count:
            index, begin = divmod(at, self._per_block)
            end = min(self._per_block, begin + first + count - at)
            self._file.event("refblock_alloc")
            stored = self._block(index)
            _store_counts(stored, self._bits, begin, end, change)
            self._dirty.add(index)
            at += end - begin

    def _miscounted(self, cluster: int) -> FormatError:
        return FormatError(
            f"the reference count of the cluster at offset {cluster * self._size:#x} does not "
            "allow this change; the image is corrupt, or its counts are too narrow",
            path=self._file.filename,
        )

    # Blocks and the table

    def _has_block(self, index: int) -> bool:
        return index < len(self._table) and bool(self._table[index])

    def _block(self, index: int) -> NDArray[np.uint8]:
        block = self._blocks.get(index)
        if block is None:
            offset = int(self._table[index])
            if offset % self._size:
                raise FormatError(
                    f"refblock offset {offset:#x} unaligned (reftable index: {index:#x})",
                    path=self._file.filename,
                )
            block = np.zeros(self._size, dtype=np.uint8)
            self._file.event("refblock_load")
            self._file.read_padded(offset, block.data)
            self._keep(index, block)
        self._blocks.move_to_end(index)
        return block

    def _keep(self, index: int, block: NDArray[np.uint8]) -> None:
        self._blocks[index] = block
        while len(self._blocks) > max(2, CACHE_BYTES // self._size):
            oldest = next(iter(self._blocks))
            if oldest in self._dirty:
                self._write_block(oldest)
                self._dirty.discard(oldest)
            del self._blocks[oldest]

    def _write_block(self, index: int) -> None:
        is_new = index in self._new_entries
        self._file.event("refblock_alloc_write" if is_new else "refblock_update_part")
        self._write(int(self._table[index]), self._blocks[index].tobytes())

    def _make_block(self, index: int) -> None:
        """Make the block of counts with this index; it is written with the next flush."""
        if index >= len(self._table):
            self._grow_table(index + 1)
            if self._has_block(index):
                return
        place = self._find(1)
        owner = place // self._per_block
        if owner >= len(self._table):
            self._grow_table(owner + 1)
            return
        if owner != index and not self._has_block(owner):
            index = owner  # it counts itself, and will count the one that was asked for
        self._table[index] = place * self._size
        self._new_entries.add(index)
        self._file.grow((place + 1) * self._size)
        self._keep(index, np.zeros(self._size, dtype=np.uint8))
        self._dirty.add(index)
        self._take(place, 1)
        self._fixed = np.union1d(self._fixed, [place])

    def _grow_table(self, entries: int) -> None:
        """Move the table to where it can name ``entries`` blocks, and half as many again.

        The new table and the blocks that count it lie behind everything that could be counted so
        far; the first of those blocks counts itself. The old table stays valid until the header
        names the new one.
        """
        self._file.event("reftable_grow")
        self.flush()
        first = len(self._table) * self._per_block
        blocks = 0
        while True:
            wanted = max(entries, len(self._table) + blocks) * 3 // 2 + 1
            clusters = -(-wanted // self._words)
            enough = -(-(clusters + blocks) // self._per_block)
            if enough <= blocks:
                break
            blocks = enough
        if clusters * self._size > layout.REFCOUNT_TABLE_MAX:
            text = f"{self._file.filename}: the image's file would be too large for its counts"
            raise HostFileError(errno.EFBIG, text, self._file.filename)
        table = np.zeros(clusters * self._words, dtype=np.uint64)
        table[: len(self._table)] = self._table
        numbers = np.arange(blocks)
        table[len(self._table) + numbers] = (first + numbers) * self._size
        counted = blocks + clusters
        self._file.grow((first + counted) * self._size)
        self._file.event("refblock_alloc_write_blocks")
        for number in range(blocks):
            block = np.zeros(self._size, dtype=np.uint8)
            here = min(self._per_block, max(0, counted - number * self._per_block))
            _store_counts(block, self._bits, 0, here, np.ones_like)
            self._write((first + number) * self._size, block.tobytes())
        offset = (first + blocks) * self._size
        self._file.event("refblock_alloc_write_table")
        self._write(offset, table.astype(">u8").tobytes())
        self._file.flush()
        self._file.event("refblock_alloc_switch_table")
        self._write(_TABLE_FIELDS_OFFSET, _TABLE_FIELDS.pack(offset, clusters))
        self._file.flush()
        old = self._table_offset, len(self._table) // self._words
        self._table, self._table_offset = table, offset
        lost = np.arange(old[1]) + old[0] // self._size
        taken = np.arange(first, first + counted)
        self._fixed = np.union1d(np.setdiff1d(self._fixed, lost), taken)
        self.free(*old)

    # The file

    def _read_words(self, offset: int, count: int) -> NDArray[np.uint64]:
        stored = np.zeros(count, dtype=">u8")
        self._file.read_padded(offset, stored.view(np.uint8).data)
        return stored.astype(np.uint64)

    def _write(self, offset: int, data: bytes) -> None:
        self._file.write_from(offset, memoryview(data))


def _counts(block: NDArray[np.uint8], bits: int, begin: int, end: int) -> NDArray[np.uint64]:
    """Return the counts ``[begin, end)`` of a block; those of whole bytes are a view of it.

    Shape: block (cluster_size,) uint8; result (end - begin,).
    """
    if bits >= 8:
        return counts_of(block, bits)[begin:end]
    per_byte = 8 // bits
    low = begin // per_byte
    part = counts_of(block[low : -(-end // per_byte)], bits)
    return part[begin - low * per_byte : end - low * per_byte]


def _store_counts(
    block: NDArray[np.uint8], bits: int, begin: int, end: int, change: _Change
) -> None:
    """Replace the counts ``[begin, end)`` of a block by what ``change`` makes of them.

    Shape: block (cluster_size,) uint8; change gets and returns (end - begin,) uint64.
    """
    if bits >= 8:
        counts = _counts(block, bits, begin, end)
        counts[:] = change(counts.astype(np.uint64))
        return
    per_byte = 8 // bits
    low, high = begin // per_byte, -(-end // per_byte)
    counts = counts_of(block[low:high], bits)
    inside = slice(begin - low * per_byte, end - low * per_byte)
    counts[inside] = change(counts[inside].astype(np.uint64)).astype(np.uint8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    block[low:high] = np.bitwise_or.reduce(counts.reshape(-1, per_byte) << shifts, axis=1)
