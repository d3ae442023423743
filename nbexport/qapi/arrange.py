"""Members of a value put into the order of its type, the order in which QEMU makes them.

QEMU prints an object's members by a hash; two that share a bucket come out newest first, so the
order of making is visible (``micro`` before ``minor`` in every greeting).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport.qapi.model import AlternateType, ArrayType, ObjectType, Type
from nbexport.qapi.validate import qtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbexport.qapi.model import Member
    from nbexport.qapi.schema import Schema


def arrange(
    schema: Schema,
    kind: Type | None,
    value: Any,
    *,
    prune: bool = False,
    hides: Callable[[Member], bool] | None = None,
) -> Any:
    """Return a copy of a value whose objects have their members in the order of the schema.

    Values that do not fit the type are left as they are. Nesting is bounded by memory only.

    Args:
        schema: the schema.
        kind: the type; None is the type without members.
        value: a JSON value.
        prune: leave out members that an object's type does not have; else they follow the others.
        hides: says of a member of the type whether it is left out, too.
    """
    result: list[Any] = [None]
    # what is still to be copied: its type if known, the value, where it goes
    work: list[tuple[Type | None, Any, Any, Any]] = [(kind or schema.empty, value, result, 0)]
    while work:
        kind, value, target, key = work.pop()
        if isinstance(kind, AlternateType):
            kind = _chosen(kind, value)
        if isinstance(value, dict):
            members = _members(kind, value) if isinstance(kind, ObjectType) else {}
            types = {name: member.type for name, member in members.items()}
            names = [name for name in types if name in value]
            if hides is not None:
                names = [name for name in names if not hides(members[name])]
            if not (prune and isinstance(kind, ObjectType)):
                names += [name for name in value if name not in types]
            copy: dict[str, Any] = dict.fromkeys(names)
            target[key] = copy
            work += [(types.get(name), value[name], copy, name) for name in names]
        elif isinstance(value, list | tuple):
            element = kind.element if isinstance(kind, ArrayType) else None
            items: list[Any] = [None] * len(value)
            target[key] = items
            work += [(element, item, items, index) for index, item in enumerate(value)]
        else:
            target[key] = value
    return result[0]


def _members(kind: ObjectType, value: dict[str, Any]) -> dict[str, Member]:
    """Return the members that an object can have, in order."""
    members = list(kind.members)
    branch: ObjectType | None = kind
    while branch is not None and branch.tag is not None:
        # a branch can be a union again
        branch = branch.branch(value.get(branch.tag.name, ""))
        if branch is not None:
            members += branch.members
    return {member.name: member for member in members}


def _chosen(kind: AlternateType, value: Any) -> Type | None:
    """Return the type that an alternate has for a value."""
    wanted = qtype(value)
    for variant in kind.variants:
        json_type = variant.type.json_type
        if (json_type if json_type != "int" else "number") == wanted:
            return variant.type
    return None
