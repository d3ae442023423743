"""The commands of the monitor for humans, by name.

Source: the manual's chapter on the monitor; what they answer was compared with QEMU 7.2.
"""

from __future__ import annotations

import os
import select
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TextIO

from nbexport.emulator.hmp.words import ComplaintError, Word, read
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from nbexport.emulator.machine import Machine


_PATIENCE: Final = 1.0
"""Seconds between two looks at a full pipe."""


def _print(text: str) -> None:
    _write(sys.stdout, text)


def _complain(text: str) -> None:
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    """Write at once, even where a monitor on the same pipe has made it not wait."""
    stream.flush()
    data = memoryview(text.encode())
    while data:
        try:
            data = data[os.write(stream.fileno(), data) :]
        except BlockingIOError:
            select.select([], [stream.fileno()], [], _PATIENCE)
        except OSError:
            return  # nobody reads it any more


@dataclass
class Screen:
    """Where the answer to a command goes.

    Attributes:
        lines: what the human reads.
        write: the standard output of the process.
        complain: its standard error.
    """

    lines: list[str] = field(default_factory=list)
    write: Callable[[str], object] = _print
    complain: Callable[[str], object] = _complain

    def tell(self, text: str) -> None:
        """Show something."""
        self.lines.append(text)

    def fail(self, text: str) -> None:
        """Show why something did not work."""
        self.lines.append(f"Error: {text}\n")

    @property
    def text(self) -> str:
        """All that was shown, its lines as a terminal wants them."""
        return "".join(self.lines).replace("\n", "\r\n")


@dataclass(frozen=True)
class Entry:
    """A command.

    Attributes:
        names: its name and its other names.
        act: does it.
        words: its arguments.
        shown: its arguments, as its help shows them.
        summary: what it does, in a few words.
        needs: the command of QMP without which there is no such command; empty for none.
    """

    names: tuple[str, ...]
    act: Callable[[Machine, Screen, dict[str, Any]], Awaitable[None]]
    words: tuple[Word, ...] = ()
    shown: str = ""
    summary: str = ""
    needs: str = ""

    def help(self, group: str = "") -> str:
        """Return the line about it."""
        return f"{group}{'|'.join(self.names)} {self.shown} -- {self.summary}\n"


TABLE: Final[list[Entry]] = []
INFO: Final[list[Entry]] = []


def entry(
    names: str,
    *words: Word,
    shown: str = "",
    summary: str = "",
    table: list[Entry] = TABLE,
    needs: str = "",
) -> Callable[[Any], Any]:
    """Register a function as a command.

    Args:
        names: its names, with a bar between them.
        words: its arguments.
        shown: its arguments, as its help shows them.
        summary: what it does.
        table: where; those of ``info`` have one of their own.
        needs: the command of QMP without which there is no such command.
    """

    def register(act: Any) -> Any:
        table.append(Entry(tuple(names.split("|")), act, words, shown, summary, needs))
        return act

    return register


async def run(machine: Machine, line: str, screen: Screen) -> None:
    """Run a command; the machine must not run another meanwhile.

    Args:
        machine: where.
        line: what the human typed.
        screen: gets the answer.
    """
    name, _, rest = line.strip().partition(" ")
    if not name:
        return
    table, shown = TABLE, name
    if name == "info" and rest.strip():
        second, _, rest = rest.strip().partition(" ")
        table, shown = INFO, f"info {second}"
        found = _find(table, second)
    else:
        found = _find(table, name)
    if found is None or not _is_there(machine, found):
        screen.tell(f"unknown command: '{shown}'\n")
        return
    try:
        arguments = read(rest, found.words, screen.write)
    except ComplaintError as error:
        name_of = f"{'|'.join(found.names)}: " if error.named else ""
        screen.tell(f'{name_of}{error}\nTry "help {shown}" for more information\n')
        return
    try:
        await found.act(machine, screen, arguments)
    except CommandError as error:
        screen.fail(str(error))


def _find(table: list[Entry], name: str) -> Entry | None:
    return next((each for each in table if name in each.names), None)


def _is_there(machine: Machine, each: Entry) -> bool:
    return not each.needs or each.needs in machine.handlers()


def helps(machine: Machine, words: str) -> Iterator[str]:
    """Yield the lines of the help: of all commands, of one, or of those of ``info``."""
    given = words.split()
    if given[:1] == ["info"] or not given:
        table, group = (INFO, "info ") if given else (TABLE, "")
        for each in sorted(table, key=lambda each: each.names):
            if _is_there(machine, each) and (not given[1:] or given[1] in each.names):
                yield each.help(group)
        return
    found = _find(TABLE, given[0])
    if found is None or not _is_there(machine, found):
        yield f"unknown command: '{given[0]}'\n"
    else:
        yield found.help()
