"""Reference counts, as far as a reader needs them: are clusters mapped ahead of their data?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbexport.block.qcow2 import layout
from nbexport.errors import FormatError

if TYPE_CHECKING:
    from nbexport.block.node import BlockNode
    from nbexport.block.qcow2.header import Header


def has_preallocated_metadata(file: BlockNode, header: Header) -> bool:
    """Return whether the image uses so many more clusters than the host stores.

    Then mapped clusters may be holes of the file, and a map must look there too. QEMU decides it
    once: it counts the clusters in use from the beginning of the file up to its end and compares
    with the clusters that the file's storage could hold, plus a ninth, at least two.

    Raises:
        OSError: the host cannot read.
    """
    size = header.cluster_size
    real = file.allocated_size() // size
    threshold = max(real * 10 // 9, real + 2)
    clusters = -(-file.size // size)
    if clusters < threshold:
        return False
    try:
        return _used_clusters(file, header, clusters, threshold) >= threshold
    except FormatError:
        return False  # QEMU takes an unreadable count for "no" as well


def _used_clusters(file: BlockNode, header: Header, clusters: int, enough: int) -> int:
    """Count clusters with a reference among the first ``clusters``; stop at ``enough``."""
    per_block = header.cluster_size * 8 // header.refcount_bits
    blocks = min(
        -(-clusters // per_block),
        header.refcount_table_clusters * header.cluster_size // layout.ENTRY_SIZE,
    )
    stored = np.zeros(blocks, dtype=">u8")  # at most 8 MiB, and no more than the file needs
    file.read_padded(header.refcount_table_offset, stored.view(np.uint8).data)
    offsets = stored.astype(np.uint64) & np.uint64(layout.REFCOUNT_OFFSET_MASK)
    used = 0
    block = np.zeros(header.cluster_size, dtype=np.uint8)
    for index in np.flatnonzero(offsets).tolist():  # one read a block
        offset = int(offsets[index])
        if offset % header.cluster_size:
            raise FormatError(f"refblock offset {offset:#x} unaligned", path=file.filename)
        if offset >= file.size:
            continue
        file.read_padded(offset, block.data)
        count = min(per_block, clusters - index * per_block)
        used += int(np.count_nonzero(counts_of(block, header.refcount_bits)[:count]))
        if used >= enough:
            break
    return used


def counts_of(block: np.ndarray, bits: int) -> np.ndarray:
    """Return the reference counts that a block holds.

    Shape: block (cluster_size,) uint8; result (cluster_size * 8 / bits,).

    Source: qcow2 specification, "Refcount block": narrow counts fill a byte from its low bits up.
    """
    if bits >= 8:
        return block.view(f">u{bits // 8}")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((block[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)
