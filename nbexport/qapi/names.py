"""The naming rules of the language, and the C names by which members collide.

Until 5.2 a name had to be lower case only where it names a member, and ``_`` was free.
"""

from __future__ import annotations

import re
from functools import lru_cache

from nbexport.qapi.source import QapiError, SourceInfo

_NAME = re.compile(r"(__[a-z0-9.-]+_)?(x-)?([a-z][a-z0-9_-]*)", re.IGNORECASE | re.ASCII)
# what nearly every name is, and is right by all rules
_PLAIN = re.compile(r"(?!q-|x-)[a-z][a-z0-9-]*")
_NO_C = re.compile(r"[^A-Za-z0-9_]")
_UPPER = re.compile(r"[A-Z]")
_LOWER = re.compile(r"[a-z-]")
_OLD_NAME = re.compile(r"(__[a-zA-Z0-9.-]+_)?[a-zA-Z][a-zA-Z0-9_-]*")
# 2.5 still had values such as 'l1_grow.alloc_table' and 'Left'
_OLDEST_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]*")
_CAMEL = re.compile(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*")


@lru_cache(maxsize=4096)
def c_name(name: str) -> str:
    """Return the C identifier of a name; two members collide if theirs are equal."""
    return _NO_C.sub("_", name)


def check_string(name: object, info: SourceInfo, source: str) -> str:
    """Return a name that must be a string.

    Raises:
        QapiError: it is something else.
    """
    if not isinstance(name, str):
        raise QapiError(info, f"{source} requires a string name")
    return name


def stem(name: str, info: SourceInfo, source: str) -> str:
    """Return a name without its downstream (``__RFQDN_``) and ``x-`` prefixes.

    Raises:
        QapiError: the name is malformed or in the generator's own ``q_`` space.
    """
    match = _NAME.fullmatch(name)
    if match is None or c_name(name).startswith("q_"):
        raise QapiError(info, f"{source} has an invalid name")
    return match.group(3)


def _check_old(name: str, info: SourceInfo, source: str, *, permissive: bool) -> None:
    known = info.pragmas.rules.since(2, 6)
    pattern = _OLD_NAME if known else _OLDEST_NAME
    if not pattern.fullmatch(name) or c_name(name).startswith("q_"):
        raise QapiError(info, f"{source} has an invalid name")
    if known and not permissive and name.lower() != name:
        raise QapiError(info, f"{source} uses uppercase in name")


def check_lower(name: str, info: SourceInfo, source: str, *, permissive: bool = False) -> None:
    """Check the name of a member, value or feature.

    Raises:
        QapiError: it has upper case letters or ``_`` and is no exception.
    """
    if _PLAIN.fullmatch(name):
        return
    if not info.pragmas.rules.since(6, 0):
        _check_old(name, info, source, permissive=permissive)
        return
    core = stem(name, info, source)
    if not permissive and (_UPPER.search(core) or "_" in core):
        raise QapiError(info, f"name of {source} must not use uppercase or '_'")


def check_definition(name: str, info: SourceInfo, meta: str) -> None:
    """Check the name of a command, event or type.

    Raises:
        QapiError: it breaks the rules for its kind.
    """
    rules = info.pragmas.rules
    reserved = ("List",) if rules.since(6, 2) else ("List", "Kind")
    if not rules.since(6, 0):
        _check_old(name, info, meta, permissive=True)
    elif meta == "event":
        if _LOWER.search(stem(name, info, meta)):
            raise QapiError(info, "name of event must not use lowercase or '-'")
        return
    elif meta == "command":
        core = stem(name, info, meta)
        excepted = name in info.pragmas.command_name_exceptions
        if _UPPER.search(core) or ("_" in core and not excepted):
            raise QapiError(info, "name of command must not use uppercase or '_'")
        return
    elif not _CAMEL.fullmatch(stem(name, info, meta)):
        raise QapiError(info, f"name of {meta} must use CamelCase")
    for ending in reserved:
        if name.endswith(ending):
            raise QapiError(info, f"{meta} name should not end in '{ending}'")
