"""A QMP monitor on a unix socket, TCP or standard input and output.

Each ``listen_...`` is one monitor, as one character device of QEMU is: it serves one client at a
time, and others wait in the queue of the listening socket until that one goes. Commands of all
monitors run one after another; a client that does not read delays nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from nbexport.errors import CommandError, UsageError
from nbexport.qmp.endpoints import (
    Channel,
    listen_on_tcp,
    listen_on_unix,
    standard_channel,
    stream_channel,
)
from nbexport.qmp.session import Request, Session
from nbexport.units import KiB, MiB

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from nbexport.listening import UnixListener
    from nbexport.qmp.dispatch import Dispatcher

_log = logging.getLogger(__name__)

# A piece of input is at most this long; the worst one, a lone bracket in each byte, is answered in
# some 50 ms, in which nobody else is served. Together with the reader's own limits a client can
# make the server hold 64 MiB of text.
READ_SIZE = 2 * KiB
# The next request waits until less than asyncio's high-water mark (64 KiB) is unsent; what can
# still pile up is one reply and events. The largest reply, a whole schema, has 200 KiB; a client
# that leaves this much unread is not reading at all and is disconnected.
MAX_UNSENT = 16 * MiB
# How long a reply may take to leave when the server closes, in seconds.
FLUSH_LIMIT = 2.0
# How long to wait after the kernel refused to accept a connection, in seconds.
ACCEPT_PAUSE = 0.1


class QmpServer:
    """Monitors that share the commands of one program.

    Args:
        dispatcher: the commands.
        version: the result object of ``query-version``.
        clock: gives the time as seconds since 1970 and microseconds, for events.
        pretty: print indented.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        version: Mapping[str, Any],
        clock: Callable[[], tuple[int, int]],
        pretty: bool = False,
    ) -> None:
        self._dispatcher = dispatcher
        self._version = version
        self._clock = clock
        self._pretty = pretty
        self._turn = asyncio.Lock()
        self._clients: set[_Client] = set()
        self._monitors: set[asyncio.Task[None]] = set()
        self._commands: set[asyncio.Task[None]] = set()
        self._unix: list[UnixListener] = []
        self._listening: list[socket.socket] = []
        self._closing = False
        self._over = asyncio.Event()
        self._stopped = asyncio.Event()

    # -- monitors ---------------------------------------------------------------------------

    async def listen_unix(self, path: str | Path) -> None:
        """Serve a monitor on a unix socket from now on.

        A socket that nobody listens on any more is replaced; anything else at the path is left
        alone.

        Raises:
            UsageError: the path is occupied, too long, or cannot be used; it is named.
        """
        listener = listen_on_unix(path)
        self._unix.append(listener)
        self._start([listener.socket])

    async def listen_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Serve a monitor on all addresses of a host from now on.

        Args:
            host: name or address.
            port: 0 lets the kernel choose.

        Returns:
            The first address and its port.

        Raises:
            UsageError: the address cannot be used; it is named.
        """
        sockets = await listen_on_tcp(host, port)
        address = sockets[0].getsockname()
        self._start(sockets)
        return str(address[0]), int(address[1])

    async def serve_stdio(self) -> None:
        """Serve a monitor on standard input and output until the input ends or the server does.

        Raises:
            UsageError: they cannot be used.
        """
        channel = await standard_channel()
        await self._serve(channel)

    def _start(self, sockets: list[socket.socket]) -> None:
        self._listening += sockets
        task = asyncio.get_running_loop().create_task(self._accept(sockets))
        self._monitors.add(task)
        task.add_done_callback(self._monitors.discard)

    def spawn_command(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a command beside everything else until it ends or the server closes."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)
        return task

    async def _accept(self, sockets: list[socket.socket]) -> None:
        """Serve the clients of one monitor, one after another, until the server closes."""
        while not self._stopped.is_set():
            for client in await self._next_clients(sockets):
                if self._stopped.is_set():
                    client.close()
                else:
                    await self._serve(await stream_channel(client))

    async def _next_clients(self, sockets: list[socket.socket]) -> list[socket.socket]:
        """Wait for a client, or for the end; two can come at the same moment."""
        loop = asyncio.get_running_loop()
        stopped = loop.create_task(self._stopped.wait())
        tasks = [loop.create_task(loop.sock_accept(sock)) for sock in sockets]
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, *tasks):
            task.cancel()
        clients: list[socket.socket] = []
        for result in await asyncio.gather(stopped, *tasks, return_exceptions=True):
            if isinstance(result, tuple):
                clients.append(result[0])
            elif isinstance(result, OSError):
                _log.warning("cannot accept a monitor client: %s", result)
                # out of descriptors, most likely; they come back when clients go
                await asyncio.sleep(ACCEPT_PAUSE)
        return clients

    async def _serve(self, channel: Channel) -> None:
        session = Session(
            self._dispatcher.schema,
            version=self._version,
            release=self._dispatcher.release,
            pretty=self._pretty,
        )
        client = _Client(self, session, channel)
        self._clients.add(client)
        try:
            await client.run()
        finally:
            self._clients.discard(client)

    # -- what the program does with it ------------------------------------------------------

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event to every client that has finished its negotiation.

        What is emitted while a command runs reaches its client before the reply.

        Args:
            event: the event.
            data: its data; None for an event without.

        Raises:
            UsageError: the interface has no such event.
        """
        if self._dispatcher.schema.event(event) is None:
            raise UsageError(f"the schema has no event {event}")
        now = self._clock()
        for client in list(self._clients):
            client.session.event(event, data, now)
            client.flush()

    def request_close(self) -> None:
        """Close everything as soon as the command that runs, if any, is answered.

        No further command is taken. `wait_closed` returns when it is done.
        """
        self._closing = True
        if not self._turn.locked():
            self._over.set()

    async def wait_closed(self) -> None:
        """Wait until a close was requested, then close."""
        await self._over.wait()
        await self.close()

    async def close(self) -> None:
        """Stop listening, send what is unsent within ``FLUSH_LIMIT``, close all connections."""
        self._closing = True
        self._over.set()
        for listener in self._unix:
            listener.unlink()
        self._unix.clear()
        clients = list(self._clients)
        if clients:
            await asyncio.gather(*(client.drain(FLUSH_LIMIT) for client in clients))
        self._stopped.set()
        for client in clients:
            client.stop()
        current = asyncio.current_task()
        for task in self._commands - {current}:
            task.cancel()
        tasks = (self._monitors | self._commands) - {current}
        if tasks:
            await asyncio.wait(tasks, timeout=FLUSH_LIMIT)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sock in self._listening:
            sock.close()
        self._listening.clear()

    async def run_command(self, client: _Client, request: Request) -> None:
        """Run a command in its turn and answer it."""
        if request.oob:
            await self._answer(client, request)
            return
        async with self._turn:
            if self._closing:
                return
            await self._answer(client, request)
        if self.closing:
            self._over.set()

    async def _answer(self, client: _Client, request: Request) -> None:
        session = client.session
        try:
            result = await self._dispatcher.dispatch(
                request.command, request.arguments, oob=request.oob
            )
            if self._dispatcher.responds(request.command):
                session.reply(request, result)
            else:
                session.finish(request)
        except CommandError as error:
            session.fail(request, error)
        except Exception as error:
            # a fault of ours must not leave the client without an answer
            _log.exception("command %s failed", request.command)
            session.fail(request, CommandError(f"internal error: {error}"))
        client.flush()

    @property
    def closing(self) -> bool:
        """Whether no further command is taken."""
        return self._closing


class _Client:
    """One connection: its session and the tasks that move its bytes."""

    def __init__(self, server: QmpServer, session: Session, channel: Channel) -> None:
        self.session = session
        self._server = server
        self._channel = channel
        self._wake = asyncio.Event()
        self._ended = False
        self._command: asyncio.Task[None] | None = None
        self._main: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve the client until it goes or the server closes."""
        loop = asyncio.get_running_loop()
        self._main = loop.create_task(self._pump())
        reader = loop.create_task(self._read())
        try:
            # asyncio.wait lets a `stop` from outside end the main task alone
            await asyncio.wait([self._main])
            if not self._main.cancelled() and (error := self._main.exception()) is not None:
                if not isinstance(error, OSError):
                    raise error
                _log.debug("a monitor client has gone: %s", error)
        finally:
            for task in (reader, self._main):
                task.cancel()
            await asyncio.gather(reader, self._main, return_exceptions=True)
            # a command that runs for a client that has gone is still run to its end
            await self._channel.close()

    async def _read(self) -> None:
        """Feed the session whenever it wants data."""
        while True:
            try:
                data = await self._channel.read(READ_SIZE)
            except OSError:
                data = b""
            if not data:
                break
            self.session.receive_data(data)
            self._wake.set()
            while not self.session.wants_data:
                await self._channel.pause()
        self._ended = True
        self._wake.set()

    async def _pump(self) -> None:
        """Take requests as the session gives them; at the end of input finish what is there."""
        session = self.session
        while True:
            self.flush()
            await self._channel.drain()
            if self._server.closing and self._command is None:
                break
            self._wake.clear()
            request = session.next_request()
            if request is None:
                self.flush()
                self._channel.resume()
                if self._ended and self._command is None:
                    break
                await self._wake.wait()
            elif request.oob:
                await self._server.run_command(self, request)
            else:
                self._command = self._server.spawn_command(self._run(request))
        await self.drain(FLUSH_LIMIT)

    async def _run(self, request: Request) -> None:
        try:
            await self._server.run_command(self, request)
        finally:
            self._command = None
            self._wake.set()

    def flush(self) -> None:
        """Hand the session's output to the channel; drop a client that leaves too much unread."""
        data = self.session.data_to_send()
        if data:
            self._channel.write(data)
        if self._channel.unsent > MAX_UNSENT:
            _log.warning("a monitor client leaves %d bytes unread, dropped", self._channel.unsent)
            self._channel.abort()
            self.stop()

    async def drain(self, limit: float) -> None:
        """Wait until everything has been sent, or give up."""
        self.flush()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(limit):
                await self._channel.flushed()

    def stop(self) -> None:
        """End the connection from outside."""
        if self._main is not None:
            self._main.cancel()
