"""What the work of all block jobs has in common: progress, speed, and what is done about errors."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Final

from nbexport.block import SourceReadError
from nbexport.errors import CommandError, FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbexport.emulator.graph import Node
    from nbexport.emulator.job import Job
    from nbexport.emulator.machine import Machine

SLICE_SECONDS: Final = 0.1
"""Speed is counted in slices of that length, as in QEMU."""
RETRY_SECONDS: Final = 0.1
"""Whoever ignores errors tries for ever; not more often than this."""

DiskError = OSError | FormatError | UsageError
"""What goes wrong with a disk."""
DISK_ERRORS: Final = (OSError, FormatError, UsageError)


async def grow(machine: Machine, node: Node, size: int) -> None:
    """Give the target of a commit the length of what it gets, if that is more.

    Raises:
        OSError: it cannot have that; the job fails.
    """
    if node.block.size >= size:
        return
    try:
        await machine.in_thread(node.resize, size)
    except (CommandError, FormatError) as error:
        raise OSError(errno.ENOTSUP, str(error)) from error


class Pace:
    """Says how long to wait after a piece of work, so that a speed is kept.

    Args:
        speed: bytes a second, 0 for no limit.
    """

    def __init__(self, speed: int) -> None:
        self._begin = self._end = self._done = 0.0
        self.set(speed)

    def set(self, speed: int) -> None:
        """Take note of another speed; what was done in this slice counts."""
        self._quota = max(speed * SLICE_SECONDS, 1.0) if speed > 0 else 0.0

    def delay(self, length: int) -> float:
        """Return the seconds to wait after so many bytes."""
        if not self._quota:
            return 0.0
        now = time.monotonic()
        if self._end < now:
            self._begin, self._end, self._done = now, now + SLICE_SECONDS, 0.0
        self._done += length
        if self._done < self._quota:
            return 0.0
        self._end = self._begin + self._done / self._quota * SLICE_SECONDS
        return self._end - now


class BlockWork:
    """The work of a block job; kinds of jobs add their steps.

    Args:
        machine: where it runs.
        on_error: what to do about errors of ``read`` and ``write``.
        speed: bytes a second, 0 for no limit.

    Attributes:
        done: bytes that are done.
        total: bytes in all, as far as it is known.
        delay: seconds to wait before the next step.
    """

    type = ""
    holds_still = False
    """Whether nobody may use its disk at the moment, not even the job."""
    tells_busy = True
    """Whether a client is told when it is in the middle of a step."""
    ends_after_reply = False
    """Whether a job that is cancelled has still something to do when the reply is sent."""

    def __init__(self, machine: Machine, on_error: Mapping[str, str], speed: int) -> None:
        self._machine = machine
        self._on_error = on_error
        self.rate = Pace(speed)
        self.done = 0
        self.total = 0
        self.delay = 0.0

    def progress(self) -> tuple[int, int]:
        """Return the bytes that are done, and those that there are to do altogether."""
        return self.done, self.total

    @property
    def waits_for_nothing(self) -> bool:
        """Whether what is left to do needs no disk that takes time."""
        return False

    @property
    def is_synced(self) -> bool:
        """Whether all writes reach the target before they are confirmed."""
        return False

    def pace(self, speed: int) -> None:
        """Take note of a new speed, in bytes a second; 0 for no limit."""
        self.rate.set(speed)

    async def step(self, job: Job) -> bool:
        """Do a little; return whether there is more to do; see `nbexport.emulator.job.Work`."""
        raise NotImplementedError  # each kind of job has its own

    def complete(self, job: Job) -> None:
        """Have a job that could go on for ever end.

        Raises:
            CommandError: it is none, or cannot.
        """
        raise CommandError(f"The active block job '{job.id}' cannot be completed")

    def cancels_at_once(self, job: Job, *, force: bool) -> bool:
        """Return whether to be cancelled means to stop in the middle."""
        del job, force
        return True

    def prepare(self) -> None:
        """Do what is to be done before a group of jobs can succeed.

        Raises:
            OSError: it cannot be done; the group fails.
        """

    def commit(self) -> None:
        """Take note that the job, and those that it ends together with, succeeded."""

    def abort(self) -> None:
        """Take note that the job, or one that it ends together with, failed."""

    def clean(self) -> None:
        """Release all that the job used, in either case."""

    def forget(self) -> None:
        """Release what the job held as long as it was listed."""

    def failed(self, job: Job, error: DiskError, operation: str | None = None) -> str:
        """Do what the client wants done about an error.

        Args:
            job: whose work it is.
            error: what went wrong.
            operation: ``read`` or ``write``, if the error does not say it.

        Returns:
            What is done: ``stop`` or ``ignore``.

        Raises:
            OSError: it is to give up.
        """
        number = getattr(error, "errno", None) or errno.EIO
        if operation is None:
            operation = "read" if isinstance(error, SourceReadError) else "write"
        action = self._on_error[operation]
        if action in {"enospc", "auto"}:
            stops = action == "enospc" and number == errno.ENOSPC
            action = "stop" if stops else "report"
        data = {"device": job.id, "operation": operation, "action": action}
        self._machine.emit("BLOCK_JOB_ERROR", data)
        if action == "report":
            raise OSError(number, str(error)) from error
        if action == "stop":
            job.user_pause()
            job.io_status = "nospace" if number == errno.ENOSPC else "failed"
        else:
            self.delay = RETRY_SECONDS
        return action
