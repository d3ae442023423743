"""Check a JSON value against a type: QEMU's input visitor, its order and its error texts.

Members are visited base first, then the type's own, then those of the branch that the tag
chooses; each object is checked for left-over members at its end. The first error wins, unless the
caller of the `Visitor` goes on after one (``findings`` does). Nothing is converted or filled in.

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

    from nbexport.qapi.model import EnumMember, Type
    from nbexport.qapi.schema import Schema

    Step = Generator["Step", None, None]

NEWEST = (9999,)
# "does not accept value" replaced "Invalid parameter" in 6.2
ENUM_TEXT_SINCE = (6, 2)
# 2.10 keeps numbers above int64; before, an unsigned integer was refused as a signed one is
UINT64_TEXT_SINCE = (2, 10)
# 2.9 is the first release with paths in errors; it also renamed the kinds and "is unexpected"
PATHS_SINCE = (2, 9)
_KINDS_BEFORE_PATHS = {"object": "QDict", "array": "list"}

# The integer type of a schema that came from introspection, which does not tell widths.
ANY_INTEGER = "integer"
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
_UINT64_MAX = (1 << 64) - 1
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
    schema: Schema,
    kind: Type | None,
    value: Any,
    *,
    release: tuple[int, ...] = NEWEST,
    name: str | None = None,
) -> None:
    """Check a value against a type of a schema.

    Args:
        schema: the schema; members and values that its symbols exclude do not exist.
        kind: the type; None is the type without members, that of commands without arguments.
        value: the value.
        release: the release whose error texts are wanted.
        name: how error texts call the whole value.

    Raises:
        CommandError: the value does not fit, in QEMU's words.
    """
    Visitor(schema, release).run(kind or schema.empty, value, name)


class Visitor:
    """One walk over one value; a subclass may go on after a fault and look at what is used.

    Args:
        schema: the schema.
        release: the release whose error texts are wanted.
    """

    def __init__(self, schema: Schema, release: tuple[int, ...]) -> None:
        self._schema = schema
        self._release = release
        # one part for each open container: a member's name, an element's index, or None
        self._path: list[str | int | None] = []

    def run(self, kind: Type, value: Any, name: str | None = None) -> None:
        """Visit a whole value.

        Raises:
            CommandError: at the first fault, unless `fault` says otherwise.
        """
        stack = [self._visit(kind, value, name)]
        while stack:
            try:
                stack.append(next(stack[-1]))
            except StopIteration:
                stack.pop()

    # -- what a subclass may replace ---------------------------------------------------------

    def fault(self, kind: str, name: str | None, message: str) -> None:  # noqa: ARG002
        """Take note of a fault; when this returns, the walk goes on behind it.

        Args:
            kind: ``wrong-type``, ``out-of-range``, ``unknown-value``, ``missing-member`` or
                ``unknown-member``.
            name: the member, None for an element or the whole.
            message: QEMU's words.

        Raises:
            CommandError: to end the walk.
        """
        raise CommandError(message)

    def uses_member(self, member: Member) -> None:
        """Take note of a member with features that is given."""

    def uses_value(self, kind: EnumType, value: EnumMember, name: str | None) -> None:
        """Take note of an enumeration's value with features that is given."""

    # -- names in messages -------------------------------------------------------------------

    def path(self, name: str | None) -> str:
        """Return the dotted path of what is being visited, empty for the whole."""
        shown = ""
        for part in [*self._path, name]:
            if part is not None:
                shown += f"[{part}]" if isinstance(part, int) else f".{part}"
        return shown.removeprefix(".")

    def _full_name(self, name: str | None) -> str:
        if self._release < PATHS_SINCE:
            return "null" if name is None else name
        # the whole value has no name; a member may have an empty one
        whole = name is None and all(part is None for part in self._path)
        return "<anonymous>" if whole else self.path(name)

    def _wrong_type(self, name: str | None, expected: str) -> None:
        if self._release < PATHS_SINCE:
            expected = _KINDS_BEFORE_PATHS.get(expected, expected)
        path = self._full_name(name)
        self.fault("wrong-type", name, f"Invalid parameter type for '{path}', expected: {expected}")

    # -- the walk ----------------------------------------------------------------------------

    def _visit(self, kind: Type, value: Any, name: str | None) -> Step:
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
            self._wrong_type(name, "object")
            return
        self._path.append(name)
        left = GlibNames(qdict_order(value))
        yield self._content(kind, value, left)
        while len(left):
            first = left.first()
            left.discard(first)
            shown = f"Parameter '{self._full_name(first)}' is unexpected"
            if self._release < PATHS_SINCE:
                shown = f"QMP input object member '{first}' is unexpected"
            self.fault("unknown-member", first, shown)
        self._path.pop()

    def _content(self, kind: ObjectType, value: dict[str, Any], left: GlibNames) -> Step:
        """Visit the members of an object and of the branch that its tag chooses."""
        for member in kind.members:
            if not self._schema.enabled(member):
                continue
            if member.name in value:
                left.discard(member.name)
                if member.features:
                    self.uses_member(member)
                yield self._visit(member.type, value[member.name], member.name)
            elif not member.optional:
                missing = f"Parameter '{self._full_name(member.name)}' is missing"
                self.fault("missing-member", member.name, missing)
        if kind.tag is None:
            return
        chosen = value.get(kind.tag.name)
        known = False
        for variant in kind.variants:
            if variant.name == chosen and self._schema.enabled(variant):
                known = True
                assert isinstance(variant.type, ObjectType)
                yield self._content(variant.type, value, left)
        if not known and not _is_value(self._schema, kind.tag.type, chosen):
            # nobody knows which branch was meant: what any of them has may be right
            for name in _branch_names(kind):
                left.discard(name)

    def _array(self, kind: ArrayType, value: Any, name: str | None) -> Step:
        if not isinstance(value, list):
            self._wrong_type(name, "array")
            return
        self._path.append(name)
        for index, element in enumerate(value):
            self._path.append(index)
            yield self._visit(kind.element, element, None)
            self._path.pop()
        self._path.pop()

    def _alternate(self, kind: AlternateType, value: Any, name: str | None) -> Step:
        wanted = qtype(value)
        for variant in kind.variants:
            json_type = variant.type.json_type
            if (json_type if json_type != "int" else "number") == wanted and self._schema.enabled(
                variant
            ):
                yield self._visit(variant.type, value, name)
                return
        shown = "null" if name is None else name
        message = f"Invalid parameter type for '{shown}', expected: {kind.name}"
        self.fault("wrong-type", name, message)

    def _enum(self, kind: EnumType, value: Any, name: str | None) -> None:
        if not isinstance(value, str):
            self._wrong_type(name, "string")
            return
        for member in kind.members:
            if member.name == value and self._schema.enabled(member):
                if member.features:
                    self.uses_value(kind, member, name)
                return
        shown = "null" if name is None else name
        message = f"Parameter '{shown}' does not accept value '{value}'"
        if self._release < ENUM_TEXT_SINCE:
            message = f"Invalid parameter '{value}'"
        self.fault("unknown-value", name, message)

    def _builtin(self, type_name: str, value: Any, name: str | None) -> None:
        shown = "null" if name is None else name
        if type_name == "str":
            if not isinstance(value, str):
                self._wrong_type(name, "string")
        elif type_name == "bool":
            if not isinstance(value, bool):
                self._wrong_type(name, "boolean")
        elif type_name == "number":
            if qtype(value) != "number":
                self._wrong_type(name, "number")
        elif type_name == "null":
            if value is not None:
                self._wrong_type(name, "null")
        elif type_name == ANY_INTEGER:
            if not is_int(value) or not _INT64_MIN <= value <= _UINT64_MAX:
                self._wrong_type(name, "integer")
        elif type_name in ("int", "int64", "int8", "int16", "int32"):
            low, high = _SIGNED.get(type_name, (_INT64_MIN, _INT64_MAX))
            if not is_int(value) or not _INT64_MIN <= value <= _INT64_MAX:
                self._wrong_type(name, "integer")
            elif not low <= value <= high:
                self.fault("out-of-range", name, f"Parameter '{shown}' expects {type_name}_t")
        elif type_name != "any":
            before = self._release < UINT64_TEXT_SINCE
            top = _INT64_MAX if before else _UINT64_MAX
            if not is_int(value) or not _INT64_MIN <= value <= top:
                if before:
                    self._wrong_type(name, "integer")
                else:
                    message = f"Parameter '{self._full_name(name)}' expects uint64"
                    self.fault("wrong-type", name, message)
            # negative numbers have always been taken modulo 2**64
            elif value % (1 << 64) > _UNSIGNED.get(type_name, _UINT64_MAX):
                self.fault("out-of-range", name, f"Parameter '{shown}' expects {type_name}_t")


def _is_value(schema: Schema, kind: Type, value: Any) -> bool:
    return isinstance(kind, EnumType) and any(
        member.name == value and schema.enabled(member) for member in kind.members
    )


def _branch_names(kind: ObjectType) -> set[str]:
    """Return the names of the members that some branch of a union has, branches of these too."""
    names: set[str] = set()
    for variant in kind.variants:
        if isinstance(variant.type, ObjectType):
            names.update(member.name for member in variant.type.members)
            names |= _branch_names(variant.type)
    return names
