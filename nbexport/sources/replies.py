"""An introspection in a file: the list itself, one reply, or a recorded stream of replies."""

from __future__ import annotations

import json
from json import JSONDecoder
from typing import TYPE_CHECKING, Any

from nbexport.errors import SourceError
from nbexport.qapi.from_introspection import is_introspection
from nbexport.units import MiB

if TYPE_CHECKING:
    from collections.abc import Iterator

# An answer of QEMU 11.0 has 0.3 MB, a recording of all that libvirt asks 0.6 MB.
MAX_SIZE = 64 * MiB
_SPACE = " \t\r\n"


def looks_like_json(text: str) -> bool:
    """Return whether a file's text begins as JSON does and a schema file does not.

    Schema files have strings in single quotes and no array at their top.
    """
    text = text[:4096].lstrip(_SPACE + "\ufeff")
    if text.startswith("{"):
        inside = text[1:].lstrip(_SPACE)
        return inside.startswith(('"', "}"))
    return text.startswith("[")


def find_introspection(text: str, path: str) -> tuple[list[Any], tuple[int, ...] | None]:
    """Return the first introspection of a file, and the release that the file tells.

    Args:
        text: a list of SchemaInfo, ``{"return": [...]}``, or JSON values one after another, as
            recordings of monitors are.
        path: what errors call the file.

    Raises:
        SourceError: it is no JSON, or none of its values is an introspection.
    """
    release: tuple[int, ...] | None = None
    found: list[Any] | None = None
    for value in _values(text, path):
        answer = value.get("return") if isinstance(value, dict) else value
        if found is None and is_introspection(answer):
            assert isinstance(answer, list)
            found = answer
        if release is None and isinstance(value, dict):
            release = release_of(value.get("QMP")) or release_of(answer)
    if found is None:
        raise SourceError(f"{path}: no answer to query-qmp-schema in it")
    return found, release


def release_of(answer: Any) -> tuple[int, ...] | None:
    """Return the release in a greeting's ``QMP`` object or an answer to ``query-version``."""
    if not isinstance(answer, dict):
        return None
    inner = answer.get("version", answer)
    version = inner.get("qemu") if isinstance(inner, dict) else None
    if not isinstance(version, dict):
        return None
    numbers = [version.get(part) for part in ("major", "minor", "micro")]
    return tuple(n for n in numbers if isinstance(n, int)) if None not in numbers else None


def _values(text: str, path: str) -> Iterator[Any]:
    decoder = JSONDecoder()
    position = 1 if text.startswith("\ufeff") else 0
    while True:
        while position < len(text) and text[position] in _SPACE:
            position += 1
        if position == len(text):
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise SourceError(
                f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}"
            ) from error
        except RecursionError as error:
            raise SourceError(f"{path}: not an introspection: nested too deeply") from error
        yield value
