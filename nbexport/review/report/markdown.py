"""The report as Markdown, for a comment on a change request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nbexport.review.report.model import NOTHING, counted, route

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nbexport.review.finding import Finding
    from nbexport.review.report.model import Review

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def as_markdown(review: Review) -> str:
    """Return the report as GitHub-flavoured Markdown."""
    return "\n".join(_lines(review)).rstrip("\n") + "\n"


def escaped(text: str) -> str:
    """Return text in which nothing is markup; what stands in single quotes becomes code."""
    parts = re.split(r"'([^'`\s]+)'", text)
    return "".join(
        f"`{part}`" if index % 2 else _SPECIAL.sub(r"\\\1", part)
        for index, part in enumerate(parts)
    )


def code(text: str) -> str:
    """Return text as code; one with a backtick gets two around it."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def _lines(review: Review) -> Iterator[str]:
    yield "# Review of an interface change"
    yield ""
    release = f" for release {escaped(review.release)}" if review.release is not None else ""
    change = f"From {code(review.old)} to {code(review.new)}{release}"
    yield f"{change}: **{counted(review.findings)}**."
    yield ""
    if len(review.steps) > 1:
        for step in review.steps:
            yield f"## {escaped(step.step.patch.shown)}"
            yield ""
            if step.step.old is step.step.new:
                yield "Changes no file of the schema."
            elif not step.findings:
                yield "No findings."
            for finding in step.findings:
                yield from _item(finding, only_here=review.only_here(finding))
            yield ""
        if review.whole_only:
            yield "## Only the series as a whole"
            yield ""
            yield from _items(review.whole_only)
            yield ""
    else:
        yield from _items(review.findings)
        yield ""
    yield from (f"- Note: {escaped(note)}" for note in review.notes)
    if review.ignored:
        yield ""
        yield "<details><summary>Let pass by the policy</summary>"
        yield ""
        for ignored in review.ignored:
            until = f", until {ignored.expires}" if ignored.expires is not None else ""
            rule = code(ignored.finding.rule)
            yield f"- {rule}: {escaped(ignored.finding.message)} ({escaped(ignored.reason)}{until})"
        yield ""
        yield "</details>"


def _items(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield from _item(finding)


def _item(finding: Finding, *, only_here: bool = False) -> Iterator[str]:
    place = finding.new or finding.old
    where = f" ({code(str(place))})" if place is not None else ""
    yield f"- **{finding.level}** {code(finding.rule)}: {escaped(finding.message)}{where}"
    if route(finding):
        yield f"  - reached by {' → '.join(code(step) for step in finding.path)}"
    if finding.also:
        yield f"  - also {', '.join(map(code, finding.also))}"
    if finding.advice and finding.advice != NOTHING and not only_here:
        yield f"  - {escaped(finding.advice)}"
    if only_here:
        yield "  - The series as a whole does not do this."
