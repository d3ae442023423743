"""What a notebook found, for programs: recorded in its outputs, gathered when it has run.

A record travels in the output of the cell that made it, in the form that scrapbook's ``glue``
gives a piece of JSON, so that papermill keeps it and scrapbook's reader finds it.
"""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from nbexport.errors import NotebookError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MIME = "application/scrapbook.scrap.json+json"
"""Media type of a record; its JSON has ``name``, ``data``, ``encoder`` and ``version``."""

VALUE_MAX = 1 << 20
"""Characters of a record's JSON: results are facts, not data, and are compared by people."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SHOWN_MAX = 160
_OUR_METADATA = "nbexport"


@dataclass(frozen=True)
class Records:
    """All that a notebook recorded.

    Attributes:
        results: by name, what every run with the same parameters finds again.
        measured: by name, what differs from run to run: times, rates, versions.
    """

    results: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)


def record(name: str, value: Any, *, measured: bool = False) -> None:
    """Record a result under a name, and show it.

    Args:
        name: lower-case letters, digits and underscores; no other record of the notebook has it.
        value: what JSON can say: None, a bool, a finite number, a string, or lists and mappings
            of these. Numpy's scalars and arrays, tuples and paths are converted.
        measured: whether it differs from run to run, as times do; such a value is kept, and is
            not compared.

    Raises:
        UsageError: the name is none, or the value cannot be told in JSON; the text says where.
    """
    from IPython.display import display  # noqa: PLC0415 - only a notebook has it

    if not _NAME.fullmatch(str(name)):
        raise UsageError(
            f"{name!r} cannot name a record: lower-case letters, digits and underscores can"
        )
    data = plain(value, f"record '{name}'")
    text = json.dumps(data, ensure_ascii=False)
    if len(text) > VALUE_MAX:
        raise UsageError(
            f"record '{name}' has {len(text)} characters of JSON; {VALUE_MAX} are allowed"
        )
    shown = text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"
    mark = "measured" if measured else "recorded"
    display(
        {
            MIME: {"name": name, "data": data, "encoder": "json", "version": 1},
            "text/plain": f"{mark} {name} = {shown}",
            "text/html": f'<div class="record">{mark} <code>{name}</code> = '
            f"<code>{html.escape(shown)}</code></div>",
        },
        metadata={
            "scrapbook": {"name": name, "data": True, "display": False},
            _OUR_METADATA: {"measured": measured},
        },
        raw=True,
    )


def plain(value: Any, where: str) -> Any:
    """Return a value in the types that JSON has.

    Args:
        value: what is to be told.
        where: what the value is, for the text of an error.

    Raises:
        UsageError: it, or a part of it, cannot be told; the text says which.
    """
    # numpy's scalars and arrays both say themselves in Python's types; numpy is not imported here
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise UsageError(f"{where} is {value}, which JSON cannot tell")
            return value
        case PurePath():
            return str(value)
        case list() | tuple():
            return [plain(item, f"{where}[{number}]") for number, item in enumerate(value)]
        case dict():
            for key in value:
                if not isinstance(key, str):
                    raise UsageError(f"{where} has the key {key!r}; a key must be a string")
            return {str(key): plain(item, f"{where}['{key}']") for key, item in value.items()}
    raise UsageError(f"{where} is a value of type {type(value).__name__}, which JSON cannot tell")


def collect(cells: Iterable[Mapping[str, Any]], name: str) -> Records:
    """Return the records in the outputs of executed cells, in the order in which they were made.

    Args:
        cells: of the executed notebook.
        name: the notebook's, for the text of an error.

    Raises:
        NotebookError: two records have the same name, or one is not as `record` makes it.
    """
    found = Records({}, {})
    seen: dict[str, int] = {}
    number = 0
    for cell in cells:
        number += cell.get("cell_type") == "code"
        for output in cell.get("outputs", []):
            told = output.get("data", {}).get(MIME)
            if told is None:
                continue
            if not isinstance(told, dict) or not {"name", "data"} <= told.keys():
                raise NotebookError(f"{name}, cell {number}: a record without name or data")
            key = str(told["name"])
            if key in seen:
                raise NotebookError(
                    f"{name}: '{key}' is recorded twice, in cells {seen[key]} and {number}"
                )
            seen[key] = number
            ours = output.get("metadata", {}).get(_OUR_METADATA, {})
            kept: Any = found.measured if ours.get("measured") else found.results
            kept[key] = told["data"]
    return found
