"""How a node is described to clients: the members of ``BlockDeviceInfo`` and ``ImageInfo``.

All members that any release has are told; the dispatcher leaves out those that a schema lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.qmp.jsontext import encode

if TYPE_CHECKING:
    from nbexport.emulator.graph import DirtyBitmap, Node

# Feature bits of a qcow2 header (qcow2 specification, "Feature bits").
_DIRTY, _CORRUPT, _LAZY_REFCOUNTS = 1, 2, 1

_NO_THROTTLING = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")


def full_options(node: Node) -> dict[str, Any]:
    """Return the options that would open the same disk again: the ``json:`` form of its name."""
    options: dict[str, Any] = {"driver": node.block.driver}
    if node.file is None:
        return {**options, "filename": node.block.filename}
    options["file"] = full_options(node.file)
    options.update(
        {name: node.options[name] for name in ("offset", "size") if name in node.options}
    )
    if _backing_overridden(node):
        options["backing"] = full_options(node.backing) if node.backing is not None else None
    return options


def filename(node: Node) -> str:
    """Return the name that clients see: a plain path where that says all, else ``json:{...}``."""
    if node.file is None:
        return node.block.filename
    inner = filename(node.file)
    plain = not inner.startswith("json:") and node.file.file is None
    if plain and not node.options.keys() & {"offset", "size"} and not _backing_overridden(node):
        return inner
    return f"json:{encode(full_options(node))}"


def _backing_overridden(node: Node) -> bool:
    """Whether the node's backing is another one than its image names."""
    if not isinstance(node.block, block.Qcow2Node) or "backing" not in node.options:
        return False
    stored = node.block.full_backing_filename
    actual = None if node.backing is None else filename(node.backing)
    return stored != actual


def bitmap_info(bitmap: DirtyBitmap) -> dict[str, Any]:
    """Return a bitmap's ``BlockDirtyInfo``."""
    info: dict[str, Any] = {
        "name": bitmap.name,
        "count": bitmap.bits.count,
        "granularity": bitmap.bits.granularity,
        "recording": bitmap.enabled,
        "busy": bitmap.busy,
        "persistent": bitmap.persistent,
        "status": _status(bitmap),
    }
    if bitmap.inconsistent:
        info["inconsistent"] = True
    return info


def _status(bitmap: DirtyBitmap) -> str:
    if bitmap.inconsistent:
        return "inconsistent"
    if bitmap.busy:
        return "locked"
    return "active" if bitmap.enabled else "disabled"


def image_info(node: Node, *, flat: bool) -> dict[str, Any]:
    """Return a node's ``ImageInfo``; unless flat, with those of its backing images inside."""
    disk = node.block
    info: dict[str, Any] = {
        "filename": filename(node),
        "format": disk.driver,
        "virtual-size": disk.size,
        "actual-size": disk.allocated_size(),
        "dirty-flag": isinstance(disk, block.Qcow2Node)
        and bool(disk.header.incompatible_features & _DIRTY),
    }
    if disk.cluster_size is not None:
        info["cluster-size"] = disk.cluster_size
    if isinstance(disk, block.Qcow2Node):
        info["format-specific"] = {"type": "qcow2", "data": _qcow2_info(disk)}
        if disk.header.backing_file is not None:
            info["backing-filename"] = disk.header.backing_file
            info["full-backing-filename"] = disk.full_backing_filename
            if disk.header.backing_format is not None:
                info["backing-filename-format"] = disk.header.backing_format
    if not flat and node.backing is not None:
        info["backing-image"] = image_info(node.backing, flat=False)
    return info


def _qcow2_info(disk: block.Qcow2Node) -> dict[str, Any]:
    """Return an image's ``ImageInfoSpecificQCow2``."""
    header = disk.header
    info: dict[str, Any] = {
        "compat": "0.10" if header.version == 2 else "1.1",
        "compression-type": header.compression_name,
        "refcount-bits": header.refcount_bits,
    }
    if header.version == 2:
        return info
    info["lazy-refcounts"] = bool(header.compatible_features & _LAZY_REFCOUNTS)
    info["corrupt"] = bool(header.incompatible_features & _CORRUPT)
    info["extended-l2"] = header.extended_l2
    bitmaps = _stored_bitmaps(disk)
    if bitmaps:
        info["bitmaps"] = [
            {
                "name": name,
                "granularity": granularity,
                "flags": [word for word, given in (("in-use", in_use), ("auto", enabled)) if given],
            }
            for name, granularity, in_use, enabled in bitmaps
        ]
    return info


def _stored_bitmaps(disk: block.Qcow2Node) -> list[tuple[str, int, bool, bool]]:
    """Return what the image itself says of its bitmaps: name, granularity, in use, enabled."""
    if disk.bitmap_store is None:
        return [
            (one.name, one.granularity, one.inconsistent, one.enabled)
            for one in disk.bitmaps.values()
        ]
    return [
        (one.name, one.granularity, one.in_use, one.enabled) for one in disk.bitmap_store.stored
    ]


def _children(node: Node) -> list[dict[str, str]]:
    """Return a node's ``BlockdevChild`` entries, the one that was attached last first."""
    found = [("backing", node.backing), ("file", node.file)]
    return [{"child": role, "node-name": child.name} for role, child in found if child is not None]


def node_info(node: Node, *, flat: bool) -> dict[str, Any]:
    """Return a node's ``BlockDeviceInfo``, with the members of every release."""
    cache = node.options.get("cache", {})
    depth = 0 if flat else len(list(node.chain())) - 1
    info: dict[str, Any] = {
        "node-name": node.name,
        "drv": node.block.driver,
        "file": filename(node),
        "ro": node.read_only,
        "active": True,
        "children": _children(node),
        "encrypted": False,
        "encryption_key_missing": False,
        "detect_zeroes": node.options.get("detect-zeroes", "off"),
        "write_threshold": 0,
        "image": image_info(node, flat=flat),
        "cache": {
            "writeback": True,
            "direct": cache.get("direct", False),
            "no-flush": cache.get("no-flush", False),
        },
        "backing_file_depth": depth,
        **dict.fromkeys(_NO_THROTTLING, 0),
    }
    if node.backing is not None:
        info["backing_file"] = filename(node.backing)
    if node.bitmaps:
        info["dirty-bitmaps"] = [bitmap_info(b) for b in reversed(node.bitmaps)]
    return info
