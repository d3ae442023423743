"""A connected socket as the server uses it: read on demand, written whole, secured on the way.

Nothing is read ahead: what the kernel holds when a connection turns to TLS goes through TLS. Each
wait for a client that does not read has a time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from nbexport.units import KiB, MiB

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from nbexport.nbd.tls import TlsLayer

READ_SIZE = 64 * KiB
PAYLOAD_READ_SIZE = MiB
"""What is asked for at once while a long payload is on its way."""
SEND_BUFFER = 512 * KiB
PIECES_MAX = 512
"""Pieces of one system call: half of Linux's limit."""
DRAIN_MAX = 16
"""Reads that throw away what came too late, so that closing does not take back what was sent."""
FAREWELL_SECONDS = 1.0
"""How long the end of TLS may wait for a client that does not read."""


class Stream:
    """One client's connection.

    Reading is for one task; writing for any number, one after the other.

    Args:
        sock: connected and not blocking; closed by `close`.
        write_seconds: how long a write may wait without any progress; None is no limit.
    """

    def __init__(self, sock: socket.socket, write_seconds: float | None = None) -> None:
        self._socket = sock
        self._fd = sock.fileno()  # the event loop finds a number faster than a socket
        if sock.family == socket.AF_UNIX:
            # So that a read of the usual size leaves in one piece; the kernel takes what it allows.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._write_seconds = write_seconds
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bytes] | None = None
        self._read_size = READ_SIZE
        self._is_watched = False
        self._ended = False
        self._writing = asyncio.Lock()
        self._tls: TlsLayer | None = None

    # Reading

    def has_news(self) -> bool:
        """Return whether the kernel holds something that was not read yet, or the end."""
        if self._ended:
            return True
        waiting = select.poll()
        waiting.register(self._fd, select.POLLIN)
        return bool(waiting.poll(0))

    async def read(self, wanted: int = 0) -> bytes:
        """Return what comes next, or no bytes at the end.

        Args:
            wanted: bytes that are known to be on their way.

        Raises:
            OSError: the connection broke.
        """
        if self._tls is None:
            return await self._receive(wanted)
        return await self._tls.read(self._receive, self._send_tls)

    async def _receive(self, wanted: int = 0) -> bytes:
        self._read_size = PAYLOAD_READ_SIZE if wanted > READ_SIZE else READ_SIZE
        if self._ended:
            return b""
        if self._is_watched:
            # What is there already is told of by the event loop.
            return await self._wait()
        try:
            return self._socket.recv(self._read_size)
        except (BlockingIOError, InterruptedError):
            self._loop.add_reader(self._fd, self._on_readable)
            self._is_watched = True
            return await self._wait()

    async def _wait(self) -> bytes:
        self._waiter = self._loop.create_future()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def _on_readable(self) -> None:
        if self._waiter is None or self._waiter.done():
            # Nobody wants it now: the kernel keeps it, and in the end the client waits.
            self._unwatch()
            return
        try:
            data = self._socket.recv(self._read_size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._unwatch()
            self._waiter.set_exception(error)
            return
        if not data:
            self._unwatch()
        self._waiter.set_result(data)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._loop.remove_reader(self._fd)
            self._is_watched = False

    def stop_reading(self) -> None:
        """Let reading find the end here."""
        self._ended = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(b"")

    # Writing

    async def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Send buffers one after the other, without copying them.

        Raises:
            OSError: the connection broke, or the client has not read for too long.
        """
        async with self._writing:
            if self._tls is None:
                await self._send(pieces)
            else:
                for record in self._tls.encrypt(pieces):
                    await self._send((record,))

    async def _send_tls(self) -> None:
        """Send what the TLS layer itself has to say."""
        assert self._tls is not None
        if self._tls.pending:
            async with self._writing:
                await self._send((self._tls.take(),))

    async def _send(self, pieces: Iterable[bytes | memoryview]) -> None:
        waiting = deque(memoryview(piece) for piece in pieces)
        while waiting:
            try:
                sent = self._socket.sendmsg(list(islice(waiting, PIECES_MAX)))
            except (BlockingIOError, InterruptedError):
                await self._writable()
                continue
            while waiting and sent >= len(waiting[0]):
                sent -= len(waiting.popleft())
            if sent:
                waiting[0] = waiting[0][sent:]

    async def _writable(self) -> None:
        ready: asyncio.Future[bool] = self._loop.create_future()
        limit = self._write_seconds
        timer = None if limit is None else self._loop.call_later(limit, _settle, ready, False)  # noqa: FBT003
        self._loop.add_writer(self._fd, _settle, ready, True)  # noqa: FBT003
        try:
            if not await ready:
                raise ConnectionAbortedError("the client has not read for too long")
        finally:
            self._loop.remove_writer(self._fd)
            if timer is not None:
                timer.cancel()

    # TLS and the end

    async def start_tls(self, context: ssl.SSLContext) -> TlsLayer:
        """Secure the connection as its server.

        Raises:
            OSError: the client left, or does not come to terms with us.
        """
        from nbexport.nbd.tls import TlsLayer  # noqa: PLC0415 - who serves in clear pays nothing

        self._tls = TlsLayer(context)
        await self._tls.handshake(self._receive, self._send_tls)
        return self._tls

    async def close(self) -> None:
        """Say goodbye and close; what was written still arrives."""
        try:
            if self._tls is not None and self._tls.established:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(FAREWELL_SECONDS):
                        self._tls.end()
                        await self._send_tls()
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
                for _ in range(DRAIN_MAX):
                    if not self._socket.recv(READ_SIZE):
                        break
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        self.stop_reading()
        if self._socket.fileno() >= 0:
            self._unwatch()
            self._loop.remove_writer(self._fd)
            self._socket.close()


def _settle(future: asyncio.Future[bool], value: bool) -> None:  # noqa: FBT001
    if not future.done():
        future.set_result(value)
