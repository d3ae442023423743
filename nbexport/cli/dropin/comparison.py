"""How the options of the drop-in commands compare with those of QEMU's programs.

``python -m nbexport.cli.dropin.comparison`` prints the page ``OPTIONS.md`` beside this module; a
test sees that it is up to date. The tables are those by which the commands read their words.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.cli.dropin import nbd_options, storage_daemon, system_options
from nbexport.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.cli.dropin.getopt import Option

SAME, DIFFERS, REFUSED = VERDICTS = ("same", "differs", "refused")


@dataclass(frozen=True)
class DropIn:
    """One of the commands.

    Attributes:
        name: what it is called.
        stands_for: QEMU's program.
        options: all that are read.
        dashes: dashes before a long name.
    """

    name: str
    stands_for: str
    options: Sequence[Option]
    dashes: str = "--"

    def word(self, option: Option) -> str:
        """Return an option as it is typed: its letter, if it has one, and its name."""
        long = f"{self.dashes}{option.name}" if len(option.name) > 1 else f"-{option.name}"
        return f"-{option.short}, {long}" if option.short else long

    def of(self, verdict: str) -> list[Option]:
        """Return the options of one verdict, in the order of the help."""
        return [option for option in self.options if option.verdict == verdict]


COMMANDS = (
    DropIn("nbexport-nbd", "qemu-nbd", nbd_options.OPTIONS),
    DropIn("nbexport-storage-daemon", "qemu-storage-daemon", storage_daemon.OPTIONS),
    DropIn("nbexport-monitor", "qemu-system-x86_64", system_options.OPTIONS, dashes="-"),
)


def find(name: str) -> DropIn:
    """Return a command by its name or that of QEMU's program.

    Raises:
        UsageError: there is none.
    """
    for each in COMMANDS:
        if name in {each.name, each.stands_for}:
            return each
    known = ", ".join(each.name for each in COMMANDS)
    raise UsageError(f"unknown command '{name}' (known: {known})")


def rows(command: DropIn, *verdicts: str) -> list[tuple[str, str, str]]:
    """Return for each option how it is typed, its verdict, and in what it differs or why not.

    Args:
        command: whose options.
        verdicts: which to tell; none for all.
    """
    return [
        (command.word(option), verdict, option.note)
        for verdict in verdicts or VERDICTS
        for option in command.of(verdict)
    ]


def counts() -> list[tuple[str, ...]]:
    """Return for each command its name, QEMU's program, and how many options have each verdict."""
    return [
        (each.name, each.stands_for, *(str(len(each.of(verdict))) for verdict in VERDICTS))
        for each in COMMANDS
    ]


def page() -> str:
    """Return the page of all options, in Markdown."""
    lines = ["# Options of the drop-in commands", ""]
    lines += ["Made by `python -m nbexport.cli.dropin.comparison`; do not edit.", ""]
    for command in COMMANDS:
        lines += [f"## {command.name}, for {command.stands_for}", ""]
        lines += ["| option | compared | in what, or why |", "| --- | --- | --- |"]
        for word, verdict, note in rows(command):
            text = note.replace("|", "\\|")
            lines.append(f"| `{word}` | {verdict} | {text} |")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
