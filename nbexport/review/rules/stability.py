"""Rules about what may change and what is settled: experiments, released forms, refactorings."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from nbexport.qapi.model import ArrayType, Command, ObjectType
from nbexport.review.compare import Kind
from nbexport.review.finding import Direction, Level
from nbexport.review.rules.examples import (
    COMPOSED,
    FROZEN_CHANGED,
    NOT_FROZEN,
    PROMISED,
    RENAMED,
    SCALAR,
    SCALAR_ALONE,
    STABLE_ANYWAY,
    STABLE_NOW,
    UNSTABLE_NOW,
)
from nbexport.review.rules.registry import Rule, Taxonomy, register
from nbexport.review.rules.subject import EXPERIMENTAL, named_experiment
from nbexport.review.wire import compositions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.qapi import Schema
    from nbexport.review.facts import Difference
    from nbexport.review.finding import Finding
    from nbexport.review.rules.subject import Subject

# -- experiments ----------------------------------------------------------------------------------

_ADDED = (Kind.COMMAND_ADDED, Kind.EVENT_ADDED, Kind.MEMBER_ADDED, Kind.VALUE_ADDED)
_GONE = (Kind.COMMAND_REMOVED, Kind.EVENT_REMOVED, Kind.MEMBER_REMOVED, Kind.VALUE_REMOVED)
_ADDITIONS = (
    "command-added",
    "event-added",
    "argument-added",
    "argument-added-required",
    "argument-value-added",
    "result-added",
    "result-value-added",
)
_REMOVALS = (
    "command-removed",
    "event-removed",
    "argument-removed",
    "argument-value-removed",
    "result-removed",
    "result-removed-optional",
    "result-value-removed",
    "removed-without-deprecation",
)


def _place_key(difference: Difference) -> tuple[object, ...]:
    """Return what a renamed element has in common with what it was called before."""
    prefix = difference.element.removesuffix(difference.name)
    return difference.direction, prefix, difference.kind.value.partition("-")[0]


def _renamed(subject: Subject) -> Iterator[tuple[Difference, Difference]]:
    """Give what lost or got the prefix of experiments: the form before, and that of now."""
    gone: dict[tuple[object, ...], Difference] = {}
    for difference in subject.differences:
        if difference.kind in _GONE:
            plain = difference.name.removeprefix(EXPERIMENTAL)
            gone[*_place_key(difference), plain] = difference
    for difference in subject.differences:
        if difference.kind not in _ADDED:
            continue
        plain = difference.name.removeprefix(EXPERIMENTAL)
        before = gone.get((*_place_key(difference), plain))
        if before is not None and before.name != difference.name:
            yield before, difference


def _became_stable(rule: Rule, subject: Subject) -> Iterator[Finding]:
    for difference in subject.differences:
        if difference.kind is Kind.FEATURE_REMOVED and difference.name == "unstable":
            yield subject.about(rule, f"{difference.element} is stable now", difference)
    for before, after in _renamed(subject):
        if before.name.startswith(EXPERIMENTAL):
            message = f"{before.element} is stable now, as {after.element}"
            yield subject.about(rule, message, after)


def _became_unstable(rule: Rule, subject: Subject) -> Iterator[Finding]:
    for difference in subject.differences:
        if difference.kind is Kind.FEATURE_ADDED and difference.name == "unstable":
            if all(named_experiment(reach.element) for reach in difference.reaches):
                # its name said so before; what it has got is a feature
                continue
            message = f"{difference.element}, which was stable, is unstable now"
            yield subject.about(rule, message, difference)
    for before, after in _renamed(subject):
        if after.name.startswith(EXPERIMENTAL):
            message = f"{before.element}, which was stable, is the experiment {after.element} now"
            yield subject.about(rule, message, before)


# -- released forms -----------------------------------------------------------------------------


def _frozen(rule: Rule, subject: Subject) -> Iterator[Finding]:
    for difference in subject.differences:
        if subject.experimental(difference) or subject.unsettled(difference):
            continue
        reach = next((one for one in difference.reaches if subject.released(one.root)), None)
        if reach is None:
            continue
        since = subject.past.first(reach.element) or subject.past.first(reach.root)
        settled = f"settled since {since}" if since else "released already"
        if difference.kind is Kind.TYPE_CHANGED:
            message = (
                f"{reach.element} changes its form from {difference.was} to {difference.now}, "
                f"though it is {settled}"
            )
            yield subject.about(rule, message, difference)
        elif difference.kind is Kind.MEMBER_REMOVED:
            after = _successor(subject, difference)
            if after is not None:
                message = f"{reach.element} is called '{after.name}' now, though it is {settled}"
                yield subject.about(rule, message, difference)


def _successor(subject: Subject, gone: Difference) -> Difference | None:
    """Return the member that took the place of another one under a name like the old one."""
    near = {
        difference.name: difference
        for difference in subject.differences
        if difference.kind is Kind.MEMBER_ADDED and _place_key(difference) == _place_key(gone)
    }
    # an experiment that becomes stable, or the reverse, is another rule's
    close = [
        name
        for name in difflib.get_close_matches(gone.name, near, 3, 0.8)
        if name.removeprefix(EXPERIMENTAL) != gone.name.removeprefix(EXPERIMENTAL)
    ]
    return near[close[0]] if close else None


# -- a scalar that will be a list -----------------------------------------------------------------

# What anything can have one of; that a list of some is somewhere says nothing.
_COMMON = frozenset(("id", "name", "path", "status", "type", "value"))


def _lists(schema: Schema) -> dict[str, str]:
    """Return the members that are lists of scalars: name, and a type that has it."""
    found: dict[str, str] = {}
    for kind in schema.types():
        if isinstance(kind, ObjectType):
            for member in kind.local_members:
                inner = member.type.element if isinstance(member.type, ArrayType) else None
                if inner is not None and not isinstance(inner, ObjectType | ArrayType):
                    found.setdefault(member.name, kind.name)
    return found


def _new_arguments(subject: Subject) -> Iterator[tuple[str, Difference]]:
    """Give the optional strings that commands take newly: name and difference."""
    for difference in subject.differences:
        part = difference.new_part
        if difference.kind is Kind.COMMAND_ADDED and isinstance(part, Command):
            for name, member in subject.arguments(part.name).items():
                if member.optional and member.type.name == "str":
                    yield name, difference
        elif (
            difference.kind is Kind.MEMBER_ADDED
            and difference.direction is Direction.SENDS
            and difference.now == "str, optional"
        ):
            yield difference.name, difference


def _scalar(rule: Rule, subject: Subject) -> Iterator[Finding]:
    lists = _lists(subject.old) | _lists(subject.new)
    for name, difference in _new_arguments(subject):
        if name in _COMMON:
            continue
        plural = next((form for form in (name, f"{name}s", f"{name}es") if form in lists), None)
        if plural is None:
            continue
        element, path, new = difference.element, difference.path, difference.new
        if difference.kind is Kind.COMMAND_ADDED:
            member = subject.arguments(difference.name)[name]
            element, path = f"{element}.{name}", (*path, name)
            new = subject.new_side.place(member.defined_in, member.line) or new
        where = _shown(subject, lists[plural])
        message = (
            f"{element} is one optional string, where '{plural}' of {where} is a list; "
            "a list with one element says the same, and can grow"
        )
        yield subject.note(rule, message, element, new=new, path=path)


def _shown(subject: Subject, kind: str) -> str:
    """Return a type's name, or the command's for its inline arguments."""
    for schema in (subject.new, subject.old):
        entity = schema.entities.get(kind)
        if entity is not None and entity.info is not None and entity.info.name:
            return entity.info.name
    return kind


# -- nothing happened ---------------------------------------------------------------------------


def _unchanged(rule: Rule, subject: Subject) -> Iterator[Finding]:
    if subject.differences or not subject.texts:
        return
    old, new = compositions(subject.old), compositions(subject.new)
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if changed:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" * (len(changed) > 3))
        message = f"types are composed in another way ({shown}); nothing changes on the wire"
        place = next((p for p in map(subject.new_side.place, changed) if p is not None), None)
        before = next((p for p in map(subject.old_side.place, changed) if p is not None), None)
        yield subject.note(rule, message, "schema", old=before, new=place)


register(
    Rule(
        "unstable-became-stable",
        Level.INFO,
        Taxonomy("feature", Direction.NONE, "settled"),
        "From now on the policy protects it: it cannot be changed without a deprecation.",
        "Nothing to mend; look once more at its names and types.",
        STABLE_NOW,
        STABLE_ANYWAY,
        _became_stable,
        opposite="stable-became-unstable",
        companions=(*_ADDITIONS, *_REMOVALS),
    )
)
register(
    Rule(
        "stable-became-unstable",
        Level.BREAKING,
        Taxonomy("feature", Direction.NONE, "unsettled"),
        "Clients relied on a promise that is withdrawn; those that refuse what is unstable fail.",
        "Deprecate it, and make the experiment something new.",
        UNSTABLE_NOW,
        PROMISED,
        _became_unstable,
        opposite="unstable-became-stable",
        companions=(*_ADDITIONS, *_REMOVALS, "frozen-interface-changed"),
    )
)
register(
    Rule(
        "frozen-interface-changed",
        Level.BREAKING,
        Taxonomy("design", Direction.NONE, "changed"),
        "After its first release an interface keeps its form: a type does not change, a member is "
        "not renamed.",
        "Add a member beside the old one, deprecate the old one, and document both.",
        FROZEN_CHANGED,
        NOT_FROZEN,
        _frozen,
        alone="a form that was changed before its first release is nobody's loss",
        companions=(
            *("argument-type-changed", "result-type-changed"),
            *("argument-removed", "argument-added", "argument-added-required"),
            *("result-removed", "result-removed-optional", "result-added"),
            "removed-without-deprecation",
        ),
    )
)
register(
    Rule(
        "scalar-where-list-likely",
        Level.NOTICE,
        Taxonomy("design", Direction.SENDS, "added"),
        "What is a list elsewhere is wanted as a list sooner or later, and then the type cannot "
        "change any more.",
        "Take a list from the start; one element is the common case.",
        SCALAR,
        SCALAR_ALONE,
        _scalar,
        alone="a list where one value would do can hold one value",
        one_way="a list can come beside a scalar that is returned, and clients need not choose",
        companions=("argument-added", "command-added"),
    )
)
register(
    Rule(
        "wire-unchanged",
        Level.INFO,
        Taxonomy("design", Direction.NONE, "refactored"),
        "Clients cannot see how types are composed, nor what they are called.",
        "Nothing to mend.",
        COMPOSED,
        RENAMED,
        _unchanged,
        alone="what does change on the wire is told by the other rules",
    )
)
