"""A whole schema: expressions made into entities, names resolved, semantic rules checked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from nbexport.errors import UsageError
from nbexport.qapi.checks import check_expression
from nbexport.qapi.model import (
    AlternateType,
    ArrayType,
    BuiltinType,
    Command,
    Condition,
    Entity,
    EnumMember,
    EnumType,
    Event,
    Feature,
    Member,
    ObjectType,
    Type,
    Variant,
)
from nbexport.qapi.parser import Expression, line_of, parse_files, read_file
from nbexport.qapi.resolve import Resolver
from nbexport.qapi.rules import OLDEST, STRICT, Rules
from nbexport.qapi.source import QapiError, SourceInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from nbexport.qapi.docs import Doc

BUILTINS = {
    "str": "string",
    "number": "number",
    "int": "int",
    "int8": "int",
    "int16": "int",
    "int32": "int",
    "int64": "int",
    "uint8": "int",
    "uint16": "int",
    "uint32": "int",
    "uint64": "int",
    "size": "int",
    "bool": "boolean",
    "any": "value",
    "null": "null",
}
_QTYPES = ("none", "qnull", "qnum", "qstring", "qdict", "qlist", "qbool")
EMPTY = "q_empty"
_E = TypeVar("_E", bound=Entity)


class Schema:
    """The entities of a schema, by name.

    Args:
        expressions: what the parser gave; they are normalised in place.
        root: path of the root file, the first module.
        docs: all documentation comments.
        symbols: configuration symbols that the build defines; None defines every symbol that
            occurs in a condition.
        rules: the release's rules that the expressions were parsed by.

    Attributes:
        entities: everything by name, in the order of definition.
        modules: the entities of each file, the files in the order of their first inclusion.
        symbols: the configuration symbols that are defined.

    Raises:
        QapiError: the expressions break a rule of the language.
    """

    def __init__(
        self,
        expressions: list[Expression],
        *,
        root: str = "",
        docs: list[Doc] | None = None,
        symbols: AbstractSet[str] | None = None,
        rules: Rules = STRICT,
    ) -> None:
        self.root = root
        self.rules = rules
        self.docs = docs or []
        self.entities: dict[str, Entity] = {}
        self.modules: dict[str, list[Entity]] = {root: []}
        for name, kind in BUILTINS.items():
            self._define(BuiltinType(name, kind=kind))
            self._array(name, None)
        self.empty = ObjectType(EMPTY)
        self._define(self.empty)
        self._define(EnumType("QType", members=tuple(EnumMember(name) for name in _QTYPES)))
        metas = [
            None if "include" in item.content else check_expression(item) for item in expressions
        ]
        for meta, item in zip(metas, expressions, strict=True):
            if meta is None:
                self.modules.setdefault(item.content["include"], [])
            else:
                self._build(meta, item)
        Resolver(self).run()
        self.all_symbols = self._collect_symbols()
        self.symbols: AbstractSet[str] = self.all_symbols if symbols is None else symbols

    # -- look-up ----------------------------------------------------------------------------

    def find_type(self, name: str) -> Type | None:
        """Return a type by name, None if there is none."""
        entity = self.entities.get(name)
        return entity if isinstance(entity, Type) else None

    def command(self, name: str) -> Command | None:
        """Return a command of this build by name, None if there is none."""
        return self._enabled(name, Command)

    def event(self, name: str) -> Event | None:
        """Return an event of this build by name, None if there is none."""
        return self._enabled(name, Event)

    def _enabled(self, name: str, kind: type[_E]) -> _E | None:
        entity = self.entities.get(name)
        if isinstance(entity, kind) and self.enabled(entity):
            return entity
        return None

    def commands(self) -> Iterator[Command]:
        """Give the commands of this build, module by module, in the order of definition."""
        return (e for e in self._by_module() if isinstance(e, Command) and self.enabled(e))

    def events(self) -> Iterator[Event]:
        """Give the events of this build, module by module, in the order of definition."""
        return (e for e in self._by_module() if isinstance(e, Event) and self.enabled(e))

    def _by_module(self) -> Iterator[Entity]:
        return (entity for entities in self.modules.values() for entity in entities)

    def types(self) -> Iterator[Type]:
        """Give all types in the order of definition, built-in and implicit ones included."""
        return (entity for entity in self.entities.values() if isinstance(entity, Type))

    def enabled(self, part: Entity | Member | Variant | EnumMember | Feature) -> bool:
        """Return whether a piece of the schema is compiled in."""
        if isinstance(part, ArrayType):
            part = part.element
        return part.condition.holds(self.symbols)

    def members(self, kind: ObjectType) -> list[Member]:
        """Return the members of an object in this build: the base's, then its own."""
        return [member for member in kind.members if self.enabled(member)]

    # -- construction -----------------------------------------------------------------------

    def _define(self, entity: Entity) -> None:
        other = self.entities.get(entity.name)
        if other is not None:
            assert entity.info is not None
            if other.info is None:
                raise QapiError(entity.info, f"{other.describe()} is already defined")
            raise QapiError(
                entity.info,
                f"'{entity.name}' is already defined\n{other.info}: previous definition",
            )
        self.entities[entity.name] = entity
        if entity.info is not None:
            self.modules.setdefault(entity.info.path, []).append(entity)

    def _array(self, element: str, info: SourceInfo | None) -> str:
        name = f"{element}List"
        if self.find_type(name) is None:
            self._define(ArrayType(name, info, element_name=element))
        return name

    def _type_name(self, reference: str | list[str], info: SourceInfo) -> str:
        return reference if isinstance(reference, str) else self._array(reference[0], info)

    def _members(self, data: dict[str, Any], owner: str, info: SourceInfo) -> tuple[Member, ...]:
        return tuple(
            Member(
                key.removeprefix("*"),
                self._type_name(value["type"], info),
                key.startswith("*"),
                Condition(value.get("if")),
                _features(value),
                owner,
                line_of(key),
            )
            for key, value in data.items()
        )

    def _implicit(
        self, name: str, role: str, data: dict[str, Any], info: SourceInfo, condition: Condition
    ) -> str | None:
        """Define the type of an inline object; an empty one has none."""
        if not data:
            return None
        implicit = f"q_obj_{name}-{role}"
        members = self._members(data, implicit, info)
        if implicit not in self.entities:
            self._define(ObjectType(implicit, info, condition=condition, local_members=members))
        return implicit

    def _variants(self, data: dict[str, Any], owner: str, info: SourceInfo) -> tuple[Variant, ...]:
        return tuple(
            Variant(
                key,
                self._type_name(value["type"], info),
                Condition(value.get("if")),
                owner,
                line_of(key),
            )
            for key, value in data.items()
        )

    def _build(self, meta: str, item: Expression) -> None:
        content, info = item.content, item.info
        name: str = content[meta]
        condition = Condition(content.get("if"))
        entity: Entity
        if meta == "enum":
            members = tuple(
                EnumMember(
                    value["name"],
                    Condition(value.get("if")),
                    _features(value),
                    line_of(value["name"]),
                )
                for value in content["data"]
            )
            entity = EnumType(name, members=members, prefix=content.get("prefix"))
        elif meta == "struct":
            data = content["data"]
            if not isinstance(data, dict):
                raise QapiError(info, "'data' should be an object or type name")
            entity = ObjectType(
                name,
                base_name=content.get("base"),
                local_members=self._members(data, name, info),
            )
        elif meta == "union" and "discriminator" not in content:
            entity = self._simple_union(name, content, info, condition)
        elif meta == "union":
            base = content["base"]
            if isinstance(base, dict):
                base = self._implicit(name, "base", base, info, condition)
            variants = self._variants(content["data"], name, info)
            entity = ObjectType(
                name, base_name=base or None, tag_name=content["discriminator"], variants=variants
            )
        elif meta == "alternate":
            entity = AlternateType(name, variants=self._variants(content["data"], name, info))
        else:
            entity = self._call(meta, name, item, condition)
        entity.info = info
        entity.doc = item.doc
        entity.condition = condition
        entity.features = _features(content)
        self._define(entity)

    def _simple_union(
        self, name: str, content: dict[str, Any], info: SourceInfo, condition: Condition
    ) -> ObjectType:
        """Make a union of the kind that 6.2 dropped.

        Its tag ``type`` has an enumeration of its own, and a branch's value is in a member
        ``data`` of its own.
        """
        kind = f"{name}Kind"
        data = content["data"]
        variants = []
        for key, branch in data.items():
            type_name = self._type_name(branch["type"], info)
            wrapper = f"q_obj_{type_name}-wrapper"
            if wrapper not in self.entities:
                member = Member("data", type_name, optional=False, defined_in=wrapper)
                self._define(ObjectType(wrapper, info, local_members=(member,)))
            variants.append(Variant(key, wrapper, Condition(branch.get("if")), name))
        values = tuple(EnumMember(key, Condition(data[key].get("if"))) for key in data)
        self._define(EnumType(kind, info, condition=condition, members=values))
        tag = Member("type", kind, optional=False, defined_in=name)
        return ObjectType(
            name, local_members=(tag,), tag_name="type", variants=tuple(variants), simple=True
        )

    def _call(self, meta: str, name: str, item: Expression, condition: Condition) -> Entity:
        content, info = item.content, item.info
        arg = content.get("data")
        if isinstance(arg, dict):
            arg = self._implicit(name, "arg", arg, info, condition)
        boxed = content.get("boxed", False)
        if meta == "event":
            return Event(name, arg_name=arg, boxed=boxed)
        ret = content.get("returns")
        return Command(
            name,
            arg_name=arg,
            ret_name=None if ret is None else self._type_name(ret, info),
            gen=content.get("gen", True),
            success_response=content.get("success-response", True),
            boxed=boxed,
            allow_oob=content.get("allow-oob", False),
            allow_preconfig=content.get("allow-preconfig", False),
            coroutine=content.get("coroutine", False),
        )

    def _collect_symbols(self) -> frozenset[str]:
        found: set[str] = set()
        for entity in self.entities.values():
            parts: list[Any] = [entity, *entity.features]
            if isinstance(entity, EnumType):
                parts += entity.members
            elif isinstance(entity, ObjectType):
                parts += [*entity.local_members, *entity.variants]
            elif isinstance(entity, AlternateType):
                parts += entity.variants
            for part in parts:
                found |= part.condition.symbols()
                for feature in getattr(part, "features", ()):
                    found |= feature.condition.symbols()
        return frozenset(found)


def _features(content: dict[str, Any]) -> tuple[Feature, ...]:
    return tuple(
        Feature(item["name"], Condition(item.get("if")), line_of(item["name"]))
        for item in content.get("features", ())
    )


def load_schema(
    path: str,
    *,
    read: Callable[[str], str] = read_file,
    symbols: AbstractSet[str] | None = None,
    as_of: tuple[int, ...] | None = None,
) -> Schema:
    """Read, parse and check a schema.

    A schema of QEMU is right by the rules of its own release only: older ones have unions
    without a discriminator and conditions written in C, newer ones more that must be documented.

    Args:
        path: the root file.
        read: gives the text of a file by path; for sources that are no files.
        symbols: configuration symbols of the build; None defines all that occur.
        as_of: the release, as numbers, whose rules apply; None for the newest rules.

    Raises:
        QapiError: a file cannot be read, or the schema breaks a rule of the language.
        UsageError: the release is older than 2.5.
    """
    rules = rules_of(as_of)
    expressions, docs = parse_files(path, read, rules)
    return Schema(expressions, root=path, docs=docs, symbols=symbols, rules=rules)


def rules_of(release: tuple[int, ...] | None) -> Rules:
    """Return the rules of a release given as numbers, the newest ones for None.

    Raises:
        UsageError: it is older than 2.5.
    """
    if release is None:
        return STRICT
    if release < OLDEST:
        raise UsageError(f"the language of releases before {OLDEST[0]}.{OLDEST[1]} is not known")
    return Rules(release)


def check_schema(paths: Sequence[str], *, as_of: tuple[int, ...] | None = None) -> list[QapiError]:
    """Check schema files, each with what it includes.

    Args:
        paths: the root files.
        as_of: the release, as numbers, whose rules apply; None for the newest rules.

    Returns:
        The first error of each file that has one, in the order of the files: what comes after a
        first error may only follow from it.

    Raises:
        UsageError: the release is older than 2.5.
    """
    errors = []
    for path in paths:
        try:
            load_schema(path, as_of=as_of)
        except QapiError as error:
            errors.append(error)
    return errors


_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")


def parse_release(text: str) -> tuple[int, ...]:
    """Return a release as numbers: ``"7.2.22"`` is ``(7, 2, 22)``, ``"7.2"`` is ``(7, 2)``.

    Raises:
        UsageError: it is not ``MAJOR.MINOR`` or ``MAJOR.MINOR.MICRO``.
    """
    match = _RELEASE.fullmatch(text)
    if match is None:
        raise UsageError(f"'{text}' is no release: expected MAJOR.MINOR or MAJOR.MINOR.MICRO")
    return tuple(int(part) for part in match.groups() if part is not None)
