"""How a human is shown disks, nodes and jobs.

Source: what QEMU 7.2 prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport.emulator.describe import lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def disk(
    info: Mapping[str, Any] | None, inserted: Mapping[str, Any] | None, *, images: bool
) -> str:
    """Return what is shown of a disk, or of a node alone.

    Args:
        info: the disk's ``BlockInfo``; None for a node.
        inserted: the ``BlockDeviceInfo`` of what is in it; None if it is empty.
        images: whether to show its images, too.
    """
    return "".join(f"{line}\n" for line in _disk(info, inserted, images=images))


def _disk(
    info: Mapping[str, Any] | None, inserted: Mapping[str, Any] | None, *, images: bool
) -> Iterator[str]:
    node = inserted["node-name"] if inserted is not None else None
    if info is not None and info["device"]:
        name = f"{info['device']} ({node})" if node is not None else info["device"]
    else:
        name = node or (info or {}).get("qdev") or "<anonymous>"
    if inserted is None:
        yield f"{name}: [not inserted]"
    else:
        yield f"{name}: {inserted['file']} ({inserted['drv']}{', read-only' * inserted['ro']})"
    if info is not None:
        if "qdev" in info:
            yield f"    Attached to:      {info['qdev']}"
        if info["removable"]:
            locked = "" if info["locked"] else "not "
            tray = "open" if info.get("tray_open") else "closed"
            yield f"    Removable device: {locked}locked, tray {tray}"
    if inserted is None:
        return
    cache = inserted["cache"]
    mode = "writeback" if cache["writeback"] else "writethrough"
    mode += ", direct" * cache["direct"] + ", ignore flushes" * cache["no-flush"]
    yield f"    Cache mode:       {mode}"
    if "backing_file" in inserted:
        depth = inserted["backing_file_depth"]
        yield f"    Backing file:     {inserted['backing_file']} (chain depth: {depth})"
    if inserted["detect_zeroes"] != "off":
        yield f"    Detect zeroes:    {inserted['detect_zeroes']}"
    if images:
        yield ""
        yield "Images:"
        image: Mapping[str, Any] | None = inserted["image"]
        while image is not None:
            yield from _image(image)
            image = image.get("backing-image")


def _image(image: Mapping[str, Any]) -> Iterator[str]:
    yield f"image: {image['filename']}"
    yield f"file format: {image['format']}"
    yield f"virtual size: {size(image['virtual-size'])} ({image['virtual-size']} bytes)"
    taken = size(image["actual-size"]) if "actual-size" in image else "unavailable"
    yield f"disk size: {taken}"
    if "cluster-size" in image:
        yield f"cluster_size: {image['cluster-size']}"
    if image.get("dirty-flag"):
        yield "cleanly shut down: no"
    if "backing-filename" in image:
        line = f"backing file: {image['backing-filename']}"
        full = image.get("full-backing-filename")
        if full is None:
            line += " (cannot determine actual path)"
        elif full != image["backing-filename"]:
            line += f" (actual path: {full})"
        yield line
        if "backing-filename-format" in image:
            yield f"backing file format: {image['backing-filename-format']}"
    if "format-specific" in image:
        yield "Format specific information:"
        yield from lines_of(image["format-specific"]["data"])


def size(value: int) -> str:
    """Return a number of bytes with three digits, in the unit that fits."""
    amount, unit = float(value), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.3g} {_UNITS[unit]}"


def jobs(found: list[Mapping[str, Any]]) -> str:
    """Return what is shown of the jobs that run."""
    if not found:
        return "No active jobs\n"
    lines = []
    for each in found:
        done = f"Completed {each['offset']} of {each['len']} bytes, speed limit {each['speed']}"
        kind = "Streaming device" if each["type"] == "stream" else f"Type {each['type']}, device"
        lines.append(f"{kind} {each['device']}: {done} bytes/s\n")
    return "".join(lines)
