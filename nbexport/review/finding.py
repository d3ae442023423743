"""What a review finds: a rule that applies, the thing it applies to, and the places in the text."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass


class Level(enum.IntEnum):
    """How much a finding weighs; higher is worse."""

    INFO = 1
    NOTICE = 2
    RISKY = 3
    BREAKING = 4

    def __str__(self) -> str:
        return self.name.lower()


class Direction(enum.StrEnum):
    """Who sends what a finding is about; ``NONE`` where nobody does, as for documentation."""

    SENDS = "sends"  # the client sends it: arguments
    RECEIVES = "receives"  # the client receives it: return values, events
    NONE = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a schema's text.

    Args:
        file: the file, as the schema's source names it.
        line: the line, counted from 1.
        context: what the line is in: ``struct 'NbdServerAddOptions'``, or nothing.
    """

    file: str
    line: int
    context: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a review has to say.

    Args:
        rule: the rule's id, in kebab-case.
        level: how much it weighs.
        message: one sentence that names the thing.
        element: the element of the wire: ``nbd-server-add.bitmaps``, ``BLOCK_EXPORT_DELETED.id``,
            ``block-export-add``.
        path: how the element is reached: a command or event, types and bases, a member.
        old: where the old schema has it; None if it does not.
        new: where the new schema has it; None if it does not.
        advice: how to mend it.
        direction: who sends the element.
        also: further commands and events that reach it by the same cause.
    """

    rule: str
    level: Level
    message: str
    element: str
    path: tuple[str, ...]
    old: Place | None
    new: Place | None
    advice: str
    direction: Direction = Direction.NONE
    also: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stay when lines move or words of messages change."""
        key = "\0".join((self.rule, self.element, self.direction))
        return hashlib.sha256(key.encode()).hexdigest()[:16]
