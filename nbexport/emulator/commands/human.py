"""What a human would type, sent by a program: human-monitor-command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.emulator import hmp
from nbexport.emulator.commands.registry import command

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.machine import Machine


@command("human-monitor-command")
async def human_monitor_command(machine: Machine, arguments: Arguments) -> str:
    """Run a command of the monitor for humans; return what it would show."""
    screen = hmp.Screen()
    await hmp.run(machine, arguments["command-line"], screen)
    return screen.text
