"""Names to entities, and the rules that need them: clashes, bases, tags, branches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.qapi.model import (
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
    from collections.abc import Sequence

    from nbexport.qapi.docs import Doc
    from nbexport.qapi.schema import Schema

# QEMU's deepest chain of bases and branches has 4 types; each costs two Python frames.
MAX_CONTAINMENT = 100


@dataclass(frozen=True, slots=True)
class _Named:
    """Something whose C name can clash: its role, name and owner."""

    role: str
    name: str
    owner: str

    def describe(self, info: SourceInfo) -> str:
        role = self.role
        if self.owner.startswith("q_obj_"):
            role = "parameter" if self.owner.endswith("-arg") else f"base {role}"
        elif self.owner != info.name:
            return f"{role} '{self.name}' of type '{self.owner}'"
        return f"{role} '{self.name}'"


class Resolver:
    """Resolves and checks every entity of a schema, in the order of definition."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._done: set[str] = set()
        self._open: list[str] = []

    def run(self) -> None:
        """Resolve everything.

        Raises:
            QapiError: an unknown name, or a rule broken.
        """
        for entity in list(self._schema.entities.values()):
            self._entity(entity)
            if entity.doc is not None:
                self._documentation(entity, entity.doc)

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
            self._object(entity)
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
            if feature.special:
                raise QapiError(entity.info, f"feature '{feature.name}' is not supported for types")

    def _enum(self, entity: EnumType) -> None:
        if entity.info is None:
            return
        seen: dict[str, _Named] = {}
        for member in entity.members:
            self._clash(seen, _Named("value", member.name, entity.name), entity.info)
            self._features(member.features, member.name, entity.info)

    def _object(self, entity: ObjectType) -> None:
        if entity.name in self._done:
            return
        info = entity.info
        if entity.name in self._open:
            raise QapiError(info, f"object {entity.name} contains itself")
        if len(self._open) >= MAX_CONTAINMENT:
            raise QapiError(info, f"objects are nested deeper than {MAX_CONTAINMENT}")
        self._open.append(entity.name)
        self._features(entity.features, entity.name, info)
        self._no_special_features(entity)
        seen: dict[str, _Named] = {}
        inherited: tuple[Member, ...] = ()
        if entity.base_name is not None:
            assert info is not None
            base = self._lookup(entity.base_name, info, "'base'")
            if not isinstance(base, ObjectType) or base.is_union:
                raise QapiError(info, f"'base' requires a struct type, {base.describe()} isn't")
            self._object(base)
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
        if entity.is_union:
            assert info is not None
            self._union(entity, seen, info)
        self._open.pop()
        self._done.add(entity.name)

    def _clash_members(self, entity: ObjectType, seen: dict[str, _Named], info: SourceInfo) -> None:
        for member in entity.members:
            self._clash(seen, _Named("member", member.name, member.defined_in), info)

    def _union(self, entity: ObjectType, seen: dict[str, _Named], info: SourceInfo) -> None:
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
            if not isinstance(variant.type, ObjectType) or variant.type.is_union:
                raise QapiError(
                    info, f"{named.describe(info)} cannot use {variant.type.describe()}"
                )
            self._object(variant.type)
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

    def _documentation(self, entity: Entity, doc: Doc) -> None:
        """Check that what is documented exists, and that every feature is documented."""
        members: set[str] = set()
        features: list[Feature] = list(entity.features)
        if isinstance(entity, EnumType):
            members.update(member.name for member in entity.members)
            features += [feature for member in entity.members for feature in member.features]
        elif isinstance(entity, AlternateType):
            members.update(variant.name for variant in entity.variants)
        elif isinstance(entity, ObjectType):
            self._documented(entity, members, features)
        elif isinstance(entity, Command | Event) and entity.arg_name is not None:
            arg = self._schema.find_type(entity.arg_name)
            if isinstance(arg, ObjectType) and arg.implicit:
                self._documented(arg, members, features)
        for feature in features:
            if feature.name not in doc.features:
                raise QapiError(entity.info, f"feature '{feature.name}' lacks documentation")
        for what, documented, existing in (
            ("member", doc.members, members),
            ("feature", doc.features, {feature.name for feature in features}),
        ):
            bogus = [name for name in documented if name not in existing]
            if bogus:
                plural, verb = ("s", "do") if len(bogus) > 1 else ("", "does")
                listed = "', '".join(bogus)
                raise QapiError(doc.info, f"documented {what}{plural} '{listed}' {verb} not exist")

    def _documented(self, entity: ObjectType, members: set[str], features: list[Feature]) -> None:
        """Add the members and features that belong in the comment of an object."""
        own = list(entity.local_members)
        if entity.base is not None and entity.base.implicit:
            own += entity.base.local_members
        members.update(member.name for member in own)
        features += [feature for member in own for feature in member.features]


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
