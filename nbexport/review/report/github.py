"""The report as workflow commands, which GitHub shows beside the lines of a change."""

from __future__ import annotations

from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING

from nbexport.review.finding import Level
from nbexport.review.report.model import route

if TYPE_CHECKING:
    from nbexport.review.finding import Finding
    from nbexport.review.report.model import Review

_COMMANDS = {
    Level.BREAKING: "error",
    Level.RISKY: "warning",
    Level.NOTICE: "notice",
}


def as_github(review: Review) -> str:
    """Return one annotation a line for the findings of the change as a whole.

    Findings of level ``info`` are left out: GitHub shows a few annotations only.
    Files of a patch are called what the patch calls them, which is where GitHub has them.
    """
    names: dict[str, str] = {}
    for step in review.steps:
        names |= step.step.applying.files
    return "".join(
        f"{_annotation(finding, names)}\n"
        for finding in review.findings
        if finding.level in _COMMANDS
    )


def _annotation(finding: Finding, names: dict[str, str]) -> str:
    place = finding.new or finding.old
    properties = {"title": finding.rule}
    if place is not None:
        name = _from_here(names.get(normpath(place.file), place.file))
        properties = {"file": name, "line": str(place.line)} | properties
    listed = ",".join(f"{key}={escape(value, ',:')}" for key, value in properties.items())
    parts = [finding.message]
    if way := route(finding):
        parts.append(way)
    if finding.advice:
        parts.append(finding.advice)
    return f"::{_COMMANDS[finding.level]} {listed}::{escape(chr(10).join(parts))}"


def _from_here(name: str) -> str:
    """Return a file's name from the current folder, where a workflow has its checkout."""
    path = Path(name)
    here = Path.cwd()
    inside = path.is_absolute() and path.is_relative_to(here)
    return path.relative_to(here).as_posix() if inside else name


def escape(text: str, more: str = "") -> str:
    """Return text as GitHub's toolkit escapes it: messages, and properties with more letters."""
    for letter in "%\r\n" + more:
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text
