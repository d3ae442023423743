"""The commands of ``qemu-io``, done to a disk of the process."""

from __future__ import annotations

from nbexport.emulator.qemuio.commands import run
from nbexport.emulator.qemuio.request import Target

__all__ = ["Target", "run"]
