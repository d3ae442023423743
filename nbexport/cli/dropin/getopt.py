"""Command lines as the C library's ``getopt_long`` reads them.

Options and operands may come in any order, long names may be cut short where that leaves no doubt,
and ``--`` ends the options. Errors have glibc's words.

Source: getopt(3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Option(NamedTuple):
    """An option of a program.

    Attributes:
        name: its long name.
        short: its letter, or nothing.
        value: what it takes, or nothing.
        summary: one line for the help.
        group: the heading of the help under which it stands; none for one that the help leaves out.
        verdict: how it compares with QEMU's: ``same``, ``differs`` or ``refused``.
        note: in what it differs, or why it is refused.
    """

    name: str
    short: str = ""
    value: str = ""
    summary: str = ""
    group: str = ""
    verdict: str = "same"
    note: str = ""


class Word(NamedTuple):
    """An option of the command line as it was given.

    Attributes:
        place: its words.
        name: its name, empty for an operand.
        value: its value.
    """

    place: str
    name: str
    value: str


class GetoptError(Exception):
    """The command line is wrong; the text lacks the program's name only."""


class Parser:
    """Reads one command line, an option at a time.

    Args:
        options: those that there are.
        words: the command line without the program.

    Attributes:
        operands: the words that are no options; complete when the last option was read.
    """

    def __init__(self, options: Sequence[Option], words: Sequence[str]) -> None:
        self._options = options
        self._words = list(words)
        self.operands: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield long name and value of each option, the value empty where it takes none.

        Raises:
            GetoptError: at the first word that is wrong.
        """
        words = self._words
        while words:
            word = words.pop(0)
            if word == "--":
                self.operands += words
                return
            if word.startswith("--"):
                yield self._long(word[2:])
            elif word.startswith("-") and word != "-":
                yield from self._letters(word[1:])
            else:
                self.operands.append(word)

    def _long(self, text: str) -> tuple[str, str]:
        given, equals, value = text.partition("=")
        option = self._find(given, text)
        if not option.value:
            if equals:
                raise GetoptError(f"option '--{option.name}' doesn't allow an argument")
            return option.name, ""
        if not equals:
            if not self._words:
                raise GetoptError(f"option '--{option.name}' requires an argument")
            value = self._words.pop(0)
        return option.name, value

    def _find(self, given: str, text: str) -> Option:
        found = []
        for option in self._options:
            if option.name == given:
                return option
            if option.name.startswith(given):
                found.append(option)
        if not found:
            raise GetoptError(f"unrecognized option '--{text}'")
        if len(found) > 1:
            names = " ".join(f"'--{option.name}'" for option in found)
            raise GetoptError(f"option '--{text}' is ambiguous; possibilities: {names}")
        return found[0]

    def _letters(self, letters: str) -> Iterator[tuple[str, str]]:
        for index, letter in enumerate(letters):
            option = next((each for each in self._options if each.short == letter), None)
            if option is None:
                raise GetoptError(f"invalid option -- '{letter}'")
            if not option.value:
                yield option.name, ""
                continue
            value = letters[index + 1 :]
            if not value:
                if not self._words:
                    raise GetoptError(f"option requires an argument -- '{letter}'")
                value = self._words.pop(0)
            yield option.name, value
            return
