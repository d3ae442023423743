"""How a node is described to clients: the members of ``BlockDeviceInfo`` and ``ImageInfo``.

All members that any release has are told; the dispatcher leaves out those that a schema lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport import block, nbd
from nbexport.emulator import filters, limits
from nbexport.qapi.order import qdict_order
from nbexport.qmp.jsontext import encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nbexport.block import BlockNode
    from nbexport.emulator.graph import Backend, DirtyBitmap, Node

# Nodes that go by the name of the node below.
_NAMED_AS_BELOW = block.CopyBeforeWriteNode | block.SnapshotAccessNode | block.JobFilterNode

# Feature bits of a qcow2 header (qcow2 specification, "Feature bits").
_DIRTY, _CORRUPT, _LAZY_REFCOUNTS = 1, 2, 1

_NO_THROTTLING = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")


# Options that decide what is read: with them a name alone would not open the same disk again.
_DECISIVE = {
    "raw": ("offset", "size"),
    "null-co": ("size", "read-zeroes"),
    "null-aio": ("size", "read-zeroes"),
    "nbd": ("server", "export", "tls-creds", "tls-hostname", "x-dirty-bitmap"),
    "copy-before-write": ("bitmap", "on-cbw-error", "cbw-timeout"),
    "blkdebug": (
        "config", "inject-error", "set-state", "align", "max-transfer", "opt-write-zero",
        "max-write-zero", "opt-discard", "max-discard",
    ),
    "throttle": ("throttle-group",),
    "copy-on-read": ("bottom",),
}  # fmt: skip


def driver(node: Node) -> str:
    """Return the name of a node's driver, as its release calls it."""
    name: str = node.options.get("driver", node.block.driver)
    return name


def _decisive(node: Node) -> dict[str, Any]:
    names = _DECISIVE.get(node.options.get("driver", ""), ())
    return _flat({name: node.options[name] for name in names if name in node.options})


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in which lists have their parts as options, with dots in their names."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if not isinstance(value, list):
            found[name] = value
            continue
        for number, part in enumerate(value):
            for inner, leaf in reversed(part.items()):
                found[f"{name}.{number}.{inner}"] = leaf
    return found


def full_options(node: Node) -> dict[str, Any]:
    """Return the options that would open the same disk again: the ``json:`` form of its name."""
    options: dict[str, Any] = {"driver": driver(node), **_decisive(node)}
    if node.file is None:
        if isinstance(node.block, block.FileNode):
            options["filename"] = node.block.filename
        return options
    options[node.file_role] = full_options(node.file)
    if node.target is not None:
        options["target"] = full_options(node.target)
    if _backing_overridden(node):
        options["backing"] = full_options(node.backing) if node.backing is not None else None
    return options


def filename(node: Node) -> str:
    """Return the name that clients see: a plain path where that says all, else ``json:{...}``."""
    if node.file is None:
        if isinstance(node.block, block.NullNode) and _decisive(node):
            return f"json:{encode(full_options(node))}"
        return node.block.filename
    inner = filename(node.file)
    if isinstance(node.block, _NAMED_AS_BELOW):
        return inner
    if isinstance(node.block, block.BlkdebugNode):
        short = filters.name_of_injection(node.options, inner)
        return short or f"json:{encode(full_options(node))}"
    if node.is_filter:
        return f"json:{encode(full_options(node))}"
    cut = node.block.driver == "raw" and _decisive(node)
    plain = not cut and not inner.startswith("json:") and _is_protocol(node.file)
    if plain and not _backing_overridden(node):
        return inner
    return f"json:{encode(full_options(node))}"


def _is_protocol(node: Node) -> bool:
    """Whether the node has its data from outside, not from another node."""
    while isinstance(node.block, block.CopyBeforeWriteNode) and node.file is not None:
        node = node.file
    return node.file is None or isinstance(node.block, block.BlkdebugNode)


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
        "count": bitmap.bits.count,
        "granularity": bitmap.bits.granularity,
        "recording": bitmap.enabled or (bitmap.successor is not None and bitmap.successor.enabled),
        "busy": bitmap.busy,
        "persistent": bitmap.persistent,
        "status": _status(bitmap),
    }
    if not bitmap.anonymous:
        info["name"] = bitmap.name
    if bitmap.inconsistent:
        info["inconsistent"] = True
    return info


def _status(bitmap: DirtyBitmap) -> str:
    if bitmap.inconsistent:
        return "inconsistent"
    if bitmap.successor is not None:
        return "frozen"
    if bitmap.busy:
        return "locked"
    return "active" if bitmap.enabled else "disabled"


def image_info(node: Node, *, flat: bool, for_disk: bool = False) -> dict[str, Any]:
    """Return a node's ``ImageInfo``; unless flat, with those of its backing images inside."""
    disk = node.block
    info: dict[str, Any] = {
        "filename": filename(node),
        "format": driver(node),
        "virtual-size": disk.size,
    }
    bottom = _bottom(node)
    if not isinstance(bottom, nbd.NbdNode | block.BlkdebugNode):
        info["actual-size"] = disk.allocated_size()
    tells = not isinstance(bottom, nbd.NbdNode | block.NullNode) or _has_format(node)
    if tells and not isinstance(disk, block.SnapshotAccessNode):
        info["dirty-flag"] = isinstance(disk, block.Qcow2Node) and bool(
            disk.header.incompatible_features & _DIRTY
        )
    if disk.cluster_size is not None:
        info["cluster-size"] = disk.cluster_size
    if isinstance(disk, block.Qcow2Node):
        info["format-specific"] = {"type": "qcow2", "data": _qcow2_info(disk)}
        if disk.header.backing_file is not None:
            info["backing-filename"] = disk.header.backing_file
            info["full-backing-filename"] = disk.full_backing_filename
            if disk.header.backing_format is not None:
                info["backing-filename-format"] = disk.header.backing_format
    below = node.file if node.is_filter else node.backing
    if not flat and below is not None:
        # What a filter shows stands where a backing image would.
        below = shown(below) if for_disk else below
        info["backing-image"] = image_info(below, flat=False, for_disk=for_disk)
    return info


def _has_format(node: Node) -> bool:
    """Whether a format is at, or below filters of, a node."""
    while not node.is_format and node.file is not None:
        node = node.file
    return node.is_format


def _bottom(node: Node) -> BlockNode:
    """Return the disk whose storage a node's is, or that does not tell of it."""
    while node.file is not None and not isinstance(node.block, block.BlkdebugNode):
        node = node.file
    return node.block


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


def specific(disk: block.Qcow2Node) -> Iterator[str]:
    """Yield what is told of an image alone of its format, as humans read it."""
    return lines_of(_qcow2_info(disk))


def lines_of(value: Any, depth: int = 1) -> Iterator[str]:
    """Yield the lines of a value of JSON, indented by its depth."""
    if isinstance(value, dict):
        pairs = [(key.replace("-", " "), value[key]) for key in qdict_order(value)]
    else:
        pairs = [(f"[{index}]", each) for index, each in enumerate(value)]
    for key, each in pairs:
        indent = "    " * depth
        if isinstance(each, dict | list):
            yield f"{indent}{key}:"
            yield from lines_of(each, depth + 1)
        else:
            text = str(each).lower() if isinstance(each, bool) else str(each)
            yield f"{indent}{key}: {text}"


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
    found = [("target", node.target), ("backing", node.backing), (node.file_role, node.file)]
    return [{"child": role, "node-name": child.name} for role, child in found if child is not None]


def shown(node: Node) -> Node:
    """Return what a user of a disk is told of in place of filters that jobs made."""
    while node.implicit and node.file is not None:
        node = node.file
    return node


def node_info(node: Node, *, flat: bool, for_disk: bool = False) -> dict[str, Any]:
    """Return a node's ``BlockDeviceInfo``, with the members of every release.

    Args:
        node: the node.
        flat: whether to leave out what is behind it.
        for_disk: whether a disk is described: filters that jobs made are left out.
    """
    node = shown(node) if for_disk else node
    cache = node.options.get("cache", {})
    counted = [each for each in node.chain() if not (for_disk and each.implicit)]
    depth = 0 if flat else len(counted) - 1
    info: dict[str, Any] = {
        "node-name": node.name,
        "drv": driver(node),
        "file": filename(node),
        "ro": node.read_only,
        "active": True,
        "children": _children(node),
        "encrypted": False,
        "encryption_key_missing": False,
        "detect_zeroes": node.options.get("detect-zeroes", "off"),
        "write_threshold": 0,
        "image": image_info(node, flat=flat, for_disk=for_disk),
        "cache": {
            "writeback": True,
            "direct": cache.get("direct", False),
            "no-flush": cache.get("no-flush", False),
        },
        "backing_file_depth": depth,
        **dict.fromkeys(_NO_THROTTLING, 0),
    }
    if node.backing is not None:
        backing = shown(node.backing) if for_disk else node.backing
        info["backing_file"] = filename(backing)
    if node.bitmaps:
        info["dirty-bitmaps"] = [bitmap_info(b) for b in reversed(node.bitmaps)]
    return info


def disk_info(disk: Backend) -> dict[str, Any]:
    """Return a disk's ``BlockInfo``."""
    info: dict[str, Any] = {
        "device": disk.name,
        "type": "unknown",
        "removable": disk.removable,
        "locked": False,
    }
    if disk.device is not None:
        info["qdev"] = disk.device
        if disk.keeps_errors:
            info["io-status"] = "ok"
        if disk.removable:
            info["tray_open"] = disk.tray_open
    if disk.node is not None:
        inserted = node_info(disk.node, flat=False, for_disk=True)
        inserted["cache"]["writeback"] = disk.writeback
        inserted |= limits.describe(disk)
        info["inserted"] = inserted
    return info
