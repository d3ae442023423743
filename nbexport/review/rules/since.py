"""Rules about the releases that documentation names: missing, or not those that history tells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nbexport.qapi.findings import owner_name
from nbexport.qapi.model import (
    ArrayType,
    EnumMember,
    EnumType,
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
from nbexport.timeline.computed import Snapshot, computed_since, everything
from nbexport.timeline.elements import find_element
from nbexport.timeline.tags import TOO_EARLY, TOO_LATE, check_tags

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nbexport.qapi.docs import Section
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
    """Give what was there and is dated anew; in an audit all that is dated.

    Only what the last release of the history has is judged: of the rest it may know nothing.
    """
    context = subject.context
    dated_anew = {name for name in subject.new.entities if _tags(subject, name)}
    if not subject.texts or not subject.past.releases or not (dated_anew or context.audit):
        return
    snapshots = [
        *(Snapshot(name, schema, branch(name)) for name, schema in subject.past.schemas()),
        Snapshot(
            context.release or "the new schema",
            subject.new,
            None if context.release is None else branch(context.release),
        ),
    ]
    known = set(everything(snapshots[-2].schema))
    dates = {
        element: since
        for element, since in computed_since(snapshots).items()
        if context.audit or element.owner in dated_anew
    }
    for difference in check_tags(snapshots, dates=dates):
        element, form = difference.element, find_element(subject.new, difference.element)
        if element not in known or not difference.told or form is None or form.kind == "type":
            # a type's name is nothing that clients see
            continue
        if branch(difference.told) < branch(snapshots[0].name):
            # before 2.8 schemas did not describe every command
            continue
        if not context.audit and (
            difference.problem not in (TOO_EARLY, TOO_LATE)
            or form.definition not in dated_anew
            or (element.path[0] if element.path else element.value)
            not in _tags(subject, form.definition)
        ):
            continue
        entity = subject.new.entities[form.definition]
        name = str(element).replace(" ", ".")
        message = (
            f"the documentation says that {name} exists since {difference.told}; it is "
            f"{difference.since}"
        )
        yield subject.note(rule, message, name, new=place_of(entity))


def _tags(subject: Subject, name: str) -> set[str]:
    """Return the parts of a definition that had another date before, empty for itself."""
    before, now = subject.old.entities.get(name), subject.new.entities.get(name)
    if before is None or before.doc is None or now is None or now.doc is None:
        return set()
    was = {"": before.doc.since} | {part: since_of(s) for part, s in before.doc.members.items()}
    told = {"": now.doc.since} | {part: since_of(s) for part, s in now.doc.members.items()}
    return {
        part
        for part, since in told.items()
        if since and (old := was.get(part)) and branch(since) != branch(old)
    }


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
