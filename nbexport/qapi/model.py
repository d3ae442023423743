"""The entities of a schema: types, commands, events and their parts.

They are made by ``schema`` and are not changed afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from nbexport.qapi.docs import Doc
    from nbexport.qapi.source import SourceInfo

SPECIAL_FEATURES = ("deprecated", "unstable")


@dataclass(frozen=True, slots=True)
class Condition:
    """When a piece of the schema is compiled in.

    Args:
        expression: None (always), a symbol, or ``{'all': [...]}``, ``{'any': [...]}``,
            ``{'not': ...}`` of such.
    """

    expression: Any = None

    def __bool__(self) -> bool:
        return self.expression is not None

    def holds(self, symbols: AbstractSet[str]) -> bool:
        """Return whether the piece is there in a build that defines ``symbols``."""
        return self.expression is None or _holds(self.expression, symbols)

    def symbols(self) -> frozenset[str]:
        """Return the symbols that the condition asks for."""
        return frozenset() if self.expression is None else frozenset(_symbols(self.expression))

    def __str__(self) -> str:
        return "" if self.expression is None else _text(self.expression)


# These take one frame of Python's stack for each level, of which a schema has MAX_NESTING at most.


def _holds(expression: Any, symbols: AbstractSet[str]) -> bool:
    if isinstance(expression, str):
        return expression in symbols
    operator, operands = next(iter(expression.items()))
    if operator == "not":
        return not _holds(operands, symbols)
    # all: until one does not hold; any: until one holds
    decisive = operator == "any"
    for operand in operands:
        if _holds(operand, symbols) is decisive:
            return decisive
    return not decisive


def _symbols(expression: Any) -> set[str]:
    found: set[str] = set()
    left = [expression]
    while left:
        part = left.pop()
        if isinstance(part, str):
            found.add(part)
        else:
            operands = next(iter(part.values()))
            left += operands if isinstance(operands, list) else [operands]
    return found


def _text(expression: Any, *, nested: bool = False) -> str:
    if isinstance(expression, str):
        return expression
    operator, operands = next(iter(expression.items()))
    if operator == "not":
        return f"not {_text(operands, nested=True)}"
    parts = []
    for operand in operands:
        parts.append(_text(operand, nested=True))  # noqa: PERF401 - one frame
    joined = (" and " if operator == "all" else " or ").join(parts)
    return f"({joined})" if nested else joined


ALWAYS = Condition()


@dataclass(frozen=True, slots=True)
class Feature:
    """A flag that a client can look for: ``deprecated``, ``unstable`` or an announced ability.

    The line of its name in the file is 0 where there is no text; the same holds for the parts
    below.
    """

    name: str
    condition: Condition = ALWAYS
    line: int = field(default=0, compare=False, repr=False)

    @property
    def special(self) -> bool:
        """Whether the compatibility policy acts on it."""
        return self.name in SPECIAL_FEATURES


@dataclass(frozen=True, slots=True)
class EnumMember:
    """A value of an enumeration."""

    name: str
    condition: Condition = ALWAYS
    features: tuple[Feature, ...] = ()
    line: int = field(default=0, compare=False, repr=False)


@dataclass(slots=True, eq=False)
class Member:
    """A member of an object or an argument of a command.

    Args:
        name: as on the wire.
        type_name: its type's name; arrays are ``TList``.
        optional: whether it can be left out.
        condition: when it is compiled in.
        features: its features.
        defined_in: the type whose text holds it.
        line: the line of its name.
        type: the type itself, set when the schema is resolved.
    """

    name: str
    type_name: str
    optional: bool
    condition: Condition = ALWAYS
    features: tuple[Feature, ...] = ()
    defined_in: str = ""
    line: int = 0
    type: Type = field(init=False, repr=False)


@dataclass(slots=True, eq=False)
class Variant:
    """A branch of a union, named by a value of its tag, or of an alternate."""

    name: str
    type_name: str
    condition: Condition = ALWAYS
    defined_in: str = ""
    line: int = 0
    type: Type = field(init=False, repr=False)


@dataclass(slots=True, eq=False)
class Entity:
    """What has a name in a schema.

    Args:
        name: its name; implicit types have names that no text can contain.
        info: where it is defined; None for what every schema has.
        doc: its documentation comment.
        condition: when it is compiled in.
        features: its features.
    """

    name: str
    info: SourceInfo | None = None
    doc: Doc | None = None
    condition: Condition = ALWAYS
    features: tuple[Feature, ...] = ()

    meta = "entity"

    def describe(self) -> str:
        """Return the words by which errors speak of it."""
        return f"{self.meta} '{self.name}'"

    def has_feature(self, name: str) -> bool:
        """Return whether it carries a feature."""
        return any(feature.name == name for feature in self.features)


@dataclass(slots=True, eq=False)
class Type(Entity):
    """A type; ``json_type`` is the kind of JSON value, as introspection names it."""

    meta = "type"

    @property
    def json_type(self) -> str:
        """One of the kinds of ``JSONType``: ``string``, ``number``, ``int``, ``object``, ..."""
        raise TypeError(f"{type(self).__name__} is not a kind of type")

    @property
    def implicit(self) -> bool:
        """Whether no text names it."""
        return False

    def describe(self) -> str:
        """Return the words by which errors speak of it."""
        return f"{self.meta} type '{self.name}'"


@dataclass(slots=True, eq=False)
class BuiltinType(Type):
    """``str``, ``int``, ``uint32``, ``size``, ..."""

    kind: str = "value"

    meta = "built-in"

    @property
    def json_type(self) -> str:
        """The kind of JSON value."""
        return self.kind


@dataclass(slots=True, eq=False)
class EnumType(Type):
    """An enumeration: a string out of ``members``."""

    members: tuple[EnumMember, ...] = ()
    prefix: str | None = None

    meta = "enum"

    @property
    def json_type(self) -> str:
        """The kind of JSON value."""
        return "string"

    @property
    def implicit(self) -> bool:
        """Whether no text names it: true of the enumeration of JSON kinds."""
        return self.info is None


@dataclass(slots=True, eq=False)
class ArrayType(Type):
    """An array; its name is the element's with ``List``."""

    element_name: str = ""
    element: Type = field(init=False, repr=False)

    meta = "array"

    @property
    def json_type(self) -> str:
        """The kind of JSON value."""
        return "array"

    @property
    def implicit(self) -> bool:
        """Whether no text names it: arrays are made where they are used."""
        return True

    def describe(self) -> str:
        """Return the words by which errors speak of it."""
        return f"array type ['{self.element_name}']"


@dataclass(slots=True, eq=False)
class ObjectType(Type):
    """A struct or a union.

    Args:
        base_name: the type whose members come first.
        local_members: the members of its own text.
        tag_name: the discriminator of a union.
        variants: a union's branches, one for each value of the tag once resolved.
        simple: whether it is a union of the old kind, whose tag nobody wrote.
        members: base's members and its own, in order, set when the schema is resolved.
        tag: the member that chooses the branch, set when the schema is resolved.
    """

    base_name: str | None = None
    local_members: tuple[Member, ...] = ()
    tag_name: str | None = None
    variants: tuple[Variant, ...] = ()
    simple: bool = False
    base: ObjectType | None = field(default=None, repr=False)
    members: tuple[Member, ...] = field(default=(), repr=False)
    tag: Member | None = field(default=None, repr=False)

    @property
    def json_type(self) -> str:
        """The kind of JSON value."""
        return "object"

    @property
    def is_union(self) -> bool:
        """Whether a tag chooses further members."""
        return self.tag_name is not None

    @property
    def implicit(self) -> bool:
        """Whether no text names it: a command's inline arguments, a union's inline base."""
        return self.name.startswith("q_")

    def describe(self) -> str:
        """Return the words by which errors speak of it."""
        return f"{'union' if self.is_union else 'struct'} type '{self.name}'"

    def branch(self, value: str) -> ObjectType | None:
        """Return the type of the branch for a tag's value, None for a value without branch."""
        for variant in self.variants:
            if variant.name == value:
                assert isinstance(variant.type, ObjectType)
                return variant.type
        return None


@dataclass(slots=True, eq=False)
class AlternateType(Type):
    """A choice between types told apart by the kind of JSON value."""

    variants: tuple[Variant, ...] = ()

    meta = "alternate"

    @property
    def json_type(self) -> str:
        """The kind of JSON value."""
        return "value"


@dataclass(slots=True, eq=False)
class Command(Entity):
    """A command; flags as in the language, with ``_`` for ``-``."""

    arg_name: str | None = None
    ret_name: str | None = None
    gen: bool = True
    success_response: bool = True
    boxed: bool = False
    allow_oob: bool = False
    allow_preconfig: bool = False
    coroutine: bool = False
    arg_type: ObjectType | None = field(default=None, repr=False)
    ret_type: Type | None = field(default=None, repr=False)

    meta = "command"


@dataclass(slots=True, eq=False)
class Event(Entity):
    """An event."""

    arg_name: str | None = None
    boxed: bool = False
    arg_type: ObjectType | None = field(default=None, repr=False)

    meta = "event"
