"""The QMP commands, one module a family. Arguments arrive validated against the schema."""

from __future__ import annotations

from nbexport.emulator.commands import (
    backup,
    bitmap,
    block,
    commit,
    drive_backup,
    export,
    job,
    legacy,
    mirror,
    objects,
    process,
    snapshot,
    stream,
    transaction,
)
from nbexport.emulator.commands.registry import COMMANDS, Handler

__all__ = [
    "COMMANDS",
    "Handler",
    "backup",
    "bitmap",
    "block",
    "commit",
    "drive_backup",
    "export",
    "job",
    "legacy",
    "mirror",
    "objects",
    "process",
    "snapshot",
    "stream",
    "transaction",
]
