"""A server in a thread of this process, for who wants to read an export as a client reads it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from nbexport.nbd.server import NbdServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.nbd.export import Export

STOP_LIMIT_S = 30.0


@contextlib.contextmanager
def serving(export: Export) -> Iterator[str]:
    """Serve an export on a unix socket while the block lasts; give its URI.

    Example::

        with serving(export) as uri, Client.connect(uri) as client:
            maps = client.map()

    Raises:
        OSError: the socket cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="nbexport-") as folder:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="nbd-loopback", daemon=True)
        thread.start()

        async def start() -> NbdServer:
            server = NbdServer()
            server.add(export)
            await server.listen_unix(str(Path(folder, "nbd.sock")))
            return server

        try:
            server = asyncio.run_coroutine_threadsafe(start(), loop).result(STOP_LIMIT_S)
            try:
                yield server.uris(export.name)[0]
            finally:
                asyncio.run_coroutine_threadsafe(server.close(), loop).result(STOP_LIMIT_S)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP_LIMIT_S)
            loop.close()
