"""An element of the wire, found in another schema by its name alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nbexport.qapi.model import ArrayType, Command, EnumType, Event, ObjectType

if TYPE_CHECKING:
    from nbexport.qapi.model import Entity, EnumMember, Member, Type
    from nbexport.review.wire import Side

_STEP = re.compile(r"\[\]|\[([^=\]]+)=([^\]]*)\]|\.([^.\[=]+)|=(.*)")


def find(side: Side, element: str) -> Entity | Member | EnumMember | None:
    """Return the piece of a schema that an element names.

    Args:
        side: the schema.
        element: as in `Reach`: ``nbd-server-add.bitmap``, ``block-export-add[type=nbd].bitmaps``,
            ``query-block-exports.returns[].id``, ``block-export-add.type=fuse``. Where the schema
            has no such branch, or no list, the member is looked for without it.

    Returns:
        The command, event, member or value; None if the schema has nothing like it.
    """
    match = re.match(r"[^.\[=]+", element)
    entity = side.schema.entities.get(match.group()) if match else None
    if match is None or not isinstance(entity, Command | Event) or not side.has(entity):
        return None
    rest = element[match.end() :]
    if not rest:
        return entity
    kind: Type | None = entity.arg_type
    if isinstance(entity, Command) and re.match(r"\.returns(?![^.\[=])", rest):
        kind, rest = entity.ret_type, rest.removeprefix(".returns")
    found: Entity | Member | EnumMember | None = entity
    tags: dict[str, str] = {}
    position = 0
    while position < len(rest):
        step = _STEP.match(rest, position)
        if step is None or kind is None:
            return None
        position = step.end()
        tag, branch, name, value = step.groups()
        if tag is not None:
            tags[tag] = branch
        elif name is not None:
            member = _member(side, kind, name, tags)
            if member is None:
                return None
            found, kind, tags = member, member.type, {}
        elif value is not None:
            enumeration = _choice(side, kind, EnumType)
            if not isinstance(enumeration, EnumType):
                return None
            return side.values(enumeration).get(value)
    return found


def _choice(side: Side, kind: Type, wanted: type[Type]) -> Type | None:
    """Return what of a type is of a kind: itself, what an array holds, a choice of an alternate."""
    for choice in side.choices(kind).values():
        while isinstance(choice, ArrayType):
            choice = choice.element
        inner = [choice, *side.choices(choice).values()]
        for candidate in inner:
            if isinstance(candidate, wanted):
                return candidate
    return None


def _member(side: Side, kind: Type, name: str, tags: dict[str, str]) -> Member | None:
    owner = _choice(side, kind, ObjectType)
    if not isinstance(owner, ObjectType):
        return None
    for case in side.cases(owner):
        if name in case.slots and all(tags.get(tag, value) == value for tag, value in case.tags):
            return case.slots[name].member
    return None
