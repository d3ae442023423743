"""A schema from what ``query-qmp-schema`` answers: a list of ``SchemaInfo`` objects.

Introspection tells less than the text: types have numbers for names, integers no width, members
no base of their own, and documentation and conditions are gone. Types get readable names from
where they are used (``nbd-server-start-arg``); names that are no numbers, as the generator's
``-u`` gives them, are kept.

Every release since 2.5 is read: enumerations have ``values`` only before 6.2 and only ``members``
where a policy hides what is deprecated; ``features`` and ``allow-oob`` are missing in old ones.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NoReturn

from nbexport.qapi.model import (
    AlternateType,
    ArrayType,
    BuiltinType,
    Command,
    EnumMember,
    EnumType,
    Event,
    Feature,
    Member,
    ObjectType,
    Variant,
)
from nbexport.qapi.schema import BUILTINS, Schema
from nbexport.qapi.source import Pragmas, QapiError, SourceInfo
from nbexport.qapi.validate import ANY_INTEGER

if TYPE_CHECKING:
    from nbexport.qapi.model import Entity, Type

# QEMU 11.0 has some 1200 entries; this many take some 100 MB.
MAX_ENTRIES = 100_000
# As deep as branches may be unions again; QEMU's schema has 2 levels.
MAX_BRANCHING = 16
_METAS = ("builtin", "enum", "array", "object", "alternate", "command", "event")
# Always taken unchecked by QEMU: further members are properties of the device.
_UNCHECKED = ("device_add",)
# Unchecked as long as their arguments were no union: netdev_add to 5.0, object-add to 5.2.
_UNCHECKED_WITHOUT_UNION = ("netdev_add", "object-add")

_Entry = dict[str, Any]


def is_introspection(value: Any) -> bool:
    """Return whether a JSON value looks like an answer to ``query-qmp-schema``."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(entry, dict) and "meta-type" in entry and "name" in entry for entry in value
        )
    )


def from_introspection(entries: Any, *, name: str = "<introspection>") -> Schema:
    """Return the schema that an answer to ``query-qmp-schema`` describes.

    An empty list of features is the same as none. Entries that nothing reaches are checked, and
    left out.

    Args:
        entries: the list, as the JSON reader gives it.
        name: what errors call it; they name the entry by its number, from 1, as a line.

    Raises:
        QapiError: it is no such list; the text names the entry.
    """
    return _Reader(entries, name).run()


class _Reader:
    """The state while one list is read."""

    def __init__(self, entries: Any, name: str) -> None:
        self._root = SourceInfo(name, 1, None, Pragmas())
        if not isinstance(entries, list) or not entries:
            raise QapiError(self._root, "not an introspection: expected a list of SchemaInfo")
        if len(entries) > MAX_ENTRIES:
            raise QapiError(self._root, f"more than {MAX_ENTRIES} entries")
        self._entries: list[Any] = entries
        self._schema = Schema([], root=name)
        # types by the name they have in the list; commands and events apart
        self._listed: dict[str, _Entry] = {}
        self._calls: dict[str, _Entry] = {}
        self._infos: dict[int, SourceInfo] = {}
        self._types: dict[str, Type] = {}
        # made and not filled yet; first come, first filled gives the shortest names
        self._open: deque[tuple[Type, _Entry]] = deque()
        self._integer = BuiltinType(ANY_INTEGER, kind="int")
        self._schema.entities[ANY_INTEGER] = self._integer
        self._empty: str | None = None

    def run(self) -> Schema:
        """Return the schema."""
        for line, entry in enumerate(self._entries, 1):
            self._list(entry, self._root.at(line))
        self._empty = self._find_empty()
        for name, entry in self._calls.items():
            self._call(name, entry)
            self._drain()
        for name, entry in self._listed.items():
            # what nothing reaches is checked all the same
            if name not in self._types:
                self._type(entry, name, name)
                self._drain()
        for kind in self._types.values():
            if isinstance(kind, ObjectType):
                self._check_branches(kind)
        return self._schema

    def _find_empty(self) -> str | None:
        """Return the name of the type of commands that take or return nothing.

        A schema may have further types without members; this one is meant most often.
        """
        names = {
            name
            for name, entry in self._listed.items()
            if entry["meta-type"] == "object"
            and entry.get("members") == []
            and not entry.keys() & {"tag", "variants", "features"}
        }
        uses = Counter(
            listed
            for entry in self._calls.values()
            for listed in (entry.get("ret-type"), entry.get("arg-type"))
            if isinstance(listed, str) and listed in names
        )
        return uses.most_common(1)[0][0] if uses else None

    def _drain(self) -> None:
        while self._open:
            kind, entry = self._open.popleft()
            if isinstance(kind, ObjectType):
                self._object(kind, entry)
            elif isinstance(kind, AlternateType):
                self._alternate(kind, entry)

    # -- entries and their members -----------------------------------------------------------

    def _list(self, entry: Any, info: SourceInfo) -> None:
        if not isinstance(entry, dict):
            raise QapiError(info, f"entry {info.line} is no object")
        name, meta = entry.get("name"), entry.get("meta-type")
        if not isinstance(name, str) or not name:
            raise QapiError(info, f"entry {info.line} has no name")
        if meta not in _METAS:
            raise QapiError(info, f"entry '{name}' has no known meta-type")
        self._infos[id(entry)] = info.inside(meta, name)
        known = self._calls if meta in ("command", "event") else self._listed
        if name in known:
            self._fail(entry, f"'{name}' is already defined")
        if meta == "builtin" and name not in BUILTINS:
            self._fail(entry, f"unknown built-in type '{name}'")
        known[name] = entry

    def _fail(self, entry: _Entry, message: str) -> NoReturn:
        raise QapiError(self._infos[id(entry)], message)

    def _text(self, entry: _Entry, part: Any, key: str) -> str:
        value = part.get(key)
        if not isinstance(value, str):
            self._fail(entry, f"'{key}' must be a string")
        return value

    def _parts(self, entry: _Entry, key: str) -> list[_Entry]:
        """Return a list of objects."""
        value = entry.get(key)
        if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
            self._fail(entry, f"'{key}' must be an array of objects")
        return value

    def _features(self, entry: _Entry, part: _Entry) -> tuple[Feature, ...]:
        names = part.get("features", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._fail(entry, "'features' must be an array of strings")
        return tuple(Feature(name) for name in names)

    # -- types -------------------------------------------------------------------------------

    def _reach(self, entry: _Entry, listed: str, hint: str) -> Type:
        """Return the type that an entry names; ``hint`` is its name if it is reached first."""
        known = self._types.get(listed)
        if known is not None:
            return known
        found = self._listed.get(listed)
        if found is None:
            self._fail(entry, f"unknown type '{listed}'")
        return self._type(found, listed, hint)

    def _type(self, entry: _Entry, listed: str, hint: str) -> Type:
        meta = entry["meta-type"]
        kind: Type
        if meta == "builtin":
            found = self._schema.find_type(listed)
            assert found is not None
            kind = self._integer if found.json_type == "int" else found
        elif meta == "array":
            return self._array(entry, listed, hint)
        else:
            features = self._features(entry, entry)
            name = self._free(hint if listed.isdecimal() else listed)
            if meta == "enum":
                kind = EnumType(name, members=self._values(entry))
            elif meta == "object":
                kind = ObjectType(name)
            else:
                kind = AlternateType(name)
            if listed == self._empty:
                kind = self._schema.empty
            else:
                kind.features = features
                self._define(kind, entry)
                self._open.append((kind, entry))
        self._types[listed] = kind
        return kind

    def _array(self, entry: _Entry, listed: str, hint: str) -> Type:
        # arrays of arrays may be nested as deep as the list is long, so no recursion here
        chain = [(listed, entry)]
        while True:
            element = self._text(entry, entry, "element-type")
            inner = self._listed.get(element)
            if inner is None:
                self._fail(entry, f"unknown type '{element}'")
            if inner["meta-type"] != "array" or element in self._types:
                break
            if any(element == name for name, _ in chain):
                self._fail(inner, "an array of itself")
            if len(chain) >= MAX_BRANCHING:
                self._fail(inner, f"arrays are nested deeper than {MAX_BRANCHING}")
            entry = inner
            chain.append((element, entry))
        kind = self._reach(entry, element, hint)
        for name, item in reversed(chain):
            array_name = f"{kind.name}List"
            array = self._schema.entities.get(array_name)
            if not isinstance(array, ArrayType) or array.element is not kind:
                array = ArrayType(self._free(array_name), element_name=kind.name)
                array.element = kind
                self._define(array, item)
            self._types[name] = kind = array
        return kind

    def _free(self, name: str) -> str:
        """Return a name that nothing has: the one asked for, or with a number."""
        number, free = 1, name
        while free in self._schema.entities or free in self._calls:
            number += 1
            free = f"{name}-{number}"
        return free

    def _define(self, entity: Entity, entry: _Entry) -> None:
        entity.info = self._infos[id(entry)]
        self._schema.entities[entity.name] = entity
        self._schema.modules[self._schema.root].append(entity)

    def _values(self, entry: _Entry) -> tuple[EnumMember, ...]:
        if "members" in entry:
            return tuple(
                EnumMember(self._text(entry, part, "name"), features=self._features(entry, part))
                for part in self._parts(entry, "members")
            )
        names = entry.get("values")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._fail(entry, "'values' must be an array of strings")
        return tuple(EnumMember(name) for name in names)

    def _object(self, kind: ObjectType, entry: _Entry) -> None:
        members: dict[str, Member] = {}
        for part in self._parts(entry, "members"):
            name = self._text(entry, part, "name")
            if name in members:
                self._fail(entry, f"member '{name}' is already defined")
            type_ = self._reach(entry, self._text(entry, part, "type"), f"{kind.name}-{name}")
            member = Member(
                name,
                type_.name,
                "default" in part,
                features=self._features(entry, part),
                defined_in=kind.name,
            )
            member.type = type_
            members[name] = member
        kind.local_members = kind.members = tuple(members.values())
        if "tag" not in entry and "variants" not in entry:
            return
        kind.tag_name = self._text(entry, entry, "tag")
        kind.tag = members.get(kind.tag_name)
        if kind.tag is None or not isinstance(kind.tag.type, EnumType):
            self._fail(entry, f"tag '{kind.tag_name}' is no member of an enum type")
        variants = []
        for part in self._parts(entry, "variants"):
            case = self._text(entry, part, "case")
            hint = f"{kind.name}-{case}"
            type_ = self._reach(entry, self._text(entry, part, "type"), hint)
            if not isinstance(type_, ObjectType):
                self._fail(entry, f"branch '{case}' is no object")
            variant = Variant(case, type_.name, defined_in=kind.name)
            variant.type = type_
            variants.append(variant)
        kind.variants = tuple(variants)

    def _check_branches(self, kind: ObjectType) -> None:
        """Refuse a union that is a branch of itself, or too deep, before anyone walks it."""
        level = [kind]
        for _ in range(MAX_BRANCHING):
            following = {id(v.type): v.type for union in level for v in union.variants}
            level = [type_ for type_ in following.values() if isinstance(type_, ObjectType)]
            if not level:
                return
        raise QapiError(kind.info, f"branches are nested deeper than {MAX_BRANCHING}")

    def _alternate(self, kind: AlternateType, entry: _Entry) -> None:
        variants = []
        for part in self._parts(entry, "members"):
            listed = self._text(entry, part, "type")
            target = self._listed.get(listed, {})
            word = str(target.get("meta-type", "")) if listed.isdecimal() else listed
            type_ = self._reach(entry, listed, f"{kind.name}-{word}")
            variant = Variant(type_.json_type, type_.name, defined_in=kind.name)
            variant.type = type_
            variants.append(variant)
        kind.variants = tuple(variants)

    # -- commands and events -----------------------------------------------------------------

    def _call(self, name: str, entry: _Entry) -> None:
        is_command = entry["meta-type"] == "command"
        role = "arg" if is_command else "data"
        arg = self._reach(entry, self._text(entry, entry, "arg-type"), f"{name}-{role}")
        if not isinstance(arg, ObjectType):
            self._fail(entry, "'arg-type' is no object")
        self._drain()
        arg_type = None if arg is self._schema.empty else arg
        arg_name = None if arg_type is None else arg.name
        call: Command | Event
        if is_command:
            ret = self._reach(entry, self._text(entry, entry, "ret-type"), f"{name}-ret")
            oob = entry.get("allow-oob", False)
            if not isinstance(oob, bool):
                self._fail(entry, "'allow-oob' must be a boolean")
            checked = name not in _UNCHECKED and (
                name not in _UNCHECKED_WITHOUT_UNION or arg.is_union
            )
            call = Command(name, arg_name=arg_name, gen=checked, allow_oob=oob)
            call.arg_type = arg_type
            if ret is not self._schema.empty:
                call.ret_name, call.ret_type = ret.name, ret
        else:
            call = Event(name, arg_name=arg_name)
            call.arg_type = arg_type
        call.boxed = arg.is_union
        call.features = self._features(entry, entry)
        self._define(call, entry)
