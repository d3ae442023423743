"""Where a piece of schema text stands: file, line, and the files that included it."""

from __future__ import annotations

from dataclasses import dataclass, field

from nbexport.errors import SourceError
from nbexport.qapi.rules import STRICT, Rules


@dataclass(slots=True)
class Pragmas:
    """What ``pragma`` directives switched; one object is shared by a root file and its includes.

    The names are those of the QAPI language ("Pragma directives" of the code generator's
    documentation), with ``_`` for ``-``.
    """

    rules: Rules = STRICT
    doc_required: bool = False
    command_name_exceptions: list[str] = field(default_factory=list)
    command_returns_exceptions: list[str] = field(default_factory=list)
    documentation_exceptions: list[str] = field(default_factory=list)
    member_name_exceptions: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class SourceInfo:
    """A line of a schema file; nobody changes one.

    Args:
        path: the file as it was asked for (the root) or joined to its includer (the others).
        line: line number, from 1.
        parent: the ``include`` directive that brought the file in, None for the root.
        pragmas: switches in force.
        meta: ``command``, ``event``, ``struct``, ... of the definition that stands here.
        name: that definition's name.
    """

    path: str
    line: int
    parent: SourceInfo | None = field(repr=False)
    pragmas: Pragmas = field(repr=False)
    meta: str | None = None
    name: str | None = None

    def at(self, line: int) -> SourceInfo:
        """Return the same file at another line, outside of any definition."""
        return SourceInfo(self.path, line, self.parent, self.pragmas)

    def inside(self, meta: str, name: str) -> SourceInfo:
        """Return the same place, known to be the definition ``meta`` ``name``."""
        return SourceInfo(self.path, self.line, self.parent, self.pragmas, meta, name)

    def include_chain(self) -> str:
        """Return one line for each file between the root and this one, root first."""
        lines: list[str] = []
        parent = self.parent
        while parent is not None:
            lines.append(f"In file included from {parent.path}:{parent.line}:\n")
            parent = parent.parent
        return "".join(reversed(lines))

    def __str__(self) -> str:
        where = f"{self.path}: In {self.meta} '{self.name}':\n" if self.name else ""
        return f"{self.include_chain()}{where}{self.path}:{self.line}"


class QapiError(SourceError):
    """A schema source is wrong; printed as a compiler prints it.

    Args:
        info: the place; None where the whole schema could not be read.
        message: what is wrong, naming the thing.
        column: column of the offending character, from 1, where one is known.
    """

    def __init__(self, info: SourceInfo | None, message: str, *, column: int | None = None) -> None:
        super().__init__(message)
        self.info = info
        self.message = message
        self.column = column

    def __str__(self) -> str:
        if self.info is None:
            return self.message
        column = f":{self.column}" if self.column is not None else ""
        return f"{self.info}{column}: {self.message}"
