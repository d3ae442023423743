"""Exports as they were before 5.2: known to the NBD server by their names, and to nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport import block, nbd
from nbexport.emulator import permissions
from nbexport.emulator.commands.registry import command
from nbexport.emulator.graph import BlockExport
from nbexport.emulator.nbd_exports import make_export, running_server, use
from nbexport.errors import CommandError
from nbexport.nbd.wire import STRING_MAX

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import DirtyBitmap, Node
    from nbexport.emulator.machine import Machine


def add(machine: Machine, arguments: Arguments) -> None:
    """Export a node: nbd-server-add up to 5.1, which looks at the server first."""
    server = running_server(machine)
    device = arguments["device"]
    name: str = arguments.get("name", device)
    if machine.release.checks_name_length and len(name.encode()) > STRING_MAX:
        raise CommandError(f"export name '{name}' too long")
    if name in server.exports:
        raise CommandError(f"NBD server already has export named '{name}'")
    node = machine.graph.find(device)
    writable = arguments.get("writable", False) and not node.read_only
    try:
        use(machine, node, permissions.export_use(writable=writable))
        bitmaps = []
        if "bitmap" in arguments:
            bitmaps.append(find_bitmap(node, arguments["bitmap"], writable=writable))
        named = [(bitmap.name, bitmap) for bitmap in bitmaps]
        front = block.Front(node.block)
        made = make_export(machine, node, name, arguments, named, writable=writable, front=front)
        server.add(made)
    except BaseException:
        permissions.settle(machine.graph)
        raise
    for bitmap in bitmaps:
        bitmap.busy = True
    machine.graph.exports[name] = BlockExport(
        name, "nbd", node, name, bitmaps, front=front, writable=writable
    )


@command("x-nbd-server-add-bitmap")
async def add_bitmap(machine: Machine, arguments: Arguments) -> None:
    """Give an export its bitmap, under another name if asked for."""
    server = running_server(machine)
    export = machine.graph.exports.get(arguments["name"])
    if export is None:
        raise CommandError(f"Export '{arguments['name']}' is not found")
    if export.bitmaps:
        raise CommandError("Export bitmap is already set")
    bitmap = find_bitmap(export.node, arguments["bitmap"], writable=export.writable)
    shown = arguments.get("bitmap-export-name", bitmap.name)
    if len(nbd.dirty_bitmap_name(shown).encode()) > STRING_MAX:
        raise CommandError(f"export name '{shown}' too long")
    # Who is connected keeps what it was told; the next client sees the bitmap.
    server.exports[export.name] = make_export(
        machine,
        export.node,
        export.name,
        {},
        [(shown, bitmap)],
        writable=export.writable,
        front=export.front,
    )
    bitmap.busy = True
    export.bitmaps.append(bitmap)


def find_bitmap(node: Node, name: str, *, writable: bool) -> DirtyBitmap:
    """Return a bitmap of the node or of one behind it, which can be exported."""
    for owner in node.chain():
        bitmap = owner.bitmap(name)
        if bitmap is not None:
            break
    else:
        raise CommandError(f"Bitmap '{name}' is not found")
    bitmap.check(allow_readonly=True)
    if not writable and bitmap.enabled and not owner.read_only:
        raise CommandError(f"Enabled bitmap '{name}' incompatible with readonly export")
    return bitmap
