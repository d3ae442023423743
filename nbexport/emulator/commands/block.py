"""blockdev-add and -del, query-named-block-nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport.emulator import blockers, describe, drivers, permissions
from nbexport.emulator.blockers import Operation
from nbexport.emulator.builder import Builder
from nbexport.emulator.commands.registry import command
from nbexport.emulator.reopen import Reopener
from nbexport.errors import CommandError

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
        if gone.is_filter:
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
    """List the disks of the machine: what ``-drive`` made, whatever nodes there are."""
    backends = list(machine.graph.backends.values())
    described: list[dict[str, Any]] = await machine.in_thread(
        lambda: [
            {
                "device": backend.name,
                "type": "unknown",
                "removable": backend.device is None,
                "locked": False,
                **({"qdev": backend.device, "io-status": "ok"}
                   if backend.device is not None else {}),
                **({"inserted": describe.node_info(backend.node, flat=False, for_disk=True)}
                   if backend.node is not None else {}),
            }
            for backend in backends
        ]
    )  # fmt: skip
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
    reopener = Reopener(machine.release, machine.graph)
    removed = await machine.in_thread(reopener.reopen, [dict(each) for each in options])
    await machine.in_thread(machine.close_nodes, removed)
    permissions.settle(machine.graph)
