"""Small tables for notebooks: the numbers that stand beside a figure."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nbexport.errors import UsageError
from nbexport.nbd.meanings import describe
from nbexport.units import KiB, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbexport.bits import Extents
    from nbexport.emulator import StepAnswer
    from nbexport.timeline.history import History

_WINDOW_MIN = 256 * KiB
_WINDOW_FACTOR = 32
"""A window shows this many times the extent that it is about."""


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; a notebook shows it as HTML, anything else as columns.

    Attributes:
        header: one word for each column.
        rows: each as long as the header.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        padded = (
            "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True))
            for line in lines
        )
        return "\n".join(line.rstrip() for line in padded)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head = "".join(
            f'<th scope="col">{html.escape(word)}</th>' if word else "<td></td>"
            for word in self.header
        )
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(word)}</td>" for word in row) + "</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def bitmap_table(nodes: Sequence[Mapping[str, Any]], node_name: str) -> Table:
    """Tabulate the dirty bitmaps of a node, oldest first.

    Args:
        nodes: the result of query-named-block-nodes.
        node_name: which of them.

    Raises:
        UsageError: there is no such node.
    """
    node = next((node for node in nodes if node["node-name"] == node_name), None)
    if node is None:
        raise UsageError(f"no node named '{node_name}'")
    rows = [
        (
            bitmap["name"],
            format_size(bitmap["granularity"]),
            format_size(bitmap["count"]),
            ", ".join(
                word
                for word in ("recording", "persistent", "busy", "inconsistent")
                if bitmap.get(word)
            ),
        )
        for bitmap in reversed(node.get("dirty-bitmaps", []))
    ]
    return Table(("bitmap", "granularity", "dirty", "state"), rows)


def map_table(maps: Mapping[str, Extents]) -> Table:
    """Tabulate for each context how many extents it has and how many bytes carry what."""
    rows = []
    for context, extents in maps.items():
        totals = ", ".join(
            f"{format_size(count)} {describe(context, flags) or f'flags {flags}'}"
            for flags, count in extents.totals().items()
        )
        rows.append((context, str(len(extents)), totals))
    return Table(("context", "extents", "bytes"), rows)


def history_table(told: History) -> Table:
    """Tabulate an element's members through releases.

    Neighbouring releases in which nothing differs share a column. A cell is the member's type in
    the notation of the schema language, with a question mark where it can be left out.
    """
    columns = []
    for number, state in enumerate(told.states):
        if state is None:
            columns.append(("absent", *("" for _ in told.members)))
            continue
        forms = (forms[number] for forms in told.members.values())
        shown = ", ".join(state) or "present"
        columns.append((shown, *(str(form) if form else "-" for form in forms)))
    return _through_releases((told.name, *told.members), told.releases, columns)


def availability_table(found: Mapping[str, Sequence[str]], releases: Sequence[str]) -> Table:
    """Tabulate what releases have of commands and arguments; neighbours alike share a column.

    Args:
        found: for each the answers of `nbexport.timeline.availability`.
        releases: the releases that were asked about.
    """
    cells = ([answer or "-" for answer in answers] for answers in found.values())
    return _through_releases(tuple(found), releases, list(zip(*cells, strict=True)))


def answer_table(answers: Mapping[str, StepAnswer]) -> Table:
    """Tabulate what a monitor answered to each step of a script, and which events came.

    Args:
        answers: the answers, by what their steps are called.
    """
    rows = [
        (
            name,
            answer.command,
            _told(answer.reply),
            "; ".join(
                f"{event['event']} {json.dumps(event.get('data', {}))} {when} the reply"
                for events, when in ((answer.before, "before"), (answer.after, "after"))
                for event in events
            ),
        )
        for name, answer in answers.items()
    ]
    return Table(("step", "command", "answer", "events"), rows)


def command_table(log: Sequence[tuple[Any, Mapping[str, Any]]], *, last: int = 0) -> Table:
    """Tabulate commands as they were sent, and what was answered.

    Args:
        log: pairs of a command, which is a name and arguments, and the whole reply.
        last: how many of the newest to show; 0 for all.
    """
    rows = [
        (command, json.dumps(arguments), _told(reply))
        for (command, arguments), reply in log[-last:]
    ]
    return Table(("command", "arguments", "answer"), rows)


def comparison_table(answers: Mapping[str, Mapping[str, StepAnswer]]) -> Table:
    """Tabulate what several monitors answered to the same script; neighbours alike share a column.

    An event stands before the answer or behind it, as it came.

    Args:
        answers: for each monitor its answers, by what their steps are called.
    """
    steps = tuple(next(iter(answers.values()))) if answers else ()
    columns = [tuple(_with_events(found[step]) for step in steps) for found in answers.values()]
    return _through_releases(steps, list(answers), columns)


def _with_events(answer: StepAnswer) -> str:
    before, after = ([event["event"] for event in some] for some in (answer.before, answer.after))
    return ", ".join([*before, _told(answer.reply), *after])


def _told(reply: Mapping[str, Any]) -> str:
    """Return an answer in a line: nothing to tell is a tick, a refusal its class and text."""
    if "error" in reply:
        error = reply["error"]
        known = error["class"] == "GenericError"
        return str(error["desc"]) if known else f"{error['class']}: {error['desc']}"
    result = reply["return"]
    return "\N{CHECK MARK}" if result == {} else json.dumps(result)


def _through_releases(
    names: Sequence[str], releases: Sequence[str], columns: Sequence[tuple[str, ...]]
) -> Table:
    """Return a table with a column for each run of neighbours that are alike."""
    runs: list[tuple[list[str], tuple[str, ...]]] = []
    for release, cells in zip(releases, columns, strict=True):
        if runs and runs[-1][1] == cells:
            runs[-1][0].append(release)
        else:
            runs.append(([release], cells))
    header = [r[0] if len(r) == 1 else f"{r[0]} to {r[-1]}" for r, _ in runs]
    rows = [(name, *(cells[row] for _, cells in runs)) for row, name in enumerate(names)]
    return Table(("", *header), rows)


def window(maps: Mapping[str, Extents], context: str) -> tuple[int, int]:
    """Return a range around the first extent of ``context`` whose flags are not 0.

    Where there is none, or the disk is small, the range is the whole disk.

    Raises:
        UsageError: there is no map of that context.
    """
    if context not in maps:
        raise UsageError(f"no map of '{context}' (there are: {', '.join(maps)})")
    extents = maps[context]
    marked = np.flatnonzero(extents.flags)
    if not len(marked):
        return extents.start, extents.end
    low, high = extents.bounds[marked[0] : marked[0] + 2].tolist()
    size = max(_WINDOW_MIN, _WINDOW_FACTOR * (high - low))
    start = max(extents.start, (low + high - size) // 2)
    end = min(extents.end, start + size)
    return max(extents.start, end - size), end
