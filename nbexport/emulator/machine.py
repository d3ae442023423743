"""One emulated process: its state, its services, and the commands that act on them."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any

from nbexport import qapi
from nbexport.emulator import permissions, threads
from nbexport.emulator.board import Board
from nbexport.emulator.commands import COMMANDS
from nbexport.emulator.graph import Backend, BlockExport, Graph, Node
from nbexport.emulator.jobs import Jobs
from nbexport.emulator.objects import Objects
from nbexport.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence

    from nbexport.emulator.release import Release
    from nbexport.nbd import NbdServer

PROGRAMS = ("qemu-system", "qemu-storage-daemon")
"""What can be emulated. The storage daemon has no machine, and leaves without an event."""

SYSTEM_ONLY = frozenset({
    "block_set_io_throttle", "cont", "device_add", "device_del", "eject", "human-monitor-command",
    "query-status", "stop", "system_reset",
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
        board: the buses and what is plugged into them.
        running: whether the machine runs, between cont and stop.
        started: whether it has run at all.
        starting: whether options of a command line are acted on.
        quitting: whether the process ends.
        nbd_server: the server, between nbd-server-start and nbd-server-stop.
        leaves_sockets: whether the file of the server's socket stays when the process ends.
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
        self.board = Board("none")
        self.running = True
        self.started = True
        self.starting = False
        self.quitting = False
        self.nbd_server: NbdServer | None = None
        self.nbd_max_connections = 0
        self.leaves_sockets = False
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

    async def stop_nbd_server(self, *, ending: bool = False) -> None:
        """Remove every NBD export and stop the server, if one runs; the monitors are told.

        Args:
            ending: whether the process ends.
        """
        server, self.nbd_server = self.nbd_server, None
        if server is None:
            return
        exports = [export for export in self.graph.exports.values() if export.type == "nbd"]
        for export in exports:
            export.shutting_down = True
            self.graph.lift_limits(export.node)
        await server.close(keep_files=ending and self.leaves_sockets)
        for export in exports:
            await self.forget_export(export)

    async def forget_export(self, export: BlockExport) -> None:
        """Drop an export that serves nobody any more, and tell the monitors."""
        await self.jobs.disturb(export.node, times=2)
        del self.graph.exports[export.id]
        await self.release_node(export.node)
        for bitmap in export.bitmaps:
            bitmap.busy = False
        permissions.settle(self.graph)
        threads.settle(self.graph, export.node)
        if self.release.exports_have_ids:
            self.emit("BLOCK_EXPORT_DELETED", {"id": export.id})

    async def release_node(self, node: Node) -> None:
        """Close a node whose user is gone, if that was the last and nobody owns it."""
        users = (
            self.graph.parents(node),
            self.graph.exports_of(node),
            self.graph.jobs_of(node),
            self.graph.backends_of(node),
        )
        if node.monitor_owned or any(users):
            return
        # Whoever opened it is gone as well.
        await self.in_thread(self.close_nodes, self.graph.remove(node))

    async def drop_disk(self, disk: Backend) -> None:
        """Forget a disk of the machine; what it has begun ends first."""
        self.graph.disks.remove(disk)
        await self.empty_disk(disk)

    async def empty_disk(self, disk: Backend) -> None:
        """Take out what is in a disk, and the exports made for it; what was begun ends first."""
        await self.wait_for(disk.begun)
        for export in [each for each in self.graph.exports.values() if each.disk is disk]:
            export.shutting_down = True
            if self.nbd_server is not None:
                await self.nbd_server.remove(export.name, hard=True)
            await self.forget_export(export)
        node, disk.node = disk.node, None
        if node is not None:
            await self.release_node(node)
            permissions.settle(self.graph)
            threads.settle(self.graph, node)

    async def wait_for(self, begun: Iterable[asyncio.Task[None]]) -> None:
        """Wait until requests that were begun are done."""
        waiting = [task for task in begun if not task.done()]
        if waiting:
            await asyncio.wait(waiting)

    async def settle_requests(self) -> None:
        """Wait until all requests that were begun are done, whichever disk they are for."""
        for disk in list(self.graph.disks):
            await self.wait_for(disk.begun)

    def request_quit(self) -> None:
        """Ask the process to end once the reply is sent."""
        self.quitting = True
        if self._quit is not None:
            self._quit()

    async def close(self) -> None:
        """End the jobs, stop the NBD server and close every node. Safe to call twice."""
        self.graph.lift_limits()
        if self.graph.jobs:
            async with self._lock:
                await self.jobs.end_all()
        if self._later:
            await asyncio.wait(self._later, timeout=10)
        await self.settle_requests()
        if self.nbd_server is not None:
            server, self.nbd_server = self.nbd_server, None
            await server.close(keep_files=self.leaves_sockets)
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
