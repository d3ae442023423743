"""An emulated QEMU process: block nodes, bitmaps and exports that QMP commands act on."""

from __future__ import annotations

from nbexport.emulator.host import MonitorAddress, make_monitor, run_monitor
from nbexport.emulator.machine import PROGRAMS, Machine
from nbexport.emulator.release import Release
from nbexport.emulator.replay import Answer, Comparison, Difference, replay, replay_at
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
