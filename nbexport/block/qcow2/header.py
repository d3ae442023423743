"""The header of a qcow2 image and its extensions, checked in QEMU's order with QEMU's texts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.block.qcow2 import layout
from nbexport.errors import FormatError
from nbexport.units import SECTOR_SIZE, align_up

if TYPE_CHECKING:
    from nbexport.block.node import BlockNode

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BitmapsExtension:
    """Where the bitmap directory is.

    Attributes:
        count: bitmaps in the directory.
        directory_offset: in the file, cluster aligned.
        directory_size: bytes.
    """

    count: int
    directory_offset: int
    directory_size: int


@dataclass(frozen=True)
class Header:
    """What of a header is needed to read the image; every check has passed.

    Attributes:
        version: 2 or 3.
        cluster_bits: binary logarithm of the cluster size.
        size: virtual size in bytes, rounded down to 512 as QEMU does.
        l1_entries: entries of the L1 table that map the disk.
        l1_table_offset: in the file, cluster aligned.
        refcount_table_offset: in the file, cluster aligned.
        refcount_table_clusters: its length.
        refcount_bits: width of a reference count, 1 to 64.
        backing_file: the name as stored, None if there is none.
        backing_format: the driver's name from the extension, None if not given.
        bitmaps: the bitmaps extension, None if absent or not to be trusted.
        incompatible_features: as stored; dirty (bit 0) and corrupt (bit 1) do not hinder reading.
        compatible_features: as stored; bit 0 is lazy refcounts.
        compression_type: 0 zlib, 1 zstd.
        l1_size: entries of the L1 table as stored, at least `l1_entries`.
        nb_snapshots: internal snapshots.
        snapshots_offset: where their table is in the file, cluster aligned.
        snapshots_length: bytes of that table.
        data_file: name of the file that holds the guest's clusters, None if the image does.
        data_file_raw: that file is a raw image of the disk.
    """

    version: int
    cluster_bits: int
    size: int
    l1_entries: int
    l1_table_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    refcount_bits: int
    backing_file: str | None
    backing_format: str | None
    bitmaps: BitmapsExtension | None
    incompatible_features: int
    compatible_features: int
    compression_type: int
    l1_size: int
    nb_snapshots: int
    snapshots_offset: int
    snapshots_length: int
    data_file: str | None
    data_file_raw: bool

    @property
    def compression_name(self) -> str:
        """What compressed clusters are compressed with: zlib or zstd."""
        return layout.COMPRESSION_NAMES[self.compression_type]

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def extended_l2(self) -> bool:
        """Whether clusters have subclusters."""
        return bool(self.incompatible_features & 1 << layout.INCOMPATIBLE_EXTENDED_L2)

    @property
    def subclusters(self) -> int:
        """Subclusters of a cluster, 1 without extended L2 entries."""
        return layout.SUBCLUSTERS if self.extended_l2 else 1

    @property
    def unit_size(self) -> int:
        """Bytes of the smallest piece that is allocated by itself: a cluster or a subcluster."""
        return self.cluster_size // self.subclusters

    @property
    def l2_entries(self) -> int:
        """Entries of an L2 table."""
        return self.cluster_size // _l2_entry_size(self.incompatible_features)


@dataclass(frozen=True)
class _Extensions:
    backing_format: str | None
    bitmaps: BitmapsExtension | None
    data_file: str | None
    luks: bool
    incompatible_names: dict[int, str]


def _l2_entry_size(incompatible: int) -> int:
    """Return the bytes of an L2 entry."""
    if incompatible & 1 << layout.INCOMPATIBLE_EXTENDED_L2:
        return layout.EXTENDED_ENTRY_SIZE
    return layout.ENTRY_SIZE


def _fetch(file: BlockNode, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    file.read_padded(offset, memoryview(buffer))
    return bytes(buffer)


def _text(raw: bytes) -> str:
    """Return a stored name: it ends at a NUL, and any byte may occur in it."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def read_header(file: BlockNode) -> Header:
    """Read and check the header of the image in ``file``.

    Bytes behind the end of the file count as zeroes, as in QEMU.

    Raises:
        FormatError: a field is impossible or names what is not supported; QEMU's text.
        OSError: the host cannot read.

    Source: qcow2 specification, "Header" and "Header extensions".
    """
    try:
        return _read_header(file)
    except FormatError as error:
        if error.path is None:
            error.path = file.filename
        raise


def _read_header(file: BlockNode) -> Header:
    raw = layout.RawHeader(*layout.HEADER.unpack(_fetch(file, 0, layout.HEADER.size)))
    if raw.magic != layout.MAGIC:
        raise FormatError("Image is not in qcow2 format")
    if raw.version not in {2, 3}:
        raise FormatError(f"Unsupported qcow2 version {raw.version}")
    if not layout.CLUSTER_BITS_MIN <= raw.cluster_bits <= layout.CLUSTER_BITS_MAX:
        raise FormatError(f"Unsupported cluster size: 2^{raw.cluster_bits}")
    cluster_size = 1 << raw.cluster_bits
    if raw.version == 2:
        raw = raw._replace(
            incompatible_features=0,
            compatible_features=0,
            autoclear_features=0,
            refcount_order=layout.REFCOUNT_ORDER_V2,
            header_length=layout.HEADER_LENGTH_V2,
        )
    elif raw.header_length < layout.HEADER_LENGTH_V3:
        raise FormatError("qcow2 header too short")
    if raw.header_length > cluster_size:
        raise FormatError("qcow2 header exceeds cluster size")
    if raw.backing_file_offset > cluster_size:
        raise FormatError("Invalid backing file offset")
    extensions_end = raw.backing_file_offset or cluster_size
    compression = 0
    if raw.header_length > layout.COMPRESSION_TYPE_OFFSET:
        compression = raw.compression_type
    _check_compression(raw.incompatible_features, compression)
    _check_features(file, raw, extensions_end)
    if raw.incompatible_features & 1 << layout.INCOMPATIBLE_EXTENDED_L2:
        subcluster_size = cluster_size // layout.SUBCLUSTERS
        if subcluster_size < SECTOR_SIZE:
            raise FormatError(f"Unsupported subcluster size: {subcluster_size}")
    if raw.refcount_order > layout.REFCOUNT_ORDER_MAX:
        raise FormatError("Reference count entry width too large; may not exceed 64 bits")
    if raw.crypt_method > max(layout.CRYPT_NAMES):
        method = layout.as_int32(raw.crypt_method)
        raise FormatError(f"Unsupported encryption method {method}")
    size, l1_entries = _check_tables(raw, cluster_size)
    found = _read_extensions(file, raw, extensions_end, check=True)
    has_data_file = bool(raw.incompatible_features & 1 << layout.INCOMPATIBLE_DATA_FILE)
    raw_data_file = bool(raw.autoclear_features & layout.AUTOCLEAR_RAW_DATA_FILE)
    if has_data_file and found.data_file is None:
        raise FormatError("'data-file' is required for this image")
    if raw_data_file and not has_data_file:
        raise FormatError("data-file-raw requires a data file")
    if raw.crypt_method:
        name = layout.CRYPT_NAMES[raw.crypt_method]
        if name == "luks" and not found.luks:
            raise FormatError("Missing CRYPTO header for crypt method 2")
        raise FormatError(f"Encryption '{name}' is not supported")
    if (
        raw.refcount_table_offset + raw.refcount_table_clusters * cluster_size
        > layout.DISK_SIZE_MAX
    ):
        raise FormatError("Could not initialize refcount handling: Input/output error")
    backing_file = _read_backing_name(file, raw, cluster_size)
    snapshots_length = _check_snapshots(file, raw)
    return Header(
        version=raw.version,
        cluster_bits=raw.cluster_bits,
        size=size,
        l1_entries=l1_entries,
        l1_table_offset=raw.l1_table_offset,
        refcount_table_offset=raw.refcount_table_offset,
        refcount_table_clusters=raw.refcount_table_clusters,
        refcount_bits=1 << raw.refcount_order,
        backing_file=backing_file,
        backing_format=found.backing_format,
        bitmaps=found.bitmaps,
        incompatible_features=raw.incompatible_features,
        compatible_features=raw.compatible_features,
        compression_type=compression,
        l1_size=raw.l1_size,
        nb_snapshots=raw.nb_snapshots,
        snapshots_offset=raw.snapshots_offset,
        snapshots_length=snapshots_length,
        data_file=found.data_file if has_data_file else None,
        data_file_raw=has_data_file and raw_data_file,
    )


def _check_compression(incompatible: int, compression: int) -> None:
    marked = bool(incompatible & 1 << layout.INCOMPATIBLE_COMPRESSION)
    if compression not in layout.COMPRESSION_NAMES:
        raise FormatError(f"qcow2: unknown compression type: {compression}")
    if compression == 0 and marked:
        raise FormatError("qcow2: Compression type incompatible feature bit must not be set")
    if compression != 0 and not marked:
        raise FormatError("qcow2: Compression type incompatible feature bit must be set")


def _check_features(file: BlockNode, raw: layout.RawHeader, extensions_end: int) -> None:
    """Refuse incompatible features by the names that the image itself gives them."""
    unknown = raw.incompatible_features & ~layout.INCOMPATIBLE_READ
    if not unknown:
        return
    # A broken extension hides the names here; what is wrong with it would be told later.
    names = _read_extensions(file, raw, extensions_end, check=False).incompatible_names
    told = []
    for bit, name in names.items():
        if unknown & 1 << bit:
            unknown &= ~(1 << bit)
            told.append(name)
    if unknown:
        told.append(f"Unknown incompatible feature: {unknown:x}")
    raise FormatError(f"Unsupported qcow2 feature(s): {', '.join(told)}")


def _check_table(
    raw: layout.RawHeader, name: str, offset: int, entries: int, width: int, limit: int
) -> None:
    if entries * width > limit:
        raise FormatError(f"{name} too large")
    if offset + entries * width > layout.OFFSET_MAX or offset % (1 << raw.cluster_bits):
        raise FormatError(f"{name} offset invalid")


def _check_tables(raw: layout.RawHeader, cluster_size: int) -> tuple[int, int]:
    """Check where the tables are and whether they map the disk; return size and L1 entries."""
    if raw.refcount_table_clusters == 0:
        raise FormatError("Image does not contain a reference count table")
    _check_table(
        raw,
        "Reference count table",
        raw.refcount_table_offset,
        raw.refcount_table_clusters,
        cluster_size,
        layout.REFCOUNT_TABLE_MAX,
    )
    _check_table(
        raw,
        "Snapshot table",
        raw.snapshots_offset,
        raw.nb_snapshots,
        layout.SNAPSHOT_ENTRY.size,
        layout.SNAPSHOT_ENTRY.size * layout.SNAPSHOTS_MAX,
    )
    _check_table(
        raw,
        "Active L1 table",
        raw.l1_table_offset,
        raw.l1_size,
        layout.ENTRY_SIZE,
        layout.L1_TABLE_MAX,
    )
    span = cluster_size * (cluster_size // _l2_entry_size(raw.incompatible_features))
    # QEMU rounds up in 64 bits, so the very largest sizes pass here and fail below.
    needed = (raw.size + span - 1) % (1 << 64) // span
    if needed > layout.L1_INDEX_MAX:
        raise FormatError("Image is too big")
    if needed > raw.l1_size:
        raise FormatError("L1 table is too small")
    if raw.l1_size and raw.l1_table_offset + raw.l1_size * layout.ENTRY_SIZE > layout.DISK_SIZE_MAX:
        raise FormatError("Could not read L1 table: Input/output error")
    if raw.size > layout.DISK_SIZE_MAX:
        raise FormatError("Could not refresh total sector count: File too large")
    return raw.size // SECTOR_SIZE * SECTOR_SIZE, needed


def _check_snapshots(file: BlockNode, raw: layout.RawHeader) -> int:
    """Walk the snapshot table, at most 65536 entries; return its length in bytes."""
    at = raw.snapshots_offset
    for number in range(raw.nb_snapshots):
        at = align_up(at, 8)
        if at >= file.size:
            break  # nothing but zeroes from here
        head = _fetch(file, at, layout.SNAPSHOT_ENTRY.size)
        id_length, name_length, extra_length = layout.SNAPSHOT_ENTRY.unpack(head)
        if extra_length > layout.SNAPSHOT_EXTRA_MAX:
            raise FormatError(f"Too much extra metadata in snapshot table entry {number}")
        at += layout.SNAPSHOT_ENTRY.size + extra_length + id_length + name_length
        if at - raw.snapshots_offset > layout.SNAPSHOT_TABLE_MAX:
            raise FormatError("Snapshot table is too big")
    return at - raw.snapshots_offset


def _read_extensions(
    file: BlockNode, raw: layout.RawHeader, end: int, *, check: bool
) -> _Extensions:
    """Walk the header extensions; without ``check`` stop silently at the first that is broken."""
    backing_format: str | None = None
    bitmaps: BitmapsExtension | None = None
    data_file: str | None = None
    luks = False
    names: dict[int, str] = {}
    at = raw.header_length
    # At most a cluster of 2 MiB, so at most 256 Ki extensions. A header of an extension may stick
    # out; that is found below.
    area = _fetch(file, 0, end + layout.EXTENSION.size)
    while at < end:
        kind, length = layout.EXTENSION.unpack_from(area, at)
        at += layout.EXTENSION.size
        if at > end or length > end - at:
            if check:
                raise FormatError("Header extension too large")
            break
        data = area[at : at + length]
        if kind == layout.EXTENSION_END:
            break
        if kind == layout.EXTENSION_FEATURE_NAMES and not check:
            names |= _feature_names(data)
        elif kind == layout.EXTENSION_BACKING_FORMAT and check:
            if length > layout.BACKING_FORMAT_MAX:
                raise FormatError(
                    f"ERROR: ext_backing_format: len={length} too large "
                    f"(>={layout.BACKING_FORMAT_MAX + 1})"
                )
            backing_format = _text(data) or None
        elif kind == layout.EXTENSION_DATA_FILE and check:
            data_file = _text(data)
        elif kind == layout.EXTENSION_LUKS and check:
            luks = True
            if raw.crypt_method != 2:
                raise FormatError(
                    "CRYPTO header extension only expected with LUKS encryption method"
                )
        elif kind == layout.EXTENSION_BITMAPS and check:
            bitmaps = _bitmaps_extension(file, raw, data)
        at += align_up(length, 8)
    return _Extensions(backing_format, bitmaps, data_file, luks, names)


def _feature_names(data: bytes) -> dict[int, str]:
    usable = len(data) // layout.FEATURE_NAME.size * layout.FEATURE_NAME.size
    names: dict[int, str] = {}
    for kind, bit, name in layout.FEATURE_NAME.iter_unpack(data[:usable]):
        if not name[0]:
            break
        if kind == layout.FEATURE_TYPE_INCOMPATIBLE:
            names.setdefault(bit, _text(name))
    return names


def _bitmaps_extension(
    file: BlockNode, raw: layout.RawHeader, data: bytes
) -> BitmapsExtension | None:
    if len(data) != layout.BITMAPS.size:
        raise FormatError("bitmaps_ext: Invalid extension length")
    if not raw.autoclear_features & layout.AUTOCLEAR_BITMAPS:
        _log.warning(
            "%s: %s wrote to this image without keeping its bitmaps: they are left out",
            file.filename,
            "software for version 2" if raw.version == 2 else "a program without bitmap support",
        )
        return None
    count, reserved, size, offset = layout.BITMAPS.unpack(data)
    if reserved:
        raise FormatError("bitmaps_ext: Reserved field is not zero")
    if count > layout.BITMAPS_MAX:
        raise FormatError(
            f"bitmaps_ext: Image has {count} bitmaps, exceeding the QEMU supported maximum "
            f"of {layout.BITMAPS_MAX}"
        )
    if count == 0:
        raise FormatError("found bitmaps extension with zero bitmaps")
    if offset % (1 << raw.cluster_bits):
        raise FormatError("bitmaps_ext: invalid bitmap directory offset")
    if size > layout.BITMAP_DIRECTORY_MAX:
        raise FormatError(
            f"bitmaps_ext: bitmap directory size ({size}) exceeds the maximum supported size "
            f"({layout.BITMAP_DIRECTORY_MAX})"
        )
    return BitmapsExtension(count, offset, size)


def _read_backing_name(file: BlockNode, raw: layout.RawHeader, cluster_size: int) -> str | None:
    if raw.backing_file_offset == 0:
        return None
    length = raw.backing_file_size
    if length > min(layout.BACKING_NAME_MAX, cluster_size - raw.backing_file_offset):
        raise FormatError("Backing file name too long")
    return _text(_fetch(file, raw.backing_file_offset, length)) or None
