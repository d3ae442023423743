"""Rules about what is on its way out: how it is announced, and what it must not gain."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from nbexport.qapi.model import Command, ObjectType
from nbexport.review.compare import Kind
from nbexport.review.finding import Direction, Level
from nbexport.review.rules.examples import (
    DEPRECATED_ALONE,
    DEPRECATED_NESTED,
    LEAKING,
    NOTE_IN_LIST,
    NOTE_MISSING,
    RENAME_NOTED,
    RENAME_UNNOTED,
    REPLACED_BY_NEW,
    REPLACED_BY_OLD,
    SPLIT_BASE,
)
from nbexport.review.rules.registry import Rule, Taxonomy, register
from nbexport.review.rules.subject import mentions, part_is_deprecated
from nbexport.review.wire import type_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.review.facts import Difference, Reach
    from nbexport.review.finding import Finding
    from nbexport.review.rules.subject import Subject

_WORD = re.compile(r"[A-Za-z][\w-]*[A-Za-z0-9]")


# -- a deprecated command grows -------------------------------------------------------------------


def grown(subject: Subject) -> Iterator[tuple[Difference, Reach]]:
    """Give the members that deprecated commands gain, command by command.

    What a common type gains deep inside an argument counts only if nothing else uses the type:
    no command can keep out of that.
    """
    for difference in subject.differences:
        if difference.kind is not Kind.MEMBER_ADDED or difference.direction is not Direction.SENDS:
            continue
        for reach in difference.reaches:
            if not subject.deprecated(reach.root) or subject.unsettled(difference, reach):
                continue
            top = re.fullmatch(r"(?:\[[^\]]*\])*\.[^.\[=]+", reach.element[len(reach.root) :])
            if top or all(map(subject.deprecated, subject.users(difference.owner))):
                yield difference, reach


def _gained_member(rule: Rule, subject: Subject) -> Iterator[Finding]:
    for difference, reach in grown(subject):
        message = f"{reach.root} gains the member '{difference.name}', though it is deprecated"
        yield subject.about(rule, message, difference, reach=reach)


def _leak(rule: Rule, subject: Subject) -> Iterator[Finding]:
    for difference, reach in grown(subject):
        owner = subject.new.entities.get(difference.owner)
        if not isinstance(owner, ObjectType) or owner.implicit:
            continue
        others = sorted(name for name in subject.users(owner.name) if not subject.deprecated(name))
        if not others:
            continue
        how = "base" if f"base {owner.name}" in reach.path else "type"
        message = (
            f"'{difference.name}' leaks into {reach.root}, which is deprecated, through the "
            f"{how} {owner.name} that it shares with {' and '.join(others[:2])}"
        )
        yield subject.about(rule, message, difference, reach=reach)


# -- something becomes deprecated -----------------------------------------------------------------


def _new_deprecations(subject: Subject) -> Iterator[Difference]:
    for difference in subject.differences:
        if difference.kind is Kind.FEATURE_ADDED and difference.name == "deprecated":
            yield difference


def _unshipped_deprecations(
    subject: Subject, *, listed: bool = False
) -> Iterator[tuple[str, str, Difference | None]]:
    """Give what is deprecated, and was not in the last release: element, note, difference.

    Beside what the new schema deprecates these are commands and events that the old one, a state
    between two releases, deprecated already, if the change is about them or what replaces them; in
    an audit all of them. With ``listed`` a change of the list of deprecations is about them, too.
    """
    told = set()
    for difference in _new_deprecations(subject):
        told.add(difference.element)
        yield difference.element, subject.deprecation_note(difference), difference
    if not subject.past.releases:
        return
    for name, entity in subject.calls.items():
        if name in told or not part_is_deprecated(entity) or name not in subject.old.entities:
            continue
        if subject.past.first(name) and not subject.past.first_deprecated(name):
            section = entity.doc.features.get("deprecated") if entity.doc else None
            note = section.text if section else ""
            about = listed and subject.listed(name) != subject.listed(name, old=True)
            if about or subject.context.audit or _touched(subject, name, note):
                yield name, note, None


def _touched(subject: Subject, name: str, note: str) -> bool:
    """Whether a change is about a command or event, its replacement, or the note about it."""
    if {name, *_replacements(subject, name, note)} & subject.changed:
        return True
    before = subject.old.entities[name].doc
    section = before.features.get("deprecated") if before else None
    return note != (section.text if section else "")


def _replacements(subject: Subject, element: str, note: str) -> list[str]:
    """Return the commands and events that a note tells to use instead."""
    root = re.split(r"[.\[=]", element)[0]
    named = dict.fromkeys(_WORD.findall(note))
    # a word of plain English that is a command too, such as "stop", is meant with a mark-up only
    return [
        word
        for word in named
        if word in subject.calls
        and word != root
        and ("-" in word or "_" in word or word.isupper() or f"@{word}" in note)
    ]


def _unreleased(subject: Subject, element: str, note: str) -> Iterator[str]:
    """Give the replacements that a note names and no release has: calls, or members beside."""
    for name in _replacements(subject, element, note):
        doc = subject.calls[name].doc
        # a release between the two schemas may have it, unless it is dated to the next one
        known = not subject.gap or subject.dated_now(doc.since if doc else None)
        if known and not subject.released(name):
            yield name
    beside, dot, _ = element.rpartition(".")
    if not dot or subject.gap or "=" in element.rpartition("]")[2]:
        return
    for word in dict.fromkeys(_WORD.findall(note)):
        other = f"{beside}.{word}"
        if word in note.split() and "-" not in word and f"@{word}" not in note:
            # a word of plain English
            continue
        new = subject.has(other) and not subject.has(other, old=True)
        if new and other != element and subject.past.first(other) is None:
            yield other


def _not_shipped(rule: Rule, subject: Subject) -> Iterator[Finding]:
    for element, note, difference in _unshipped_deprecations(subject):
        for name in _unreleased(subject, element, note):
            message = (
                f"{element} is deprecated in favour of {name}, which no release has yet: clients "
                "have nothing but what is deprecated and what is not released"
            )
            if difference is not None:
                yield subject.about(rule, message, difference)
            else:
                place = subject.new_side.place(element)
                yield subject.note(
                    rule, message, element, old=subject.old_side.place(element), new=place
                )


def _without_note(rule: Rule, subject: Subject) -> Iterator[Finding]:
    listed = subject.context.deprecation_notes
    for difference in _new_deprecations(subject):
        element = difference.element
        note = subject.deprecation_note(difference)
        if not note:
            message = f"{element} becomes deprecated, and no word says what to use instead"
            yield subject.about(rule, message, difference)
        elif listed is not None and not mentions(listed, _listed_name(element)):
            message = f"{element} becomes deprecated, and the list of deprecations has no entry"
            yield subject.about(rule, message, difference)


def _listed_name(element: str) -> str:
    """Return the name that an entry of the list has to have: the last one of an element."""
    return re.split(r"[.\[\]=]+", element)[-1]


def _lacks_rename(rule: Rule, subject: Subject) -> Iterator[Finding]:
    for element, note, difference in _unshipped_deprecations(subject, listed=True):
        entity = subject.calls.get(element)
        if not isinstance(entity, Command):
            continue
        for name in _replacements(subject, element, note):
            if not isinstance(subject.calls[name], Command):
                continue
            text = f"{note}\n{subject.listed(element)}"
            for was, now in _renames(subject, element, name):
                if mentions(text, was):
                    continue
                message = (
                    f"{element} is to be replaced by {name}, which {now}; the note about it does "
                    f"not mention '{was}'"
                )
                # each argument is a thing of its own
                found = f"{element}.{was}"
                place = subject.new_side.place(element)
                if difference is not None:
                    place = difference.new
                yield subject.note(
                    rule,
                    message,
                    found,
                    old=subject.old_side.place(element),
                    new=place,
                    path=(element, was),
                )


def _renames(subject: Subject, old: str, new: str) -> Iterator[tuple[str, str]]:
    """Give the arguments of a command that its replacement has not, or has in another form."""
    was, now = subject.arguments(old), subject.arguments(new)
    # what leaks into the old command just now is no argument that its clients know
    known = subject.arguments(old, old=True) or was
    side = subject.new_side
    for name, member in was.items():
        text = type_text(side, member.type)
        after = now.get(name)
        if after is None:
            near = difflib.get_close_matches(name, [key for key in now if key not in known], 1, 0.8)
            if near:
                form = type_text(side, now[near[0]].type)
                yield name, f"has '{near[0]}' ({form}) for '{name}' ({text})"
            else:
                yield name, f"has no '{name}'"
        elif text != type_text(side, after.type):
            yield name, f"has '{name}' as {type_text(side, after.type)}, not {text}"


_NEW_COMPANIONS = ("became-deprecated", "command-added")

register(
    Rule(
        "deprecated-gained-member",
        Level.RISKY,
        Taxonomy("argument", Direction.SENDS, "added"),
        "A deprecated command that grows gives clients a reason to stay with it.",
        "Add the member to the replacement only.",
        DEPRECATED_ALONE,
        DEPRECATED_NESTED,
        _gained_member,
        alone="what a deprecated command loses is judged as any removal is",
        one_way="what a deprecated command returns beyond need binds nobody",
        companions=("argument-added", "argument-added-required", "leak-through-base"),
    )
)
register(
    Rule(
        "leak-through-base",
        Level.RISKY,
        Taxonomy("argument", Direction.SENDS, "added"),
        "A member of a type that a deprecated command shares with its successor becomes a member "
        "of both, whether meant or not.",
        "Split the type: what both have into a common base, the new member into the type of the "
        "command that is meant.",
        LEAKING,
        SPLIT_BASE,
        _leak,
        alone="a shared type that shrinks is judged as a removal from each command",
        one_way="what a deprecated command returns beyond need binds nobody",
        companions=(
            "argument-added",
            "argument-added-required",
            "deprecated-gained-member",
            "command-added",
        ),
    )
)
register(
    Rule(
        "replacement-not-shipped",
        Level.RISKY,
        Taxonomy("deprecation", Direction.NONE, "added"),
        "Clients that avoid what is deprecated need a release in which the replacement is stable.",
        "Ship the replacement first, and deprecate one release later.",
        REPLACED_BY_NEW,
        REPLACED_BY_OLD,
        _not_shipped,
        alone="a deprecation that is withdrawn needs no replacement",
        companions=_NEW_COMPANIONS,
    )
)
register(
    Rule(
        "deprecation-without-note",
        Level.NOTICE,
        Taxonomy("deprecation", Direction.NONE, "missing"),
        "Who meets a deprecation has to find what to use instead.",
        "Document the feature 'deprecated' where it is declared, and list it.",
        NOTE_MISSING,
        NOTE_IN_LIST,
        _without_note,
        alone="a note about what is not deprecated is an error of the schema",
        companions=("became-deprecated",),
    )
)
register(
    Rule(
        "migration-note-lacks-rename",
        Level.NOTICE,
        Taxonomy("deprecation", Direction.NONE, "missing"),
        "To change the command's name alone does not do if arguments change as well.",
        "Tell, for each argument that the replacement lacks or has in another form, what to send.",
        RENAME_UNNOTED,
        RENAME_NOTED,
        _lacks_rename,
        alone="a note that tells more than it must does no harm",
        companions=("became-deprecated", "replacement-not-shipped"),
    )
)
