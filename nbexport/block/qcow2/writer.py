"""Writing the guest's bytes: clusters are allocated, copied from where they were, and given back.

What the tables say changes in memory first. `Writer.flush` stores it in an order that a crash may
cut anywhere: data and counts, then L2 tables, then the L1 table, and only then are clusters that
nothing refers to any more given back. A crash can leak clusters; it cannot lose what was flushed,
nor leave a cluster in use uncounted. Counts are always stored, also where the image allows to be
lazy about them.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from nbexport.block.node import HostFileError, SilentError
from nbexport.block.qcow2 import layout, tables
from nbexport.block.qcow2.clusters import deflate
from nbexport.block.qcow2.segments import Disk, Segment, segments, whole
from nbexport.units import MiB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nbexport.block.file import FileNode
    from nbexport.block.node import BlockNode
    from nbexport.block.qcow2.allocator import Allocator
    from nbexport.block.qcow2.header import Header

_L1_FIELDS: Final = struct.Struct(">IQ")
_L1_FIELDS_OFFSET: Final = 36  # l1_size, l1_table_offset
_SIZE_OFFSET: Final = 24
PENDING_BYTES: Final = 8 * layout.L2_CACHE_BYTES
"""L2 tables that wait in memory, 512 of 64 KiB; more are flushed."""
_ZEROES: Final = MiB
"""Zeroes that are written at a time where they have to be."""
_COPIED = np.uint64(layout.COPIED)
_OFFSET = np.uint64(layout.L2_OFFSET_MASK)
_COMPRESSED = np.uint64(layout.L2_COMPRESSED)
_ZERO = np.uint64(layout.L2_ZERO)
_ALL_ZEROES: Final = layout.ALL_ALLOCATED << layout.SUBCLUSTERS


class Writer:
    """Writes one image.

    Args:
        file: where the image is, open for writing.
        header: its checked header.
        known: its tables, which are kept up to date for readers.
        allocator: of the clusters of ``file``.
        data: the external data file, open for writing, if there is one.
        disk: the disk as it is now.

    Raises:
        OSError: the host cannot read.

    Source: qcow2 specification; what is left of a cluster by zeroes and discards is QEMU's choice.
    """

    def __init__(
        self,
        file: BlockNode,
        header: Header,
        known: tables.Tables,
        allocator: Allocator,
        data: FileNode | None,
        disk: Disk,
    ) -> None:
        self.lock = threading.RLock()
        self._file = file
        self._header = header
        self._tables = known
        self._allocator = allocator
        self._external = data
        self._data: BlockNode = file if data is None else data
        self._disk = disk
        self._size = header.cluster_size
        self._span = header.l2_entries * self._size
        stored = np.zeros(header.l1_entries, dtype=">u8")
        file.read_padded(header.l1_table_offset, stored.view(np.uint8).data)
        self._own_table = (stored.astype(np.uint64) & _COPIED) != 0
        self._l1_changed: set[int] = set()
        self._to_free: list[tuple[int, int]] = []  # offset, clusters
        self._to_discard: list[tuple[int, int]] = []

    # What a node calls

    def write(self, offset: int, data: memoryview) -> None:
        """Store bytes.

        Raises:
            FormatError: the tables are damaged here.
            OSError: the host failed, or the file would be too large.
        """
        with self.lock:
            if self._write_in_one(offset, data):
                return
            for part in self._segments(offset, offset + len(data)):
                piece = data[part.start - offset : part.end - offset]
                if self._header.extended_l2:
                    self._write_subclusters(part, piece)
                else:
                    self._write_clusters(part, piece)
            self._bound_memory()

    def write_compressed(self, offset: int, data: memoryview) -> None:
        """Store whole clusters, each compressed if that makes it shorter.

        Raises:
            FormatError: the tables are damaged here.
            OSError: a part is not a whole cluster, the clusters hold data already, or the host
                failed.
        """
        end = offset + len(data)
        cut = end % self._size and end != self._header.size
        if offset % self._size or cut:
            text = f"{self._file.filename}: only whole clusters are compressed"
            raise HostFileError(errno.EINVAL, text, self._file.filename)
        for at in range(0, len(data), self._size):
            self._write_packed(offset + at, data[at : at + self._size])

    def _write_packed(self, guest: int, data: memoryview) -> None:
        padded = bytes(data) + bytes(self._size - len(data))
        packed = deflate(padded, self._header.compression_type)
        if len(packed) >= self._size:
            self.write(guest, data)
            return
        index, entry = divmod(guest // self._size, self._header.l2_entries)
        with self.lock:
            if int(self._tables.entries(index)[entry, 0]) & layout.L2_OFFSET_MASK:
                text = f"{self._file.filename}: offset {guest} holds data, and is not compressed"
                raise SilentError(errno.EIO, text, self._file.filename)
            self._own(index)
            host = self._allocator.allocate_bytes(len(packed))
            self._file.event("l2_update_compressed")
            table = self._change(index)
            table[entry] = 0
            table[entry, 0] = self._tables.compressed_word(host, len(packed))
            self._file.event("write_compressed")
            self._file.write_from(host, memoryview(packed))
            self._tables.put(index, table)
            self._bound_memory()

    def write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        """Make a range read as zeroes; raises what `write` raises, ENOTSUP if that takes data.

        Units that are covered in part only are marked too, if they read as zeroes already.
        """
        with self.lock:
            marked, written = self._parts_to_zero(offset, offset + length)
            if written and no_fallback:
                text = f"{self._file.filename}: a part of a cluster is zeroed by writing it only"
                raise HostFileError(errno.ENOTSUP, text, self._file.filename)
            if self._external is not None and self._header.data_file_raw:
                self._external.write_zeroes(offset, length, unmap=unmap)
            for start, stop in written:
                for at in range(start, stop, _ZEROES):
                    self.write(at, memoryview(bytes(min(_ZEROES, stop - at))))
            for start, stop in marked:
                for part in self._segments(start, stop):
                    self._zero(part, unmap=unmap)
            self._bound_memory()

    def _parts_to_zero(
        self, start: int, end: int
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Split a range: what can be marked as zeroes, and what has to be written."""
        if self._header.version < 3 and self._disk.backing is not None:
            return [], [(start, end)]
        unit = self._header.unit_size
        first, last = self._whole(start, end, unit)
        if first > last:  # inside one unit
            first = last = end
        marked: list[tuple[int, int]] = []
        written: list[tuple[int, int]] = []
        # A compressed cluster has no subclusters: it is marked as a whole, or not.
        inner, outer = self._whole(first, last, self._size)
        edges = [(first, inner), (inner, outer), (outer, last)]
        if inner > outer:
            edges = [(first, last)]
        for a, b in edges:
            if a < b:
                is_whole = (a, b) == (inner, outer)
                (marked if is_whole or not self._is_compressed(a) else written).append((a, b))
        for a, b in ((start, min(first, end)), (last, end)):
            if a < b:
                low = a // unit * unit
                high = min(low + unit, self._header.size)
                if self._is_free(low, high) and self._is_zero(low, a) and self._is_zero(b, high):
                    marked.append((low, high))
                else:
                    written.append((a, b))
        return marked, written

    def _is_compressed(self, offset: int) -> bool:
        kinds = self._tables.units(offset // self._header.unit_size, 1).kinds
        return bool(kinds[0] == tables.COMPRESSED)

    def _is_zero(self, start: int, end: int, *, fast: bool = False) -> bool:
        return start >= end or self._disk.is_known_zero(start, end, fast=fast)

    def _is_free(self, start: int, end: int) -> bool:
        """Return whether the units of a range hold no data of this image."""
        unit = self._header.unit_size
        kinds = self._tables.units(start // unit, -(-end // unit) - start // unit).kinds
        return bool(((kinds == tables.UNALLOCATED) | (kinds == tables.ZERO)).all())

    def grow_disk(self, size: int) -> None:
        """Let the header tell a longer disk, with an L1 table that is long enough.

        Raises:
            OSError: the table would be too long, or the host failed; QEMU's text.
        """
        entries = -(-size // self._span)
        length = entries * layout.ENTRY_SIZE
        if length > layout.L1_TABLE_MAX:
            text = f"Failed to grow the L1 table: {os.strerror(errno.EFBIG)}"
            raise HostFileError(errno.EFBIG, text, self._file.filename)
        with self.lock:
            self.flush()
            header = self._header
            old = header.l1_table_offset, -(-header.l1_size * layout.ENTRY_SIZE // self._size)
            if entries > header.l1_size:
                self._file.event("l1_grow_alloc_table")
                clusters = -(-length // self._size)
                offset = self._allocator.allocate(clusters)
                table = memoryview(bytearray(clusters * self._size))
                used = header.l1_size * layout.ENTRY_SIZE
                self._file.read_padded(old[0], table[:used])
                self._file.event("l1_grow_write_table")
                self._file.write_from(offset, table)
                self._allocator.flush()
                self._file.event("l1_grow_activate_table")
                fields = _L1_FIELDS.pack(entries, offset)
                self._file.write_from(_L1_FIELDS_OFFSET, memoryview(fields))
                self._allocator.replace_table(old, (offset, clusters))
            self._file.write_from(_SIZE_OFFSET, memoryview(size.to_bytes(8, "big")))
            self._allocator.flush()

    def reopened(self, header: Header, known: tables.Tables) -> Writer:
        """Return a writer of the same image as it is now; this one is not used any more."""
        return Writer(self._file, header, known, self._allocator, self._external, self._disk)

    def preallocate(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Give places to clusters of a range that has none, and yield offset and length of each.

        What the places hold is not told; without subclusters it is what the disk reads as.
        """
        for part in self._segments(start, end):
            count = part.last - part.first
            with self.lock:
                self._own(part.table)
                if self._external is not None:
                    host = part.table * self._span + part.first * self._size
                else:
                    host = self._allocator.allocate(count)
                table = self._change(part.table)
                hosts = (host + np.arange(count) * self._size).astype(np.uint64)
                table[part.first : part.last, 0] = hosts | _COPIED
                self._tables.put(part.table, table)
                self._bound_memory()
            yield host, count * self._size

    def discard(self, offset: int, length: int) -> None:
        """Give back the clusters that lie wholly in a range, which then reads as zeroes."""
        if self._header.version < 3 and self._disk.backing is not None:
            return  # what is behind would show through
        first, last = self._whole(offset, offset + length, self._size)
        with self.lock:
            if self._external is not None and self._header.data_file_raw and first < last:
                self._external.write_zeroes(first, last - first, unmap=True)
            for part in self._segments(first, last):
                self._drop(part)
            self._bound_memory()

    def flush(self, *, tells: bool = False) -> None:
        """Make durable what was written.

        Args:
            tells: whether the file is to hear of the step that does so.

        Raises:
            OSError: the host failed.
        """
        with self.lock:
            event = "flush_to_disk" if tells else ""
            if self._external is not None:
                self._external.flush()
            pending = self._tables.pending
            if not (pending or self._l1_changed or self._to_free):
                self._file.event(event)
                self._allocator.flush()
                return
            self._allocator.flush()
            for index in sorted(pending):
                self._file.event("l2_update")
                stored = pending[index].astype(">u8").tobytes()
                self._file.write_from(self._tables.offset_of(index), memoryview(stored))
            if self._l1_changed:
                self._file.flush()
                for index in sorted(self._l1_changed):
                    self._file.event("l1_update")
                    entry = self._tables.offset_of(index) | layout.COPIED
                    at = self._header.l1_table_offset + index * layout.ENTRY_SIZE
                    self._file.write_from(at, memoryview(entry.to_bytes(8, "big")))
                self._l1_changed.clear()
            self._file.event(event)
            self._file.flush()
            self._tables.settle()
            self._give_back()

    def close(self) -> None:
        """Store what is left to store: the counts of what was given back last."""
        with self.lock:
            self.flush()
            self._allocator.flush()

    def _give_back(self) -> None:
        waiting, self._to_free = self._to_free, []
        for offset, count in waiting:
            self._allocator.free(offset, count)
        holes, self._to_discard = self._to_discard, []
        for offset, length in holes:
            if self._allocator.count_of(offset) == 0:
                self._file.discard(offset, length)

    def _bound_memory(self) -> None:
        if len(self._tables.pending) * self._size > PENDING_BYTES:
            self.flush()

    # Which part of which table

    def _segments(self, start: int, end: int) -> list[Segment]:
        return segments(start, end, self._span, self._size)

    def _whole(self, start: int, end: int, unit: int) -> tuple[int, int]:
        return whole(start, end, unit, self._header.size)

    def _entries(self, part: Segment) -> NDArray[np.uint64]:
        """Return the entries of a segment, (n, words of an entry); checked."""
        units = self._tables.units(
            (part.table * self._header.l2_entries + part.first) * self._header.subclusters,
            (part.last - part.first) * self._header.subclusters,
        )
        bad = np.flatnonzero(units.kinds == tables.BAD)
        if len(bad):
            first = part.table * self._header.l2_entries + part.first
            self._tables.raise_bad(first * self._header.subclusters + int(bad[0]))
        return self._tables.entries(part.table)[part.first : part.last]

    # Entries without subclusters

    def _write_in_one(self, offset: int, data: memoryview) -> bool:
        """Write inside one cluster that is this image's own, or not allocated; most writes are.

        Returns:
            Whether it was done: `_write_clusters` does the same of any entries, at more cost.
        """
        cluster, inside = divmod(offset, self._size)
        if (
            self._external is not None
            or self._header.extended_l2
            or inside + len(data) > self._size
        ):
            return False
        index, entry = divmod(cluster, self._header.l2_entries)
        table = self._tables.entries(index)
        word = int(table[entry, 0])
        host = word & layout.L2_OFFSET_MASK
        if word == host | layout.COPIED and host and host % self._size == 0:
            self._file.event("write_aio")
            self._file.write_from(host + inside, data)
            return True
        if word:
            return False
        self._own(index)
        host = self._allocator.allocate(1)
        self._store(host, cluster * self._size, self._size, offset, data)
        table = self._change(index)
        table[entry, 0] = host | layout.COPIED
        self._tables.put(index, table)
        self._bound_memory()
        return True

    def _write_clusters(self, part: Segment, data: memoryview) -> None:
        words = self._entries(part)[:, 0]
        # A cluster of its own, with data: these bytes can be written where they are.
        named = words & _OFFSET != 0
        if self._external is not None:
            named |= words & _COPIED != 0
        mine = (words & (_COPIED | _COMPRESSED | _ZERO) == _COPIED) & named
        hosts = (words & _OFFSET).astype(np.int64)
        breaks = (mine[1:] != mine[:-1]) | (mine[1:] & (hosts[1:] != hosts[:-1] + self._size))
        edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(words)]
        base = part.table * self._span + part.first * self._size
        for at, to in itertools.pairwise(edges):
            start = max(part.start, base + at * self._size)
            end = min(part.end, base + to * self._size)
            piece = data[start - part.start : end - part.start]
            if mine[at]:
                inside = start - (base + at * self._size)
                self._file.event("write_aio")
                self._data.write_from(int(hosts[at]) + inside, piece)
            else:
                self._write_new(part, at, to, start, piece)

    def _write_new(self, part: Segment, at: int, to: int, start: int, piece: memoryview) -> None:
        """Write entries ``[at, to)`` of a segment to clusters that nobody else has."""
        guest = part.table * self._span + (part.first + at) * self._size
        count = to - at
        self._own(part.table)
        host = guest if self._external is not None else self._allocator.allocate(count)
        self._store(host, guest, count * self._size, start, piece)
        table = self._change(part.table)
        entries = slice(part.first + at, part.first + to)
        old = table[entries, 0].copy()
        table[entries, 0] = (host + np.arange(count) * self._size).astype(np.uint64) | _COPIED
        self._tables.put(part.table, table)
        self._release(old)

    def _store(self, host: int, guest: int, length: int, start: int, piece: memoryview) -> None:
        """Write a part of a range of the disk to where the whole range is to be.

        What is around the part comes from where it was; if that is known to read as zeroes, it is
        zeroed, where the host can do so without writing.

        Args:
            host: where in the file.
            guest: first byte of the range.
            length: of the range.
            start: first byte of the part.
            piece: the part.
        """
        end = min(guest + length, self._header.size)
        if self._external is not None:  # it ends where the disk does
            length = end - guest
            self._external.grow(host + length)
        if len(piece) < length:
            around = ((guest, start), (start + len(piece), end))
            if all(self._is_zero(*part, fast=True) for part in around) and self._zeroed(
                host, length
            ):
                host += start - guest
            else:
                piece = self._filled(guest, length, start, piece)
                self._file.event("write_aio")
                self._file.event("cow_write")
                self._data.write_from(host, piece)
                return
        self._file.event("write_aio")
        self._data.write_from(host, piece)

    def _zeroed(self, host: int, length: int) -> bool:
        """Let a new range of the file read as zeroes, and return whether that needs no writing."""
        self._file.event("cluster_alloc_space")
        try:
            self._data.write_zeroes(host, length, unmap=False, no_fallback=True)
        except OSError as error:
            if error.errno not in {errno.ENOTSUP, errno.EAGAIN}:
                raise
            return False
        return True

    def _filled(self, guest: int, length: int, start: int, piece: memoryview) -> memoryview:
        """Return what a range of the disk holds once ``piece`` is written at ``start``."""
        if start == guest and len(piece) == length:
            return piece
        buffer = memoryview(bytearray(length))
        end = start + len(piece)
        self._copy_old(guest, buffer[: start - guest])
        buffer[start - guest : end - guest] = piece
        self._copy_old(end, buffer[end - guest :])
        return buffer

    def _copy_old(self, offset: int, buffer: memoryview) -> None:
        inside = max(0, min(len(buffer), self._header.size - offset))
        if inside:
            self._file.event("cow_read")
            self._disk.read_into(offset, buffer[:inside])

    def _release(self, words: NDArray[np.uint64], *, discard: bool = False) -> None:
        """Give back, with the next flush, the clusters that entries named."""
        if self._external is not None:
            return
        for word in words[words & (_OFFSET | _COMPRESSED) != 0].tolist():
            if word & layout.L2_COMPRESSED:
                offset, length = self._tables.compressed_place(word)
                first = offset // self._size * self._size
                last = (offset + length - 1) // self._size * self._size
                self._to_free.append((first, (last - first) // self._size + 1))
            else:
                self._to_free.append((word & layout.L2_OFFSET_MASK, 1))
                if discard:
                    self._to_discard.append((word & layout.L2_OFFSET_MASK, self._size))

    # Zeroes and discards: whole clusters

    def _zero(self, part: Segment, *, unmap: bool) -> None:
        entries = self._entries(part)
        words = entries[:, 0]
        if self._header.extended_l2:
            self._zero_subclusters(part, entries, unmap=unmap)
            return
        packed = words & _COMPRESSED != 0
        drops = packed | np.full(len(words), unmap and self._external is None)
        if self._header.version < 3:
            drops[:] = True
        new = np.where(drops, np.uint64(0), words)
        self._replace(part, new if self._header.version < 3 else new | _ZERO)
        self._release(words[drops])

    def _zero_subclusters(self, part: Segment, entries: NDArray[np.uint64], *, unmap: bool) -> None:
        base = part.table * self._span + part.first * self._size
        starts = base + np.arange(len(entries)) * self._size
        low = np.maximum(part.start - starts, 0) // self._header.unit_size
        inside = np.minimum(part.end - starts, self._size)
        high = -(-inside // self._header.unit_size)
        # The last cluster is whole too if the disk ends in it.
        high[starts + inside == self._header.size] = layout.SUBCLUSTERS
        words, bits = entries[:, 0], entries[:, 1]
        one = np.uint64(1)
        range_ = (one << high.astype(np.uint64)) - (one << low.astype(np.uint64))
        whole = range_ == np.uint64(layout.ALL_ALLOCATED)
        packed = words & _COMPRESSED != 0
        drops = whole & (packed | np.full(len(words), unmap and self._external is None))
        shift = np.uint64(layout.SUBCLUSTERS)
        new = np.where(packed, np.uint64(0), bits) & ~range_ | range_ << shift
        self._replace(part, np.where(drops, np.uint64(0), words), new)
        self._release(words[drops])

    def _drop(self, part: Segment) -> None:
        entries = self._entries(part)
        words = entries[:, 0].copy()
        in_use = words & (_OFFSET | _COMPRESSED) != 0
        if self._external is not None:
            in_use |= words & _COPIED != 0
        if self._disk.backing is not None:
            in_use[:] = True
        if self._header.extended_l2:
            bits = np.where(in_use, np.uint64(_ALL_ZEROES), entries[:, 1])
            self._replace(part, np.where(in_use, np.uint64(0), words), bits)
        else:
            mark = _ZERO if self._header.version >= 3 else np.uint64(0)
            self._replace(part, np.where(in_use, mark, words))
        self._release(words[in_use], discard=True)

    def _replace(
        self, part: Segment, words: NDArray[np.uint64], bits: NDArray[np.uint64] | None = None
    ) -> None:
        """Put entries in the place of a segment's; nothing happens if they are the same."""
        old = self._tables.entries(part.table)[part.first : part.last]
        same = (old[:, 0] == words).all() and (bits is None or (old[:, 1] == bits).all())
        if same:
            return
        table = self._change(part.table)
        table[part.first : part.last, 0] = words
        if bits is not None:
            table[part.first : part.last, 1] = bits
        self._tables.put(part.table, table)

    # Entries with subclusters

    def _write_subclusters(self, part: Segment, data: memoryview) -> None:
        for number, (word, bits) in enumerate(self._entries(part).tolist()):
            guest = part.table * self._span + (part.first + number) * self._size
            start, end = max(part.start, guest), min(part.end, guest + self._size)
            piece = data[start - part.start : end - part.start]
            self._write_in_cluster(part, part.first + number, guest, (word, bits), start, piece)

    def _write_in_cluster(
        self,
        part: Segment,
        entry: int,
        guest: int,
        old: tuple[int, int],
        start: int,
        piece: memoryview,
    ) -> None:
        word, bits = old
        unit, end = self._header.unit_size, start + len(piece)
        first, last = (start - guest) // unit, -(-(end - guest) // unit)
        packed = bool(word & layout.L2_COMPRESSED)
        placed = bool(word & layout.L2_OFFSET_MASK) or (
            self._external is not None and bool(word & layout.COPIED)
        )
        mine = placed and not packed and bool(word & layout.COPIED)
        allocated = bits & layout.ALL_ALLOCATED
        if mine:
            host = word & layout.L2_OFFSET_MASK
            # Whole subclusters, but for those at the ends that hold data already.
            low = start if allocated >> first & 1 else guest + first * unit
            high = end if allocated >> (last - 1) & 1 else guest + last * unit
        else:
            self._own(part.table)
            host = guest if self._external is not None else self._allocator.allocate(1)
            if packed:
                first, last, bits = 0, layout.SUBCLUSTERS, 0
            elif placed and allocated:
                # What it holds moves too, in one piece with what is written.
                first = min(first, (allocated & -allocated).bit_length() - 1)
                last = max(last, allocated.bit_length())
            low, high = guest + first * unit, guest + last * unit
        touched = (1 << last) - (1 << first)
        self._store(host + low - guest, low, high - low, start, piece)
        zero = bits >> layout.SUBCLUSTERS & ~touched
        allocated = (bits | touched) & layout.ALL_ALLOCATED
        new = (host | layout.COPIED, zero << layout.SUBCLUSTERS | allocated)
        if new != old:
            table = self._change(part.table)
            table[entry] = new
            self._tables.put(part.table, table)
        if not mine and placed | packed:
            self._release(np.array([word], dtype=np.uint64))

    # Tables

    def _own(self, index: int) -> None:
        """Let an L2 table have a place of its own, before the clusters that it will name."""
        if not self._own_table[index]:
            self._change(index)

    def _change(self, index: int) -> NDArray[np.uint64]:
        """Return a copy of an L2 table to change, which has a place of its own in the file."""
        table = self._tables.entries(index).copy()
        if not self._own_table[index]:
            old = self._tables.offset_of(index)
            self._tables.move(index, self._allocator.allocate(1), table)
            self._own_table[index] = True
            self._l1_changed.add(index)
            if old:
                self._to_free.append((old, 1))
        return table
