"""Devices that are plugged into the machine and taken out again, and what that does to their disks.

No guest acknowledges anything. What a guest would have to let go of, which is all on a PCI bus,
stays until the machine is reset.

Source: what QEMU 7.2 does with ``-S``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.emulator import permissions, properties, threads
from nbexport.emulator.board import Bus, Device
from nbexport.emulator.graph import Backend, is_well_formed
from nbexport.emulator.models import ABSTRACT, ALIASES, BUS_OF_OTHERS, MODELS, WITHOUT_BUS
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbexport.emulator.graph import Node
    from nbexport.emulator.machine import Machine


async def add(
    machine: Machine, arguments: Mapping[str, Any], *, own: bool = False, typed: bool = False
) -> Device:
    """Plug a device in.

    Args:
        machine: where to.
        arguments: driver, bus, id and properties; nobody has checked them.
        own: whether the board itself makes the device.
        typed: whether values must have the types of properties; texts are read otherwise.

    Raises:
        CommandError: it cannot be; nothing has changed.
    """
    given = dict(arguments)
    driver, identifier, wanted = (given.pop(name, None) for name in ("driver", "id", "bus"))
    if driver is None:
        raise CommandError("Parameter 'driver' is missing")
    if identifier is not None and not is_well_formed(str(identifier)):
        raise CommandError("Parameter 'id' expects an identifier")
    name = ALIASES.get(str(driver), str(driver))
    kind = _kind_of_bus(name, str(driver))
    board = machine.board
    if wanted is not None:
        bus = board.find_bus(str(wanted))
        if not bus.takes(kind):
            raise CommandError(f"Device '{name}' can't go on {bus.kind} bus")
    else:
        bus = board.bus_for(kind, name)
    if name not in MODELS:
        raise CommandError(f"'{driver}' is not a valid device model name")
    if board.ready and not bus.hotplug:
        raise CommandError(f"Bus '{bus.name}' does not support hotplugging")
    model = MODELS[name]
    path = board.path_for(None if identifier is None else str(identifier), own=own)
    device = Device(model, path, None if identifier is None else str(identifier), bus)
    if "drive" in given:
        # The other properties tell what is wrong with them first: they are the device's own.
        given["drive"] = given.pop("drive")
    try:
        for each, value in given.items():
            if each == "drive" and model.takes:
                device.disk = _find_disk(machine, device, str(value))
                continue
            device.properties[each] = properties.read(
                model, each, value, machine.objects, typed=typed
            )
        await _plug(machine, device)
    except BaseException:
        await _drop_disk(machine, device, failed=True)
        raise
    return device


def _kind_of_bus(name: str, driver: str) -> str:
    if name in MODELS:
        return MODELS[name].bus
    if name in ABSTRACT:
        raise CommandError("Parameter 'driver' expects a non-abstract device type")
    if name in WITHOUT_BUS:
        raise CommandError(f"Device '{name}' can not be hotplugged on this machine")
    if name not in BUS_OF_OTHERS:
        raise CommandError(f"'{driver}' is not a valid device model name")
    return BUS_OF_OTHERS[name]


def _find_disk(machine: Machine, device: Device, name: str) -> Backend:
    """Return the disk that a device is given: a drive's, or a new one for a node."""
    graph, model = machine.graph, device.model
    backend = graph.backends.get(name)
    if backend is None:
        node = graph.nodes.get(name)
        if node is None:
            owner = "virtio-blk-device" if model.is_virtio else model.name
            raise CommandError(f"Property '{owner}.drive' can't find value '{name}'")
        backend = Backend("", node)
        # Until the device is there nobody reads or writes.
        graph.disks.append(backend)
    elif backend.device is not None:
        if backend.automatic is not None:
            raise CommandError(
                f"Drive '{name}' is already in use because it has been automatically connected to "
                "another device (did you need 'if=none' in the drive options?)"
            )
        raise CommandError(f"Drive '{name}' is already in use by another device")
    backend.device = device.told
    return backend


async def _plug(machine: Machine, device: Device) -> None:
    """Let a device be there, which uses its disk from now on."""
    machine.board.plug(device)
    try:
        if device.model.takes:
            await machine.in_thread(_use_disk, machine, device)
    except BaseException:
        machine.board.unplug(device)
        raise


def _use_disk(machine: Machine, device: Device) -> None:
    given, takes = device.properties, device.model.takes
    if device.disk is None:
        if takes != "cdrom":
            raise CommandError("drive property not set")
        device.disk = Backend("", None, device=device.told)
        machine.graph.disks.append(device.disk)
    disk = device.disk
    if takes == "disk" and disk.node is None:
        raise CommandError("Device needs media, but drive is empty")
    logical, physical = (given.get(f"{word}_block_size", 0) for word in ("logical", "physical"))
    if (logical or 512) > (physical or logical or 512):
        raise CommandError("logical_block_size > physical_block_size not supported")
    if disk.node is not None:
        writable = takes == "disk" and not disk.node.read_only
        if device.model.name == "ide-hd" and not writable:
            raise CommandError("Block node is read-only")
        thread = _thread(device.bus, machine)
        attach(machine, disk, disk.node, device, writable=writable)
        if thread is not None:
            threads.move(machine.graph, disk.node, thread, mover=disk)
    disk.removable = takes == "cdrom" or given.get("removable", False)
    if given.get("write-cache", "auto") != "auto":
        disk.writeback = given["write-cache"] == "on"
    actions = (given.get("werror", "auto"), given.get("rerror", "auto"))
    write, read = (
        old if new == "auto" else new for old, new in zip(disk.on_error, actions, strict=True)
    )
    disk.on_error = (write, read)


def attach(machine: Machine, disk: Backend, node: Node, device: Device, *, writable: bool) -> None:
    """Let a device use a node.

    Raises:
        CommandError: another user of the node does not go with this one.
    """
    kept = (disk.writable, disk.shares_writes, disk.shares_size, disk.node)
    # It is no user while it is compared with the others.
    disk.node = None
    new = Backend(
        disk.name,
        node,
        writable=writable,
        device=disk.device,
        shares_writes=device.properties.get("share-rw", False),
        shares_size=device.model.takes == "disk",
    )
    try:
        permissions.begin(machine.release, machine.graph, node, permissions.backend_use(new))
    except BaseException as error:
        disk.writable, disk.shares_writes, disk.shares_size, disk.node = kept
        permissions.settle(machine.graph)
        if isinstance(error, block.ImageLockedError):
            raise CommandError(error.reason) from error
        raise
    disk.node, disk.writable = node, writable
    disk.shares_writes, disk.shares_size = new.shares_writes, new.shares_size
    permissions.settle(machine.graph)


def _thread(bus: Bus, machine: Machine) -> Any:
    """Return the thread in which a controller has its disks work, or None."""
    for device in machine.board.devices():
        if bus in device.buses:
            return device.properties.get("iothread")
    return None


async def _drop_disk(machine: Machine, device: Device, *, failed: bool = False) -> None:
    """Take a device's disk from it; what nobody else wants of it goes."""
    disk = device.disk
    if disk is None:
        return
    device.disk = None
    if failed and disk.name:
        disk.device = None
        return
    await machine.drop_disk(disk)


def take_out(machine: Machine, device: Device) -> None:
    """Take a device out of its bus; its disk is let go of after the reply, and all are told."""
    machine.board.unplug(device)
    machine.later(_forget(machine, device), at_once=True)


async def _forget(machine: Machine, device: Device) -> None:
    """Drop what a device has, and whatever is plugged into it; the monitors are told."""
    for bus in device.buses:
        for below in bus.devices:
            await _forget(machine, below)
    await _drop_disk(machine, device)
    if device.model.is_virtio:
        machine.emit("DEVICE_DELETED", {"path": f"{device.path}/virtio-backend"})
    told = {"device": device.id} if device.id is not None else {}
    machine.emit("DEVICE_DELETED", {**told, "path": device.path})


def ask_to_leave(machine: Machine, name: str) -> None:
    """Ask for a device to be taken out: ``device_del``.

    Raises:
        CommandError: there is no such device, or it stays.
    """
    if name in {"", "/", "/machine"}:
        raise CommandError(f"{name} is not a hotpluggable device")
    device = machine.board.find(name)
    if device is None:
        raise CommandError(f"Device '{name}' not found", error_class="DeviceNotFound")
    if device.leaving and machine.release.refuses_second_unplug:
        raise CommandError(f"Device {name} is already in the process of unplug")
    if not device.bus.hotplug:
        raise CommandError(f"Bus '{device.bus.name}' does not support hotplugging")
    if device.model.bus == "PCI":
        device.leaving = True
        return
    take_out(machine, device)


def reset(machine: Machine) -> None:
    """Reset the machine, which lets go of what it was asked for."""
    machine.emit("RESET", {"guest": False, "reason": "host-qmp-system-reset"})

    for device in list(machine.board.devices()):
        if device.leaving:
            take_out(machine, device)
