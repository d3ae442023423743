"""Rules about documentation: names that do not exist, members that nothing is said of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nbexport.qapi.findings import owner_name
from nbexport.qapi.model import AlternateType, ArrayType, Command, EnumType, Event, ObjectType
from nbexport.review.finding import Direction, Level, Place
from nbexport.review.rules.deprecation import grown
from nbexport.review.rules.examples import DOCUMENTED, NO_PHANTOM, PHANTOM, UNDOCUMENTED
from nbexport.review.rules.registry import Rule, Taxonomy, register
from nbexport.review.wire import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.qapi import Schema
    from nbexport.qapi.docs import Doc
    from nbexport.qapi.model import Entity, Type
    from nbexport.review.finding import Finding
    from nbexport.review.rules.subject import Subject

_MENTION = re.compile(r"(?<![\w@/.-])@([A-Za-z_][\w-]*)")


def mentioned(doc: Doc) -> Iterator[tuple[str, int, str]]:
    """Give the names that a comment mentions as ``@name``: name, line, section.

    The section is the member that the text is about, empty for text about the whole.
    """
    sections = [("", doc.body, doc.body.info.line)]
    sections += [(name, part, part.info.line) for name, part in doc.members.items()]
    sections += [("", part, part.info.line) for part in doc.features.values()]
    sections += [("", part, part.info.line) for part in doc.sections]
    for title, section, first in sections:
        for number, line in enumerate(section.lines):
            for match in _MENTION.finditer(line):
                yield match[1].rstrip("-"), first + number, title


def _names(doc: Doc | None) -> set[str]:
    return {name for name, _, _ in mentioned(doc)} if doc is not None else set()


class _Known:
    """The names that a comment can sensibly mention.

    Args:
        schema: the schema.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        kinds = list(schema.types())
        values = [_own(kind) for kind in kinds if isinstance(kind, EnumType)]
        # capabilities and the like are spoken of anywhere, and values may stand for members
        self._values = set(schema.entities).union(*values)
        self._all = self._values.union(
            *(_own(kind) for kind in kinds if isinstance(kind, ObjectType))
        )
        # for each definition the names of those that use it: a struct's text may speak of the
        # command that takes it, or of its neighbours there
        self._above: dict[str, set[str]] = {}
        for entity in schema.entities.values():
            if entity.info is not None:
                for kind in _parts(entity):
                    self._above.setdefault(owner_name(_core(kind).name), set()).add(entity.name)

    def names(self, entity: Entity) -> set[str]:
        """Return the names for one definition's comment."""
        if isinstance(entity, EnumType):
            return self._all
        found = self._values | _own(entity)
        found |= {feature.name for feature in entity.features}
        for kind in _parts(entity):
            found |= _own(_core(kind))
        for name in self._above.get(entity.name, ()):
            above = self._schema.entities[name]
            found |= _own(above)
            for further in self._above.get(owner_name(name), ()):
                found |= _own(self._schema.entities[further])
        return found


def _core(kind: Type) -> Type:
    while isinstance(kind, ArrayType):
        kind = kind.element
    return kind


def _parts(entity: Entity) -> Iterator[Type]:
    """Give the types that a definition's text names."""
    if isinstance(entity, ObjectType):
        yield from (member.type for member in entity.members)
        yield from (variant.type for variant in entity.variants)
        if entity.base is not None:
            yield entity.base
    elif isinstance(entity, AlternateType):
        yield from (variant.type for variant in entity.variants)
    elif isinstance(entity, Command | Event):
        if entity.arg_type is not None:
            yield entity.arg_type
            if entity.arg_type.implicit:
                yield from _parts(entity.arg_type)
        if isinstance(entity, Command) and entity.ret_type is not None:
            yield entity.ret_type


def _own(entity: Entity) -> set[str]:
    """Return the names of members, branches or values."""
    if isinstance(entity, EnumType):
        return {value.name for value in entity.members}
    if isinstance(entity, AlternateType):
        return {variant.name for variant in entity.variants}
    if isinstance(entity, Command | Event):
        return _own(entity.arg_type) if entity.arg_type is not None else set()
    if not isinstance(entity, ObjectType):
        return set()
    found = {member.name for member in entity.members}
    found |= {variant.name for variant in entity.variants}
    for variant in entity.variants:
        if isinstance(variant.type, ObjectType):
            found |= {member.name for member in variant.type.members}
    for member in entity.members:
        found |= {feature.name for feature in member.features}
    return found


def _phantom(rule: Rule, subject: Subject) -> Iterator[Finding]:
    if not subject.texts:
        return
    known: _Known | None = None
    for entity in subject.new.entities.values():
        doc = entity.doc
        if doc is None:
            continue
        before = subject.old.entities.get(entity.name)
        seen = None if before is None or subject.context.audit else before.doc
        told = _names(seen)
        fresh = [entry for entry in mentioned(doc) if entry[0] not in told]
        if not fresh:
            continue
        known = known or _Known(subject.new)
        # what is gone may be told of still
        names = known.names(entity) | (_own(before) if before is not None else set())
        for name, line, section in dict.fromkeys(fresh):
            if name in names:
                continue
            about = f" of '{section}'" if section else ""
            message = (
                f"the documentation{about} in {entity.describe()} names @{name}, which does not "
                "exist there"
            )
            yield subject.note(
                rule,
                message,
                f"{entity.name}.{name}",
                new=_line(entity, line),
                path=(entity.name, *([section] if section else [])),
            )
    yield from _never_had(rule, subject)


def _never_had(rule: Rule, subject: Subject) -> Iterator[Finding]:
    """Give the mentions of members that a deprecated command has only by this change."""
    for difference, reach in grown(subject):
        owners = {reach.root, *(step.removeprefix("base ") for step in reach.path[1:-1])}
        for name in sorted(owners):
            entity = subject.new.entities.get(name)
            # text of a type that others use too may be meant for them
            if entity is None or entity.doc is None or not _only_for(subject, name):
                continue
            before = subject.old.entities.get(name)
            told = _names(before.doc) if before is not None else set()
            for mention, line, section in mentioned(entity.doc):
                if mention != difference.name or section == mention or mention in told:
                    continue
                about = f"'{section}' of {reach.root}" if section else reach.root
                message = f"the documentation of {about} names @{mention}, which {reach.root} "
                message += "never had"
                yield subject.note(
                    rule,
                    message,
                    reach.element,
                    new=_line(entity, line),
                    path=(reach.root, name, section or mention),
                )


def _only_for(subject: Subject, name: str) -> bool:
    return all(map(subject.deprecated, subject.users(name)))


def _line(entity: Entity, line: int) -> Place | None:
    return place_of(entity, line)


def _undocumented(rule: Rule, subject: Subject) -> Iterator[Finding]:
    if not subject.texts:
        return
    for entity in subject.new.entities.values():
        doc, info = entity.doc, entity.info
        before = subject.old.entities.get(entity.name)
        if doc is None or info is None or _excused(entity) or (before and _excused(before)):
            continue
        old = {} if before is None or subject.context.audit else _local(subject.old, before)
        documented = before.doc.members if before is not None and before.doc else {}
        for name, line in _local(subject.new, entity).items():
            if name in doc.members or (name in old and name not in documented):
                continue
            message = f"'{name}' of {entity.describe()} is not documented"
            yield subject.note(
                rule,
                message,
                f"{entity.name}.{name}",
                new=_line(entity, line),
                path=(entity.name, name),
            )


def _excused(entity: Entity) -> bool:
    """Whether a pragma says that a definition's parts need no documentation."""
    info = entity.info
    return info is not None and entity.name in info.pragmas.documentation_exceptions


def _local(schema: Schema, entity: Entity) -> dict[str, int]:
    """Return what a definition's comment has to tell of: names and their lines."""
    if isinstance(entity, EnumType):
        return {value.name: value.line for value in entity.members}
    if isinstance(entity, AlternateType):
        return {variant.name: variant.line for variant in entity.variants}
    kinds: list[ObjectType] = []
    if isinstance(entity, ObjectType):
        kinds = [entity]
        if entity.base is not None and entity.base.implicit:
            kinds.insert(0, entity.base)
    elif isinstance(entity, Command | Event) and entity.arg_name is not None:
        kind = schema.find_type(entity.arg_name)
        if isinstance(kind, ObjectType) and kind.implicit:
            kinds = [kind]
    return {member.name: member.line for kind in kinds for member in kind.local_members}


register(
    Rule(
        "doc-phantom-member",
        Level.NOTICE,
        Taxonomy("documentation", Direction.NONE, "wrong"),
        "A reader looks in vain for a member that is only written of.",
        "Name what exists, or take the sentence out.",
        PHANTOM,
        NO_PHANTOM,
        _phantom,
        opposite="doc-undocumented-member",
        companions=("deprecated-gained-member", "leak-through-base", "argument-added"),
    )
)
register(
    Rule(
        "doc-undocumented-member",
        Level.NOTICE,
        Taxonomy("documentation", Direction.NONE, "missing"),
        "What is not documented is used by guess.",
        "Document it, with what happens if it is left out.",
        UNDOCUMENTED,
        DOCUMENTED,
        _undocumented,
        opposite="doc-phantom-member",
        companions=("argument-added", "result-added", "since-missing"),
    )
)
