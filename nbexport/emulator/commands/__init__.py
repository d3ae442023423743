"""The QMP commands, one module a family. Arguments arrive validated against the schema."""

from __future__ import annotations

from nbexport.emulator.commands import (
    bitmap,
    block,
    export,
    legacy,
    objects,
    process,
    transaction,
)
from nbexport.emulator.commands.registry import COMMANDS, Handler

__all__ = [
    "COMMANDS",
    "Handler",
    "bitmap",
    "block",
    "export",
    "legacy",
    "objects",
    "process",
    "transaction",
]
