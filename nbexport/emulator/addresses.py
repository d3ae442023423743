"""Where ``nbd-server-start`` listens: socket addresses as QAPI has them, and QEMU's words.

As in QEMU, whatever is at a unix socket's path is removed before, but for a folder.

Source: QEMU's ``qapi/sockets.json``; the texts were compared with 7.2.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.errors import CommandError, UsageError
from nbexport.listening import UNIX_PATH_MAX, is_early, tcp_listeners

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    class Listener(Protocol):
        """What gets listening sockets."""

        async def listen_unix(self, path: str) -> object:
            """Listen at a path."""

        def listen_on(self, listener: socket.socket) -> None:
            """Take a socket that listens."""


_ABSTRACT_MAX = UNIX_PATH_MAX - 1
"""Bytes of a name that is in no file system: another one says that it is such a name."""
_UINT32_MAX = (1 << 32) - 1


async def listen(
    server: Listener,
    address: Mapping[str, Any],
    *,
    passes_files: bool,
    takes_numbers: bool = False,
) -> None:
    """Open the listening sockets that a legacy socket address describes.

    Args:
        server: gets them.
        address: with its ``type`` and ``data``.
        passes_files: whether the program knows ``getfd``.
        takes_numbers: whether a descriptor that was inherited can be named by its number, which
            holds for the command line.

    Raises:
        CommandError: nobody can listen there.
    """
    kind, data = address["type"], address["data"]
    if kind == "unix":
        await _listen_unix(server, data)
    elif kind == "inet":
        await _listen_inet(server, data)
    elif kind == "vsock":
        server.listen_on(_vsock(data))
    elif takes_numbers:
        listener = inherited_socket(data["str"])
        listener.listen(socket.SOMAXCONN)
        listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        server.listen_on(listener)
    elif passes_files:
        # No descriptor can have been handed over: there is no getfd.
        raise CommandError(f"File descriptor named '{data['str']}' has not been found")
    else:
        raise CommandError("only QEMU supports file descriptor passing")


def inherited_socket(text: str) -> socket.socket:
    """Return the socket whose descriptor has this number; it belongs to the caller.

    Raises:
        CommandError: it is no number, or not one of a socket.
    """
    if not text.isascii() or not text.isdecimal():
        raise CommandError(f"Unable to parse FD number {text}")
    try:
        return socket.socket(fileno=int(text))
    except (OSError, OverflowError) as error:
        raise CommandError(f"File descriptor '{text}' is not a socket") from error


async def _listen_unix(server: Listener, data: Mapping[str, Any]) -> None:
    path: str = data["path"]
    if data.get("abstract", False):
        server.listen_on(_abstract(path, tight=data.get("tight", True)))
        return
    if not path:
        path = tempfile.mktemp(prefix="qemu-socket-")  # noqa: S306 - bind refuses what exists
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise _too_long(path, UNIX_PATH_MAX)
    try:
        if not is_early(path):
            Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(f"Failed to unlink socket {path}: {error.strerror}") from error
    try:
        await server.listen_unix(path)
    except OSError as error:
        reason = error.strerror or error
        raise CommandError(f"Failed to bind socket to {path}: {reason}") from error
    except UsageError as error:
        raise CommandError(str(error)) from error


def _too_long(path: str, limit: int) -> CommandError:
    """Return the error of a name that is too long, caused by one with the hint for a terminal."""
    text = f"UNIX socket path '{path}' is too long"
    error = CommandError(text)
    error.__cause__ = CommandError(f"{text}\nPath must be less than {limit} bytes")
    return error


def _abstract(name: str, *, tight: bool) -> socket.socket:
    """Return a listening socket with a name that is in no file system."""
    encoded = os.fsencode(name)
    if len(encoded) > _ABSTRACT_MAX:
        raise _too_long(name, _ABSTRACT_MAX)
    address = b"\0" + encoded
    if not tight:
        address = address.ljust(UNIX_PATH_MAX, b"\0")
    return _bound(socket.AF_UNIX, address, f" to {name}")


def _vsock(data: Mapping[str, Any]) -> socket.socket:
    """Return a listening socket that virtual machines reach."""
    numbers = []
    for what in ("cid", "port"):
        text: str = data[what].lstrip()
        if not text.isascii() or not text.isdigit() or int(text) > _UINT32_MAX:
            raise CommandError(f"Failed to parse {what} '{data[what]}'")
        numbers.append(int(text))
    return _bound(socket.AF_VSOCK, tuple(numbers), "")


def _bound(family: int, address: Any, where: str) -> socket.socket:
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise CommandError(f"Failed to create socket: {error.strerror}") from error
    try:
        made.bind(address)
        made.listen(socket.SOMAXCONN)
    except OSError as error:
        made.close()
        raise CommandError(f"Failed to bind socket{where}: {error.strerror}") from error
    return made


def _family(data: Mapping[str, Any]) -> int:
    """Return the address family that the two switches ask for."""
    four, six = data.get("ipv4"), data.get("ipv6")
    if four is False and six is False:
        raise CommandError("Cannot disable IPv4 and IPv6 at same time")
    if four and six:
        return socket.AF_UNSPEC
    if six or four is False:
        return socket.AF_INET6
    if four or six is False:
        return socket.AF_INET
    return socket.AF_UNSPEC


async def _listen_inet(server: Listener, data: Mapping[str, Any]) -> None:
    host, port = data["host"], data["port"]
    family = _family(data)
    flags = socket.AI_PASSIVE
    if data.get("numeric", False):
        flags |= socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            host or None, port or None, family=family, type=socket.SOCK_STREAM, flags=flags
        )
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        text = f"address resolution failed for {host}:{port}: {reason}"
        raise CommandError(text) from error
    for listener in _first_free(found, data.get("to")):
        if data.get("keep-alive", False):
            # Who is accepted inherits it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        server.listen_on(listener)


def _first_free(found: list[tuple[Any, ...]], last: int | None) -> list[socket.socket]:
    """Return sockets that listen at the port, or at the next free one up to ``last``."""
    first: int = found[0][4][1]
    number, text = errno.ENOTCONN, "Failed to create a socket"
    for port in range(first, (first if last is None else last) + 1):
        try:
            return tcp_listeners(found, port, socket.SOMAXCONN)
        except OSError as error:
            number, text = error.errno or 0, "Failed to find an available port"
            if error.errno != errno.EADDRINUSE:
                text = "Failed to bind socket"
                break
    raise CommandError(f"{text}: {os.strerror(number)}")
