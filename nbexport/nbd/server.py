"""The server: exports, listening sockets, and who is connected."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from nbexport import heap
from nbexport.errors import UsageError
from nbexport.listening import UnixListener, open_unix, tcp_listeners
from nbexport.nbd.connection import Connection, Settings
from nbexport.nbd.negotiation import TlsMode
from nbexport.nbd.profile import QEMU_7_2, Profile
from nbexport.nbd.uri import NbdUri

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbexport.nbd.export import Export
    from nbexport.nbd.tls import Tls

_log = logging.getLogger(__name__)

THREADS_MAX = 128
"""Threads of a server: 32 connections can wait for a slow disk before the next one does."""
GRACE_SECONDS = 2.0
"""How long closing lets clients read the replies to what is under way."""
CROWD = 16
"""So many clients at a time leave enough memory behind to be worth giving back."""
SETTLING_SECONDS = 0.25
"""How long a client that seems to leave is waited for before it counts as staying."""
CLOSE_SECONDS = 5.0
"""How long closing waits for connections that it had to cut."""


class NbdServer:
    """Exports, listening sockets and connections.

    Args:
        max_connections: connections at a time; 0 is no limit. More wait unanswered in the queue
            of the listening socket.
        handshake_seconds: how long a client may take to choose an export; 0 is no limit.
        write_seconds: how long a client may leave a reply unread; 0 is no limit.
        profile: whom to behave like.
        tls: certificates or keys, and whether clients must use them; None for no TLS.
        on_gone: called when a client has left, with whether it had chosen an export.
    """

    def __init__(
        self,
        *,
        max_connections: int = 100,
        handshake_seconds: float = 10.0,
        write_seconds: float = 120.0,
        profile: Profile = QEMU_7_2,
        tls: Tls | None = None,
        on_gone: Callable[[bool], None] = lambda _chosen: None,
    ) -> None:
        self._on_gone = on_gone
        self.exports: dict[str, Export] = {}
        self._slots = asyncio.Semaphore(max_connections) if max_connections else None
        self._connections: set[Connection] = set()
        self._crowd = 0  # the most of them since memory was given back
        self._was_crowded = False  # whether the last of a crowd are still there
        self._accepting: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[socket.socket] = []
        self._unix: list[UnixListener] = []
        self._pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="nbd")
        self._tls = tls
        self._settings = Settings(
            lambda: self.exports,
            self._pool,
            profile,
            tls,
            handshake_seconds or None,
            write_seconds or None,
        )

    # Exports

    def add(self, export: Export) -> None:
        """Offer an export from now on.

        Raises:
            UsageError: the name is taken.
        """
        if export.name in self.exports:
            raise UsageError(f"NBD server already has export named '{export.name}'")
        self.exports[export.name] = export

    def clients_of(self, name: str) -> int:
        """Return how many connections have chosen the export."""
        return sum(c.export is not None and c.export.name == name for c in self._connections)

    @property
    def is_idle(self) -> bool:
        """Whether nobody is connected."""
        return not self._connections

    async def settle(self, name: str) -> int:
        """Let clients of an export go that are about to, and return how many stay.

        A client that has left before a question was asked must not be counted in its answer, though
        the event loop may not have come to it yet.
        """
        deadline = time.monotonic() + SETTLING_SECONDS
        while time.monotonic() < deadline:
            of = [c for c in self._connections if c.export is not None and c.export.name == name]
            if not any(connection.may_be_leaving() for connection in of):
                break
            await asyncio.sleep(SETTLING_SECONDS / 100)
        return self.clients_of(name)

    async def remove(self, name: str, *, hard: bool = False) -> None:
        """Stop offering an export, and return when nobody uses it any more.

        Args:
            name: the export; nothing happens if it is not there.
            hard: cut its connections; without it they are waited for.
        """
        export = self.exports.pop(name, None)
        # By name: who connected before the export was replaced uses it all the same.
        users = [
            c for c in self._connections if export and c.export and c.export.name == export.name
        ]
        if hard:
            for connection in users:
                connection.cut()
        if users:
            await asyncio.wait([c.task for c in users])

    # Listening

    async def listen_unix(self, path: str) -> None:
        """Accept connections on a unix socket.

        A socket that nobody listens on any more is replaced; nothing else is removed.

        Raises:
            UsageError: something else is at the path, or somebody listens there.
            OSError: the socket cannot be made there.
        """
        listener = open_unix(path, socket.SOMAXCONN)
        self._unix.append(listener)
        self._listen(listener.socket)

    async def listen_tcp(self, host: str | None, port: int) -> list[tuple[str, int]]:
        """Accept connections on every address of a host.

        Args:
            host: name or address; None for all addresses of this machine.
            port: 0 lets the kernel choose; then all addresses get the same one.

        Returns:
            The addresses and their ports.

        Raises:
            OSError: an address cannot be listened on, or the name is unknown.
        """
        loop = asyncio.get_running_loop()
        kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
        try:
            found = await loop.getaddrinfo(host, port, type=kind, flags=flags)
        except OSError as error:
            error.filename = host
            raise
        listeners = tcp_listeners(found, port, socket.SOMAXCONN)
        for listener in listeners:
            self._listen(listener)
        return [listener.getsockname()[:2] for listener in listeners]

    def listen_on(self, listener: socket.socket) -> None:
        """Accept connections on a socket that listens already, and close it at the end."""
        listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._listen(listener)

    async def serve_client(self, client: socket.socket) -> None:
        """Serve one client that is connected already, until it has gone."""
        client.setblocking(False)  # noqa: FBT003 - the standard library's signature
        if self._slots is not None:
            await self._slots.acquire()
        await asyncio.wait([self._spawn(client)])

    def _listen(self, listener: socket.socket) -> None:
        self._listeners.append(listener)
        task = asyncio.get_running_loop().create_task(self._accept(listener))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    def uris(self, export: str = "") -> list[str]:
        """Return the URIs of an export, one for each listening socket."""
        uris = []
        for listener in self._listeners:
            name = listener.getsockname()
            if listener.family == socket.AF_UNIX:
                if not name or isinstance(name, bytes):
                    continue  # without a path: no URI says that
                uri = str(NbdUri(export, os.path.abspath(name)))  # noqa: PTH100
            else:
                uri = str(NbdUri(export, None, name[0], name[1]))
            if self._tls is not None and self._tls.mode is TlsMode.REQUIRED:
                uri = uri.replace("nbd", "nbds", 1)
            uris.append(uri)
        return uris

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            # A slot is taken when somebody is there: listeners that wait must not hold any.
            await _readable(listener)
            if self._slots is not None:
                await self._slots.acquire()
            try:
                client, _ = listener.accept()
                client.setblocking(False)  # noqa: FBT003 - the standard library's signature
            except OSError as error:
                if self._slots is not None:
                    self._slots.release()
                if not isinstance(error, BlockingIOError | ConnectionError):
                    _log.warning("cannot accept a connection: %s", error)
                    await asyncio.sleep(0.1)  # out of descriptors, most likely
                continue
            self._spawn(client)

    def _spawn(self, client: socket.socket) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, client: socket.socket) -> None:
        connection = Connection(self._settings, client)
        self._connections.add(connection)
        self._crowd = max(self._crowd, len(self._connections))
        try:
            await connection.run()
        except (OSError, EOFError) as error:
            _log.debug("a client has gone: %s", error)
        except asyncio.CancelledError:
            pass  # cut by us
        except Exception:
            _log.exception("a connection failed")
        finally:
            self._connections.discard(connection)
            client.close()
            self._after_a_crowd()
            if self._slots is not None:
                self._slots.release()
            self._on_gone(connection.transmission is not None)

    def _after_a_crowd(self) -> None:
        """Give memory back when most of many clients have left, and when the last one has."""
        left = len(self._connections)
        if left > self._crowd // 4:
            return
        if self._crowd >= CROWD or (self._was_crowded and not left):
            heap.give_back()
            self._was_crowded = left > 0
        self._crowd = left

    async def close(self, *, keep_files: bool = False) -> None:
        """Stop listening, answer what is under way, and end every connection.

        A client that has not chosen an export yet is cut at once, one that does not read its
        replies after a while.

        Args:
            keep_files: leave the files of unix sockets where they are.
        """
        if not keep_files:
            for listener in self._unix:
                listener.unlink()
        self._unix.clear()
        for task in self._accepting:
            task.cancel()
        if self._accepting:
            await asyncio.wait(list(self._accepting))
        await asyncio.sleep(0)  # who was accepted last is known from here on
        for connection in tuple(self._connections):
            connection.finish()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=GRACE_SECONDS)
        for connection in tuple(self._connections):
            connection.cut()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=CLOSE_SECONDS)
        for listening in self._listeners:
            listening.close()
        self._listeners.clear()
        self.exports.clear()
        # A thread that hangs in a read of a dead disk must not hold up the rest.
        self._pool.shutdown(wait=False, cancel_futures=True)


async def _readable(listener: socket.socket) -> None:
    """Wait until a connection can be accepted."""
    loop = asyncio.get_running_loop()
    somebody = asyncio.Event()
    loop.add_reader(listener, somebody.set)
    try:
        await somebody.wait()
    finally:
        loop.remove_reader(listener)
