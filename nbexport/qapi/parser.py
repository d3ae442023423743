"""Schema files to expressions: includes followed, pragmas applied, comments attached."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbexport.qapi.lexer import COMMENT, END, LITERAL, MAX_SOURCE, STRING, Lexer
from nbexport.qapi.markup import read_docs
from nbexport.qapi.rules import OLD_EXCEPTIONS, STRICT, Rules
from nbexport.qapi.source import Pragmas, QapiError, SourceInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbexport.qapi.docs import Doc

# QEMU's own schema nests 8 deep (a condition in a member); its front end gives up near 490, by
# Python's limit of 1000 frames.
MAX_NESTING = 480
# QEMU's schema includes 45 files; this many would be a generated attack on memory.
MAX_FILES = 4096


class Word(str):
    """A string of a schema's text that knows its line: a key, or a value of an enumeration."""

    __slots__ = ("line",)
    line: int

    @classmethod
    def at(cls, text: str, line: int) -> Word:
        """Return the text of a token that begins on a line, counted from 1."""
        word = cls(text)
        word.line = line
        return word


def line_of(text: str) -> int:
    """Return the line of a string, 0 for one that was in no text."""
    return text.line if isinstance(text, Word) else 0


@dataclass(slots=True)
class Expression:
    """A top-level expression.

    Args:
        content: the object, its keys in the order of the text.
        info: the line on which it begins.
        doc: the documentation comment right before it.
    """

    content: dict[str, Any]
    info: SourceInfo
    doc: Doc | None = None


def read_file(path: str) -> str:
    """Return the text of a schema file.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib takes longer to import than to read
        data = file.read(MAX_SOURCE * 4 + 1)
    return data.decode("utf-8")


def parse_files(
    path: str, read: Callable[[str], str] = read_file, rules: Rules = STRICT
) -> tuple[list[Expression], list[Doc]]:
    """Parse a schema file and all that it includes.

    Args:
        path: the root file.
        read: gives the text of a file; the way to parse a git revision or a test's dictionary.
        rules: which release's language it is.

    Returns:
        The expressions, an ``include`` followed by what it brought in, and all comments.

    Raises:
        QapiError: a file cannot be read, or its text breaks the language.
    """
    parser = _Files(read)
    pragmas = Pragmas(rules)
    if not rules.since(2, 9):
        for name, exceptions in OLD_EXCEPTIONS.items():
            setattr(pragmas, name, list(exceptions))
    info = SourceInfo(path, 1, None, pragmas)
    try:
        text = read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise QapiError(None, f"can't read schema file '{path}': {_reason(error)}") from error
    parser.parse(text, info)
    return parser.expressions, parser.docs


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no UTF-8"
    return error.strerror or str(error)


class _Files:
    """All files of one schema, each read once."""

    def __init__(self, read: Callable[[str], str]) -> None:
        self._read = read
        self._seen: set[str] = set()
        self.expressions: list[Expression] = []
        self.docs: list[Doc] = []

    def parse(self, text: str, info: SourceInfo) -> None:
        """Add one file's expressions; included files are added at their directive."""
        self._seen.add(os.path.normpath(info.path))
        lexer = Lexer(text, info)
        parser = _Parser(lexer)
        lexer.advance()
        pending: Doc | None = None
        while lexer.kind != END:
            if lexer.kind == COMMENT:
                _reject_orphan(pending)
                docs = read_docs(lexer, info.pragmas.rules)
                self.docs += docs
                pending = docs[-1]
                continue
            item = parser.expression()
            content = item.content
            if "include" in content:
                _reject_orphan(pending)
                self._include(item)
            elif "pragma" in content and info.pragmas.rules.since(2, 9):
                _reject_orphan(pending)
                _apply_pragmas(item)
            else:
                if pending is not None:
                    if not pending.symbol:
                        raise QapiError(pending.info, "definition documentation required")
                    item.doc = pending
                self.expressions.append(item)
            pending = None
        _reject_orphan(pending)

    def _include(self, directive: Expression) -> None:
        info = directive.info
        name = directive.content["include"]
        if len(directive.content) != 1:
            raise QapiError(info, "invalid 'include' directive")
        if not isinstance(name, str):
            raise QapiError(info, "value of 'include' must be a string")
        path = os.path.join(os.path.dirname(info.path), name)  # noqa: PTH118, PTH120 - kept as given
        self.expressions.append(Expression({"include": path}, info))
        key = os.path.normpath(path)
        place: SourceInfo | None = info
        while place is not None:
            if key == os.path.normpath(place.path):
                raise QapiError(info, f"inclusion loop for {name}")
            place = place.parent
        if key in self._seen:
            return
        if len(self._seen) >= MAX_FILES:
            raise QapiError(info, f"more than {MAX_FILES} schema files")
        try:
            text = self._read(path)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            reason = str(error) if type(error) is ValueError else _reason(error)  # type: ignore[arg-type]
            raise QapiError(info, f"can't read include file '{path}': {reason}") from error
        try:
            self.parse(text, SourceInfo(path, 1, info, info.pragmas))
        except RecursionError:
            raise QapiError(info, "include files are nested too deeply") from None


def _reject_orphan(doc: Doc | None) -> None:
    if doc is not None and doc.symbol:
        raise QapiError(
            doc.info, f"documentation for '{doc.symbol}' is not followed by the definition"
        )


def _apply_pragmas(directive: Expression) -> None:
    info = directive.info
    pragma = directive.content["pragma"]
    if len(directive.content) != 1:
        raise QapiError(info, "invalid 'pragma' directive")
    if not isinstance(pragma, dict):
        raise QapiError(info, "value of 'pragma' must be an object")
    lists = info.pragmas.rules.pragmas
    for name, value in pragma.items():
        if name == "doc-required":
            if not isinstance(value, bool):
                raise QapiError(info, "pragma 'doc-required' must be boolean")
            info.pragmas.doc_required = value
        elif name in lists:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise QapiError(info, f"pragma {name} must be a list of strings")
            setattr(info.pragmas, lists[name], value)
        else:
            raise QapiError(info, f"unknown pragma '{name}'")


class _Parser:
    """Expressions out of the tokens of one file."""

    def __init__(self, lexer: Lexer) -> None:
        self._lexer = lexer

    def expression(self) -> Expression:
        """Return the object that begins at the current token, and go behind it.

        Raises:
            QapiError: it is no object, or breaks the grammar.
        """
        info = self._lexer.info()
        if self._lexer.kind != "{" and not info.pragmas.rules.since(6, 1):
            raise self._lexer.fail("expected '{'")
        content = self._value()
        if not isinstance(content, dict):
            raise QapiError(info, "top-level expression must be an object")
        return Expression(content, info)

    def _value(self) -> Any:
        lexer = self._lexer
        # what is open around the value that comes next: containers, with the key for an object
        around: list[tuple[Any, str | None]] = []
        while True:
            kind = lexer.kind
            value: Any
            if kind == "{":
                lexer.advance()
                value = {}
                if lexer.kind != "}":
                    self._nest(around, value, self._key(value, "expected string or '}'"))
                    continue
                lexer.advance()
            elif kind == "[":
                lexer.advance()
                value = []
                if lexer.kind != "]":
                    if lexer.kind not in ("{", "[", STRING, LITERAL):
                        raise lexer.fail("expected '{', '[', ']', string, or boolean")
                    self._nest(around, value, None)
                    continue
                lexer.advance()
            elif kind in (STRING, LITERAL):
                value = lexer.value
                if kind == STRING:
                    value = Word.at(value, lexer.line)
                lexer.advance()
            else:
                raise lexer.fail("expected '{', '[', string, or boolean")
            while around:
                container, key = around[-1]
                if key is None:
                    container.append(value)
                    close = "]"
                else:
                    container[key] = value
                    close = "}"
                if lexer.kind == ",":
                    lexer.advance()
                    if key is not None:
                        around[-1] = container, self._key(container, "expected string")
                    break
                if lexer.kind != close:
                    raise lexer.fail(f"expected ',' or '{close}'")
                lexer.advance()
                around.pop()
                value = container
            else:
                return value

    def _nest(self, around: list[tuple[Any, str | None]], value: Any, key: str | None) -> None:
        if len(around) >= MAX_NESTING:
            raise self._lexer.fail(f"nesting is deeper than {MAX_NESTING}")
        around.append((value, key))

    def _key(self, container: dict[str, Any], expected: str) -> str:
        """Return the current token as a new key, and go to its value."""
        lexer = self._lexer
        if lexer.kind != STRING:
            raise lexer.fail(expected)
        key = Word.at(str(lexer.value), lexer.line)
        lexer.advance()
        if lexer.kind != ":":
            raise lexer.fail("expected ':'")
        lexer.advance()
        if key in container:
            raise lexer.fail(f"duplicate key '{key}'")
        return key
