"""Where ``nbexport serve`` listens, and how long it runs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from nbexport import nbd
from nbexport.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ACTIVATION_FIRST_FD = 3
"""Where a service manager puts the first socket (sd_listen_fds(3))."""
ACTIVATION_FDS_MAX = 64
"""Sockets that are taken from it: an address for each network a host has, and to spare."""


@dataclass
class Listening:
    """Where to listen.

    Attributes:
        path: of a unix socket, or None.
        hosts: names or addresses for TCP.
        port: for TCP.
        sockets: those that listen already.
        client: one client that is connected already, and is all there is.
    """

    path: str | None = None
    hosts: tuple[str, ...] = ()
    port: int = nbd.DEFAULT_PORT
    sockets: list[socket.socket] = field(default_factory=list)
    client: socket.socket | None = None

    @classmethod
    def choose(
        cls, path: str | None, hosts: tuple[str, ...], port: int | None, fd: int | None
    ) -> Listening:
        """Return what the options and the environment ask for.

        Raises:
            UsageError: a file descriptor is no socket of the right kind.
            click.UsageError: the options do not go together.
        """
        given = [
            name
            for name, value in (("--socket", path), ("--bind", hosts or None), ("--port", port))
            if value is not None
        ]
        if path is not None and len(given) > 1:
            raise click.UsageError("--socket does not go with --bind or --port.")
        if fd is not None:
            if given:
                raise click.UsageError(f"{given[0]} does not go with --fd.")
            taken = take_socket(fd)
            if taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return cls(sockets=[taken])
            return cls(client=taken)
        handed = activated_sockets(os.environ)
        if handed:
            if given:
                for each in handed:
                    each.close()
                raise click.UsageError(f"{given[0]} can't be set when using socket activation.")
            return cls(sockets=handed)
        return cls(path, hosts or ("127.0.0.1",), nbd.DEFAULT_PORT if port is None else port)


def take_socket(fd: int) -> socket.socket:
    """Return an inherited stream socket.

    Raises:
        UsageError: the descriptor is not open, or is something else.
    """
    try:
        found = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"file descriptor {fd} is not a socket: {error.strerror}") from error
    if found.type != socket.SOCK_STREAM:
        found.detach()
        raise UsageError(f"file descriptor {fd} is not a stream socket")
    found.set_inheritable(False)
    return found


def activated_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that a service manager handed over, none if it did not.

    The variables are removed: programs that are started later must not take them for theirs.

    Args:
        environment: with LISTEN_PID and LISTEN_FDS, if there are any.

    Raises:
        UsageError: the number is not one, or a socket does not listen.

    Source: sd_listen_fds(3).
    """
    pid, count = environment.get("LISTEN_PID"), environment.get("LISTEN_FDS")
    if pid is None or count is None or pid != str(os.getpid()):
        return []
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    if not count.isascii() or not count.isdigit() or not 0 <= int(count) <= ACTIVATION_FDS_MAX:
        raise UsageError(f"LISTEN_FDS: not a number of sockets up to {ACTIVATION_FDS_MAX}: {count}")
    sockets: list[socket.socket] = []
    try:
        for fd in range(ACTIVATION_FIRST_FD, ACTIVATION_FIRST_FD + int(count)):
            sockets.append(take_socket(fd))
            if not sockets[-1].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise UsageError(f"file descriptor {fd} does not listen")
    except UsageError:
        for taken in sockets:
            taken.close()
        raise
    return sockets


async def serve(
    make_server: Callable[[], nbd.NbdServer], export: nbd.Export, listening: Listening
) -> None:
    """Serve an export until a signal comes, or the only client has gone.

    Args:
        make_server: makes the server; called once, in the event loop.
        export: what to offer.
        listening: where.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    server = make_server()
    try:
        server.add(export)
        if listening.client is not None:
            await _serve_one(server, listening.client, stop)
            return
        if listening.sockets:
            # Who made them knows where they are, and may share its output with us.
            for each in listening.sockets:
                server.listen_on(each)
            await stop.wait()
            return
        if listening.path is not None:
            await server.listen_unix(listening.path)
        else:
            await _listen_tcp(server, listening)
        for uri in server.uris(export.name):
            click.echo(uri)
        await stop.wait()
    finally:
        await server.close()
        for number in SIGNALS:  # all is done: another one has nothing to end
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


async def _listen_tcp(server: nbd.NbdServer, listening: Listening) -> None:
    port = listening.port
    for host in listening.hosts:
        found = await server.listen_tcp(host, port)
        # The kernel chooses once; the other addresses get the same port.
        port = found[0][1]


async def _serve_one(server: nbd.NbdServer, client: socket.socket, stop: asyncio.Event) -> None:
    work = asyncio.ensure_future(server.serve_client(client))
    signalled = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((work, signalled), return_when=asyncio.FIRST_COMPLETED)
    finally:
        signalled.cancel()
        if stop.is_set():
            await server.close()
        await asyncio.wait((work, signalled))
