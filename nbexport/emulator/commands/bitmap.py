"""Commands on dirty bitmaps; as actions of a transaction they can be undone.

Each action is prepared: what fails, fails then and changes nothing. What was prepared is in effect
at once and can be undone; only a removal waits for the commit, as in QEMU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport import block
from nbexport.bits import Bitmap
from nbexport.block.tracking import default_granularity
from nbexport.emulator.commands.registry import command
from nbexport.emulator.graph import DirtyBitmap
from nbexport.errors import CommandError, FormatError
from nbexport.units import is_power_of_two

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    node = machine.graph.look_up(node_name)
    if node is None:
        raise CommandError(f"Node '{node_name}' not found")
    bitmap = node.bitmap(name)
    if bitmap is None:
        raise CommandError(f"Dirty bitmap '{name}' not found")
    return node, bitmap


@dataclass
class Change:
    """A prepared action.

    Attributes:
        commit: makes it final.
        undo: takes it back.
    """

    undo: Callable[[], None]
    commit: Callable[[], None] = lambda: None


Action = Callable[["Machine", "Arguments"], Change]

ACTIONS: dict[str, Action] = {}
"""The actions, by the name that the newest schema gives them."""


def _action(name: str, *more: str) -> Callable[[Action], Action]:
    """Register an action, and the command that does the same, under all its names."""

    def register(prepare: Action) -> Action:
        for each in (name, *more):
            ACTIONS[each] = prepare

            @command(each)
            async def run(machine: Machine, arguments: Arguments) -> None:
                prepare(machine, arguments).commit()

        return prepare

    return register


@_action("block-dirty-bitmap-add")
def add(machine: Machine, arguments: Arguments) -> Change:
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
    disabled = arguments.get("disabled", arguments.get("x-disabled", False))
    made = DirtyBitmap(
        name,
        Bitmap(node.block.size, granularity),
        enabled=not disabled,
        persistent=persistent,
        tracking=None if node.read_only else node.block.tracking,
    )
    node.bitmaps.append(made)
    node.keep_bitmaps()

    def undo() -> None:
        made.leave()
        node.bitmaps.remove(made)
        node.keep_bitmaps()

    return Change(undo)


def _check_persistent(node: Node, name: str, granularity: int) -> None:
    """Raise CommandError unless the node's image could hold the bitmap."""
    if node.block.driver != "qcow2":
        raise CommandError(
            f"Can't store persistent bitmaps to {node.name}: Operation not supported"
        )
    if node.bitmap(name) is not None:
        raise CommandError(f"Bitmap already exists: {name}")
    reason = None
    if node.store is not None:
        reason = node.store.why_not(name, granularity)
    elif isinstance(node.block, block.Qcow2Node) and node.block.header.version < 3:
        reason = "Cannot store dirty bitmaps in qcow2 v2 files"
    elif granularity > MAX_PERSISTENT_GRANULARITY:
        reason = f"Granularity exceeds maximum ({MAX_PERSISTENT_GRANULARITY} bytes)"
    elif len(name.encode()) > NAME_LENGTH_MAX:
        reason = f"Name length exceeds maximum ({NAME_LENGTH_MAX} characters)"
    elif not node.read_only:
        # (On a read-only node QEMU takes the bitmap and loses it in the end: nothing is written.)
        reason = "this emulator writes images on files only"
    if reason is not None:
        raise CommandError(f"Can't make bitmap '{name}' persistent in '{node.name}': {reason}")


@_action("block-dirty-bitmap-remove")
def remove(machine: Machine, arguments: Arguments) -> Change:
    """Delete a bitmap that nothing uses."""
    node, bitmap = look_up(machine, arguments["node"], arguments["name"])
    bitmap.check(allow_inconsistent=True)
    _check_stored(node, bitmap)
    if bitmap.persistent and node.store is not None:
        # As in QEMU the image loses it at once; if it stays after all, closing stores it again.
        try:
            node.store.remove(bitmap.name)
        except (FormatError, OSError) as error:
            raise CommandError(
                f"Failed to remove persistent bitmap '{bitmap.name}': {error}"
            ) from error
    bitmap.busy = bitmap.going = True
    node.keep_bitmaps()

    def undo() -> None:
        bitmap.busy = bitmap.going = False
        bitmap.set_enabled(bitmap.enabled)
        node.keep_bitmaps()

    def commit() -> None:
        bitmap.leave()
        node.bitmaps.remove(bitmap)
        node.keep_bitmaps()

    return Change(undo, commit)


@_action("block-dirty-bitmap-clear")
def clear(machine: Machine, arguments: Arguments) -> Change:
    """Make all of a bitmap clean."""
    node, bitmap = look_up(machine, arguments["node"], arguments["name"])
    bitmap.check()
    _check_stored(node, bitmap)
    return _change_bits(bitmap, lambda bits: Bitmap(bits.size, bits.granularity))


@_action("block-dirty-bitmap-enable", "x-block-dirty-bitmap-enable")
def enable(machine: Machine, arguments: Arguments) -> Change:
    """Let a bitmap record writes."""
    return _set_enabled(machine, arguments, enabled=True)


@_action("block-dirty-bitmap-disable", "x-block-dirty-bitmap-disable")
def disable(machine: Machine, arguments: Arguments) -> Change:
    """Let a bitmap stay as it is."""
    return _set_enabled(machine, arguments, enabled=False)


def _set_enabled(machine: Machine, arguments: Arguments, *, enabled: bool) -> Change:
    node, bitmap = look_up(machine, arguments["node"], arguments["name"])
    bitmap.check(allow_readonly=True)
    _check_stored(node, bitmap)
    before = bitmap.enabled
    bitmap.set_enabled(enabled)

    def undo() -> None:
        bitmap.set_enabled(before)

    return Change(undo)


@_action("block-dirty-bitmap-merge", "x-block-dirty-bitmap-merge")
def merge(machine: Machine, arguments: Arguments) -> Change:
    """Add what other bitmaps mark to a bitmap; all of them or none.

    A list of no bitmaps changes nothing. (QEMU 7.0 and later end with a segmentation fault.)
    """
    # 3.0 and 3.1 merge one bitmap, and name both otherwise.
    several = "bitmaps" in arguments
    into = arguments["target" if several else "dst_name"]
    node, target = look_up(machine, arguments["node"], into)
    given = arguments["bitmaps"] if several else [arguments["src_name"]]
    sources = []
    for each in given:
        source = _source(machine, node, each)
        if machine.release.merges_one_by_one:
            target.check()
        source.check(allow_readonly=True)
        _check_sizes(machine, target, source)
        sources.append(source)
    target.check()
    _check_stored(node, target)

    def merged(bits: Bitmap) -> Bitmap:
        result = bits.copy()
        for source in sources:
            result.merge(source.bits)
        return result

    return _change_bits(target, merged)


def _source(machine: Machine, node: Node, given: str | Mapping[str, str]) -> DirtyBitmap:
    if not isinstance(given, str):
        return look_up(machine, given["node"], given["name"])[1]
    bitmap = node.bitmap(given)
    if bitmap is None:
        raise CommandError(f"Dirty bitmap '{given}' not found")
    return bitmap


def _check_sizes(machine: Machine, target: DirtyBitmap, source: DirtyBitmap) -> None:
    if source.bits.size == target.bits.size:
        return
    if not machine.release.merges_one_by_one:
        raise CommandError("Bitmaps are incompatible and can't be merged")
    raise CommandError(
        f"Bitmaps are of different sizes (destination size is {target.bits.size}, source size is "
        f"{source.bits.size}) and can't be merged"
    )


def _change_bits(bitmap: DirtyBitmap, make: Callable[[Bitmap], Bitmap]) -> Change:
    """Change a bitmap's bits, so that they can be brought back."""
    before = bitmap.bits
    bitmap.change(make)
    return Change(lambda: bitmap.change(lambda _bits: before))


def _check_stored(node: Node, bitmap: DirtyBitmap) -> None:
    """Raise CommandError if the change would have to be stored where nothing can be."""
    if bitmap.persistent and not node.read_only and node.store is None:
        raise CommandError(
            f"Bitmap '{bitmap.name}' is stored in an image that is not on a file, and this "
            "emulator does not write it"
        )


@command("x-debug-block-dirty-bitmap-sha256")
async def digest(machine: Machine, arguments: Arguments) -> dict[str, str]:
    """Tell a digest of a bitmap's bits, in 64-bit words, at least one."""
    _, bitmap = look_up(machine, arguments["node"], arguments["name"])
    packed = bitmap.bits.to_bytes()
    words = max(1, -(-len(packed) // 8))
    return {"sha256": hashlib.sha256(packed.ljust(8 * words, b"\0")).hexdigest()}
