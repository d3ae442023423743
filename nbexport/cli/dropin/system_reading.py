"""Reads the options of ``nbexport-monitor``; all are checked before anything is made."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING, Final

from nbexport.cli.dropin import machine_types
from nbexport.cli.dropin.hosting import StopError, version_numbers
from nbexport.cli.dropin.system_options import BY_NAME
from nbexport.emulator import optionlist
from nbexport.emulator.release import Release
from nbexport.errors import CommandError, NbexportError, UsageError
from nbexport.qmp import CompatPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nbexport.cli.dropin.getopt import Word
    from nbexport.cli.dropin.hosting import Reporter
    from nbexport.cli.dropin.system import Wanted

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_ACCELERATORS: Final = frozenset({"hax", "hvf", "kvm", "nvmm", "qtest", "tcg", "whpx", "xen"})
_DISPLAYS: Final = frozenset({
    "cocoa", "curses", "dbus", "default", "egl-headless", "gtk", "sdl", "spice-app", "vnc",
})  # fmt: skip
_PLAIN: Final = frozenset({"null", "stdio"})
_OTHERS: Final = frozenset({"msmouse", "pty", "testdev", "vc", "wctablet"})
_TCP: Final = re.compile(r"([^:]{0,64}):([^,]{1,32})(?:,(.*))?\Z", re.DOTALL)
_DRIVES: Final = {
    "hda": "index=0,media=disk", "hdb": "index=1,media=disk", "hdc": "index=2,media=disk",
    "hdd": "index=3,media=disk", "cdrom": "index=2,media=cdrom",
}  # fmt: skip
_MON_NAMES: Final = frozenset({"chardev", "mode", "pretty"})


class Reader:
    """Reads one command line.

    Args:
        wanted: gets what it asks for.
        reporter: tells what is wrong.
        on_help: prints the help.
        on_version: prints the version.
    """

    def __init__(
        self,
        wanted: Wanted,
        reporter: Reporter,
        *,
        on_help: Callable[[], None],
        on_version: Callable[[Reporter], None],
    ) -> None:
        self._wanted = wanted
        self._reporter = reporter
        self._on_help = on_help
        self._on_version = on_version
        self._chardevs = optionlist.chardevs(reporter.tell)
        self._monitors = optionlist.Group(
            "mon", "chardev", _MON_NAMES, frozenset({"pretty"}), warn=reporter.tell
        )
        self._devices = optionlist.Group("device", "driver", warn=reporter.tell)
        self._drives = optionlist.Group("drive", None, warn=reporter.tell)
        self._objects = optionlist.Group("object", "qom-type", warn=reporter.tell)
        self._compat = 0
        self._release = Release.parse(version_numbers()[0])

    def read(self, given: Sequence[Word]) -> None:
        """Read all options.

        Raises:
            StopError: something is wrong, or only help was wanted; that has been told.
        """
        for word in given:
            self._reporter.place = word.place
            try:
                self._read(word)
            except optionlist.HelpWantedError:
                names = "".join(f"\n  {kind}" for kind in optionlist.CHARDEV_KINDS)
                sys.stdout.write(f"Available chardev backend types: {names}\n")
                raise StopError(0) from None
            except NbexportError as error:
                raise self._reporter.fail(str(error)) from error
        self._reporter.place = ""

    def _read(self, word: Word) -> None:
        name, value, wanted = word.name, word.value, self._wanted
        if not name or name in _DRIVES:
            # A comma in the name of a file would end it.
            value = value.replace(",", ",,")
            wanted.blocks.append((word.place, "drive", f"{_DRIVES[name or 'hda']},file={value}"))
            return
        if BY_NAME[name].verdict == "refused":
            raise self._reporter.fail(f"-{name} is not supported by this emulator")
        if name in {"h", "help"}:
            self._on_help()
            raise StopError(0)
        if name == "version":
            self._on_version(self._reporter)
            raise StopError(0)
        if name in {"machine", "M"}:
            if value in {"help", "?"}:
                sys.stdout.write(machine_types.machines(self._release))
                raise StopError(0)
            kind = optionlist.Group("machine", "type").parse(value).get("type")
            if kind is not None:
                self._reporter.place = ""
                wanted.machine = machine_types.board_of(kind, self._release)
        elif name == "nodefaults":
            wanted.bare = True
        elif name == "S":
            wanted.stopped = True
        elif name == "snapshot":
            wanted.temporary = True
        elif name == "nographic":
            wanted.on_console = True
        elif name == "daemonize":
            wanted.background = True
        elif name == "pidfile":
            wanted.pid_file = value
        elif name == "compat":
            wanted.policy = CompatPolicy.parse(value, self._release.version)
        elif name == "object":
            if not value.startswith("{"):
                # Only to find what is wrong with it as a list: it is read by the interface later.
                with contextlib.suppress(optionlist.HelpWantedError):
                    self._objects.parse(value)
            wanted.objects.append((word.place, value))
        elif name in {"blockdev", "drive"}:
            if name == "drive" and self._drives.parse(value).get("format") in {"help", "?"}:
                sys.stdout.write(machine_types.formats(self._release))
                raise StopError(0)
            wanted.blocks.append((word.place, name, value))
        elif name == "device":
            self._read_device(word)
        elif name == "chardev":
            wanted.chardevs.append((word.place, self._chardevs.parse(value)))
        elif name == "mon":
            self._read_mon(word)
        elif name in {"qmp", "qmp-pretty", "monitor", "qtest"}:
            self._read_short(word)
        else:
            _check_hint(name, value)

    def _read_device(self, word: Word) -> None:
        if word.value.startswith("{"):
            self._wanted.devices.append((word.place, machine_types.from_json(word.value), True))
            return
        try:
            options = self._devices.parse(word.value)
        except optionlist.HelpWantedError:
            try:
                sys.stdout.write(machine_types.devices(word.value.partition(",")[0]))
            except CommandError as error:
                self._reporter.tell(str(error))
            raise StopError(0) from None
        self._wanted.devices.append((word.place, options, False))

    def _read_mon(self, word: Word) -> None:
        options = self._monitors.parse(word.value)
        mode = options.get("mode", "readline")
        if mode not in {"control", "readline"}:
            raise CommandError(f"Parameter 'mode' does not accept value '{mode}'")
        if "chardev" not in options:
            raise CommandError("Parameter 'chardev' is missing")
        self._wanted.monitors.append((word.place, options))

    def _read_short(self, word: Word) -> None:
        """Read a monitor and its character device in one."""
        name, value = word.name, word.value
        if name == "monitor" and value in {"none", "null"}:
            return
        if name == "qtest":
            label = "qtest"
        elif value.startswith("chardev:"):
            label = value.removeprefix("chardev:")
        else:
            label = f"compat_monitor{self._compat}"
            self._compat += 1
        if not value.startswith("chardev:"):
            self._wanted.chardevs.append((word.place, {**self._short(value), "id": label}))
        if name == "qtest":
            self._wanted.tests.append((word.place, label))
            return
        options = {"chardev": label, "mode": "readline" if name == "monitor" else "control"}
        if name == "qmp-pretty":
            options["pretty"] = "on"
        self._wanted.monitors.append((word.place, options))

    def _short(self, text: str) -> dict[str, str]:
        """Return the options that the short form of a character device stands for."""
        group = optionlist.chardevs()
        if text in _PLAIN:
            return {"backend": text}
        head, colon, rest = text.partition(":")
        if head in _OTHERS or (colon and head in {"con", "file", "pipe", "telnet", "udp", "vc"}):
            raise CommandError(f"Character device '{head}' is not supported by this emulator")
        if colon and head == "unix":
            return {**group.parse(rest, implied="path"), "backend": "socket"}
        if colon and head == "tcp":
            match = _TCP.match(rest)
            if match is not None:
                more = group.parse(match[3], implied="backend") if match[3] else {}
                return {**more, "host": match[1], "port": match[2], "backend": "socket"}
        else:
            self._reporter.tell(f"'{text}' is not a valid char driver")
        raise CommandError(f"parse error: {text}")


def _check_hint(name: str, value: str) -> None:
    """Check the value of an option that changes nothing, where clients are known to try."""
    if name == "uuid" and not _UUID.match(value):
        raise CommandError("failed to parse UUID string: wrong format")
    if name == "name":
        known = frozenset({"debug-threads", "guest", "process"})
        optionlist.Group("name", "guest", known, frozenset({"debug-threads"})).parse(value)
    if name == "sandbox":
        optionlist.Group("sandbox", "enable", switches=frozenset({"enable"})).parse(value)
    if name == "accel":
        kind = optionlist.Group("accel", "accel").parse(value).get("accel", "")
        if kind not in _ACCELERATORS:
            raise UsageError(f"invalid accelerator {kind}")
    if name == "display":
        kind = value.partition(",")[0]
        if kind in _DISPLAYS:
            raise CommandError(f"Display '{kind}' is not supported by this emulator")
        if kind != "none":
            raise CommandError(f"Parameter 'type' does not accept value '{kind}'")
    if name in {"parallel", "serial"} and value not in {"none", "null", "stdio"}:
        raise CommandError(f"-{name} {value} is not supported by this emulator")
