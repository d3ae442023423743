"""Disks of the machine: what ``-drive`` makes.

Source: qemu(1), ``-drive``; the texts were compared with QEMU 7.2.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nbexport.emulator import limits, permissions, plugging
from nbexport.emulator.graph import Backend
from nbexport.emulator.imageopts import ImageOpener
from nbexport.emulator.overlay import put_overlay
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


@dataclass(frozen=True)
class Drive:
    """What one option has made.

    Attributes:
        disk: the disk.
        bus: the interface that it is to be connected to.
        place: number of the bus, and the unit there.
        media: ``disk`` or ``cdrom``.
        where: the words of the option.
    """

    disk: Backend
    bus: str
    place: tuple[int, int]
    media: str
    where: str


class Drives:
    """The drives of a command line.

    Args:
        machine: gets them.
        warn: told what is worth a warning, as the text to print.
    """

    def __init__(self, machine: Machine, warn: Callable[[str], None]) -> None:
        self._machine = machine
        self._warn = warn
        self._made: list[Drive] = []

    async def add(self, options: Mapping[str, str], where: str = "") -> None:
        """Make a disk.

        Args:
            options: of ``-drive``; values are texts.
            where: the words of the option, for later errors.

        Raises:
            CommandError: an option is wrong, or the image cannot be opened.
        """
        given: dict[str, Any] = dict(options)
        bus = given.pop("if", self._machine.board.default_bus)
        if bus not in _BUSES:
            raise CommandError(f"unsupported bus type '{bus}'")
        media = given.pop("media", "disk")
        if media not in {"disk", "cdrom"}:
            raise CommandError(f"'{media}' invalid media")
        if media == "cdrom":
            given["read-only"] = "on"
        place = self._place(bus, given)
        name = given.pop("id", None) or self._name(bus, media, place)
        on_error = _actions(given)
        is_temporary = _switch("snapshot", given.pop("snapshot", "off"))
        configuration, group = limits.from_drive(given)
        graph = self._machine.graph
        filename = given.pop("file", None) or None
        writeback = _common(given)
        writable = given.pop("read-only", False) is not True
        node = None
        empty = filename is None and not given.keys() - {"cache.direct", "cache.no-flush"}
        if not empty:
            if "driver" not in given and filename is None:
                raise CommandError("Must specify either driver or file")
            given["read-only"] = not writable
            unmap = given.get("discard") in {"unmap", "on"}
            over = functools.partial(put_overlay, writable=writable, unmap=unmap)
            opener = ImageOpener(self._machine.release, graph, self._machine.objects, self._warn)
            before = set(graph.nodes)
            try:
                node = await self._machine.in_thread(
                    lambda: opener.open(
                        filename, given, writable=writable, over=over if is_temporary else None
                    )
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
        disk = Backend(
            name,
            node,
            writable=writable and node is not None,
            writeback=writeback,
            automatic=None if bus == "none" else bus,
            on_error=on_error,
        )
        graph.disks.append(disk)
        if node is not None:
            limits.limit(graph, self._machine.objects, disk, configuration, group)
        permissions.settle(graph)
        self._made.append(Drive(disk, bus, place, media, where))

    def _place(self, bus: str, given: dict[str, Any]) -> tuple[int, int]:
        """Return the number of a drive's bus and its unit there: those wanted, or free ones."""
        numbers_of = {}
        for name in ("index", "bus", "unit"):
            value = given.pop(name, None)
            if value is None:
                continue
            if not (value.isascii() and value.isdecimal()):
                raise CommandError(f"Parameter '{name}' expects a number")
            numbers_of[name] = int(value)
        units = self._machine.board.units(bus)
        number, unit = numbers_of.get("bus", 0), numbers_of.get("unit")
        index = numbers_of.get("index", -1)
        if index != -1:
            if number or unit is not None:
                raise CommandError("index cannot be used with bus and unit")
            number, unit = divmod(index, units) if units else (0, index)
        taken = {drive.place for drive in self._made if drive.bus == bus}
        if unit is None:
            unit = 0
            while (number, unit) in taken:
                unit += 1
                if units and unit >= units:
                    number, unit = number + 1, unit - units
        if units and unit >= units:
            raise CommandError(f"unit {unit} too big (max is {units - 1})")
        if (number, unit) in taken:
            raise CommandError(f"drive with bus={number}, unit={unit} (index={index}) exists")
        return number, unit

    def _name(self, bus: str, media: str, place: tuple[int, int]) -> str:
        kind = ("-cd" if media == "cdrom" else "-hd") if bus in {"ide", "scsi"} else ""
        number = place[0] if self._machine.board.units(bus) else ""
        return f"{bus}{number}{kind}{place[1]}"

    async def connect_board(self, drive: Drive) -> None:
        """Let the board make the device that a drive asks for.

        Raises:
            CommandError: the board has no place for it.
        """
        number, unit = drive.place
        if drive.bus in {"none", "virtio"}:
            return
        if drive.bus != "ide" or not self._machine.board.has_ide(number):
            raise CommandError(
                f"machine type does not support if={drive.bus},bus={number},unit={unit}"
            )
        options = {"bus": f"ide.{number}", "unit": str(unit), "drive": drive.disk.name}
        driver = "ide-cd" if drive.media == "cdrom" else "ide-hd"
        await plugging.add(self._machine, {**options, "driver": driver}, own=True)

    async def connect_virtio(self, drive: Drive) -> None:
        """Plug a device in for a drive of virtio.

        Raises:
            CommandError: there is no bus for it, or it cannot use the drive.
        """
        if drive.bus == "virtio":
            options = {"driver": "virtio-blk", "drive": drive.disk.name}
            await plugging.add(self._machine, options)

    @property
    def made(self) -> tuple[Drive, ...]:
        """The drives, in the order of their options."""
        return tuple(self._made)


def _actions(given: dict[str, Any]) -> tuple[str, str]:
    """Return what to do when a write fails, and when a read does."""
    found = []
    for name, word, usual in (("werror", "write", "enospc"), ("rerror", "read", "report")):
        action = given.pop(name, usual)
        if action not in _ACTIONS or (name, action) == ("rerror", "enospc"):
            raise CommandError(f"'{action}' invalid {word} error action")
        found.append(action)
    if _switch("copy-on-read", given.pop("copy-on-read", "off")):
        raise CommandError("Option 'copy-on-read' is not supported by this emulator")
    return found[0], found[1]


def _common(given: dict[str, Any]) -> bool:
    """Bring options that ``-drive`` alone has into the form of ``blockdev-add``.

    Returns:
        Whether writes may stay in caches.
    """
    writeback = True
    if "cache" in given:
        mode = given.pop("cache")
        if mode not in _CACHES:
            raise CommandError("invalid cache option")
        for name, value in zip(("cache.direct", "cache.no-flush"), _CACHES[mode], strict=True):
            given.setdefault(name, "on" if value else "off")
        writeback = mode not in {"directsync", "writethrough"}
    if "cache.writeback" in given:
        writeback = _switch("cache.writeback", given.pop("cache.writeback"))
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
    return writeback


def _switch(name: str, value: str) -> bool:
    if value not in _TRUE | _FALSE:
        raise CommandError(f"Parameter '{name}' expects 'on' or 'off'")
    return value in _TRUE
