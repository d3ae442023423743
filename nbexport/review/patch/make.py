"""The difference of two schema sources as a patch: what a mail about it would carry."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections import Counter
from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.qapi import load_schema
from nbexport.review.patch.apply import split_lines
from nbexport.review.patch.tree import DEPRECATION_DOCS
from nbexport.sources.text import TextSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_INCLUDE = re.compile(r"(?P<key>'include'\s*:\s*)'(?P<path>[^']*)'")
_MISSING = "\\ No newline at end of file\n"


def make_patch(old: str, new: str) -> str:
    """Return the difference of the files of two schemas, as ``git diff`` writes it.

    Where the new files are laid out in other folders they are called as the old ones of their
    names are.

    Args:
        old: a schema source that is text.
        new: another one.

    Raises:
        QapiError: one of them is no schema.
        SourceError: one of them cannot be had.
        UsageError: one of them is no text, nothing differs, or a file that differs lies above the
            folder of the old schema.
    """
    sources = TextSource(old), TextSource(new)
    before, after = map(_files, sources)
    if any(_above(name) for name in after if name not in before) or (
        sources[0].root != sources[1].root
    ):
        after = _moved(after, _places(after, before, sources[1].root, sources[0].root))
    differing = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    if above := sorted(filter(_above, differing)):
        raise UsageError(
            f"{old}: {above[0]} differs and lies above the schema's folder, where no patch reaches"
        )
    pieces = [
        piece
        for name in sorted(differing)
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


def _above(name: str) -> bool:
    """Whether a name leads out of the folder that a patch is for."""
    return name.startswith("../")


def _places(
    after: Iterable[str], before: Iterable[str], root: str, old_root: str
) -> dict[str, str]:
    """Return where the old schema has, or would have, each file of the new one.

    Raises:
        UsageError: two files would be in one place.
    """
    known: dict[str, list[str]] = {}
    for name in before:
        known.setdefault(posixpath.basename(name), []).append(name)
    folder = posixpath.dirname(old_root)
    found = {}
    for name in after:
        last = posixpath.basename(name)
        alike = known.get(last, [])
        found[name] = alike[0] if len(alike) == 1 else posixpath.join(folder, last)
    found[root] = old_root
    place, count = Counter(found.values()).most_common(1)[0]
    if count > 1:
        raise UsageError(f"two files of {root} would be called {place}")
    return found


def _moved(texts: Mapping[str, str], places: Mapping[str, str]) -> dict[str, str]:
    """Return files at other places, with includes that lead there."""

    def moved(name: str) -> str:
        here = posixpath.dirname(places[name])

        def led(match: re.Match[str]) -> str:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), match["path"]))
            there = posixpath.relpath(places.get(path, path), here or ".")
            return f"{match['key']}'{there}'"

        return _INCLUDE.sub(led, texts[name]) if name.endswith(".json") else texts[name]

    return {places[name]: moved(name) for name in texts}


def _difference(name: str, old: str | None, new: str | None) -> Iterator[str]:
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
