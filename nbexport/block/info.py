"""What can be told of an image: its facts, and which file holds what of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nbexport.block.chain import open_layer
from nbexport.block.node import ALLOCATED, DATA, ZERO, BlockNode
from nbexport.block.qcow2 import layout
from nbexport.block.qcow2.check import CheckResult, check_qcow2
from nbexport.block.qcow2.node import Qcow2Node
from nbexport.block.raw import RawNode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nbexport.bits import Extents
    from nbexport.block.node import PersistentBitmap
    from nbexport.block.qcow2.snapshots import Snapshot


def image_info(
    filename: str,
    *,
    format: str | None = None,  # noqa: A002 # the field's word
    force_share: bool = False,
) -> dict[str, Any]:
    """Return the facts of one image, under the names that ``ImageInfo`` of QAPI gives them.

    The backing file is named, not opened.

    Args:
        filename: a path, or ``file:`` and a path.
        format: the driver; None to look at the image.
        force_share: do not mind other processes that write the image.

    Raises:
        UsageError: the name has a protocol that is not supported.
        FormatError: the image is damaged, or needs what is not supported.
        ImageLockedError: another process writes the image.
        OSError: it cannot be opened or read.
    """
    node, _ = open_layer(filename, format, Qcow2Node, force_share=force_share, facts_only=True)
    with node:
        facts: dict[str, Any] = {
            "filename": filename,
            "format": node.driver,
            "virtual-size": node.size,
            "actual-size": node.allocated_size(),
            "dirty-flag": False,
        }
        if isinstance(node, Qcow2Node):
            _add_qcow2(facts, node)
        return facts


def check_image(
    filename: str,
    *,
    format: str | None = None,  # noqa: A002 # the field's word
    force_share: bool = False,
) -> CheckResult | None:
    """Check one image; its backing file is not opened.

    Args:
        filename: a path, or ``file:`` and a path.
        format: the driver; None to look at the image.
        force_share: do not mind other processes that write the image.

    Returns:
        What was found, or None if the format has nothing to check.

    Raises:
        UsageError: the name has a protocol that is not supported.
        FormatError: the image cannot even be opened, or is too large to be checked.
        ImageLockedError: another process writes the image.
        OSError: it cannot be opened or read.
    """
    node, _ = open_layer(filename, format, Qcow2Node, force_share=force_share)
    with node:
        return check_qcow2(node) if isinstance(node, Qcow2Node) else None


def bitmap_facts(bitmap: PersistentBitmap) -> dict[str, Any]:
    """Return one bitmap under the names of QAPI's ``Qcow2BitmapInfo``."""
    flags = ["in-use"] if bitmap.inconsistent else []
    if bitmap.enabled:
        flags.append("auto")
    return {"name": bitmap.name, "granularity": bitmap.granularity, "flags": flags}


def _add_qcow2(facts: dict[str, Any], node: Qcow2Node) -> None:
    header = node.header
    facts["cluster-size"] = header.cluster_size
    facts["dirty-flag"] = bool(header.incompatible_features & 1 << layout.INCOMPATIBLE_DIRTY)
    if node.backing_filename is not None:
        facts["backing-filename"] = node.backing_filename
        facts["full-backing-filename"] = node.full_backing_filename
        if node.backing_format is not None:
            facts["backing-filename-format"] = node.backing_format
    if node.snapshots:
        facts["snapshots"] = [_snapshot_facts(snapshot) for snapshot in node.snapshots]
    data: dict[str, Any] = {
        "compat": "0.10" if header.version == 2 else "1.1",
        "compression-type": header.compression_name,
        "refcount-bits": header.refcount_bits,
    }
    if header.version > 2:
        corrupt = 1 << layout.INCOMPATIBLE_CORRUPT
        data["lazy-refcounts"] = bool(header.compatible_features & layout.COMPATIBLE_LAZY_REFCOUNTS)
        data["corrupt"] = bool(header.incompatible_features & corrupt)
        data["extended-l2"] = header.extended_l2
        if header.data_file is not None:
            data["data-file"] = header.data_file
            data["data-file-raw"] = header.data_file_raw
        if node.bitmaps:
            data["bitmaps"] = [bitmap_facts(bitmap) for bitmap in node.bitmaps.values()]
    facts["format-specific"] = {"type": "qcow2", "data": data}


def _snapshot_facts(snapshot: Snapshot) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": snapshot.date_sec,
        "date-nsec": snapshot.date_nsec,
        "vm-clock-sec": snapshot.vm_clock_nsec // 1_000_000_000,
        "vm-clock-nsec": snapshot.vm_clock_nsec % 1_000_000_000,
    }
    if snapshot.icount is not None:
        facts["icount"] = snapshot.icount
    return facts


@dataclass(frozen=True)
class ImageMap:
    """Which node of a chain decides each byte of a disk, and where in its file the byte is.

    Attributes:
        bounds: where extents begin and end. Shape: (n + 1,) int64.
        flags: DATA, ZERO, ALLOCATED of the deciding node. Shape: (n,) uint32.
        depths: 0 for the top node, 1 for its backing file, and so on. Shape: (n,) int64.
        offsets: place of the first byte in that node's file, -1 if none. Shape: (n,) int64.
    """

    bounds: NDArray[np.int64]
    flags: NDArray[np.uint32]
    depths: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the extents under the names of QAPI's ``MapEntry``; for printing only."""
        lengths = np.diff(self.bounds)
        for start, length, flags, depth, offset in zip(
            self.bounds.tolist(), lengths.tolist(), self.flags.tolist(), self.depths.tolist(),
            self.offsets.tolist(), strict=False,
        ):  # fmt: skip
            entry = {
                "start": start,
                "length": length,
                "depth": depth,
                "present": bool(flags & ALLOCATED),
                "zero": bool(flags & ZERO),
                "data": bool(flags & DATA),
            }
            if offset >= 0:
                entry["offset"] = offset
            yield entry

    def json(self) -> str:
        """Return the entries as JSON, one a line, as ``qemu-img map --output=json`` prints them."""
        kinds = {
            flags: ", ".join(
                f'"{name}": {"true" if flags & bit else "false"}'
                for name, bit in (("present", ALLOCATED), ("zero", ZERO), ("data", DATA))
            )
            for flags in np.unique(self.flags).tolist()
        }
        columns = self.bounds, np.diff(self.bounds), self.depths, self.flags, self.offsets
        lines = [
            f'{{ "start": {start}, "length": {length}, "depth": {depth}, {kinds[flags]}'
            + (f', "offset": {offset}}}' if offset >= 0 else "}")
            for start, length, depth, flags, offset in zip(
                *(column.tolist() for column in columns), strict=False
            )
        ]
        return "[" + ",\n".join(lines) + "]"


def image_map(top: BlockNode) -> ImageMap:
    """Return which node of the chain of ``top`` holds what, as QEMU 7.2's ``map`` says it.

    Raises:
        FormatError: the metadata of an image is damaged.
        OSError: the host cannot read.
    """
    top.allocation()  # tells of damage before anything is made of it
    layers = [_layer(node, min(node.size, top.size)) for node in top.chain()]
    cuts = np.concatenate([part for layer in layers for part in (layer[0].bounds, layer[1])])
    bounds = np.unique(cuts)
    starts = bounds[:-1]
    count = len(starts)
    flags = np.zeros(count, dtype=np.uint32)
    depths = np.zeros(count, dtype=np.int64)
    offsets = np.full(count, -1, dtype=np.int64)
    open_ = np.arange(count)  # pieces that no layer has decided yet
    for depth, (status, place_bounds, places) in enumerate(layers):
        at = starts[open_]
        own = status.flags[np.searchsorted(status.bounds, at, side="right") - 1]
        place = np.searchsorted(place_bounds, at, side="right") - 1
        offset = np.where(places[place] < 0, -1, places[place] + at - place_bounds[place])
        decided = own & (DATA | ZERO) != 0
        if depth + 1 < len(layers):
            below = layers[depth + 1][0].end
            own = np.where(~decided & (at >= below), own | np.uint32(ZERO), own)
            decided |= at >= below
        chosen = open_[decided]
        flags[chosen], offsets[chosen] = own[decided], offset[decided]
        depths[chosen] = depth
        open_ = open_[~decided]
    lengths = np.diff(bounds)
    new = np.ones(count, dtype=np.bool_)
    new[1:] = (flags[1:] != flags[:-1]) | (depths[1:] != depths[:-1])
    placed = (offsets[1:] >= 0) | (offsets[:-1] >= 0)
    new[1:] |= placed & (offsets[1:] != offsets[:-1] + lengths[:-1])
    new[1:] |= (offsets[1:] >= 0) != (offsets[:-1] >= 0)
    return ImageMap(np.append(starts[new], bounds[-1:]), flags[new], depths[new], offsets[new])


def _layer(node: BlockNode, end: int) -> tuple[Extents, NDArray[np.int64], NDArray[np.int64]]:
    """Return what a node says of ``[0, end)``, and its bounds and offsets in the file."""
    status = node._status(0, end, want_zero=True)
    if isinstance(node, Qcow2Node):
        return status, *node.places(0, end)
    first = node.offset if isinstance(node, RawNode) else 0
    count = int(end > 0)
    return status, np.array([0, end][: count + 1]), np.full(count, first, dtype=np.int64)
