"""Schema text to tokens: punctuation, strings, booleans and documentation comments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.qapi.source import QapiError
from nbexport.units import MiB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.qapi.source import SourceInfo

# QEMU's largest schema file is 200 KiB; a hundred times that is no schema any more.
MAX_SOURCE = 16 * MiB

_SPACE = re.compile(r"[^\S\n]+")
_STRING = re.compile(r"'((?:[^'\\\n]|\\.)*)'")
_STRAY = re.compile(r"[^\[\]{}:,\s'\"]+")
_TAB = 8


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a schema file.

    Args:
        kind: one of ``{ } [ ] : ,``; ``'`` a string; ``b`` a boolean; ``#`` a documentation
            comment; the empty string the end.
        info: the line on which it begins.
        column: the column, from 1, on which it begins.
        text: the string's value or, for a comment, its lines.
        value: the boolean's value.
        end: for a comment, the line of its end.
    """

    kind: str
    info: SourceInfo
    column: int
    text: str = ""
    value: bool = False
    end: int = 0


def _column(text: str) -> int:
    """Return the column after ``text``, the beginning of a line; tabulators stop each 8."""
    column = 1
    for char in text:
        column = (column + _TAB - 1) // _TAB * _TAB + 1 if char == "\t" else column + 1
    return column


class Lexer:
    """The tokens of one schema file.

    Args:
        text: the whole file.
        info: the file, at line 1.

    Raises:
        QapiError: the file is longer than ``MAX_SOURCE`` characters.
    """

    def __init__(self, text: str, info: SourceInfo) -> None:
        if len(text) > MAX_SOURCE:
            raise QapiError(info, f"schema file is larger than {MAX_SOURCE} characters")
        self._text = text if text.endswith("\n") else text + "\n"
        self._info = info
        self._line_start = 0

    def _error(self, position: int, message: str) -> QapiError:
        column = _column(self._text[self._line_start : position])
        return QapiError(self._info, message, column=column)

    def tokens(self) -> Iterator[Token]:
        """Give the tokens in order; the last one has the empty kind.

        Raises:
            QapiError: a character or a string that the language does not have.
        """
        text = self._text
        position = 0
        while position < len(text):
            char = text[position]
            if char == "\n":
                position += 1
                if position < len(text):
                    self._newline(position)
                continue
            blank = _SPACE.match(text, position)
            if blank:
                position = blank.end()
                continue
            column = _column(text[self._line_start : position])
            if char in "{}[]:,":
                yield Token(char, self._info, column)
                position += 1
            elif char == "'":
                value, end = self._string(position)
                yield Token("'", self._info, column, value)
                position = end
            elif char == "#":
                if text.startswith("##", position):
                    token, position = self._comment(position, column)
                    yield token
                else:
                    position = text.index("\n", position)
            elif text.startswith("true", position):
                yield Token("b", self._info, column, value=True)
                position += 4
            elif text.startswith("false", position):
                yield Token("b", self._info, column)
                position += 5
            else:
                stray = _STRAY.match(text, position)
                raise self._error(position, f"stray '{stray.group() if stray else char}'")
        yield Token("", self._info, _column(text[self._line_start : len(text) - 1]))

    def _newline(self, start: int) -> None:
        self._info = self._info.at(self._info.line + 1)
        self._line_start = start

    def _string(self, position: int) -> tuple[str, int]:
        """Return a string's value and the position after its closing quote."""
        match = _STRING.match(self._text, position)
        raw = (
            match.group(1) if match else self._text[position + 1 : self._text.index("\n", position)]
        )
        value = []
        chars = iter(raw)
        for char in chars:
            if char == "\\":
                char = next(chars, "")
                if char != "\\":
                    if not char:
                        break
                    raise self._error(position, f"unknown escape \\{char}")
            if not " " <= char <= "~":
                raise self._error(position, "funny character in string")
            value.append(char)
        if match is None:
            raise self._error(position, 'missing terminating "\'"')
        return "".join(value), match.end()

    def _comment(self, position: int, column: int) -> tuple[Token, int]:
        """Return a documentation comment, its lines without the fences, and the position after."""
        text = self._text
        begin = self._info
        end = text.index("\n", position)
        if text[position:end] != "##":
            raise self._error(position, "junk after '##' at start of documentation comment")
        lines: list[str] = []
        position = end + 1
        while position < len(text):
            self._newline(position)
            end = text.index("\n", position)
            indent = _SPACE.match(text, position)
            start = indent.end() if indent else position
            line = text[start:end]
            if not line.startswith("#"):
                if not line:
                    # an empty line inside a comment does not end it
                    position = end + 1
                    continue
                raise self._error(start, "documentation comment must end with '##'")
            if line.startswith("##"):
                if line != "##":
                    raise self._error(start, "junk after '##' at end of documentation comment")
                return Token("#", begin, column, "\n".join(lines), end=self._info.line), end
            lines.append(line)
            position = end + 1
        raise self._error(len(text) - 1, "documentation comment must end with '##'")
