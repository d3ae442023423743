"""How other projects' test suites end with our commands in the place of QEMU's programs."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from nbexport.errors import FormatError
from nbexport.resources import data_path

if TYPE_CHECKING:
    from pathlib import Path


class Count(NamedTuple):
    """How many tests ended how."""

    passed: int
    failed: int
    skipped: int

    def __str__(self) -> str:
        """Return the numbers as a table has them."""
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass(frozen=True)
class Suite:
    """One suite.

    Attributes:
        name: the project.
        version: the release whose tests were run.
        what: which of its tests.
        theirs: the counts with QEMU's programs.
        ours: the counts with our commands.
        differences: tests that ended otherwise with ours, and why.
    """

    name: str
    version: str
    what: str
    theirs: Count
    ours: Count
    differences: tuple[tuple[str, str], ...] = ()


def suites(path: Path | None = None) -> list[Suite]:
    """Return the suites that were run, in the order of their file.

    Args:
        path: the file; None for the one that travels with the package.

    Raises:
        FormatError: it is no TOML, or an entry lacks something.
        OSError: it cannot be read.
    """
    path = path or data_path("suites.toml")
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["suite"]
        return [
            Suite(
                entry["name"],
                entry["version"],
                entry["what"],
                Count(*entry["theirs"]),
                Count(*entry["ours"]),
                tuple((each["test"], each["why"]) for each in entry.get("difference", ())),
            )
            for entry in entries
        ]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FormatError(f"no table of suites: {error}", path=str(path)) from error


def rows(found: list[Suite]) -> list[tuple[str, str, str, str]]:
    """Return the rows of a table: suite, what was run, the counts with QEMU's and with ours."""
    return [
        (f"{one.name} {one.version}", one.what, str(one.theirs), str(one.ours)) for one in found
    ]


def reasons(found: list[Suite]) -> list[tuple[str, str, str]]:
    """Return the rows of a table: suite, test that ended otherwise with ours, why."""
    return [(one.name, test, why) for one in found for test, why in one.differences]
