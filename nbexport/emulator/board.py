"""What a machine is made of: its buses, and the devices that are plugged into them.

A board knows only the buses that disks need. Nothing happens on them: there is no guest.

Source: the object tree and ``info qtree`` of QEMU 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.emulator.graph import Backend
    from nbexport.emulator.models import Model

PCI_SLOTS: Final = 32
SCSI_TARGET_MAX: Final = 255
SCSI_LUN_MAX: Final = 16383


@dataclass(eq=False)
class Bus:
    """A bus.

    Attributes:
        name: what it is called.
        kind: what can be plugged into it.
        hotplug: whether that works while the machine is there.
        units: how many devices one of IDE takes.
        taken: places that the board itself has taken, and by what.
        devices: what is plugged in, the oldest first.
    """

    name: str
    kind: str
    hotplug: bool = True
    units: int = 0
    taken: dict[int, str] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)

    def takes(self, kind: str) -> bool:
        """Return whether devices for this kind of bus fit."""
        return kind == self.kind or (kind, self.kind) == ("PCI", "PCIE")


@dataclass(eq=False)
class Device:
    """A device.

    Attributes:
        model: what it is.
        path: its place in the object tree.
        id: its id, if its user gave one.
        bus: what it is plugged into.
        place: where on the bus.
        properties: what its user gave.
        buses: the buses that it brings along.
        disk: the disk that it has.
        leaving: whether the guest was asked to let it go.
    """

    model: Model
    path: str
    id: str | None
    bus: Bus
    place: tuple[int, ...] = ()
    properties: dict[str, Any] = field(default_factory=dict)
    buses: list[Bus] = field(default_factory=list)
    disk: Backend | None = None
    leaving: bool = False

    @property
    def told(self) -> str:
        """How the device is told to whom it concerns as the owner of a disk."""
        return f"{self.path}/virtio-backend" if self.model.is_virtio else self.id or self.path


class Board:
    """A machine's buses and devices.

    Args:
        kind: ``none``, ``pc`` or ``q35``.

    Attributes:
        kind: the same.
        ready: whether the machine is there, so that devices are plugged in from now on.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.ready = False
        self._buses: list[Bus] = []
        self._anonymous = 0
        self._unattached = 0
        self._unnamed_buses = 0
        if kind == "pc":
            self._unattached = 18
            taken = {0: "i440FX", 1: "PIIX3"}
            self._buses = [
                Bus("pci.0", "PCI", taken=taken),
                *(Bus(f"ide.{unit}", "IDE", hotplug=False, units=2) for unit in (1, 0)),
                Bus("isa.0", "ISA", hotplug=False),
                Bus("floppy-bus.0", "floppy-bus", hotplug=False, units=2),
            ]
        elif kind == "q35":
            self._unattached = 16
            self._buses = [
                Bus("pcie.0", "PCIE", hotplug=False, taken={0: "mch", 31: "ICH9-LPC"}),
                *(Bus(f"ide.{unit}", "IDE", hotplug=False, units=1) for unit in range(5, -1, -1)),
                Bus("isa.0", "ISA", hotplug=False),
            ]

    @property
    def default_bus(self) -> str:
        """What ``-drive`` is connected to unless it says otherwise."""
        return "none" if self.kind == "none" else "ide"

    def units(self, interface: str) -> int:
        """Return how many drives a bus of an interface takes; 0 is no limit."""
        if interface == "ide":
            return 1 if self.kind == "q35" else 2
        return 7 if interface == "scsi" else 0

    def has_ide(self, number: int) -> bool:
        """Return whether there is an IDE bus of this number."""
        return any(bus.name == f"ide.{number}" for bus in self._buses)

    def buses(self) -> Iterator[Bus]:
        """Yield all buses in the order in which one is looked for: those of new devices first."""
        if self._buses:
            yield self._buses[0]
        for device in self._devices_of(self._buses[:1]):
            yield from device.buses
        yield from self._buses[1:]

    def devices(self) -> Iterator[Device]:
        """Yield all devices, a controller before what is plugged into it."""
        for bus in self._buses:
            for device in bus.devices:
                yield device
                yield from (below for own in device.buses for below in own.devices)

    def _devices_of(self, buses: list[Bus]) -> Iterator[Device]:
        for bus in buses:
            yield from reversed(bus.devices)

    def find_bus(self, name: str) -> Bus:
        """Return the bus of a name.

        Raises:
            CommandError: there is none.
        """
        if name.startswith("/"):
            first = name.lstrip("/").split("/")[0]
            raise CommandError(f"Device '{first}' not found", error_class="DeviceNotFound")
        for bus in self.buses():
            if bus.name == name:
                return bus
        raise CommandError(f"Bus '{name}' not found")

    def bus_for(self, kind: str, model: str) -> Bus:
        """Return a bus that a model can be plugged into.

        Raises:
            CommandError: there is none.
        """
        for bus in self.buses():
            if bus.takes(kind):
                return bus
        raise CommandError(f"No '{kind}' bus found for device '{model}'")

    def find(self, name: str) -> Device | None:
        """Return a device by its id or its path, or None."""
        for device in self.devices():
            if name in {device.path, device.id, device.path.rpartition("/")[2]}:
                return device
        return None

    def disk_of(self, name: str) -> Backend:
        """Return the disk of a device, by the device's id or path.

        Raises:
            CommandError: there is no such device, or it has no disk.
        """
        for device in self.devices():
            # The disk of one of virtio belongs to a part of it.
            own = device.told if device.model.is_virtio else device.path
            if name in {own, own.removeprefix("/machine/peripheral/"), device.told}:
                if device.disk is not None:
                    return device.disk
                break
            if name in {device.id, device.path}:
                break
        else:
            raise CommandError(f"Device '{name}' not found", error_class="DeviceNotFound")
        raise CommandError("Device does not have a block device backend")

    def path_for(self, identifier: str | None, *, own: bool = False) -> str:
        """Return the place of a new device in the object tree.

        Args:
            identifier: its id, if it has one.
            own: whether the board made it.

        Raises:
            CommandError: another device has the id.
        """
        if own:
            self._unattached += 1
            return f"/machine/unattached/device[{self._unattached - 1}]"
        if identifier is None:
            self._anonymous += 1
            return f"/machine/peripheral-anon/device[{self._anonymous - 1}]"
        if any(device.id == identifier for device in self.devices()):
            raise CommandError(f"Duplicate device ID '{identifier}'")
        return f"/machine/peripheral/{identifier}"

    def plug(self, device: Device) -> None:
        """Give a device its place and its buses.

        Raises:
            CommandError: there is no such place, or it is taken.
        """
        place = {"PCI": _on_pci, "SCSI": _on_scsi, "IDE": _on_ide}[device.model.bus]
        device.place = place(device)
        if device.model.provides:
            name = f"{device.id}.0"
            if device.id is None:
                name = f"scsi.{self._unnamed_buses}"
                self._unnamed_buses += 1
            device.buses.append(Bus(name, device.model.provides))
        device.bus.devices.append(device)

    def unplug(self, device: Device) -> None:
        """Take a device out."""
        device.bus.devices.remove(device)


def _on_pci(device: Device) -> tuple[int, ...]:
    bus, model = device.bus, device.model.name
    taken: dict[tuple[int, int], tuple[str, str | None]] = {
        (slot, 0): (what, None) for slot, what in bus.taken.items()
    }
    taken |= {
        (other.place[0], other.place[1]): (other.model.name, other.id) for other in bus.devices
    }
    wanted: int | None = device.properties.get("addr")
    if wanted is not None:
        slot, function = divmod(wanted, 8)
        if (slot, function) in taken:
            what, name = taken[slot, function]
            raise CommandError(
                f"PCI: slot {slot} function {function} not available for {model}, in use by "
                f"{what},id={name or '(null)'}"
            )
        return slot, function
    used = {slot for slot, _ in taken}
    for slot in range(PCI_SLOTS):
        if slot not in used:
            return slot, 0
    raise CommandError(f"PCI: no slot/function available for {model}, all in use or reserved")


def _on_scsi(device: Device) -> tuple[int, ...]:
    given = device.properties
    channel, target, lun = given.get("channel", 0), given.get("scsi-id"), given.get("lun")
    if channel > 0:
        raise CommandError(f"bad scsi channel id: {channel}")
    if target is not None and target > SCSI_TARGET_MAX:
        raise CommandError(f"bad scsi device id: {target}")
    if lun is not None and lun > SCSI_LUN_MAX:
        raise CommandError(f"bad scsi device lun: {lun}")
    taken = {other.place: other for other in device.bus.devices}
    if target is None:
        lun = lun or 0
        free = (each for each in range(SCSI_TARGET_MAX + 1) if (each, lun) not in taken)
        target = next(free, None)
        if target is None:
            raise CommandError("no free target")
    elif lun is None:
        lun = next((each for each in range(SCSI_LUN_MAX + 1) if (target, each) not in taken), None)
        if lun is None:
            raise CommandError("no free lun")
    elif (target, lun) in taken:
        raise CommandError(f"lun already used by '{taken[target, lun].id or '(null)'}'")
    return target, lun


def _on_ide(device: Device) -> tuple[int, ...]:
    taken = {other.place[0]: other for other in device.bus.devices}
    unit = device.properties.get("unit")
    if unit is None:
        unit = 1 if 0 in taken else 0
    if unit >= device.bus.units:
        raise CommandError(
            f"Can't create IDE unit {unit}, bus supports only {device.bus.units} units"
        )
    if unit in taken:
        raise CommandError(f"IDE unit {unit} is in use")
    return (unit,)
