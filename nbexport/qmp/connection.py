"""One client of a monitor: its session, and the tasks that move its bytes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbexport.units import KiB, MiB

if TYPE_CHECKING:
    from nbexport.qmp.endpoints import Channel
    from nbexport.qmp.server import QmpServer
    from nbexport.qmp.session import Request, Session

Observer = Callable[[int, str, bytes], None]
"""Gets a monitor's number, from 0, what happened, and the bytes of it."""
CONNECTED, DISCONNECTED, RECEIVED, SENT = "connected", "disconnected", "received", "sent"

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


class Connection:
    """One connection: its session and the tasks that move its bytes."""

    def __init__(
        self,
        server: QmpServer,
        session: Session,
        channel: Channel,
        observe: Callable[[str, bytes], None] | None,
    ) -> None:
        self.session = session
        self._observe = observe
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
            if self._observe is not None:
                self._observe(RECEIVED, data)
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
            if self._observe is not None:
                self._observe(SENT, data)
            self._channel.write(data)
        if self._channel.unsent > MAX_UNSENT:
            _log.warning("a monitor client leaves %d bytes unread, dropped", self._channel.unsent)
            self.break_off()

    def break_off(self) -> None:
        """Close the connection at once; what is unsent is dropped."""
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
