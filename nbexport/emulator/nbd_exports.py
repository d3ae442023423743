"""What the commands hand to the NBD server."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from nbexport import block, nbd
from nbexport.emulator import permissions
from nbexport.errors import CommandError
from nbexport.units import SECTOR_SIZE, align_down

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbexport.emulator.graph import DirtyBitmap, Graph, Node
    from nbexport.emulator.machine import Machine
    from nbexport.emulator.release import Release


class Exporting(Protocol):
    """What exports need of the process that has them; a `Machine` has it."""

    @property
    def release(self) -> Release:
        """What it behaves as."""

    @property
    def graph(self) -> Graph:
        """Its nodes."""

    @property
    def nbd_max_connections(self) -> int:
        """Clients of its NBD server at a time; 0 is no limit."""


def running_server(machine: Machine) -> nbd.NbdServer:
    """Return the NBD server.

    Raises:
        CommandError: it does not run.
    """
    if machine.nbd_server is None:
        raise CommandError("NBD server not running")
    return machine.nbd_server


def make_export(
    machine: Exporting,
    node: Node,
    name: str,
    arguments: Mapping[str, Any],
    bitmaps: Sequence[tuple[str, DirtyBitmap]],
    *,
    writable: bool = False,
    front: block.Front | None = None,
) -> nbd.Export:
    """Return an export of a node.

    Args:
        machine: decides what depends on the release.
        node: what is exported.
        front: what stands before it, if it may become another one.
        name: its name on the NBD server.
        arguments: of the command.
        bitmaps: the names that clients see, and the bitmaps.
        writable: whether clients may write.

    Raises:
        CommandError: this emulator cannot write the node.
    """
    release = machine.release
    if release.multi_conn_by_limit:
        shared = machine.nbd_max_connections != 1
    else:
        shared = release.shares_readonly and not writable
    if writable and not node.block.writable:
        raise CommandError(f"Writing to node '{node.name}' is not supported by this emulator")
    return nbd.from_node(
        node.block if front is None else front,
        name,
        size=align_down(node.block.size, SECTOR_SIZE),
        description=arguments.get("description"),
        allocation_depth=arguments.get("allocation-depth", False),
        # The bits, not extents of them: the server keeps what it has made of bits.
        bitmaps=[(shown, partial(getattr, bitmap, "bits")) for shown, bitmap in bitmaps],
        first_bitmap_id=release.first_bitmap_id,
        multi_conn=shared,
        writable=writable,
        unmap=node.options.get("discard") == "unmap",
    )


def use(machine: Exporting, node: Node, new: permissions.Use) -> None:
    """Let an export use a node.

    Raises:
        CommandError: another user, here or in another process, does not allow it.
    """
    try:
        permissions.begin(machine.release, machine.graph, node, new)
    except block.ImageLockedError as error:
        raise CommandError(error.reason) from error


def find_bitmap(machine: Exporting, node: Node, name: str, *, writable: bool) -> DirtyBitmap:
    """Return the bitmap that an export offers under a name: of the node, or of one below it.

    Raises:
        CommandError: there is none, or it cannot be offered.
    """
    for owner in node.chain():
        bitmap = owner.bitmap(name)
        if bitmap is not None:
            break
    else:
        raise CommandError(f"Bitmap '{name}' is not found")
    if not machine.release.enabled_before_state:
        bitmap.check(allow_readonly=True)
    if not writable and bitmap.enabled and not owner.read_only:
        raise CommandError(f"Enabled bitmap '{name}' incompatible with readonly export")
    if machine.release.enabled_before_state:
        bitmap.check(allow_readonly=True)
    return bitmap
