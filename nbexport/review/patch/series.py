"""A patch, or a series of them, out of a file: which mails count, in which order."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbexport.review.patch.diff import parse_diff
from nbexport.review.patch.errors import PatchError
from nbexport.review.patch.mail import read_texts
from nbexport.units import MiB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.review.patch.diff import FilePatch
    from nbexport.review.patch.mail import Mail, Text

# The longest series on QEMU's list have some 150 patches of 20 kB; a mailbox of a month has less.
MAX_PATCH = 64 * MiB
_TAG = re.compile(r"\[([^\]]*)\]\s*")
_NUMBER = re.compile(r"(?:^|\s)0*(\d{1,4})/0*(\d{1,4})(?:\s|$)")
_VERSION = re.compile(r"(?:^|\s|PATCH)v(\d{1,3})(?:\s|$)", re.IGNORECASE)
_REPLY = re.compile(r"\s*(?:re|aw|fwd?)\s*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch with the text that carries it.

    Attributes:
        title: the subject without its tags, or the name of the file.
        lines: the whole text, which a reply quotes: message, diff, signature.
        files: what it changes.
        mail: the headers; None where it came without.
        number: place in the series, 0 for a cover letter, None if the subject does not tell.
        total: length of the series, None as before.
        version: revision of the series, 1 where the subject names none.
    """

    title: str
    lines: tuple[str, ...]
    files: tuple[FilePatch, ...]
    mail: Mail | None = None
    number: int | None = None
    total: int | None = None
    version: int = 1

    @property
    def shown(self) -> str:
        """Its title with its number in the series."""
        return f"{self.number}/{self.total} {self.title}" if self.number is not None else self.title

    @property
    def message(self) -> str:
        """The text before the diff: why the change is made."""
        end = min((file.place for file in self.files), default=len(self.lines))
        for index, line in enumerate(self.lines[:end]):
            if line.rstrip() == "---":
                end = index
                break
        return "\n".join(self.lines[:end]).strip("\n")


@dataclass(frozen=True, slots=True)
class Series:
    """What one input holds.

    Attributes:
        name: the input.
        patches: in the order in which they are applied.
        cover: the cover letter.
        notes: what was left aside, a sentence each.
    """

    name: str
    patches: tuple[Patch, ...]
    cover: Patch | None = None
    notes: tuple[str, ...] = ()


def read_patch(path: str) -> Series:
    """Read a file, or standard input for ``-``.

    Raises:
        PatchError: it cannot be read, or there is no patch in it.
    """
    name = "stdin" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_PATCH + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_PATCH + 1)
    except OSError as error:
        raise PatchError(error.strerror or str(error), name=path) from error
    if len(data) > MAX_PATCH:
        raise PatchError(f"larger than {MAX_PATCH} bytes", name=name)
    return parse_series(data, name=name)


def parse_series(data: bytes, *, name: str = "patch") -> Series:
    """Find the patches in a diff, a mail or a mailbox.

    Replies are left aside. Of several revisions of a series the newest counts. The patches are
    applied by their numbers if each mail has one, else in the order of the input.

    Raises:
        PatchError: there is no patch, one is damaged, or one of a series is missing.
    """
    notes: list[str] = []
    found: list[Patch] = []
    covers: list[Patch] = []
    for text in read_texts(data, name=name):
        subject = text.mail.subject if text.mail is not None else ""
        if _REPLY.match(subject):
            notes.append(f"left aside, as it is a reply: {subject}")
            continue
        patch = _patch(text, name)
        if patch.files:
            found.append(patch)
        elif patch.number == 0:
            covers.append(patch)
        else:
            notes.append(f"left aside, as there is no diff in it: {patch.title}")
    if not found:
        raise PatchError("no patch in it", name=name)
    newest = max(patch.version for patch in found)
    notes += [
        f"left aside for revision {newest}: v{patch.version} {patch.shown}"
        for patch in [*covers, *found]
        if patch.version != newest
    ]
    chosen = [patch for patch in found if patch.version == newest]
    cover = next((patch for patch in covers if patch.version == newest), None)
    return Series(name, tuple(_in_order(chosen, name)), cover, tuple(notes))


def _patch(text: Text, name: str) -> Patch:
    subject = text.mail.subject if text.mail is not None else ""
    title, number, total, version = _read_subject(subject)
    shown = f"{name} ('{title}')" if title else name
    files = tuple(parse_diff(text.lines, name=shown))
    return Patch(title or name, text.lines, files, text.mail, number, total, version)


def _read_subject(subject: str) -> tuple[str, int | None, int | None, int]:
    """Return title, number, total and version of ``[PATCH v5 2/7] title``."""
    number = total = None
    version = 1
    while (tag := _TAG.match(subject)) is not None:
        words = tag[1]
        if (match := _NUMBER.search(words)) is not None:
            number, total = int(match[1]), int(match[2])
        if (match := _VERSION.search(words)) is not None:
            version = int(match[1])
        subject = subject[tag.end() :]
    return subject.strip(), number, total, version


def _in_order(patches: Sequence[Patch], name: str) -> list[Patch]:
    numbers = [patch.number for patch in patches if patch.number is not None]
    totals = {patch.total for patch in patches}
    if len(numbers) != len(patches) or len(totals) != 1:
        return list(patches)
    total = totals.pop()
    assert total is not None
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        raise PatchError(f"patch {twice}/{total} is there more than once", name=name)
    missing = [str(number) for number in range(1, total + 1) if number not in numbers]
    # a single mail out of a series is reviewed as it is
    if missing and len(patches) > 1:
        which = f"patch {missing[0]}" if len(missing) == 1 else f"patches {', '.join(missing)}"
        raise PatchError(f"{which} of {total} missing from the series", name=name)
    return sorted(patches, key=lambda patch: patch.number or 0)
