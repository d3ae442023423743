"""One client of the server: from greeting to end.

Its requests wait in a queue that threads empty: one as long as it gets on, more when it is held up
by the disk or when there is much to read. Replies leave in the order in which they are ready; what
is ready together leaves together.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from nbexport.nbd import wire
from nbexport.nbd.negotiation import ServerNegotiation, TlsMode
from nbexport.nbd.requests import answer, memory_of
from nbexport.nbd.stream import Stream
from nbexport.nbd.transmission import Request, ServerTransmission
from nbexport.units import KiB, MiB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future, ThreadPoolExecutor

    from nbexport.nbd.export import Export
    from nbexport.nbd.profile import Profile
    from nbexport.nbd.replies import Buffer
    from nbexport.nbd.tls import Tls

_log = logging.getLogger(__name__)
_STATUS = wire.CMD_BLOCK_STATUS

REQUESTS_MAX = 64
"""Requests of one connection under way; then it is not read from."""
BYTES_MAX = 64 * MiB
"""Data of one connection's requests and replies under way: two requests of the largest size. One
more write may be on its way in."""
THREADS_PER_CLIENT = 4
"""Requests of one connection at the disk at a time."""
STALL_SECONDS = 0.002
"""How long a queue may stand still until another thread helps."""
THINKING_SECONDS = 0.05
"""The same where a block status is next, which seldom waits for a disk."""
BIG_REQUEST = 128 * KiB
"""From here on it is the disk that takes the time, and threads work side by side."""
BATCH_BYTES = 256 * KiB
BATCH_SECONDS = 0.0005
"""Replies that are ready are sent when they are so many, or wait so long, or when all is done."""
QUICK_READ = 512 * KiB
"""Up to here a read from the kernel's memory costs less than handing it to a thread."""
KEPT_PIECES = 256
"""Chunks that are answered from memory before they are sent and others have their turn."""
JOB_SECONDS = 3.0
"""How long the end of a connection waits for its threads: less than closing waits for it."""


class Settings:
    """What the connections of a server have in common.

    Args:
        exports: gives the exports by name.
        pool: the threads that do what requests ask for.
        profile: whom to behave like.
        tls: how to speak TLS; None for not at all.
        handshake_seconds: how long a client may take to choose an export; None is no limit.
        write_seconds: how long a client may leave a reply unread; None is no limit.
    """

    def __init__(
        self,
        exports: Callable[[], Mapping[str, Export]],
        pool: ThreadPoolExecutor,
        profile: Profile,
        tls: Tls | None,
        handshake_seconds: float | None,
        write_seconds: float | None,
    ) -> None:
        self.exports = exports
        self.pool = pool
        self.profile = profile
        self.tls = tls
        self.handshake_seconds = handshake_seconds
        self.write_seconds = write_seconds


class Connection:
    """One client.

    Args:
        settings: of the server.
        client: the connected socket.

    Attributes:
        export: what it has chosen; None during the handshake.
        task: what serves it.
        transmission: its second phase; None before.
    """

    def __init__(self, settings: Settings, client: socket.socket) -> None:
        self.export: Export | None = None
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.transmission: Transmission | None = None
        self._settings = settings
        self._stream = Stream(client, settings.write_seconds)
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._is_cut = False

    def may_be_leaving(self) -> bool:
        """Return whether the client has said good-bye, or something that was not looked at yet."""
        said = self.transmission is not None and self.transmission.client_has_left
        return said or self._stream.has_news()

    def cut(self) -> None:
        """End the connection without ceremony."""
        self._is_cut = True
        self.task.cancel()

    def finish(self) -> None:
        """Answer what is under way, then end; a client that has not chosen yet is cut."""
        if self.export is None:
            self.cut()
        else:
            self._stream.stop_reading()

    async def run(self) -> None:
        """Serve the client from greeting to end."""
        try:
            async with asyncio.timeout(self._settings.handshake_seconds):
                engine = await self._negotiate()
            if engine is not None:
                self.transmission = Transmission(engine, self._stream, self._settings.pool)
                await self.transmission.run()
        except TimeoutError:
            _log.debug("a client did not choose an export in time")
        finally:
            # Before the client can see the end: then nobody counts it any more.
            self.export = None
            if not self._is_cut:
                await self._stream.close()
            self._stream.abort()

    async def _negotiate(self) -> ServerTransmission | None:
        tls = self._settings.tls
        mode = tls.mode if tls is not None else TlsMode.NONE
        profile = self._settings.profile
        engine = ServerNegotiation(self._settings.exports, profile=profile, tls=mode)
        while True:
            if engine.choice is not None:
                # Before the client can know: from then on it counts.
                self.export = engine.choice.export
            answers = engine.data_to_send()
            if answers:
                await self._stream.write((answers,))
                continue
            if engine.starting_tls:
                assert tls is not None
                layer = await self._stream.start_tls(tls.context)
                layer.check(tls)
                engine.tls_started()
                continue
            if engine.closed:
                return None
            if engine.choice is not None:
                transmission = ServerTransmission(engine.choice, profile)
                transmission.receive_data(engine.trailing_data())
                return transmission
            data = await self._stream.read()
            if data:
                engine.receive_data(data)
            else:
                engine.receive_eof()


class Transmission:
    """The second phase of a connection.

    Args:
        engine: what understands the requests.
        stream: where they come from.
        pool: the threads that do what they ask for.
    """

    def __init__(
        self, engine: ServerTransmission, stream: Stream, pool: ThreadPoolExecutor
    ) -> None:
        self._engine = engine
        self._stream = stream
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[Request, int]] = deque()
        self._outbox: deque[tuple[list[Buffer], int] | None] = deque()  # None: a thread ended
        self._ready = asyncio.Event()
        self._is_called = False
        self._changed = asyncio.Event()  # something was sent
        self._requests = 0
        self._bytes = 0
        self._threads = 0
        self._done = 0
        self._watch: asyncio.TimerHandle | None = None
        self._is_over = False
        self._jobs: set[Future[None]] = set()
        self._kept: list[Buffer] = []
        self._kept_bytes = 0

    @property
    def client_has_left(self) -> bool:
        """Whether the client has ended the conversation; its last replies may be under way."""
        return self._engine.disconnected or self._engine.closed

    async def run(self) -> None:
        """Answer requests until the client leaves, or is left."""
        sender = self._loop.create_task(self._send())
        try:
            await self._receive()
            while self._requests and not sender.done():
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._is_over = True
            self._queue.clear()
            if self._watch is not None:
                self._watch.cancel()
            sender.cancel()
            # Whoever waits for this end may close the disk next: nobody may be reading it then.
            jobs = [asyncio.wrap_future(job) for job in tuple(self._jobs)]
            await asyncio.wait((sender, *jobs), timeout=JOB_SECONDS)

    async def _receive(self) -> None:
        engine = self._engine
        while True:
            while (request := engine.next_request()) is not None:
                size = memory_of(engine, request)
                if self._may_be_quick(request) and await self._answer_now(request):
                    continue
                while self._requests >= REQUESTS_MAX or (
                    self._bytes and self._bytes + size > BYTES_MAX
                ):
                    self._changed.clear()
                    self._start_threads()
                    if self._kept:
                        await self._send_kept()
                        continue
                    await self._changed.wait()
                    if self._is_over:
                        return
                self._requests += 1
                self._bytes += size
                self._queue.append((request, size))
            self._start_threads()
            await self._send_kept()
            refused = engine.data_to_send()
            if refused:
                await self._stream.write((refused,))
            if engine.closed or engine.disconnected:
                return
            data = await self._stream.read(engine.wanted)
            if data:
                engine.receive_data(data)
            else:
                engine.receive_eof()

    @staticmethod
    def _may_be_quick(request: Request) -> bool:
        if request.command == wire.CMD_READ:
            return request.length <= QUICK_READ and not request.flags & wire.CMD_FLAG_FUA
        return request.command == wire.CMD_BLOCK_STATUS

    async def _answer_now(self, request: Request) -> bool:
        """Answer a request here if nobody has to wait for a disk; return whether that is so.

        Handing a request to a thread and its reply back takes longer than such an answer.
        """
        try:
            reply = self._engine.kept_reply(request)
        except Exception:
            return False  # a thread will find out, and tell the client
        if reply is None:
            return False
        if self._engine.joint_is_worth():
            self._start_joining()
        self._kept += reply
        self._kept_bytes += sum(map(len, reply))
        if len(self._kept) >= KEPT_PIECES or self._kept_bytes >= BATCH_BYTES:
            await self._send_kept()
            await asyncio.sleep(0)  # others have their turn
        return True

    async def _send_kept(self) -> None:
        if self._kept:
            pieces, self._kept, self._kept_bytes = self._kept, [], 0
            await self._stream.write(pieces)

    # Threads

    def _start_threads(self) -> None:
        queued = list(self._queue)  # in one step: threads take from it
        if not queued:
            return
        big = any(size >= BIG_REQUEST for request, size in queued if request.command != _STATUS)
        wanted = min(len(queued), THREADS_PER_CLIENT) if big else 1
        while self._threads < wanted:
            self._start_thread()
        if self._watch is None:
            self._watch_queue(queued[0][0])

    def _watch_queue(self, following: Request) -> None:
        # Maps are made by computing: more threads only take turns.
        thinking = following.command == _STATUS
        after = THINKING_SECONDS if thinking else STALL_SECONDS
        self._watch = self._loop.call_later(after, self._look, self._done)

    def _start_joining(self) -> None:
        choice = self._engine.choice
        job = self._pool.submit(choice.export.maps.join, choice.contexts)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    def _start_thread(self) -> None:
        self._threads += 1
        job = self._pool.submit(self._work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    def _look(self, done: int) -> None:
        """Help a queue that stands still, and send what is ready."""
        self._watch = None
        if self._outbox:
            self._ready.set()
        queued = list(self._queue)
        if not queued or self._is_over:
            return
        if self._done == done and self._threads < THREADS_PER_CLIENT:
            self._start_thread()
        self._watch_queue(queued[0][0])

    def _work(self) -> None:
        """Answer requests until there are no more; runs in a thread."""
        ready = 0
        since = time.monotonic()
        try:
            while True:
                try:
                    request, size = self._queue.popleft()
                except IndexError:
                    return
                self._outbox.append((answer(self._engine, request), size))
                self._done += 1  # two threads may count as one, which is progress all the same
                ready += size
                if ready >= BATCH_BYTES or time.monotonic() - since > BATCH_SECONDS:
                    self._call()
                    ready, since = 0, time.monotonic()
        finally:
            self._outbox.append(None)
            self._call()

    def _call(self) -> None:
        """Tell the event loop that something is ready; runs in a thread."""
        if not self._is_called:
            self._is_called = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:
                _log.debug("a reply came after the end of the program")

    def _wake(self) -> None:
        self._is_called = False  # before the outbox is looked at: what comes later calls again
        self._ready.set()

    # Sending

    async def _send(self) -> None:
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                await self._empty()
        except OSError as error:
            _log.debug("a reply could not be sent: %s", error)
        except Exception:
            _log.exception("replies could not be sent")
        finally:
            # Nobody gets an answer any more.
            self._is_over = True
            self._stream.stop_reading()
            self._changed.set()

    async def _empty(self) -> None:
        """Send what is in the outbox."""
        while self._outbox:
            pieces: list[Buffer] = []
            requests = held = 0
            while self._outbox:
                item = self._outbox.popleft()
                if item is None:
                    self._threads -= 1
                    continue
                pieces += item[0]
                requests += 1
                held += item[1]
            if self._queue and not self._threads and not self._is_over:
                self._start_threads()
            if pieces:
                await self._stream.write(pieces)
                del pieces
                self._requests -= requests
                self._bytes -= held
                self._changed.set()
