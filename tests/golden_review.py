"""The cases of the rules: the examples that the registry has, and what the review of each finds."""

from __future__ import annotations

import json
from pathlib import Path

from nbexport.qapi import load_schema, parse_release
from nbexport.review.engine import Context, Schemas, review_schemas
from nbexport.review.rules import RULES

CORPUS = Path(__file__).parent / "golden" / "review"
CASES = [(rule, kind) for rule in RULES for kind in ("positive", "negative")]


def example(rule, kind):
    """The example of a rule."""
    return getattr(RULES[rule], kind)


def schema(text, *, name="schema.json", as_of=""):
    """A schema out of its text."""
    release = parse_release(as_of) if as_of else None
    return load_schema(name, read={name: text}.__getitem__, as_of=release)


def context_of(case):
    """What a review of an example takes into account."""
    shipped = {release: schema(text, as_of=case.as_of) for release, text in case.shipped}
    return Context(
        release=case.release or None,
        history=Schemas(shipped) if shipped else None,
        deprecation_notes=case.notes,
    )


def review_of(case):
    """What a review of an example finds."""
    old = schema(case.old, name="old.json", as_of=case.as_of)
    new = schema(case.new, name="new.json", as_of=case.as_of)
    return review_schemas(old, new, context_of(case))


def files(rule, kind):
    """The golden files of a case: name and text."""
    case = example(rule, kind)
    found = [as_json(finding) for finding in review_of(case)]
    texts = {"old.json": case.old, "new.json": case.new}
    texts["expected.json"] = json.dumps(found, indent=2) + "\n"
    return texts


def as_json(finding):
    """A finding as the golden files show it."""
    return {
        "rule": finding.rule,
        "level": str(finding.level),
        "message": finding.message,
        "element": finding.element,
        "direction": str(finding.direction),
        "path": list(finding.path),
        "old": str(finding.old) if finding.old else None,
        "new": str(finding.new) if finding.new else None,
        "fingerprint": finding.fingerprint,
    }
