"""blockdev-snapshot and -sync: an overlay on a disk; and what name an image has for its backing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.block.locks import Permission
from nbexport.emulator import blockers, chains, images, jobnodes, permissions
from nbexport.emulator.blockers import Operation
from nbexport.emulator.commands.bitmap import Change
from nbexport.emulator.commands.registry import command
from nbexport.errors import CommandError, FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import Node
    from nbexport.emulator.machine import Machine

KINDS = frozenset({"blockdev-snapshot", "blockdev-snapshot-sync"})


def prepare(
    machine: Machine, kind: str, given: Arguments, after: list[Callable[[], None]]
) -> Change:
    """Put an overlay on a node, as an action of a transaction.

    Nothing may be under way at any node.

    Args:
        machine: whose node it is.
        kind: the action's name.
        given: its arguments.
        after: gets what is to be done after the transaction, whatever becomes of it.

    Raises:
        CommandError: it cannot be; nothing is left of the attempt.
    """
    node = _node(machine, kind, given)
    machine.jobs.quiesce(node)
    after.append(lambda: machine.jobs.release(node))
    blockers.check(machine.graph, node, Operation.SNAPSHOT)
    if not node.read_only:
        try:
            node.block.flush()
        except (OSError, FormatError) as error:
            raise CommandError("An IO error has occurred") from error
    overlay = _overlay(machine, kind, given, node)
    try:
        _check(machine, overlay, node)
        _append(machine, overlay, node)
    except BaseException:
        jobnodes.release(machine, [overlay])
        raise
    after.append(lambda: jobnodes.release(machine, [overlay]))

    def undo() -> None:
        machine.graph.replace(overlay, node, but=overlay)
        chains.set_backing(overlay, None)

    def commit() -> None:
        if not node.read_only:
            try:
                jobnodes.set_read_only(machine, node, read_only=True)
            except CommandError:
                return

    return Change(undo, commit)


def _node(machine: Machine, kind: str, given: Arguments) -> Node:
    if kind == "blockdev-snapshot":
        return machine.graph.find(given["node"])
    device, name = given.get("device"), given.get("node-name")
    if device is not None and device in machine.graph.backends:
        return machine.graph.find(device)
    node = None if name is None else machine.graph.nodes.get(name)
    if node is None:
        raise CommandError(f"Cannot find device='{device or ''}' nor node-name='{name or ''}'")
    return node


def _overlay(machine: Machine, kind: str, given: Arguments, node: Node) -> Node:
    """Return the node that becomes the overlay; open it if it is a file."""
    graph = machine.graph
    if kind == "blockdev-snapshot":
        return graph.find(given["overlay"])
    name = given.get("snapshot-node-name")
    if "node-name" in given and name is None:
        raise CommandError("New overlay node-name missing")
    if name is not None and (name in graph.nodes or name in graph.backends):
        raise CommandError("New overlay node-name already in use")
    driver = given.get("format", "qcow2")
    if given.get("mode", "absolute-paths") != "existing":
        images.create(machine, given["snapshot-file"], driver, node.block.size, node)
    options: dict[str, Any] = {"backing": None} if driver == "qcow2" else {}
    if name is not None:
        options["node-name"] = name
    if "cache" in node.options:
        options["cache"] = dict(node.options["cache"])
    return images.open_image(
        machine, given["snapshot-file"], driver, options, writable=not node.read_only
    )


def _check(machine: Machine, overlay: Node, node: Node) -> None:
    found = permissions.uses(machine.graph, overlay)
    if any(use.required & Permission.CONSISTENT_READ for use in found):
        raise CommandError("The overlay is already in use")
    if overlay.is_filter:
        raise CommandError("Filters cannot be used as overlays")
    if overlay.backing is not None:
        raise CommandError("The overlay already has a backing image")
    if not isinstance(overlay.block, block.Qcow2Node):
        raise CommandError("The overlay does not support backing images")
    if node.reaches(overlay):
        raise CommandError(
            f"Making '{node.name}' a backing child of '{overlay.name}' would create a cycle"
        )


def _append(machine: Machine, overlay: Node, node: Node) -> None:
    """Put the overlay between a node and its users."""
    chains.set_backing(overlay, node)
    try:
        machine.graph.replace(node, overlay)
    except BaseException:
        chains.set_backing(overlay, None)
        raise
    permissions.settle(machine.graph)


@command("change-backing-file")
async def change_backing_file(machine: Machine, arguments: Arguments) -> None:
    """Have an image name another backing file."""
    graph = machine.graph
    device = blockers.root(graph, arguments["device"])
    name = arguments["image-node-name"]
    image = graph.nodes.get(name)
    if image is None:
        raise CommandError(f"Cannot find device='' nor node-name='{name}'")
    if chains.overlay_of(image, None) is image:
        raise CommandError("not allowing backing file change on an image without a backing file")
    blockers.check(graph, device, Operation.CHANGE)
    if image not in list(device.chain()):
        raise CommandError(f"'{arguments['device']}' and image file are not in the same chain")
    backing = arguments["backing-file"]
    async with machine.jobs.held():
        try:
            chains.name_backing(machine, image, backing or None, image.block.driver)
        except (OSError, FormatError) as error:
            text = error.strerror if isinstance(error, OSError) else "Invalid argument"
            raise CommandError(f"Could not change backing file to '{backing}': {text}") from error
