"""Where a reply says what: findings put under lines of a patch, and the lines that are quoted."""

from __future__ import annotations

from dataclasses import dataclass, field
from posixpath import normpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbexport.review.finding import Finding
    from nbexport.review.patch import Patch
    from nbexport.review.patch.diff import FilePatch, Hunk
    from nbexport.review.patch.tree import Places

# A reader must see what a remark is about: the beginning of the definition or of its comment if it
# is near, else some lines; a gap that is not longer than its own mark's surroundings is no gap.
_NEAR = 16
_BEFORE = 5
_GAP_MIN = 4
_OPENERS = ("{ '", "{'", "##")
_DROPPED = ("diff --git ", "index ", "--- ", "old mode ", "new mode ", "similarity index ")


@dataclass(frozen=True, slots=True)
class Placed:
    """The findings of a patch, by what they are said under.

    Attributes:
        under: for a line of the patch's text, from 0, the findings about it.
        elsewhere: those about lines that the patch does not show.
    """

    under: dict[int, list[Finding]] = field(default_factory=dict)
    elsewhere: list[Finding] = field(default_factory=list)


def place(findings: Sequence[Finding], places: Places) -> Placed:
    """Put each finding under the line that it is about.

    That is the line which adds the thing, or which removes it, or which shows its place.
    """
    placed = Placed()
    for finding in findings:
        line = _line_of(finding, places)
        if line is None:
            placed.elsewhere.append(finding)
        else:
            placed.under.setdefault(line, []).append(finding)
    return placed


def _line_of(finding: Finding, places: Places) -> int | None:
    sides = [(finding.new, places.new), (finding.old, places.old)]
    shown: list[tuple[int, bool]] = []
    for at, known in sides:
        # an include of "../x.json" is called "qapi/../x.json" by the schema
        found = known.get((normpath(at.file), at.line)) if at is not None else None
        if found is not None:
            shown.append(found)
    changed = [line for line, is_changed in shown if is_changed]
    if changed:
        return changed[0]
    return shown[0][0] if shown else None


def quoted(patch: Patch, remarks: Mapping[int, Sequence[str]], *, snip: str = "[...]") -> list[str]:
    """Quote a patch, with remarks under its lines and the rest cut out.

    Args:
        patch: the patch.
        remarks: for a line of its text, from 0, the lines to say under it.
        snip: stands for what is left out.

    Returns:
        The lines of the reply: quotes begin with ``>``, remarks stand between blank lines.
    """
    keep = _kept(patch, sorted(remarks))
    out: list[str] = []
    last = -1
    for index in sorted(keep):
        skipped = patch.lines[last + 1 : index]
        # what only git reads of a header is dropped without a word
        if any(not line.startswith(_DROPPED) for line in skipped):
            out.append(snip)
        out.append(_quote(patch.lines[index]))
        last = index
        if index in remarks:
            out += ["", *remarks[index], ""]
    if any(line.strip() for line in _rest(patch, last)):
        out.append(snip)
    while out and not out[-1]:
        out.pop()
    return out


def _rest(patch: Patch, last: int) -> list[str]:
    """Return what follows a line, the signature apart."""
    lines = list(patch.lines[last + 1 :])
    if "-- " in lines:
        del lines[lines.index("-- ") :]
    return lines


def _quote(line: str) -> str:
    """Return a line as a quote; what has no printable form is replaced."""
    text = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = "".join(
        letter if letter.isprintable() or letter == "\t" else "\ufffd" for letter in text
    )
    return f"> {text}" if text else ">"


def _kept(patch: Patch, targets: list[int]) -> set[int]:
    """Return the lines to quote: for each remark the file, the hunk and what leads to it."""
    keep: set[int] = set()
    said = -1
    for target in targets:
        found = _hunk_of(patch, target)
        if found is None:
            keep |= set(range(max(target - _BEFORE, said + 1), target + 1))
        else:
            file, hunk = found
            first = file.hunks[0].place
            keep |= {
                at for at in range(file.place, first) if not patch.lines[at].startswith(_DROPPED)
            }
            if file.new is None:
                keep.add(first - 2)
            keep.add(hunk.place)
            start = max(_start(patch, hunk, target), said + 1)
            near = max((line for line in keep if line < start), default=-1)
            # a gap of a line or two would be longer than what it leaves out
            if start - near <= _GAP_MIN and near >= hunk.place:
                start = near + 1
            keep |= set(range(start, target + 1))
        said = target
    return keep


def _hunk_of(patch: Patch, target: int) -> tuple[FilePatch, Hunk] | None:
    for file in patch.files:
        for hunk in file.hunks:
            if hunk.place <= target <= (hunk.lines[-1].place if hunk.lines else hunk.place):
                return file, hunk
    return None


def _start(patch: Patch, hunk: Hunk, target: int) -> int:
    """Return where to begin to quote: at the opening of a definition or comment, if it is near."""
    lowest = max(hunk.place + 1, target - _NEAR)
    for index in range(target, lowest - 1, -1):
        if patch.lines[index][1:].startswith(_OPENERS):
            return index
    return max(hunk.place + 1, target - _BEFORE)
