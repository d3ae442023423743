"""The report as JSON, in the form that ``review.schema.json`` beside this module describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport import __version__
from nbexport.review.finding import Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.review.finding import Finding, Place
    from nbexport.review.policy import Ignored
    from nbexport.review.report.model import Review, StepReview

FORM = 1
"""Number of the form; it grows when a reader of the old one would go wrong."""


def as_json(review: Review) -> str:
    """Return the report as one JSON object."""
    return json.dumps(structure(review), indent=2) + "\n"


def json_schema() -> str:
    """Return the JSON Schema (2020-12) of the report."""
    return Path(__file__).with_name("review.schema.json").read_text()


def structure(review: Review) -> dict[str, Any]:
    """Return the report as values that JSON has."""
    return {
        "form": FORM,
        "tool": {"name": "nbexport", "version": __version__},
        "old": review.old,
        "new": review.new,
        "release": review.release,
        "fail_on": str(review.fail_on),
        "failed": review.failed,
        "counts": _counts(review.findings),
        "findings": [finding_object(finding) for finding in review.findings],
        "ignored": _ignored(review.ignored),
        "patches": [_patch(review, step) for step in review.steps],
        "notes": list(review.notes),
    }


def finding_object(finding: Finding) -> dict[str, Any]:
    """Return one finding as an object."""
    return {
        "rule": finding.rule,
        "level": str(finding.level),
        "message": finding.message,
        "element": finding.element,
        "direction": str(finding.direction) or None,
        "path": list(finding.path),
        "also": list(finding.also),
        "old": _place(finding.old),
        "new": _place(finding.new),
        "advice": finding.advice,
        "fingerprint": finding.fingerprint,
    }


def _place(place: Place | None) -> dict[str, Any] | None:
    if place is None:
        return None
    return {"file": place.file, "line": place.line, "context": place.context}


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {str(level): sum(item.level == level for item in findings) for level in reversed(Level)}


def _ignored(items: Sequence[Ignored]) -> list[dict[str, Any]]:
    return [
        {
            "finding": finding_object(item.finding),
            "reason": item.reason,
            "expires": None if item.expires is None else item.expires.isoformat(),
        }
        for item in items
    ]


def _patch(review: Review, item: StepReview) -> dict[str, Any]:
    patch, applying = item.step.patch, item.step.applying
    return {
        "title": patch.title,
        "number": patch.number,
        "total": patch.total,
        "message_id": (patch.mail.message_id or None) if patch.mail is not None else None,
        "files": sorted(applying.files),
        "skipped": list(applying.skipped),
        "counts": _counts(item.findings),
        "findings": [
            finding_object(finding) | {"only_here": review.only_here(finding)}
            for finding in item.findings
        ],
        "ignored": _ignored(item.ignored),
    }
