"""The machine's devices: device_add and -del, their properties, system_reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport.emulator import permissions, plugging
from nbexport.emulator.commands.registry import command
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from nbexport.emulator.board import Device
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.machine import Machine


@command("device_add")
async def device_add(machine: Machine, arguments: Arguments) -> None:
    """Plug a device in."""
    await plugging.add(machine, arguments)


@command("device_del")
async def device_del(machine: Machine, arguments: Arguments) -> None:
    """Ask for a device to be taken out."""
    plugging.ask_to_leave(machine, arguments["id"])


@command("system_reset")
async def system_reset(machine: Machine, arguments: Arguments) -> None:  # noqa: ARG001 # it has none
    """Reset the machine."""
    plugging.reset(machine)


def get_property(device: Device, name: str) -> Any:
    """Return the value of a device's property, as far as it was given.

    Raises:
        CommandError: it has no such property, or the value is not known.
    """
    if name == "type":
        return device.model.name
    if name == "realized":
        return True
    if name not in device.model.properties:
        raise CommandError(f"Property '{device.model.name}.{name}' not found")
    if name == "drive":
        return _drive(device)
    value = device.properties.get(name)
    if value is None:
        raise CommandError(f"The value of property '{name}' is not known to this emulator")
    return f"/objects/{value.id}" if device.model.properties[name] == "iothread" else value


def _drive(device: Device) -> str:
    disk = device.disk
    if disk is None:
        return ""
    return disk.name or (disk.node.name if disk.node is not None else "")


async def set_property(machine: Machine, device: Device, name: str, value: Any) -> None:
    """Give a device another node as its disk; all else is settled once it is there.

    Raises:
        CommandError: it has no such property, it cannot be changed, or the node cannot be used.
    """
    model = device.model
    if name not in model.properties:
        raise CommandError(f"Property '{model.name}.{name}' not found")
    if name != "drive":
        raise CommandError(
            f"Attempt to set property '{name}' on device '{device.id or ''}' (type "
            f"'{model.name}') after it was realized"
        )
    disk = device.disk
    node = machine.graph.nodes.get(str(value))
    if node is None:
        raise CommandError(f"Cannot find device='' nor node-name='{value}'")
    if disk is None or disk.node is None:
        raise CommandError("Device 'drive' has no medium to be replaced")
    old = disk.node
    if old is node:
        return
    if disk.writable and node.read_only:
        raise CommandError("Block node is read-only")
    await machine.in_thread(
        lambda: plugging.attach(machine, disk, node, device, writable=disk.writable)
    )
    await machine.release_node(old)
    permissions.settle(machine.graph)
