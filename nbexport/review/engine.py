"""A review: every rule, run over two schemas."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nbexport.review.context import Context, History, PackageHistory, Schemas
from nbexport.review.rules import RULES
from nbexport.review.rules.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nbexport.qapi import Schema
    from nbexport.review.finding import Finding
    from nbexport.sources.load import LoadedSchema

__all__ = ["Context", "History", "PackageHistory", "Schemas", "review", "review_schemas"]


def review(old: LoadedSchema, new: LoadedSchema, context: Context | None = None) -> list[Finding]:
    """Review the change from one schema to another.

    Args:
        old: the schema before.
        new: the schema after.
        context: what else is known. Releases that it does not name are those of the sources, where
            these tell.

    Returns:
        The findings: the heaviest first, those of one level by file and line of the new schema,
        then by element. The same input gives the same list.
    """
    context = context or Context()
    if context.release is None and new.release is not None:
        context = replace(context, release=_text(new.release))
    if context.old_release is None and old.release is not None:
        context = replace(context, old_release=_text(old.release))
    return review_schemas(old.schema, new.schema, context)


def _text(release: tuple[int, ...]) -> str:
    return ".".join(map(str, (*release, 0)[:2]))


def review_schemas(
    old: Schema, new: Schema, context: Context | None = None, *, rules: Iterable[str] | None = None
) -> list[Finding]:
    """Review the change from one schema to another, given without their sources.

    Args:
        old: the schema before.
        new: the schema after.
        context: what else is known; None for nothing.
        rules: ids of the rules to run; None for all.
    """
    subject = Subject(old, new, context or Context())
    chosen = RULES.values() if rules is None else [RULES[name] for name in rules]
    found: dict[tuple[str, ...], Finding] = {}
    for rule in chosen:
        for finding in rule.check(rule, subject):
            # two ways to the same thing are one finding
            key = finding.rule, finding.element, finding.direction, finding.message
            found.setdefault(key, finding)
    return sorted(found.values(), key=_order)


def _order(finding: Finding) -> tuple[object, ...]:
    place = finding.new or finding.old
    where = (place.file, place.line) if place is not None else ("", 0)
    return (-finding.level, where, finding.element, finding.rule, finding.direction)
