"""Persistent bitmaps of an image that is open for writing.

While the image is open its directory says of every bitmap that it is in use, so that after a crash
none of them is believed; the bits live in memory and follow the writes of the node. A clean close
stores them anew, beside the old ones, and then makes the header name the new directory.

    store = BitmapStore(node, allocator)   # after the node is open, before anything is written
    store.add("b0")
    store.close()                          # after the last write, before the file is closed
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from nbexport.bits import Bitmap
from nbexport.block.node import PersistentBitmap
from nbexport.block.qcow2 import bitmap_header, layout
from nbexport.block.qcow2.bitmaps import DirectoryEntry, bit_bytes, read_directory, read_table
from nbexport.block.qcow2.header import BitmapsExtension
from nbexport.block.tracking import default_granularity
from nbexport.errors import FormatError, UsageError
from nbexport.units import align_up, format_size, is_power_of_two

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nbexport.block.qcow2.node import Qcow2Node

_GRANULARITY_MIN: Final = 1 << layout.BITMAP_GRANULARITY_BITS[0]
_GRANULARITY_MAX: Final = 1 << layout.BITMAP_GRANULARITY_BITS[1]


class ClusterAllocator(Protocol):
    """What gives clusters of the image's file; see the refcounts of the image."""

    def allocate(self, count: int) -> int:
        """Return the offset of ``count`` clusters side by side that are used from now on."""

    def free(self, offset: int, count: int) -> None:
        """Give clusters back."""

    def holds_table(self, offset: int, count: int) -> bool:
        """Return whether one of the clusters is a table of the image, which is never a bitmap's."""

    def flush(self) -> None:
        """Store the reference counts and make everything durable that was written before."""


@dataclass
class _Table:
    """Where the bits of one bitmap are stored."""

    offset: int
    entries: int


class BitmapStore:
    """The bitmaps of one image.

    Args:
        node: the image, opened for writing; its ``bitmaps`` and ``header`` are kept up to date,
            and its writes are marked in the enabled bitmaps.
        allocator: of the image's clusters.

    Raises:
        FormatError: the header has no room.
        OSError: the host failed.
    """

    def __init__(self, node: Qcow2Node, allocator: ClusterAllocator) -> None:
        self._node = node
        self._file = node.file
        self._allocator = allocator
        self._size = node.cluster_size
        self._entries: list[DirectoryEntry] = []
        self._bitmaps = dict(node.bitmaps)
        if bitmap_header.has_stale_features(self._file, node.header):
            # Also drops bitmaps that some other writer has made worthless.
            self._rewrite_header(node.header.bitmaps)
        if node.header.bitmaps is not None:
            self._entries = read_directory(self._file, node.header, node.header.bitmaps)
            self._mark_in_use(node.header.bitmaps)
        for one in self._bitmaps.values():
            if one.enabled and one.bitmap is not None:
                node.tracking.start(one.bitmap)

    @property
    def bitmaps(self) -> Mapping[str, PersistentBitmap]:
        """The bitmaps as they are now; the bits of one are live."""
        return self._node.bitmaps

    @property
    def stored(self) -> tuple[DirectoryEntry, ...]:
        """The bitmaps as the image has them now: all in use."""
        return tuple(self._entries)

    def keep(self, bitmaps: Iterable[PersistentBitmap]) -> None:
        """Store these bitmaps in the end, whatever there was.

        For who keeps them, and marks writes in them, itself. What the image holds of others goes
        by `remove`, before; an inconsistent one must be one that the image holds.
        """
        self._bitmaps = {bitmap.name: bitmap for bitmap in bitmaps}
        self._publish()

    # What a user calls. The order of the checks, and the words, are QEMU's.

    def add(self, name: str, granularity: int | None = None, *, enabled: bool = True) -> None:
        """Make an empty bitmap, which is stored when the image is closed.

        Args:
            name: what no other bitmap of the image is called.
            granularity: bytes a bit; None for what QEMU takes.
            enabled: whether writes are marked in it.

        Raises:
            UsageError: the image cannot have such a bitmap.
        """
        check_new(name, granularity)
        if granularity is None:
            granularity = default_granularity(self._size)
        if name in self._bitmaps:
            raise UsageError(f"Bitmap already exists: {name}")
        reason = self.why_not(name, granularity)
        if reason is not None:
            raise UsageError(
                f"Can't make bitmap '{name}' persistent in '{self._node.filename}': {reason}"
            )
        bits = Bitmap(self._node.header.size, granularity)
        self._set(PersistentBitmap(name, granularity, enabled, inconsistent=False, bitmap=bits))

    def remove(self, name: str) -> None:
        """Delete a bitmap from memory and from the image; an inconsistent one may be, too.

        Raises:
            UsageError: there is none of that name.
            FormatError: the header has no room.
            OSError: the host failed.
        """
        gone = self.find(name)
        stored = [entry for entry in self._entries if entry.name == name]
        if stored:
            self._entries = [entry for entry in self._entries if entry.name != name]
            self._write_directory()
            self._free_bits(_Table(one.table_offset, one.table_entries) for one in stored)
            self._allocator.flush()
        del self._bitmaps[name]
        if gone.bitmap is not None:
            self._node.tracking.stop(gone.bitmap)
        self._publish()

    def clear(self, name: str) -> None:
        """Mark everything clean.

        Raises:
            UsageError: there is no such bitmap, or it is inconsistent.
        """
        bits = self._usable(name)
        with self._node.tracking.paused():
            bits.clear()

    def enable(self, name: str) -> None:
        """Mark writes from now on; raises what `clear` raises."""
        bits = self._usable(name)
        self._set(replace(self._bitmaps[name], enabled=True))
        self._node.tracking.start(bits)

    def disable(self, name: str) -> None:
        """Keep the bitmap as it is from now on; raises what `clear` raises."""
        bits = self._usable(name)
        self._node.tracking.stop(bits)
        self._set(replace(self._bitmaps[name], enabled=False))

    def merge(self, name: str, source: PersistentBitmap) -> None:
        """Mark what ``source`` marks as well, at whatever granularity.

        Raises:
            UsageError: there is no such bitmap, one is inconsistent, or the disks differ in size.
        """
        bits = self._usable(name)
        if source.bitmap is None:
            raise InconsistentBitmapError(source.name)
        if source.bitmap.size != bits.size:
            raise UsageError(
                f"Bitmaps are of different sizes (destination size is {bits.size}, source size is "
                f"{source.bitmap.size}) and can't be merged"
            )
        with self._node.tracking.paused():
            bits.merge(source.bitmap)

    def close(self) -> None:
        """Store the bitmaps, so that the next user may believe them. Nothing may be written after.

        Raises:
            FormatError: the header has no room, or the image for the bits; they stay in use then.
            OSError: the host failed.
        """
        live = [one for one in self._bitmaps.values() if one.bitmap is not None]
        for one in live:
            assert one.bitmap is not None
            self._node.tracking.stop(one.bitmap)
        if not live:
            return
        old = {entry.name: _Table(entry.table_offset, entry.table_entries)
               for entry in self._entries}  # fmt: skip
        self._entries = [
            self._store(one, old.get(one.name)) for one in self._bitmaps.values()
        ]  # what the directory names already comes first, in its order
        self._write_directory()
        self._free_bits(old[one.name] for one in live if one.name in old)
        self._allocator.flush()

    # Checks

    def find(self, name: str) -> PersistentBitmap:
        """Return a bitmap.

        Raises:
            UsageError: there is none of that name.
        """
        if name not in self._bitmaps:
            raise UsageError(f"Dirty bitmap '{name}' not found")
        return self._bitmaps[name]

    def _usable(self, name: str) -> Bitmap:
        bits = self.find(name).bitmap
        if bits is None:
            raise InconsistentBitmapError(name)
        return bits

    def why_not(self, name: str, granularity: int) -> str | None:
        """Return why the image cannot have another bitmap, None if it can."""
        size = self._node.header.size
        raw_name = _encode(name)
        if self._node.header.version < 3:
            return "Cannot store dirty bitmaps in qcow2 v2 files"
        if granularity > _GRANULARITY_MAX:
            return f"Granularity exceeds maximum ({_GRANULARITY_MAX} bytes)"
        if len(raw_name) > layout.BITMAP_NAME_MAX:
            return f"Name length exceeds maximum ({layout.BITMAP_NAME_MAX} characters)"
        if b"\0" in raw_name:
            return "Name has a NUL"
        needed = bit_bytes(size, granularity)
        if needed > min(layout.BITMAP_BYTES_MAX, layout.BITMAP_TABLE_MAX * self._size):
            return "Too much space will be occupied by the bitmap. Use larger granularity"
        if not needed:
            return "A disk of 0 bytes has nothing to mark"
        if len(self._bitmaps) >= layout.BITMAPS_MAX:
            return "Maximum number of persistent bitmaps is already reached"
        names = [*self._bitmaps, name]
        if sum(_entry_size(_encode(one)) for one in names) > layout.BITMAP_DIRECTORY_MAX:
            return "Not enough space in the bitmap directory"
        held = [one.bitmap.granularity for one in self._bitmaps.values() if one.bitmap is not None]
        if needed + sum(bit_bytes(size, one) for one in held) > layout.ALL_BITMAPS_BYTES_MAX:
            limit = format_size(layout.ALL_BITMAPS_BYTES_MAX)
            return f"All bitmaps of an image may take {limit} together"
        return None

    # Memory

    def _set(self, bitmap: PersistentBitmap) -> None:
        self._bitmaps[bitmap.name] = bitmap
        if bitmap.enabled and bitmap.bitmap is not None:
            self._node.tracking.start(bitmap.bitmap)
        self._publish()

    def _publish(self) -> None:
        self._node.bitmaps = MappingProxyType(dict(self._bitmaps))

    # The image

    def _mark_in_use(self, place: BitmapsExtension) -> None:
        """Say in the directory that no bitmap is to be believed, unless it says so already."""
        if all(entry.in_use for entry in self._entries):
            return
        self._entries = [
            entry._replace(flags=entry.flags | layout.BITMAP_IN_USE) for entry in self._entries
        ]
        directory = _directory(self._entries)
        assert len(directory) == place.directory_size
        # A directory that is written in place may be torn; meanwhile nobody shall look at it.
        bitmap_header.trust_bitmaps(self._file, trusted=False)
        self._file.write_from(place.directory_offset, memoryview(directory))
        self._file.flush()
        bitmap_header.trust_bitmaps(self._file, trusted=True)

    def _store(self, one: PersistentBitmap, old: _Table | None) -> DirectoryEntry:
        """Write the bits of a bitmap to new clusters; one that is inconsistent stays as it is."""
        if one.bitmap is None:
            assert old is not None
            return next(entry for entry in self._entries if entry.name == one.name)
        stored = np.frombuffer(one.bitmap.to_bytes(), dtype=np.uint8)
        count = -(-bit_bytes(one.bitmap.size, one.granularity) // self._size)
        # Granules of the last cluster of bits that do not exist are stored as zeroes.
        whole = len(stored) // self._size
        dirty = np.zeros(count, dtype=np.bool_)
        dirty[:whole] = stored[: whole * self._size].reshape(whole, self._size).any(axis=1)
        dirty[whole:] = stored[whole * self._size :].any()
        numbers = np.flatnonzero(dirty)
        table = np.zeros(count, dtype=">u8")
        if len(numbers):
            offset = self._allocator.allocate(len(numbers))
            table[numbers] = offset + np.arange(len(numbers)) * self._size
            # One write a run of clusters that lie side by side in the bitmap too.
            starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
            ends = np.append(starts[1:], len(numbers))
            for first, end in zip(starts.tolist(), ends.tolist(), strict=True):
                begin = int(numbers[first]) * self._size
                part = stored[begin : begin + (end - first) * self._size]
                self._write_padded(offset + first * self._size, part.data)
        at = self._allocate_bytes(table.nbytes)
        self._write_padded(at, table.view(np.uint8).data)
        flags = layout.BITMAP_AUTO if one.enabled else 0
        return DirectoryEntry(one.name, at, count, flags, one.granularity)

    def _write_directory(self) -> None:
        """Make the header name a directory of `_entries`, and give the old one back."""
        place = None
        if self._entries:
            directory = _directory(self._entries)
            at = self._allocate_bytes(len(directory))
            self._write_padded(at, memoryview(directory))
            place = BitmapsExtension(len(self._entries), at, len(directory))
        self._allocator.flush()
        self._file.flush()
        old = self._node.header.bitmaps
        self._rewrite_header(place)
        if old is not None:
            self._free(old.directory_offset, -(-old.directory_size // self._size))

    def _rewrite_header(self, place: BitmapsExtension | None) -> None:
        bitmap_header.write_extension(self._file, self._node.header, place)
        self._node.header = replace(self._node.header, bitmaps=place)

    def _allocate_bytes(self, length: int) -> int:
        return self._allocator.allocate(-(-length // self._size))

    def _write_padded(self, offset: int, data: memoryview) -> None:
        """Write whole clusters: what is left of the last one is zeroes, not what was there."""
        self._file.write_from(offset, data)
        rest = align_up(len(data), self._size) - len(data)
        if rest:
            self._file.write_from(offset + len(data), memoryview(bytes(rest)))

    def _free_bits(self, tables: Iterable[_Table]) -> None:
        """Give back the clusters of bitmaps that nothing names any more."""
        for table in tables:
            try:
                offsets = read_table(self._file, self._node.header, table.offset, table.entries)
            except FormatError:
                offsets = np.zeros(0, dtype=np.int64)  # a leak is better than a wrong count
            offsets = np.sort(offsets[offsets > 0])
            if len(offsets):
                starts = np.flatnonzero(np.diff(offsets, prepend=-self._size) != self._size)
                ends = np.append(starts[1:], len(offsets))
                for first, end in zip(starts.tolist(), ends.tolist(), strict=True):
                    self._free(int(offsets[first]), end - first)
            self._free(table.offset, -(-table.entries * layout.ENTRY_SIZE // self._size))

    def _free(self, offset: int, count: int) -> None:
        # Where a bitmap names what is not its own, or counts are wrong, a leak is the lesser evil.
        if not self._allocator.holds_table(offset, count):
            with contextlib.suppress(FormatError):
                self._allocator.free(offset, count)


class InconsistentBitmapError(UsageError):
    """A bitmap that was not stored by its last writer is to be used.

    Args:
        name: the bitmap.

    Attributes:
        hint: what QEMU's tools print below the error.
    """

    hint = "Try block-dirty-bitmap-remove to delete this bitmap from disk"

    def __init__(self, name: str) -> None:
        super().__init__(f"Bitmap '{name}' is inconsistent and cannot be used")


def check_new(name: str, granularity: int | None) -> None:
    """Check what a new bitmap is to be, wherever it is to be stored.

    Raises:
        UsageError: the name is empty, or the granularity impossible; QEMU's words.
    """
    if not name:
        raise UsageError("Bitmap name cannot be empty")
    if granularity is None:
        return
    if granularity < _GRANULARITY_MIN or not is_power_of_two(granularity):
        raise UsageError(f"Granularity must be power of 2 and at least {_GRANULARITY_MIN}")


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _entry_size(raw_name: bytes) -> int:
    return align_up(layout.BITMAP_ENTRY.size + len(raw_name), 8)


def _directory(entries: Iterable[DirectoryEntry]) -> bytes:
    """Return the directory as stored.

    Source: qcow2 specification, "Bitmap directory".
    """
    parts = []
    for entry in entries:
        raw_name = _encode(entry.name)
        head = layout.BITMAP_ENTRY.pack(
            entry.table_offset,
            entry.table_entries,
            entry.flags,
            layout.BITMAP_TYPE_DIRTY,
            entry.granularity.bit_length() - 1,
            len(raw_name),
            0,
        )
        parts.append((head + raw_name).ljust(_entry_size(raw_name), b"\0"))
    return b"".join(parts)
