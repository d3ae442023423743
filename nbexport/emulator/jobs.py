"""The jobs of a process, and how commands that need the disks for themselves disturb them.

Such a command holds the jobs between two steps (`Jobs.held`), and pauses those that it disturbs
(`Jobs.drain`), which the monitors are told of.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from nbexport.emulator.graph import is_well_formed
from nbexport.emulator.job import Job, Status
from nbexport.errors import CommandError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from nbexport.emulator.graph import Graph, Node

END_SECONDS: Final = 10.0
"""How long a process that ends waits for what a job has in hand."""


class Jobs:
    """The jobs of a process.

    Args:
        graph: whose nodes they work at; it lists them.
        turn: held by the command that runs.
        tell: sends an event to the monitors, if the release has it.

    Attributes:
        holders: how many commands hold the jobs between two steps.
        started: jobs that the command which runs has started, the last to be resumed at the end.
        quiet: nodes where nothing may be under way, one entry for each that wants it so.
    """

    def __init__(
        self,
        graph: Graph,
        turn: asyncio.Lock,
        tell: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._graph = graph
        self.turn = turn
        self.tell = tell
        self.holders = 0
        self.quiet: list[Node] = []
        self.started: list[Job] = []
        self._aborting: list[list[Job]] = []
        self._ending = False

    @property
    def newest_first(self) -> list[Job]:
        """All jobs."""
        return list(reversed(self._graph.jobs.values()))

    def find(self, identifier: str) -> Job | None:
        """Return the job of that id."""
        return self._graph.jobs.get(identifier)

    def check_id(self, identifier: str) -> None:
        """Raise CommandError unless a new job may have this id."""
        if not is_well_formed(identifier):
            raise CommandError(f"Invalid job ID '{identifier}'")
        if identifier in self._graph.jobs:
            raise CommandError(f"Job ID '{identifier}' already in use")

    def add(self, job: Job) -> None:
        """List a job."""
        self._graph.jobs[job.id] = job

    def forget(self, job: Job) -> None:
        """List a job no longer."""
        if self._graph.jobs.get(job.id) is job:
            del self._graph.jobs[job.id]

    def command_ended(self) -> None:
        """Let the jobs work that a command has started, now that it has ended."""
        started, self.started = self.started, []
        for job in started:
            job.begin()

    def resumed(self, job: Job) -> None:
        """Take note that a job, which the command may have started, goes on."""
        if job in self.started:
            self.started.remove(job)
            self.started.append(job)

    async def end_idle(self) -> None:
        """Let those of the jobs that the command has started end that wait for nothing.

        That which was resumed last comes first.
        """
        for job in reversed(self.started):
            if job.work.waits_for_nothing:
                await job.end_at_once()

    def is_aborting(self, group: list[Job]) -> bool:
        """Whether the jobs of a group are being ended already."""
        return any(other is group for other in self._aborting)

    @contextlib.contextmanager
    def aborting(self, group: list[Job]) -> Iterator[None]:
        """Remember while it lasts that a group is being ended."""
        self._aborting.append(group)
        try:
            yield
        finally:
            self._aborting = [other for other in self._aborting if other is not group]

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keep every job between two steps."""
        self.holders += 1
        try:
            for job in self.newest_first:
                await job.wait_idle()
            yield
        finally:
            self.holders -= 1
            if not self.holders:
                for job in self.newest_first:
                    job.wake()

    def _disturbed(self, node: Node) -> list[Job]:
        return [job for job in self.newest_first if job.uses(node)]

    def _places(self, pick: Callable[[Sequence[int]], int]) -> list[Job]:
        """Return all jobs, in the order of one of each job's nodes, the oldest first if equal."""
        nodes = list(self._graph.nodes.values())

        def place(job: Job) -> int:
            used = [number for number, node in enumerate(nodes) if job.uses(node)]
            return pick(used) if used else len(nodes)

        return sorted(self._graph.jobs.values(), key=place)

    def _pause_all(self) -> None:
        # Node after node, the oldest first, is told to be quiet, and with it who uses it.
        for job in self._places(min):
            job.pause()

    def quiesce(self, node: Node) -> None:
        """Let nothing be under way at a node until `release`; the jobs must be held."""
        for job in self._disturbed(node):
            job.pause()
        self.quiet.append(node)

    def release(self, node: Node) -> None:
        """Take back one `quiesce`."""
        self.quiet.remove(node)
        for job in self._disturbed(node):
            job.resume()

    def drain(self, node: Node | None = None, *, times: int = 1) -> None:
        """Let nothing be under way at a node, or at any, for a moment; the jobs must be held."""
        for _ in range(times):
            if node is not None:
                for job in [] if self._ending else reversed(self._disturbed(node)):
                    job.end_if_cancelled()
                self.quiesce(node)
                self.release(node)
                continue
            self._pause_all()
            for job in self._places(max):
                job.resume()

    async def disturb(self, node: Node, *, times: int) -> None:
        """Hold the jobs and do as `drain`."""
        if self._graph.jobs:
            async with self.held():
                self.drain(node, times=times)

    async def end_all(self) -> None:
        """Cancel every job, as a process does that ends, and dismiss it."""
        self._ending = True
        async with self.held():
            self._pause_all()
        for job in self.newest_first:
            if job.status not in {Status.CONCLUDED, Status.NULL}:
                await job.cancel()
                await job.end(END_SECONDS)
            if job.status is Status.CONCLUDED:
                job.dismiss()
            self.forget(job)
