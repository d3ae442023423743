"""The shape of expressions: which keys, which values, which names.

Each check raises ``QapiError`` at the expression, in the words of QEMU's front end, and leaves
the expression in its canonical form: a member is ``{'type': T}``, a value or feature
``{'name': N}``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from nbexport.qapi import names
from nbexport.qapi.conditions import from_c
from nbexport.qapi.source import QapiError, SourceInfo

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from nbexport.qapi.docs import Doc
    from nbexport.qapi.parser import Expression

METAS = ("enum", "struct", "union", "alternate", "command", "event")
# Keys, each with the first release that knows it.
_ALWAYS = (0,)
_COMMON = {"if": (3, 0), "features": (5, 0)}
_REQUIRED: dict[str, tuple[str, ...]] = {
    "enum": ("enum", "data"),
    "struct": ("struct", "data"),
    "union": ("union", "base", "discriminator", "data"),
    "alternate": ("alternate", "data"),
    "command": ("command",),
    "event": ("event",),
}
_OPTIONAL: dict[str, Mapping[str, tuple[int, ...]]] = {
    "enum": {**_COMMON, "prefix": _ALWAYS},
    "struct": {**_COMMON, "features": (4, 1), "base": _ALWAYS},
    "union": _COMMON,
    "alternate": _COMMON,
    "command": {
        **_COMMON,
        "features": (4, 2),
        "data": _ALWAYS,
        "returns": _ALWAYS,
        "boxed": (2, 7),
        "gen": _ALWAYS,
        "success-response": _ALWAYS,
        "allow-oob": (2, 12),
        "allow-preconfig": (3, 0),
        "coroutine": (5, 2),
    },
    "event": {**_COMMON, "data": _ALWAYS, "boxed": (2, 7)},
    # parts of these
    "member": {"if": (4, 0), "features": (5, 0)},
    "value": {"if": (4, 0), "features": (6, 2)},
    "branch": {"if": (4, 0)},
    "feature": {"if": (4, 1)},
}
# A union with neither was a simple one; the last release to have them was 6.1.
FLAT_ONLY = (6, 2)
_CONDITION = re.compile(r"[A-Z][A-Z0-9_]*")


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
    names.check_definition(name, info, meta)
    if doc is not None:
        if doc.symbol != name:
            raise QapiError(info, f"documentation comment is for '{doc.symbol}'")
        _check_doc(doc, content, info)
    elif info.pragmas.doc_required:
        raise QapiError(info, "documentation comment required")
    rules = info.pragmas.rules
    required, optional = _REQUIRED[meta], _optional(meta, info)
    if meta == "union" and not rules.since(*FLAT_ONLY):
        required, optional = ("union", "data"), ("base", "discriminator", *optional)
    _check_keys(content, info, meta, required, optional)
    for key in optional:
        if key in content and content[key] is None:
            # null, until 4.1 a literal of the language, is as good as nothing
            del content[key]
    _CHECKS[meta](content, info, name)
    _check_if(content, info, meta)
    _check_features(content, info)
    _check_flags(content, info)
    return meta


def _optional(what: str, info: SourceInfo) -> tuple[str, ...]:
    """Return the keys that something can have in the release whose rules apply."""
    return _allowed(what, info.pragmas.rules.release)


@lru_cache(maxsize=256)
def _allowed(what: str, release: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(key for key, since in _OPTIONAL[what].items() if release >= since)


def _check_doc(doc: Doc, content: dict[str, Any], info: SourceInfo) -> None:
    """Check that a comment tells of results and errors only where there are some."""
    returns, errors = doc.section("Returns"), doc.section("Errors")
    if not info.pragmas.rules.since(9, 0):
        if returns and "command" not in content:
            raise QapiError(doc.info, "'Returns:' is only valid for commands")
        return
    for section in (returns, errors):
        if section and "command" not in content:
            raise QapiError(section.info, f"'{section.tag}' section is only valid for commands")
    if returns and "returns" not in content:
        raise QapiError(returns.info, "'Returns' section, but command doesn't return anything")


def _quoted(items: Iterable[str]) -> str:
    return ", ".join(f"'{item}'" for item in sorted(items))


def _check_keys(
    value: dict[str, Any],
    info: SourceInfo,
    source: str,
    required: Collection[str],
    optional: Collection[str],
) -> None:
    keys = value.keys()
    if not keys >= set(required):
        missing = set(required) - keys
        plural = "s" if len(missing) > 1 else ""
        raise QapiError(info, f"{source} misses key{plural} {_quoted(missing)}")
    if len(keys) > len(required):
        allowed = {*required, *optional}
        unknown = keys - allowed
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
    if "if" not in value:
        return
    if info.pragmas.rules.since(6, 2):
        _check_condition(value["if"], info, source)
    else:
        value["if"] = _old_condition(value["if"], info, source)


def _old_condition(condition: Any, info: SourceInfo, source: str) -> Any:
    """Check an expression of C, or a list of them that must all hold; return today's form."""
    parts = condition if isinstance(condition, list) else [condition]
    if not parts:
        raise QapiError(info, f"'if' condition [] of {source} is useless")
    for part in parts:
        if not isinstance(part, str):
            raise QapiError(
                info, f"'if' condition of {source} must be a string or a list of strings"
            )
        if not part.strip():
            raise QapiError(info, f"'if' condition '{part}' of {source} makes no sense")
    found = [from_c(part) for part in parts]
    return found[0] if len(found) == 1 else {"all": found}


def _check_condition(condition: Any, info: SourceInfo, source: str) -> None:
    # One frame of Python's stack for each level, which the parser has bounded.
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
        _check_condition(operands, info, source)
        return
    if not isinstance(operands, list):
        raise QapiError(info, f"'{operator}' condition of {source} must be an array")
    if not operands:
        raise QapiError(info, f"'if' condition [] of {source} is useless")
    for operand in operands:
        _check_condition(operand, info, source)


def _check_features(value: dict[str, Any], info: SourceInfo) -> None:
    if "features" not in value:
        return
    features = value["features"]
    if not isinstance(features, list):
        raise QapiError(info, "'features' must be an array")
    value["features"] = [item if isinstance(item, dict) else {"name": item} for item in features]
    for feature in value["features"]:
        source = "'features' member"
        _check_keys(feature, info, source, ("name",), _optional("feature", info))
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
        _check_keys(member, info, member_source, ("type",), _optional("member", info))
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
        _check_keys(member, info, source, ("name",), _optional("value", info))
        value = names.check_string(member["name"], info, source)
        source = f"{source} '{value}'"
        # a value may begin with a digit, which is not a name otherwise
        shown = "d" + value if value[:1].isdigit() else value
        names.check_lower(shown, info, source, permissive=permissive)
        _check_if(member, info, source)
        _check_features(member, info)


def _check_struct(content: dict[str, Any], info: SourceInfo, name: str) -> None:
    permissive = name in info.pragmas.member_name_exceptions
    if isinstance(content["data"], str) and info.pragmas.rules.since(8, 1):
        raise QapiError(info, "'data' should be an object or type name")
    _check_members(content["data"], info, "'data'", permissive=permissive)
    if "base" in content:
        _check_type_name(content["base"], info, "'base'")


def _check_union(content: dict[str, Any], info: SourceInfo, name: str) -> None:
    if "discriminator" not in content:
        # a simple union: each branch is a type in an object of its own
        if "base" in content:
            raise QapiError(info, "'base' requires 'discriminator'")
        _check_branches(content, info, named=True, array=True)
        return
    rules = info.pragmas.rules
    if not rules.since(*FLAT_ONLY) and not content.get("base"):
        raise QapiError(info, "'discriminator' requires 'base'")
    exceptions = info.pragmas.member_name_exceptions
    # until 4.1 an inline base was excused by the name of its type
    implicit = f"q_obj_{name}-base" if not rules.since(4, 2) else name
    permissive = name in exceptions or implicit in exceptions
    _check_members(content["base"], info, "'base'", permissive=permissive)
    names.check_string(content["discriminator"], info, "'discriminator'")
    # without a base no branch is right, which is said later
    array = not rules.since(8, 1) and not content["base"]
    _check_branches(content, info, named=not rules.since(6, 0), array=array)


def _check_alternate(content: dict[str, Any], info: SourceInfo, _name: str) -> None:
    if not content["data"]:
        raise QapiError(info, "'data' must not be empty")
    _check_branches(content, info, named=True, array=info.pragmas.rules.since(7, 1))


def _check_branches(
    content: dict[str, Any], info: SourceInfo, *, named: bool = False, array: bool = False
) -> None:
    """Check branches.

    Args:
        content: the definition.
        info: its place.
        named: whether the names are its own, not those of a discriminator's values.
        array: whether a branch can be an array.
    """
    data = content["data"]
    if not isinstance(data, dict):
        raise QapiError(info, "'data' must be an object")
    _normalize(data)
    for key, branch in data.items():
        source = f"'data' member '{key}'"
        if named:
            names.check_lower(key, info, source)
        _check_keys(branch, info, source, ("type",), _optional("branch", info))
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
