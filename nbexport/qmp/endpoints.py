"""Sockets and pipes of a monitor: made, guarded and closed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.listening import UnixListener, tcp_listeners

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import BinaryIO

# As QEMU listens: one client is served, one may wait, the kernel holds off the others.
BACKLOG = 1
# How long a transport may take to let go of its descriptor, in seconds.
CLOSE_LIMIT = 1.0
# How often a full output is looked at while the server closes, in seconds.
_POLL = 0.01


class Channel:
    """Bytes in and out over a pair of streams.

    Args:
        reader: input.
        writer: output.
        restore: file descriptors to set back to blocking mode at the end.
        closers: what else to call at the end.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader | BinaryIO,
        writer: asyncio.StreamWriter | BinaryIO,
        restore: dict[int, bool] | None = None,
        closers: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._restore = restore or {}
        self._closers = closers
        self._wanted = asyncio.Event()

    async def read(self, limit: int) -> bytes:
        """Return some bytes, none at the end."""
        if isinstance(self._reader, asyncio.StreamReader):
            return await self._reader.read(limit)
        # a regular file: reading never waits
        return self._reader.read(limit)

    async def pause(self) -> None:
        """Wait until `resume` says that there is room for more input."""
        self._wanted.clear()
        await self._wanted.wait()

    def resume(self) -> None:
        """Let the reading side look again."""
        self._wanted.set()

    def write(self, data: bytes) -> None:
        """Queue bytes for output; a peer that has gone is noticed by `drain`."""
        if isinstance(self._writer, asyncio.StreamWriter):
            if not self._writer.is_closing():
                self._writer.write(data)
        else:
            view = memoryview(data)
            while view:
                view = view[self._writer.write(view) :]

    @property
    def unsent(self) -> int:
        """Bytes that wait for output."""
        if isinstance(self._writer, asyncio.StreamWriter):
            return self._writer.transport.get_write_buffer_size()
        return 0

    async def drain(self) -> None:
        """Wait while much is unsent.

        Raises:
            ConnectionError: the peer has gone.
        """
        if isinstance(self._writer, asyncio.StreamWriter):
            await self._writer.drain()

    async def flushed(self) -> None:
        """Wait until nothing is unsent."""
        while self.unsent and isinstance(self._writer, asyncio.StreamWriter):
            if self._writer.is_closing():
                return
            await asyncio.sleep(_POLL)

    def abort(self) -> None:
        """Close at once, dropping what is unsent."""
        if isinstance(self._writer, asyncio.StreamWriter):
            self._writer.transport.abort()

    async def close(self) -> None:
        """Close; what is unsent is dropped."""
        if isinstance(self._writer, asyncio.StreamWriter):
            if self.unsent:
                self._writer.transport.abort()
            else:
                self._writer.close()
            # the transport of a socket or pipe calls back once more before it lets go
            with contextlib.suppress(OSError, TimeoutError, NotImplementedError):
                async with asyncio.timeout(CLOSE_LIMIT):
                    await self._writer.wait_closed()
        for closer in self._closers:
            closer()
        for descriptor, blocking in self._restore.items():
            with contextlib.suppress(OSError):
                os.set_blocking(descriptor, blocking)


async def stream_channel(sock: socket.socket) -> Channel:
    """Return the channel of a connected socket."""
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    reader, writer = await asyncio.open_connection(sock=sock)
    return Channel(reader, writer)


async def standard_channel() -> Channel:
    """Return the channel of standard input and output: pipes, sockets, terminals or files.

    Raises:
        UsageError: one of them is closed or cannot be used.
    """
    loop = asyncio.get_running_loop()
    try:
        # duplicates, so that closing the channel leaves the program's own streams alone
        source = os.fdopen(os.dup(sys.__stdin__.fileno()), "rb", buffering=0)  # type: ignore[union-attr]
        target = os.fdopen(os.dup(sys.__stdout__.fileno()), "wb", buffering=0)  # type: ignore[union-attr]
    except (OSError, AttributeError, ValueError) as error:
        raise UsageError(f"standard input and output cannot be used: {error}") from error
    restore = {
        stream.fileno(): os.get_blocking(stream.fileno()) for stream in (sys.stdin, sys.stdout)
    }
    reader: asyncio.StreamReader | BinaryIO = source  # type: ignore[assignment]
    writer: asyncio.StreamWriter | BinaryIO = target  # type: ignore[assignment]
    closers: list[Callable[[], None]] = []
    if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
        closers.append(source.close)
    else:
        stream = asyncio.StreamReader()
        incoming, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), source
        )
        reader = stream
        closers.append(incoming.close)
    if stat.S_ISREG(os.fstat(target.fileno()).st_mode):
        closers.append(target.close)
    else:
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, target
        )
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
    return Channel(reader, writer, restore, closers)


def listen_on_unix(path: str | Path) -> UnixListener:
    """Return a listening socket at a path.

    Raises:
        UsageError: the path is occupied, too long, or cannot be used.
    """
    try:
        return UnixListener(path, BACKLOG)
    except OSError as error:
        raise UsageError(f"{path}: cannot listen there: {error.strerror}") from error


async def listen_on_tcp(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets on all addresses of a host, at the same port.

    Raises:
        UsageError: the address is unknown or cannot be used.
    """
    loop = asyncio.get_running_loop()
    shown = f"{host}:{port}"
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UsageError(f"{shown}: address is unknown: {error}") from error
    try:
        return tcp_listeners(found, port, BACKLOG)
    except OSError as error:
        raise UsageError(f"{shown}: cannot listen there: {error.strerror}") from error
