"""The NBD server and the exports: nbd-server-*, block-export-*, query-block-exports."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from nbexport import block, nbd
from nbexport.emulator import permissions, threads
from nbexport.emulator.addresses import listen
from nbexport.emulator.commands import legacy
from nbexport.emulator.commands.registry import command
from nbexport.emulator.graph import BlockExport, DirtyBitmap, Node, is_well_formed
from nbexport.emulator.nbd_exports import find_bitmap, make_export, running_server, use
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.machine import Machine
    from nbexport.nbd.tls import Tls

STRING_LENGTH_MAX = 4096
"""The NBD protocol's limit for names and descriptions, in bytes."""


@command("nbd-server-start")
async def server_start(machine: Machine, arguments: Arguments) -> None:
    """Listen for NBD clients on one address."""
    if machine.nbd_server is not None:
        raise CommandError("NBD server already running")
    max_connections = arguments.get("max-connections", machine.release.max_connections)
    # The credentials are refused only once somebody could listen there.
    tls, refusal = None, None
    if "tls-creds" in arguments:
        try:
            tls = await machine.in_thread(_tls, machine, arguments)
        except CommandError as error:
            refusal = error
    server = nbd.NbdServer(
        max_connections=max_connections,
        handshake_seconds=arguments.get("handshake-max-seconds", machine.release.handshake_seconds),
        profile=machine.release.nbd_profile,
        tls=tls,
    )
    try:
        await listen(
            server,
            arguments["addr"],
            passes_files=machine.is_system_emulator,
            takes_numbers=machine.starting,
        )
        if refusal is not None:
            raise refusal
    except BaseException:
        await server.close()
        raise
    machine.nbd_server = server
    machine.nbd_max_connections = max_connections


def _tls(machine: Machine, arguments: Arguments) -> Tls:
    """Return how the server speaks TLS; whom to let in is asked when somebody comes."""
    credentials = machine.objects.server_credentials(arguments["tls-creds"])
    if machine.release.tls_needs_inet and arguments["addr"]["type"] != "inet":
        raise CommandError("TLS is only supported with IPv4/IPv6")
    rules = arguments.get("tls-authz")
    return credentials.for_server(None if rules is None else machine.objects.authorizer(rules))


@command("nbd-server-stop")
async def server_stop(machine: Machine, arguments: Arguments) -> None:  # noqa: ARG001 - it has none
    """Remove every NBD export, cut every client, close the listening socket."""
    if machine.release.stop_needs_server:
        running_server(machine)
    await machine.stop_nbd_server()


@command("nbd-server-add")
async def server_add(machine: Machine, arguments: Arguments) -> None:
    """Export a node under its name: the deprecated form, one bitmap at the most."""
    if not machine.release.exports_have_ids:
        legacy.add(machine, arguments)
        return
    device = arguments["device"]
    node = machine.graph.find(device)
    name = arguments.get("name", device)
    bitmap = arguments.get("bitmap")
    await _add_export(
        machine,
        {
            "type": "nbd",
            "id": name,
            "node-name": node.name,
            "name": name,
            "writable": arguments.get("writable", False) and not node.read_only,
            **({"description": arguments["description"]} if "description" in arguments else {}),
            **({"bitmaps": [bitmap]} if bitmap is not None else {}),
        },
    )
    machine.graph.exports[name].disk = machine.graph.backends.get(device)


@command("nbd-server-remove")
async def server_remove(machine: Machine, arguments: Arguments) -> None:
    """Remove an NBD export by its id: the deprecated form of block-export-del."""
    name = arguments["name"]
    if not machine.release.exports_have_ids:
        running_server(machine)
    export = machine.graph.exports.get(name)
    if export is not None and export.type != "nbd":
        raise CommandError(f"Block export '{name}' is not an NBD export")
    await _delete_export(machine, name, arguments.get("mode", "safe"))


@command("block-export-add")
async def export_add(machine: Machine, arguments: Arguments) -> None:
    """Export a node."""
    await _add_export(machine, arguments)


@command("block-export-del")
async def export_del(machine: Machine, arguments: Arguments) -> None:
    """Remove an export; with mode hard, whoever uses it."""
    await _delete_export(machine, arguments["id"], arguments.get("mode", "safe"))


@command("query-block-exports")
async def query_exports(machine: Machine, arguments: Arguments) -> list[dict[str, Any]]:  # noqa: ARG001
    """List the exports, newest first."""
    return [
        {
            "id": export.id,
            "type": export.type,
            "node-name": export.node.name,
            "shutting-down": export.shutting_down,
        }
        for export in reversed(machine.graph.exports.values())
    ]


async def _add_export(machine: Machine, arguments: Arguments) -> None:
    """Check in QEMU's order, then create: nothing is left behind by a failure."""
    identifier: str = arguments["id"]
    if isinstance(arguments.get("iothread"), list) and arguments.get("fixed-iothread", False):
        raise CommandError("Cannot use fixed-iothread for a multi-threaded export")
    if not is_well_formed(identifier):
        raise CommandError("Invalid block export id")
    if identifier in machine.graph.exports:
        raise CommandError(f"Block export id '{identifier}' is already in use")
    if arguments["type"] != "nbd":
        raise CommandError("No driver found for the requested export type")
    node = machine.graph.nodes.get(arguments["node-name"])
    if node is None:
        raise CommandError(f"Cannot find device='' nor node-name='{arguments['node-name']}'")
    writable = arguments.get("writable", False)
    if writable and node.read_only:
        raise CommandError("Cannot export read-only node as writable")
    fixed = arguments.get("fixed-iothread", False)
    for name in _threads(arguments):
        thread = machine.objects.thread(name)
        try:
            threads.move(machine.graph, node, thread)
        except CommandError:
            if fixed:
                raise
    attached = False
    try:
        use(machine, node, permissions.export_use(writable=writable, fixed_size=False))
        attached = True
        front = block.Front(node.block)
        bitmaps = _create_export(machine, node, front, arguments, writable=writable)
    except BaseException:
        permissions.settle(machine.graph)
        if attached:
            await machine.jobs.disturb(node, times=2)
        raise
    for bitmap in bitmaps:
        bitmap.busy = True
    name = arguments.get("name", node.name)
    machine.graph.exports[identifier] = BlockExport(
        identifier, "nbd", node, name, bitmaps, front=front, writable=writable, fixed_thread=fixed
    )


def _create_export(
    machine: Machine, node: Node, front: block.Front, arguments: Arguments, *, writable: bool
) -> list[DirtyBitmap]:
    """Give the NBD server an export, and return its bitmaps."""
    server = running_server(machine)
    name: str = arguments.get("name", node.name)
    description: str | None = arguments.get("description")
    if len(name.encode()) > STRING_LENGTH_MAX:
        raise CommandError(f"export name '{name}' too long")
    if description is not None and len(description.encode()) > STRING_LENGTH_MAX:
        raise CommandError(f"description '{description}' too long")
    if name in server.exports:
        raise CommandError(f"NBD server already has export named '{name}'")
    if isinstance(arguments.get("iothread"), list):
        raise CommandError("NBD export does not support multi-threading")
    use(machine, node, permissions.export_use(writable=writable))
    bitmaps = [
        _find_bitmap(machine, node, given, writable=writable)
        for given in arguments.get("bitmaps", ())
    ]
    named = [(bitmap.name, bitmap) for bitmap in bitmaps]
    server.add(make_export(machine, node, name, arguments, named, writable=writable, front=front))
    return bitmaps


def _threads(arguments: Arguments) -> list[str]:
    """Return the I/O threads that an export is to run in, none if nothing is said."""
    if "iothread" not in arguments:
        return []
    given = arguments["iothread"]
    if given == []:
        raise CommandError("The set of I/O threads must not be empty")
    return given if isinstance(given, list) else [given]


def _find_bitmap(
    machine: Machine, node: Node, given: str | Mapping[str, str], *, writable: bool
) -> DirtyBitmap:
    """Return one bitmap of the list, checked as QEMU does for the form it was given in."""
    if not isinstance(given, str):
        owner = machine.graph.nodes.get(given["node"])
        if owner is None:
            raise CommandError(f"Node '{given['node']}' not found")
        bitmap = owner.bitmap(given["name"])
        if bitmap is None:
            raise CommandError(f"Dirty bitmap '{given['name']}' not found")
        bitmap.check(allow_readonly=True)
        return bitmap
    return find_bitmap(machine, node, given, writable=writable)


async def _delete_export(machine: Machine, identifier: str, mode: str) -> None:
    export = machine.graph.exports.get(identifier)
    if export is None:
        raise CommandError(f"Export '{identifier}' is not found")
    if export.shutting_down:
        raise CommandError(f"Export '{identifier}' is already shutting down")
    server = running_server(machine)
    busy = await server.settle(export.name) > 0
    if mode == "safe" and busy:
        raise CommandError(f"export '{identifier}' still in use")
    export.shutting_down = True
    machine.graph.lift_limits(export.node)
    if busy or not machine.release.deletes_before_reply:
        machine.later(_finish(machine, server, export), at_once=not busy)
    else:
        await _finish(machine, server, export)


async def _finish(machine: Machine, server: nbd.NbdServer, export: BlockExport) -> None:
    """Cut the export's clients, then forget it, which tells the monitors."""
    await asyncio.shield(server.remove(export.name, hard=True))
    # nbd-server-stop may have come between and forgotten it already.
    if machine.graph.exports.get(export.id) is export:
        await machine.forget_export(export)
