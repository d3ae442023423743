"""The difference of two schema sources as a patch: what a mail about it would carry."""

from __future__ import annotations

import difflib
import posixpath
from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.qapi import load_schema
from nbexport.review.patch.apply import split_lines
from nbexport.review.patch.tree import DEPRECATION_DOCS
from nbexport.sources.text import TextSource

if TYPE_CHECKING:
    from collections.abc import Iterator

_MISSING = "\\ No newline at end of file\n"


def make_patch(old: str, new: str) -> str:
    """Return the difference of the files of two schemas, as ``git diff`` writes it.

    Args:
        old: a schema source that is text.
        new: another one.

    Raises:
        QapiError: one of them is no schema.
        SourceError: one of them cannot be had.
        UsageError: one of them is no text, or nothing differs.
    """
    before, after = _files(TextSource(old)), _files(TextSource(new))
    pieces = [
        piece
        for name in sorted({*before, *after})
        for piece in _difference(name, before.get(name), after.get(name))
    ]
    if not pieces:
        raise UsageError(f"{old} and {new}: no file of the schema differs")
    return "".join(pieces)


def _files(source: TextSource) -> dict[str, str]:
    """Return the files that a schema is made of, and its list of deprecations."""
    texts: dict[str, str] = {}

    def read(path: str) -> str:
        name = posixpath.normpath(path)
        texts[name] = source.read(name)
        return texts[name]

    load_schema(source.root, read=read, as_of=source.release)
    for name in DEPRECATION_DOCS:
        if source.has_file(name):
            read(name)
            break
    return texts


def _difference(name: str, old: str | None, new: str | None) -> Iterator[str]:
    if old == new:
        return
    yield f"diff --git a/{name} b/{name}\n"
    if old is None:
        yield "new file mode 100644\n"
    if new is None:
        yield "deleted file mode 100644\n"
    lines = difflib.unified_diff(
        split_lines(old or ""),
        split_lines(new or ""),
        "/dev/null" if old is None else f"a/{name}",
        "/dev/null" if new is None else f"b/{name}",
    )
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n{_MISSING}"
