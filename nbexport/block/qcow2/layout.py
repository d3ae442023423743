"""The qcow2 format as data: offsets, widths, masks and bounds. Big-endian throughout.

Source: QEMU, ``docs/interop/qcow2.txt``; section names stand beside each part.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from nbexport.units import GiB, KiB, MiB

MAGIC: Final = b"QFI\xfb"


# "Header". The first 72 bytes are version 2; version 3 goes on to 104, then to header_length.
class RawHeader(NamedTuple):
    """The fields of the header as they are stored, versions 2 and 3."""

    magic: bytes  # 0
    version: int  # 4
    backing_file_offset: int  # 8
    backing_file_size: int  # 16
    cluster_bits: int  # 20
    size: int  # 24
    crypt_method: int  # 32
    l1_size: int  # 36, entries
    l1_table_offset: int  # 40
    refcount_table_offset: int  # 48
    refcount_table_clusters: int  # 56
    nb_snapshots: int  # 60
    snapshots_offset: int  # 64
    incompatible_features: int  # 72
    compatible_features: int  # 80
    autoclear_features: int  # 88
    refcount_order: int  # 96
    header_length: int  # 100
    compression_type: int  # 104


HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQIIB7x")
"""112 bytes: what QEMU reads whatever the version."""

HEADER_LENGTH_V2: Final = 72
HEADER_LENGTH_V3: Final = 104
COMPRESSION_TYPE_OFFSET: Final = 104
REFCOUNT_ORDER_V2: Final = 4

CLUSTER_BITS_MIN: Final = 9
CLUSTER_BITS_MAX: Final = 21  # 2 MiB
REFCOUNT_ORDER_MAX: Final = 6
BACKING_NAME_MAX: Final = 1023
BACKING_FORMAT_MAX: Final = 15  # QEMU keeps it in 16 bytes with a NUL

L1_TABLE_MAX: Final = 32 * MiB  # bytes; 4 Mi entries
REFCOUNT_TABLE_MAX: Final = 8 * MiB  # bytes; 1 Mi refcount blocks
SNAPSHOTS_MAX: Final = 65536
SNAPSHOT_ENTRY: Final = struct.Struct(">12xHH20xI")
"""40 bytes: length of the id, length of the name, length of the extra data; then those three."""
SNAPSHOT_FIELDS: Final = struct.Struct(">QIHHIIQII")
"""The same 40 bytes in full: L1 table offset, its entries, length of the id, length of the name,
date in seconds, its nanoseconds, guest clock in nanoseconds, size of the VM state, extra length."""
SNAPSHOT_EXTRA: Final = struct.Struct(">QQQ")  # VM state size, disk size, instruction count
SNAPSHOT_EXTRA_MAX: Final = 1024
SNAPSHOT_TABLE_MAX: Final = 1024 * SNAPSHOTS_MAX  # bytes; QEMU's 1 KiB an entry
OFFSET_MAX: Final = (1 << 63) - 1
DISK_SIZE_MAX: Final = OFFSET_MAX // GiB * GiB  # QEMU keeps lengths where rounding cannot overflow
L1_INDEX_MAX: Final = (1 << 31) - 1

# "Header", incompatible features by bit
INCOMPATIBLE_DIRTY: Final = 0
INCOMPATIBLE_CORRUPT: Final = 1
INCOMPATIBLE_DATA_FILE: Final = 2
INCOMPATIBLE_COMPRESSION: Final = 3
INCOMPATIBLE_EXTENDED_L2: Final = 4
INCOMPATIBLE_READ: Final = (
    1 << INCOMPATIBLE_DIRTY
    | 1 << INCOMPATIBLE_CORRUPT
    | 1 << INCOMPATIBLE_DATA_FILE
    | 1 << INCOMPATIBLE_COMPRESSION
    | 1 << INCOMPATIBLE_EXTENDED_L2
)
AUTOCLEAR_BITMAPS: Final = 1 << 0
AUTOCLEAR_RAW_DATA_FILE: Final = 1 << 1
COMPATIBLE_LAZY_REFCOUNTS: Final = 1 << 0
COMPRESSION_NAMES: Final = {0: "zlib", 1: "zstd"}
CRYPT_NAMES: Final = {1: "aes", 2: "luks"}

# "Header extensions"
EXTENSION: Final = struct.Struct(">II")  # type, length; data padded to 8
EXTENSION_END: Final = 0
EXTENSION_BACKING_FORMAT: Final = 0xE2792ACA
EXTENSION_FEATURE_NAMES: Final = 0x6803F857
EXTENSION_BITMAPS: Final = 0x23852875
EXTENSION_DATA_FILE: Final = 0x44415441
EXTENSION_LUKS: Final = 0x0537BE77
FEATURE_NAME: Final = struct.Struct(">BB46s")  # type (0 incompatible), bit, NUL-padded name
FEATURE_TYPE_INCOMPATIBLE: Final = 0

# "L1 table", "L2 table"
L1_OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
L2_OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
L2_COMPRESSED: Final = 1 << 62
L2_ZERO: Final = 1 << 0
COPIED: Final = 1 << 63
"""The count is one; with an external data file, also that offset 0 is a place."""
ENTRY_SIZE: Final = 8

# "Extended L2 Entries": a second word, of which bit k says that subcluster k is allocated and bit
# 32 + k that it reads as zeroes.
EXTENDED_ENTRY_SIZE: Final = 16
SUBCLUSTERS: Final = 32
ALL_ALLOCATED: Final = (1 << SUBCLUSTERS) - 1

# "Compressed Clusters Descriptor"
COMPRESSED_SECTOR: Final = 512
DEFLATE_MEMORY: Final = 9  # zlib's most, as QEMU compresses
INFLATE_WINDOW_BITS: Final = -12  # raw deflate, 4 KiB window

# "Refcount table"
REFCOUNT_OFFSET_MASK: Final = 0xFFFF_FFFF_FFFF_FE00

# "Bitmaps extension"
BITMAPS: Final = struct.Struct(">IIQQ")  # nb_bitmaps, reserved, directory size, its offset
BITMAPS_MAX: Final = 65535
BITMAP_DIRECTORY_MAX: Final = 1024 * BITMAPS_MAX  # bytes; QEMU's 1 KiB an entry

# "Bitmap directory"
BITMAP_ENTRY: Final = struct.Struct(">QIIBBHI")
"""Table offset, entries of the table, flags, type, granularity bits, name length, extra length."""
BITMAP_IN_USE: Final = 1 << 0
BITMAP_AUTO: Final = 1 << 1
BITMAP_KNOWN_FLAGS: Final = BITMAP_IN_USE | BITMAP_AUTO
BITMAP_TYPE_DIRTY: Final = 1
BITMAP_NAME_MAX: Final = 1023
BITMAP_GRANULARITY_BITS: Final = (9, 31)
BITMAP_TABLE_MAX: Final = 0x800_0000  # entries
BITMAP_BYTES_MAX: Final = 512 * MiB  # clusters of bits that one table may name
ALL_BITMAPS_BYTES_MAX: Final = 512 * MiB
"""Bits of all bitmaps of an image in memory. QEMU has no such bound; at 64 KiB a bit these are
256 TiB of disk, and a file of 1 KiB cannot make us allocate more."""

# "Bitmap table"
BITMAP_DATA_OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
BITMAP_DATA_RESERVED: Final = 0xFF00_0000_0000_01FE
BITMAP_ALL_ONES: Final = 1 << 0

# Bounds of this package
L2_CACHE_BYTES: Final = 4 * MiB
"""L2 tables kept for a node: 64 of 64 KiB, which map 32 GiB of disk; two of the largest kind."""
INFLATED_CACHE_BYTES: Final = 4 * MiB
"""Decompressed clusters kept for a node, so that small reads do not inflate a cluster again."""
MAP_BATCH_ENTRIES: Final = 128 * KiB
"""Units classified at a time: 1 MiB of table and about as much of temporaries each."""
MAP_ENTRIES_MAX: Final = 1 << 27
"""Units of a map that is made whole and kept: 8 TiB of data in clusters of 64 KiB, or 256 GiB in
their subclusters. Larger images are mapped range by range."""


def as_int32(value: int) -> int:
    """Return ``value`` wrapped to 32 signed bits, in which QEMU computes and prints some fields."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)
