"""Rules about what goes: whether it was announced, and for long enough."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nbexport.review.compare import Kind
from nbexport.review.context import branch, releases_between
from nbexport.review.finding import Direction, Level
from nbexport.review.rules.examples import (
    REMOVED_AT_ONCE,
    REMOVED_EARLY,
    REMOVED_IN_TIME,
    REMOVED_LATER,
)
from nbexport.review.rules.registry import Rule, Taxonomy, register
from nbexport.review.rules.subject import mentions, part_is_deprecated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.review.facts import Difference
    from nbexport.review.finding import Finding
    from nbexport.review.rules.subject import Subject

_REMOVALS = {
    Kind.COMMAND_REMOVED: "the command {name}",
    Kind.EVENT_REMOVED: "the event {name}",
    Kind.MEMBER_REMOVED: "{element}",
    Kind.VALUE_REMOVED: "{element}",
}


def _removed(subject: Subject) -> Iterator[tuple[Difference, str]]:
    """Give what is gone and was protected, with its name in a sentence."""
    for difference in subject.differences:
        if difference.kind not in _REMOVALS or subject.experimental(difference):
            continue
        if difference.kind is Kind.VALUE_REMOVED and difference.direction is not Direction.SENDS:
            # what QEMU sends no longer breaks nobody
            continue
        if not any(map(subject.released, difference.roots)) or subject.unsettled(difference):
            continue
        title = _REMOVALS[difference.kind].format(name=difference.name, element=difference.element)
        yield difference, title


def _was_deprecated(subject: Subject, difference: Difference) -> bool:
    if part_is_deprecated(difference.old_part):
        return True
    if all(part_is_deprecated(subject.old.entities.get(root)) for root in difference.roots):
        return True
    notes = subject.context.old_deprecation_notes
    if notes is not None and _noted(notes, difference):
        return True
    return any(subject.past.first_deprecated(element) for element in _protected(difference))


def _protected(difference: Difference) -> tuple[str, str]:
    return difference.element, difference.root


def _noted(notes: str, difference: Difference) -> bool:
    """Whether a list of deprecations has an entry that names command and member."""
    return any(
        mentions(line, difference.root)
        and (difference.name == difference.root or mentions(line, difference.name))
        for line in re.split(r"\n\s*\n", notes)
    )


def _without_deprecation(rule: Rule, subject: Subject) -> Iterator[Finding]:
    for difference, title in _removed(subject):
        if subject.gap and subject.past.first(difference.element) is None:
            # one of the releases in between may have deprecated it
            continue
        if not _was_deprecated(subject, difference):
            yield subject.about(rule, f"{title} goes without having been deprecated", difference)


def _too_early(rule: Rule, subject: Subject) -> Iterator[Finding]:
    release, window = subject.context.release, subject.context.window
    if release is None:
        return
    for difference, title in _removed(subject):
        since = _deprecated_since(subject, difference)
        if since is None or branch(since) > branch(release):
            continue
        count = releases_between(since, release)
        if count < window:
            message = (
                f"{title} goes in {release}, after {count} of {window} releases in which it is "
                f"deprecated (since {since})"
            )
            yield subject.about(rule, message, difference)


def _deprecated_since(subject: Subject, difference: Difference) -> str | None:
    """Return the release that deprecated something, from history or from the list."""
    found = [subject.past.first_deprecated(element) for element in _protected(difference)]
    known = [since for since in found if since is not None]
    if known:
        return min(known, key=branch)
    notes = subject.context.old_deprecation_notes
    for part in re.split(r"\n\s*\n", notes or ""):
        since = re.search(r"since:?\s+(\d+\.\d+)", part, re.IGNORECASE)
        if since and _noted(part, difference):
            return since[1]
    return None


_REMOVAL_COMPANIONS = (
    "command-removed",
    "event-removed",
    "argument-removed",
    "argument-value-removed",
    "result-removed",
    "result-removed-optional",
)
register(
    Rule(
        "removed-without-deprecation",
        Level.BREAKING,
        Taxonomy("deprecation", Direction.NONE, "removed"),
        "Clients had no release in which to notice that it would go.",
        "Keep it and deprecate it; remove it when the window is over.",
        REMOVED_AT_ONCE,
        REMOVED_LATER,
        _without_deprecation,
        alone="to add something needs no announcement",
        companions=_REMOVAL_COMPANIONS,
    )
)
register(
    Rule(
        "removed-before-two-releases",
        Level.BREAKING,
        Taxonomy("deprecation", Direction.NONE, "removed"),
        "The policy promises a number of releases, two unless said otherwise, between deprecation "
        "and removal.",
        "Wait with the removal until the window is over.",
        REMOVED_EARLY,
        REMOVED_IN_TIME,
        _too_early,
        alone="there is no latest release for a removal",
        companions=_REMOVAL_COMPANIONS,
    )
)
