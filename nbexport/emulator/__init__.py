"""An emulated QEMU process: block nodes, bitmaps and exports that QMP commands act on.

What is here is imported when it is asked for: a command that only opens an image waits for no
monitor.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbexport.emulator.comparison import Answer, Comparison, Difference
    from nbexport.emulator.host import MonitorAddress, make_monitor, run_monitor
    from nbexport.emulator.machine import PROGRAMS, Machine
    from nbexport.emulator.release import Release
    from nbexport.emulator.replay import replay, replay_at
    from nbexport.emulator.sessions import StepAnswer, play, play_at, told
    from nbexport.emulator.targets import TARGETS, Target, launch
    from nbexport.emulator.transcript import Transcript, TranscriptWriter

__all__ = [
    "PROGRAMS",
    "TARGETS",
    "Answer",
    "Comparison",
    "Difference",
    "Machine",
    "MonitorAddress",
    "Release",
    "StepAnswer",
    "Target",
    "Transcript",
    "TranscriptWriter",
    "launch",
    "make_monitor",
    "play",
    "play_at",
    "replay",
    "replay_at",
    "run_monitor",
    "told",
]

_PLACES = {
    "comparison": ("Answer", "Comparison", "Difference"),
    "host": ("MonitorAddress", "make_monitor", "run_monitor"),
    "machine": ("PROGRAMS", "Machine"),
    "release": ("Release",),
    "replay": ("replay", "replay_at"),
    "sessions": ("StepAnswer", "play", "play_at", "told"),
    "targets": ("TARGETS", "Target", "launch"),
    "transcript": ("Transcript", "TranscriptWriter"),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
