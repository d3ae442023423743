"""Character devices: what a monitor is reached by, as options of a command line describe it.

A device is opened when its option is read, and a monitor takes it afterwards. Kinds: ``socket``
(unix, TCP, or a descriptor that was inherited; listening or connecting), ``stdio`` and ``null``.

Source: qemu(1), "Character device options"; the texts were compared with QEMU 7.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from nbexport.emulator import hmp
from nbexport.emulator.addresses import inherited_socket, listen
from nbexport.errors import CommandError
from nbexport.listening import UnixListener, open_unix
from nbexport.qmp.endpoints import BACKLOG

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Protocol

    from nbexport.emulator.machine import Machine
    from nbexport.qmp import QmpServer

    class Told(Protocol):
        """Gets a message, and whether it belongs to the option that is acted on."""

        def __call__(self, text: str, *, info: bool = True) -> None:
            """Take a message."""


OTHER_KINDS: Final = frozenset({
    "console", "dbus", "file", "memory", "mux", "parallel", "pipe", "pty", "qemu-vdagent",
    "ringbuf", "serial", "spiceport", "spicevmc", "testdev", "udp", "vc", "wctablet",
})  # fmt: skip
"""What QEMU has and this does not: a monitor on it could not be talked to over a network."""

_BOOLEANS: Final = ("server", "wait", "abstract", "tight", "ipv4", "ipv6", "nodelay", "telnet",
                    "websocket", "signal", "mux", "tn3270")  # fmt: skip
_REFUSED: Final = ("telnet", "websocket", "tn3270", "tls-creds", "logfile", "mux")


@dataclass(eq=False)
class Chardev:
    """A character device.

    Attributes:
        id: its id.
        kind: ``socket``, ``stdio`` or ``null``.
        listeners: sockets on which clients come.
        connected: the peer that is there already.
        address: what to connect to again when the peer has gone; None for what does not.
        reconnect: seconds between attempts.
        used: whether a monitor has it.
    """

    id: str
    kind: str
    listeners: list[socket.socket] = field(default_factory=list)
    connected: socket.socket | None = None
    address: Mapping[str, Any] | None = None
    reconnect: int = 0
    used: bool = False
    files: list[UnixListener] = field(default_factory=list)


class Chardevs:
    """The character devices of a process, by id.

    Args:
        told: gets what is to be told while a device is opened.
        daemon: whether the process leaves its standard input and output.
    """

    def __init__(self, told: Told, *, daemon: bool = False) -> None:
        self._devices: dict[str, Chardev] = {}
        self._told = told
        self._daemon = daemon

    async def add(self, options: Mapping[str, str]) -> None:
        """Open a device.

        Args:
            options: of ``-chardev``, with the kind as ``backend`` and the id; values are texts.

        Raises:
            CommandError: an option is wrong, or the device cannot be opened.
        """
        identifier = options.get("id")
        if identifier is None:
            raise CommandError("chardev: no id specified")
        kind = options.get("backend")
        if kind is None:
            raise CommandError(f'chardev: "{identifier}" missing backend')
        kind = {"unix": "socket", "tcp": "socket"}.get(kind, kind)
        if kind in OTHER_KINDS:
            raise CommandError(f"Character device '{kind}' is not supported by this emulator")
        if kind == "fd":
            raise CommandError("Parameter 'driver' expects a non-abstract device type")
        if kind not in {"socket", "stdio", "null"}:
            raise CommandError(f"'{kind}' is not a valid char driver name")
        given = {name: _typed(name, value) for name, value in options.items()}
        for name in _REFUSED:
            if given.get(name):
                raise CommandError(f"Option '{name}' is not supported by this emulator")
        if identifier in self._devices:
            raise CommandError(
                f"attempt to add duplicate property '{identifier}' to object (type 'container')"
            )
        device = Chardev(identifier, kind)
        if kind == "stdio":
            if self._daemon:
                raise CommandError("cannot use stdio with -daemonize")
            if any(each.kind == "stdio" for each in self._devices.values()):
                raise CommandError("cannot use stdio by multiple character devices")
        elif kind == "socket":
            await self._open_socket(device, given)
        self._devices[identifier] = device

    def take(self, identifier: str) -> Chardev:
        """Return a device for a monitor, which has it alone from now on.

        Raises:
            CommandError: there is none of this id, or it is in use.
        """
        device = self._devices.get(identifier)
        if device is None:
            raise CommandError(f'chardev "{identifier}" not found')
        if device.used:
            raise CommandError(f"Device '{identifier}' is in use")
        device.used = True
        return device

    def close(self, *, keep_files: bool = False) -> None:
        """Close what no monitor has taken, and remove the files of listening sockets.

        Args:
            keep_files: leave those files where they are.
        """
        for device in self._devices.values():
            if not keep_files:
                for file in device.files:
                    file.unlink()
            if not device.used:
                for each in (*device.listeners, device.connected):
                    if each is not None:
                        each.close()

    # -- sockets ----------------------------------------------------------------------------

    async def _open_socket(self, device: Chardev, given: Mapping[str, Any]) -> None:
        server = given.get("server", False)
        waits = given.get("wait", server)
        device.reconnect = given.get("reconnect", 0)
        address = _address(given)
        if server and device.reconnect:
            raise CommandError(
                "'reconnect' option is incompatible with socket in server listen mode"
            )
        if not server and "wait" in given:
            raise CommandError("'wait' option is incompatible with socket in client connect mode")
        if server:
            await self._listen(device, address)
            if waits:
                await self._wait(device, address)
            return
        if address["type"] == "fd":
            device.connected = inherited_socket(address["data"]["str"])
            return
        try:
            device.connected = await _connect(address["type"], address["data"])
        except CommandError as error:
            if not device.reconnect:
                raise
            device.address = address
            self._told(f"Unable to connect character device {device.id}: {error}", info=False)
        else:
            if device.reconnect:
                device.address = address

    async def _listen(self, device: Chardev, address: Mapping[str, Any]) -> None:
        if address["type"] == "fd":
            listener = inherited_socket(address["data"]["str"])
            listener.listen(BACKLOG)
            listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
            device.listeners.append(listener)
            return
        await listen(_Listeners(device), address, passes_files=False)
        for each in device.listeners:
            each.setblocking(False)  # noqa: FBT003 - the standard library's signature

    async def _wait(self, device: Chardev, address: Mapping[str, Any]) -> None:
        """Let nothing go on until a client is there."""
        self._told(f"QEMU waiting for connection on: disconnected:{_shown(address)},server=on")
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(loop.sock_accept(each)) for each in device.listeners]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        device.connected = next(iter(done)).result()[0]


class _Listeners:
    """Collects what `listen` opens, as a server of NBD would."""

    def __init__(self, device: Chardev) -> None:
        self._device = device

    async def listen_unix(self, path: str | Path) -> None:
        made = open_unix(path, BACKLOG)
        self._device.files.append(made)
        self._device.listeners.append(made.socket)

    def listen_on(self, made: socket.socket) -> None:
        self._device.listeners.append(made)


async def serve_human(machine: Machine, device: Chardev) -> None:
    """Serve a monitor for humans at a device, until this is cancelled."""
    if device.kind == "null":
        return
    if device.kind == "stdio":
        await hmp.serve_stdio(machine)
    else:
        await hmp.serve_on(machine, device.listeners, first=device.connected)


async def serve(monitors: QmpServer, device: Chardev, *, pretty: bool) -> None:
    """Serve a monitor at a device, until the monitors close.

    Args:
        monitors: the monitors of the process.
        device: of this monitor.
        pretty: whether it prints over several lines.
    """
    if device.kind == "null":
        return
    if device.kind == "stdio":
        await monitors.serve_stdio(pretty=pretty)
        return
    if device.listeners or not device.reconnect:
        await monitors.serve_on(device.listeners, first=device.connected, pretty=pretty)
        return
    assert device.address is not None
    peer = device.connected
    while not monitors.closing:
        if peer is not None:
            await monitors.serve_on([], first=peer, pretty=pretty)
        await asyncio.sleep(device.reconnect)
        with contextlib.suppress(CommandError):
            peer = await _connect(device.address["type"], device.address["data"])
            continue
        peer = None


def _typed(name: str, value: str) -> Any:
    """Return an option's value as its type has it."""
    if name in _BOOLEANS:
        if value not in {"on", "off", "yes", "no", "true", "false", "y", "n"}:
            raise CommandError(f"Parameter '{name}' expects 'on' or 'off'")
        return value in {"on", "yes", "true", "y"}
    if name in {"reconnect", "to"}:
        if not value.isascii() or not value.isdecimal():
            raise CommandError(f"Parameter '{name}' expects a number")
        return int(value)
    return value


def _address(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the address of a socket, as the interface has it."""
    path, host = given.get("path"), given.get("host")
    if (path is not None) + (host is not None) + ("fd" in given) > 1:
        raise CommandError("None or one of 'path', 'fd' or 'host' option required.")
    if path is not None:
        return {"type": "unix", "data": _only(given, "path", "abstract", "tight")}
    if host is not None:
        if "port" not in given:
            raise CommandError("chardev: socket: no port given")
        return {"type": "inet", "data": _only(given, "host", "port", "to", "ipv4", "ipv6")}
    return {"type": "fd", "data": {"str": given.get("fd", "")}}


def _only(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def _shown(address: Mapping[str, Any]) -> str:
    data = address["data"]
    if address["type"] == "unix":
        return f"unix:{data['path']}"
    if address["type"] == "inet":
        return f"tcp:{data['host']}:{data['port']}"
    return f"fd:{data['str']}"


async def _connect(kind: str, data: Mapping[str, Any]) -> socket.socket:
    """Return a socket that is connected; the texts are QEMU's."""
    loop = asyncio.get_running_loop()
    if kind == "unix":
        name = os.fsencode(data["path"])
        where = b"\0" + name if data.get("abstract") else name
        shown = f"'{data['path']}'"
        tries: list[tuple[int, Any]] = [(socket.AF_UNIX, where)]
    else:
        shown = f"'{data['host']}:{data['port']}'"
        try:
            found = await loop.getaddrinfo(data["host"], data["port"], type=socket.SOCK_STREAM)
        except OSError as error:
            raise CommandError(
                f"address resolution failed for {data['host']}:{data['port']}: {error.strerror}"
            ) from error
        tries = [(family, where) for family, _, _, _, where in found]
    reason = ""
    for family, where in tries:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)  # noqa: FBT003 - the standard library's signature
        try:
            await loop.sock_connect(made, where)
        except OSError as error:
            made.close()
            reason = os.strerror(error.errno or 0)
        except BaseException:
            made.close()
            raise
        else:
            return made
    raise CommandError(f"Failed to connect to {shown}: {reason}")
