"""One emulated process: its state, its services, and the commands that act on them."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from nbexport import qapi
from nbexport.emulator.commands import COMMANDS
from nbexport.emulator.graph import BlockExport, Graph
from nbexport.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from nbexport.emulator.release import Release
    from nbexport.nbd import NbdServer

PROGRAMS = ("qemu-system", "qemu-storage-daemon")
"""What can be emulated: they differ in the commands they have and in how they leave."""

_SYSTEM_ONLY = {"nbd-server-add", "nbd-server-remove"}
"""Commands of the family that the storage daemon never had: it came when they were old."""

_PACKAGE = "nbexport"


class Machine:
    """The state of an emulated QEMU process, without any monitor.

    Args:
        release: what to behave as.
        program: ``qemu-system`` or ``qemu-storage-daemon``.

    Raises:
        UsageError: there is no such program.

    Attributes:
        schema: the interface of the release.
        graph: nodes, bitmaps, exports.
        nbd_server: the server, between nbd-server-start and nbd-server-stop.
        quitting: set when a client has asked the process to end.
    """

    def __init__(self, release: Release, *, program: str = "qemu-system") -> None:
        if program not in PROGRAMS:
            raise UsageError(f"unknown program '{program}' (known: {', '.join(PROGRAMS)})")
        self.release = release
        self.is_system_emulator = program == "qemu-system"
        self.schema = qapi.load_release(str(release))
        self.graph = Graph()
        self.nbd_server: NbdServer | None = None
        self.nbd_max_connections = 0
        self.quitting = asyncio.Event()
        self._emit: Callable[[str, Mapping[str, Any] | None], None] | None = None
        self._lock = asyncio.Lock()
        self._later: set[asyncio.Task[None]] = set()

    @property
    def version(self) -> dict[str, Any]:
        """The result of query-version."""
        major, minor, micro = self.release.version
        return {
            "qemu": {"micro": micro, "minor": minor, "major": major},
            "package": _PACKAGE,
        }

    @functools.cached_property
    def command_names(self) -> list[str]:
        """The commands that this program has, newest registration first."""
        excluded = set() if self.is_system_emulator else _SYSTEM_ONLY
        return [name for name in reversed(self.schema.commands) if name not in excluded]

    @functools.cached_property
    def introspection(self) -> list[dict[str, Any]]:
        """The result of query-qmp-schema."""
        return qapi.introspect(self.schema)

    def handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Awaitable[Any]]]:
        """Return the commands, bound to this machine, for a dispatcher."""
        names = set(self.command_names)
        return {name: functools.partial(self._run, name) for name in COMMANDS if name in names}

    async def _run(self, name: str, arguments: Mapping[str, Any]) -> Any:
        # QEMU's main loop runs one command at a time, whichever monitor it came from.
        async with self._lock:
            return await COMMANDS[name](self, arguments)

    def on_event(self, emit: Callable[[str, Mapping[str, Any] | None], None]) -> None:
        """Have events delivered to ``emit``."""
        self._emit = emit

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Tell every monitor of an event."""
        if self._emit is not None:
            self._emit(event, data)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` after the reply of the command that is running."""

        async def wait_and_work() -> None:
            async with self._lock:
                pass  # the command ends first; its reply is queued when the lock is released
            await asyncio.sleep(0)
            await work

        task = asyncio.get_running_loop().create_task(wait_and_work())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def forget_export(self, export: BlockExport) -> None:
        """Drop an export that serves nobody any more, and tell the monitors."""
        del self.graph.exports[export.id]
        for bitmap in export.bitmaps:
            bitmap.busy = False
        self.emit("BLOCK_EXPORT_DELETED", {"id": export.id})

    def request_quit(self) -> None:
        """Ask the process to end once the reply is sent."""
        self.quitting.set()

    async def close(self) -> None:
        """Stop the NBD server and close every node. Safe to call twice."""
        if self._later:
            await asyncio.wait(self._later, timeout=10)
        if self.nbd_server is not None:
            server, self.nbd_server = self.nbd_server, None
            await server.close()
        for node in reversed(list(self.graph.nodes.values())):
            node.block.close()
        self.graph.nodes.clear()
