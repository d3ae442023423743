"""Serves monitors for humans: on standard input and output, or on sockets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from nbexport.emulator.hmp.monitor import PROMPT, Monitor
from nbexport.qmp.endpoints import Channel, standard_channel, stream_channel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from socket import socket

    from nbexport.emulator.machine import Machine

_READ_MAX: Final = 4096


async def serve_stdio(machine: Machine) -> None:
    """Serve a monitor on standard input and output until the input ends.

    Raises:
        UsageError: they cannot be used.
    """
    await _serve(machine, await standard_channel())


async def serve_on(
    machine: Machine, sockets: Sequence[socket], *, first: socket | None = None
) -> None:
    """Serve a monitor on sockets, one client after another, until this is cancelled.

    Args:
        machine: whose commands are run.
        sockets: they listen, and do not block; none if only ``first`` is to be served.
        first: a client that has been accepted.
    """
    if first is not None:
        await _serve(machine, await stream_channel(first))
    loop = asyncio.get_running_loop()
    while sockets:
        waiting = [loop.create_task(loop.sock_accept(each)) for each in sockets]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        for task in done:
            client, _ = task.result()
            await _serve(machine, await stream_channel(client))


async def _serve(machine: Machine, channel: Channel) -> None:
    """Serve one client until it goes."""
    major, minor, micro = machine.release.version
    monitor = Monitor(f"{major}.{minor}.{micro}")
    run = machine.handlers()["human-monitor-command"]
    try:
        channel.write(monitor.greet())
        while data := await channel.read(_READ_MAX):
            for byte in data:
                line = monitor.type(byte)
                if line is None:
                    continue
                # What was typed is there before what comes of it.
                channel.write(monitor.take_drawing())
                text = await run({"command-line": line})
                channel.write(text.encode())
                if not machine.quitting:
                    channel.write(PROMPT.encode())
            channel.write(monitor.take_drawing())
            await channel.drain()
    except OSError:
        pass  # the client has gone
    finally:
        with contextlib.suppress(OSError):
            await channel.close()
