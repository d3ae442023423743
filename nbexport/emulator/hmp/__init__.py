"""The monitor for humans: a command is a line of words, an answer is text."""

from __future__ import annotations

from nbexport.emulator.hmp import commands
from nbexport.emulator.hmp.monitor import Monitor
from nbexport.emulator.hmp.serving import serve_on, serve_stdio
from nbexport.emulator.hmp.table import Screen, run

__all__ = ["Monitor", "Screen", "commands", "run", "serve_on", "serve_stdio"]
