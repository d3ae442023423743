"""Many monitors of one process at once, two of them with a client that means no good.

The clients are tasks of this process; the server is one process with a monitor for each of them.
One client sends commands with large answers and never reads; one sends a command of 64 MiB
and never ends it. The others ask in two ways:

* paced: each asks again and again, at times that do not wait for the answers, so that a slow
  answer is not hidden by the question that it puts off. The latency of a command is the time from
  when it was due to its answer.
* burst: each sends all its commands at once. By Little's law the median latency is then half the
  number of commands over their rate, whatever the server does; what counts is that all are
  answered, each client's in its order, and that memory stays bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.errors import PeerError
from nbexport.units import KiB, MiB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

START_LIMIT_S = 30.0
WORK_LIMIT_S = 300.0
STALLED_COMMANDS = 2000
"""Of the client that never reads; each is answered with some 100 KiB."""

BASE_MEMORY = 128 * MiB
"""Of the program, its schema, and 200 clients of which each has at most a reply in transit."""
MESSAGE_TEXT = 7 * 64 * MiB
"""A string of 64 MiB: as it is gathered, as a token, without its quotes, and, with a character
beyond U+FFFF in it, decoded to four bytes each."""
MESSAGE_TOKENS = 2 << 20
TOKEN_MEMORY = 112
"""A token is at most a value in a list: 49 bytes of a string besides its text, 8 of its place,
and the same again for what the allocators and a list that grows by an eighth leave unused."""
UNSENT = 16 * MiB + 256 * KiB
"""What may be unread by a client that is not dropped yet, and one reply more."""

_HELLO = b'{"execute":"qmp_capabilities"}\n'
_LIMIT = MiB


def memory_bound(unended: int, stalled: int) -> int:
    """Return how much memory the server may need at most, in bytes.

    Args:
        unended: clients that send as much of one message as the reader takes.
        stalled: clients that never read.
    """
    message = MESSAGE_TEXT + MESSAGE_TOKENS * TOKEN_MEMORY
    return BASE_MEMORY + unended * message + stalled * UNSENT


@dataclass(frozen=True)
class Load:
    """How much is asked.

    Attributes:
        monitors: all of them, the two with bad clients included.
        commands: of all good clients together.
        rate: commands a second when they are paced.
        message: bytes of the message without an end.
    """

    monitors: int = 200
    commands: int = 10_000
    rate: float = 1000.0
    message: int = 64 * MiB


@dataclass(frozen=True)
class Outcome:
    """What was seen.

    Attributes:
        paced: the latency of each command, in seconds.
        burst: the same, when all were sent at once.
        burst_seconds: until the last of these was answered.
        memory: the most memory that the server had resident, in bytes.
        lost: commands without an answer, or with a wrong one.
    """

    paced: list[float]
    burst: list[float]
    burst_seconds: float
    memory: int
    lost: int

    @property
    def median(self) -> float:
        """The median latency of paced commands, in seconds."""
        return statistics.median(self.paced)


def measure(folder: Path, load: Load) -> Outcome:
    """Start an emulator, load it, and end it.

    Args:
        folder: for its sockets; a short path.
        load: how much.

    Raises:
        PeerError: the emulator did not start, or broke off.
    """
    with _running(folder, load.monitors) as (process, paths):
        return asyncio.run(_work(process, paths, load))


@contextlib.contextmanager
def _running(folder: Path, count: int) -> Iterator[tuple[subprocess.Popen[bytes], list[Path]]]:
    paths = [folder / f"m{number}" for number in range(count)]
    words = [sys.executable, "-m", "nbexport", "qmp", "--release", "7.2"]
    for path in paths:
        words += ["--socket", str(path)]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not paths[-1].exists():
            if process.poll() is not None:
                raise PeerError(f"the emulator ended with status {process.returncode}")
            if time.monotonic() > deadline:
                raise PeerError(f"the emulator did not start in {START_LIMIT_S:.0f} s")
            time.sleep(0.01)
        yield process, paths
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _work(process: subprocess.Popen[bytes], paths: list[Path], load: Load) -> Outcome:
    async with asyncio.timeout(WORK_LIMIT_S):
        clients = [await _Client.connect(path) for path in paths]
        stalled, unended, *good = clients
        stalled.stall()
        bad = asyncio.create_task(unended.send_without_end(load.message))
        each = max(load.commands // len(good), 1)
        try:
            paced = await _all(client.ask_paced(each, load, at) for at, client in enumerate(good))
            begin = time.perf_counter()
            burst = await _all(client.ask_at_once(each) for client in good)
            seconds = time.perf_counter() - begin
            await bad
            # what was asked before it is still answered by everybody
            last = await _all(client.ask_at_once(1) for client in good)
            memory = _peak(process)
        finally:
            bad.cancel()
            await asyncio.gather(bad, return_exceptions=True)
            for client in clients:
                client.close()
    asked = each * len(good)
    lost = 2 * asked + len(good) - len(paced) - len(burst) - len(last)
    return Outcome(paced, burst, seconds, memory, lost)


async def _all(work: Iterator[AsyncIterator[float]]) -> list[float]:
    async def collect(found: AsyncIterator[float]) -> list[float]:
        return [seconds async for seconds in found]

    results = await asyncio.gather(*map(collect, work))
    return [seconds for result in results for seconds in result]


def _peak(process: subprocess.Popen[bytes]) -> int:
    with open(f"/proc/{process.pid}/status") as status:  # noqa: PTH123 - no path of a user's
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KiB
    raise PeerError("the process has ended")


class _Client:
    """A client that counts and times."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._serial = 0

    @classmethod
    async def connect(cls, path: Path) -> _Client:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=_LIMIT)
        await reader.readuntil(b"\n")
        writer.write(_HELLO)
        await reader.readuntil(b"\n")
        return cls(reader, writer)

    def _ask(self) -> None:
        self._serial += 1
        self._writer.write(b'{"execute":"query-block-exports","id":%d}\n' % self._serial)

    async def _answered(self, serial: int) -> bool:
        """Take an answer; return whether it is the one that is due."""
        line = await self._reader.readuntil(b"\n")
        return bool(json.loads(line) == {"return": [], "id": serial})

    async def ask_paced(self, count: int, load: Load, at: int) -> AsyncIterator[float]:
        """Ask at even distances, whatever the answers do; give the latencies."""
        clients = load.monitors - 2
        step = clients / load.rate
        start = time.perf_counter() + 0.05 + step * at / clients
        first = self._serial + 1
        due = [start + step * number for number in range(count)]

        async def ask() -> None:
            for when in due:
                await asyncio.sleep(max(when - time.perf_counter(), 0))
                self._ask()

        asking = asyncio.create_task(ask())
        try:
            for number in range(count):
                if await self._answered(first + number):
                    yield time.perf_counter() - due[number]
        finally:
            await asking

    async def ask_at_once(self, count: int) -> AsyncIterator[float]:
        """Send all commands, then take all answers; give the latencies."""
        first = self._serial + 1
        begin = time.perf_counter()
        for _ in range(count):
            self._ask()
        for number in range(count):
            if await self._answered(first + number):
                yield time.perf_counter() - begin

    def stall(self) -> None:
        """Ask for much and read nothing from now on."""
        transport = self._writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        self._writer.write(b'{"execute":"query-qmp-schema"}\n' * STALLED_COMMANDS)

    async def send_without_end(self, length: int) -> None:
        """Send a message that stays open: values that are small, as many as possible."""
        piece = b'"' + b"a" * 60 + b'",'
        block = piece * (64 * KiB // len(piece))
        self._writer.write(b'{"execute":"query-version","arguments":{"a":[')
        left = length
        while left > 0:
            self._writer.write(block[:left])
            left -= len(block)
            try:
                await self._writer.drain()
            except ConnectionError:
                return

    def close(self) -> None:
        self._writer.transport.abort()
