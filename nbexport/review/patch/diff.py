"""Unified diffs, as `diff -u` and git write them, to files and hunks.

The grammar is that of git's documentation, "Generating patch text with -p", and of what
`git apply` takes: a blank line in a hunk is a context line whose only space was lost on the way.
Everything outside of headers and hunks is skipped, as the text of a mail is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbexport.review.patch.errors import PatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTEXT, ADDED, REMOVED = " ", "+", "-"

_GIT = "diff --git "
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(.*)")
_NOTHING = "/dev/null"
# What `diff -u -N` gives as the time of a file that is not there, in any time zone.
_EPOCH = re.compile(r"\t(?:1969-12-31|1970-01-01) \d\d:\d\d:\d\d")
_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, '"': 34, "\\": 92}
_NEED_BOTH = ("rename from ", "rename to ", "copy from ", "copy to ")
# A line number beyond it is no line of a file that can be loaded.
_DIGITS_MAX = 9


@dataclass(frozen=True, slots=True)
class HunkLine:
    """A line of a hunk.

    Attributes:
        sign: ``" "``, ``"+"`` or ``"-"``.
        text: the line of the file with its end of line, which the last one of a file may lack.
        place: where it stands in the patch's text, from 0.
    """

    sign: str
    text: str
    place: int


@dataclass(frozen=True, slots=True)
class Hunk:
    """A piece of a file that changes.

    Attributes:
        header: the line that opens it.
        old_start: first line in the old file, from 1; 0 in an empty one.
        new_start: the same in the new file.
        lines: all lines.
        place: where its header stands in the patch's text, from 0.
    """

    header: str
    old_start: int
    new_start: int
    lines: tuple[HunkLine, ...]
    place: int

    @property
    def old(self) -> list[HunkLine]:
        """The lines as they were."""
        return [line for line in self.lines if line.sign != ADDED]

    @property
    def new(self) -> list[HunkLine]:
        """The lines as they become."""
        return [line for line in self.lines if line.sign != REMOVED]


@dataclass(slots=True)
class FilePatch:
    """What a patch does to one file.

    Attributes:
        old: its name in the patch, prefix included; None where the file is new.
        new: the name afterwards; None where the file is deleted.
        place: where its header begins in the patch's text, from 0.
        git: whether the header is git's.
        bare: whether the names are those of ``rename`` or ``copy`` lines, which have no prefix.
        renamed: whether the old name goes.
        copied: whether the old file stays beside the new one.
        binary: whether git left the content out or encoded it.
        hunks: what changes; none for a mode or a name.
    """

    old: str | None
    new: str | None
    place: int
    git: bool = False
    bare: bool = False
    renamed: bool = False
    copied: bool = False
    binary: bool = False
    hunks: list[Hunk] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """The name to call it by in a text."""
        name = self.new if self.new is not None else self.old
        assert name is not None
        return name if self.bare else strip(name, 1) or name


def strip(name: str, count: int) -> str | None:
    """Return a name without its first components, None if it has not that many.

    Slashes that follow each other count as one.
    """
    parts = [part for part in name.split("/") if part]
    return "/".join(parts[count:]) if len(parts) > count else None


def parse_diff(lines: Sequence[str], *, name: str = "") -> list[FilePatch]:
    """Return the files that a text changes, in its order.

    Args:
        lines: the text without the ends of its lines.
        name: what errors call it.

    Raises:
        PatchError: a header or a hunk is cut or damaged.
    """
    return _Reader(lines, name).run()


class _Reader:
    """A walk through the lines of a patch."""

    def __init__(self, lines: Sequence[str], name: str) -> None:
        self._lines = lines
        self._name = name
        self._at = 0
        self._files: list[FilePatch] = []

    def run(self) -> list[FilePatch]:
        """Read everything."""
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.startswith(_GIT):
                self._git_header()
            elif self._plain_follows():
                self._plain_header()
            elif line.startswith(("diff --cc ", "diff --combined ")):
                raise self._error("a combined diff of a merge cannot be applied")
            elif _HUNK.match(line):
                raise self._error("a hunk without a header that names its file")
            else:
                self._at += 1
        return self._files

    def _error(self, message: str, at: int | None = None) -> PatchError:
        return PatchError(message, name=self._name, line=(self._at if at is None else at) + 1)

    def _line(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._lines[at].removesuffix("\r") if at < len(self._lines) else ""

    def _plain_follows(self) -> bool:
        """Whether ``---``, ``+++`` and a hunk come next; a rule of dashes in a mail is none."""
        return (
            self._line().startswith("--- ")
            and self._line(1).startswith("+++ ")
            and _HUNK.match(self._line(2)) is not None
        )

    # -- headers ----------------------------------------------------------------------------

    def _git_header(self) -> None:
        start = self._at
        names: tuple[str | None, str | None] | None
        names = _git_names(self._line().removeprefix(_GIT))
        found = FilePatch(None, None, start, git=True)
        self._at += 1
        created = deleted = False
        said: dict[str, str] = {}
        while self._at < len(self._lines):
            line = self._line()
            word = next((word for word in _NEED_BOTH if line.startswith(word)), None)
            if word is not None:
                said[word] = _unquoted(line.removeprefix(word))
            elif line.startswith("new file mode "):
                created = True
            elif line.startswith("deleted file mode "):
                deleted = True
            elif line.startswith(("Binary files ", "GIT binary patch")):
                found.binary = True
            elif line.startswith("--- ") and self._line(1).startswith("+++ "):
                names = _header_name(line[4:]), _header_name(self._line(1)[4:])
                self._at += 1
            elif not line.startswith(
                ("old mode ", "new mode ", "similarity index ", "dissimilarity index ", "index ")
            ):
                break
            self._at += 1
        if said:
            found.old = said.get("rename from ") or said.get("copy from ")
            found.new = said.get("rename to ") or said.get("copy to ")
            found.copied = "copy from " in said
            found.renamed, found.bare = not found.copied, True
            if found.old is None or found.new is None:
                raise self._error("a rename or copy that names one side only", start)
        else:
            found.old, found.new = names or (None, None)
            found.old = None if created else found.old
            found.new = None if deleted else found.new
            if found.old is None and found.new is None:
                raise self._error("a header of git that names no file", start)
        self._hunks(found)

    def _plain_header(self) -> None:
        start = self._at
        first, second = self._line()[4:], self._line(1)[4:]
        old, new = _header_name(first), _header_name(second)
        if old is None and new is None:
            raise self._error("a header that names no file", start)
        if _EPOCH.search(first):
            old = None
        elif _EPOCH.search(second):
            new = None
        self._at += 2
        found = FilePatch(old, new, start)
        self._hunks(found)

    # -- hunks ------------------------------------------------------------------------------

    def _hunks(self, found: FilePatch) -> None:
        while (match := _HUNK.match(self._line())) is not None:
            found.hunks.append(self._hunk(found, match))
        self._files.append(found)

    def _hunk(self, found: FilePatch, match: re.Match[str]) -> Hunk:
        start = self._at
        numbers = [1 if text is None else text for text in match.groups()[:4]]
        if any(len(str(number)) > _DIGITS_MAX for number in numbers):
            raise self._error(f"a line number of {_DIGITS_MAX} digits at most is expected")
        old_start, old_left, new_start, new_left = map(int, numbers)
        number = len(found.hunks) + 1
        lines: list[HunkLine] = []
        self._at += 1
        while old_left or new_left:
            if self._at >= len(self._lines):
                raise self._error(
                    f"{found.shown}: hunk {number} is cut: {old_left} old and {new_left} new lines "
                    "are missing at the end of the patch"
                )
            line = self._lines[self._at]
            sign, text = (line[0], line[1:]) if line.rstrip("\r") else (CONTEXT, line)
            if sign == "\\":
                self._no_newline(lines)
            elif sign not in (CONTEXT, ADDED, REMOVED):
                raise self._error(
                    f"{found.shown}: hunk {number} is damaged: a line begins with '{sign}' instead "
                    "of a space, + or - (wrapped by a mail program?)"
                )
            else:
                old_left -= sign != ADDED
                new_left -= sign != REMOVED
                if old_left < 0 or new_left < 0:
                    raise self._error(
                        f"{found.shown}: hunk {number} is damaged: it has more lines than its "
                        "header says"
                    )
                lines.append(HunkLine(sign, text + "\n", self._at))
            self._at += 1
        if self._at < len(self._lines) and self._lines[self._at].startswith("\\ "):
            self._no_newline(lines)
            self._at += 1
        return Hunk(self._lines[start].rstrip("\r"), old_start, new_start, tuple(lines), start)

    def _no_newline(self, lines: list[HunkLine]) -> None:
        if lines:
            last = lines[-1]
            lines[-1] = HunkLine(last.sign, last.text.removesuffix("\n"), last.place)


def _header_name(text: str) -> str | None:
    """Return the name of a ``---`` or ``+++`` line; None for the file that is not there."""
    if text.startswith('"'):
        return _unquoted(text)
    name = text.split("\t", maxsplit=1)[0].rstrip()
    return None if name == _NOTHING else name


def _unquoted(text: str) -> str:
    """Return a name that git may have written as a string of C."""
    if not text.startswith('"'):
        return text.rstrip()
    inner = text[1 : text.rfind('"')] if text.rfind('"') > 0 else text[1:]
    data = bytearray()
    at = 0
    while at < len(inner):
        letter = inner[at]
        at += 1
        if letter != "\\" or at >= len(inner):
            data += letter.encode("utf-8", "surrogateescape")
            continue
        if (octal := re.match(r"[0-3][0-7]{2}", inner[at:])) is not None:
            data.append(int(octal[0], 8))
            at += 3
        else:
            data.append(_ESCAPES.get(inner[at], ord("?")))
            at += 1
    return data.decode("utf-8", "surrogateescape")


def _git_names(text: str) -> tuple[str, str] | None:
    """Return the two names of a ``diff --git`` line, which are alike but for their prefix.

    Names with spaces are not quoted, so the line is cut where both halves name the same file.
    """
    quoted = re.fullmatch(r'("(?:[^"\\]|\\.)*"|\S+) ("(?:[^"\\]|\\.)*"|\S+)', text)
    if quoted is not None:
        return _unquoted(quoted[1]), _unquoted(quoted[2])
    for at, letter in enumerate(text):
        if letter == " ":
            old, new = text[:at], text[at + 1 :]
            if strip(old, 1) is not None and strip(old, 1) == strip(new, 1):
                return old, new
    return None
