"""Disks of the machine that stand for themselves: what ``-drive`` makes where there is no board.

Source: qemu(1), ``-drive``; the texts were compared with QEMU 7.2 and ``-M none``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nbexport.emulator import limits, permissions
from nbexport.emulator.graph import Backend
from nbexport.emulator.imageopts import ImageOpener
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nbexport.emulator.machine import Machine

_BUSES: Final = frozenset({
    "floppy", "ide", "mtd", "none", "pflash", "scsi", "sd", "virtio", "xen",
})  # fmt: skip
_ACTIONS: Final = frozenset({"enospc", "ignore", "report", "stop"})
_CACHES: Final = {
    "directsync": (True, False), "none": (True, False), "off": (True, False),
    "unsafe": (False, True), "writeback": (False, False), "writethrough": (False, False),
}  # fmt: skip
_DISCARD: Final = {"ignore": "ignore", "off": "ignore", "on": "unmap", "unmap": "unmap"}
_TRUE: Final = frozenset({"on", "yes", "true", "y"})
_FALSE: Final = frozenset({"off", "no", "false", "n"})
_UNITS_OF: Final = {"ide": 2, "scsi": 7}


class Drives:
    """The drives of a command line.

    Args:
        machine: gets them.
        warn: told what is worth a warning, as the text to print.
        has_bus: whether disks of virtio have a place: on QEMU's default machine, not on ``none``.
    """

    def __init__(
        self, machine: Machine, warn: Callable[[str], None], *, has_bus: bool = False
    ) -> None:
        self._has_bus = has_bus
        self._machine = machine
        self._warn = warn
        self._units: dict[str, int] = {}

    async def add(self, options: Mapping[str, str]) -> None:
        """Make a disk.

        Args:
            options: of ``-drive``; values are texts.

        Raises:
            CommandError: an option is wrong, the image cannot be opened, or the machine has no
                place for the disk.
        """
        given: dict[str, Any] = dict(options)
        bus = given.pop("if", "none")
        if bus not in _BUSES:
            raise CommandError(f"unsupported bus type '{bus}'")
        _check_place(given)
        if given.pop("media", "disk") == "cdrom":
            given.setdefault("read-only", "on")
        unit = self._units.get(bus, 0)
        self._units[bus] = unit + 1
        name = given.pop("id", f"{bus}{unit}")
        _check_actions(given)
        configuration, group = limits.from_drive(given)
        graph = self._machine.graph
        filename = given.pop("file", None) or None
        _common(given)
        writable = given.pop("read-only", False) is not True
        node = None
        empty = filename is None and not given.keys() - {"cache.direct", "cache.no-flush"}
        if not empty:
            if "driver" not in given and filename is None:
                raise CommandError("Must specify either driver or file")
            given["read-only"] = not writable
            opener = ImageOpener(self._machine.release, graph, self._machine.objects, self._warn)
            before = set(graph.nodes)
            try:
                node = await self._machine.in_thread(
                    lambda: opener.open(filename, given, writable=writable)
                )
            except BaseException:
                new = [each for made, each in graph.nodes.items() if made not in before]
                for each in new:
                    del graph.nodes[each.name]
                await self._machine.in_thread(self._machine.close_nodes, new[::-1])
                permissions.settle(graph)
                raise
        if name in graph.nodes:
            raise CommandError(f"Device name '{name}' conflicts with an existing node name")
        backend = Backend(name, node, writable=writable and node is not None)
        graph.backends[name] = backend
        if node is not None:
            limits.limit(graph, self._machine.objects, backend, configuration, group)
        permissions.settle(graph)
        if bus == "virtio" and self._has_bus:
            if node is None:
                raise CommandError("Device needs media, but drive is empty")
            graph.backends[name].device = f"/machine/peripheral-anon/device[{unit}]/virtio-backend"
            permissions.settle(graph)
            return
        if bus == "virtio":
            raise CommandError("No 'PCI' bus found for device 'virtio-blk-pci'")
        if bus != "none":
            units = _UNITS_OF.get(bus, 0)
            place = divmod(unit, units) if units else (0, unit)
            raise CommandError(
                f"machine type does not support if={bus},bus={place[0]},unit={place[1]}"
            )


def _check_place(given: dict[str, Any]) -> None:
    for name in ("index", "bus", "unit"):
        value = given.pop(name, "0")
        if not (value.isascii() and value.isdecimal()):
            raise CommandError(f"Parameter '{name}' expects a number")
    media = given.get("media", "disk")
    if media not in {"disk", "cdrom"}:
        raise CommandError(f"'{media}' invalid media")


def _check_actions(given: dict[str, Any]) -> None:
    for name, word in (("werror", "write"), ("rerror", "read")):
        action = given.pop(name, None)
        if action is not None and (
            action not in _ACTIONS or (name, action) == ("rerror", "enospc")
        ):
            raise CommandError(f"'{action}' invalid {word} error action")
    for name in ("snapshot", "copy-on-read"):
        if _switch(name, given.pop(name, "off")):
            raise CommandError(f"Option '{name}' is not supported by this emulator")


def _common(given: dict[str, Any]) -> None:
    """Bring options that ``-drive`` alone has into the form of ``blockdev-add``."""
    if "cache" in given:
        mode = given.pop("cache")
        if mode not in _CACHES:
            raise CommandError("invalid cache option")
        for name, value in zip(("cache.direct", "cache.no-flush"), _CACHES[mode], strict=True):
            given.setdefault(name, "on" if value else "off")
    given.pop("cache.writeback", None)
    if "discard" in given:
        if given["discard"] not in _DISCARD:
            raise CommandError("Invalid discard option")
        given["discard"] = _DISCARD[given["discard"]]
    if "aio" in given and given.pop("aio") not in {"io_uring", "native", "threads"}:
        raise CommandError("invalid aio option")
    if given.get("detect-zeroes", "off") not in {"off", "on", "unmap"}:
        raise CommandError(f"invalid parameter value: {given['detect-zeroes']}")
    if "format" in given:
        driver = given.pop("format")
        if "driver" in given:
            raise CommandError("Cannot specify both 'driver' and 'format'")
        given["driver"] = driver
    if "readonly" in given:
        given["read-only"] = given.pop("readonly")
    if "read-only" in given:
        given["read-only"] = _switch("read-only", given["read-only"])


def _switch(name: str, value: str) -> bool:
    if value not in _TRUE | _FALSE:
        raise CommandError(f"Parameter '{name}' expects 'on' or 'off'")
    return value in _TRUE
