"""Runs a machine: its monitor on a socket or on standard input and output, until it quits."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport import qmp
from nbexport.emulator.machine import Machine
from nbexport.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbexport.emulator.release import Release


@dataclass(frozen=True)
class MonitorAddress:
    """Where a monitor is reached: exactly one of the three.

    Attributes:
        path: a unix socket.
        host_port: a TCP address; port 0 picks a free one.
        stdio: standard input and output.
    """

    path: str | None = None
    host_port: tuple[str, int] | None = None
    stdio: bool = False

    def __post_init__(self) -> None:
        if (self.path is not None) + (self.host_port is not None) + self.stdio != 1:
            raise UsageError("a monitor has exactly one address")


def run_monitor(
    release: Release,
    address: MonitorAddress,
    *,
    program: str = "qemu-system",
    pretty: bool = False,
    on_ready: Callable[[str], None] = lambda _where: None,
) -> None:
    """Serve a monitor until a client says quit, a signal comes, or standard input ends.

    Args:
        release: what to emulate.
        address: where to listen.
        program: ``qemu-system`` or ``qemu-storage-daemon``.
        pretty: whether to print replies over several lines.
        on_ready: called with the address once clients can connect.

    Raises:
        UsageError: the address is occupied.
        OSError: it cannot be listened on.
    """
    asyncio.run(_run(release, address, program=program, pretty=pretty, on_ready=on_ready))


async def _run(
    release: Release,
    address: MonitorAddress,
    *,
    program: str,
    pretty: bool,
    on_ready: Callable[[str], None],
) -> None:
    machine = Machine(release, program=program)
    dispatcher = qmp.Dispatcher(machine.schema, machine.handlers(), release=release.version)
    monitor = qmp.QmpServer(dispatcher, version=machine.version, clock=_now, pretty=pretty)
    machine.on_event(monitor.emit)
    machine.on_quit(monitor.request_close)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, monitor.request_close)
    try:
        if address.stdio:
            closed = loop.create_task(monitor.wait_closed())
            served = loop.create_task(monitor.serve_stdio())
            await asyncio.wait({closed, served}, return_when=asyncio.FIRST_COMPLETED)
            closed.cancel()
            await asyncio.gather(closed, return_exceptions=True)
        elif address.path is not None:
            await monitor.listen_unix(address.path)
            on_ready(address.path)
            await monitor.wait_closed()
        else:
            assert address.host_port is not None
            host, port = await monitor.listen_tcp(*address.host_port)
            on_ready(f"{host}:{port}")
            await monitor.wait_closed()
    finally:
        await machine.close()
        await monitor.close()
        if address.stdio:
            await asyncio.gather(served, return_exceptions=True)


def _now() -> tuple[int, int]:
    """Return the time as events tell it: seconds since 1970 and microseconds."""
    nanoseconds = time.time_ns()
    return nanoseconds // 1_000_000_000, nanoseconds // 1000 % 1_000_000
