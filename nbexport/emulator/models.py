"""The models of devices: those that a machine can have, and the buses that others would need.

Of a device there is what its disk knows of it. There is no guest that would talk to it, so most
properties are read, checked as to their type, and left at that.

Source: ``-device help`` and ``-device MODEL,help`` of QEMU 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class Model:
    """A model of devices.

    Attributes:
        name: its name.
        bus: the kind of bus that it is plugged into.
        summary: what it is, in a few words.
        alias: another name, if it has one.
        provides: the kind of bus that it brings along, if it does.
        takes: whether it has a disk: ``disk``, ``cdrom``, or empty for none.
        properties: names of its properties, and their types.
    """

    name: str
    bus: str
    summary: str
    alias: str = ""
    provides: str = ""
    takes: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_virtio(self) -> bool:
        """Whether the disk belongs to a part of it that has a place of its own in the tree."""
        return self.bus == "PCI"


def _typed(**names: str) -> dict[str, str]:
    return {name: kind for kind, all_ in names.items() for name in all_.split()}


_BLOCK: Final = _typed(
    OnOffAuto="account-failed account-invalid backend_defaults write-cache",
    size="discard_granularity logical_block_size min_io_size opt_io_size physical_block_size",
    str="drive serial",
    bool="share-rw",
    int32="bootindex",
    BlockdevOnError="rerror werror",
)
_GEOMETRY: Final = _typed(uint32="cyls heads secs lcyls lheads lsecs")
_VIRTIO: Final = _typed(
    uint32="acpi-index rombar romsize vectors",
    int32="addr",
    bool=(
        "aer any_layout ats disable-modern event_idx indirect_desc ioeventfd iommu_platform "
        "migrate-extra modern-pio-notify multifunction notify_on_empty packed page-per-vq "
        "queue_reset use-disabled-flag use-started virtio-pci-bus-master-bug-migration "
        "x-ats-page-aligned x-disable-legacy-check x-disable-pcie x-ignore-backend-features "
        "x-pcie-deverr-init x-pcie-extcap-init x-pcie-flr-init x-pcie-lnkctl-init "
        "x-pcie-lnksta-dllla x-pcie-pm-init"
    ),
    OnOffAuto="disable-legacy",
    str="failover_pair_id romfile",
    iothread="iothread",
)
_BLK: Final = _typed(
    uint32="class max-discard-sectors max-write-zeroes-sectors",
    bool=(
        "config-wce discard report-discard-granularity request-merging scsi seg-max-adjust "
        "write-zeroes x-enable-wce-if-config-wce"
    ),
    uint16="num-queues queue-size",
)
_HBA: Final = _typed(
    uint32="cmd_per_lun max_sectors num_queues virtqueue_size",
    bool="hotplug param_change seg_max_adjust",
)
_SCSI: Final = _typed(
    int32="scsi_version",
    uint32="channel lun scsi-id",
    str="device_id product vendor ver",
    uint64="max_io_size port_wwn wwn",
    uint16="port_index",
    bool="quirk_mode_page_vendor_specific_apple",
)
_SCSI_DISK: Final = _typed(uint64="max_unmap_size", bool="dpofua removable", uint16="rotation_rate")
_SCSI_CD: Final = _typed(
    bool="quirk_mode_page_apple_vendor quirk_mode_page_truncated quirk_mode_sense_rom_use_dbd"
)
_IDE: Final = _typed(str="model ver", uint32="unit", uint64="wwn")
_IDE_DISK: Final = _typed(BiosAtaTranslation="bios-chs-trans", uint16="rotation_rate")

MODELS: Final = {
    model.name: model
    for model in (
        Model("ide-cd", "IDE", "a CD-ROM drive", takes="cdrom", properties=_BLOCK | _IDE),
        Model("ide-hd", "IDE", "a disk", takes="disk",
              properties=_BLOCK | _GEOMETRY | _IDE | _IDE_DISK),
        Model("scsi-cd", "SCSI", "a CD-ROM drive", takes="cdrom",
              properties=_BLOCK | _SCSI | _SCSI_CD),
        Model("scsi-hd", "SCSI", "a disk", takes="disk",
              properties=_BLOCK | _GEOMETRY | _SCSI | _SCSI_DISK),
        Model("virtio-blk-pci", "PCI", "a disk", alias="virtio-blk", takes="disk",
              properties=_BLOCK | _GEOMETRY | _VIRTIO | _BLK),
        Model("virtio-scsi-pci", "PCI", "a controller of disks", alias="virtio-scsi",
              provides="SCSI", properties=_VIRTIO | _HBA),
    )
}  # fmt: skip
"""The models that there are, by name, in the order in which they are listed."""

_BUSES: Final = {
    "PCI": (
        "ich9-ahci", "lsi53c810", "lsi53c895a", "megasas", "megasas-gen2", "nvme", "piix3-ide",
        "piix4-ide", "pvscsi", "sdhci-pci", "vhost-scsi-pci", "vhost-user-blk-pci",
        "virtio-9p-pci", "e1000", "e1000e", "rtl8139",
        "virtio-net-pci", "vmxnet3", "virtio-balloon-pci", "virtio-rng-pci", "virtio-serial-pci",
        "qemu-xhci", "usb-ehci", "pcie-root-port", "pci-bridge",
    ),
    "virtio-bus": (
        "virtio-blk-device", "virtio-scsi-device", "virtio-net-device", "vhost-user-blk",
        "virtio-9p-device", "virtio-balloon-device", "virtio-rng-device", "virtio-serial-device",
    ),
    "SCSI": ("scsi-block", "scsi-generic"),
    "usb-bus": ("usb-bot", "usb-storage", "usb-uas"),
    "ISA": ("isa-fdc", "isa-ide", "isa-serial"),
    "floppy-bus": ("floppy",),
    "nvme-bus": ("nvme-ns",),
    "sd-bus": ("sd-card",),
}  # fmt: skip
BUS_OF_OTHERS: Final = {name: bus for bus, names in _BUSES.items() for name in names}
"""Models that there are not, with the kind of bus that a machine would need for them."""
ALIASES: Final = {
    "ahci": "ich9-ahci", "lsi": "lsi53c895a", "virtio-9p": "virtio-9p-pci",
    "virtio-balloon": "virtio-balloon-pci", "virtio-net": "virtio-net-pci",
    "virtio-rng": "virtio-rng-pci", "virtio-serial": "virtio-serial-pci",
} | {model.alias: model.name for model in MODELS.values() if model.alias}  # fmt: skip
WITHOUT_BUS: Final = frozenset({"guest-loader", "loader", "nvdimm", "pc-dimm"})
ABSTRACT: Final = frozenset({"device", "pci-device", "virtio-device", "scsi-device", "ide-device"})


def listed() -> Iterator[str]:
    """Yield the lines of ``-device help``."""
    yield "Storage devices:"
    for model in MODELS.values():
        alias = f', alias "{model.alias}"' if model.alias else ""
        yield f'name "{model.name}", bus {model.bus}{alias}, desc "{model.summary}"'


def described(model: Model) -> Iterator[str]:
    """Yield the lines of the help for a model."""
    yield f"{model.name} options:"
    for name, kind in sorted(model.properties.items()):
        shown = "link<iothread>" if kind == "iothread" else kind
        yield f"  {name}=<{shown}>"
