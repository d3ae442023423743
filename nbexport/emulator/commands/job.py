"""The commands on jobs: job-*, and block-job-*, which call them by another name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from nbexport.emulator.commands.registry import command
from nbexport.emulator.job import Job
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.machine import Machine

Verb = Callable[["Machine", Job], Awaitable[None]]


def _verb(name: str, block_member: str) -> Callable[[Verb], Verb]:
    """Register what is done with a job as ``job-NAME`` and ``block-job-NAME``."""

    def register(act: Verb) -> Verb:
        @command(f"job-{name}")
        async def job_command(machine: Machine, arguments: Arguments) -> None:
            job = machine.jobs.find(arguments["id"])
            if job is None:
                raise CommandError("Job not found")
            await act(machine, job)

        @command(f"block-job-{name}")
        async def block_job_command(machine: Machine, arguments: Arguments) -> None:
            await act(machine, _find(machine, arguments[block_member]))

        return act

    return register


def _find(machine: Machine, identifier: str) -> Job:
    job = machine.jobs.find(identifier)
    if job is None or not job.is_block:
        raise CommandError(f"Block job '{identifier}' not found", error_class="DeviceNotActive")
    return job


@_verb("pause", "device")
async def pause(machine: Machine, job: Job) -> None:  # noqa: ARG001 - verbs get both
    """Pause a job at the next opportunity."""
    job.user_pause()


@_verb("resume", "device")
async def resume(machine: Machine, job: Job) -> None:  # noqa: ARG001 - verbs get both
    """Let a job go on that a client, or an error, paused."""
    job.user_resume()


@command("job-cancel")
async def cancel(machine: Machine, arguments: Arguments) -> None:
    """End a job before it is done."""
    job = machine.jobs.find(arguments["id"])
    if job is None:
        raise CommandError("Job not found")
    job.check("cancel")
    await job.cancel(force=machine.release.job_cancel_stops)


@command("block-job-cancel")
async def block_job_cancel(machine: Machine, arguments: Arguments) -> None:
    """End a block job; one that is ready comes to a good end unless it is forced."""
    job = _find(machine, arguments["device"])
    force = arguments.get("force", False)
    if job.user_paused and not force:
        raise CommandError(f"The block job for device '{job.id}' is currently paused")
    job.check("cancel")
    await job.cancel(force=force)


@_verb("complete", "device")
async def complete(machine: Machine, job: Job) -> None:  # noqa: ARG001 - verbs get both
    """End a job that could go on for ever."""
    job.ask_complete()


@_verb("finalize", "id")
async def finalize(machine: Machine, job: Job) -> None:
    """End a job that waits for it, and those that it ends together with."""
    job.check("finalize")
    async with machine.jobs.held():
        job.finalize()


@_verb("dismiss", "id")
async def dismiss(machine: Machine, job: Job) -> None:  # noqa: ARG001 - verbs get both
    """Forget a job that has ended."""
    job.check("dismiss")
    job.dismiss()


@command("block-job-set-speed")
async def set_speed(machine: Machine, arguments: Arguments) -> None:
    """Limit a job's bytes a second; 0 is no limit."""
    job = _find(machine, arguments["device"])
    job.check("set-speed")
    if arguments["speed"] < 0:
        raise CommandError("Parameter 'speed' expects a non-negative value")
    job.speed = arguments["speed"]
    job.work.pace(job.speed)
    job.wake()


@command("query-jobs")
async def query_jobs(machine: Machine, arguments: Arguments) -> list[dict[str, Any]]:  # noqa: ARG001
    """Describe every job, the newest first."""
    described = []
    for job in machine.jobs.newest_first:
        current, total = job.work.progress()
        described.append(
            {
                "id": job.id,
                "type": job.work.type,
                "status": str(job.status),
                "current-progress": current,
                "total-progress": total,
                **({"error": job.error} if job.error is not None else {}),
            }
        )
    return described


@command("query-block-jobs")
async def query_block_jobs(
    machine: Machine,
    arguments: Arguments,  # noqa: ARG001 - it has none
) -> list[dict[str, Any]]:
    """Describe every block job, the newest first."""
    return [_block_job(job) for job in machine.jobs.newest_first if job.is_block]


def _block_job(job: Job) -> dict[str, Any]:
    """Return a job's ``BlockJobInfo``."""
    offset, length = job.work.progress()
    return {
        "type": job.work.type,
        "device": job.id,
        "len": length,
        "offset": offset,
        "busy": job.work.tells_busy and job.is_busy,
        "paused": job.pause_count > 0 or job.work.holds_still,
        "speed": job.speed,
        "io-status": job.io_status,
        "ready": job.is_ready,
        "status": str(job.status),
        "auto-finalize": job.auto_finalize,
        "auto-dismiss": job.auto_dismiss,
        **({"error": job.error} if job.error is not None else {}),
        **({"actively-synced": job.work.is_synced} if job.work.type == "mirror" else {}),
    }
