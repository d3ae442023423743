"""The registry of rules, and what a rule is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nbexport.review.finding import Direction, Finding, Level
    from nbexport.review.rules.subject import Subject

    Check = Callable[["Rule", Subject], Iterable[Finding]]

_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Example:
    """A change that shows a rule.

    Args:
        old: the schema before, as text.
        new: the schema after.
        release: the release under development; empty if it does not matter.
        shipped: schemas of earlier releases, by release.
        notes: the list of deprecations that goes with the new schema.
        as_of: the release by whose rules the texts are read; empty for the newest.
    """

    old: str
    new: str
    release: str = ""
    shipped: tuple[tuple[str, str], ...] = ()
    notes: str | None = None
    as_of: str = ""


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """Where a rule belongs.

    Args:
        what: ``command``, ``event``, ``argument``, ``result``, ``value``, ``feature``,
            ``condition``, ``flag``, ``deprecation``, ``documentation``, ``since``, ``design``.
        direction: who sends what it is about.
        action: ``added``, ``removed``, ``widened``, ``narrowed``, ``changed``, ``missing``,
            ``wrong``, ...
    """

    what: str
    direction: Direction
    action: str

    def __str__(self) -> str:
        return "/".join(filter(None, (self.what, str(self.direction), self.action)))


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule.

    Args:
        id: its name, in kebab-case.
        level: how much its findings weigh.
        taxonomy: where it belongs.
        reason: why it matters, one sentence.
        fix: how to mend it, one sentence.
        positive: a change that it finds.
        negative: a similar one that it does not find.
        check: finds it.
        opposite: the rule about the reverse change; empty if there is none.
        alone: why there is no opposite.
        other_way: the rule about the same in the other direction, for one that has a direction.
        one_way: why there is none.
        companions: rules that speak of the same change too.
    """

    id: str
    level: Level
    taxonomy: Taxonomy
    reason: str
    fix: str
    positive: Example
    negative: Example
    check: Check = field(repr=False, compare=False)
    opposite: str = ""
    alone: str = ""
    other_way: str = ""
    one_way: str = ""
    companions: tuple[str, ...] = ()


RULES: dict[str, Rule] = {}
"""All rules by id, in the order in which they are listed."""


def register(rule: Rule) -> Rule:
    """Add a rule.

    Raises:
        ValueError: its id is no kebab-case or is taken, or it does not tell of its opposite, or of
            the other direction if it has one.
    """
    if not _ID.fullmatch(rule.id) or rule.id in RULES:
        raise ValueError(f"rule '{rule.id}': not in kebab-case, or there already")
    if bool(rule.opposite) == bool(rule.alone):
        raise ValueError(f"rule '{rule.id}' needs an opposite, or a word why there is none")
    told = bool(rule.other_way), bool(rule.one_way)
    if told.count(True) != bool(rule.taxonomy.direction):
        raise ValueError(f"rule '{rule.id}' needs a word about the other direction if it has one")
    RULES[rule.id] = rule
    return rule
