"""The error of everything that reads or applies a patch."""

from __future__ import annotations

from nbexport.errors import SourceError


class PatchError(SourceError):
    """A patch cannot be read or does not apply.

    Args:
        message: what is wrong, naming file and hunk.
        name: the patch: a file, or a mail by its subject.
        line: the line of the patch's text, from 1, where one is known.
    """

    def __init__(self, message: str, *, name: str = "", line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.name = name
        self.line = line

    def __str__(self) -> str:
        place = f"{self.name}:{self.line}" if self.line is not None else self.name
        return f"{place}: {self.message}" if place else self.message
