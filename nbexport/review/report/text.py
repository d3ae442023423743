"""The report as text: one paragraph a finding, opened by file and line as compilers do."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from nbexport.review.finding import Level
from nbexport.review.report.model import NOTHING, counted, route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nbexport.review.finding import Finding
    from nbexport.review.report.model import Review

    Style = Callable[[str, str], str]

_WIDTH = 96
# SGR parameters: ECMA-48, 8.3.117.
_COLOURS = {
    str(Level.BREAKING): "1;31",
    str(Level.RISKY): "1;33",
    str(Level.NOTICE): "36",
    str(Level.INFO): "2",
    "title": "1",
}
_OWN = re.compile("(\033\\[(?:0|1|2|36|1;31|1;33)m)")


def as_text(review: Review, *, colour: bool = False) -> str:
    """Return the report for a terminal.

    Args:
        review: what to report.
        colour: whether to set levels and titles off.
    """
    style = _coloured if colour else _plain
    return "\n".join(map(_shown, _lines(review, style))) + "\n"


def _shown(line: str) -> str:
    """Return a line in which a terminal finds no command but our colours.

    Subjects of mails and names of files are other people's words.
    """
    return "".join(
        piece if index % 2 else "".join(c if c.isprintable() else "\ufffd" for c in piece)
        for index, piece in enumerate(_OWN.split(line))
    )


def _plain(text: str, _kind: str) -> str:
    return text


def _coloured(text: str, kind: str) -> str:
    return f"\033[{_COLOURS[kind]}m{text}\033[0m"


def _lines(review: Review, style: Style) -> Iterator[str]:
    series = len(review.steps) > 1
    findings = review.findings
    if series:
        findings = review.whole_only
        for step in review.steps:
            yield style(step.step.patch.shown, "title") + f": {counted(step.findings)}"
            if step.step.old is step.step.new:
                yield "  changes no file of the schema"
            for finding in step.findings:
                yield ""
                yield from _paragraph(finding, style, only_here=review.only_here(finding))
            yield ""
        if findings:
            yield style("Only the series as a whole", "title") + f": {counted(findings)}"
    for index, finding in enumerate(findings):
        if index or series:
            yield ""
        yield from _paragraph(finding, style)
    if findings:
        yield ""
    for note in review.notes:
        yield f"note: {note}"
    for item in review.ignored:
        until = f" until {item.expires}" if item.expires is not None else ""
        yield f"let pass{until}: {item.finding.message} [{item.finding.rule}]: {item.reason}"
    yield summary(review)


def summary(review: Review) -> str:
    """Return the last line: what was compared, and how much was found."""
    about = f"{review.old} -> {review.new}"
    release = f" for release {review.release}" if review.release is not None else ""
    passed = f"; {len(review.ignored)} let pass" if review.ignored else ""
    return f"{about}{release}: {counted(review.findings)}{passed}"


def _paragraph(finding: Finding, style: Style, *, only_here: bool = False) -> Iterator[str]:
    place = finding.new or finding.old
    where = f"{place}: " if place is not None else ""
    level = style(str(finding.level), str(finding.level))
    yield f"{where}{level}: {finding.message} [{finding.rule}]"
    if way := route(finding):
        yield from _wrapped("path", way)
    if finding.also:
        yield from _wrapped("also", ", ".join(finding.also))
    if finding.old is not None and finding.old != place:
        yield from _wrapped("was", str(finding.old))
    if finding.advice and finding.advice != NOTHING and not only_here:
        yield from _wrapped("fix", finding.advice)
    if only_here:
        yield "  the series as a whole does not do this"
    yield f"  fingerprint {finding.fingerprint}"


def _wrapped(title: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{title}: {text}",
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
