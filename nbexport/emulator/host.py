"""Runs a machine: its monitors on sockets and on standard input and output, until it quits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport import qmp
from nbexport.emulator.listing import registered
from nbexport.emulator.machine import Machine
from nbexport.emulator.transcript import TranscriptWriter
from nbexport.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nbexport.emulator.release import Release


@dataclass(frozen=True)
class MonitorAddress:
    """Where a monitor is reached: exactly one of the first three.

    Attributes:
        path: a unix socket.
        host_port: a TCP address; port 0 picks a free one.
        stdio: standard input and output.
        pretty: whether this monitor prints over several lines.
    """

    path: str | None = None
    host_port: tuple[str, int] | None = None
    stdio: bool = False
    pretty: bool = False

    def __post_init__(self) -> None:
        if (self.path is not None) + (self.host_port is not None) + self.stdio != 1:
            raise UsageError("a monitor has exactly one address")


def make_monitor(
    machine: Machine,
    *,
    policy: qmp.CompatPolicy | None = None,
    observer: qmp.Observer | None = None,
    abort: Callable[[], object] | None = None,
) -> qmp.QmpServer:
    """Return the monitors of a machine; they have no address yet.

    Args:
        machine: whose commands they run.
        policy: what is done about deprecated and unstable interfaces; None accepts all.
        observer: sees what comes in and goes out.
        abort: ends the process when the policy wants a crash.
    """
    release = machine.release
    dispatcher = qmp.Dispatcher(
        machine.schema,
        machine.handlers(),
        release=release.version,
        policy=policy,
        removed=machine.removed,
        order=registered(system=machine.is_system_emulator),
    )
    monitor = qmp.QmpServer(
        dispatcher,
        version=machine.version,
        clock=_now,
        capabilities=release.capabilities,
        limits=release.rate_limits,
        observer=observer,
        abort=abort,
    )
    machine.on_event(monitor.emit)
    machine.on_quit(monitor.request_close)
    return monitor


def run_monitor(
    release: Release,
    addresses: Sequence[MonitorAddress],
    *,
    program: str = "qemu-system",
    policy: qmp.CompatPolicy | None = None,
    removed: Sequence[str] = (),
    log: Path | None = None,
    on_ready: Callable[[str], None] = lambda _where: None,
) -> None:
    """Serve monitors until a client says quit, a signal comes, or standard input ends.

    Args:
        release: what to emulate.
        addresses: where to listen, one for each monitor; at most one of them is standard input
            and output.
        program: ``qemu-system`` or ``qemu-storage-daemon``.
        policy: what is done about deprecated and unstable interfaces; None accepts all. If it is
            to crash, the process ends by SIGABRT.
        removed: what to take out of the interface, see `nbexport.qapi.load_without`.
        log: a file for the transcript of all monitors; see `nbexport.emulator.transcript`.
        on_ready: called with each address once clients can connect to all of them.

    Raises:
        UsageError: an address is occupied, or there are several on standard input and output, or
            the release has nothing of a name in ``removed``.
        OSError: an address cannot be listened on, or the log cannot be written.
    """
    if sum(address.stdio for address in addresses) > 1:
        raise UsageError("only one monitor can have standard input and output")
    machine = Machine(release, program=program, removed=removed)
    with contextlib.ExitStack() as stack:
        writer = None
        if log is not None:
            writer = stack.enter_context(TranscriptWriter(log, release=str(release)))
        asyncio.run(_run(machine, addresses, policy, writer, on_ready))


async def _run(
    machine: Machine,
    addresses: Sequence[MonitorAddress],
    policy: qmp.CompatPolicy | None,
    log: TranscriptWriter | None,
    on_ready: Callable[[str], None],
) -> None:
    observer = None if log is None else log.observe
    monitor = make_monitor(machine, policy=policy, observer=observer, abort=os.abort)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, monitor.request_close)
    served: asyncio.Task[None] | None = None
    try:
        shown = []
        for address in addresses:
            if address.stdio:
                served = loop.create_task(monitor.serve_stdio(pretty=address.pretty))
            elif address.path is not None:
                await monitor.listen_unix(address.path, pretty=address.pretty)
                shown.append(address.path)
            else:
                assert address.host_port is not None
                host, port = await monitor.listen_tcp(*address.host_port, pretty=address.pretty)
                shown.append(f"{host}:{port}")
        for where in shown:
            on_ready(where)
        closed = loop.create_task(monitor.wait_requested())
        # without other monitors nobody can come any more when standard input has ended
        waiting = {closed} if served is None or shown else {closed, served}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        await asyncio.gather(closed, return_exceptions=True)
    finally:
        await machine.close()
        await monitor.close()
        if served is not None:
            (outcome,) = await asyncio.gather(served, return_exceptions=True)
    if served is not None and isinstance(outcome, UsageError):
        raise outcome


def _now() -> tuple[int, int]:
    """Return the time as events tell it: seconds since 1970 and microseconds."""
    nanoseconds = time.time_ns()
    return nanoseconds // 1_000_000_000, nanoseconds // 1000 % 1_000_000
