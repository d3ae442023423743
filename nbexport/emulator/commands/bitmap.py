"""block-dirty-bitmap-add and -remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.bits import Bitmap
from nbexport.block.tracking import default_granularity
from nbexport.emulator.commands.registry import command
from nbexport.emulator.graph import DirtyBitmap
from nbexport.errors import CommandError
from nbexport.units import is_power_of_two

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import Node
    from nbexport.emulator.machine import Machine

NAME_LENGTH_MAX = 1023
MIN_GRANULARITY = 512
MAX_PERSISTENT_GRANULARITY = 1 << 31


def look_up(machine: Machine, node_name: str, name: str) -> tuple[Node, DirtyBitmap]:
    """Return a bitmap by node and name.

    Raises:
        CommandError: the node or the bitmap does not exist.
    """
    node = machine.graph.nodes.get(node_name)
    if node is None:
        raise CommandError(f"Node '{node_name}' not found")
    bitmap = node.bitmap(name)
    if bitmap is None:
        raise CommandError(f"Dirty bitmap '{name}' not found")
    return node, bitmap


@command("block-dirty-bitmap-add")
async def add(machine: Machine, arguments: Arguments) -> None:
    """Create an empty bitmap on a node."""
    name: str = arguments["name"]
    if not name:
        raise CommandError("Bitmap name cannot be empty")
    node = machine.graph.find(arguments["node"])
    granularity = arguments.get("granularity", default_granularity(node.block.cluster_size))
    if granularity < MIN_GRANULARITY or not is_power_of_two(granularity):
        raise CommandError("Granularity must be power of 2 and at least 512")
    persistent = arguments.get("persistent", False)
    if persistent:
        _check_persistent(node, name, granularity)
    if node.bitmap(name) is not None:
        raise CommandError(f"Bitmap already exists: {name}")
    if len(name.encode()) > NAME_LENGTH_MAX:
        raise CommandError(f"Bitmap name too long: {name}")
    node.bitmaps.append(
        DirtyBitmap(
            name,
            Bitmap(node.block.size, granularity),
            enabled=not arguments.get("disabled", False),
            persistent=persistent,
        )
    )


def _check_persistent(node: Node, name: str, granularity: int) -> None:
    """Raise CommandError unless the node's image could hold the bitmap."""
    if node.block.driver != "qcow2":
        raise CommandError(
            f"Can't store persistent bitmaps to {node.name}: Operation not supported"
        )
    if node.bitmap(name) is not None:
        raise CommandError(f"Bitmap already exists: {name}")
    reason = None
    if granularity > MAX_PERSISTENT_GRANULARITY:
        reason = f"Granularity exceeds maximum ({MAX_PERSISTENT_GRANULARITY} bytes)"
    elif len(name.encode()) > NAME_LENGTH_MAX:
        reason = f"Name length exceeds maximum ({NAME_LENGTH_MAX} characters)"
    elif not node.read_only:
        # QEMU would write it when it closes the image. (On a read-only node QEMU takes the bitmap
        # and loses it in the end, so there nothing needs writing.)
        reason = "this emulator writes no images"
    if reason is not None:
        raise CommandError(f"Can't make bitmap '{name}' persistent in '{node.name}': {reason}")


@command("block-dirty-bitmap-remove")
async def remove(machine: Machine, arguments: Arguments) -> None:
    """Delete a bitmap that nothing uses."""
    node, bitmap = look_up(machine, arguments["node"], arguments["name"])
    bitmap.check(allow_inconsistent=True)
    if bitmap.persistent and not node.read_only:
        raise CommandError(
            f"Bitmap '{bitmap.name}' is stored in the image, and this emulator writes no images"
        )
    node.bitmaps.remove(bitmap)
