"""The QMP commands, one module a family. Arguments arrive validated against the schema."""

from __future__ import annotations

from nbexport.emulator.commands import (
    backup,
    bitmap,
    block,
    device,
    export,
    human,
    job,
    legacy,
    medium,
    objects,
    process,
    transaction,
)
from nbexport.emulator.commands.registry import COMMANDS, Handler

__all__ = [
    "COMMANDS",
    "Handler",
    "backup",
    "bitmap",
    "block",
    "device",
    "export",
    "human",
    "job",
    "legacy",
    "medium",
    "objects",
    "process",
    "transaction",
]
