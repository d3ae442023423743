"""What options of a command line make of a process before its first client comes.

Each method is one option: its text is read against the release's interface, and what it describes
is made by the command that would do the same over QMP.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from nbexport.emulator import chardevs, keyval
from nbexport.emulator.objects import TYPES
from nbexport.errors import CommandError
from nbexport.qapi.model import (
    AlternateType,
    ArrayType,
    BuiltinType,
    EnumMember,
    EnumType,
    Member,
    ObjectType,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbexport.emulator.chardevs import Chardev, Chardevs
    from nbexport.emulator.machine import Machine
    from nbexport.qapi.model import Type
    from nbexport.qmp import QmpServer

_SHOWN: Final = {"str": "string", "bool": "bool"}


class Startup:
    """The options of one command line, acted on.

    Args:
        machine: what they describe.
        monitors: where the machine is asked; those of options begin with `serve`.
        devices: the character devices.
    """

    def __init__(self, machine: Machine, monitors: QmpServer, devices: Chardevs) -> None:
        self._machine = machine
        self._monitors = monitors
        self._devices = devices
        self._wanted: list[tuple[Chardev, bool, bool]] = []
        self._serving: set[asyncio.Task[None]] = set()

    async def run(self, command: str, arguments: Mapping[str, Any]) -> None:
        """Run a command whose arguments are known to fit.

        Raises:
            CommandError: the release does not have it, or it fails.
        """
        handler = self._machine.handlers().get(command)
        if handler is None:
            raise CommandError(f"QEMU {self._machine.release} has no {command}")
        self._machine.starting = True
        try:
            await handler(arguments)
        finally:
            self._machine.starting = False

    def _read(self, kind: Type | None, text: str, implied: str | None) -> dict[str, Any]:
        assert kind is not None
        release = self._machine.release.version
        found: dict[str, Any] = keyval.read(
            self._machine.schema, kind, text, implied, release=release
        )
        return found

    def _arguments(self, command: str, text: str, implied: str | None) -> dict[str, Any]:
        entity = self._machine.schema.command(command)
        if entity is None:
            raise CommandError(f"QEMU {self._machine.release} has no {command}")
        return self._read(entity.arg_type, text, implied)

    def read_blockdev(self, text: str) -> dict[str, Any]:
        """Return the node that an option describes, for ``blockdev-add``."""
        return self._arguments("blockdev-add", text, "driver")

    async def blockdev(self, text: str) -> None:
        """Open a node: ``--blockdev``."""
        await self.run("blockdev-add", self.read_blockdev(text))

    async def export(self, text: str) -> None:
        """Export a node: ``--export``."""
        await self.run("block-export-add", self._arguments("block-export-add", text, "type"))

    async def nbd_server(self, text: str) -> None:
        """Listen for clients: ``--nbd-server``, whose address is written without ``data``."""
        given = self._read(self._server_options(), text, None)
        address = dict(given["addr"])
        given["addr"] = {"type": address.pop("type"), "data": address}
        await self.run("nbd-server-start", given)

    def _server_options(self) -> ObjectType:
        """Return the type of the option: the command's, with the flat form of the address."""
        command = self._machine.schema.command("nbd-server-start")
        assert command is not None
        assert isinstance(command.arg_type, ObjectType)
        members = [
            member if member.name != "addr" else _member("addr", self._type("SocketAddress"))
            for member in command.arg_type.members
        ]
        return _object("NbdServerOptions", *members)

    def read_object(self, text: str) -> dict[str, Any] | list[str]:
        """Return the object that an option describes, or the lines of the help that it asks for."""
        try:
            return self._arguments_of_object(text)
        except keyval.HelpWanted as wanted:
            return self._help(wanted.options.get("qom-type"))

    def _arguments_of_object(self, text: str) -> dict[str, Any]:
        command = self._machine.schema.command("object-add")
        assert command is not None
        assert command.arg_type is not None
        if not self._machine.release.describes_objects:
            # Each object checks its own; over QMP numbers and switches have their types.
            found: dict[str, Any] = keyval.parse(text, "qom-type", helps=True)
            properties = {k: v for k, v in found.items() if k not in {"qom-type", "id"}}
            return {k: found[k] for k in ("qom-type", "id") if k in found} | {"props": properties}
        read: dict[str, Any] = keyval.read(
            self._machine.schema,
            command.arg_type,
            text,
            "qom-type",
            helps=True,
            release=self._machine.release.version,
        )
        return read

    async def object(self, text: str) -> list[str]:
        """Make an object: ``--object``; return the lines of the help if it asks for that."""
        found = self.read_object(text)
        if isinstance(found, list):
            return found
        await self.run("object-add", found)
        return []

    def _help(self, kind: str | None) -> list[str]:
        described = self._machine.schema.find_type("ObjectOptions")
        if kind in TYPES and not TYPES[kind].abstract and isinstance(described, ObjectType):
            branch = described.branch(kind)
            members = branch.members if branch is not None else ()
            lines = [
                f"  {member.name}=<{_shown(member.type)}>"
                for member in sorted(members, key=lambda member: member.name)
                if member.name != "loaded"
            ]
            return [f"{kind} options:", *lines]
        names = sorted(
            name
            for name, each in TYPES.items()
            if not each.abstract and name not in self._machine.release.unknown_types
        )
        return ["List of user creatable objects:", *(f"  {name}" for name in names)]

    # -- monitors ---------------------------------------------------------------------------

    async def chardev(self, options: Mapping[str, str]) -> None:
        """Open a character device: ``--chardev``."""
        await self._devices.add(options)

    async def monitor(self, text: str) -> None:
        """Put a monitor on a character device: the storage daemon's ``--monitor``."""
        given: dict[str, Any] = keyval.read(
            self._machine.schema,
            self._monitor_options(),
            text,
            "chardev",
            release=self._machine.release.version,
        )
        self.add_monitor(given["chardev"], mode=given.get("mode"), pretty=given.get("pretty"))

    def _monitor_options(self) -> ObjectType:
        mode = EnumType("MonitorMode", members=(EnumMember("readline"), EnumMember("control")))
        return _object(
            "MonitorOptions",
            _member("id", self._type("str"), optional=True),
            _member("mode", mode, optional=True),
            _member("pretty", self._type("bool"), optional=True),
            _member("chardev", self._type("str")),
        )

    def _type(self, name: str) -> Type:
        found = self._machine.schema.find_type(name)
        assert found is not None, name
        return found

    def add_monitor(self, device: str, *, mode: str | None, pretty: bool | None) -> None:
        """Put a monitor on a character device.

        Args:
            device: the device's id.
            mode: ``control`` or ``readline``; None if it was not said.
            pretty: whether it prints over several lines; None if it was not said.

        Raises:
            CommandError: there is no such device, or it is in use, or no monitor of this mode.
        """
        taken = self._devices.take(device)
        system = self._machine.is_system_emulator
        human = mode == "readline" or (mode is None and system)
        if human and not system:
            raise CommandError("Only QMP is supported")
        if human and pretty:
            raise CommandError("'pretty' is not compatible with HMP monitors")
        self._wanted.append((taken, bool(pretty), human))

    def serve(self) -> None:
        """Let the monitors begin, in the order of their options."""
        for device, pretty, human in self._wanted:
            if human:
                work = chardevs.serve_human(self._machine, device)
            else:
                work = chardevs.serve(self._monitors, device, pretty=pretty)
            task = asyncio.get_running_loop().create_task(work)
            self._serving.add(task)
        self._wanted.clear()

    async def close(self, *, keep_files: bool = False) -> None:
        """End the monitors that were served, and close the devices.

        Args:
            keep_files: leave the files of unix sockets where they are.
        """
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        self._devices.close(keep_files=keep_files)


def _member(name: str, kind: Type, *, optional: bool = False) -> Member:
    member = Member(name, kind.name, optional=optional)
    member.type = kind
    return member


def _object(name: str, *members: Member) -> ObjectType:
    made = ObjectType(name)
    made.local_members = made.members = tuple(members)
    return made


def _shown(kind: Type) -> str:
    if isinstance(kind, ArrayType):
        kind = kind.element
    if isinstance(kind, BuiltinType):
        return _SHOWN.get(kind.name, "int")
    assert not isinstance(kind, AlternateType)
    return kind.name
