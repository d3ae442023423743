"""What a client asks of the monitor itself: version, commands, schema; and quit."""

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


@command("query-commands")
async def query_commands(machine: Machine, arguments: Arguments) -> list[dict[str, str]]:  # noqa: ARG001
    """List the commands, newest registration first, as QEMU does."""
    return [{"name": name} for name in machine.command_names]


@command("query-qmp-schema")
async def query_schema(machine: Machine, arguments: Arguments) -> list[dict[str, Any]]:  # noqa: ARG001
    """Describe the wire format of every command and event."""
    return machine.introspection


@command("quit")
async def quit_(machine: Machine, arguments: Arguments) -> None:  # noqa: ARG001
    """End the process; the reply is still sent."""
    if machine.is_system_emulator:
        machine.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
    machine.request_quit()
