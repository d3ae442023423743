"""A schema as ``query-qmp-schema`` gives it: a list of ``SchemaInfo`` objects.

Type names are replaced by numbers, because clients must not depend on them; integer types are
all ``int``; a type occurs if a command or event reaches it. Numbers are given before conditions
are applied, as QEMU's generator does, so a build without a feature has gaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport.qapi.model import (
    AlternateType,
    ArrayType,
    BuiltinType,
    Command,
    EnumType,
    Event,
    ObjectType,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.qapi.model import Entity, EnumMember, Feature, Member, Type, Variant
    from nbexport.qapi.schema import Schema

# SchemaInfoEnum has `members` since 6.2 and `values` in every release so far.
ENUM_MEMBERS_SINCE = (6, 2)


def introspect(
    schema: Schema, *, release: tuple[int, ...] = ENUM_MEMBERS_SINCE, unmask: bool = False
) -> list[dict[str, Any]]:
    """Return the schema in the form of ``query-qmp-schema``.

    Args:
        schema: the schema; its symbols decide what is compiled in.
        release: the release whose form is wanted.
        unmask: whether to show the names of types, as the generator's ``-u`` does.
    """
    return _Introspection(schema, release, unmask=unmask).run()


class _Introspection:
    def __init__(self, schema: Schema, release: tuple[int, ...], *, unmask: bool) -> None:
        self._schema = schema
        self._release = release
        self._unmask = unmask
        self._numbers: dict[str, str] = {}
        self._used: list[Type] = []
        self._known: set[str] = set()
        self._result: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        for entities in self._schema.modules.values():
            for entity in entities:
                if isinstance(entity, Command):
                    self._command(entity)
                elif isinstance(entity, Event):
                    arg = self._use(entity.arg_type or self._schema.empty)
                    self._add(entity, "event", entity.name, {"arg-type": arg})
        done = 0
        # describing a type may bring further ones into use
        while done < len(self._used):
            self._type(self._used[done])
            done += 1
        return self._result

    def _command(self, entity: Command) -> None:
        info: dict[str, Any] = {
            "arg-type": self._use(entity.arg_type or self._schema.empty),
            "ret-type": self._use(entity.ret_type or self._schema.empty),
        }
        if entity.allow_oob:
            info["allow-oob"] = True
        self._add(entity, "command", entity.name, info)

    def _masked(self, name: str) -> str:
        if self._unmask:
            return name
        return self._numbers.setdefault(name, str(len(self._numbers)))

    def _use(self, kind: Type) -> str:
        """Note that a type is reached; return the name by which it is shown."""
        if kind.json_type == "int":
            kind = self._schema.entities["int"]  # type: ignore[assignment]
        elif isinstance(kind, ArrayType) and kind.element.json_type == "int":
            kind = self._schema.entities["intList"]  # type: ignore[assignment]
        if kind.name not in self._known:
            self._known.add(kind.name)
            self._used.append(kind)
        if isinstance(kind, BuiltinType):
            return kind.name
        if isinstance(kind, ArrayType):
            return f"[{self._use(kind.element)}]"
        return self._masked(kind.name)

    def _add(self, entity: Entity, meta: str, name: str, info: dict[str, Any]) -> None:
        # in the order in which QEMU puts the members: base, then branch
        entry = {"name": name, "meta-type": meta}
        features = self._features(entity.features)
        if entity.features:
            entry["features"] = features  # type: ignore[assignment]
        entry.update(info)
        if self._schema.enabled(entity):
            self._result.append(entry)

    def _features(self, features: Sequence[Feature]) -> list[str]:
        return [feature.name for feature in features if self._schema.enabled(feature)]

    def _type(self, kind: Type) -> None:
        enabled = self._schema.enabled
        if isinstance(kind, BuiltinType):
            self._add(kind, "builtin", kind.name, {"json-type": kind.json_type})
        elif isinstance(kind, ArrayType):
            element = self._use(kind.element)
            self._add(kind, "array", f"[{element}]", {"element-type": element})
        elif isinstance(kind, EnumType):
            members = [member for member in kind.members if enabled(member)]
            info: dict[str, Any] = {}
            if self._release >= ENUM_MEMBERS_SINCE:
                info["members"] = [self._value(member) for member in members]
            info["values"] = [member.name for member in members]
            self._add(kind, "enum", self._masked(kind.name), info)
        elif isinstance(kind, ObjectType):
            # types are numbered as they are reached, compiled in or not
            shown = [(member, self._member(member)) for member in kind.members]
            info = {"members": [entry for member, entry in shown if enabled(member)]}
            if kind.tag is not None:
                branches = [(variant, self._variant(variant)) for variant in kind.variants]
                info["tag"] = kind.tag.name
                info["variants"] = [entry for variant, entry in branches if enabled(variant)]
            self._add(kind, "object", self._masked(kind.name), info)
        else:
            assert isinstance(kind, AlternateType)
            choices = [(variant, self._use(variant.type)) for variant in kind.variants]
            info = {"members": [{"type": name} for variant, name in choices if enabled(variant)]}
            self._add(kind, "alternate", self._masked(kind.name), info)

    def _value(self, member: EnumMember) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": member.name}
        if member.features:
            entry["features"] = self._features(member.features)
        return entry

    def _member(self, member: Member) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": member.name, "type": self._use(member.type)}
        if member.optional:
            entry["default"] = None
        if member.features:
            entry["features"] = self._features(member.features)
        return entry

    def _variant(self, variant: Variant) -> dict[str, Any]:
        return {"case": variant.name, "type": self._use(variant.type)}
