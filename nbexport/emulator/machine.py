"""One emulated process: its state, its services, and the commands that act on them."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any

from nbexport import qapi
from nbexport.emulator import permissions, threads
from nbexport.emulator.commands import COMMANDS
from nbexport.emulator.graph import BlockExport, Graph, Node
from nbexport.emulator.jobs import Jobs
from nbexport.emulator.objects import Objects
from nbexport.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from nbexport.emulator.release import Release
    from nbexport.nbd import NbdServer

PROGRAMS = ("qemu-system", "qemu-storage-daemon")
"""What can be emulated. The storage daemon has no machine, and leaves without an event."""

SYSTEM_ONLY = frozenset({
    "cont", "device_add", "device_del", "query-status", "stop",
})  # fmt: skip
"""Commands that the storage daemon does not have."""

_PACKAGE = "nbexport"
_LOG = logging.getLogger(__name__)


class Machine:
    """The state of an emulated QEMU process, without any monitor.

    Args:
        release: what to behave as.
        program: ``qemu-system`` or ``qemu-storage-daemon``.
        removed: what to take out of the interface, see `nbexport.qapi.load_without`.

    Raises:
        UsageError: there is no such program, or the release has nothing of a name to remove.

    Attributes:
        schema: the interface of the release, without what was removed.
        removed: names of what was removed.
        graph: nodes, bitmaps, exports, jobs.
        jobs: what goes on in the background.
        objects: secrets, credentials, authorizations and threads.
        running: whether the machine runs, between cont and stop.
        started: whether it has run at all.
        starting: whether options of a command line are acted on.
        nbd_server: the server, between nbd-server-start and nbd-server-stop.
    """

    def __init__(
        self, release: Release, *, program: str = "qemu-system", removed: Sequence[str] = ()
    ) -> None:
        if program not in PROGRAMS:
            raise UsageError(f"unknown program '{program}' (known: {', '.join(PROGRAMS)})")
        self.release = release
        self.is_system_emulator = program == "qemu-system"
        self.schema = qapi.load_release(str(release))
        self.removed = tuple(removed)
        if removed:
            self.schema = qapi.load_without(self.schema, removed)
        self.graph = Graph()
        self.objects = Objects(release)
        self.running = True
        self.started = True
        self.starting = False
        self.nbd_server: NbdServer | None = None
        self.nbd_max_connections = 0
        self._quit: Callable[[], None] | None = None
        self._emit: Callable[[str, Mapping[str, Any] | None], None] | None = None
        self._lock = asyncio.Lock()
        self._events = {event.name for event in self.schema.events()}
        self.jobs = Jobs(self.graph, self._lock, self.emit)
        self._later: set[asyncio.Task[None]] = set()
        self._at_once: set[asyncio.Task[None]] = set()

    @property
    def version(self) -> dict[str, Any]:
        """The result of query-version."""
        major, minor, micro = self.release.version
        return {
            "qemu": {"micro": micro, "minor": minor, "major": major},
            "package": _PACKAGE,
        }

    def handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Awaitable[Any]]]:
        """Return the commands, bound to this machine, for a dispatcher."""
        known = {entity.name for entity in self.schema.commands()}
        if not self.is_system_emulator:
            known -= SYSTEM_ONLY
        return {name: functools.partial(self._run, name) for name in COMMANDS if name in known}

    async def _run(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if self._at_once:
            await asyncio.wait(self._at_once)
        # QEMU's main loop runs one command at a time, whichever monitor it came from.
        async with self._lock:
            try:
                return await COMMANDS[name](self, arguments)
            finally:
                self.jobs.command_ended()

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run what reads files without holding up the clients of other monitors and exports."""
        return await asyncio.to_thread(function, *arguments)

    def on_event(self, emit: Callable[[str, Mapping[str, Any] | None], None]) -> None:
        """Have events delivered to ``emit``."""
        self._emit = emit

    def on_quit(self, quit_: Callable[[], None]) -> None:
        """Have ``quit_`` called when a client asks the process to end."""
        self._quit = quit_

    def emit(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Tell every monitor of an event, if the release has it."""
        if self._emit is not None and event in self._events:
            self._emit(event, data)

    def say(self, text: str) -> None:
        """Print a line on the standard output, as QEMU does when a command makes an image."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def later(self, work: Coroutine[Any, Any, None], *, at_once: bool = False) -> None:
        """Do ``work`` after the reply of the command that is running.

        Args:
            work: what to do.
            at_once: whether commands that come after the reply wait until it is done.
        """

        async def wait_and_work() -> None:
            async with self._lock:
                # The command ends first; its reply is queued when the lock is released.
                if at_once:
                    await asyncio.sleep(0)
                    await work
                    return
            await asyncio.sleep(0)
            await work

        task = asyncio.get_running_loop().create_task(wait_and_work())
        for tasks in (self._later, self._at_once) if at_once else (self._later,):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def stop_nbd_server(self) -> None:
        """Remove every NBD export and stop the server, if one runs; the monitors are told."""
        server, self.nbd_server = self.nbd_server, None
        if server is None:
            return
        exports = [export for export in self.graph.exports.values() if export.type == "nbd"]
        for export in exports:
            export.shutting_down = True
        await server.close()
        for export in exports:
            await self.forget_export(export)

    async def forget_export(self, export: BlockExport) -> None:
        """Drop an export that serves nobody any more, and tell the monitors."""
        await self.jobs.disturb(export.node, times=2)
        del self.graph.exports[export.id]
        node = export.node
        users = (
            self.graph.parents(node),
            self.graph.exports_of(node),
            self.graph.jobs_of(node),
            self.graph.backends_of(node),
        )
        if not (node.monitor_owned or any(users)):
            # Whoever opened it is gone; the export was its last user.
            await self.in_thread(self.close_nodes, self.graph.remove(node))
        for bitmap in export.bitmaps:
            bitmap.busy = False
        permissions.settle(self.graph)
        threads.settle(self.graph, export.node)
        if self.release.exports_have_ids:
            self.emit("BLOCK_EXPORT_DELETED", {"id": export.id})

    def request_quit(self) -> None:
        """Ask the process to end once the reply is sent."""
        if self._quit is not None:
            self._quit()

    async def close(self) -> None:
        """End the jobs, stop the NBD server and close every node. Safe to call twice."""
        if self.graph.jobs:
            async with self._lock:
                await self.jobs.end_all()
        if self._later:
            await asyncio.wait(self._later, timeout=10)
        if self.nbd_server is not None:
            server, self.nbd_server = self.nbd_server, None
            await server.close()
        nodes = list(reversed(self.graph.nodes.values()))
        self.graph.nodes.clear()
        await self.in_thread(self.close_nodes, nodes)

    def close_nodes(self, nodes: Sequence[Node]) -> None:
        """Close nodes, a parent before its children, whatever happens.

        One that cannot store what it has to is told of in the log; QEMU ignores it, too.
        """
        for node in nodes:
            try:
                node.close()
            except (FormatError, OSError) as error:
                _LOG.error("%s: %s", node.name, error)
