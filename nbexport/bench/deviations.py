"""Known deviations from QEMU, one table for notebooks, documentation and tests."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from nbexport.errors import FormatError
from nbexport.resources import data_path

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("kept", "limit")
"""What kinds of deviations there are: those on purpose, and what is not built."""


@dataclass(frozen=True)
class Deviation:
    """One thing that differs from QEMU.

    Attributes:
        area: which part of the package it is about.
        kind: one of `KINDS`.
        what: what this package does.
        why: what QEMU does instead, and the reason to differ.
        since: the version of this package that has it.
        test: the test that states both sides, empty if there is none.
    """

    area: str
    kind: str
    what: str
    why: str
    since: str
    test: str = ""


def deviations(path: Path | None = None) -> list[Deviation]:
    """Return the known deviations, in the order of their file.

    Args:
        path: the file; None for the one that travels with the package.

    Raises:
        FormatError: it is no TOML, or an entry lacks something or has too much; the entry is
            named.
        OSError: it cannot be read.
    """
    path = path or data_path("deviations.toml")
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["deviation"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise FormatError(f"no table of deviations: {error}", path=str(path)) from error
    if not isinstance(entries, list):
        raise FormatError("'deviation' is no list of tables", path=str(path))
    known = {field.name for field in fields(Deviation)}
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"deviation {number}"
        if not isinstance(entry, dict):
            raise FormatError(f"{where} is no table", path=str(path))
        for name in known - {"test"} - entry.keys():
            raise FormatError(f"{where}: '{name}' is missing", path=str(path))
        for name, value in entry.items():
            if name not in known or not isinstance(value, str):
                raise FormatError(f"{where}: '{name}' is not understood", path=str(path))
        if entry["kind"] not in KINDS:
            raise FormatError(f"{where}: unknown kind '{entry['kind']}'", path=str(path))
        found.append(Deviation(**entry))
    return found
