"""Checking an image: what its tables refer to against what its reference counts say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from nbexport.block.qcow2 import layout
from nbexport.block.qcow2.bitmaps import read_directory
from nbexport.block.qcow2.refcounts import counts_of
from nbexport.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nbexport.block.qcow2.node import Qcow2Node

MESSAGES_MAX: Final = 1000
"""Findings kept as text, about 100 KiB; the counts go on."""
CLUSTERS_MAX: Final = 1 << 24
"""Clusters of a file that can be checked: their counts, expected and stored, take 16 bytes each,
256 MiB; with 64 KiB clusters this is 1 TiB of file."""

_NAMED: Final = layout.L2_OFFSET_MASK | layout.COPIED
_L1_RESERVED: Final = 0x7F00_0000_0000_01FF
_L2_RESERVED: Final = 0x3F00_0000_0000_01FE


@dataclass
class CheckResult:
    """What a check found.

    Attributes:
        corruptions: errors that can lose data.
        leaks: clusters that are counted more often than they are used.
        check_errors: counts that could not be read.
        total_clusters: clusters of the disk.
        allocated_clusters: those with a place in the file.
        compressed_clusters: those that are compressed.
        fragmented_clusters: those that do not follow the one before them in the file.
        image_end_offset: behind the last cluster in use.
        messages: one line a finding, at most MESSAGES_MAX.
    """

    corruptions: int = 0
    leaks: int = 0
    check_errors: int = 0
    total_clusters: int = 0
    allocated_clusters: int = 0
    compressed_clusters: int = 0
    fragmented_clusters: int = 0
    image_end_offset: int = 0
    messages: list[str] = field(default_factory=list)

    def say(self, message: str) -> None:
        """Keep a line unless there are too many."""
        if len(self.messages) < MESSAGES_MAX:
            self.messages.append(message)

    def corrupt(self, message: str, times: int = 1) -> None:
        """Count errors of one kind."""
        self.corruptions += times
        if times:
            self.say(f"ERROR {message}")


def check_qcow2(node: Qcow2Node) -> CheckResult:
    """Compare the reference counts of an image with the references, and its flags with both.

    The image is only read. The counts are those of ``qemu-img check`` without ``-r``.

    Raises:
        FormatError: the file has more than CLUSTERS_MAX clusters.
        OSError: the host cannot read.

    Source: qcow2 specification, "Host cluster management", "L1 table", "L2 table entry".
    """
    return _Check(node).run()


class _Check:
    def __init__(self, node: Qcow2Node) -> None:
        self._header = node.header
        self._snapshots = node.snapshots
        self._file = node.file
        self._size = node.header.cluster_size
        self._clusters = -(-node.file.size // self._size)
        if self._clusters > CLUSTERS_MAX:
            raise FormatError(
                f"file of {self._clusters} clusters is too large to be checked (at most "
                f"{CLUSTERS_MAX})",
                path=node.filename,
            )
        # One more: the last structure may stick out of the file by less than a cluster.
        self._used = np.zeros(self._clusters + 1, dtype=np.uint64)
        self._stored = np.zeros(self._clusters + 1, dtype=np.uint64)
        self._unreadable = np.zeros(self._clusters + 1, dtype=np.bool_)
        self._max = (1 << self._header.refcount_bits) - 1
        self._result = CheckResult()

    def run(self) -> CheckResult:
        header, result = self._header, self._result
        result.total_clusters = -(-header.size // self._size)
        blocks = self._read_table(
            header.refcount_table_offset,
            header.refcount_table_clusters * self._size // layout.ENTRY_SIZE,
        )
        self._load_counts(blocks)
        self._add(0, self._size)
        self._check_l1(header.l1_table_offset, header.l1_size, active=True)
        for snapshot in self._snapshots:
            if snapshot.l1_table_offset % self._size:
                result.corrupt(
                    f"snapshot {snapshot.id} ({snapshot.name}) l1_offset="
                    f"{snapshot.l1_table_offset:#x}: L1 table is not cluster aligned; snapshot "
                    "table entry corrupted"
                )
                continue
            if snapshot.l1_entries > layout.L1_TABLE_MAX // layout.ENTRY_SIZE:
                result.corrupt(
                    f"snapshot {snapshot.id} ({snapshot.name}) l1_size={snapshot.l1_entries:#x}: "
                    "L1 table is too large; snapshot table entry corrupted"
                )
                continue
            self._check_l1(snapshot.l1_table_offset, snapshot.l1_entries, active=False)
        self._add(header.snapshots_offset, header.snapshots_length)
        self._check_bitmaps()
        self._add(
            header.refcount_table_offset,
            header.refcount_table_clusters * self._size,
        )
        self._check_blocks(blocks)
        self._compare()
        self._check_copied()
        return result

    # Counting

    def _add(self, offset: int, length: int) -> None:
        """Count one reference to every cluster of a range of the file."""
        if length > 0:
            self._add_many(np.array([offset], dtype=np.uint64), np.array([length], dtype=np.uint64))

    def _add_many(self, offsets: NDArray[np.uint64], lengths: NDArray[np.uint64]) -> None:
        """Count one reference to every cluster of each range; shapes (n,)."""
        beyond = offsets + lengths >= np.uint64(self._file.size + self._size)
        for offset in offsets[beyond][:MESSAGES_MAX].tolist():
            self._result.say(
                "ERROR counting reference for region exceeding the end of the file by one cluster "
                f"or more: offset {offset:#x}"
            )
        self._result.corruptions += int(beyond.sum())
        offsets, lengths = offsets[~beyond].astype(np.int64), lengths[~beyond].astype(np.int64)
        if not len(offsets):
            return
        firsts, lasts = offsets // self._size, (offsets + lengths - 1) // self._size
        steps = np.bincount(firsts, minlength=len(self._used) + 1)
        steps -= np.bincount(lasts + 1, minlength=len(self._used) + 1)
        more = np.cumsum(steps[:-1])[: len(self._used)].astype(np.uint64)
        # A count that is full stays full; each reference that does not fit is an error.
        room = np.uint64(self._max) - self._used
        over = more > room
        if over.any():
            lost = int((more[over] - room[over]).sum())
            first = int(np.flatnonzero(over)[0]) * self._size
            self._result.corrupt(f"overflow cluster offset={first:#x}", lost)
        self._used += np.minimum(more, room)

    def _read_table(self, offset: int, entries: int) -> NDArray[np.uint64]:
        # At most what its limit in the header's check allows, 32 MiB.
        stored = np.zeros(entries, dtype=">u8")
        self._file.read_padded(offset, stored.view(np.uint8).data)
        return stored.astype(np.uint64)

    def _load_counts(self, blocks: NDArray[np.uint64]) -> None:
        """Read the stored count of every cluster of the file."""
        per_block = self._size * 8 // self._header.refcount_bits
        block = np.zeros(self._size, dtype=np.uint8)
        offsets = blocks & np.uint64(layout.REFCOUNT_OFFSET_MASK)
        for index in np.flatnonzero(offsets).tolist():  # one read a block
            first = index * per_block
            if first >= len(self._stored):
                break
            count = min(per_block, len(self._stored) - first)
            offset = int(offsets[index])
            if offset % self._size or offset + self._size > layout.DISK_SIZE_MAX:
                self._unreadable[first : first + count] = True
                continue
            self._file.read_padded(offset, block.data)
            counts = counts_of(block, self._header.refcount_bits)[:count]
            self._stored[first : first + count] = counts

    # What refers to clusters

    def _check_l1(self, offset: int, entries: int, *, active: bool) -> None:
        if entries == 0:
            return
        self._add(offset, entries * layout.ENTRY_SIZE)
        table = self._read_table(offset, entries)
        reserved = table & np.uint64(_L1_RESERVED) != 0
        self._result.corrupt("found L1 entry with reserved bits set", int(reserved.sum()))
        offsets = table[table != 0] & np.uint64(layout.L1_OFFSET_MASK)
        self._add_many(offsets, np.full(len(offsets), self._size, dtype=np.uint64))
        for at in offsets.tolist():  # one read a table
            if at % self._size:
                self._result.corrupt(
                    f"l2_offset={at:#x}: Table is not cluster aligned; L1 entry corrupted"
                )
            self._check_l2(at, active=active)

    def _check_l2(self, offset: int, *, active: bool) -> None:
        if offset >= self._file.size:
            return  # zeroes
        result, header = self._result, self._header
        entries = self._read_table(offset, self._size // layout.ENTRY_SIZE)
        entries = entries.reshape(header.l2_entries, -1)
        word = entries[:, 0]
        parts = entries[:, 1] if header.extended_l2 else np.zeros_like(word)
        packed = word & np.uint64(layout.L2_COMPRESSED) != 0
        places = word & np.uint64(layout.L2_OFFSET_MASK)
        # In a data file offset 0 is a place too; the flag COPIED tells.
        named = places != 0 if header.data_file is None else word & np.uint64(_NAMED) != 0
        plain = ~packed & named
        reserved = ~packed & (word & np.uint64(_L2_RESERVED) != 0)
        result.corrupt("found L2 entry with reserved bits set", int(reserved.sum()))
        copied = packed & (word & np.uint64(layout.COPIED) != 0)
        result.corrupt("copied flag must never be set for compressed clusters", int(copied.sum()))
        if header.data_file is not None:
            result.corrupt("compressed cluster with data file", int(packed.sum()))
            parts, packed = np.where(packed, 0, parts).astype(np.uint64), np.zeros_like(packed)
        mixed = packed & (parts != 0)
        result.corrupt(
            "compressed cluster with non-zero subcluster allocation bitmap", int(mixed.sum())
        )
        packed &= ~mixed
        both = plain & (parts >> np.uint64(32) & parts != 0)
        result.corrupt("Allocated cluster with corrupted subcluster bitmap", int(both.sum()))
        nowhere = ~packed & ~mixed & ~named
        nowhere &= parts & np.uint64(layout.ALL_ALLOCATED) != 0
        result.corrupt(
            "Unallocated cluster has non-zero subcluster allocation map", int(nowhere.sum())
        )
        unaligned = plain & (places & np.uint64(self._size - 1) != 0)
        result.corrupt(
            "Data cluster is not properly aligned; L2 entry corrupted.", int(unaligned.sum())
        )
        if active:
            self._count_allocation(places[plain].astype(np.int64), int(packed.sum()))
        if header.data_file is None:  # the clusters of a data file are not counted
            self._add_many(places[plain], np.full(int(plain.sum()), self._size, dtype=np.uint64))
        extra_bits = header.cluster_bits - 8
        offset_bits = np.uint64(62 - extra_bits)
        at = word[packed] & ((np.uint64(1) << offset_bits) - np.uint64(1))
        sectors = (word[packed] >> offset_bits) & np.uint64((1 << extra_bits) - 1)
        length = (sectors + np.uint64(1)) * np.uint64(layout.COMPRESSED_SECTOR)
        length -= at & np.uint64(layout.COMPRESSED_SECTOR - 1)
        self._add_many(at, length)

    def _count_allocation(self, places: NDArray[np.int64], packed: int) -> None:
        result = self._result
        result.allocated_clusters += len(places) + packed
        result.compressed_clusters += packed
        # Compressed clusters are fragmented by nature.
        result.fragmented_clusters += packed
        result.fragmented_clusters += int((places[1:] != places[:-1] + self._size).sum())

    def _check_bitmaps(self) -> None:
        place = self._header.bitmaps
        if place is None:
            return
        self._add(place.directory_offset, place.directory_size)
        try:
            entries = read_directory(self._file, self._header, place)
        except FormatError as error:
            self._result.corrupt(error.message)
            return
        for entry in entries:
            length = entry.table_entries * layout.ENTRY_SIZE
            self._add(entry.table_offset, length)
            # What lies behind the end of the file is zeroes, which refer to nothing.
            inside = min(length, max(0, self._file.size - entry.table_offset))
            table = self._read_table(entry.table_offset, inside // layout.ENTRY_SIZE)
            offsets = table & np.uint64(layout.BITMAP_DATA_OFFSET_MASK)
            bad = table & np.uint64(layout.BITMAP_DATA_RESERVED) != 0
            bad |= offsets & np.uint64(self._size - 1) != 0
            bad |= (offsets != 0) & (table & np.uint64(layout.BITMAP_ALL_ONES) != 0)
            self._result.corrupt(f"bitmap '{entry.name}': bad table entry", int(bad.sum()))
            offsets = offsets[~bad & (offsets != 0)]
            self._add_many(offsets, np.full(len(offsets), self._size, dtype=np.uint64))

    def _check_blocks(self, blocks: NDArray[np.uint64]) -> None:
        result = self._result
        for index in np.flatnonzero(blocks).tolist():  # at most 1 Mi
            entry = int(blocks[index])
            offset = entry & layout.REFCOUNT_OFFSET_MASK
            if entry != offset:
                result.corrupt(f"refcount table entry {index} has reserved bits set")
                continue
            if offset % self._size:
                result.corrupt(
                    f"refcount block {index} is not cluster aligned; refcount table entry corrupted"
                )
                continue
            if offset // self._size >= self._clusters:
                result.corrupt(f"refcount block {index} is outside image")
                continue
            self._add(offset, self._size)
            count = int(self._used[offset // self._size])
            if count != 1:
                result.corrupt(f"refcount block {index} refcount={count}")

    # Comparing

    def _compare(self) -> None:
        result = self._result
        used, stored, known = self._used, self._stored, ~self._unreadable
        result.check_errors += int(self._unreadable[: self._clusters].sum())
        in_use = np.flatnonzero(known & ((used > 0) | (stored > 0)))
        # The header is there even if no count can be read.
        last = int(in_use[-1]) if len(in_use) else 0
        result.image_end_offset = (last + 1) * self._size
        low = known & (stored < used)
        high = known & (stored > used)
        result.corruptions += int(low.sum())
        result.leaks += int(high.sum())
        for number in np.flatnonzero(low | high)[:MESSAGES_MAX].tolist():
            kind = "ERROR" if low[number] else "Leaked"
            result.say(
                f"{kind} cluster {number} refcount={int(stored[number])} "
                f"reference={int(used[number])}"
            )

    def _check_copied(self) -> None:
        """The COPIED flag of the active tables must say whether the count is exactly one."""
        header = self._header
        table = self._read_table(header.l1_table_offset, header.l1_size)
        offsets = table & np.uint64(layout.L1_OFFSET_MASK)
        present = offsets != 0
        self._compare_copied("L2 cluster", table[present], offsets[present])
        for at in offsets[present].tolist():  # one read a table
            if at >= self._file.size:
                continue
            entries = self._read_table(at, self._size // layout.ENTRY_SIZE)
            word = entries.reshape(header.l2_entries, -1)[:, 0]
            places = word & np.uint64(layout.L2_OFFSET_MASK)
            plain = (word & np.uint64(layout.L2_COMPRESSED) == 0) & (places != 0)
            if header.data_file is None:
                self._compare_copied("data cluster", word[plain], places[plain])
                continue
            # A data file has no counts: each of its clusters is used once.
            lost = plain & (word & np.uint64(layout.COPIED) == 0)
            self._result.corrupt("OFLAG_COPIED data cluster: refcount=1", int(lost.sum()))

    def _compare_copied(
        self, what: str, entries: NDArray[np.uint64], offsets: NDArray[np.uint64]
    ) -> None:
        numbers = offsets // np.uint64(self._size)
        inside = np.minimum(numbers, np.uint64(len(self._stored) - 1)).astype(np.int64)
        counts = np.where(numbers == inside.astype(np.uint64), self._stored[inside], 0)
        known = ~self._unreadable[inside]
        copied = entries & np.uint64(layout.COPIED) != 0
        wrong = np.flatnonzero(known & (copied != (counts == 1)))
        self._result.corruptions += len(wrong)
        for number in wrong[:MESSAGES_MAX].tolist():
            self._result.say(
                f"ERROR OFLAG_COPIED {what}: entry={int(entries[number]):x} "
                f"refcount={int(counts[number])}"
            )
