"""A schema as it is on the wire: members flattened out of bases and branches, types by JSON kind.

What only the C code sees, names of types and how structs are composed, is kept as the path by
which a member is reached, and compared by nobody.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.qapi.model import AlternateType, BuiltinType, EnumType, ObjectType
from nbexport.qapi.source import QapiError
from nbexport.qapi.validate import ANY_INTEGER
from nbexport.review.finding import Place

if TYPE_CHECKING:
    from nbexport.qapi import Schema
    from nbexport.qapi.model import (
        ArrayType,
        Condition,
        Entity,
        EnumMember,
        Feature,
        Member,
        Type,
        Variant,
    )

Tags = tuple[tuple[str, str], ...]
"""Values of the tags that choose a case: ``(("driver", "qcow2"),)``."""

ANY = "any"
# Of nested unions each combination is a case. QEMU 10.0 has 49 at most; this many take some 10 MB.
MAX_CASES = 10_000
# The values that an integer type takes. QEMU takes negative numbers for a uint64, modulo 2**64;
# `size` is a uint64 in JSON.
_RANGES = {
    **{f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32)},
    "uint64": (-(1 << 63), (1 << 64) - 1),
    "int": (-(1 << 63), (1 << 63) - 1),
    "size": (-(1 << 63), (1 << 64) - 1),
}


@dataclass(slots=True, eq=False)
class Slot:
    """A member as a client meets it.

    Args:
        member: what the schema says of it.
        path: the types and bases on the way to its text: ``("NbdServerAddOptions", "base
            BlockExportOptionsNbd")``.
    """

    member: Member
    path: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Case:
    """An object for one choice of its tags.

    Args:
        tags: the choice; empty for an object without tag.
        slots: its members by name, those of bases and of the branch included.
    """

    tags: Tags
    slots: dict[str, Slot]


class Side:
    """One of the two schemas that are compared.

    Args:
        schema: the schema.
        conditional: whether pieces with a condition count whatever the build; if not, what the
            schema's symbols exclude is not there.
    """

    def __init__(self, schema: Schema, *, conditional: bool) -> None:
        self.schema = schema
        self.conditional = conditional
        self._cases: dict[int, list[Case]] = {}

    def has(self, part: Entity | Member | Variant | EnumMember | Feature) -> bool:
        """Whether a piece of the schema counts."""
        return self.conditional or self.schema.enabled(part)

    def cases(self, kind: ObjectType) -> list[Case]:
        """Return an object's members, once for each choice of its tags."""
        found = self._cases.get(id(kind))
        if found is None:
            found = self._cases[id(kind)] = self._flatten(kind)
        return found

    def _flatten(self, kind: ObjectType) -> list[Case]:
        common = {
            member.name: Slot(member, base_path(kind, member))
            for member in kind.members
            if self.has(member)
        }
        if kind.tag is None or not isinstance(kind.tag.type, EnumType):
            return [Case((), common)]
        values = {value.name for value in kind.tag.type.members if self.has(value)}
        title = () if kind.implicit else (kind.name,)
        found = []
        for variant in kind.variants:
            if variant.name not in values:
                continue
            choice = kind.tag.name, variant.name
            if not self.has(variant) or not isinstance(variant.type, ObjectType):
                found.append(Case((choice,), common))
                continue
            steps = (*title, f"{choice[0]}={choice[1]}")
            for case in self.cases(variant.type):
                slots = {
                    name: Slot(slot.member, (*steps, *slot.path))
                    for name, slot in case.slots.items()
                }
                found.append(Case((choice, *case.tags), common | slots))
                if len(found) > MAX_CASES:
                    raise QapiError(kind.info, f"{kind.describe()} has over {MAX_CASES} branches")
        return found or [Case((), common)]

    def features(self, part: Entity | Member | EnumMember) -> dict[str, Feature]:
        """Return the features of a piece by name."""
        return {feature.name: feature for feature in part.features if self.has(feature)}

    def values(self, kind: EnumType) -> dict[str, EnumMember]:
        """Return the values of an enumeration by name."""
        return {value.name: value for value in kind.members if self.has(value)}

    def choices(self, kind: Type) -> dict[str, Type]:
        """Return what a value can be, by kind of JSON value; integers are ``number`` too."""
        kinds = [kind]
        if isinstance(kind, AlternateType):
            kinds = [variant.type for variant in kind.variants if self.has(variant)]
        found = {}
        for choice in kinds:
            json_type = choice.json_type
            if json_type == "value":
                json_type = ANY
            found["number" if json_type == "int" else json_type] = choice
        return found

    def place(self, owner: str, line: int = 0) -> Place | None:
        """Return where something stands.

        Args:
            owner: the definition in whose text it is.
            line: its line; 0 for that on which the definition begins.
        """
        entity = self.schema.entities.get(owner)
        return None if entity is None else place_of(entity, line)


def place_of(entity: Entity, line: int = 0) -> Place | None:
    """Return where a definition begins, or another line of it; None if it is in no text."""
    info = entity.info
    if info is None:
        return None
    context = f"{info.meta} '{info.name}'" if info.meta else ""
    path = info.path
    if "/../" in path:
        path = posixpath.normpath(path)
    return Place(path, line or info.line, context)


def base_path(kind: ObjectType, member: Member) -> tuple[str, ...]:
    """Return the types between an object and the text that holds one of its members."""
    steps = [] if kind.implicit else [kind.name]
    at: ObjectType | None = kind
    while at is not None and at.name != member.defined_in:
        at = at.base
        if at is not None and not at.implicit:
            steps.append(f"base {at.name}")
    return tuple(steps)


# -- what a type takes --------------------------------------------------------------------------


def is_introspected(schema: Schema) -> bool:
    """Whether a schema was made from introspection, which has no conditions and widths."""
    return ANY_INTEGER in schema.entities


def compare_numbers(old: Type, new: Type) -> tuple[bool, bool]:
    """Return whether a numeric type takes values that the other does not: gained and lost."""
    was, now = _range(old), _range(new)
    if was is None and now is None:
        return False, False
    if was is None or now is None:
        # every integer is a number
        return was is not None, now is not None
    if ANY_INTEGER in {old.name, new.name}:
        return False, False
    return now[0] < was[0] or now[1] > was[1], now[0] > was[0] or now[1] < was[1]


def _range(kind: Type) -> tuple[int, int] | None:
    """Return the least and the greatest value; None for a type that takes fractions."""
    if kind.json_type == "number":
        return None
    return _RANGES.get(kind.name, (0, 0))


def compare_conditions(old: Condition, new: Condition) -> tuple[bool, bool]:
    """Return whether there are builds that have a piece now, and builds that had it before.

    Conditions of many symbols are only compared by their text, and differ both ways then.
    """
    if old.expression == new.expression:
        return False, False
    symbols = sorted(old.symbols() | new.symbols())
    if len(symbols) > _MAX_SYMBOLS:
        return True, True
    gained = lost = False
    for number in range(1 << len(symbols)):
        defined = {name for bit, name in enumerate(symbols) if number >> bit & 1}
        was, now = old.holds(defined), new.holds(defined)
        gained |= now and not was
        lost |= was and not now
    return gained, lost


# 2**10 builds take about a millisecond; QEMU's own conditions have 4 symbols at most.
_MAX_SYMBOLS = 10


def type_text(side: Side, kind: Type, *, inside: tuple[Type, ...] = ()) -> str:
    """Return a type in the notation of the language; short enumerations by their values.

    Args:
        side: the schema that it is of.
        kind: the type.
        inside: the alternates that it is part of; one that holds itself is shown by its name.
    """
    if isinstance(kind, AlternateType) and kind not in inside:
        choices = side.choices(kind).values()
        return " or ".join(type_text(side, one, inside=(*inside, kind)) for one in choices)
    if isinstance(kind, AlternateType):
        return kind.name
    if isinstance(kind, EnumType):
        values = list(side.values(kind))
        return "|".join(values) if len(values) <= _VALUES_SHOWN else kind.name
    if isinstance(kind, ObjectType):
        if kind is side.schema.empty:
            return "nothing"
        return "object" if kind.implicit else kind.name
    if isinstance(kind, BuiltinType):
        return "int" if kind.name == ANY_INTEGER else kind.name
    array: ArrayType = kind  # type: ignore[assignment]  # the only kind left
    return f"[{type_text(side, array.element, inside=inside)}]"


_VALUES_SHOWN = 4


def compositions(schema: Schema) -> dict[str, tuple[object, ...]]:
    """Return how the types that a text names are composed, by name."""
    return {
        kind.name: composition(kind)
        for kind in schema.types()
        if not kind.implicit and kind.info is not None
    }


def composition(kind: Type) -> tuple[object, ...]:
    """Return what a type's text says of its parts; the same for types that only changed names."""
    if isinstance(kind, ObjectType):
        members = [(part.name, part.type_name, part.optional) for part in kind.local_members]
        branches = [(branch.name, branch.type_name) for branch in kind.variants]
        return kind.base_name, kind.tag_name, tuple(members), tuple(branches)
    if isinstance(kind, EnumType):
        return tuple(value.name for value in kind.members)
    if isinstance(kind, AlternateType):
        return tuple((branch.name, branch.type_name) for branch in kind.variants)
    return (kind.name,)
