"""The transport of the server: sockets, connections, and the threads that read the disk.

A connection is one task. Its requests are read by threads of a pool that all connections share;
each connection has a bounded part of it, so that a slow disk or a slow client holds up nobody
else. Replies leave in the order in which they are ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from nbexport.errors import FormatError, UsageError
from nbexport.listening import UnixListener, tcp_listeners
from nbexport.nbd import wire
from nbexport.nbd.negotiation import ServerNegotiation
from nbexport.nbd.transmission import Request, ServerTransmission
from nbexport.nbd.uri import NbdUri
from nbexport.units import SECTOR_SIZE, KiB, MiB

if TYPE_CHECKING:
    from nbexport.nbd.export import Export

_log = logging.getLogger(__name__)

REQUESTS_MAX = 16
"""Requests of one connection under way; then it is not read from. QEMU's number."""
BYTES_MAX = 64 * MiB
"""Data of one connection's replies under way: two requests of the largest size."""
THREADS_PER_CLIENT = 4
"""Reads of one connection at a time."""
THREADS_MAX = 128
"""Threads of a server: 32 connections can wait for a slow disk before the next one does."""
READ_SIZE = 64 * KiB
CLOSE_SECONDS = 5.0
"""How long closing waits for replies that are under way."""
JOB_SECONDS = 3.0
"""How long the end of a connection waits for its threads: less than closing waits for it."""

_ERRNO = {
    errno.EPERM: wire.EPERM,
    errno.EROFS: wire.EPERM,
    errno.EIO: wire.EIO,
    errno.ENOMEM: wire.ENOMEM,
    errno.EINVAL: wire.EINVAL,
    errno.ENOSPC: wire.ENOSPC,
    errno.EDQUOT: wire.ENOSPC,
    errno.EFBIG: wire.ENOSPC,
    errno.EOVERFLOW: wire.EOVERFLOW,
    errno.ENOTSUP: wire.ENOTSUP,
    errno.ESHUTDOWN: wire.ESHUTDOWN,
}


def error_number(error: Exception) -> int:
    """Return the protocol's error value for what went wrong with the disk."""
    if isinstance(error, OSError) and error.errno is not None:
        return _ERRNO.get(error.errno, wire.EINVAL)
    return wire.EIO


class NbdServer:
    """Exports, listening sockets and connections.

    Args:
        max_connections: connections at a time; 0 is no limit. More wait unanswered in the queue
            of the listening socket.
        handshake_seconds: how long a client may take to choose an export; 0 is no limit.
    """

    def __init__(self, *, max_connections: int = 100, handshake_seconds: float = 10.0) -> None:
        self.exports: dict[str, Export] = {}
        self._handshake_seconds = handshake_seconds or None
        self._slots = asyncio.Semaphore(max_connections) if max_connections else None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[socket.socket] = []
        self._unix: list[UnixListener] = []
        self._pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="nbd")
        self._closing = False

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

    async def remove(self, name: str, *, hard: bool = False) -> None:
        """Stop offering an export, and return when nobody uses it any more.

        Args:
            name: the export; nothing happens if it is not there.
            hard: cut its connections; without it they are waited for.
        """
        export = self.exports.pop(name, None)
        users = [c for c in self._connections if c.export is export and export is not None]
        if hard:
            for connection in users:
                connection.cut()
        if users:
            await asyncio.wait([c.task for c in users])

    # Listening

    async def listen_unix(self, path: str) -> None:
        """Accept connections on a unix socket.

        A socket that nobody listens on any more is replaced; nothing else is ever removed.

        Raises:
            UsageError: something else is at the path, or somebody listens there.
            OSError: the socket cannot be made there.
        """
        listener = UnixListener(path, socket.SOMAXCONN)
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
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listeners = tcp_listeners(found, port, socket.SOMAXCONN)
        for listener in listeners:
            self._listen(listener)
        return [listener.getsockname()[:2] for listener in listeners]

    def _listen(self, listener: socket.socket) -> None:
        self._listeners.append(listener)
        self._spawn(self._accept(listener))

    def uris(self, export: str = "") -> list[str]:
        """Return the URIs of an export, one for each listening socket."""
        uris = []
        for listener in self._listeners:
            name = listener.getsockname()
            if listener.family == socket.AF_UNIX:
                uris.append(str(NbdUri(export, os.path.abspath(name))))  # noqa: PTH100
            else:
                uris.append(str(NbdUri(export, None, name[0], name[1])))
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
            self._spawn(self._serve(client))

    def _spawn(self, work: asyncio._CoroutineLike[None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, client: socket.socket) -> None:
        connection = _Connection(self, client)
        self._connections.add(connection)
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
            if self._slots is not None:
                self._slots.release()

    async def close(self) -> None:
        """Stop listening, cut every connection, and wait until all of it is over."""
        self._closing = True
        for listener in self._unix:
            listener.unlink()
        self._unix.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=CLOSE_SECONDS)
        for listening in self._listeners:
            listening.close()
        self._listeners.clear()
        self.exports.clear()
        # A thread that hangs in a read of a dead disk must not hold up the rest.
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The threads that read the disk."""
        return self._pool

    @property
    def handshake_seconds(self) -> float | None:
        """How long a client may take to choose an export; None is no limit."""
        return self._handshake_seconds


async def _readable(listener: socket.socket) -> None:
    """Wait until a connection can be accepted."""
    loop = asyncio.get_running_loop()
    somebody = asyncio.Event()
    loop.add_reader(listener, somebody.set)
    try:
        await somebody.wait()
    finally:
        loop.remove_reader(listener)


class _Connection:
    """One client.

    Attributes:
        export: what it has chosen; None during the handshake.
        task: what serves it.
    """

    def __init__(self, server: NbdServer, client: socket.socket) -> None:
        self.export: Export | None = None
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self._server = server
        self._socket = client
        self._requests = asyncio.Semaphore(REQUESTS_MAX)
        self._threads = asyncio.Semaphore(THREADS_PER_CLIENT)
        self._writing = asyncio.Lock()
        self._bytes = 0
        self._bytes_freed = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._jobs: set[Future[list[bytes | memoryview]]] = set()

    def cut(self) -> None:
        """End the connection without ceremony."""
        self.task.cancel()

    async def run(self) -> None:
        """Serve the client from greeting to end."""
        if self._socket.family != socket.AF_UNIX:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader, writer = await asyncio.open_connection(sock=self._socket, limit=READ_SIZE)
        try:
            async with asyncio.timeout(self._server.handshake_seconds):
                transmission = await self._negotiate(reader, writer)
            if transmission is not None:
                await self._transmit(transmission, reader, writer)
        except TimeoutError:
            _log.debug("a client did not choose an export in time")
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
            # Whoever waits for this end may close the disk next: nobody may be reading it then.
            jobs = [asyncio.wrap_future(job) for job in tuple(self._jobs)]
            if jobs:
                await asyncio.wait(jobs, timeout=JOB_SECONDS)
            # Before the client can see the end: then nobody counts it any more.
            self.export = None
            # What is still unsent is unsent because the client does not read, or was cut.
            writer.transport.abort() if self._is_stuck(writer) else writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await asyncio.wait_for(writer.wait_closed(), CLOSE_SECONDS)
            writer.transport.abort()  # a client that has not read the last reply until now

    def _is_stuck(self, writer: asyncio.StreamWriter) -> bool:
        return self.task.cancelling() > 0 or writer.transport.is_closing()

    async def _negotiate(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> ServerTransmission | None:
        engine = ServerNegotiation(lambda: self._server.exports)
        while True:
            if engine.choice is not None:
                # Before the client can know: from then on it counts.
                self.export = engine.choice.export
            answers = engine.data_to_send()
            if answers:
                writer.write(answers)
                await writer.drain()
                continue
            if engine.closed:
                return None
            if engine.choice is not None:
                transmission = ServerTransmission(engine.choice)
                transmission.receive_data(engine.trailing_data())
                return transmission
            data = await reader.read(READ_SIZE)
            if data:
                engine.receive_data(data)
            else:
                engine.receive_eof()

    async def _transmit(
        self,
        engine: ServerTransmission,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while True:
            while (request := engine.next_request()) is not None:
                await self._requests.acquire()
                size = _reply_size(engine, request)
                await self._reserve(size)
                work = self._answer(engine, request, size, writer)
                task = asyncio.get_running_loop().create_task(work)
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            refused = engine.data_to_send()
            if refused:
                async with self._writing:
                    writer.write(refused)
                    await writer.drain()
            if engine.closed or engine.disconnected:
                break
            data = await reader.read(READ_SIZE)
            if data:
                engine.receive_data(data)
            else:
                engine.receive_eof()
        if self._under_way:
            await asyncio.wait(list(self._under_way))

    async def _reserve(self, size: int) -> None:
        """Wait until the reply's data fit into the connection's share of memory."""
        while self._bytes and self._bytes + size > BYTES_MAX:
            self._bytes_freed.clear()
            await self._bytes_freed.wait()
        self._bytes += size

    async def _answer(
        self,
        engine: ServerTransmission,
        request: Request,
        size: int,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            async with self._threads:
                job = self._server.pool.submit(_reply, engine, request)
                self._jobs.add(job)
                job.add_done_callback(self._jobs.discard)
                pieces = await asyncio.wrap_future(job)
            async with self._writing:
                for piece in pieces:
                    writer.write(piece)
                    # A large piece leaves before the next is queued beside it.
                    if len(piece) > READ_SIZE:
                        await writer.drain()
                await writer.drain()
        except (OSError, RuntimeError) as error:
            # The client has gone, or the server is closing; its task will notice.
            _log.debug("a reply could not be sent: %s", error)
            writer.transport.abort()
        finally:
            self._requests.release()
            self._bytes -= size
            self._bytes_freed.set()


def _reply_size(engine: ServerTransmission, request: Request) -> int:
    """Return about how many bytes the reply to a request holds in memory, at most."""
    if request.command == wire.CMD_READ:
        return request.length
    if request.command == wire.CMD_BLOCK_STATUS:
        # Descriptors of 8 bytes for extents of a sector, the least that a bitmap can tell apart.
        extents = min(request.length // SECTOR_SIZE + 2, wire.EXTENTS_MAX)
        return len(engine.choice.contexts) * extents * 8
    return 0


def _reply(engine: ServerTransmission, request: Request) -> list[bytes | memoryview]:
    """Do what a request asks of the disk and return the pieces of its reply; runs in a thread."""
    texts = {
        wire.CMD_READ: "reading from file failed",
        wire.CMD_BLOCK_STATUS: "can't get block status",
    }
    try:
        if request.command == wire.CMD_READ:
            return _read(engine, request)
        if request.command == wire.CMD_BLOCK_STATUS:
            return [engine.block_status_reply(request)]
    except (OSError, FormatError) as error:
        _log.warning("%s", error)
        return [engine.error(request.cookie, error_number(error), texts[request.command])]
    except Exception:
        # A fault of ours: the client must get an answer, and the next request may work.
        _log.exception("request %s failed", request)
        return [engine.error(request.cookie, wire.EIO, texts[request.command])]
    # A flush of a disk that nobody writes, and a cache request, have nothing left to do.
    return [engine.done(request.cookie)]


def _read(engine: ServerTransmission, request: Request) -> list[bytes | memoryview]:
    export = engine.choice.export
    data = memoryview(bytearray(request.length))
    export.read_into(request.offset, data)
    allocation = None
    fragments = engine.choice.structured and not request.flags & wire.CMD_FLAG_DF
    if export.allocation is not None and fragments and request.length:
        allocation = export.allocation(request.offset, request.offset + request.length)
    return list(engine.read_reply(request, data, allocation))
