"""A schema back to text: one file, in the order of definition, by the rules it was read by."""

from __future__ import annotations

import re
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
from nbexport.qapi.rules import ALIGNED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nbexport.qapi.docs import Doc, Section
    from nbexport.qapi.model import Condition, Entity, Feature, Member, Variant
    from nbexport.qapi.rules import Rules
    from nbexport.qapi.schema import Schema

WIDTH = 79
_PLAIN_NAME = re.compile(r"(__[A-Za-z0-9.-]+_)?(x-)?[a-z0-9][a-z0-9-]*")
_SYMBOL = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def dump(schema: Schema) -> str:
    """Return a schema as one text that gives the same schema when it is read by the same rules.

    Kept is what the model holds: definitions in their order, conditions, features, flags and
    documentation. Not kept are files, ordinary comments and the pragmas; those pragmas that the
    text needs come first.

    Args:
        schema: a schema that was read from text.
    """
    free, behind = _free_texts(schema)
    blocks = [*_pragmas(schema)]
    for entity in schema.entities.values():
        if not _is_implicit(schema, entity):
            blocks += free.get(entity.name, [])
            blocks.append(dump_entity(schema, entity))
    return "\n".join([*blocks, *behind])


def _free_texts(schema: Schema) -> tuple[dict[str, list[str]], list[str]]:
    """Return the comments that describe no definition, by the definition before which they go.

    That is the next one with a comment of its own: before one without, a free text would be
    taken for its comment, and refused. Those behind the last such definition end the text.
    """
    free: dict[str, list[str]] = {}
    waiting: list[str] = []
    for doc in schema.docs:
        if doc.symbol is None:
            waiting.append(_comment(doc, schema.rules))
        elif waiting:
            free[doc.symbol] = waiting
            waiting = []
    return free, waiting


def dump_entity(schema: Schema, entity: Entity) -> str:
    """Return one definition as text, its documentation before it.

    Args:
        schema: the schema that it belongs to.
        entity: a command, an event, or a type that has a definition.
    """
    text = _expression(_Writer(schema).content(entity))
    return text if entity.doc is None else _comment(entity.doc, schema.rules) + text


def _is_implicit(schema: Schema, entity: Entity) -> bool:
    """Whether an entity has no definition of its own in the text."""
    if entity.info is None or isinstance(entity, BuiltinType | ArrayType):
        return True
    if isinstance(entity, EnumType) and entity.name.endswith("Kind"):
        union = schema.find_type(entity.name.removesuffix("Kind"))
        return isinstance(union, ObjectType) and union.simple
    return entity.name.startswith("q_")


# -- definitions ------------------------------------------------------------------------------


class _Writer:
    """Entities as the objects of the language, which is what the parser makes of a text."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rules = schema.rules

    def content(self, entity: Entity) -> dict[str, Any]:
        meta = entity.describe().split()[0]
        content: dict[str, Any] = {meta: entity.name}
        if isinstance(entity, EnumType):
            self._enum(entity, content)
        elif isinstance(entity, ObjectType):
            self._object(entity, content)
        elif isinstance(entity, AlternateType):
            content["data"] = dict(map(self._variant, entity.variants))
        elif isinstance(entity, Command | Event):
            self._call(entity, content)
        return self._marked(content, entity.condition, entity.features)

    def _enum(self, entity: EnumType, content: dict[str, Any]) -> None:
        if entity.prefix is not None:
            content["prefix"] = entity.prefix
        values = [
            self._marked({"name": value.name}, value.condition, value.features)
            for value in entity.members
        ]
        content["data"] = [value["name"] if len(value) == 1 else value for value in values]

    def _object(self, entity: ObjectType, content: dict[str, Any]) -> None:
        if entity.simple:
            content["data"] = dict(map(self._wrapped, entity.variants))
            return
        if entity.base_name is not None:
            base = self._schema.find_type(entity.base_name)
            inline = isinstance(base, ObjectType) and base.implicit
            content["base"] = self._members(base) if inline else entity.base_name
        if not entity.is_union:
            content["data"] = self._members(entity)
            return
        content["discriminator"] = entity.tag_name
        # a value without a branch has an empty one, which nobody can write
        written = (v for v in entity.variants if v.type_name != self._schema.empty.name)
        content["data"] = dict(map(self._variant, written))

    def _call(self, entity: Command | Event, content: dict[str, Any]) -> None:
        if entity.arg_name is not None:
            arg = self._schema.find_type(entity.arg_name)
            inline = isinstance(arg, ObjectType) and arg.implicit
            content["data"] = self._members(arg) if inline else entity.arg_name
        if entity.boxed:
            content["boxed"] = True
        if not isinstance(entity, Command):
            return
        if entity.ret_name is not None:
            content["returns"] = self._reference(entity.ret_name)
        for name, usual in (("gen", True), ("success-response", True)):
            if getattr(entity, name.replace("-", "_")) is not usual:
                content[name] = not usual
        for name in ("allow-oob", "allow-preconfig", "coroutine"):
            if getattr(entity, name.replace("-", "_")):
                content[name] = True

    def _members(self, kind: Any) -> dict[str, Any]:
        return dict(map(self._member, kind.local_members))

    def _member(self, member: Member) -> tuple[str, Any]:
        value = {"type": self._reference(member.type_name)}
        value = self._marked(value, member.condition, member.features)
        return "*" * member.optional + member.name, _short(value)

    def _variant(self, variant: Variant) -> tuple[str, Any]:
        value = {"type": self._reference(variant.type_name)}
        return variant.name, _short(self._marked(value, variant.condition, ()))

    def _wrapped(self, variant: Variant) -> tuple[str, Any]:
        wrapper = self._schema.find_type(variant.type_name)
        assert isinstance(wrapper, ObjectType)
        value = {"type": self._reference(wrapper.local_members[0].type_name)}
        return variant.name, _short(self._marked(value, variant.condition, ()))

    def _reference(self, name: str) -> Any:
        kind = self._schema.find_type(name)
        return [kind.element_name] if isinstance(kind, ArrayType) else name

    def _marked(
        self, value: dict[str, Any], condition: Condition, features: Sequence[Feature]
    ) -> dict[str, Any]:
        """Add a condition and features."""
        if features:
            parts = [self._marked({"name": f.name}, f.condition, ()) for f in features]
            value["features"] = [part["name"] if len(part) == 1 else part for part in parts]
        if condition:
            new = self._rules.since(6, 2)
            value["if"] = condition.expression if new else _old_condition(condition.expression)
        return value


def _short(value: dict[str, Any]) -> Any:
    """Return a type alone where nothing else is said of a member."""
    return value["type"] if len(value) == 1 else value


def _old_condition(expression: Any) -> str | list[str]:
    """Return a condition as releases until 6.1 have it: an expression in C, or a list of them.

    A list is needed where a part is more than symbols and logic: its operators are not known, so
    it can't be joined with others.
    """
    if isinstance(expression, dict) and "all" in expression:
        parts = expression["all"]
        if any(isinstance(part, str) and not _SYMBOL.fullmatch(part) for part in parts):
            return [_in_c(part) for part in parts]
    return _in_c(expression)


def _in_c(expression: Any) -> str:
    """Return a condition as the preprocessor's expression that it was until 6.1."""
    if isinstance(expression, str):
        return f"defined({expression})" if _SYMBOL.fullmatch(expression) else expression
    operator, operands = next(iter(expression.items()))
    if operator == "not":
        inner = _in_c(operands)
        return f"!{inner}" if isinstance(operands, str) else f"!({inner})"
    parts = []
    for operand in operands:
        text = _in_c(operand)
        parts.append(text if isinstance(operand, str) else f"({text})")
    return (" && " if operator == "all" else " || ").join(parts)


# -- pragmas ----------------------------------------------------------------------------------


def _pragmas(schema: Schema) -> Iterator[str]:
    """Give the pragmas without which the text would break a rule."""
    excused: dict[str, list[str]] = {
        "command_name_exceptions": [],
        "command_returns_exceptions": [],
        "member_name_exceptions": [],
        "documentation_exceptions": [],
    }
    for entity in schema.entities.values():
        if isinstance(entity, Command):
            if "_" in entity.name:
                excused["command_name_exceptions"].append(entity.name)
            returned = entity.ret_type
            if isinstance(returned, ArrayType):
                returned = returned.element
            if returned is not None and not isinstance(returned, ObjectType):
                excused["command_returns_exceptions"].append(entity.name)
        names = _part_names(entity)
        if isinstance(entity, EnumType | ObjectType) and not all(map(_is_plain, names)):
            excused["member_name_exceptions"] += _owner(schema, entity.name)
        if entity.doc is not None and not set(_documented(schema, entity)) <= set(
            entity.doc.members
        ):
            excused["documentation_exceptions"].append(entity.name)
    for pragma, key in schema.rules.pragmas.items():
        if excused[key]:
            yield _expression({"pragma": {pragma: excused[key]}})


def _part_names(entity: Entity) -> Iterable[str]:
    if isinstance(entity, EnumType):
        return [value.name for value in entity.members]
    return [m.name for m in entity.local_members] if isinstance(entity, ObjectType) else []


def _documented(schema: Schema, entity: Entity) -> Iterator[str]:
    """Give the names that belong into a definition's comment."""
    yield from _part_names(entity)
    if isinstance(entity, AlternateType):
        yield from (variant.name for variant in entity.variants)
    other: Entity | None = None
    if isinstance(entity, ObjectType) and entity.base_name:
        other = schema.find_type(entity.base_name)
    elif isinstance(entity, Command | Event) and entity.arg_name:
        other = schema.find_type(entity.arg_name)
    if isinstance(other, ObjectType) and other.implicit:
        yield from _part_names(other)


def _is_plain(name: str) -> bool:
    return _PLAIN_NAME.fullmatch(name) is not None


def _owner(schema: Schema, name: str) -> list[str]:
    """Return the names that excuse the members of a type: its own, or that of its user."""
    if not name.startswith("q_obj_"):
        return [name]
    owner = name.removeprefix("q_obj_").removesuffix("-base")
    return [owner] if schema.rules.since(4, 2) else [name]


# -- text -------------------------------------------------------------------------------------


def _expression(content: dict[str, Any]) -> str:
    return _value(content, 0, 0) + "\n"


def _value(value: Any, margin: int, used: int) -> str:
    """Return a value on one line if it fits, else its parts on lines of their own.

    Args:
        value: an object, an array, a string or a boolean.
        margin: the column of the line that it begins on.
        used: how much of that line is taken.
    """
    flat = _flat(value)
    if len(flat) + used < WIDTH or not value or not isinstance(value, dict | list):
        return flat
    margin += 2
    lines = []
    if isinstance(value, dict):
        for key, part in value.items():
            name = f"'{key}': "
            lines.append(name + _value(part, margin, margin + len(name)))
        begin, end = "{}"
    else:
        lines = [_value(part, margin, margin) for part in value]
        begin, end = "[]"
    return f"{begin} " + (",\n" + " " * margin).join(lines) + f" {end}"


def _flat(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\") + "'"
    if isinstance(value, list):
        parts = []
        for part in value:
            parts.append(_flat(part))  # noqa: PERF401 - one frame for each level
        return f"[ {', '.join(parts)} ]" if parts else "[]"
    parts = []
    for key, part in value.items():
        parts.append(f"'{key}': {_flat(part)}")
    return f"{{ {', '.join(parts)} }}" if parts else "{}"


def _comment(doc: Doc, rules: Rules) -> str:
    lines: list[str] = []
    if doc.symbol is not None:
        lines += [f"@{doc.symbol}:", ""]
    lines += [*_trimmed(doc.body.lines), ""]
    for name, section in doc.members.items():
        lines += [*_headed(f"@{name}:", section, rules), ""]
    if doc.features:
        lines += ["Features:", ""]
    for name, section in doc.features.items():
        lines += [*_headed(f"@{name}:", section, rules), ""]
    for section in doc.sections:
        if section.tag is None:
            lines += [*_trimmed(section.lines), ""]
        else:
            lines += [*_headed(f"{section.tag}:", section, rules), ""]
    shown = "".join(f"# {line}".rstrip() + "\n" for line in _single_blanks(lines))
    return f"##\n{shown}##\n"


def _headed(head: str, section: Section, rules: Rules) -> Iterator[str]:
    """Give the lines of a section that has a tag or a name."""
    first, *rest = section.lines or [""]
    yield f"{head} {first}".rstrip()
    if rules.markup != ALIGNED:
        margin = 4
        shared = min((len(s) - len(s.lstrip()) for s in rest if s.strip()), default=0)
        rest = [line[shared:] for line in rest]
    elif first and rules.since(5, 2):
        margin = len(head) + 1
    else:
        margin = 0
    for line in _trimmed(rest, lead=True):
        yield " " * margin + line if line else ""


def _trimmed(lines: list[str], *, lead: bool = False) -> list[str]:
    """Return lines without the blank ones at the end and, unless they lead on, the beginning."""
    shown = "\n".join(lines).rstrip("\n")
    return (shown if lead else shown.lstrip("\n")).split("\n") if shown else []


def _single_blanks(lines: list[str]) -> list[str]:
    """Return lines without a blank one at the end."""
    while lines and not lines[-1]:
        lines.pop()
    return lines
