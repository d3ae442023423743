"""New qcow2 images without any data: version 3, clusters of 64 KiB, refcounts of 16 bits."""

from __future__ import annotations

import os
from typing import Final

from nbexport.block.qcow2 import layout
from nbexport.errors import UsageError
from nbexport.units import align_up

CLUSTER_BITS: Final = 16
_CLUSTER: Final = 1 << CLUSTER_BITS
_COVERED_BY_L1_ENTRY: Final = _CLUSTER // layout.ENTRY_SIZE * _CLUSTER
_REFCOUNT_ORDER: Final = 4
_FIRST_TABLE: Final = 3
"""Clusters before the L1 table: header, refcount table and one refcount block. That block counts 32
Ki clusters, so the largest L1 table (512 clusters) lies within them."""


def create_image(fd: int, size: int) -> None:
    """Make the empty file behind a descriptor an image of a disk of ``size`` bytes, all holes.

    Raises:
        UsageError: the disk is too large for clusters of this size.
        OSError: the host cannot write.
    """
    entries = -(-size // _COVERED_BY_L1_ENTRY)
    if entries * layout.ENTRY_SIZE > layout.L1_TABLE_MAX:
        raise UsageError("Could not resize image: Failed to grow the L1 table: File too large")
    table = align_up(entries * layout.ENTRY_SIZE, _CLUSTER)
    used = _FIRST_TABLE + table // _CLUSTER
    header = layout.HEADER.pack(
        *layout.RawHeader(
            magic=layout.MAGIC,
            version=3,
            backing_file_offset=0,
            backing_file_size=0,
            cluster_bits=CLUSTER_BITS,
            size=size,
            crypt_method=0,
            l1_size=entries,
            l1_table_offset=_FIRST_TABLE * _CLUSTER if entries else 0,
            refcount_table_offset=_CLUSTER,
            refcount_table_clusters=1,
            nb_snapshots=0,
            snapshots_offset=0,
            incompatible_features=0,
            compatible_features=0,
            autoclear_features=0,
            refcount_order=_REFCOUNT_ORDER,
            header_length=layout.HEADER.size,
            compression_type=0,
        )
    )
    ones = (1).to_bytes((1 << _REFCOUNT_ORDER) // 8, "big") * used
    os.ftruncate(fd, used * _CLUSTER)  # what is not written below is zeroes
    for offset, data in (
        (0, header),
        (_CLUSTER, (2 * _CLUSTER).to_bytes(layout.ENTRY_SIZE, "big")),
        (2 * _CLUSTER, ones),
    ):
        if os.pwrite(fd, data, offset) != len(data):
            raise OSError("the image was written in part only")
