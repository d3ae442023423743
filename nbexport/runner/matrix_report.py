"""What a matrix found: a page with a grid, and junit's XML for CI."""

from __future__ import annotations

import datetime as dt
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport import __version__
from nbexport.runner.campaign import DIFFERS, STATUSES, Verdict
from nbexport.runner.execute import FAILED, MISSING, PASSED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TEMPLATES = Path(__file__).with_name("templates")
_COLUMN = "release"
DIFFERENCES_SHOWN = 40
"""Of one run; the rest is counted."""

WORDS = {PASSED: "passed", DIFFERS: "differs", FAILED: "failed", MISSING: "not run"}
_MARKS = {PASSED: "✓", DIFFERS: "≠", FAILED: "✗", MISSING: "○"}


def tally(verdicts: Sequence[Verdict]) -> str:
    """Return how many runs went how, in one line."""
    counts = Counter(verdict.status for verdict in verdicts)
    return ", ".join(f"{counts[status]} {WORDS[status]}" for status in STATUSES if counts[status])


def page(title: str, verdicts: Sequence[Verdict], *, gone: Iterable[str] = ()) -> str:
    """Return the report as a page that needs nothing else.

    For each notebook a grid: a column for each release, a row for each combination of the other
    parameters; below it what differs or failed. Links lead to the folders of the runs.

    Args:
        title: of the matrix.
        verdicts: of its runs.
        gone: runs of the baseline that the matrix no longer has.
    """
    from jinja2 import Environment, FileSystemLoader  # noqa: PLC0415 - comes with nbconvert
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True)
    css = (_TEMPLATES / "site.css").read_text(encoding="utf-8")
    return environment.get_template("matrix.html.j2").render(
        title=title,
        css=Markup(css),  # noqa: S704 - our own style sheet
        tally=tally(verdicts),
        grids=[_grid(name, of) for name, of in _by_notebook(verdicts).items()],
        problems=[_problem(verdict) for verdict in verdicts if verdict.status != PASSED],
        gone=list(gone),
        marks=_MARKS,
        words=WORDS,
        seconds=sum(verdict.outcome.seconds for verdict in verdicts),
        version=__version__,
        date=dt.datetime.now(tz=dt.UTC).strftime("%Y-%m-%d"),
    )


def _by_notebook(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.run.notebook.name, []).append(verdict)
    return found


def _grid(name: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    columns = list(dict.fromkeys(verdict.run.parameters.get(_COLUMN, "") for verdict in verdicts))
    rows: dict[str, dict[Any, dict[str, Any]]] = {}
    for verdict in verdicts:
        rest = {key: value for key, value in verdict.run.parameters.items() if key != _COLUMN}
        label = ", ".join(f"{key} = {_short(value)}" for key, value in sorted(rest.items()))
        column = verdict.run.parameters.get(_COLUMN, "")
        rows.setdefault(label, {})[column] = _cell(verdict)
    return {
        "name": name,
        "title": verdicts[0].run.notebook.title,
        "columns": columns,
        "rows": [
            {"label": label or "defaults", "cells": [cells.get(column) for column in columns]}
            for label, cells in rows.items()
        ],
    }


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return str(value) if value != "" else "none"


def _cell(verdict: Verdict) -> dict[str, Any]:
    base = f"runs/{verdict.run.folder}"
    ran = verdict.status != MISSING
    return {
        "id": verdict.run.id,
        "status": verdict.status,
        "seconds": f"{verdict.outcome.seconds:.1f}",
        "kept": verdict.kept,
        "notebook": f"{base}/{verdict.run.notebook.path.name}" if ran else "",
        "log": f"{base}/log.txt" if ran else "",
        "outcome": f"{base}/outcome.json" if ran else "",
    }


def _problem(verdict: Verdict) -> dict[str, Any]:
    shown = verdict.differences[:DIFFERENCES_SHOWN]
    return {
        **_cell(verdict),
        "reason": verdict.outcome.reason,
        "differences": shown,
        "more": len(verdict.differences) - len(shown),
    }


def junit(title: str, verdicts: Sequence[Verdict]) -> str:
    """Return the report as the XML that CI systems read: a case for each run."""
    counts = Counter(verdict.status for verdict in verdicts)
    suite = ET.Element(
        "testsuite",
        name=title,
        tests=str(len(verdicts)),
        failures=str(counts[DIFFERS]),
        errors=str(counts[FAILED]),
        skipped=str(counts[MISSING]),
        time=f"{sum(verdict.outcome.seconds for verdict in verdicts):.3f}",
    )
    for verdict in verdicts:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=verdict.run.notebook.name,
            name=verdict.run.id,
            time=f"{verdict.outcome.seconds:.3f}",
        )
        reason = verdict.outcome.reason
        if verdict.status == DIFFERS:
            text = "\n".join(map(str, verdict.differences))
            word = f"{len(verdict.differences)} differences from the baseline"
            ET.SubElement(case, "failure", message=word).text = _xml(text)
        elif verdict.status == FAILED:
            ET.SubElement(case, "error", message=_xml(reason)).text = _xml(verdict.outcome.log)
        elif verdict.status == MISSING:
            ET.SubElement(case, "skipped", message=_xml(reason))
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    """Replace what XML cannot say, such as the colours of a traceback."""
    return "".join(char if char >= " " or char in "\t\n" else "�" for char in text)
