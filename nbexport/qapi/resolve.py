"""Names to entities, and the rules that need them: clashes, bases, tags, branches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.qapi.model import (
    SPECIAL_FEATURES,
    AlternateType,
    ArrayType,
    Command,
    Entity,
    EnumType,
    Event,
    Feature,
    Member,
    ObjectType,
    Type,
    Variant,
)
from nbexport.qapi.names import c_name
from nbexport.qapi.source import QapiError, SourceInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nbexport.qapi.docs import Doc
    from nbexport.qapi.schema import Schema

# QEMU's deepest chain of bases and branches has 4 types; its front end gives up at 1000 frames.
MAX_CONTAINMENT = 1000
# Members of all objects, those of their bases included each time. QEMU's schema has some 10,000;
# each takes 2 us, so that a schema made to be slow ends within seconds.
MAX_MEMBERS = 4_000_000
# Distinct features of a schema: they are bits of a 64-bit number, of which two are given away.
MAX_FEATURES = 64


@dataclass(frozen=True, slots=True)
class _Named:
    """Something whose C name can clash: its role, name and owner."""

    role: str
    name: str
    owner: str

    def describe(self, info: SourceInfo) -> str:
        role = self.role
        if self.owner.startswith("q_obj_"):
            if not self.owner.endswith("-wrapper"):
                role = "parameter" if self.owner.endswith("-arg") else f"base {role}"
        elif self.owner != info.name:
            return f"{role} '{self.name}' of type '{self.owner}'"
        return f"{role} '{self.name}'"


class Resolver:
    """Resolves and checks every entity of a schema, in the order of definition."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rules = schema.rules
        self._done: set[str] = set()
        self._depth: dict[str, int] = {}
        self._members = 0

    def run(self) -> None:
        """Resolve everything.

        Raises:
            QapiError: an unknown name, or a rule broken.
        """
        entities = list(self._schema.entities.values())
        # Since 9.0 what is documented in vain is told after everything else.
        late = self._rules.since(9, 0)
        for entity in entities:
            self._entity(entity)
            if entity.doc is not None:
                self._documented(entity, entity.doc)
                if not late:
                    self._phantoms(entity, entity.doc)
        if late:
            for entity in entities:
                if entity.doc is not None:
                    self._phantoms(entity, entity.doc)
        if self._rules.since(10, 0):
            self._count_features(entities)

    def _lookup(self, name: str, info: SourceInfo | None, what: str) -> Type:
        found = self._schema.find_type(name)
        if found is None:
            raise QapiError(info, f"{what} uses unknown type '{name}'")
        return found

    def _clash(self, seen: dict[str, _Named], new: _Named, info: SourceInfo) -> None:
        key = c_name(new.name)
        if key in seen:
            raise QapiError(info, f"{new.describe(info)} collides with {seen[key].describe(info)}")
        seen[key] = new

    def _features(self, features: Sequence[Feature], owner: str, info: SourceInfo | None) -> None:
        seen: dict[str, _Named] = {}
        for feature in features:
            assert info is not None
            self._clash(seen, _Named("feature", feature.name, owner), info)

    def _entity(self, entity: Entity) -> None:
        info = entity.info
        if isinstance(entity, ObjectType):
            self._objects(entity)
            return
        self._features(entity.features, entity.name, info)
        if isinstance(entity, Type):
            self._no_special_features(entity)
        if isinstance(entity, EnumType):
            self._enum(entity)
        elif isinstance(entity, ArrayType):
            what = info.meta if info is not None and info.meta else "array"
            entity.element = self._lookup(entity.element_name, info, what)
        elif isinstance(entity, AlternateType):
            self._alternate(entity)
        elif isinstance(entity, Command | Event):
            self._call(entity)

    def _no_special_features(self, entity: Type) -> None:
        for feature in entity.features:
            if feature.name in ("deprecated", "unstable" if self._rules.since(6, 2) else ""):
                raise QapiError(entity.info, f"feature '{feature.name}' is not supported for types")

    def _enum(self, entity: EnumType) -> None:
        if entity.info is None:
            return
        seen: dict[str, _Named] = {}
        for member in entity.members:
            # That a value has a feature twice is no error to QEMU either.
            self._clash(seen, _Named("value", member.name, entity.name), entity.info)

    def _objects(self, entity: ObjectType) -> None:
        """Resolve an object, before it those that it contains: base and branches."""
        # A stack of its own: how deep they are must not depend on the order of the text.
        if entity.name in self._done:
            return
        stack = [(entity, self._object(entity))]
        is_open = {entity.name}
        while stack:
            current, steps = stack[-1]
            needed = next(steps, None)
            if needed is None:
                self._done.add(current.name)
                is_open.discard(current.name)
                stack.pop()
            elif needed.name in is_open:
                raise QapiError(needed.info, f"object {needed.name} contains itself")
            elif needed.name not in self._done:
                is_open.add(needed.name)
                stack.append((needed, self._object(needed)))

    def _object(self, entity: ObjectType) -> Iterator[ObjectType]:
        """Resolve one object; yield each other one that must be resolved before it goes on."""
        info = entity.info
        self._features(entity.features, entity.name, info)
        self._no_special_features(entity)
        seen: dict[str, _Named] = {}
        inherited: tuple[Member, ...] = ()
        if entity.base_name:
            assert info is not None
            base = self._lookup(entity.base_name, info, "'base'")
            if not isinstance(base, ObjectType) or base.is_union:
                raise QapiError(info, f"'base' requires a struct type, {base.describe()} isn't")
            yield base
            self._deeper(entity, base)
            entity.base = base
            inherited = base.members
            self._clash_members(base, seen, info)
        for member in entity.local_members:
            assert info is not None
            named = _Named("member", member.name, member.defined_in)
            member.type = self._lookup(member.type_name, info, named.describe(info))
            self._features(member.features, member.name, info)
            self._clash(seen, named, info)
        entity.members = inherited + entity.local_members
        self._count_members(entity, len(entity.members))
        if entity.is_union:
            yield from self._union(entity, seen)
        elif entity.name.endswith("-wrapper"):
            # it is there when what it wraps is
            entity.condition = entity.local_members[0].type.condition

    def _count_members(self, entity: ObjectType, more: int) -> None:
        self._members += more
        if self._members > MAX_MEMBERS:
            raise QapiError(entity.info, f"objects have more than {MAX_MEMBERS} members in all")

    def _deeper(self, entity: ObjectType, inner: ObjectType) -> None:
        """Note that an object contains another one."""
        depth = max(self._depth.get(entity.name, 0), self._depth.get(inner.name, 0) + 1)
        if depth >= MAX_CONTAINMENT:
            raise QapiError(entity.info, f"objects are deeper than {MAX_CONTAINMENT}")
        self._depth[entity.name] = depth

    def _clash_members(self, entity: ObjectType, seen: dict[str, _Named], info: SourceInfo) -> None:
        for member in entity.members:
            self._clash(seen, _Named("member", member.name, member.defined_in), info)
        if entity.is_union:
            for variant in entity.variants:
                assert isinstance(variant.type, ObjectType)
                self._clash_members(variant.type, dict(seen), info)

    def _union(self, entity: ObjectType, seen: dict[str, _Named]) -> Iterator[ObjectType]:
        info = entity.info
        assert info is not None
        tag = next((m for m in entity.members if m.name == entity.tag_name), None)
        if tag is None:
            raise QapiError(info, f"discriminator '{entity.tag_name}' is not a member of 'base'")
        explicit = tag.defined_in and not tag.defined_in.startswith("q_")
        base = f"base type '{tag.defined_in}'" if explicit else "'base'"
        what = f"discriminator member '{tag.name}' of {base} must"
        if not isinstance(tag.type, EnumType):
            raise QapiError(info, f"{what} be of enum type")
        if tag.optional:
            raise QapiError(info, f"{what} not be optional")
        if tag.condition:
            raise QapiError(info, f"{what} not be conditional")
        entity.tag = tag
        given = {variant.name for variant in entity.variants}
        # a value without a branch of its own adds no members
        entity.variants += tuple(
            Variant(member.name, self._schema.empty.name, member.condition, tag.defined_in)
            for member in tag.type.members
            if member.name not in given
        )
        if not entity.variants:
            raise QapiError(info, "union has no branches")
        values = {member.name for member in tag.type.members}
        for variant in entity.variants:
            named = _Named("branch", variant.name, variant.defined_in)
            variant.type = self._lookup(variant.type_name, info, named.describe(info))
            if variant.name not in values:
                raise QapiError(
                    info, f"branch '{variant.name}' is not a value of {tag.type.describe()}"
                )
            nested = isinstance(variant.type, ObjectType) and variant.type.is_union
            if not isinstance(variant.type, ObjectType) or (nested and not self._rules.since(8, 1)):
                raise QapiError(
                    info, f"{named.describe(info)} cannot use {variant.type.describe()}"
                )
            yield variant.type
            self._deeper(entity, variant.type)
            self._count_members(entity, len(variant.type.members))
        for variant in entity.variants:
            assert isinstance(variant.type, ObjectType)
            self._clash_members(variant.type, dict(seen), info)

    def _alternate(self, entity: AlternateType) -> None:
        info = entity.info
        assert info is not None
        seen: dict[str, _Named] = {}
        kinds: dict[str, str] = {}
        for variant in entity.variants:
            named = _Named("branch", variant.name, entity.name)
            variant.type = self._lookup(variant.type_name, info, named.describe(info))
        for variant in entity.variants:
            named = _Named("branch", variant.name, entity.name)
            self._clash(seen, named, info)
            kind = variant.type.json_type
            if kind == "value":
                raise QapiError(
                    info, f"{named.describe(info)} cannot use {variant.type.describe()}"
                )
            for conflict in sorted(_conflicts(variant.type)):
                if conflict in kinds:
                    raise QapiError(
                        info,
                        f"{named.describe(info)} can't be distinguished from '{kinds[conflict]}'",
                    )
                kinds[conflict] = variant.name

    def _call(self, entity: Command | Event) -> None:
        info = entity.info
        assert info is not None
        if entity.arg_name is not None:
            what = f"{entity.meta}'s 'data'"
            arg = self._lookup(entity.arg_name, info, what)
            if not isinstance(arg, ObjectType):
                raise QapiError(info, f"{what} cannot take {arg.describe()}")
            if arg.is_union and not entity.boxed:
                raise QapiError(info, f"{what} can take {arg.describe()} only with 'boxed': true")
            entity.arg_type = arg
            if self._rules.since(8, 1):
                self._objects(arg)
                if not entity.boxed and any(member.condition for member in arg.members):
                    raise QapiError(
                        info, f"conditional {entity.meta} arguments require 'boxed': true"
                    )
        if isinstance(entity, Command) and entity.ret_name is not None:
            ret = self._lookup(entity.ret_name, info, "command's 'returns'")
            entity.ret_type = ret
            if entity.name not in info.pragmas.command_returns_exceptions:
                core: Type | None = ret
                if isinstance(ret, ArrayType):
                    core = self._schema.find_type(ret.element_name)
                if not isinstance(core, ObjectType):
                    raise QapiError(info, f"command's 'returns' cannot take {ret.describe()}")

    # -- documentation ----------------------------------------------------------------------

    def _parts(self, entity: Entity) -> tuple[list[tuple[str, str]], list[Feature]]:
        """Return what belongs in a definition's comment: roles and names, and features."""
        features: list[Feature] = list(entity.features)
        parts: list[tuple[str, str]] = []
        objects: list[ObjectType] = []
        if isinstance(entity, EnumType):
            parts = [("value", member.name) for member in entity.members]
            features += [feature for member in entity.members for feature in member.features]
        elif isinstance(entity, AlternateType):
            parts = [("branch", variant.name) for variant in entity.variants]
        elif isinstance(entity, ObjectType):
            if entity.base is not None and entity.base.implicit:
                objects.append(entity.base)
            objects.append(entity)
        elif isinstance(entity, Command | Event):
            arg = self._schema.find_type(entity.arg_name) if entity.arg_name else None
            if isinstance(arg, ObjectType) and arg.implicit:
                objects.append(arg)
        for kind in objects:
            parts += [("member", member.name) for member in kind.local_members]
            features += [feature for member in kind.local_members for feature in member.features]
        return parts, features

    def _documented(self, entity: Entity, doc: Doc) -> None:
        """Check that the comment tells what it must."""
        info = entity.info
        assert info is not None
        parts, features = self._parts(entity)
        excepted = entity.name in info.pragmas.documentation_exceptions
        if self._rules.since(9, 0) and not excepted:
            for role, name in parts:
                if name not in doc.members:
                    raise QapiError(info, f"{role} '{name}' lacks documentation")
        for feature in features:
            if feature.name not in doc.features:
                raise QapiError(info, f"feature '{feature.name}' lacks documentation")

    def _phantoms(self, entity: Entity, doc: Doc) -> None:
        """Check that what the comment tells of exists."""
        parts, features = self._parts(entity)
        if isinstance(entity, Command | Event) and not parts and not self._rules.since(4, 2):
            # the check belonged to the type of the arguments, if there was one
            return
        for what, documented, existing in (
            ("member", doc.members, {name for _, name in parts}),
            ("feature", doc.features, {feature.name for feature in features}),
        ):
            bogus = [name for name in documented if name not in existing]
            if bogus:
                plural, verb = ("s", "do") if len(bogus) > 1 else ("", "does")
                listed = "', '".join(bogus)
                info = documented[bogus[0]].info if self._rules.since(9, 0) else doc.info
                raise QapiError(info, f"documented {what}{plural} '{listed}' {verb} not exist")

    def _count_features(self, entities: list[Entity]) -> None:
        names = dict.fromkeys(SPECIAL_FEATURES)
        for entity in entities:
            for feature in self._parts(entity)[1]:
                names.setdefault(feature.name)
                if len(names) > MAX_FEATURES:
                    raise QapiError(
                        entity.info, f"a schema may have {MAX_FEATURES} different features"
                    )


def _conflicts(kind: Type) -> set[str]:
    """Return the JSON kinds that could be meant by a value written for a type.

    Command lines give every scalar as a string, so a string branch excludes numbers and booleans
    unless it is an enumeration whose values do not look like them.
    """
    json_type = "number" if kind.json_type == "int" else kind.json_type
    found = {json_type}
    if json_type == "string":
        if isinstance(kind, EnumType):
            if any(member.name in ("on", "off") for member in kind.members):
                found.add("boolean")
            if any(re.match(r"[-+0-9.]", member.name) for member in kind.members):
                found.add("number")
        else:
            found |= {"number", "boolean"}
    return found
