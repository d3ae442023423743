"""Persistent dirty bitmaps: the directory, the tables, the bits."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nbexport.bits import Bitmap
from nbexport.block.node import PersistentBitmap
from nbexport.block.qcow2 import layout
from nbexport.errors import FormatError
from nbexport.units import align_up, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from nbexport.block.node import BlockNode
    from nbexport.block.qcow2.header import BitmapsExtension, Header


ALL_ONES: Final = -1
"""Stands for a cluster of bits that are all set and not stored."""


class DirectoryEntry(NamedTuple):
    """One entry of the directory; the checks have passed."""

    name: str
    table_offset: int
    table_entries: int
    flags: int
    granularity: int

    @property
    def in_use(self) -> bool:
        """Whether a writer did not close the image."""
        return bool(self.flags & layout.BITMAP_IN_USE)

    @property
    def enabled(self) -> bool:
        """Whether writers record their writes in it."""
        return bool(self.flags & layout.BITMAP_AUTO)


def load_bitmaps(file: BlockNode, header: Header) -> Mapping[str, PersistentBitmap]:
    """Return the bitmaps of an image in the order of its directory.

    As in QEMU a single bad entry makes the whole image unusable, except that the bits of a bitmap
    in use are not looked at.

    Raises:
        FormatError: the directory, a table or a name is bad; QEMU's text.
        OSError: the host cannot read.

    Source: qcow2 specification, "Bitmaps".
    """
    if header.bitmaps is None:
        return MappingProxyType({})
    found: dict[str, PersistentBitmap] = {}
    memory = 0
    try:
        for entry in read_directory(file, header, header.bitmaps):
            if entry.name in found:
                raise FormatError(f"Bitmap already exists: {entry.name}")
            bitmap = None
            if not entry.in_use:
                memory += bit_bytes(header.size, entry.granularity)
                if memory > layout.ALL_BITMAPS_BYTES_MAX:
                    raise FormatError(
                        f"Bitmap '{entry.name}' does not fit: all bitmaps of an image may take "
                        f"{format_size(layout.ALL_BITMAPS_BYTES_MAX)} together"
                    )
                bitmap = _load(file, header, entry)
            found[entry.name] = PersistentBitmap(
                name=entry.name,
                granularity=entry.granularity,
                enabled=bool(entry.flags & layout.BITMAP_AUTO),
                inconsistent=entry.in_use,
                bitmap=bitmap,
            )
    except FormatError as error:
        if error.path is None:
            error.path = file.filename
        raise
    return MappingProxyType(found)


def bit_bytes(size: int, granularity: int) -> int:
    """Return the bytes of a bitmap's bits as stored: whole 64-bit words."""
    return align_up(-(-size // granularity), 64) // 8


def read_directory(
    file: BlockNode, header: Header, place: BitmapsExtension
) -> list[DirectoryEntry]:
    """Return the entries of the directory.

    Raises:
        FormatError: an entry is bad, or their number is not that of the extension; QEMU's text.
        OSError: the host cannot read.
    """
    if place.directory_size == 0:
        raise FormatError("Requested bitmap directory size is zero")
    if place.directory_offset + place.directory_size > layout.DISK_SIZE_MAX:
        raise FormatError("Failed to read bitmap directory: Input/output error")
    # At most 64 MiB; what lies behind the end of the file is zeroes, which make no valid entry,
    # so a little more than the file is enough.
    length = min(
        place.directory_size,
        max(0, file.size - place.directory_offset) + layout.BITMAP_ENTRY.size,
    )
    directory = bytearray(length)
    file.read_padded(place.directory_offset, memoryview(directory))
    entries: list[DirectoryEntry] = []
    at = 0
    while at < place.directory_size:
        if at + layout.BITMAP_ENTRY.size > place.directory_size:
            raise FormatError("Broken bitmap directory")
        if len(entries) >= place.count:
            raise FormatError("More bitmaps found than specified in header extension")
        head = directory[at : at + layout.BITMAP_ENTRY.size].ljust(layout.BITMAP_ENTRY.size, b"\0")
        offset, table, flags, kind, bits, name_length, extra = layout.BITMAP_ENTRY.unpack(head)
        name_at = at + layout.BITMAP_ENTRY.size  # without extra data, which is refused
        following = at + align_up(
            layout.as_int32(layout.BITMAP_ENTRY.size + name_length + extra), 8
        )
        if following > place.directory_size:
            raise FormatError("Broken bitmap directory")
        if extra:
            raise FormatError("Bitmap extra data is not supported")
        raw_name = bytes(directory[name_at : name_at + name_length]).split(b"\0", 1)[0]
        name = raw_name.decode("utf-8", "surrogateescape")
        low, high = layout.BITMAP_GRANULARITY_BITS
        if (
            not 1 <= table <= layout.BITMAP_TABLE_MAX
            or offset == 0
            or offset % header.cluster_size
            or not low <= bits <= high
            or flags & ~layout.BITMAP_KNOWN_FLAGS
            or name_length > layout.BITMAP_NAME_MAX
            or kind != layout.BITMAP_TYPE_DIRTY
            or table * header.cluster_size > layout.BITMAP_BYTES_MAX
            or (
                not flags & layout.BITMAP_IN_USE
                and header.size > table * header.cluster_size * 8 << bits
            )
        ):
            raise FormatError(f"Bitmap '{name}' doesn't satisfy the constraints")
        entries.append(DirectoryEntry(name, offset, table, flags, 1 << bits))
        at = following
    if len(entries) < place.count:
        raise FormatError("Less bitmaps found than specified in header extension")
    return entries


def read_table(file: BlockNode, header: Header, offset: int, entries: int) -> NDArray[np.int64]:
    """Return where the clusters of bits of one bitmap are.

    Shape: (entries,) int64: an offset in the file, 0 for none, which is all clean, ALL_ONES.

    Raises:
        FormatError: an entry is bad.
        OSError: the host cannot read.

    Source: qcow2 specification, "Bitmap table".
    """
    # What lies behind the end of the file is zeroes.
    stored = np.zeros(entries, dtype=">u8")
    inside = min(stored.nbytes, max(0, file.size - offset))
    if inside:
        file.read_padded(offset, stored.view(np.uint8).data[:inside])
    table = stored.astype(np.uint64)
    offsets = table & np.uint64(layout.BITMAP_DATA_OFFSET_MASK)
    ones = table & np.uint64(layout.BITMAP_ALL_ONES) != 0
    bad = table & np.uint64(layout.BITMAP_DATA_RESERVED) != 0
    bad |= (offsets != 0) & (ones | (offsets & np.uint64(header.cluster_size - 1) != 0))
    if bad.any():
        raise FormatError("bad entry in a bitmap table", path=file.filename)
    return np.where(ones, ALL_ONES, offsets.astype(np.int64))


def _load(file: BlockNode, header: Header, entry: DirectoryEntry) -> Bitmap:
    """Read the table of a bitmap and the clusters of bits that it names."""
    size = header.cluster_size
    try:
        table = read_table(file, header, entry.table_offset, entry.table_entries)
    except FormatError as error:
        raise FormatError(
            f"Could not read bitmap_table table from image for bitmap '{entry.name}': "
            "Invalid argument"
        ) from error
    ones = table == ALL_ONES
    offsets = np.maximum(table, 0)
    needed = bit_bytes(header.size, entry.granularity)
    if entry.table_entries != -(-needed // size):
        raise FormatError(f"Could not read bitmap '{entry.name}' from image: Invalid argument")
    bits = np.zeros((entry.table_entries, size), dtype=np.uint8)
    bits[ones] = 0xFF
    # Clusters behind the end of the file are zeroes already.
    wanted = np.flatnonzero((offsets != 0) & (offsets < file.size))
    if len(wanted):
        places = offsets[wanted]
        breaks = (np.diff(wanted) != 1) | (np.diff(places) != size)
        starts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
        ends = np.append(starts[1:], len(wanted))
        flat = bits.reshape(-1)
        # One read a run of clusters that lie side by side.
        for first, end in zip(starts.tolist(), ends.tolist(), strict=True):
            at = int(wanted[first]) * size
            part = flat[at : at + (end - first) * size]
            file.read_padded(int(places[first]), part.data)
    return Bitmap.from_bytes(bits.reshape(-1).data, header.size, entry.granularity)
