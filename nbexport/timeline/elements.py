"""The pieces of an interface by name, and what a schema says of each.

An element is written as the list of deprecations does:

========================================  ===================================================
``nbd-server-add``                        a command, an event or a type
``nbd-server-add bitmap``                 an argument, a member of an event's data or of a type
``nbd-server-start addr.type``            a member of a member; lists are looked through
``query-block result inserted.file``      a member of what a command returns
``BlockExportType=nbd``                   a value of an enumeration
``block-export-add type=nbd``             the same, by way of a member
``nbd-server-add:deprecated``             a feature of any of these
========================================  ===================================================

A member of a branch counts whatever the branch. For a shell a dot does instead of the space:
``nbd-server-add.bitmap``, ``query-block.result.inserted``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.qapi.findings import owner_name
from nbexport.qapi.model import (
    AlternateType,
    ArrayType,
    Command,
    EnumMember,
    EnumType,
    Event,
    Member,
    ObjectType,
    Type,
)
from nbexport.sources.describe import type_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nbexport.qapi import Schema
    from nbexport.qapi.model import Entity, Feature

RESULT = "result"
# A name of the language: downstream ones begin with a reversed domain name.
_NAME = r"(?:__[A-Za-z0-9.-]+_)?[A-Za-z0-9][A-Za-z0-9_-]*"
_ELEMENT = re.compile(
    rf"(?P<owner>{_NAME})"
    rf"(?:[ .](?P<result>{RESULT})(?=[ .]))?"
    rf"(?:[ .](?P<path>{_NAME}(?:\.{_NAME})*))?"
    r"(?:=(?P<value>[A-Za-z0-9_][A-Za-z0-9_.-]*))?"  # some values have a dot
    rf"(?::(?P<feature>{_NAME}))?"
)


@dataclass(frozen=True, slots=True)
class Element:
    """The name of a piece of the interface; its text is the notation above.

    Attributes:
        owner: a command, event or type.
        path: the members that lead to it, outermost first; empty for the owner itself.
        result: whether the path begins at what a command returns, not at what it takes.
        value: a value of the enumeration that owner and path lead to; else empty.
        feature: a feature of what the rest leads to; else empty.
    """

    owner: str
    path: tuple[str, ...] = ()
    result: bool = False
    value: str = ""
    feature: str = ""

    def __str__(self) -> str:
        words = [self.owner]
        if self.result:
            words.append(RESULT)
        if self.path:
            words.append(".".join(self.path))
        text = " ".join(words)
        text += f"={self.value}" if self.value else ""
        return text + (f":{self.feature}" if self.feature else "")

    @property
    def parent(self) -> Element | None:
        """What it is a piece of; None for a command, an event or a type."""
        if self.feature:
            return Element(self.owner, self.path, self.result, self.value)
        if self.value:
            return Element(self.owner, self.path, self.result)
        if len(self.path) > 1:
            return Element(self.owner, self.path[:-1], self.result)
        return Element(self.owner) if self.path else None


def parse_element(text: str) -> Element:
    """Return the element that a text names.

    Raises:
        UsageError: it is none; the notation is told.
    """
    match = _ELEMENT.fullmatch(text.strip())
    if match is None or (match["result"] and not match["path"]):
        raise UsageError(
            f"'{text}' names no element: expected NAME, NAME.MEMBER, COMMAND.result.MEMBER, "
            "NAME=VALUE or one of these with :FEATURE"
        )
    path = tuple(re.findall(_NAME, match["path"])) if match["path"] else ()
    return Element(
        match["owner"], path, bool(match["result"]), match["value"] or "", match["feature"] or ""
    )


@dataclass(frozen=True, slots=True)
class Form:
    """What an element is in one schema.

    Attributes:
        kind: ``command``, ``event``, ``type``, ``argument``, ``data`` (of an event), ``result``,
            ``member`` (of a type), ``value`` or ``feature``.
        type: a member's type in the notation of the language; a command's result; else empty.
        wire: the same without what no client sees, names of types and widths of integers.
        optional: whether a member can be left out.
        features: its own features.
        flags: of a command, what its callers notice: ``allow-oob``, ``allow-preconfig``.
        inherited: features of what it is a piece of; a deprecated command's arguments are
            deprecated with it.
        since: the release that its own documentation names, None if there is no word of it.
        owner_since: the release that the documentation of its definition names.
        definition: the command, event or type whose text holds it.
        place: file and line of that, empty where there is none.
    """

    kind: str
    type: str = ""
    wire: str = ""
    optional: bool = False
    features: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    inherited: tuple[str, ...] = ()
    since: str | None = None
    owner_since: str | None = None
    definition: str = ""
    place: str = ""

    @property
    def deprecated(self) -> bool:
        """Whether it, or what it is a piece of, is deprecated."""
        return "deprecated" in self.features or "deprecated" in self.inherited

    @property
    def unstable(self) -> bool:
        """Whether it, or what it is a piece of, is unstable."""
        return "unstable" in self.features or "unstable" in self.inherited

    @property
    def shape(self) -> str:
        """Type and optionality: ``[str]?``."""
        return self.type + ("?" if self.optional else "")


Memo = dict[int, dict[str, list[tuple[ObjectType, Member]]]]
"""The members of the object types of one schema, by name; kept by who asks of many elements."""


def find_element(schema: Schema, element: Element, memo: Memo | None = None) -> Form | None:
    """Return what a schema's build has under a name, None if it has nothing.

    Where branches have members of the same name, the first in the order of the schema counts.

    Args:
        schema: the schema.
        element: the name.
        memo: filled and used, so that many questions to one schema cost less.
    """
    memo = {} if memo is None else memo
    entity = schema.entities.get(element.owner)
    if entity is None or not schema.enabled(entity):
        return None
    doc = entity.doc
    form = Form(
        _entity_kind(entity),
        *_returned(schema, entity),
        features=_enabled(schema, entity.features),
        flags=_flags(entity),
        since=doc.since if doc else None,
        owner_since=doc.since if doc else None,
        definition=entity.name,
        place=_place(entity),
    )
    types = _types(entity, returned=element.result)
    for name in element.path:
        found = list(_find_members(schema, types, name, memo))
        if not found:
            return None
        form = _member_form(schema, entity, *found[0], form, returned=element.result)
        types = [member.type for _, member in found]
    if element.value:
        pair = next(iter(_find_values(schema, types, element.value)), None)
        if pair is None:
            return None
        form = _value_form(schema, *pair, form)
    if element.feature:
        return _feature_form(entity, element, form)
    return form


def _place(entity: Entity) -> str:
    return str(entity.info).splitlines()[-1].partition(": ")[0] if entity.info else ""


def _entity_kind(entity: Entity) -> str:
    return entity.meta if isinstance(entity, Command | Event) else "type"


def _returned(schema: Schema, entity: Entity) -> tuple[str, str]:
    if isinstance(entity, Command) and entity.ret_type is not None:
        return type_text(schema, entity.ret_type), wire_text(schema, entity.ret_type)
    return "", ""


def _flags(entity: Entity) -> tuple[str, ...]:
    if not isinstance(entity, Command):
        return ()
    flags = {"allow-oob": entity.allow_oob, "allow-preconfig": entity.allow_preconfig}
    return tuple(name for name, is_set in flags.items() if is_set)


def wire_text(schema: Schema, kind: Type, above: tuple[Type, ...] = ()) -> str:
    """Return a type as a client sees it: ``object``, ``[string]``, ``string or [string]``.

    What an alternate holds of itself, within a list, is ``value``; ``above`` is for that.
    """
    if isinstance(kind, ArrayType):
        return f"[{wire_text(schema, kind.element, above)}]"
    if isinstance(kind, AlternateType) and kind not in above:
        inner = {
            wire_text(schema, variant.type, (*above, kind))
            for variant in kind.variants
            if schema.enabled(variant)
        }
        return " or ".join(sorted(inner))
    return kind.json_type


def _enabled(schema: Schema, features: Sequence[Feature]) -> tuple[str, ...]:
    return tuple(feature.name for feature in features if schema.enabled(feature))


def _types(entity: Entity, *, returned: bool) -> list[Type]:
    """Return the type whose members an owner has, as a list of one or none."""
    if isinstance(entity, Command):
        kind = entity.ret_type if returned else entity.arg_type
        return [kind] if kind is not None else []
    if isinstance(entity, Event):
        return [entity.arg_type] if entity.arg_type is not None and not returned else []
    return [entity] if isinstance(entity, Type) and not returned else []


def inner_types(schema: Schema, kind: Type) -> Iterator[Type]:
    """Give the types that values have once lists and alternates are looked through, each once."""
    seen: set[int] = set()
    left = [kind]
    while left:
        kind = left.pop()
        if id(kind) in seen:
            continue
        seen.add(id(kind))
        if isinstance(kind, ArrayType):
            left.append(kind.element)
        elif isinstance(kind, AlternateType):
            left += [v.type for v in reversed(kind.variants) if schema.enabled(v)]
        else:
            yield kind


def object_members(schema: Schema, kind: ObjectType) -> Iterator[tuple[ObjectType, Member]]:
    """Give the members of an object, each with the type of the branch: base, own, branches."""
    for member in schema.members(kind):
        yield kind, member
    for variant in kind.variants:
        if schema.enabled(variant) and isinstance(variant.type, ObjectType):
            yield from object_members(schema, variant.type)


def _find_members(
    schema: Schema, types: Sequence[Type], name: str, memo: Memo
) -> Iterator[tuple[ObjectType, Member]]:
    for outer in types:
        for kind in inner_types(schema, outer):
            if isinstance(kind, ObjectType):
                named = memo.get(id(kind))
                if named is None:
                    named = memo[id(kind)] = {}
                    for holder, member in object_members(schema, kind):
                        named.setdefault(member.name, []).append((holder, member))
                yield from named.get(name, ())


def _find_values(
    schema: Schema, types: Sequence[Type], name: str
) -> Iterator[tuple[EnumType, EnumMember]]:
    for outer in types:
        for kind in inner_types(schema, outer):
            if isinstance(kind, EnumType):
                for value in kind.members:
                    if value.name == name and schema.enabled(value):
                        yield kind, value


def _member_form(
    schema: Schema,
    entity: Entity,
    holder: ObjectType,
    member: Member,
    outer: Form,
    *,
    returned: bool,
) -> Form:
    owner = schema.entities.get(owner_name(member.defined_in))
    section = owner.doc.members.get(member.name) if owner is not None and owner.doc else None
    if returned:
        kind = RESULT
    else:
        kind = {"command": "argument", "event": "data"}.get(entity.meta, "member")
    return Form(
        kind,
        type_text(schema, member.type),
        wire_text(schema, member.type),
        member.optional,
        _enabled(schema, member.features),
        inherited=_inherit(outer, _enabled(schema, holder.features)),
        since=section.since if section else None,
        owner_since=owner.doc.since if owner is not None and owner.doc else None,
        definition=owner_name(member.defined_in),
        place=_place(owner) if owner is not None else "",
    )


def _inherit(outer: Form, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    special = [name for name in outer.features if name in ("deprecated", "unstable")]
    special += [name for name in more if name in ("deprecated", "unstable")]
    return tuple(dict.fromkeys([*special, *outer.inherited]))


def _value_form(schema: Schema, kind: EnumType, value: EnumMember, outer: Form) -> Form:
    section = kind.doc.members.get(value.name) if kind.doc else None
    return Form(
        "value",
        features=_enabled(schema, value.features),
        inherited=_inherit(outer),
        since=section.since if section else None,
        owner_since=kind.doc.since if kind.doc else None,
        definition=kind.name,
        place=_place(kind),
    )


def _feature_form(entity: Entity, element: Element, of: Form) -> Form | None:
    if element.feature not in of.features:
        return None
    section = None
    if entity.doc and not element.path and not element.value:
        section = entity.doc.features.get(element.feature)
    return Form(
        "feature",
        inherited=of.inherited,
        since=section.since if section else None,
        owner_since=of.owner_since,
        definition=of.definition,
        place=of.place,
    )


def pieces(schema: Schema, owner: str) -> list[Element]:
    """Return the members, results or values directly below a command, an event or a type.

    They come in the order of the schema, arguments before results, each name once.
    """
    entity = schema.entities.get(owner)
    if entity is None or not schema.enabled(entity):
        return []
    if isinstance(entity, EnumType):
        return [Element(owner, value=v.name) for v in entity.members if schema.enabled(v)]
    found: dict[Element, None] = {}
    for returned in (False, True):
        for outer in _types(entity, returned=returned):
            for kind in inner_types(schema, outer):
                if isinstance(kind, ObjectType):
                    for _, member in object_members(schema, kind):
                        found[Element(owner, (member.name,), returned)] = None
    return list(found)
