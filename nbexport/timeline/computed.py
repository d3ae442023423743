"""When each piece of an interface came: computed from schemas, not read from their remarks.

Schemas are compared one after another along the wire: from commands and events, place by place,
old type beside new. A type that got another name, a member that moved to a base or out of it, or
inline arguments that became a type are where they were, and keep their date.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.qapi import known_releases, load_release, parse_release
from nbexport.qapi.findings import owner_name
from nbexport.qapi.model import (
    AlternateType,
    ArrayType,
    Command,
    EnumType,
    Event,
    ObjectType,
    Type,
)
from nbexport.timeline.elements import Element, inner_types, object_members

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nbexport.qapi import Schema
    from nbexport.qapi.model import Entity, EnumMember, Feature, Member

_WRAPPER = "-wrapper"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A schema at a point of its history.

    Attributes:
        name: what to call it: the release, else the source.
        schema: the schema.
        release: the release that it is the interface of, as numbers; None if nothing tells.
    """

    name: str
    schema: Schema
    release: tuple[int, ...] | None = None


def release_snapshots(first: str | None = None, last: str | None = None) -> list[Snapshot]:
    """Return the interfaces that travel with the package, oldest first.

    Args:
        first: the oldest release wanted, ``5.2`` or ``5.2.0``; None for the oldest there is.
        last: the newest one, included; None for the newest there is.

    Raises:
        UsageError: a text is no release, or none is in the range.
    """
    low = parse_release(first)[:2] if first is not None else (0, 0)
    high = parse_release(last)[:2] if last is not None else (10_000, 0)
    known = known_releases()
    found = [name for name in known if low <= parse_release(name) <= high]
    if not found:
        raise UsageError(
            f"no interface from {first or known[0]} to {last or known[-1]}: "
            f"known are {known[0]} to {known[-1]}"
        )
    return [Snapshot(name, load_release(name), parse_release(name)) for name in found]


@dataclass(frozen=True, slots=True)
class Since:
    """Between which two schemas something came.

    Attributes:
        first: the first schema that has it.
        before: the one before that, which has not; None where ``first`` is the oldest one: it is
            not newer than that.
    """

    first: Snapshot
    before: Snapshot | None

    @property
    def exact(self) -> bool:
        """Whether the schema before is known."""
        return self.before is not None

    def allows(self, release: str) -> bool | None:
        """Return whether a written release can be true; None where no release is known.

        Any release after ``before`` and up to ``first`` can be, a stable one of ``before`` too.
        """
        try:
            told = _full(parse_release(release))
        except UsageError:
            return False
        if self.first.release is None or (self.before and self.before.release is None):
            return None
        if told[:2] > self.first.release[:2]:
            return False
        return self.before is None or told > _full(self.before.release or ())

    def __str__(self) -> str:
        return self.first.name if self.exact else f"{self.first.name} or before"


def _full(release: tuple[int, ...]) -> tuple[int, ...]:
    return (*release, 0, 0, 0)[:3]


def computed_since(snapshots: Sequence[Snapshot]) -> dict[Element, Since]:
    """Return when each piece of the newest schema came.

    Pieces are the commands, events and types; the arguments of commands and the members of
    events, results and types, each under the definition whose text holds it (``Element(owner,
    (member,))``) and, for those of commands and events, also under these; values of enumerations;
    features. What several definitions share counts from the day on which the first had it.

    Args:
        snapshots: the schemas, oldest first.

    Raises:
        UsageError: there is no schema.
    """
    if not snapshots:
        raise UsageError("no schema to date anything by")
    dates = dict.fromkeys(_dated(snapshots[0].schema), 0)
    for index in range(1, len(snapshots)):
        dates = _Step(snapshots[index - 1].schema, snapshots[index].schema, dates, index).run()
    return {
        element: Since(snapshots[index], snapshots[index - 1] if index else None)
        for element, index in dates.items()
        if not element.owner.endswith(_WRAPPER)
    }


# -- the pieces of one schema -------------------------------------------------------------------


def everything(schema: Schema) -> Iterator[Element]:
    """Give the pieces of a schema that have a date, in its order; some twice."""
    for entity in schema.entities.values():
        if not _counts(schema, entity):
            continue
        owner = Element(entity.name)
        yield owner
        yield from _features(schema, owner, entity.features)
        if isinstance(entity, Command | Event):
            yield from _of_call(schema, entity)
        elif isinstance(entity, ObjectType):
            for member in entity.local_members:
                if schema.enabled(member):
                    yield from _of_member(schema, member)
            if entity.base is not None and entity.base.implicit:
                for member in schema.members(entity.base):
                    yield from _of_member(schema, member)
        elif isinstance(entity, EnumType):
            for value in entity.members:
                if schema.enabled(value):
                    yield from _of_value(schema, entity, value)


def _dated(schema: Schema) -> Iterator[Element]:
    """Give the pieces, and the members that unions of the old kind wrap their branches in."""
    yield from everything(schema)
    for name in schema.entities:
        if name.endswith(_WRAPPER):
            yield Element(name, ("data",))


def _counts(schema: Schema, entity: Entity) -> bool:
    """Return whether an entity is one that a schema's author wrote, in this build."""
    return entity.info is not None and schema.enabled(entity) and not _implicit(entity)


def _implicit(entity: Entity) -> bool:
    return isinstance(entity, ArrayType) or (isinstance(entity, ObjectType) and entity.implicit)


def _features(schema: Schema, of: Element, features: Sequence[Feature]) -> Iterator[Element]:
    for feature in features:
        if schema.enabled(feature):
            yield Element(of.owner, of.path, of.result, of.value, feature.name)


def _key(member: Member) -> Element:
    owner = member.defined_in
    return Element(owner if owner.endswith(_WRAPPER) else owner_name(owner), (member.name,))


def _of_member(schema: Schema, member: Member) -> Iterator[Element]:
    if not member.defined_in.endswith(_WRAPPER):
        yield _key(member)
        yield from _features(schema, _key(member), member.features)


def _of_value(schema: Schema, kind: EnumType, value: EnumMember) -> Iterator[Element]:
    element = Element(kind.name, value=value.name)
    yield element
    yield from _features(schema, element, value.features)


def _of_call(schema: Schema, call: Command | Event) -> Iterator[Element]:
    """Give the members that a command or event has on the wire, wherever they are written."""
    for returned, outer in ((False, call.arg_type), (True, _returned(call))):
        for kind in inner_types(schema, outer) if outer is not None else ():
            if isinstance(kind, ObjectType):
                for _, member in object_members(schema, kind):
                    element = Element(call.name, (member.name,), returned)
                    yield element
                    yield from _features(schema, element, member.features)


def _returned(call: Entity) -> Type | None:
    return call.ret_type if isinstance(call, Command) else None


# -- from one schema to the next ----------------------------------------------------------------


class _Step:
    """Carries dates from one schema to the next.

    Args:
        old: the schema whose pieces have dates.
        new: the next one.
        dates: number of the schema that first had it, for each piece of the old one.
        index: number of the new one, the date of what is new.
    """

    def __init__(self, old: Schema, new: Schema, dates: dict[Element, int], index: int) -> None:
        self._old = old
        self._new = new
        self._dates = dates
        self._found: dict[Element, int] = {}
        self._index = index
        self._seen: set[tuple[int, int]] = set()
        self._open: list[tuple[Type | None, Type | None]] = []

    def run(self) -> dict[Element, int]:
        """Return the dates of the new schema's pieces."""
        for name, entity in self._new.entities.items():
            earlier = self._old.entities.get(name)
            if earlier is None or not self._old.enabled(earlier):
                continue
            if isinstance(entity, Command | Event) and type(entity) is type(earlier):
                self._call(earlier, entity)
            elif isinstance(entity, Type) and isinstance(earlier, Type):
                self._open.append((earlier, entity))
        while self._open:
            self._pair(*self._open.pop())
        return {element: self._found.get(element, self._index) for element in _dated(self._new)}

    def _carry(self, old: Element, new: Element) -> None:
        date = self._dates.get(old)
        if date is not None:
            self._found[new] = min(self._found.get(new, date), date)

    def _carry_all(self, old: Element, new: Element, features: Sequence[Feature]) -> None:
        self._carry(old, new)
        for feature in features:
            self._carry(
                Element(old.owner, old.path, old.result, old.value, feature.name),
                Element(new.owner, new.path, new.result, new.value, feature.name),
            )

    def _call(self, old: Command | Event, new: Command | Event) -> None:
        name = Element(new.name)
        self._carry_all(name, name, new.features)
        for element in _of_call(self._new, new):
            self._carry(element, element)
        self._open.append((old.arg_type, new.arg_type))
        self._open.append((_returned(old), _returned(new)))

    def _pair(self, old: Type | None, new: Type | None) -> None:
        """Compare two types that stand at the same place of the wire."""
        if old is None or new is None or (id(old), id(new)) in self._seen:
            return
        self._seen.add((id(old), id(new)))
        if type(old) is type(new) and not _implicit(old) and not _implicit(new):
            self._carry_all(Element(old.name), Element(new.name), new.features)
        elif isinstance(old, ObjectType) and old.implicit and not _implicit(new):
            # inline arguments that became a type: it counts from the call's day
            self._carry(Element(owner_name(old.name)), Element(new.name))
        if isinstance(old, ObjectType) and isinstance(new, ObjectType):
            self._objects(old, new)
        elif isinstance(old, EnumType) and isinstance(new, EnumType):
            self._enums(old, new)
        elif isinstance(old, ArrayType) and isinstance(new, ArrayType):
            self._open.append((old.element, new.element))
        elif isinstance(old, ArrayType | AlternateType) or isinstance(
            new, ArrayType | AlternateType
        ):
            # a scalar that became a list or one of several choices still holds what it held
            for inner in inner_types(self._new, new):
                for other in inner_types(self._old, old):
                    if inner.json_type == other.json_type:
                        self._open.append((other, inner))

    def _enums(self, old: EnumType, new: EnumType) -> None:
        for value in new.members:
            self._carry_all(
                Element(old.name, value=value.name),
                Element(new.name, value=value.name),
                value.features,
            )

    def _objects(self, old: ObjectType, new: ObjectType) -> None:
        common = {member.name: member for member in self._old.members(old)}
        branches = {v.name: v.type for v in old.variants if self._old.enabled(v)}
        for member in self._new.members(new):
            self._member(common.get(member.name), member)
        if new.base is not None and not new.base.implicit:
            # A base is never at a place of its own; what it holds was with the old type.
            self._carry(self._definition(old), Element(new.base.name))
        for variant in new.variants:
            if self._new.enabled(variant) and isinstance(variant.type, ObjectType):
                earlier = branches.get(variant.name)
                if earlier is not None:
                    self._open.append((earlier, variant.type))
                for _, member in object_members(self._new, variant.type):
                    self._member(common.get(member.name), member)
        # a member of a branch may have moved up to all of them
        for kind in branches.values():
            if isinstance(kind, ObjectType):
                inside = {member.name: member for member in self._old.members(kind)}
                for member in self._new.members(new):
                    self._member(inside.get(member.name), member)

    @staticmethod
    def _definition(kind: ObjectType) -> Element:
        return Element(owner_name(kind.name))

    def _member(self, old: Member | None, new: Member) -> None:
        if old is None:
            return
        self._carry_all(_key(old), _key(new), new.features)
        self._open.append((old.type, new.type))
