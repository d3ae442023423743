"""Media of disks: eject."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.emulator.commands import backup
from nbexport.emulator.commands.registry import command
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import Backend
    from nbexport.emulator.machine import Machine


def _find(machine: Machine, arguments: Arguments) -> Backend:
    """Return the disk that is named, either by its name or by its device."""
    if ("device" in arguments) == ("id" in arguments):
        raise CommandError("Need exactly one of 'device' and 'id'")
    if "device" in arguments:
        disk = machine.graph.backends.get(arguments["device"])
        if disk is None:
            raise CommandError(
                f"Device '{arguments['device']}' not found", error_class="DeviceNotFound"
            )
        return disk
    return machine.board.disk_of(arguments["id"])


@command("eject")
async def eject(machine: Machine, arguments: Arguments) -> None:
    """Take out what is in a disk; exports that were made for the disk go with it."""
    disk = _find(machine, arguments)
    name = arguments.get("device", arguments.get("id"))
    if not disk.removable:
        raise CommandError(f"Device '{name}' is not removable")
    if disk.device is not None and not disk.tray_open:
        disk.tray_open = True
        machine.emit(
            "DEVICE_TRAY_MOVED", {"device": disk.name, "id": disk.device, "tray-open": True}
        )
    if disk.node is not None:
        backup.check_blocked(machine.graph, disk.node)
        await machine.empty_disk(disk)
