"""What a rule looks at: the two schemas, their differences, and the past."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

from nbexport.qapi.findings import owner_name
from nbexport.qapi.model import (
    AlternateType,
    ArrayType,
    Command,
    EnumMember,
    Event,
    Member,
    ObjectType,
)
from nbexport.review.context import Past, branch, releases_between
from nbexport.review.facts import differences
from nbexport.review.finding import Direction, Finding, Level, Place
from nbexport.review.lookup import find
from nbexport.review.wire import Side, is_introspected

if TYPE_CHECKING:
    from nbexport.qapi import Schema
    from nbexport.qapi.docs import Doc, Section
    from nbexport.qapi.model import Entity, Type
    from nbexport.review.compare import Part
    from nbexport.review.context import Context
    from nbexport.review.facts import Difference, Reach
    from nbexport.review.rules.registry import Rule

EXPERIMENTAL = "x-"
"""The prefix of names that no policy protects."""


class Subject:
    """Two schemas under review.

    Args:
        old: the schema before.
        new: the schema after.
        context: what else is known.

    Attributes:
        differences: the differences on the wire.
        past: the releases before the one under development.
    """

    def __init__(self, old: Schema, new: Schema, context: Context) -> None:
        self.old = old
        self.new = new
        self.context = context
        self.old_side = Side(old, conditional=True)
        self.new_side = Side(new, conditional=True)
        self.differences = differences(old, new)
        self.past = Past(context)
        self._users: dict[str, set[str]] | None = None

    # -- findings -------------------------------------------------------------------------------

    def about(
        self,
        rule: Rule,
        message: str,
        difference: Difference,
        *,
        reach: Reach | None = None,
        direction: Direction | None = None,
    ) -> Finding:
        """Return a finding about a difference.

        Args:
            rule: the rule.
            message: the sentence, without a full stop.
            difference: what it is about; gives element, path and places.
            reach: the one command or event that it is about; None for all that reach it.
            direction: another direction than the difference's.
        """
        chosen = reach or difference.reaches[0]
        level = rule.level
        if level > Level.INFO and not any(
            self.released(one.root) for one in ([reach] if reach else difference.reaches)
        ):
            level = Level.INFO
            message += " (no release has it yet)"
        elif level > Level.INFO and (why := self.unsettled(difference, reach)):
            level = Level.INFO
            message += f" ({why})"
        elif level > Level.NOTICE and self.experimental(difference, reach):
            level = Level.NOTICE
            message += " (an experiment, which may change at any time)"
        elif level > Level.INFO and self.undescribed(difference):
            level = Level.INFO
            message += f" (the old schema does not list what {difference.root} takes)"
        others = () if reach else difference.roots[1:]
        if others:
            message += f"; likewise {others[0]}" if len(others) == 1 else ""
            message += f"; likewise {len(others)} others" if len(others) > 1 else ""
        return Finding(
            rule.id,
            level,
            message,
            chosen.element,
            chosen.path,
            difference.old,
            difference.new,
            rule.fix,
            difference.direction if direction is None else direction,
            others,
        )

    def note(
        self,
        rule: Rule,
        message: str,
        element: str,
        *,
        old: Place | None = None,
        new: Place | None = None,
        path: tuple[str, ...] = (),
    ) -> Finding:
        """Return a finding about something that is no difference on the wire."""
        return Finding(
            rule.id, rule.level, message, element, path or (element,), old, new, rule.fix
        )

    # -- releases ---------------------------------------------------------------------------------

    def released(self, root: str) -> bool:
        """Whether a release has had a command or event.

        Without history the old schema counts as released, but for what its documentation dates
        to the release under development.
        """
        if self.past.releases and self.past.first(root) is not None:
            return True
        entity = self.old.entities.get(root)
        if not isinstance(entity, Command | Event):
            return False
        return not self.dated_now(entity.doc.since if entity.doc else None)

    def unsettled(self, difference: Difference, reach: Reach | None = None) -> str:
        """Return why clients do not mind a change of a member or value; empty if they may.

        Args:
            difference: what it is about.
            reach: the one command or event that counts; None for all that reach it.
        """
        if not isinstance(difference.new_part or difference.old_part, Member | EnumMember):
            return ""
        if difference.kind.value.startswith(("feature", "condition")):
            return ""
        elements = [one.element for one in ([reach] if reach else difference.reaches)]
        base = self._base
        if difference.old_part is None:
            known = base is not None and all(find(base, one) is not None for one in elements)
            return "it was there before the series" if known else ""
        if any(self.past.first(one) is not None for one in elements):
            return ""
        if base is not None and all(find(base, one) is None for one in elements):
            return "only this series has it"
        entity = self.old.entities.get(owner_name(getattr(difference.old_part, "defined_in", "")))
        section = entity.doc.members.get(difference.name) if entity and entity.doc else None
        dated = section is not None and self.dated_now(since_of(section))
        return "no release has it yet" if dated else ""

    @cached_property
    def _base(self) -> Side | None:
        base = self.context.base
        return None if base is None else Side(base, conditional=True)

    @cached_property
    def texts(self) -> bool:
        """Whether both schemas are text, with documentation and names of types."""
        return not any(map(is_introspected, (self.old, self.new)))

    @cached_property
    def changed(self) -> set[str]:
        """The commands and events that differ on the wire."""
        return {root for difference in self.differences for root in difference.roots}

    @cached_property
    def gap(self) -> bool:
        """Whether further releases lie between the two schemas, of which nothing may be known."""
        old, new = self.context.old_release, self.context.release
        return old is not None and new is not None and releases_between(old, new) > 1

    def dated_now(self, since: str | None) -> bool:
        """Whether a release named by documentation is the one under development."""
        if since is None or self.context.release is None:
            return False
        return branch(since) == branch(self.context.release)

    def experimental(self, difference: Difference, reach: Reach | None = None) -> bool:
        """Whether something was an experiment, which may change at any time.

        Names tell so with their prefix since before there was the feature ``unstable`` (6.2).

        Args:
            difference: what it is about.
            reach: the one command or event that counts; None for all that reach it.
        """
        if difference.name.startswith(EXPERIMENTAL) or has_feature(difference.old_part, "unstable"):
            return True
        return all(
            has_feature(self.old.entities.get(one.root), "unstable")
            or named_experiment(one.element)
            for one in ([reach] if reach else difference.reaches)
        )

    def undescribed(self, difference: Difference) -> bool:
        """Whether an argument is new to the schema only.

        A command whose arguments are not checked (``'gen': false``) takes more than the schema
        lists.
        """
        if difference.direction is not Direction.SENDS or difference.old_part is not None:
            return False
        calls = [self.old.entities.get(root) for root in difference.roots]
        return all(isinstance(call, Command) and not call.gen for call in calls)

    def deprecated(self, root: str) -> bool:
        """Whether the new schema deprecates a command or event."""
        return has_feature(self.new.entities.get(root), "deprecated")

    # -- who uses a type -----------------------------------------------------------------------

    def users(self, name: str) -> set[str]:
        """Return the commands of the new schema whose arguments use a type."""
        if self._users is None:
            self._users = {}
            for command in self.new.commands():
                for kind in self._below(command.arg_type):
                    self._users.setdefault(kind, set()).add(command.name)
        return self._users.get(name, set())

    def _below(self, start: Type | None) -> set[str]:
        found: set[str] = set()
        waiting: list[Type] = [start] if start is not None else []
        while waiting:
            kind = waiting.pop()
            if kind.name in found:
                continue
            found.add(kind.name)
            if isinstance(kind, ArrayType):
                waiting.append(kind.element)
            elif isinstance(kind, AlternateType):
                waiting += [variant.type for variant in kind.variants]
            elif isinstance(kind, ObjectType):
                waiting += [member.type for member in kind.members]
                waiting += [variant.type for variant in kind.variants]
                waiting += [kind.base] if kind.base is not None else []
        return found

    # -- members and documentation ----------------------------------------------------------------

    def arguments(self, name: str, *, old: bool = False) -> dict[str, Member]:
        """Return the arguments of a command, those of bases and branches included."""
        side = self.old_side if old else self.new_side
        entity = side.schema.entities.get(name)
        if not isinstance(entity, Command | Event) or entity.arg_type is None:
            return {}
        found: dict[str, Member] = {}
        for case in side.cases(entity.arg_type):
            for slot in case.slots.values():
                found.setdefault(slot.member.name, slot.member)
        return found

    @cached_property
    def calls(self) -> dict[str, Command | Event]:
        """The commands and events of the new schema."""
        return {
            name: entity
            for name, entity in self.new.entities.items()
            if isinstance(entity, Command | Event)
        }

    def has(self, element: str, *, old: bool = False) -> bool:
        """Whether a schema has an element, the new one unless the old one is meant."""
        return find(self.old_side if old else self.new_side, element) is not None

    def doc_of(self, difference: Difference) -> Doc | None:
        """Return the comment, in the new schema, that documents what is different."""
        entity = self.new.entities.get(owner_name(difference.owner))
        return entity.doc if entity is not None else None

    def deprecation_note(self, difference: Difference) -> str:
        """Return what the new schema's documentation says of a deprecation."""
        doc = self.doc_of(difference)
        section = doc.features.get("deprecated") if doc is not None else None
        return " ".join(section.text.split()) if section is not None else ""

    def listed(self, name: str, *, old: bool = False) -> str:
        """Return the paragraphs about a name of a list of deprecations, the new one as a rule."""
        context = self.context
        notes = context.old_deprecation_notes if old else context.deprecation_notes
        return paragraphs_about(notes, name) if notes else ""


_SINCE = re.compile(r"(?:^|[(,;])\s*since:?\s+(\d+\.\d+(?:\.\d+)?)", re.IGNORECASE)


def since_of(section: Section) -> str | None:
    """Return the release of a remark such as ``(default: auto, since 8.2)`` or ``since 8.2``."""
    match = _SINCE.search(" ".join(section.text.split()))
    return match[1] if match else None


def has_feature(part: Part | Entity | None, name: str) -> bool:
    """Whether a piece of a schema carries a feature."""
    return any(feature.name == name for feature in getattr(part, "features", ()))


def named_experiment(element: str) -> bool:
    """Whether an element's name, or that of what it is a part of, says that it is an experiment."""
    return any(step.startswith(EXPERIMENTAL) for step in re.split(r"[.\[\]=]+", element))


def mentions(text: str, name: str) -> bool:
    """Whether a text has a name as a whole word."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def paragraphs_about(text: str, name: str) -> str:
    """Return the sections of a text that mention a name.

    A section is what stands between two headings, lines that are underlined or begin with ``#``.
    """
    parts = re.split(r"(?m)^(?=\S.*\n[-='\"~^*]{3,}\s*$)|^(?=#)", text)
    return "\n".join(part for part in parts if mentions(part, name))


def part_is_deprecated(part: Part | None) -> bool:
    """Whether a member, value, command or event is deprecated."""
    return has_feature(part, "deprecated")


def is_argument(difference: Difference) -> bool:
    """Whether a difference is about a member that clients send."""
    return difference.direction is Direction.SENDS and isinstance(
        difference.new_part or difference.old_part, Member
    )


def is_value(part: object) -> bool:
    """Whether a piece is a value of an enumeration."""
    return isinstance(part, EnumMember)
