"""Schema files to expressions: includes followed, pragmas applied, comments attached."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.qapi.docs import Doc, parse_doc
from nbexport.qapi.lexer import MAX_SOURCE, Lexer, Token
from nbexport.qapi.source import Pragmas, QapiError, SourceInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# QEMU's own schema nests 5 deep (a definition, its data, a member, its features, one of them).
MAX_NESTING = 64
# QEMU's schema includes 45 files; this many would be a generated attack on memory.
MAX_FILES = 4096


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
    with Path(path).open("rb") as file:
        data = file.read(MAX_SOURCE * 4 + 1)
    return data.decode("utf-8")


def parse_files(
    path: str, read: Callable[[str], str] = read_file
) -> tuple[list[Expression], list[Doc]]:
    """Parse a schema file and all that it includes.

    Args:
        path: the root file.
        read: gives the text of a file; the way to parse a git revision or a test's dictionary.

    Returns:
        The expressions, an ``include`` followed by what it brought in, and all comments.

    Raises:
        QapiError: a file cannot be read, or its text breaks the language.
    """
    parser = _Files(read)
    info = SourceInfo(path, 1, None, Pragmas())
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
        pending: Doc | None = None
        for item in _Parser(Lexer(text, info).tokens()).items():
            if isinstance(item, Token):
                _reject_orphan(pending)
                for doc in parse_doc(item):
                    _reject_orphan(pending)
                    self.docs.append(doc)
                    pending = doc
                continue
            content = item.content
            if "include" in content:
                _reject_orphan(pending)
                self._include(item)
            elif "pragma" in content:
                _reject_orphan(pending)
                _apply_pragmas(item)
            else:
                if pending is not None:
                    if pending.symbol is None:
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
    if doc is not None and doc.symbol is not None:
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
    for name, value in pragma.items():
        if name == "doc-required":
            if not isinstance(value, bool):
                raise QapiError(info, "pragma 'doc-required' must be boolean")
            info.pragmas.doc_required = value
        elif name in (
            "command-name-exceptions",
            "command-returns-exceptions",
            "documentation-exceptions",
            "member-name-exceptions",
        ):
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise QapiError(info, f"pragma {name} must be a list of strings")
            setattr(info.pragmas, name.replace("-", "_"), value)
        else:
            raise QapiError(info, f"unknown pragma '{name}'")


class _Parser:
    """Tokens of one file to comments and objects."""

    def __init__(self, tokens: Iterator[Token]) -> None:
        self._tokens = tokens
        self._token = next(tokens)

    def _advance(self) -> Token:
        """Return the current token and go to the next."""
        token = self._token
        if token.kind:
            self._token = next(self._tokens)
        return token

    def _fail(self, message: str) -> QapiError:
        return QapiError(self._token.info, message, column=self._token.column)

    def items(self) -> Iterator[Token | Expression]:
        """Give the comments and expressions of the file in order."""
        while self._token.kind:
            if self._token.kind == "#":
                # the lexer reads on lazily, so a fault after the comment is reported after it
                token = self._token
                yield token
                self._advance()
                continue
            info = self._token.info
            content = self._value(0)
            if not isinstance(content, dict):
                raise QapiError(info, "top-level expression must be an object")
            yield Expression(content, info)

    def _value(self, depth: int) -> Any:
        if depth > MAX_NESTING:
            raise self._fail(f"nesting is deeper than {MAX_NESTING}")
        kind = self._token.kind
        if kind == "{":
            self._advance()
            return self._members(depth)
        if kind == "[":
            self._advance()
            return self._values(depth)
        if kind == "'":
            return self._advance().text
        if kind == "b":
            return self._advance().value
        raise self._fail("expected '{', '[', string, or boolean")

    def _members(self, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        if self._token.kind == "}":
            self._advance()
            return members
        if self._token.kind != "'":
            raise self._fail("expected string or '}'")
        while True:
            key = self._advance().text
            if self._token.kind != ":":
                raise self._fail("expected ':'")
            self._advance()
            if key in members:
                raise self._fail(f"duplicate key '{key}'")
            members[key] = self._value(depth + 1)
            if self._token.kind == "}":
                self._advance()
                return members
            if self._token.kind != ",":
                raise self._fail("expected ',' or '}'")
            self._advance()
            if self._token.kind != "'":
                raise self._fail("expected string")

    def _values(self, depth: int) -> list[Any]:
        values: list[Any] = []
        if self._token.kind == "]":
            self._advance()
            return values
        if self._token.kind not in ("{", "[", "'", "b"):
            raise self._fail("expected '{', '[', ']', string, or boolean")
        while True:
            values.append(self._value(depth + 1))
            if self._token.kind == "]":
                self._advance()
                return values
            if self._token.kind != ",":
                raise self._fail("expected ',' or ']'")
            self._advance()
