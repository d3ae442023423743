"""The QMP commands, one module a family. Arguments arrive validated against the schema."""

from __future__ import annotations

from nbexport.emulator.commands import (
    backup,
    bitmap,
    block,
    commit,
    create,
    device,
    drive_backup,
    export,
    human,
    job,
    legacy,
    medium,
    mirror,
    objects,
    process,
    qom,
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
    "create",
    "device",
    "drive_backup",
    "export",
    "human",
    "job",
    "legacy",
    "medium",
    "mirror",
    "objects",
    "process",
    "qom",
    "snapshot",
    "stream",
    "transaction",
]
