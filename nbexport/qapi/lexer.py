"""Schema text to tokens: punctuation, strings, booleans and the lines of comments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.qapi.source import QapiError
from nbexport.units import MiB

if TYPE_CHECKING:
    from nbexport.qapi.source import SourceInfo

# QEMU's largest schema file is 200 KiB; a hundred times that is no schema any more.
MAX_SOURCE = 16 * MiB

COMMENT, STRING, LITERAL, END = "#", "'", "b", ""
FENCE = "##"

# What is passed over, then punctuation or a string without anything special, if one is there.
_COMMON = r"(?:([{}\[\]:,])|'([ !-&(-\[\]-~]*+)')?"
_WITH_COMMENTS = re.compile(r"(\s*+)" + _COMMON)
# an ordinary comment begins with one '#'; two begin documentation
_TOKEN = re.compile(r"((?:\s++|#(?!#)[^\n]*+)*+)" + _COMMON)
_UNDOCUMENTED = re.compile(r"((?:\s++|#[^\n]*+)*+)" + _COMMON)
_PUNCTUATION, _SIMPLE = 2, 3
# The rest of a documentation comment whose lines all begin with '#', as they nearly always do.
_BLOCK = re.compile(r"(?:\n#(?!#)[^\n]*+)*+\n##(?=\n)")
_STRAY = re.compile(r"[^\[\]{}:,\s'\"]+")
_TAB = 8
_LITERALS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}


@dataclass(slots=True)
class Comment:
    """A documentation comment, taken apart into lines.

    Args:
        info: its first line, the opening fence.
        lines: what follows, without the closing fence; each line from its ``#`` on.
        places: line number and column of each, where they are not simply those that follow.
        error: what is wrong with its end; to be raised when the lines before are right.
    """

    info: SourceInfo
    lines: list[str]
    places: list[tuple[int, int]] | None = None
    error: QapiError | None = None

    def at(self, index: int) -> SourceInfo:
        """Return the place of a line; behind the last is the closing fence, if there is one."""
        return self.info.at(self._place(index)[0])

    def fail(self, index: int, message: str) -> QapiError:
        """Return an error at a line."""
        line, column = self._place(index)
        return QapiError(self.info.at(line), message, column=column)

    def _place(self, index: int) -> tuple[int, int]:
        if self.places is None:
            return self.info.line + 1 + index, 1
        # Without a closing fence there is nothing behind the last line.
        return self.places[min(index, len(self.places) - 1)] if self.places else (self.info.line, 1)


class Lexer:
    """The tokens of one schema file, one at a time.

    Args:
        text: the whole file.
        info: the file, at line 1.

    Attributes:
        kind: the current token: one of ``{ } [ ] : ,``; `STRING`; `LITERAL`; `COMMENT`, a line
            of a comment; `END`.
        value: the string, the literal's value, or the comment's line from its ``#`` on.
        line: the line on which the token begins, from 1.

    Raises:
        QapiError: the file is longer than ``MAX_SOURCE`` characters.
    """

    def __init__(self, text: str, info: SourceInfo) -> None:
        if len(text) > MAX_SOURCE:
            raise QapiError(info, f"schema file is larger than {MAX_SOURCE} characters")
        # as a text file is read: the three kinds of line ends are one
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        self._text = text if text.endswith("\n") else text + "\n"
        self._info = info
        rules = info.pragmas.rules
        self._token = _TOKEN if rules.markup else _UNDOCUMENTED
        self._literals = _LITERALS if not rules.since(4, 2) else dict(list(_LITERALS.items())[:2])
        self._line_start = 0
        self._start = 0
        self._position = 0
        self.line = 1
        self.kind = END
        self.value: str | bool | None = None

    def info(self) -> SourceInfo:
        """Return the place of the current token."""
        return self._info.at(self.line)

    def comment(self) -> Comment:
        """Return the documentation comment that begins at the current token.

        Afterwards its last line is the current token.

        Raises:
            QapiError: its opening fence has more to it than ``##``.
        """
        if self.value != FENCE:
            raise self.fail("junk after '##' at start of documentation comment")
        info = self.info()
        block = _BLOCK.match(self._text, self._position)
        if block is None:
            return self._scattered(info)
        lines = self._text[self._position + 1 : block.end()].split("\n")
        self.line += len(lines)
        self._start = self._line_start = block.end() - len(FENCE)
        self._position = block.end()
        lines.pop()
        return Comment(info, lines)

    def _scattered(self, info: SourceInfo) -> Comment:
        """Take a comment apart that is indented, has empty lines, or no end."""
        comment = Comment(info, [], [])
        assert comment.places is not None
        while True:
            try:
                self.advance(comments=True)
            except QapiError as error:
                comment.error = error
                return comment
            comment.places.append((self.line, self._column()))
            if self.kind != COMMENT:
                comment.error = self.fail("documentation comment must end with '##'")
                return comment
            line = str(self.value)
            if line.startswith(FENCE):
                if line != FENCE:
                    comment.error = self.fail("junk after '##' at end of documentation comment")
                return comment
            comment.lines.append(line)

    def fail(self, message: str) -> QapiError:
        """Return an error at the current token."""
        return QapiError(self.info(), message, column=self._column())

    def _column(self) -> int:
        column = 1
        for char in self._text[self._line_start : self._start]:
            column = (column + _TAB - 1) // _TAB * _TAB + 1 if char == "\t" else column + 1
        return column

    def advance(self, *, comments: bool = False) -> None:
        """Go to the next token.

        Args:
            comments: whether ordinary comments are tokens, as inside documentation.

        Raises:
            QapiError: a character or a string that the language does not have.
        """
        text = self._text
        position = self._position
        match = (_WITH_COMMENTS if comments else self._token).match(text, position)
        assert match is not None
        start = match.end(1)
        if start == len(text):
            self._end(position)
            return
        if start > position:
            lines = text.count("\n", position, start)
            if lines:
                self.line += lines
                self._line_start = text.rindex("\n", position, start) + 1
        self._start = start
        self._position = match.end()
        if match.lastindex == _PUNCTUATION:
            self.kind = match[_PUNCTUATION]
        elif match.lastindex == _SIMPLE:
            self.kind = STRING
            self.value = match[_SIMPLE]
        else:
            self._rare(start)

    def _end(self, position: int) -> None:
        """Stand at the end; the last line's end begins no further line."""
        last = len(self._text) - 1
        if position <= last:
            self.line += self._text.count("\n", position, last)
            self._line_start = self._text.rfind("\n", 0, last) + 1
        self.kind = END
        self.value = None
        self._start, self._position = last, last + 1

    def _rare(self, start: int) -> None:
        """Take a token that is neither punctuation nor a simple string."""
        text = self._text
        char = text[start]
        if char == "'":
            self.kind = STRING
            self.value = self._string(start)
        elif char == "#":
            self.kind = COMMENT
            self._position = text.index("\n", start)
            self.value = text[start : self._position]
        else:
            word, value = self._literals.get(char, ("", None))
            if not word or not text.startswith(word, start):
                stray = _STRAY.match(text, start)
                raise self.fail(f"stray '{stray.group() if stray else char}'")
            self.kind = LITERAL
            self.value = value
            self._position = start + len(word)

    def _string(self, start: int) -> str:
        """Return the value of a string and go behind its closing quote."""
        text = self._text
        value: list[str] = []
        position = start + 1
        while True:
            char = text[position]
            position += 1
            if char == "'":
                self._position = position
                return "".join(value)
            if char == "\\":
                char = text[position]
                position += 1
                if char not in "\\\n":
                    raise self.fail(f"unknown escape \\{char}")
            if char == "\n":
                raise self.fail('missing terminating "\'"')
            if not " " <= char <= "~":
                raise self.fail("funny character in string")
            value.append(char)
