"""What a client asks of the process itself; for the schema the dispatcher answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport.emulator.commands.registry import command

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.machine import Machine


@command("query-version")
async def query_version(machine: Machine, arguments: Arguments) -> dict[str, Any]:  # noqa: ARG001
    """Tell the release that is emulated, and by whom."""
    return machine.version


@command("query-status")
async def query_status(machine: Machine, arguments: Arguments) -> dict[str, Any]:  # noqa: ARG001
    """Tell whether the machine, which has no processor, runs."""
    status = "running" if machine.running else "paused" if machine.started else "prelaunch"
    return {"running": machine.running, "singlestep": False, "status": status}


@command("stop")
async def stop(machine: Machine, arguments: Arguments) -> None:  # noqa: ARG001
    """Let the machine stand still; one that does is left alone."""
    if machine.running:
        machine.running = False
        machine.emit("STOP")
    # All that is on its way to the disks ends first.
    for job in list(machine.graph.jobs.values()):
        if job.nodes:
            await machine.jobs.disturb(job.nodes[0], times=1)


@command("cont")
async def cont(machine: Machine, arguments: Arguments) -> None:  # noqa: ARG001
    """Let the machine run; one that does is left alone."""
    if not machine.running:
        machine.running = machine.started = True
        machine.emit("RESUME")


@command("quit")
async def quit_(machine: Machine, arguments: Arguments) -> None:  # noqa: ARG001
    """End the process; the reply is still sent."""
    if machine.is_system_emulator:
        machine.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
    # The exports go while the command still runs: the reply is the last thing a client hears.
    await machine.stop_nbd_server(ending=True)
    await machine.jobs.end_all()
    machine.request_quit()
