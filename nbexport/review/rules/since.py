"""Rules about the releases that documentation names: missing, or not those that history tells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nbexport.qapi.findings import owner_name
from nbexport.qapi.model import (
    ArrayType,
    Command,
    EnumMember,
    EnumType,
    Event,
    Member,
    ObjectType,
    Type,
)
from nbexport.review.compare import Kind
from nbexport.review.context import branch, releases_after
from nbexport.review.finding import Direction, Level, Place
from nbexport.review.rules.examples import DATED, MISDATED, UNDATED, WELL_DATED
from nbexport.review.rules.registry import Rule, Taxonomy, register
from nbexport.review.rules.subject import since_of
from nbexport.review.wire import composition, compositions, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nbexport.qapi.docs import Section
    from nbexport.qapi.model import Entity
    from nbexport.review.facts import Difference
    from nbexport.review.finding import Finding
    from nbexport.review.rules.subject import Subject

_LAST_BRANCH = re.compile(r"\[[^\]=]+=[^\]]*\](?=\.[^.]*$)")
_CALLS = (Kind.COMMAND_ADDED, Kind.EVENT_ADDED)
_PARTS = (Kind.MEMBER_ADDED, Kind.VALUE_ADDED)
_TYPES = (Kind.TYPE_WIDENED, Kind.TYPE_CHANGED, Kind.TYPE_NARROWED)


def _section(subject: Subject, difference: Difference) -> Section | None:
    doc = subject.doc_of(difference)
    return doc.members.get(difference.name) if doc is not None else None


def _was_written(subject: Subject, difference: Difference) -> bool:
    """Whether the old text has a member or value already, and something new leads to it."""
    owner = subject.old.entities.get(difference.owner)
    parts: tuple[Member | EnumMember, ...] = ()
    if isinstance(owner, ObjectType):
        parts = owner.local_members
    elif isinstance(owner, EnumType):
        parts = owner.members
    return difference.kind in _PARTS and any(part.name == difference.name for part in parts)


def _missing(rule: Rule, subject: Subject) -> Iterator[Finding]:
    told = set()
    for difference in subject.differences:
        doc = subject.doc_of(difference)
        if doc is None:
            continue
        if difference.kind in _CALLS and doc.since is None:
            message = f"the documentation of {difference.name} does not tell since when it exists"
            yield subject.about(rule, message, difference)
        elif difference.kind in _PARTS and owner_name(difference.owner) in subject.old.entities:
            # a definition that is new itself dates its members
            if _was_written(subject, difference) or subject.undescribed(difference):
                continue
            if subject.unsettled(difference):
                continue
            section = _section(subject, difference)
            key = difference.owner, difference.name
            if section is not None and since_of(section) is None and key not in told:
                told.add(key)
                message = (
                    f"the documentation of {difference.element} does not tell since when it exists"
                )
                yield subject.about(rule, message, difference, direction=Direction.NONE)


def _wrong(rule: Rule, subject: Subject) -> Iterator[Finding]:
    told = set()
    for difference in subject.differences:
        if _was_written(subject, difference) or subject.undescribed(difference):
            continue
        claimed = _claimed(subject, difference)
        key = difference.owner, difference.name
        if claimed is None or key in told:
            continue
        since, place = claimed
        wanted = _expected(subject, difference)
        # another branch may have had it before, and the text speaks of that
        elements = [_LAST_BRANCH.sub("", reach.element) for reach in difference.reaches]
        right = {*map(branch, wanted), *map(branch, _firsts(subject, elements))}
        if wanted and branch(since) not in right:
            told.add(key)
            message = _message(difference.element, since, wanted)
            yield subject.note(
                rule,
                message,
                difference.element,
                old=difference.old,
                new=place,
                path=difference.path,
            )
    yield from _rewritten(rule, subject)


def _message(element: str, since: str, wanted: Iterable[str]) -> str:
    names = sorted(set(wanted), key=branch)
    shown = f"one of {names[0]} to {names[-1]}" if len(names) > 2 else " or ".join(names)
    return f"the documentation says that {element} exists since {since}; it is {shown}"


def _claimed(subject: Subject, difference: Difference) -> tuple[str, Place | None] | None:
    """Return the release that the documentation names for what is new, and where it does."""
    if difference.kind in _TYPES:
        return _claimed_by_type(subject, difference)
    doc = subject.doc_of(difference)
    entity = subject.new.entities.get(owner_name(difference.owner))
    if doc is None or entity is None:
        return None
    section = doc.section("Since")
    if difference.kind in _PARTS:
        remark = _section(subject, difference)
        dated = since_of(remark) if remark is not None else None
        if remark is not None and dated is not None:
            return dated, _since_line(entity, remark)
        if owner_name(difference.owner) in subject.old.entities:
            # the definition's own release is older than this part of it
            return None
    elif difference.kind not in _CALLS:
        return None
    if doc.since is None or section is None:
        return None
    return doc.since, place_of(entity, section.info.line)


def _since_line(entity: object, section: Section) -> Place | None:
    """Return the line of a section that has the word."""
    number = next((n for n, line in enumerate(section.lines) if "since" in line.lower()), 0)
    return place_of(entity, section.info.line + number)  # type: ignore[arg-type]  # an entity


def _claimed_by_type(subject: Subject, difference: Difference) -> tuple[str, Place | None] | None:
    """Return what the type says of itself that a member has got, if that type is new."""
    part = difference.new_part
    kind: Type | None = part.type if isinstance(part, Member) else None
    while isinstance(kind, ArrayType):
        kind = kind.element
    if kind is None or kind.doc is None or kind.name in subject.old.entities:
        return None
    if composition(kind) in compositions(subject.old).values():
        # it only changed its name
        return None
    section = kind.doc.section("Since")
    if section is None or kind.doc.since is None:
        return None
    return kind.doc.since, place_of(kind, section.info.line)


def _expected(subject: Subject, difference: Difference) -> list[str]:
    """Return the releases that would be right; none if nothing tells."""
    release = subject.context.release
    if release is None:
        now = []
    elif subject.gap:
        # any of the releases in between
        assert subject.context.old_release is not None
        now = releases_after(subject.context.old_release, release)
    else:
        now = [release]
    if difference.kind in _TYPES:
        return now
    found = list(_firsts(subject, [reach.element for reach in difference.reaches]))
    return found or now


def _firsts(subject: Subject, elements: Iterable[str]) -> Iterator[str]:
    return (first for first in map(subject.past.first, elements) if first is not None)


def _rewritten(rule: Rule, subject: Subject) -> Iterator[Finding]:
    """Give the commands, events and arguments that were there, and are dated anew."""
    if not subject.past.releases:
        return
    oldest = subject.past.releases[0]
    for name, entity in subject.calls.items():
        before = subject.old.entities.get(name)
        if not isinstance(before, Command | Event) or entity.doc is None:
            continue
        parts: list[tuple[str, str | None, str | None, Entity]] = [
            (name, entity.doc.since, before.doc.since if before.doc else None, entity)
        ]
        for argument, member in subject.arguments(name).items():
            now = _remark(subject, member, old=False)
            old = subject.arguments(name, old=True).get(argument)
            was = _remark(subject, old, old=True) if old is not None else now
            owner = subject.new.entities.get(owner_name(member.defined_in), entity)
            parts.append((f"{name}.{argument}", now, was, owner))
        for element, now, was, owner in parts:
            if now is None or was is None or branch(now) == branch(was):
                continue
            first = subject.past.first(element)
            if first is None or branch(first) == branch(now):
                continue
            if first == oldest and branch(now) <= branch(first):
                # history does not reach further back
                continue
            yield subject.note(rule, _message(element, now, [first]), element, new=place_of(owner))


def _remark(subject: Subject, member: Member, *, old: bool) -> str | None:
    schema = subject.old if old else subject.new
    entity = schema.entities.get(owner_name(member.defined_in))
    section = entity.doc.members.get(member.name) if entity is not None and entity.doc else None
    return since_of(section) if section is not None else None


_COMPANIONS = (
    *("command-added", "event-added", "argument-added", "argument-added-required"),
    *("argument-value-added", "result-added", "result-value-added", "argument-type-widened"),
)
register(
    Rule(
        "since-missing",
        Level.NOTICE,
        Taxonomy("since", Direction.NONE, "missing"),
        "Readers of the newest documentation have to know which releases they can use it with.",
        "Write '(since X.Y)' behind the description, 'Since: X.Y' at the end of a definition.",
        UNDATED,
        DATED,
        _missing,
        alone="a release that is named without need does no harm",
        companions=_COMPANIONS,
    )
)
register(
    Rule(
        "since-wrong",
        Level.NOTICE,
        Taxonomy("since", Direction.NONE, "wrong"),
        "Clients that rely on the documentation send it to a release that does not have it.",
        "Name the release in which it ships first; series that are delayed need it changed.",
        MISDATED,
        WELL_DATED,
        _wrong,
        alone="what is right needs no rule",
        companions=_COMPANIONS,
    )
)
