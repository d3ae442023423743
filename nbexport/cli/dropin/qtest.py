"""The other side of ``-qtest``: a test's driver connects to every machine, needed or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nbexport.emulator.chardevs import Chardev

_LINE_MAX: Final = 64 * 1024


async def serve(device: Chardev) -> None:
    """Answer each line at a character device that there is no such command, until it ends.

    There is neither a clock nor memory that a driver could use.
    """
    if device.kind != "socket":
        return
    sock = device.connected
    if sock is None:
        loop = asyncio.get_running_loop()
        sock, _ = await loop.sock_accept(device.listeners[0])
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    reader, writer = await asyncio.open_connection(sock=sock, limit=_LINE_MAX)
    try:
        while line := await reader.readline():
            word = line.decode("utf-8", "replace").split(" ")[0].strip()
            writer.write(f"FAIL Unknown command '{word}'\n".encode())
            await writer.drain()
    except (OSError, ValueError):
        pass  # the driver has gone, or sends no lines
    finally:
        writer.close()
