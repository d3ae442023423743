"""A qcow2 image as a node."""

from __future__ import annotations

import enum
import errno
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

import numpy as np

from nbexport.block.chain import open_backing_chain, resolve
from nbexport.block.file import FileNode, open_file
from nbexport.block.node import (
    ALLOCATED,
    DAMAGED,
    DATA,
    ZERO,
    BlockNode,
    HostFileError,
    fill_zeroes,
)
from nbexport.block.qcow2 import bitmap_header, layout, tables
from nbexport.block.qcow2.bitmaps import load_bitmaps
from nbexport.block.qcow2.clusters import ClusterReader
from nbexport.block.qcow2.header import Header, read_header
from nbexport.block.qcow2.refcounts import has_preallocated_metadata
from nbexport.block.qcow2.snapshots import read_snapshots
from nbexport.block.qcow2.writer import Writer
from nbexport.errors import FormatError, UsageError
from nbexport.units import SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from numpy.typing import NDArray

    from nbexport.bits import Extents
    from nbexport.block.qcow2.allocator import Allocator
    from nbexport.block.qcow2.bitmap_store import BitmapStore

_FLAGS = np.zeros(tables.BAD + 1, dtype=np.uint32)
_FLAGS[tables.NORMAL] = _FLAGS[tables.COMPRESSED] = DATA | ALLOCATED
_FLAGS[tables.ZERO] = ZERO | ALLOCATED
_FLAGS[tables.BAD] = DAMAGED

_Result = TypeVar("_Result")


class _FromHeader(enum.Enum):
    TOKEN = 0


FROM_HEADER: Final = _FromHeader.TOKEN
"""Open the backing file that the image's header names."""


class Qcow2Node(BlockNode):
    """A qcow2 image, version 2 or 3; read-only until `begin_writing`.

    Args:
        file: where the image is; stays open when this node closes.
        backing: what answers for unallocated clusters: a node, which stays open when this one
            closes; None for zeroes; FROM_HEADER to open what the image names.
        writable: whether `begin_writing` will be called.

    Raises:
        FormatError: the image is damaged or needs what is not supported; QEMU's text.
        OSError: the host cannot read, or a backing file is missing.

    Attributes:
        header: the checked header.
        data_file: the external data file, None if the image holds its clusters itself.
        snapshots: the internal snapshots, in the order of their table.
    """

    driver: ClassVar[str] = "qcow2"
    _orders_flush = True

    def __init__(
        self,
        file: BlockNode,
        backing: BlockNode | _FromHeader | None = FROM_HEADER,
        *,
        writable: bool = False,
    ) -> None:
        header = _doing("Could not read qcow2 header", lambda: read_header(file))
        super().__init__(file.filename, header.size)
        self.header: Header = header
        self.file: BlockNode = file
        self.request_max = file.request_max
        self.cluster_size: int = header.cluster_size
        self._tables = _doing("Could not read L1 table", lambda: tables.Tables(file, header))
        self.bitmaps = load_bitmaps(file, header)
        self.snapshots = read_snapshots(file, header)
        self._writer: Writer | None = None
        self._store: BitmapStore | None = None
        self._changes = 0
        self.data_file = self._open_data_file(
            writable=writable
        )  # last, so that no failure leaves it open
        self._clusters = ClusterReader(file, header, self._tables, self.data_file)
        self._layer_lock = threading.Lock()
        self._layer: Extents | None = None
        self._preallocated: bool | None = None
        if isinstance(backing, BlockNode):
            self.backing = backing
        elif backing is FROM_HEADER:
            open_backing_chain(self)

    def _open_data_file(self, *, writable: bool) -> FileNode | None:
        """Open the external data file: a plain path, whatever its text looks like.

        An image must not make us open anything but a file, so no protocol is recognised. As in
        QEMU the path is seen from the process's folder, not from the image's.
        """
        if self.header.data_file is None:
            return None
        return open_file(self.header.data_file, writable=writable)

    # Writing

    def change_backing(self, name: str | None, driver: str | None) -> None:
        """Let the image name another backing file; what answers for it stays as it is.

        Args:
            name: of the file, None for none.
            driver: its format.

        Raises:
            FormatError: the header has no room for the name.
            OSError: the node is not written, or the host failed.
        """
        if self._writer is None:
            raise self._not_writable()
        bitmap_header.write_backing(self.file, self.header, name, driver)
        self.header = replace(self.header, backing_file=name, backing_format=driver)

    def begin_writing(self, allocator: Allocator, store: BitmapStore) -> None:
        """Let the node be written from now on, until it is closed.

        Args:
            allocator: of the clusters of its file, which is open for writing.
            store: of its bitmaps, which are stored when the node closes.
        """
        self._writer = Writer(self.file, self.header, self._tables, allocator, self.data_file, self)
        self._store = store
        self.read_only = False

    def end_writing(self) -> None:
        """Store what has to be stored; from now on the node is only read.

        Nobody may be writing meanwhile.

        Raises:
            FormatError: the image has no room for its bitmaps.
            OSError: the host failed.
        """
        writer, self._writer = self._writer, None
        store, self._store = self._store, None
        if writer is not None and store is not None:
            writer.flush()
            store.close()
            writer.close()
        self.read_only = True

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._writer is not None

    @property
    def bitmap_store(self) -> BitmapStore | None:
        """What changes the stored bitmaps, while the node can be written."""
        return self._store

    def is_known_zero(self, start: int, end: int, *, fast: bool = False) -> bool:
        """Return whether the maps, here and below, say that a range reads as zeroes.

        Args:
            start: first byte.
            end: behind the last byte.
            fast: whether holes of files do not count.
        """
        unit = self.header.unit_size
        first = start // unit
        kinds = self._tables.units(first, -(-end // unit) - first).kinds
        if not ((kinds == tables.ZERO) | (kinds == tables.UNALLOCATED)).all():
            return False
        if self.backing is None:
            return True
        for number in np.flatnonzero(kinds == tables.UNALLOCATED).tolist():
            low = max(start, (first + number) * unit)
            high = min(end, (first + number + 1) * unit, self.backing.size)
            if low < high and not self.backing.reads_as_zeroes(low, high, fast=fast):
                return False
        return True

    def _generation(self) -> Hashable:
        return self._changes

    def _changed(self) -> None:
        with self._layer_lock:
            self._changes += 1
            self._layer = self._preallocated = None

    def _write(self, offset: int, data: memoryview) -> None:
        assert self._writer is not None
        try:
            self._writer.write(offset, data)
        finally:
            self._changed()

    def _write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        assert self._writer is not None
        try:
            self._writer.write_zeroes(offset, length, unmap=unmap, no_fallback=no_fallback)
        finally:
            self._changed()

    def change_file(self, file: BlockNode) -> None:
        """Have the same image in another node, which has the same bytes; read only until begun.

        Nobody may use it meanwhile, and it must not be writable.
        """
        assert self._writer is None
        header = read_header(file)
        with self._map_lock, self._layer_lock:
            self.file, self.header = file, header
            self.request_max = file.request_max
            self._tables = tables.Tables(file, header)
            self._clusters = ClusterReader(file, header, self._tables, self.data_file)
            self._answers = {}
        self._changed()

    def resize(self, size: int) -> None:
        """Make the disk longer; QEMU also makes it shorter. Nobody may use it meanwhile.

        Raises:
            OSError: the image cannot be so long, or the host failed; QEMU's text.
        """
        if size % SECTOR_SIZE:
            raise HostFileError(errno.EINVAL, f"The new size must be a multiple of {SECTOR_SIZE}")
        if self._writer is None:
            raise HostFileError(errno.EACCES, "Image is read-only", self.filename)
        if self.header.version < 3 and self.snapshots:
            text = "Can't resize a v2 image which has snapshots"
            raise HostFileError(errno.ENOTSUP, text, self.filename)
        if size < self.size:
            text = "Making a qcow2 image shorter is not supported by this emulator"
            raise HostFileError(errno.ENOTSUP, text, self.filename)
        old, behind = self.size, self.backing
        self._writer.grow_disk(size)
        header = read_header(self.file)
        with self._map_lock, self._layer_lock:
            self.header, self.size = header, size
            self._tables = tables.Tables(self.file, header)
            self._clusters = ClusterReader(self.file, header, self._tables, self.data_file)
            self._writer = self._writer.reopened(header, self._tables)
            self._answers = {}
        self._changed()
        if behind is not None and behind.size > old:
            self._write_zeroes(old, size - old, unmap=True, no_fallback=False)

    def preallocate(self) -> Iterator[tuple[int, int]]:
        """Give every cluster of an empty disk its place; yield offset and length of each run."""
        assert self._writer is not None
        yield from self._writer.preallocate(0, self.size)
        self._changed()

    @property
    def compresses(self) -> bool:
        """Whether clusters can be compressed: not those of an external data file."""
        return self.data_file is None

    def _write_compressed(self, offset: int, data: memoryview) -> None:
        if not self.compresses:
            super()._write_compressed(offset, data)
        assert self._writer is not None
        try:
            self._writer.write_compressed(offset, data)
        finally:
            self._changed()

    def _discard(self, offset: int, length: int) -> None:
        assert self._writer is not None
        try:
            self._writer.discard(offset, length)
        finally:
            self._changed()

    def _flush(self) -> None:
        assert self._writer is not None
        self._writer.flush(tells=self._steps_to_disk)

    def _close_own(self) -> None:
        try:
            self.end_writing()
        finally:
            # Nobody else knows the data file: it closes with the node even if that owns nothing.
            if self.data_file is not None:
                self.data_file.close()

    def load_snapshot(self, name: str) -> None:
        """Read from an internal snapshot instead of the disk as it is now.

        Size and bitmaps stay those of the image, as in QEMU. To be called before the node is
        shared: what is read or mapped meanwhile may be of either.

        Args:
            name: the id of a snapshot, or the name of one.

        Raises:
            UsageError: there is no such snapshot; QEMU's text.
            FormatError: its L1 table is impossible; QEMU's text.
            OSError: the host cannot read.
        """
        matches = [one for one in self.snapshots if one.id == name]
        matches += [one for one in self.snapshots if one.name == name]
        if not matches:
            raise UsageError(f"{self.filename}: Failed to load snapshot: Can't find snapshot")
        found = matches[0]
        length = found.l1_entries * layout.ENTRY_SIZE
        if length > layout.L1_TABLE_MAX:
            raise FormatError("Snapshot L1 table too large", path=self.filename)
        offset = found.l1_table_offset
        if offset + length > layout.DISK_SIZE_MAX or offset % self.cluster_size:
            raise FormatError("Snapshot L1 table offset invalid", path=self.filename)
        header = replace(
            self.header,
            l1_table_offset=offset,
            l1_entries=min(found.l1_entries, self.header.l1_entries),
        )
        with self._map_lock, self._layer_lock:
            self._tables = tables.Tables(self.file, header)
            self._clusters = ClusterReader(self.file, header, self._tables, self.data_file)
            self._layer = None
            self._answers = {}

    @property
    def backing_filename(self) -> str | None:
        """The backing file as the header names it, None if there is none."""
        return self.header.backing_file

    @property
    def full_backing_filename(self) -> str | None:
        """The backing file's name as seen from here: the stored one is seen from the image."""
        stored = self.header.backing_file
        return None if stored is None else resolve(self.filename, stored)

    @property
    def backing_format(self) -> str | None:
        """The backing file's format as the header names it."""
        return self.header.backing_format

    def allocated_size(self) -> int:
        """Return the bytes of storage of the image's own file."""
        return self.file.allocated_size()

    def _read(self, offset: int, buffer: memoryview) -> None:
        # A list instead of recursion: a chain may be longer than the interpreter's stack allows.
        waiting: list[tuple[BlockNode, int, memoryview]] = [(self, offset, buffer)]
        while waiting:
            node, at, part = waiting.pop()
            if not isinstance(node, Qcow2Node):
                node.read_padded(at, part)
                continue
            inside = max(0, min(len(part), node.size - at))
            if inside < len(part):
                fill_zeroes(part[inside:])
            if not inside:
                continue
            for begin, missing in node._clusters.read(at, part[:inside]):
                if node.backing is None:
                    fill_zeroes(missing)
                else:
                    node.tell_file("read_backing_aio")
                    waiting.append((node.backing, begin, missing))

    def _status(self, start: int, end: int, *, want_zero: bool) -> Extents:
        layer = self._whole_layer() if self._map_is_bounded() else self._map(start, end)
        found = layer.clip(start, end)
        if self.backing is None:
            found = found.map_flags(_without_backing)
        if want_zero and self._is_preallocated():
            found = self._with_file_holes(found, start, end)
        return found

    def _map_is_bounded(self) -> bool:
        return self._tables.mapped_units <= layout.MAP_ENTRIES_MAX

    def _raise_damage(self, offset: int) -> None:
        self._tables.raise_bad(offset // self.header.unit_size)

    def _whole_layer(self) -> Extents:
        with self._layer_lock:
            if self._layer is None:
                self._layer = self._map(0, self.size)
            return self._layer

    def _map(self, start: int, end: int) -> Extents:
        size = self.header.unit_size
        firsts, ends, kinds, _ = self._tables.map_runs(start // size, -(-end // size))
        return tables.fill_gaps(
            np.maximum(firsts * size, start),
            np.minimum(ends * size, end),
            _FLAGS[kinds],
            start,
            end,
        )

    def places(self, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where in the file the clusters of ``[start, end)`` are.

        Shape: bounds (n + 1,) in bytes; offsets in the file (n,), -1 where there is no place or
        the cluster is compressed.

        Raises:
            FormatError: the tables are damaged in the range.
            OSError: the host cannot read.
        """
        size = self.header.unit_size
        firsts, ends, kinds, hosts = self._tables.map_runs(
            start // size, -(-end // size), placed=True
        )
        if (kinds == tables.BAD).any():
            self._tables.raise_bad(int(firsts[kinds == tables.BAD][0]))
        firsts, ends = firsts * size, ends * size
        cut = np.maximum(start - firsts, 0)
        hosts = np.where(hosts < 0, hosts, hosts + cut)
        bounds = np.empty(2 * len(firsts) + 2, dtype=np.int64)
        bounds[0], bounds[-1] = start, end
        bounds[1:-1:2], bounds[2:-1:2] = firsts + cut, np.minimum(ends, end)
        offsets = np.full(2 * len(firsts) + 1, -1, dtype=np.int64)
        offsets[1::2] = hosts
        real = np.diff(bounds) > 0
        return np.append(bounds[:-1][real], end), offsets[real]

    def _is_preallocated(self) -> bool:
        with self._layer_lock:
            if self._preallocated is None:
                try:
                    self._preallocated = has_preallocated_metadata(self.file, self.header)
                except OSError:  # it is only worth knowing
                    return False
            return self._preallocated

    def _with_file_holes(self, layer: Extents, start: int, end: int) -> Extents:
        """Return ``layer`` with ZERO added where a mapped cluster is a hole of the file."""
        size = self.header.unit_size
        firsts, ends, kinds, hosts = self._tables.map_runs(start // size, -(-end // size))
        normal = kinds == tables.NORMAL
        starts, ends, hosts = firsts[normal] * size, ends[normal] * size, hosts[normal]
        cut = np.maximum(start - starts, 0)
        starts, hosts, ends = starts + cut, hosts + cut, np.minimum(ends, end)
        stored = (self.file if self.data_file is None else self.data_file).allocation()
        # Behind the end of the file: zeroes for ever.
        bounds = np.append(stored.bounds, np.iinfo(np.int64).max)
        zero = np.append(stored.flags & ZERO, ZERO).astype(np.uint32)
        # Cut each run at the bounds of the file's map that lie inside it.
        low = np.searchsorted(bounds, hosts, side="right")
        high = np.searchsorted(bounds, hosts + (ends - starts), side="left")
        pieces = high - low + 1
        run = np.repeat(np.arange(len(starts)), pieces)
        number = np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        extent = low[run] - 1 + number
        shift = starts[run] - hosts[run]
        piece_starts = np.maximum(bounds[extent], hosts[run]) + shift
        piece_ends = np.minimum(bounds[extent + 1], hosts[run] + (ends - starts)[run]) + shift
        holes = tables.fill_gaps(piece_starts, piece_ends, zero[extent], start, end)
        return layer.combine(holes, np.bitwise_or)


def _without_backing(flags: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.where(flags == 0, ZERO, flags).astype(np.uint32)


def _doing(what: str, read: Callable[[], _Result]) -> _Result:
    """Read a part of an image; if the host cannot, QEMU's words say which."""
    try:
        return read()
    except OSError as error:
        text = f"{what}: {os.strerror(error.errno or errno.EIO)}"
        raise HostFileError(error.errno, text, error.filename) from error
