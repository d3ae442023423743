"""A QMP monitor on a unix socket, TCP or standard input and output.

Each ``listen_...`` is one monitor, as one character device of QEMU is: it serves one client at a
time, and others wait in the queue of the listening socket until that one goes. Commands of all
monitors run one after another; a client that does not read delays nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from nbexport.errors import CommandError, UsageError
from nbexport.qmp.connection import (
    CONNECTED,
    DISCONNECTED,
    FLUSH_LIMIT,
    Connection,
    Observer,
)
from nbexport.qmp.endpoints import (
    Channel,
    listen_on_tcp,
    listen_on_unix,
    standard_channel,
    stream_channel,
)
from nbexport.qmp.policy import PolicyCrashError
from nbexport.qmp.session import Request, Session
from nbexport.qmp.throttle import Emission, Throttle

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from pathlib import Path

    from nbexport.listening import UnixListener
    from nbexport.qmp.dispatch import Dispatcher
    from nbexport.qmp.throttle import RateLimit

_log = logging.getLogger(__name__)

# How long to wait after the kernel refused to accept a connection, in seconds.
ACCEPT_PAUSE = 0.1


class QmpServer:
    """Monitors that share the commands of one program.

    Args:
        dispatcher: the commands.
        version: the result object of ``query-version``.
        clock: gives the time as seconds since 1970 and microseconds, for events.
        pretty: print indented, unless a monitor's own setting says otherwise.
        capabilities: what greetings offer.
        limits: of the events that may be sent only so often.
        observer: sees what comes from clients and goes to them.
        abort: ends the process at once when the policy wants a crash; by default the server
            closes without an answer.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        version: Mapping[str, Any],
        clock: Callable[[], tuple[int, int]],
        pretty: bool = False,
        capabilities: Sequence[str] = ("oob",),
        limits: Mapping[str, RateLimit] | None = None,
        observer: Observer | None = None,
        abort: Callable[[], object] | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._version = version
        self._clock = clock
        self._pretty = pretty
        self._capabilities = tuple(capabilities)
        self._throttle = Throttle(limits or {})
        self._timer: asyncio.TimerHandle | None = None
        self._observer = observer
        self._abort = abort
        self._count = 0
        self._turn = asyncio.Lock()
        self._clients: set[Connection] = set()
        self._monitors: set[asyncio.Task[None]] = set()
        self._commands: set[asyncio.Task[None]] = set()
        self._unix: list[UnixListener] = []
        self._listening: list[socket.socket] = []
        self._closing = False
        self._over = asyncio.Event()
        self._stopped = asyncio.Event()

    # -- monitors ---------------------------------------------------------------------------

    async def listen_unix(self, path: str | Path, *, pretty: bool | None = None) -> None:
        """Serve a monitor on a unix socket from now on.

        A socket that nobody listens on any more is replaced; anything else at the path is left
        alone.

        Args:
            path: the socket.
            pretty: whether this monitor prints indented; None for the server's setting.

        Raises:
            UsageError: the path is occupied, too long, or cannot be used; it is named.
        """
        listener = listen_on_unix(path)
        self._unix.append(listener)
        self._start([listener.socket], pretty=pretty)

    async def listen_tcp(
        self, host: str, port: int, *, pretty: bool | None = None
    ) -> tuple[str, int]:
        """Serve a monitor on all addresses of a host from now on.

        Args:
            host: name or address.
            port: 0 lets the kernel choose.
            pretty: whether this monitor prints indented; None for the server's setting.

        Returns:
            The first address and its port.

        Raises:
            UsageError: the address cannot be used; it is named.
        """
        sockets = await listen_on_tcp(host, port)
        address = sockets[0].getsockname()
        self._start(sockets, pretty=pretty)
        return str(address[0]), int(address[1])

    async def serve_stdio(self, *, pretty: bool | None = None) -> None:
        """Serve a monitor on standard input and output until the input ends or the server does.

        Args:
            pretty: whether this monitor prints indented; None for the server's setting.

        Raises:
            UsageError: they cannot be used.
        """
        channel = await standard_channel()
        await self._serve(channel, self._number(), pretty=pretty)

    async def serve_on(
        self,
        sockets: Sequence[socket.socket],
        *,
        first: socket.socket | None = None,
        pretty: bool | None = None,
    ) -> None:
        """Serve a monitor on sockets that listen already, until the server closes them.

        Args:
            sockets: they do not block; none if only ``first`` is to be served.
            first: a client that has been accepted.
            pretty: whether this monitor prints indented; None for the server's setting.
        """
        self._listening += sockets
        number = self._number()
        if first is not None and not self._stopped.is_set():
            await self._serve(await stream_channel(first), number, pretty=pretty)
        if sockets:
            await self._accept(list(sockets), number, pretty=pretty)

    def _number(self) -> int:
        """Return the number of the next monitor, from 0."""
        self._count += 1
        return self._count - 1

    def _start(self, sockets: list[socket.socket], *, pretty: bool | None) -> None:
        self._listening += sockets
        task = asyncio.get_running_loop().create_task(
            self._accept(sockets, self._number(), pretty=pretty)
        )
        self._monitors.add(task)
        task.add_done_callback(self._monitors.discard)

    def spawn_command(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a command beside everything else until it ends or the server closes."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)
        return task

    async def _accept(
        self, sockets: list[socket.socket], monitor: int, *, pretty: bool | None
    ) -> None:
        """Serve the clients of one monitor, one after another, until the server closes."""
        while not self._stopped.is_set():
            for client in await self._next_clients(sockets):
                if self._stopped.is_set():
                    client.close()
                else:
                    await self._serve(await stream_channel(client), monitor, pretty=pretty)

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

    async def _serve(self, channel: Channel, monitor: int, *, pretty: bool | None) -> None:
        session = Session(
            self._dispatcher.schema,
            version=self._version,
            release=self._dispatcher.release,
            capabilities=self._capabilities,
            pretty=self._pretty if pretty is None else pretty,
            policy=self._dispatcher.policy,
        )
        if self._observer is not None:
            self._observer(monitor, CONNECTED, b"")
        observe = None if self._observer is None else partial(self._observer, monitor)
        client = Connection(self, session, channel, observe)
        self._clients.add(client)
        try:
            await client.run()
        finally:
            self._clients.discard(client)
            if self._observer is not None:
                self._observer(monitor, DISCONNECTED, b"")

    # -- what the program does with it ------------------------------------------------------

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event to every client that has finished its negotiation.

        What is emitted while a command runs reaches its client before the reply. An event that
        has a rate limit may be held back, or replaced by a later one; one that the policy hides,
        or that was removed from the interface, is dropped.

        Args:
            event: the event.
            data: its data; None for an event without.

        Raises:
            UsageError: the interface has no such event.
        """
        entity = self._dispatcher.schema.event(event)
        if entity is None:
            if event in self._dispatcher.removed:
                return
            raise UsageError(f"the schema has no event {event}")
        if self._dispatcher.policy.hides(self._dispatcher.schema, entity):
            return
        now = asyncio.get_running_loop().time()
        self._send(self._throttle.submit(Emission(event, data, self._clock()), now))

    def _send(self, emissions: list[Emission]) -> None:
        """Send events, and be there when one that waits is due."""
        for emission in emissions:
            for client in list(self._clients):
                client.session.event(emission.event, emission.data, emission.stamp)
                client.flush()
        due = self._throttle.next_time
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None and not self._stopped.is_set():
            self._timer = asyncio.get_running_loop().call_at(due, self._expire)

    def _expire(self) -> None:
        # a timer may go off a little early: the clock's resolution
        now = max(asyncio.get_running_loop().time(), self._throttle.next_time or 0.0)
        self._send(self._throttle.expire(now))

    def request_close(self) -> None:
        """Close everything as soon as the command that runs, if any, is answered.

        No further command is taken. `wait_closed` returns when it is done.
        """
        self._closing = True
        if not self._turn.locked():
            self._over.set()

    async def wait_requested(self) -> None:
        """Wait until a close was requested; what comes first is to be done before `close`."""
        await self._over.wait()

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
        if self._timer is not None:
            self._timer.cancel()
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

    async def run_command(self, client: Connection, request: Request) -> None:
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

    async def _answer(self, client: Connection, request: Request) -> None:
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
        except PolicyCrashError:
            self._crash()
        except Exception as error:
            # a fault of ours must not leave the client without an answer
            _log.exception("command %s failed", request.command)
            session.fail(request, CommandError(f"internal error: {error}"))
        client.flush()

    def _crash(self) -> None:
        """End as a process does that aborts: nobody gets another byte."""
        if self._abort is not None:
            self._abort()
        for client in list(self._clients):
            client.break_off()
        self._closing = True
        self._over.set()

    @property
    def closing(self) -> bool:
        """Whether no further command is taken."""
        return self._closing
