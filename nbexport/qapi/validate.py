"""Check a JSON value against a type: QEMU's input visitor, its order and its error texts.

Members are visited base first, then the type's own, then those of the branch that the tag
chooses; each object is checked for left-over members at its end. The first error wins. Nothing
is converted or filled in.

A JSON value is made of dict, list, str, bool, int, float and None; an int lies in the range of
int64 or uint64, as the JSON reader makes them. Values may nest as deep as the reader lets them
(1024), so the walk keeps its own stack instead of Python's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport.errors import CommandError
from nbexport.qapi.model import (
    AlternateType,
    ArrayType,
    BuiltinType,
    EnumType,
    Member,
    ObjectType,
)
from nbexport.qapi.order import GlibNames, qdict_order

if TYPE_CHECKING:
    from collections.abc import Generator

    from nbexport.qapi.model import Type
    from nbexport.qapi.schema import Schema

    Step = Generator["Step", None, None]

NEWEST = (9999,)
# "does not accept value" replaced "Invalid parameter" in 6.2
ENUM_TEXT_SINCE = (6, 2)
# "is unexpected" was worded differently in 2.5; 2.9 is the first release with paths in errors
MEMBER_TEXT_SINCE = (2, 9)

_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
_SIGNED = {
    "int8": (-(1 << 7), (1 << 7) - 1),
    "int16": (-(1 << 15), (1 << 15) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
}
_UNSIGNED = {"uint8": (1 << 8) - 1, "uint16": (1 << 16) - 1, "uint32": (1 << 32) - 1}


def is_int(value: Any) -> bool:
    """Return whether a JSON value is an integer (a boolean is none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def qtype(value: Any) -> str:
    """Return the kind of a JSON value in QAPI's words: ``null``, ``boolean``, ``number``, ..."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def validate(
    schema: Schema, kind: Type | None, value: Any, *, release: tuple[int, ...] = NEWEST
) -> None:
    """Check a value against a type of a schema.

    Args:
        schema: the schema; members and values that its symbols exclude do not exist.
        kind: the type; None is the type without members, that of commands without arguments.
        value: the value.
        release: the release whose error texts are wanted.

    Raises:
        CommandError: the value does not fit, in QEMU's words.
    """
    visitor = _Visitor(schema, release)
    stack = [visitor.visit(kind or schema.empty, value, None)]
    while stack:
        try:
            stack.append(next(stack[-1]))
        except StopIteration:
            stack.pop()


class _Visitor:
    """One walk over one value."""

    def __init__(self, schema: Schema, release: tuple[int, ...]) -> None:
        self._schema = schema
        self._release = release
        # one part for each open container: a member's name, an element's index, or None
        self._path: list[str | int | None] = []

    def _full_name(self, name: str | None) -> str:
        """Return the dotted path of what is being visited."""
        shown = ""
        for part in [*self._path, name]:
            if part is not None:
                shown += f"[{part}]" if isinstance(part, int) else f".{part}"
        # the whole value has no name; a member may have an empty one
        return shown.removeprefix(".") if shown else "<anonymous>"

    def _wrong_type(self, name: str | None, expected: str) -> CommandError:
        path = self._full_name(name)
        return CommandError(f"Invalid parameter type for '{path}', expected: {expected}")

    def visit(self, kind: Type, value: Any, name: str | None) -> Step:
        """Visit a value; ``name`` is its member name, None for an element or the whole."""
        if isinstance(kind, ObjectType):
            yield self._object(kind, value, name)
        elif isinstance(kind, ArrayType):
            yield self._array(kind, value, name)
        elif isinstance(kind, AlternateType):
            yield self._alternate(kind, value, name)
        elif isinstance(kind, EnumType):
            self._enum(kind, value, name)
        else:
            assert isinstance(kind, BuiltinType)
            self._builtin(kind.name, value, name)

    def _object(self, kind: ObjectType, value: Any, name: str | None) -> Step:
        if not isinstance(value, dict):
            raise self._wrong_type(name, "object")
        self._path.append(name)
        left = GlibNames(qdict_order(value))
        yield self._members(kind.members, value, left)
        if kind.tag is not None:
            branch = kind.branch(value[kind.tag.name])
            if branch is not None:
                yield self._members(branch.members, value, left)
        if len(left):
            first = left.first()
            if self._release < MEMBER_TEXT_SINCE:
                raise CommandError(f"QMP input object member '{first}' is unexpected")
            raise CommandError(f"Parameter '{self._full_name(first)}' is unexpected")
        self._path.pop()

    def _members(self, members: tuple[Member, ...], value: dict[str, Any], left: GlibNames) -> Step:
        for member in members:
            if not self._schema.enabled(member):
                continue
            if member.name in value:
                left.discard(member.name)
                yield self.visit(member.type, value[member.name], member.name)
            elif not member.optional:
                raise CommandError(f"Parameter '{self._full_name(member.name)}' is missing")

    def _array(self, kind: ArrayType, value: Any, name: str | None) -> Step:
        if not isinstance(value, list):
            raise self._wrong_type(name, "array")
        self._path.append(name)
        for index, element in enumerate(value):
            self._path.append(index)
            yield self.visit(kind.element, element, None)
            self._path.pop()
        self._path.pop()

    def _alternate(self, kind: AlternateType, value: Any, name: str | None) -> Step:
        wanted = qtype(value)
        for variant in kind.variants:
            json_type = variant.type.json_type
            if (json_type if json_type != "int" else "number") == wanted and self._schema.enabled(
                variant
            ):
                yield self.visit(variant.type, value, name)
                return
        shown = "null" if name is None else name
        raise CommandError(f"Invalid parameter type for '{shown}', expected: {kind.name}")

    def _enum(self, kind: EnumType, value: Any, name: str | None) -> None:
        if not isinstance(value, str):
            raise self._wrong_type(name, "string")
        for member in kind.members:
            if member.name == value and self._schema.enabled(member):
                return
        if self._release < ENUM_TEXT_SINCE:
            raise CommandError(f"Invalid parameter '{value}'")
        shown = "null" if name is None else name
        raise CommandError(f"Parameter '{shown}' does not accept value '{value}'")

    def _builtin(self, type_name: str, value: Any, name: str | None) -> None:
        shown = "null" if name is None else name
        if type_name == "str":
            if not isinstance(value, str):
                raise self._wrong_type(name, "string")
        elif type_name == "bool":
            if not isinstance(value, bool):
                raise self._wrong_type(name, "boolean")
        elif type_name == "number":
            if qtype(value) != "number":
                raise self._wrong_type(name, "number")
        elif type_name == "null":
            if value is not None:
                raise self._wrong_type(name, "null")
        elif type_name in ("int", "int64", "int8", "int16", "int32"):
            if not is_int(value) or not _INT64_MIN <= value <= _INT64_MAX:
                raise self._wrong_type(name, "integer")
            low, high = _SIGNED.get(type_name, (_INT64_MIN, _INT64_MAX))
            if not low <= value <= high:
                raise CommandError(f"Parameter '{shown}' expects {type_name}_t")
        elif type_name != "any":
            if not is_int(value):
                raise CommandError(f"Parameter '{self._full_name(name)}' expects uint64")
            # negative numbers have always been taken modulo 2**64
            if value % (1 << 64) > _UNSIGNED.get(type_name, (1 << 64) - 1):
                raise CommandError(f"Parameter '{shown}' expects {type_name}_t")
