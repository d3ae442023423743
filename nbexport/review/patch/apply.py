"""A file's hunks applied to its lines, with the rules of `git apply`.

A hunk is looked for where its header says, then at growing distance on both sides (an *offset*).
Its lines must be there exactly (no *fuzz*), unless the caller allows that fewer lines of context
match, as ``git apply -C`` does. A hunk with no context on one side belongs to that end of the file,
and no hunk may touch what an earlier one of the same patch has touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.review.patch.diff import ADDED, CONTEXT
from nbexport.review.patch.errors import PatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.review.patch.diff import FilePatch, Hunk

_SHOWN_MAX = 60


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, and where it comes from.

    Attributes:
        text: with its end of line, which the last one may lack.
        base: file and line, from 1, of the base that it stands for; None if a patch added it.
        origin: number of the patch and line of its text, both from 0; None if the base has it.
    """

    text: str
    base: tuple[str, int] | None = None
    origin: tuple[int, int] | None = None


@dataclass(slots=True)
class _Item:
    """A line while hunks are applied: its old number, and the line of the patch that shows it."""

    line: Line
    old: int | None = None
    shown: int | None = None
    added: bool = False
    patched: bool = False


@dataclass(slots=True)
class Applied:
    """A file after a patch.

    Attributes:
        lines: its lines.
        new: for lines of the new file, from 1, that the patch shows: line of the patch's text,
            and whether it is added.
        old: the same of the old file, and whether it is removed.
        removed: the lines that went, with the line of the patch's text.
        offsets: by how much each hunk was moved.
    """

    lines: list[Line]
    new: dict[int, tuple[int, bool]]
    old: dict[int, tuple[int, bool]]
    removed: list[tuple[Line, int]]
    offsets: list[int]


def split_lines(text: str) -> list[str]:
    """Split a text at its newlines, which stay; other ends of line are ordinary characters."""
    pieces = text.split("\n")
    return [f"{piece}\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def apply_hunks(
    lines: Sequence[Line],
    patch: FilePatch,
    *,
    number: int = 0,
    context: int | None = None,
    name: str = "",
) -> Applied:
    """Apply all hunks of one file.

    Args:
        lines: the file.
        patch: its part of the patch.
        number: number of the patch in its series, for the origin of lines.
        context: how many lines of context must match at least on each side of a change; None for
            all of them. ``git apply -C``.
        name: what errors call the patch.

    Raises:
        PatchError: a hunk does not apply; the text names file, hunk and the line that differs.
    """
    image = [_Item(line, old=index + 1) for index, line in enumerate(lines)]
    removed: list[tuple[Line, int]] = []
    gone: dict[int, tuple[int, bool]] = {}
    offsets: list[int] = []
    for index, hunk in enumerate(patch.hunks):
        found = _locate(image, hunk, context)
        if found is None:
            raise _failure(image, patch, index, name)
        at, first, last, moved = found
        offsets.append(moved)
        chosen = list(hunk.lines)[first : len(hunk.lines) - last]
        fresh: list[_Item] = []
        cursor = at
        for piece in chosen:
            if piece.sign == ADDED:
                line = Line(piece.text, origin=(number, piece.place))
                fresh.append(_Item(line, shown=piece.place, added=True, patched=True))
                continue
            item = image[cursor]
            cursor += 1
            if piece.sign == CONTEXT:
                fresh.append(_Item(item.line, item.old, piece.place, item.added, patched=True))
            else:
                removed.append((item.line, piece.place))
                if item.old is not None:
                    gone[item.old] = (piece.place, True)
        image[at:cursor] = fresh
    new = {
        place + 1: (item.shown, item.added)
        for place, item in enumerate(image)
        if item.shown is not None
    }
    kept = {
        item.old: (item.shown, False)
        for item in image
        if item.shown is not None and item.old is not None
    }
    return Applied([item.line for item in image], new, gone | kept, removed, offsets)


def _locate(
    image: list[_Item], hunk: Hunk, context: int | None
) -> tuple[int, int, int, int] | None:
    """Find a hunk: where it begins, lines of context left out before and after, and the offset."""
    leading, trailing = _context(hunk)
    wanted = [line.text for line in hunk.old]
    position = max(hunk.new_start - 1, 0)
    # "-0,0" is an empty file, and a hunk from line 1 begins the file.
    at_start = hunk.old_start <= 1
    at_end = not trailing
    first = last = 0
    while True:
        kept = wanted[first : len(wanted) - last]
        found = _search(image, kept, position, at_start=at_start, at_end=at_end)
        if found is not None:
            return found, first, last, found - position
        if context is None or (leading <= context and trailing <= context):
            return None
        if at_start or at_end:
            at_start = at_end = False
            continue
        shorter = leading >= trailing
        if shorter:
            first, leading, position = first + 1, leading - 1, position - 1
        if trailing > leading:
            last, trailing = last + 1, trailing - 1


def _context(hunk: Hunk) -> tuple[int, int]:
    """Return how many lines of context a hunk has before its first and after its last change."""
    changed = [index for index, line in enumerate(hunk.lines) if line.sign != CONTEXT]
    if not changed:
        return len(hunk.lines), len(hunk.lines)
    return changed[0], len(hunk.lines) - 1 - changed[-1]


def _search(
    image: list[_Item], wanted: list[str], position: int, *, at_start: bool, at_end: bool
) -> int | None:
    """Return the place nearest to ``position`` where the lines are, the later one of two."""
    if at_start:
        position = 0
    elif at_end:
        position = len(image) - len(wanted)
    # git counts without sign: a place before the first line is taken for one after the last
    if not 0 <= position <= len(image):
        position = len(image)
    for distance in range(len(image) + 1):
        for place in dict.fromkeys((position + distance, position - distance)):
            if at_start and place:
                continue
            if at_end and place + len(wanted) != len(image):
                continue
            if 0 <= place <= len(image) - len(wanted) and _fits(image, wanted, place):
                return place
    return None


def _fits(image: list[_Item], wanted: list[str], place: int) -> bool:
    return all(
        image[place + index].line.text == text and not image[place + index].patched
        for index, text in enumerate(wanted)
    )


def _failure(image: list[_Item], patch: FilePatch, index: int, name: str) -> PatchError:
    """Say which hunk does not apply, and the first line that is not as it expects."""
    hunk = patch.hunks[index]
    header = hunk.header[: hunk.header.index("@@", 2) + 2]
    title = f"{patch.shown}: hunk {index + 1} of {len(patch.hunks)} ({header}) does not apply"
    start = max(hunk.new_start - 1, 0)
    for offset, line in enumerate(hunk.old):
        at = start + offset
        if at >= len(image):
            reason = f"the file ends at line {len(image)}"
        elif image[at].line.text != line.text:
            reason = f"line {at + 1} is {_quoted(image[at].line.text)}"
        elif image[at].patched:
            reason = f"line {at + 1} was touched by an earlier hunk"
        else:
            continue
        expected = f", expected is {_quoted(line.text)}"
        return PatchError(title + f": {reason}{expected}", name=name, line=line.place + 1)
    where = "the end" if not _context(hunk)[1] else "the beginning"
    reason = f"it belongs to {where} of the file, which is elsewhere"
    return PatchError(f"{title}: {reason}", name=name, line=hunk.place + 1)


def _quoted(text: str) -> str:
    shown = text.rstrip("\n")
    if not text.endswith("\n"):
        return f"'{shown}' without an end of line"
    return f"'{shown[:_SHOWN_MAX]}...'" if len(shown) > _SHOWN_MAX else f"'{shown}'"
