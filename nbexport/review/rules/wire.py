"""Rules about the wire itself: one for each kind of difference and direction."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from nbexport.review.rules import marks, members
from nbexport.review.rules.lines import NOBODY, SENDS
from nbexport.review.rules.registry import Rule, Taxonomy, register

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.review.compare import Kind
    from nbexport.review.finding import Finding
    from nbexport.review.rules.lines import Line
    from nbexport.review.rules.subject import Subject


def _check(line: Line, rule: Rule, subject: Subject) -> Iterator[Finding]:
    for difference in subject.differences:
        if difference.kind is not line.kind or not line.only(difference):
            continue
        if line.direction is not NOBODY and difference.direction is not line.direction:
            continue
        name, element = difference.name, difference.element
        # a feature's condition is about the feature
        title = f"the {name} of {element}" if name.startswith("feature ") else element
        message = line.message.format(
            element=element, title=title, name=name, was=difference.was, now=difference.now
        )
        finding = subject.about(rule, message, difference)
        if line.what == "feature":
            # one piece can have several, which are told apart
            finding = replace(finding, element=f"{element}.features.{name}")
        elif title != element:
            feature = name.removeprefix("feature ")
            finding = replace(finding, element=f"{element}.features.{feature}")
        yield finding


def _action(kind: Kind) -> str:
    return kind.value.rpartition("-")[2]


# where the rules for arguments and for results do not have the same name
_OTHER_WAYS = {
    # what is hard on the sender of an argument is easy on the reader of a result, and the reverse
    "argument-added-required": "result-added",
    "result-removed-optional": "argument-removed",
}


def _other_way(line: Line) -> str:
    """Return the rule about the same difference in what the other side sends."""
    if line.direction is NOBODY:
        return ""
    here, there = ("argument", "result") if line.direction is SENDS else ("result", "argument")
    return _OTHER_WAYS.get(line.id, line.id.replace(here, there, 1))


for _line in (*members.LINES, *marks.LINES, *marks.FLAG_LINES):
    register(
        Rule(
            _line.id,
            _line.level,
            Taxonomy(_line.what, _line.direction, _action(_line.kind)),
            _line.reason,
            _line.fix,
            _line.positive,
            _line.negative,
            partial(_check, _line),
            opposite=_line.opposite,
            other_way=_other_way(_line),
            companions=_line.companions,
        )
    )
