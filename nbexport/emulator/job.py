"""A background job: its states, what commands it takes in each, and how it ends with others.

A job works in steps. Between two of them it looks whether it is to pause or to end.

Source: QEMU's ``qapi/job.json``, states and verbs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from nbexport.emulator.serial import next_serial
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbexport.emulator.graph import Node
    from nbexport.emulator.jobs import Jobs
    from nbexport.emulator.permissions import Use

_LOG = logging.getLogger(__name__)

CANCEL_SECONDS: Final = 0.2
"""How long a command that cancels a job waits for it before it replies."""


class Status(StrEnum):
    """States of a job that has been created."""

    UNDEFINED = "undefined"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    READY = "ready"
    STANDBY = "standby"
    WAITING = "waiting"
    PENDING = "pending"
    ABORTING = "aborting"
    CONCLUDED = "concluded"
    NULL = "null"


_ACTIVE = {Status.CREATED, Status.RUNNING, Status.PAUSED, Status.READY, Status.STANDBY}
_REST: Final = {Status.RUNNING: Status.PAUSED, Status.READY: Status.STANDBY}
_WORK: Final = {rest: work for work, rest in _REST.items()}
_VERBS: Final[Mapping[str, set[Status]]] = {
    "cancel": _ACTIVE | {Status.WAITING, Status.PENDING},
    "pause": _ACTIVE,
    "resume": _ACTIVE,
    "set-speed": _ACTIVE,
    "complete": {Status.READY, Status.STANDBY},
    "finalize": {Status.PENDING},
    "dismiss": {Status.CONCLUDED},
}
_COMPLETED = {
    Status.WAITING,
    Status.PENDING,
    Status.ABORTING,
    Status.CONCLUDED,
    Status.NULL,
}


class Work(Protocol):
    """What a job does."""

    type: str
    ends_after_reply: bool
    tells_busy: bool
    holds_still: bool

    def progress(self) -> tuple[int, int]:
        """Return what is done and what there is to do altogether."""

    @property
    def waits_for_nothing(self) -> bool:
        """Whether what is left to do needs no disk that takes time."""

    @property
    def is_synced(self) -> bool:
        """Whether all writes reach the target of a mirror before they are confirmed."""

    def pace(self, speed: int) -> None:
        """Take note of a new speed, in bytes a second; 0 for no limit."""

    async def step(self, job: Job) -> bool:
        """Do a little; return whether there is more to do.

        Raises:
            OSError: it failed; the number is the job's result.
        """

    def complete(self, job: Job) -> None:
        """Have a job that could go on for ever end; raise CommandError if it is none."""

    def cancels_at_once(self, job: Job, *, force: bool) -> bool:
        """Return whether to be cancelled means to stop in the middle."""

    def prepare(self) -> None:
        """Do what is to be done before the group can succeed; raise OSError if it cannot be."""

    def commit(self) -> None:
        """Take note that the job, and those that it ends together with, succeeded."""

    def abort(self) -> None:
        """Take note that the job, or one that it ends together with, failed."""

    def clean(self) -> None:
        """Release all that the job used, in either case."""

    def forget(self) -> None:
        """Release what the job held as long as it was listed."""


class Job:
    """One job.

    Args:
        jobs: where it is listed.
        identifier: its id.
        work: what it does.
        nodes: what it works at: the node that it is the job of, then others that it uses.
        group: the jobs that it ends together with; it adds itself.
        speed: bytes a second, 0 for no limit.
        auto_finalize: whether it needs no job-finalize.
        auto_dismiss: whether it is forgotten when it has ended.

    Attributes:
        status: its state.
        io_status: ``ok``, or ``failed`` or ``nospace`` after an error that stopped it.
        error: why it failed; None if it did not.
        cancelled: whether it was, and stops in the middle.
        asked_to_end: whether it was cancelled so that it comes to a good end.
        uses_of: what it does with nodes and denies to others.
        made_at: when it was created, as a number that grows.
        user_paused: whether a client paused it, or an error did.
    """

    def __init__(
        self,
        jobs: Jobs,
        identifier: str,
        work: Work,
        nodes: Sequence[Node],
        group: list[Job],
        *,
        speed: int = 0,
        auto_finalize: bool = True,
        auto_dismiss: bool = True,
    ) -> None:
        self.id = identifier
        self.work = work
        self.nodes = list(nodes)
        self.group = group
        self.speed = speed
        self.auto_finalize = auto_finalize
        self.auto_dismiss = auto_dismiss
        self.status = Status.UNDEFINED
        self.io_status = "ok"
        self.error: str | None = None
        self.cancelled = False
        self.asked_to_end = False
        self.uses_of: list[tuple[Node, Use]] = []
        self.user_paused = False
        self.made_at = next_serial()
        self._jobs = jobs
        self._result = 0
        self._pauses = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._may_begin = asyncio.Event()
        group.insert(0, self)
        self._go(Status.CREATED)
        jobs.add(self)
        for node in jobs.quiet:
            if self.uses(node):
                self.pause()

    def _go(self, status: Status) -> None:
        self.status = status
        self._jobs.tell("JOB_STATUS_CHANGE", {"id": self.id, "status": str(status)})

    def uses(self, node: Node) -> bool:
        """Return whether it works at ``node``, or at one that is built on it."""
        return any(used.reaches(node) for used in self.nodes)

    @property
    def is_busy(self) -> bool:
        """Whether it is in the middle of a step."""
        return not self._idle.is_set() and not self._ended.is_set()

    @property
    def is_completed(self) -> bool:
        """Whether it does nothing any more."""
        return self.status in _COMPLETED

    @property
    def pause_count(self) -> int:
        """How many want it to pause."""
        return self._pauses

    def check(self, verb: str) -> None:
        """Raise CommandError unless the job takes a command in its state."""
        if self.status not in _VERBS[verb]:
            raise CommandError(
                f"Job '{self.id}' in state '{self.status}' cannot accept command verb '{verb}'"
            )

    # Running

    def start(self) -> None:
        """Begin to work; a job that is to pause pauses before its first step."""
        self._go(Status.RUNNING)
        self._pause_if_asked()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._jobs.started.append(self)

    async def _run(self) -> None:
        try:
            await self._work()
        except OSError as error:
            self._result = error.errno or errno.EIO
        except Exception:
            _LOG.exception("job '%s'", self.id)
            self._result = errno.EIO
        finally:
            self._ended.set()
        # The commands' turn comes first: they may be ending this very job.
        async with self._jobs.turn:
            if not self.is_completed:
                await self.complete()

    async def _work(self) -> None:
        await self._may_begin.wait()
        await asyncio.sleep(0)
        more = True
        while more and not self.cancelled:
            if self._pauses or self._jobs.holders:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._idle.clear()
            try:
                more = await self.work.step(self)
            finally:
                self._idle.set()
                self._pause_if_asked()

    async def sleep(self, seconds: float | None) -> None:
        """Wait, at the end of a step; commands to the job, and its end, wake it up."""
        if self.cancelled or self._pauses or self._jobs.holders:
            return
        self._wake.clear()
        self._idle.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    def _pause_if_asked(self) -> None:
        rest = _REST.get(self.status)
        waits = self._idle.is_set() and rest is not None and not self._ended.is_set()
        if self._pauses and waits and not self.cancelled:
            assert rest is not None
            self._go(rest)

    def become_ready(self) -> None:
        """Tell that it can be completed."""
        self._go(Status.READY)
        self._jobs.tell("BLOCK_JOB_READY", self._facts())

    @property
    def is_ready(self) -> bool:
        """Whether it can be completed, or could if it did not rest."""
        return self.status in {Status.READY, Status.STANDBY}

    def pause(self) -> None:
        """Pause at the next opportunity, until `resume` was called as often."""
        self._pauses += 1
        if self.status is not Status.CREATED:
            self._pause_if_asked()

    def resume(self) -> None:
        """Take back one `pause`."""
        self._pauses -= 1
        self._continue()

    def _continue(self) -> None:
        if not self._pauses:
            if self.status in _WORK:
                self._go(_WORK[self.status])
                self._jobs.resumed(self)
            self.wake()

    def begin(self) -> None:
        """Let a started job work: the reply to the command that started it is on its way."""
        self._may_begin.set()

    async def end_at_once(self) -> None:
        """Work to the end before the command that started the job replies."""
        self.begin()
        await self._ended.wait()
        if not self.is_completed:
            await self.complete()

    def wake(self) -> None:
        """Have the job look around, if it waits."""
        if self.cancelled:
            self._may_begin.set()
        self._wake.set()

    async def wait_idle(self) -> None:
        """Wait until it is between two steps."""
        await self._idle.wait()

    def user_pause(self) -> None:
        """Pause it for a client, or for an error.

        Raises:
            CommandError: it cannot be paused, or is paused.
        """
        self.check("pause")
        if self.user_paused:
            raise CommandError("Job is already paused")
        self.user_paused = True
        self.pause()

    def user_resume(self) -> None:
        """Take back a client's pause.

        Raises:
            CommandError: there was none.
        """
        if not self.user_paused:
            raise CommandError("Can't resume a job that was not paused")
        self.check("resume")
        self.io_status = "ok"
        self.user_paused = False
        self.resume()

    # Ending

    def _cancel_later(self) -> None:
        if self.user_paused:
            self.user_paused = False
            self.io_status = "ok"
            self._pauses -= 1
        self.cancelled = True

    def fail_early(self) -> None:
        """Forget it before it was started: the command that made it failed."""
        self.group.remove(self)
        self.nodes, self.uses_of = [], []
        self.dismiss()

    def ask_complete(self) -> None:
        """Have it end that could go on for ever.

        Raises:
            CommandError: it is not ready, or cannot.
        """
        self.check("complete")
        if self.asked_to_end or self.cancelled:
            raise CommandError(f"The active block job '{self.id}' cannot be completed")
        self.work.complete(self)
        self.wake()

    def drop(self) -> None:
        """End it, and those that it would have ended together with, before any was started."""
        if self.status is Status.NULL:
            return
        for job in self.group:
            job.cancelled = True
        self._update_result()
        for job in list(self.group):
            job._finish()

    async def cancel(self, *, force: bool = True) -> None:
        """Cancel it; if it is in the middle of a long step, it ends after the reply.

        Args:
            force: whether one that is ready stops in the middle, too, and does not come to an end.
        """
        if not self.work.cancels_at_once(self, force=force):
            if self.user_paused:
                self.user_paused = False
                self.io_status = "ok"
                self.resume()
            if not self._ended.is_set():
                self.asked_to_end = True
                self.wake()
            return
        self._cancel_later()
        if self._task is None:
            await self.complete()
        elif self._ended.is_set():
            await self._abort_group()
        else:
            self._continue_to_end()
            if self.work.ends_after_reply:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), CANCEL_SECONDS)
            if self._ended.is_set() and not self.is_completed:
                await self.complete()

    async def end(self, seconds: float) -> None:
        """Wait for what a cancelled job has in hand, so long at the most, and end it."""
        if not self.is_completed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), seconds)
            if not self.is_completed:
                await self.complete()

    def _continue_to_end(self) -> None:
        if self.status in _WORK:
            self._go(_WORK[self.status])
        self.wake()

    def _update_result(self) -> None:
        if not self._result and self.cancelled:
            self._result = errno.ECANCELED
        if self._result:
            if self.error is None:
                self.error = os.strerror(self._result)
            if self.status is not Status.ABORTING:
                self._go(Status.ABORTING)

    async def complete(self) -> None:
        """Go on after the work: wait for the group, or end it."""
        self._update_result()
        if self._result:
            await self._abort_group()
            return
        self._go(Status.WAITING)
        if not all(job.is_completed for job in self.group):
            return
        for job in self.group:
            job._go(Status.PENDING)
            if not job.auto_finalize:
                data = {"type": job.work.type, "id": job.id}
                self._jobs.tell("BLOCK_JOB_PENDING", data)
        if all(job.auto_finalize for job in self.group):
            self.finalize()

    def finalize(self) -> None:
        """Let the group end, each of its jobs after the other; if one cannot, all fail."""
        for job in self.group:
            try:
                job.work.prepare()
            except OSError as error:
                _LOG.error("job '%s': %s", job.id, error)
                job._result = error.errno or errno.EIO
                for other in self.group:
                    other.cancelled = other.cancelled or other is not job
                break
        for job in list(self.group):
            job._finish()

    async def _abort_group(self) -> None:
        """End every job of the group, those that still work too."""
        if self._jobs.is_aborting(self.group):
            return
        with self._jobs.aborting(self.group):
            for job in self.group:
                if job is not self:
                    job._cancel_later()
            for job in self.group:
                if job._task is not None:
                    job.wake()
                    await job._ended.wait()
            for job in list(self.group):
                job.end_if_cancelled()
                job._finish()

    def end_if_cancelled(self) -> None:
        """Let a job that was cancelled, and has nothing in hand any more, take note of it."""
        if self.cancelled and not self.is_completed and self._ended.is_set():
            if self.status in _WORK:
                self._go(_WORK[self.status])
            self._update_result()

    def _finish(self) -> None:
        self._update_result()
        if self._result:
            self.work.abort()
        else:
            self.work.commit()
        self.work.clean()
        if self._task is not None:
            self._tell_end()
        self.group.remove(self)
        self._go(Status.CONCLUDED)
        if self.auto_dismiss or self._task is None:
            self.dismiss()

    @property
    def is_block(self) -> bool:
        """Whether it is a job at a disk, which older commands and events know too."""
        return self.work.type != "create"

    def _facts(self) -> dict[str, Any]:
        data: dict[str, Any] = {"type": self.work.type, "device": self.id, "speed": self.speed}
        data["offset"], data["len"] = self.work.progress()
        return data

    def _tell_end(self) -> None:
        if not self.is_block:
            return
        data = self._facts()
        if self.cancelled:
            self._jobs.tell("BLOCK_JOB_CANCELLED", data)
            return
        if self.error is not None:
            data["error"] = self.error
        self._jobs.tell("BLOCK_JOB_COMPLETED", data)

    def dismiss(self) -> None:
        """Forget it."""
        self._go(Status.NULL)
        self._jobs.forget(self)
        self.nodes, self.uses_of = [], []
        self.work.forget()
