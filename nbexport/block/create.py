"""Making images: empty ones, over a backing file or not."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from nbexport.block.qcow2 import layout
from nbexport.errors import FormatError
from nbexport.units import KiB, align_up

CLUSTER_BITS: Final = 16
_CLUSTER: Final = 1 << CLUSTER_BITS
_REFCOUNT_ORDER: Final = 4
_COUNTS: Final = _CLUSTER // 2
"""Reference counts of 16 bits in one block: 2 GiB of file, more than any new image has."""
_NAMES: Final = (
    (0, 0, b"dirty bit"),
    (0, 1, b"corrupt bit"),
    (0, 2, b"external data file"),
    (0, 3, b"compression type"),
    (0, 4, b"extended L2 entries"),
    (1, 0, b"lazy refcounts"),
    (2, 0, b"bitmaps"),
    (2, 1, b"raw external data"),
)
_NAME: Final = struct.Struct(">BB46s")
_HEADER_LENGTH: Final = 112
_L1_ENTRIES_MAX: Final = layout.L1_TABLE_MAX // layout.ENTRY_SIZE


def create_raw(path: str, size: int) -> None:
    """Make a raw image of zeroes, or make a file one.

    Raises:
        OSError: the host cannot.
    """
    with Path(path).open("wb") as file:
        file.truncate(size)


def create_qcow2(
    path: str, size: int, *, backing_file: str | None = None, backing_format: str | None = None
) -> None:
    """Make an empty qcow2 image with QEMU's defaults, or make a file one.

    Args:
        path: of the file.
        size: length of the disk in bytes.
        backing_file: the name of what answers for it.
        backing_format: that one's format.

    Raises:
        FormatError: the disk is too large, or the name is too long.
        OSError: the host cannot.

    Source: qcow2 specification.
    """
    name = b"" if backing_file is None else os.fsencode(backing_file)
    if len(name) > layout.BACKING_NAME_MAX:
        raise FormatError("Backing file name too long", path=path)
    entries = -(-size // (_CLUSTER * (_CLUSTER // layout.ENTRY_SIZE)))
    if entries > _L1_ENTRIES_MAX:
        raise FormatError("The image size is too large for file format 'qcow2'", path=path)
    extensions = b""
    if backing_format is not None:
        extensions += _extension(layout.EXTENSION_BACKING_FORMAT, backing_format.encode())
    extensions += _extension(
        layout.EXTENSION_FEATURE_NAMES, b"".join(_NAME.pack(*each) for each in _NAMES)
    )
    extensions += layout.EXTENSION.pack(layout.EXTENSION_END, 0)
    table, block, tables = _CLUSTER, 2 * _CLUSTER, 3 * _CLUSTER
    header = layout.RawHeader(
        magic=layout.MAGIC,
        version=3,
        backing_file_offset=_HEADER_LENGTH + len(extensions) if name else 0,
        backing_file_size=len(name),
        cluster_bits=CLUSTER_BITS,
        size=size,
        crypt_method=0,
        l1_size=entries,
        l1_table_offset=tables if entries else 0,
        refcount_table_offset=table,
        refcount_table_clusters=1,
        nb_snapshots=0,
        snapshots_offset=0,
        incompatible_features=0,
        compatible_features=0,
        autoclear_features=0,
        refcount_order=_REFCOUNT_ORDER,
        header_length=_HEADER_LENGTH,
        compression_type=0,
    )
    used = 3 + -(-entries * layout.ENTRY_SIZE // _CLUSTER)
    assert used <= _COUNTS
    with Path(path).open("wb") as file:
        file.write(layout.HEADER.pack(*header) + extensions + name)
        file.seek(table)
        file.write(struct.pack(">Q", block))
        file.seek(block)
        file.write(struct.pack(">H", 1) * used)
        file.truncate(tables + entries * layout.ENTRY_SIZE)


def _extension(kind: int, data: bytes) -> bytes:
    return layout.EXTENSION.pack(kind, len(data)) + data.ljust(align_up(len(data), 8), b"\0")


def creation_text(
    path: str,
    driver: str,
    size: int,
    *,
    backing_file: str | None = None,
    backing_format: str | None = None,
) -> str:
    """Return the line that QEMU prints when it makes an image."""
    if driver == "raw":
        return f"Formatting '{path}', fmt=raw size={size}"
    backing = ""
    if backing_file is not None:
        backing = f" backing_file={_quoted(backing_file)}"
    if backing_format is not None:
        backing += f" backing_fmt={backing_format}"
    return (
        f"Formatting '{path}', fmt=qcow2 cluster_size={64 * KiB} extended_l2=off "
        f"compression_type=zlib size={size}{backing} lazy_refcounts=off refcount_bits=16"
    )


def _quoted(value: str) -> str:
    """Return a value as it stands in a list of options."""
    return value.replace(",", ",,")
