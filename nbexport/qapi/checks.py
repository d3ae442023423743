"""The shape of expressions: which keys, which values, which names (rules of QEMU 7.2 to 10).

Each check raises ``QapiError`` at the expression, in the words of QEMU's front end, and leaves
the expression in its canonical form: a member is ``{'type': T}``, a value or feature
``{'name': N}``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from nbexport.qapi import names
from nbexport.qapi.source import QapiError, SourceInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nbexport.qapi.parser import Expression

METAS = ("enum", "struct", "union", "alternate", "command", "event")
_COMMON = ("if", "features")
_REQUIRED: dict[str, tuple[str, ...]] = {
    "enum": ("enum", "data"),
    "struct": ("struct", "data"),
    "union": ("union", "base", "discriminator", "data"),
    "alternate": ("alternate", "data"),
    "command": ("command",),
    "event": ("event",),
}
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "enum": (*_COMMON, "prefix"),
    "struct": (*_COMMON, "base"),
    "union": _COMMON,
    "alternate": _COMMON,
    "command": (
        *_COMMON,
        "data",
        "returns",
        "boxed",
        "gen",
        "success-response",
        "allow-oob",
        "allow-preconfig",
        "coroutine",
    ),
    "event": (*_COMMON, "data", "boxed"),
}
_CONDITION = re.compile(r"[A-Z][A-Z0-9_]*")
# QEMU's deepest condition has three levels; the bound keeps evaluation off Python's own limit.
MAX_CONDITION_DEPTH = 32


def check_expression(expression: Expression) -> str:
    """Check one definition, normalise it, and return its meta-type.

    The expression's ``info`` afterwards knows the definition's meta-type and name.

    Raises:
        QapiError: it is not a definition of the language.
    """
    content, info, doc = expression.content, expression.info, expression.doc
    metas = [key for key in content if key in METAS]
    if len(metas) != 1:
        listed = ", ".join(f"'{meta}'" for meta in METAS)
        raise QapiError(info, f"expression must have exactly one key {listed}")
    meta = metas[0]
    name = names.check_string(content[meta], info, f"'{meta}'")
    expression.info = info = info.inside(meta, name)
    if meta == "event":
        names.check_upper(name, info)
    elif meta == "command":
        names.check_command(name, info)
    else:
        names.check_camel(name, info, meta)
    if doc is not None:
        if doc.symbol != name:
            raise QapiError(info, f"documentation comment is for '{doc.symbol}'")
        if doc.section("Returns") and meta != "command":
            raise QapiError(doc.info, "'Returns:' is only valid for commands")
    elif info.pragmas.doc_required:
        raise QapiError(info, "documentation comment required")
    _check_keys(content, info, meta, _REQUIRED[meta], _OPTIONAL[meta])
    _CHECKS[meta](content, info, name)
    _check_if(content, info, meta)
    _check_features(content, info)
    _check_flags(content, info)
    return meta


def _quoted(items: Iterable[str]) -> str:
    return ", ".join(f"'{item}'" for item in sorted(items))


def _check_keys(
    value: dict[str, Any],
    info: SourceInfo,
    source: str,
    required: Iterable[str],
    optional: Iterable[str],
) -> None:
    missing = set(required) - set(value)
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise QapiError(info, f"{source} misses key{plural} {_quoted(missing)}")
    allowed = {*required, *optional}
    unknown = set(value) - allowed
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        raise QapiError(
            info,
            f"{source} has unknown key{plural} {_quoted(unknown)}\n"
            f"Valid keys are {_quoted(allowed)}.",
        )


def _check_flags(content: dict[str, Any], info: SourceInfo) -> None:
    for key in ("gen", "success-response"):
        if key in content and content[key] is not False:
            raise QapiError(info, f"flag '{key}' may only use false value")
    for key in ("boxed", "allow-oob", "allow-preconfig", "coroutine"):
        if key in content and content[key] is not True:
            raise QapiError(info, f"flag '{key}' may only use true value")
    if "allow-oob" in content and "coroutine" in content:
        raise QapiError(info, "flags 'allow-oob' and 'coroutine' are incompatible")


def _check_if(value: dict[str, Any], info: SourceInfo, source: str) -> None:
    if "if" in value:
        _check_condition(value["if"], info, source, 0)


def _check_condition(condition: Any, info: SourceInfo, source: str, depth: int) -> None:
    if depth > MAX_CONDITION_DEPTH:
        raise QapiError(info, f"'if' condition of {source} is deeper than {MAX_CONDITION_DEPTH}")
    if isinstance(condition, str):
        if not _CONDITION.fullmatch(condition):
            raise QapiError(
                info, f"'if' condition '{condition}' of {source} is not a valid identifier"
            )
        return
    if not isinstance(condition, dict):
        raise QapiError(info, f"'if' condition of {source} must be a string or an object")
    _check_keys(condition, info, f"'if' condition of {source}", (), ("all", "any", "not"))
    if len(condition) != 1:
        raise QapiError(info, f"'if' condition of {source} has conflicting keys")
    operator, operands = next(iter(condition.items()))
    if operator == "not":
        _check_condition(operands, info, source, depth + 1)
        return
    if not isinstance(operands, list):
        raise QapiError(info, f"'{operator}' condition of {source} must be an array")
    if not operands:
        raise QapiError(info, f"'if' condition [] of {source} is useless")
    for operand in operands:
        _check_condition(operand, info, source, depth + 1)


def _check_features(value: dict[str, Any], info: SourceInfo) -> None:
    if "features" not in value:
        return
    features = value["features"]
    if not isinstance(features, list):
        raise QapiError(info, "'features' must be an array")
    value["features"] = [item if isinstance(item, dict) else {"name": item} for item in features]
    for feature in value["features"]:
        source = "'features' member"
        _check_keys(feature, info, source, ("name",), ("if",))
        name = names.check_string(feature["name"], info, source)
        source = f"{source} '{name}'"
        names.check_lower(name, info, source)
        _check_if(feature, info, source)


def _normalize(members: Any) -> None:
    if isinstance(members, dict):
        for key, value in members.items():
            if not isinstance(value, dict):
                members[key] = {"type": value}


def _check_type_name(value: Any, info: SourceInfo, source: str, *, array: bool = False) -> None:
    """Check a reference to a type: a name or, where allowed, a list of one name."""
    if isinstance(value, str):
        return
    if isinstance(value, list):
        if not array:
            raise QapiError(info, f"{source} cannot be an array")
        if len(value) != 1 or not isinstance(value[0], str):
            raise QapiError(info, f"{source}: array type must contain single type name")
        return
    raise QapiError(info, f"{source} should be a type name")


def _check_members(value: Any, info: SourceInfo, source: str, *, permissive: bool = False) -> None:
    """Check ``data`` or ``base``: a type name, or an object of members."""
    if isinstance(value, str):
        return
    if isinstance(value, list):
        raise QapiError(info, f"{source} cannot be an array")
    if not isinstance(value, dict):
        raise QapiError(info, f"{source} should be an object or type name")
    _normalize(value)
    for key, member in value.items():
        member_source = f"{source} member '{key}'"
        name = key.removeprefix("*")
        names.check_lower(name, info, member_source, permissive=permissive)
        c_name = names.c_name(name)
        if c_name == "u" or c_name.startswith("has_"):
            raise QapiError(info, f"{member_source} uses reserved name")
        _check_keys(member, info, member_source, ("type",), ("if", "features"))
        _check_if(member, info, member_source)
        _check_features(member, info)
        _check_type_name(member["type"], info, member_source, array=True)


def _check_enum(content: dict[str, Any], info: SourceInfo, name: str) -> None:
    if not isinstance(content["data"], list):
        raise QapiError(info, "'data' must be an array")
    if not isinstance(content.get("prefix", ""), str):
        raise QapiError(info, "'prefix' must be a string")
    permissive = name in info.pragmas.member_name_exceptions
    content["data"] = [
        item if isinstance(item, dict) else {"name": item} for item in content["data"]
    ]
    for member in content["data"]:
        source = "'data' member"
        _check_keys(member, info, source, ("name",), ("if", "features"))
        value = names.check_string(member["name"], info, source)
        source = f"{source} '{value}'"
        # a value may begin with a digit, which is not a name otherwise
        shown = "d" + value if value[:1].isdigit() else value
        names.check_lower(shown, info, source, permissive=permissive)
        _check_if(member, info, source)
        _check_features(member, info)


def _check_struct(content: dict[str, Any], info: SourceInfo, name: str) -> None:
    permissive = name in info.pragmas.member_name_exceptions
    _check_members(content["data"], info, "'data'", permissive=permissive)
    if "base" in content:
        _check_type_name(content["base"], info, "'base'")


def _check_union(content: dict[str, Any], info: SourceInfo, name: str) -> None:
    permissive = name in info.pragmas.member_name_exceptions
    _check_members(content["base"], info, "'base'", permissive=permissive)
    names.check_string(content["discriminator"], info, "'discriminator'")
    _check_branches(content, info)


def _check_alternate(content: dict[str, Any], info: SourceInfo, _name: str) -> None:
    if not content["data"]:
        raise QapiError(info, "'data' must not be empty")
    _check_branches(content, info, array=True)


def _check_branches(content: dict[str, Any], info: SourceInfo, *, array: bool = False) -> None:
    data = content["data"]
    if not isinstance(data, dict):
        raise QapiError(info, "'data' must be an object")
    _normalize(data)
    for key, branch in data.items():
        source = f"'data' member '{key}'"
        if array:
            names.check_lower(key, info, source)
        _check_keys(branch, info, source, ("type",), ("if",))
        _check_if(branch, info, source)
        _check_type_name(branch["type"], info, source, array=array)


def _check_call(content: dict[str, Any], info: SourceInfo, _name: str) -> None:
    boxed = content.get("boxed", False)
    if boxed and "data" not in content:
        raise QapiError(info, "'boxed': true requires 'data'")
    if "data" in content:
        if boxed:
            _check_type_name(content["data"], info, "'data'")
        else:
            _check_members(content["data"], info, "'data'")
    if "returns" in content:
        _check_type_name(content["returns"], info, "'returns'", array=True)


_CHECKS = {
    "enum": _check_enum,
    "struct": _check_struct,
    "union": _check_union,
    "alternate": _check_alternate,
    "command": _check_call,
    "event": _check_call,
}
