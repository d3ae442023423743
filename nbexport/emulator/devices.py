"""Why a device cannot be plugged in: a machine without a board has no bus.

Only the names of disks, their controllers and network cards are known; others are taken for names
that no device has.

Source: what QEMU 7.2 answers with ``-M none``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport.emulator.graph import is_well_formed
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

_BUSES: dict[str, tuple[str, ...]] = {
    "PCI": (
        "ich9-ahci", "lsi53c810", "lsi53c895a", "megasas", "megasas-gen2", "nvme", "piix3-ide",
        "piix4-ide", "pvscsi", "sdhci-pci", "vhost-scsi-pci", "vhost-user-blk-pci",
        "virtio-9p-pci", "virtio-blk-pci", "virtio-scsi-pci", "e1000", "e1000e", "rtl8139",
        "virtio-net-pci", "vmxnet3", "virtio-balloon-pci", "virtio-rng-pci", "virtio-serial-pci",
        "qemu-xhci", "usb-ehci", "pcie-root-port", "pci-bridge",
    ),
    "virtio-bus": (
        "virtio-blk-device", "virtio-scsi-device", "virtio-net-device", "vhost-user-blk",
        "virtio-9p-device", "virtio-balloon-device", "virtio-rng-device", "virtio-serial-device",
    ),
    "SCSI": ("scsi-block", "scsi-cd", "scsi-generic", "scsi-hd"),
    "IDE": ("ide-cd", "ide-hd"),
    "usb-bus": ("usb-bot", "usb-storage", "usb-uas"),
    "ISA": ("isa-fdc", "isa-ide", "isa-serial"),
    "floppy-bus": ("floppy",),
    "nvme-bus": ("nvme-ns",),
    "sd-bus": ("sd-card",),
}  # fmt: skip
_BUS_OF = {driver: bus for bus, drivers in _BUSES.items() for driver in drivers}
_ALIASES = {
    "ahci": "ich9-ahci", "lsi": "lsi53c895a", "virtio-9p": "virtio-9p-pci",
    "virtio-balloon": "virtio-balloon-pci", "virtio-blk": "virtio-blk-pci",
    "virtio-net": "virtio-net-pci", "virtio-rng": "virtio-rng-pci",
    "virtio-scsi": "virtio-scsi-pci", "virtio-serial": "virtio-serial-pci",
}  # fmt: skip
_WITHOUT_BUS = frozenset({"guest-loader", "loader", "nvdimm", "pc-dimm"})
_ABSTRACT = frozenset({"device", "pci-device", "virtio-device", "scsi-device", "ide-device"})


def refusal(arguments: Mapping[str, Any]) -> CommandError:
    """Return why a device is not added.

    Args:
        arguments: of ``device_add``, which nobody has checked.
    """
    driver = arguments.get("driver")
    if driver is None:
        return CommandError("Parameter 'driver' is missing")
    identifier = arguments.get("id")
    if identifier is not None and not is_well_formed(str(identifier)):
        return CommandError("Parameter 'id' expects an identifier")
    name = _ALIASES.get(str(driver), str(driver))
    if name in _ABSTRACT:
        return CommandError("Parameter 'driver' expects a non-abstract device type")
    if name in _WITHOUT_BUS:
        return CommandError(f"Device '{name}' can not be hotplugged on this machine")
    if name not in _BUS_OF:
        return CommandError(f"'{name}' is not a valid device model name")
    if "bus" in arguments:
        return _no_bus(str(arguments["bus"]))
    return CommandError(f"No '{_BUS_OF[name]}' bus found for device '{name}'")


def _no_bus(path: str) -> CommandError:
    if path.startswith("/"):
        first = path.lstrip("/").split("/")[0]
        return CommandError(f"Device '{first}' not found", error_class="DeviceNotFound")
    return CommandError(f"Bus '{path}' not found")
