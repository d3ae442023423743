"""Two types compared, one step deep: what differs here, and which types to compare next."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbexport.qapi.model import AlternateType, ArrayType, EnumType, ObjectType
from nbexport.review.wire import (
    ANY,
    Case,
    Side,
    Slot,
    Tags,
    compare_conditions,
    compare_numbers,
    type_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.qapi.model import Condition, Entity, EnumMember, Feature, Member, Type, Variant

    Part = Entity | Member | EnumMember | Feature | Variant


class Kind(enum.StrEnum):
    """What is different."""

    COMMAND_ADDED = "command-added"
    COMMAND_REMOVED = "command-removed"
    EVENT_ADDED = "event-added"
    EVENT_REMOVED = "event-removed"
    MEMBER_ADDED = "member-added"
    MEMBER_REMOVED = "member-removed"
    BECAME_REQUIRED = "became-required"
    BECAME_OPTIONAL = "became-optional"
    TYPE_WIDENED = "type-widened"
    TYPE_NARROWED = "type-narrowed"
    TYPE_CHANGED = "type-changed"
    VALUE_ADDED = "value-added"
    VALUE_REMOVED = "value-removed"
    FEATURE_ADDED = "feature-added"
    FEATURE_REMOVED = "feature-removed"
    CONDITION_WIDENED = "condition-widened"
    CONDITION_NARROWED = "condition-narrowed"
    CONDITION_CHANGED = "condition-changed"
    FLAG_ADDED = "flag-added"
    FLAG_REMOVED = "flag-removed"


@dataclass(slots=True, eq=False)
class Local:
    """A difference inside a pair of types, or of a pair of commands or events.

    Args:
        kind: what is different.
        suffix: what it adds to the element: ``.bitmaps``, ``[type=nbd].bitmaps``, ``=fuse``.
        steps: what it adds to the path.
        owner: the definition that holds the text, of the new schema where it has it.
        name: the member, value, feature or flag.
        was: the form before, in words.
        now: the form now.
        old: the piece in the old schema.
        new: the piece in the new schema.
        old_place: definition and line in the old schema; ``None`` where there is none.
        new_place: the same in the new one.
    """

    kind: Kind
    suffix: str
    steps: tuple[str, ...]
    owner: str
    name: str
    was: str = ""
    now: str = ""
    old: Part | None = None
    new: Part | None = None
    old_place: tuple[str, int] | None = None
    new_place: tuple[str, int] | None = None


@dataclass(slots=True, eq=False)
class Edge:
    """The way from a pair of types to another one.

    Args:
        suffix: what it adds to the element.
        steps: what it adds to the path.
        old: the type in the old schema.
        new: the type in the new schema.
    """

    suffix: str
    steps: tuple[str, ...]
    old: Type
    new: Type


@dataclass(slots=True, eq=False)
class Compared:
    """What came of comparing a pair."""

    locals: list[Local] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)


@dataclass(slots=True)
class _Spot:
    """Where pieces that are compared stand: the element, the path, the text."""

    suffix: str
    steps: tuple[str, ...]
    name: str
    old: Part
    new: Part
    old_place: tuple[str, int]
    new_place: tuple[str, int]

    def local(self, kind: Kind, was: str = "", now: str = "") -> Local:
        return Local(
            kind,
            self.suffix,
            self.steps,
            self.new_place[0],
            self.name,
            was,
            now,
            self.old,
            self.new,
            self.old_place,
            self.new_place,
        )


class Comparer:
    """Compares pieces of two schemas.

    Args:
        old: the old schema.
        new: the new schema.
    """

    def __init__(self, old: Side, new: Side) -> None:
        self.old = old
        self.new = new
        self._conditional = old.conditional and new.conditional

    # -- types ------------------------------------------------------------------------------

    def types(self, old: Type, new: Type) -> Compared:
        """Compare two types that are both objects, both enumerations or both alternates."""
        result = Compared()
        self._features("", (), (old, old.name), (new, new.name), result)
        if isinstance(old, ObjectType) and isinstance(new, ObjectType):
            self._objects(old, new, result)
        elif isinstance(old, EnumType) and isinstance(new, EnumType):
            self._enums(old, new, result)
        return result

    def relate(
        self, old: Type, new: Type, suffix: str, steps: tuple[str, ...]
    ) -> tuple[Kind | None, list[Edge]]:
        """Compare what two types take.

        Returns:
            How the set of values changed, as far as it does not follow from the pairs of types
            that the edges lead to.
        """
        gained, lost, edges = self._relate(old, new, suffix, steps, ())
        if gained and lost:
            return Kind.TYPE_CHANGED, edges
        if gained:
            return Kind.TYPE_WIDENED, edges
        return Kind.TYPE_NARROWED if lost else None, edges

    def _relate(
        self,
        old: Type,
        new: Type,
        suffix: str,
        steps: tuple[str, ...],
        inside: tuple[tuple[Type, Type], ...],
    ) -> tuple[bool, bool, list[Edge]]:
        if (old, new) in inside:
            # an alternate with a list of itself
            return False, False, []
        inside = (*inside, (old, new))
        was, now = self.old.choices(old), self.new.choices(new)
        edges: list[Edge] = []
        if isinstance(old, AlternateType) and isinstance(new, AlternateType):
            edges.append(Edge(suffix, (*steps, new.name), old, new))
        if ANY in was or ANY in now:
            return ANY not in was, ANY not in now, edges
        gained, lost = bool(now.keys() - was.keys()), bool(was.keys() - now.keys())
        for json_type in was.keys() & now.keys():
            before, after = was[json_type], now[json_type]
            more = less = False
            if json_type == "string":
                more = isinstance(before, EnumType) and not isinstance(after, EnumType)
                less = isinstance(after, EnumType) and not isinstance(before, EnumType)
                if isinstance(before, EnumType) and isinstance(after, EnumType):
                    edges.append(Edge(suffix, (*steps, after.name), before, after))
            elif json_type == "number":
                more, less = compare_numbers(before, after)
            elif json_type == "object":
                # an object says its own name, and that of its base, in front of its members
                edges.append(Edge(suffix, steps, before, after))
            elif json_type == "array":
                assert isinstance(before, ArrayType)
                assert isinstance(after, ArrayType)
                more, less, below = self._relate(
                    before.element, after.element, f"{suffix}[]", steps, inside
                )
                edges += below
            gained |= more
            lost |= less
        return gained, lost, edges

    # -- objects ----------------------------------------------------------------------------

    def _objects(self, old: ObjectType, new: ObjectType, result: Compared) -> None:
        pairs = list(_matching(self.old.cases(old), self.new.cases(new)))
        # each pair of pieces once, with the cases that have it
        seen: dict[tuple[int, int], tuple[Slot | None, Slot | None, str, list[Tags]]] = {}
        for before, after in pairs:
            for name in {**before.slots, **after.slots}:
                was, now = before.slots.get(name), after.slots.get(name)
                key = id(was and was.member), id(now and now.member)
                entry = seen.setdefault(key, (was, now, name, []))
                entry[3].append(after.tags or before.tags)
        for was, now, name, cases in seen.values():
            branch = _branch(cases[0]) if len(cases) < len(pairs) else ""
            self._slots(was, now, name, branch, result)
        self._branch_conditions(old, new, result)

    def _slots(
        self, was: Slot | None, now: Slot | None, name: str, branch: str, result: Compared
    ) -> None:
        suffix = f"{branch}.{name}"
        slot = now or was
        assert slot is not None
        steps = (*slot.path, name)
        if was is None or now is None:
            side = self.new if was is None else self.old
            member = slot.member
            text = type_text(side, member.type) + (", optional" if member.optional else "")
            place = member.defined_in, member.line
            result.locals.append(
                Local(
                    Kind.MEMBER_ADDED if was is None else Kind.MEMBER_REMOVED,
                    suffix,
                    steps,
                    member.defined_in,
                    name,
                    "" if was is None else text,
                    text if was is None else "",
                    None if was is None else member,
                    member if was is None else None,
                    None if was is None else place,
                    place if was is None else None,
                )
            )
            return
        old, new = was.member, now.member
        spot = _Spot(
            suffix, steps, name, old, new, (old.defined_in, old.line), (new.defined_in, new.line)
        )
        if old.optional != new.optional:
            kind = Kind.BECAME_OPTIONAL if new.optional else Kind.BECAME_REQUIRED
            result.locals.append(spot.local(kind))
        self._member_features(spot, old, new, result)
        result.locals += self._conditions(spot, old.condition, new.condition)
        verdict, edges = self.relate(old.type, new.type, suffix, steps)
        result.edges += edges
        if verdict is not None:
            result.locals.append(
                spot.local(verdict, type_text(self.old, old.type), type_text(self.new, new.type))
            )

    def _branch_conditions(self, old: ObjectType, new: ObjectType, result: Compared) -> None:
        if old.tag_name is None or old.tag_name != new.tag_name:
            return
        was = {variant.name: variant for variant in old.variants}
        values = [
            {name: value.condition.expression for name, value in side.values(kind.tag.type).items()}
            for side, kind in ((self.old, old), (self.new, new))
            if kind.tag is not None and isinstance(kind.tag.type, EnumType)
        ]
        for variant in new.variants:
            before = was.get(variant.name)
            if before is None:
                continue
            both = [before.condition.expression, variant.condition.expression]
            if both == [conditions.get(variant.name) for conditions in values]:
                # the value's condition is the same, and says it
                continue
            tag = f"{new.tag_name}={variant.name}"
            spot = _Spot(
                f"[{tag}]",
                (() if new.implicit else (new.name,)) + (tag,),
                tag,
                before,
                variant,
                (before.defined_in or old.name, before.line),
                (variant.defined_in or new.name, variant.line),
            )
            result.locals += self._conditions(spot, before.condition, variant.condition)

    # -- enumerations -----------------------------------------------------------------------

    def _enums(self, old: EnumType, new: EnumType, result: Compared) -> None:
        was, now = self.old.values(old), self.new.values(new)
        for name in {**was, **now}:
            before, after = was.get(name), now.get(name)
            suffix, steps = f"={name}", (name,)
            if before is not None and after is not None:
                spot = _Spot(
                    suffix,
                    steps,
                    name,
                    before,
                    after,
                    (old.name, before.line),
                    (new.name, after.line),
                )
                self._member_features(spot, before, after, result)
                result.locals += self._conditions(spot, before.condition, after.condition)
            elif after is not None:
                result.locals.append(
                    Local(
                        Kind.VALUE_ADDED,
                        suffix,
                        steps,
                        new.name,
                        name,
                        new=after,
                        new_place=(new.name, after.line),
                    )
                )
            elif before is not None:
                result.locals.append(
                    Local(
                        Kind.VALUE_REMOVED,
                        suffix,
                        steps,
                        new.name,
                        name,
                        old=before,
                        old_place=(old.name, before.line),
                    )
                )

    # -- features and conditions --------------------------------------------------------------

    def entities(self, old: Entity, new: Entity) -> list[Local]:
        """Compare the features and conditions of two commands or events."""
        result = Compared()
        self._features("", (), (old, old.name), (new, new.name), result)
        spot = _Spot("", (), new.name, old, new, (old.name, 0), (new.name, 0))
        result.locals += self._conditions(spot, old.condition, new.condition)
        return result.locals

    def _features(
        self,
        suffix: str,
        steps: tuple[str, ...],
        old: tuple[Entity, str],
        new: tuple[Entity, str],
        result: Compared,
    ) -> None:
        spot = _Spot(suffix, steps, "", old[0], new[0], (old[1], 0), (new[1], 0))
        self._member_features(spot, old[0], new[0], result)

    def _member_features(
        self,
        spot: _Spot,
        old: Entity | Member | EnumMember,
        new: Entity | Member | EnumMember,
        result: Compared,
    ) -> None:
        was, now = self.old.features(old), self.new.features(new)
        for name in {**was, **now}:
            before, after = was.get(name), now.get(name)
            if before is not None and after is not None:
                here = _Spot(
                    spot.suffix,
                    (*spot.steps, f"feature {name}"),
                    f"feature {name}",
                    before,
                    after,
                    (spot.old_place[0], before.line),
                    (spot.new_place[0], after.line),
                )
                result.locals += self._conditions(here, before.condition, after.condition)
                continue
            found = spot.local(Kind.FEATURE_REMOVED if after is None else Kind.FEATURE_ADDED)
            found.name = name
            if after is not None:
                found.new_place = spot.new_place[0], after.line
            elif before is not None:
                found.old_place = spot.old_place[0], before.line
            result.locals.append(found)

    def _conditions(self, spot: _Spot, old: Condition, new: Condition) -> Iterator[Local]:
        if not self._conditional:
            return
        gained, lost = compare_conditions(old, new)
        if gained or lost:
            kind = Kind.CONDITION_WIDENED if gained else Kind.CONDITION_NARROWED
            if gained and lost:
                kind = Kind.CONDITION_CHANGED
            yield spot.local(kind, str(old) or "always", str(new) or "always")


def _branch(tags: Tags) -> str:
    return "".join(f"[{tag}={value}]" for tag, value in tags)


def _matching(old: list[Case], new: list[Case]) -> Iterator[tuple[Case, Case]]:
    """Give the pairs of cases that one value can be: no tag has two values."""
    by_tags = {case.tags: case for case in new}
    exact = set()
    for before in old:
        after = by_tags.get(before.tags)
        if after is not None:
            exact.add(before.tags)
            yield before, after
    # what is left: an object that has got a tag, or has lost it, or has a tag of another name
    left = [case for case in new if case.tags not in exact]
    for before in old:
        if before.tags in exact:
            continue
        chosen = dict(before.tags)
        for after in left:
            if all(chosen.get(tag, value) == value for tag, value in after.tags):
                yield before, after
