"""Conditions of releases before 6.2: C preprocessor expressions, read as today's form."""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(r"\s*(?:(&&|\|\||[!()])|(defined)\b|([A-Za-z_]\w*))", re.ASCII)
# QEMU's longest condition had 80 characters and two levels.
MAX_LENGTH = 4096
MAX_DEPTH = 64


class _UnknownFormError(Exception):
    """The expression is made of more than symbols and logic."""


def from_c(text: str) -> Any:
    """Return a condition in today's form: a symbol, or an object with all, any or not.

    What is not made of ``defined(SYMBOL)``, ``!``, ``&&``, ``||`` and parentheses stands for
    itself: it is taken as one symbol, spelt as it is.

    Args:
        text: the expression behind ``#if``.
    """
    try:
        return _Reader(text).read()
    except _UnknownFormError:
        return text.strip()


class _Reader:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise _UnknownFormError
        self._tokens: list[str] = []
        text = text.rstrip()
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise _UnknownFormError
            self._tokens.append(match[1] or match[2] or match[3])
            position = match.end()
        self._tokens.append("")
        self._next = 0

    def read(self) -> Any:
        found = self._any(0)
        self._expect("")
        return found

    def _take(self) -> str:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise _UnknownFormError

    def _joined(self, depth: int, operator: str, word: str) -> Any:
        part = self._all if operator == "||" else self._not
        parts = [part(depth)]
        while self._tokens[self._next] == operator:
            self._take()
            parts.append(part(depth))
        return parts[0] if len(parts) == 1 else {word: parts}

    def _any(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _UnknownFormError
        return self._joined(depth, "||", "any")

    def _all(self, depth: int) -> Any:
        return self._joined(depth, "&&", "all")

    def _not(self, depth: int) -> Any:
        part = self._take()
        if part == "!":
            if depth > MAX_DEPTH:
                raise _UnknownFormError
            return {"not": self._not(depth + 1)}
        if part == "(":
            inner = self._any(depth + 1)
            self._expect(")")
            return inner
        if part != "defined":
            raise _UnknownFormError
        bracketed = self._tokens[self._next] == "("
        if bracketed:
            self._take()
        symbol = self._take()
        if not re.fullmatch(r"[A-Za-z_]\w*", symbol, re.ASCII) or symbol == "defined":
            raise _UnknownFormError
        if bracketed:
            self._expect(")")
        return symbol
