"""What a run found beside what it found when the baseline was made."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from nbexport import __version__
from nbexport.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

Baseline = dict[str, dict[str, Any]]
"""For the id of each run its results."""


@dataclass(frozen=True)
class Difference:
    """One value that is not what it was.

    Attributes:
        where: the result and the place in it: ``extents[3].dirty``.
        expected: the baseline's value as JSON; empty where it has none.
        found: the run's value as JSON; empty where it has none.
    """

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        if not self.expected:
            return f"{self.where}: {self.found}, not in the baseline"
        if not self.found:
            return f"{self.where}: missing, was {self.expected}"
        return f"{self.where}: {self.found}, was {self.expected}"


def compare(
    run: str,
    found: Mapping[str, Any],
    expected: Mapping[str, Any],
    *,
    ignore: Collection[str] = (),
    tolerance: Mapping[str, float] | None = None,
) -> list[Difference]:
    """Return in what the results of a run differ from those of the baseline.

    Args:
        run: its id; patterns are matched against ``RUN.RESULT``.
        found: its results.
        expected: the baseline's.
        ignore: patterns of results that may differ.
        tolerance: patterns of results, and by which share of the larger one two numbers in them
            may differ.
    """
    differences = []
    for name in dict.fromkeys([*expected, *found]):
        title = f"{run}.{name}"
        if any(fnmatchcase(title, pattern) for pattern in ignore):
            continue
        share = max(
            (some for pattern, some in (tolerance or {}).items() if fnmatchcase(title, pattern)),
            default=0.0,
        )
        old = dict(_leaves(expected[name], name)) if name in expected else {}
        new = dict(_leaves(found[name], name)) if name in found else {}
        for where in dict.fromkeys([*old, *new]):
            if where not in old or where not in new or not _same(old[where], new[where], share):
                before, now = _text(old, where), _text(new, where)
                differences.append(Difference(where, before, now))
    return differences


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield each value that has no parts, with its place; an empty list is such a value."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{where}.{key}")
    elif isinstance(value, list) and value:
        for number, part in enumerate(value):
            yield from _leaves(part, f"{where}[{number}]")
    else:
        yield where, value


def _same(old: Any, new: Any, share: float) -> bool:
    numbers = all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in (old, new)
    )
    if numbers:
        return math.isclose(old, new, rel_tol=share, abs_tol=0.0)
    return type(old) is type(new) and bool(old == new)


def _text(values: Mapping[str, Any], where: str) -> str:
    return json.dumps(values[where], ensure_ascii=False) if where in values else ""


def read_baseline(text: str, path: str) -> Baseline:
    """Return a baseline from its file.

    Raises:
        FormatError: it is none.
    """
    try:
        runs = json.loads(text)["runs"]
        if not all(isinstance(results, dict) for results in runs.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError("it is no baseline of a matrix", path=path) from error
    result: Baseline = runs
    return result


def write_baseline(baseline: Baseline) -> str:
    """Return a baseline as the text of a file: sorted, so that a change of it can be read."""
    told = {"nbexport": __version__, "runs": dict(sorted(baseline.items()))}
    return json.dumps(told, indent=1, ensure_ascii=False, sort_keys=False) + "\n"
