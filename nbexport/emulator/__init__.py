"""An emulated QEMU process: block nodes, bitmaps and exports that QMP commands act on."""

from __future__ import annotations

from nbexport.emulator.host import MonitorAddress, run_monitor
from nbexport.emulator.machine import PROGRAMS, Machine
from nbexport.emulator.release import Release
from nbexport.emulator.sessions import Answer, play, play_at
from nbexport.emulator.targets import TARGETS, Target, launch

__all__ = [
    "PROGRAMS",
    "TARGETS",
    "Answer",
    "Machine",
    "MonitorAddress",
    "Release",
    "Target",
    "launch",
    "play",
    "play_at",
    "run_monitor",
]
