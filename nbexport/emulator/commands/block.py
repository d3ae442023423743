"""blockdev-add and -del, query-named-block-nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.emulator import blockers, describe, drivers, limits, permissions, threads
from nbexport.emulator.blockers import Operation
from nbexport.emulator.builder import Builder
from nbexport.emulator.commands.registry import command
from nbexport.emulator.reopen import Reopener
from nbexport.errors import CommandError, FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.machine import Machine


@command("blockdev-add")
async def add(machine: Machine, arguments: Arguments) -> None:
    """Open a node and the children that its options describe; all of them or none."""
    if "node-name" not in arguments:
        raise CommandError("'node-name' must be specified for the root node")
    objects = getattr(machine, "objects", None)
    builder = Builder(machine.release, machine.graph, objects=objects)
    try:
        node = await machine.in_thread(builder.build, dict(arguments))
    finally:
        for child in builder.probed:
            await machine.jobs.disturb(child, times=2)
    node.monitor_owned = True


@command("blockdev-del")
async def delete(machine: Machine, arguments: Arguments) -> None:
    """Close a node that nothing uses, and the children that were opened with it."""
    name = arguments["node-name"]
    node = machine.graph.nodes.get(name)
    if node is None:
        raise CommandError(f"Failed to find node with node-name='{name}'")
    uses = [use for job in machine.graph.jobs_of(node) for user, use in job.uses_of if user is node]
    held = any(use.role == "root" for use in uses)
    if held or machine.graph.exports_of(node) or machine.graph.backends_of(node):
        raise CommandError(f"Node {name} is in use")
    blockers.check(machine.graph, node, Operation.DELETE)
    parents = machine.graph.parents(node)
    if not node.monitor_owned:
        raise CommandError(f"Node {name} is not owned by the monitor")
    if parents:
        raise CommandError(f"Block device {name} is in use")
    removed = machine.graph.remove(node)
    for gone in removed:
        drivers.leave(gone)
    await machine.in_thread(machine.close_nodes, removed)
    permissions.settle(machine.graph)


@command("query-named-block-nodes")
async def query_nodes(machine: Machine, arguments: Arguments) -> list[dict[str, Any]]:
    """Describe every node, newest first; with flat, without the images behind."""
    flat = arguments.get("flat", False)
    nodes = list(reversed(machine.graph.nodes.values()))
    described: list[dict[str, Any]] = await machine.in_thread(
        lambda: [describe.node_info(node, flat=flat) for node in nodes]
    )
    return described


@command("query-block")
async def query_block(machine: Machine, arguments: Arguments) -> list[dict[str, Any]]:  # noqa: ARG001
    """List the disks of the machine, those that a device made for itself among them."""
    disks = [disk for disk in machine.graph.disks if disk.name or disk.device is not None]
    described: list[dict[str, Any]] = await machine.in_thread(
        lambda: [describe.disk_info(disk) for disk in disks]
    )
    return described


@command("blockdev-reopen")
async def reopen(machine: Machine, arguments: Arguments) -> None:
    """Give nodes other options, all of them or none."""
    await _reopen(machine, arguments["options"])


@command("x-blockdev-reopen")
async def reopen_one(machine: Machine, arguments: Arguments) -> None:
    """Give one node other options: the form before it was stable."""
    await _reopen(machine, [arguments])


async def _reopen(machine: Machine, options: Sequence[Arguments]) -> None:
    objects = getattr(machine, "objects", None)
    reopener = Reopener(machine.release, machine.graph, objects)
    removed = await machine.in_thread(reopener.reopen, [dict(each) for each in options])
    await machine.in_thread(machine.close_nodes, removed)
    permissions.settle(machine.graph)


@command("block_resize")
async def resize(machine: Machine, arguments: Arguments) -> None:
    """Give a disk another length."""
    graph, device, name = machine.graph, arguments.get("device"), arguments.get("node-name")
    backend = None if device is None else graph.backends.get(device)
    node = graph.look_up(device) if device is not None and backend is not None else None
    if node is None and name is not None:
        node = graph.nodes.get(name)
    if node is None:
        raise CommandError(f"Cannot find device='{device or ''}' nor node-name='{name or ''}'")
    size = arguments["size"]
    if size < 0:
        raise CommandError("Parameter 'size' expects a >0 size")
    if graph.jobs_of(node):
        raise CommandError(f"Device '{device or '(null)'}' is in use")
    try:
        permissions.begin(machine.release, graph, node, permissions.resizing_use())
        if node.read_only:
            raise CommandError("Image is read-only")
        await machine.jobs.disturb(node, times=2)
        await machine.in_thread(node.resize, size)
    except (FormatError, OSError) as error:
        raise CommandError(_reason(error)) from error
    finally:
        permissions.settle(graph)


def _reason(error: FormatError | OSError) -> str:
    if isinstance(error, block.ImageLockedError):
        return error.reason
    return error.message if isinstance(error, FormatError) else str(error)


@command("x-blockdev-set-iothread")
async def set_iothread(machine: Machine, arguments: Arguments) -> None:
    """Have a node, and all that are joined to it, run in another thread."""
    graph, name = machine.graph, arguments["node-name"]
    node = graph.nodes.get(name)
    if node is None:
        raise CommandError(f"Failed to find node with node-name='{name}'")
    used = graph.exports_of(node) or graph.backends_of(node) or graph.jobs_of(node)
    if used and not arguments.get("force", False):
        raise CommandError(
            f"Node {name} is associated with a BlockBackend and could be in use (use force=true "
            "to override this check)"
        )
    identifier = arguments["iothread"]
    thread = None
    if identifier is not None:
        thread = machine.objects.find(identifier)
        if thread is None or thread.type != "iothread":
            raise CommandError(f"Cannot find iothread {identifier}")
    threads.move(graph, node, thread)


@command("block_set_io_throttle")
async def set_limits(machine: Machine, arguments: Arguments) -> None:
    """Limit how fast a disk of the machine is used."""
    device, identifier = arguments.get("device"), arguments.get("id")
    if (device is None) == (identifier is None):
        raise CommandError("Need exactly one of 'device' and 'id'")
    backends = machine.graph.backends.values()
    found = [
        each
        for each in backends
        if (each.name == device if device is not None else each.device == identifier)
    ]
    if not found:
        wanted = device if device is not None else identifier
        raise CommandError(f"Device '{wanted}' not found", error_class="DeviceNotFound")
    if found[0].node is None:
        raise CommandError("Device has no medium")
    configuration = limits.from_command(arguments)
    objects = getattr(machine, "objects", None)
    group = arguments.get("group", device or identifier)
    if found[0].limits is not None:
        group = arguments.get("group")
    limits.limit(machine.graph, objects, found[0], configuration, group)
