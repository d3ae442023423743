"""The naming rules of the language, and the C names by which members collide."""

from __future__ import annotations

import re

from nbexport.qapi.source import QapiError, SourceInfo

_NAME = re.compile(r"(__[a-z0-9.-]+_)?(x-)?([a-z][a-z0-9_-]*)", re.IGNORECASE | re.ASCII)
_CAMEL = re.compile(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*")


def c_name(name: str) -> str:
    """Return the C identifier of a name; two members collide if theirs are equal."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


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


def check_lower(name: str, info: SourceInfo, source: str, *, permissive: bool = False) -> None:
    """Check the name of a command, member, value or feature.

    Raises:
        QapiError: it has upper case letters or ``_`` and is no exception.
    """
    core = stem(name, info, source)
    if not permissive and (re.search("[A-Z]", core) or "_" in core):
        raise QapiError(info, f"name of {source} must not use uppercase or '_'")


def check_command(name: str, info: SourceInfo) -> None:
    """Check a command's name; only ``_`` can be excepted, by pragma.

    Raises:
        QapiError: it breaks the rule.
    """
    core = stem(name, info, "command")
    excepted = name in info.pragmas.command_name_exceptions
    if re.search("[A-Z]", core) or ("_" in core and not excepted):
        raise QapiError(info, "name of command must not use uppercase or '_'")


def check_upper(name: str, info: SourceInfo) -> None:
    """Check an event's name.

    Raises:
        QapiError: it has lower case letters or ``-``.
    """
    if re.search("[a-z-]", stem(name, info, "event")):
        raise QapiError(info, "name of event must not use lowercase or '-'")


def check_camel(name: str, info: SourceInfo, meta: str) -> None:
    """Check a type's name.

    Raises:
        QapiError: it is not in CamelCase, or ends with ``List``, which names arrays.
    """
    if not _CAMEL.fullmatch(stem(name, info, meta)):
        raise QapiError(info, f"name of {meta} must use CamelCase")
    if name.endswith("List"):
        raise QapiError(info, f"{meta} name should not end in 'List'")
