"""Making a qcow2 image on a node that can be written.

    create(file, Plan(size=1 << 30, backing_file="base.qcow2", backing_format="qcow2"))

The image begins with its header, the refcount table, one refcount block and the L1 table.

Source: qcow2 specification; the texts are those of QEMU 7.2.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from nbexport.block.node import HostFileError
from nbexport.block.qcow2 import layout
from nbexport.block.qcow2.allocator import Allocator
from nbexport.block.qcow2.bitmap_store import BitmapStore
from nbexport.block.qcow2.header import read_header
from nbexport.block.qcow2.node import Qcow2Node
from nbexport.errors import UsageError
from nbexport.units import SECTOR_SIZE, KiB, MiB, align_up

if TYPE_CHECKING:
    from nbexport.block.node import BlockNode

MODES: Final = ("off", "metadata", "falloc", "full")
_V3_ONLY: Final = (
    "only supported with compatibility level 1.1 and above (use version=v3 or greater)"
)
# "Feature name table": type (0 incompatible, 1 compatible, 2 autoclear), bit, name.
_FEATURES: Final = (
    (0, 0, "dirty bit"), (0, 1, "corrupt bit"), (0, 2, "external data file"),
    (0, 3, "compression type"), (0, 4, "extended L2 entries"), (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"), (2, 1, "raw external data"),
)  # fmt: skip
_SIZE_MAX: Final = 0x7FFF_FFFF_C000_0000
"""Longest disk of QEMU: the largest offset that is a multiple of its largest alignment."""
_INT64_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True)
class Plan:
    """What an image is to be; the members are those of ``BlockdevCreateOptionsQcow2``."""

    size: int
    version: int = 3
    cluster_size: int = 64 * KiB
    refcount_bits: int = 16
    lazy_refcounts: bool = False
    extended_l2: bool = False
    compression: int = 0
    backing_file: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    data_file_raw: bool = False
    preallocation: str = "off"

    def check(self) -> None:
        """Raise UsageError unless the parts go together, in QEMU's order."""
        if self.size % 512:
            raise UsageError("Image size must be a multiple of 512 bytes")
        if self.extended_l2 and self.version < 3:
            raise UsageError(f"Extended L2 entries are {_V3_ONLY}")
        bits = self.cluster_size.bit_length() - 1
        if self.cluster_size != 1 << max(bits, 0) or not (
            layout.CLUSTER_BITS_MIN <= bits <= layout.CLUSTER_BITS_MAX
        ):
            raise UsageError("Cluster size must be a power of two between 512 and 2048k")
        least = layout.SUBCLUSTERS << layout.CLUSTER_BITS_MIN
        if self.extended_l2 and self.cluster_size < least:
            raise UsageError(
                "Extended L2 entries are only supported with cluster sizes of at least "
                f"{least} bytes"
            )
        prealloc = self.preallocation != "off"
        if self.backing_file is not None and prealloc and not self.extended_l2:
            raise UsageError(
                "Backing file and preallocation can only be used at the same time if extended_l2 "
                "is on"
            )
        if self.backing_format is not None and self.backing_file is None:
            raise UsageError("Backing format cannot be used without backing file")
        if self.version < 3 and self.lazy_refcounts:
            raise UsageError(f"Lazy refcounts {_V3_ONLY}")
        if not 0 < self.refcount_bits <= 64 or self.refcount_bits & (self.refcount_bits - 1):
            raise UsageError("Refcount width must be a power of two and may not exceed 64 bits")
        if self.version < 3 and self.refcount_bits != 16:
            raise UsageError(
                "Different refcount widths than 16 bits require compatibility level 1.1 or above "
                "(use version=v3 or greater)"
            )
        if self.data_file_raw and self.data_file is None:
            raise UsageError("data-file-raw requires data-file")
        if self.data_file_raw and self.backing_file is not None:
            raise UsageError("Backing file and data-file-raw cannot be used at the same time")
        if self.data_file is not None and self.version < 3:
            raise UsageError(f"External data files are {_V3_ONLY}")
        if self.compression and self.version < 3:
            raise UsageError(f"Non-zlib compression type is {_V3_ONLY}")

    def check_size(self) -> None:
        """Raise UsageError unless the disk is of a length that an image can have."""
        prefix = "Could not resize image: "
        if self.size > _INT64_MAX:
            raise UsageError(f"{prefix}Image size cannot be negative")
        if self.size > _SIZE_MAX:
            raise UsageError(f"{prefix}offset({self.size}) exceeds maximum({_SIZE_MAX})")
        if self.l1_entries * layout.ENTRY_SIZE > layout.L1_TABLE_MAX:
            reason = os.strerror(errno.EFBIG)
            raise UsageError(f"{prefix}Failed to grow the L1 table: {reason}")

    @property
    def l1_entries(self) -> int:
        """Entries of the L1 table: one for each L2 table that the disk takes."""
        entry = layout.EXTENDED_ENTRY_SIZE if self.extended_l2 else layout.ENTRY_SIZE
        return -(-self.size // (self.cluster_size * (self.cluster_size // entry)))


def create(file: BlockNode, plan: Plan) -> None:
    """Make an image.

    Args:
        file: where to make it; what was there is gone.
        plan: what to make, checked by `Plan.check`.

    Raises:
        UsageError: the disk is too long.
        OSError: the host failed.
    """
    size, before = plan.cluster_size, file.size
    file.grow(3 * size)
    _write(file, 0, _header(replace(plan, size=0), 0, 0), "Could not write qcow2 header")
    table = (2 * size).to_bytes(layout.ENTRY_SIZE, "big").ljust(size, b"\0")
    _write(file, size, table + _first_block(plan), "Could not write refcount table")
    plan.check_size()
    header = read_header(file)
    allocator = Allocator(file, header)
    length = plan.l1_entries * layout.ENTRY_SIZE
    offset = allocator.allocate(-(-length // size)) if length else 0
    if length:
        _write(file, offset, bytes(length), "Could not resize image")
    if length and before < file.size:
        end = offset + length  # the file ends with the table
        file.resize(end if before <= align_up(end, SECTOR_SIZE) else before)
    allocator.flush()
    _write(file, 0, _header(plan, offset, plan.l1_entries), "Could not write qcow2 header")
    file.flush()
    mode = plan.preallocation
    if plan.data_file_raw and mode == "off":
        mode = "metadata"
    if mode != "off" and plan.size:
        _preallocate(file, mode)


def _write(file: BlockNode, offset: int, data: bytes, what: str) -> None:
    try:
        file.write_from(offset, memoryview(data))
    except OSError as error:
        text = f"{what}: {os.strerror(error.errno or errno.EIO)}"
        raise HostFileError(error.errno, text, file.filename) from error


def _first_block(plan: Plan) -> bytes:
    """Return the refcount block in which the first three clusters are counted."""
    if plan.refcount_bits >= 8:
        one = (1).to_bytes(plan.refcount_bits // 8, "big")
        return (3 * one).ljust(plan.cluster_size, b"\0")
    counts = sum(1 << number * plan.refcount_bits for number in range(3))
    return counts.to_bytes(2, "little").ljust(plan.cluster_size, b"\0")


def _header(plan: Plan, l1_offset: int, l1_entries: int) -> bytes:
    """Return the first cluster."""
    incompatible = (
        (plan.data_file is not None) << layout.INCOMPATIBLE_DATA_FILE
        | (plan.compression != 0) << layout.INCOMPATIBLE_COMPRESSION
        | plan.extended_l2 << layout.INCOMPATIBLE_EXTENDED_L2
    )
    extensions = _extensions(plan)
    length = layout.HEADER.size if plan.version >= 3 else layout.HEADER_LENGTH_V2
    name = (plan.backing_file or "").encode(errors="surrogateescape")
    if len(name) > layout.BACKING_NAME_MAX or length + len(extensions) + len(name) > (
        plan.cluster_size
    ):
        reason = os.strerror(errno.EINVAL)
        raise UsageError(
            f"Could not assign backing file '{plan.backing_file}' with format "
            f"'{plan.backing_format or '(null)'}': {reason}"
        )
    fields = layout.RawHeader(
        magic=layout.MAGIC,
        version=plan.version,
        backing_file_offset=length + len(extensions) if name else 0,
        backing_file_size=len(name),
        cluster_bits=plan.cluster_size.bit_length() - 1,
        size=plan.size,
        crypt_method=0,
        l1_size=l1_entries,
        l1_table_offset=l1_offset,
        refcount_table_offset=plan.cluster_size,
        refcount_table_clusters=1,
        nb_snapshots=0,
        snapshots_offset=0,
        incompatible_features=incompatible,
        compatible_features=int(plan.lazy_refcounts),
        autoclear_features=layout.AUTOCLEAR_RAW_DATA_FILE if plan.data_file_raw else 0,
        refcount_order=plan.refcount_bits.bit_length() - 1,
        header_length=layout.HEADER.size,
        compression_type=plan.compression,
    )
    packed = layout.HEADER.pack(*fields)[:length]
    return (packed + extensions + name).ljust(plan.cluster_size, b"\0")


def _extensions(plan: Plan) -> bytes:
    def one(kind: int, data: bytes) -> bytes:
        padded = data.ljust(align_up(len(data), 8), b"\0")
        return layout.EXTENSION.pack(kind, len(data)) + padded

    found = b""
    if plan.backing_format is not None:
        found += one(layout.EXTENSION_BACKING_FORMAT, plan.backing_format.encode())
    if plan.data_file is not None:
        name = plan.data_file.encode(errors="surrogateescape")
        found += one(layout.EXTENSION_DATA_FILE, name)
    if plan.version >= 3:
        table = b"".join(
            layout.FEATURE_NAME.pack(kind, bit, name.encode()) for kind, bit, name in _FEATURES
        )
        found += one(layout.EXTENSION_FEATURE_NAMES, table)
    return found + layout.EXTENSION.pack(layout.EXTENSION_END, 0)


def _preallocate(file: BlockNode, mode: str) -> None:
    """Give every cluster of a new image its place."""
    with Qcow2Node(file, backing=None, writable=True) as node:
        allocator = Allocator(file, node.header)
        node.begin_writing(allocator, BitmapStore(node, allocator))
        data = file if node.data_file is None else node.data_file
        for host, length in node.preallocate():
            end = host + length
            if node.data_file is not None:
                end = min(end, node.header.size)
            data.grow(end)
            if mode == "falloc":
                data.write_zeroes(host, end - host, unmap=False)
            elif mode == "full":
                for at in range(host, end, MiB):
                    data.write_from(at, memoryview(bytes(min(MiB, end - at))))
