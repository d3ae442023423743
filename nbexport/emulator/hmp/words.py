"""What a human types: flags, words, quoted words, numbers.

Source: the manual's chapter on the monitor; the complaints are those of QEMU 7.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nbexport.emulator.numbers import INT64_MAX, parse_int64, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ESCAPES: Final = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
_WORD_END: Final = re.compile(r"\s")
_EXPECTED: Final = {
    "block": "block device name expected",
    "file": "filename expected",
    "string": "string expected",
}


class ComplaintError(Exception):
    """The words do not fit the command; the text says why, without the command's name."""

    def __init__(self, text: str, *, named: bool = True) -> None:
        super().__init__(text)
        self.named = named


@dataclass(frozen=True)
class Word:
    """An argument of a command.

    Attributes:
        name: what the command calls it.
        kind: ``flag``, ``block``, ``file``, ``string``, ``rest``, ``int`` or ``size``.
        optional: whether it may be missing.
        letter: of a flag.
    """

    name: str
    kind: str
    optional: bool = False
    letter: str = ""


def read(text: str, wanted: Sequence[Word], write: Callable[[str], object]) -> dict[str, Any]:
    """Return the arguments of a command by name; those that are missing have no name.

    Args:
        text: what is behind the command's name.
        wanted: the arguments that there are.
        write: told of a quotation that has no end.

    Raises:
        ComplaintError: the words do not fit.
    """
    found: dict[str, Any] = {}
    flags = {word.letter: word.name for word in wanted if word.kind == "flag"}
    text = text.lstrip()
    for word in wanted:
        if word.kind == "flag":
            text = _flag(text, flags, found)
            continue
        text = text.lstrip()
        if not text and word.optional:
            continue
        if word.kind == "rest":
            if text:
                found[word.name], text = text, ""
                continue
            raise ComplaintError(_EXPECTED["string"])
        if word.kind in _EXPECTED:
            value, text = _word(text, write)
            if value is None:
                raise ComplaintError(_EXPECTED[word.kind])
            found[word.name] = value
        else:
            found[word.name], text = _number(text, word.kind)
    if text.strip():
        raise ComplaintError("extraneous characters at the end of line")
    return found


def _flag(text: str, flags: dict[str, str], found: dict[str, Any]) -> str:
    """Take one flag off the text, if it begins with one."""
    if not text.startswith("-"):
        return text
    letter = text[1:2]
    if letter not in flags:
        raise ComplaintError(f"unsupported option -{letter}")
    found[flags[letter]] = True
    return text[2:].lstrip()


def _word(text: str, write: Callable[[str], object]) -> tuple[str | None, str]:
    """Return a word and what is behind it; None if there is none."""
    if not text:
        return None, ""
    if not text.startswith('"'):
        match = _WORD_END.search(text)
        end = match.start() if match is not None else len(text)
        return text[:end], text[end:]
    piece: list[str] = []
    position = 1
    while position < len(text):
        char = text[position]
        if char == '"':
            return "".join(piece), text[position + 1 :]
        if char == "\\":
            position += 1
            escaped = text[position : position + 1]
            if escaped not in _ESCAPES or not escaped:
                write(f"unsupported escape code: '\\{escaped}'\n")
                return None, ""
            char = _ESCAPES[escaped]
        piece.append(char)
        position += 1
    write("unterminated string\n")
    return None, ""


def _number(text: str, kind: str) -> tuple[int, str]:
    match = _WORD_END.search(text)
    end = match.start() if match is not None else len(text)
    given = text[:end]
    if kind == "int":
        value = parse_int64(given)
        if value is None:
            raise ComplaintError("invalid char in expression", named=False)
        return value, text[end:]
    # A size without a suffix is one of mebibytes.
    value = parse_size(given if not given.isdecimal() else f"{given}M")
    if value is None or value > INT64_MAX:
        raise ComplaintError("invalid size", named=False)
    return value, text[end:]
