"""A schema after a removal: without a command, an event, an argument or a value."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.qapi.model import (
    AlternateType,
    ArrayType,
    Command,
    EnumType,
    Event,
    ObjectType,
    Type,
    Variant,
)
from nbexport.qapi.schema import Schema, load_schema

if TYPE_CHECKING:
    from collections.abc import Sequence


def load_without(schema: Schema, removed: Sequence[str]) -> Schema:
    """Return a schema, read anew, without what was removed from it.

    An argument is removed from the one command that is named, not from others that take the same
    type. Types that nothing else reaches disappear from the introspection by themselves.

    Args:
        schema: the schema; it stays as it is.
        removed: names: ``COMMAND``, ``EVENT``, ``COMMAND.MEMBER`` or a longer path through the
            members of the argument, whose last part may be the value of an enumeration, such as
            ``transaction.actions.type.drive-backup``.

    Raises:
        UsageError: the schema has nothing of that name; the text tells which.
    """
    made = load_schema(schema.root, symbols=schema.symbols)
    for name in removed:
        _remove(made, name)
    return made


def _remove(schema: Schema, name: str) -> None:
    head, *path = name.split(".")
    entity = schema.command(head) or schema.event(head)
    if entity is None:
        raise UsageError(f"'{head}' is no command or event of this release")
    if not path:
        del schema.entities[head]
        for entities in schema.modules.values():
            if entity in entities:
                entities.remove(entity)
        return
    changed = None if entity.arg_type is None else _without(entity.arg_type, path, name)
    if changed is None:
        what = "command" if isinstance(entity, Command) else "event"
        raise UsageError(f"{what} '{head}' has no '{'.'.join(path)}'")
    assert isinstance(entity, Command | Event)
    assert isinstance(changed, ObjectType)
    entity.arg_type = changed


def _without(kind: Type, path: Sequence[str], name: str) -> Type | None:
    """Return a copy of a type without what a path leads to; None if there is no such thing."""
    changed: Type | None = None
    if isinstance(kind, ArrayType):
        element = _without(kind.element, path, name)
        if element is not None:
            changed = _copy(kind, name)
            assert isinstance(changed, ArrayType)
            changed.element, changed.element_name = element, element.name
    elif isinstance(kind, EnumType):
        left = tuple(member for member in kind.members if member.name != path[0])
        if len(path) == 1 and len(left) < len(kind.members):
            changed = _copy(kind, name)
            assert isinstance(changed, EnumType)
            changed.members = left
    elif isinstance(kind, ObjectType):
        changed = _object_without(kind, path, name)
    elif isinstance(kind, AlternateType):
        found = [_without(variant.type, path, name) for variant in kind.variants]
        if any(found):
            changed = _copy(kind, name)
            assert isinstance(changed, AlternateType)
            changed.variants = _replaced(kind.variants, found)
    return changed


def _object_without(kind: ObjectType, path: Sequence[str], name: str) -> ObjectType | None:
    head, *rest = path
    members = []
    found = False
    for member in kind.members:
        if member.name != head:
            members.append(member)
            continue
        if rest:
            type_ = _without(member.type, rest, name)
            if type_ is None:
                return None
            changed = copy.copy(member)
            changed.type, changed.type_name = type_, type_.name
            members.append(changed)
        found = True
    variants = kind.variants
    if not found:
        # each branch that has it loses it
        branches = [_without(variant.type, path, name) for variant in kind.variants]
        if not any(branches):
            return None
        variants = _replaced(kind.variants, branches)
    made = _copy(kind, name)
    assert isinstance(made, ObjectType)
    made.members = made.local_members = tuple(members)
    made.base, made.base_name = None, None
    if kind.tag is not None:
        tags = [member for member in members if member.name == kind.tag.name]
        made.tag = tags[0] if tags else None
        values = _values(made.tag.type) if made.tag is not None else ()
        # a branch goes with the value that chooses it, all of them with the tag
        variants = tuple(variant for variant in variants if variant.name in values)
        if made.tag is None:
            made.tag_name = None
    made.variants = variants
    return made


def _values(kind: Type) -> frozenset[str]:
    assert isinstance(kind, EnumType)
    return frozenset(member.name for member in kind.members)


def _replaced(variants: tuple[Variant, ...], types: Sequence[Type | None]) -> tuple[Variant, ...]:
    made = []
    for variant, type_ in zip(variants, types, strict=True):
        if type_ is None:
            made.append(variant)
            continue
        changed = copy.copy(variant)
        changed.type = type_
        changed.type_name = type_.name
        made.append(changed)
    return tuple(made)


def _copy(kind: Type, name: str) -> Type:
    """Return a copy under a name that no other type has; only numbers show it."""
    made = copy.copy(kind)
    made.name = f"{kind.name}-without-{name}"
    return made
