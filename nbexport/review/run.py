"""A review from its sources to what is reported: the engine run, the policy applied."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbexport.errors import SourceError, UsageError
from nbexport.review.context import Context, PackageHistory
from nbexport.review.engine import review
from nbexport.review.finding import Level
from nbexport.review.patch.tree import Tree
from nbexport.review.policy import EXPIRED, Policy
from nbexport.review.report.model import Review, StepReview
from nbexport.review.rules import RULES
from nbexport.sources.load import RELEASE
from nbexport.sources.text import TextSource
from nbexport.timeline import releases as known

if TYPE_CHECKING:
    from nbexport.review.finding import Finding
    from nbexport.review.patch import PatchedSchemas
    from nbexport.review.policy import Ignored
    from nbexport.sources import LoadedSchema

FAIL_ON = Level.RISKY
WINDOW = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """How to review.

    Attributes:
        policy: levels, entries, defaults.
        release: the release under development; None for that of the policy, else the one that the
            sources tell.
        fail_on: the lowest level that fails, None for that of the policy, else ``risky``.
        today: the day by which entries of the policy expire.
    """

    policy: Policy = field(default_factory=Policy)
    release: str | None = None
    fail_on: Level | None = None
    today: dt.date = field(default_factory=lambda: dt.datetime.now().astimezone().date())

    def release_for(self, old: LoadedSchema, new: LoadedSchema) -> str | None:
        """Return the release under development.

        What neither option nor policy tell is taken from the new schema's tree; a patch on top of
        a release of the package's data is for the next one.
        """
        if self.release is not None or self.policy.release is not None:
            return self.release or self.policy.release
        if new.release is not None:
            return ".".join(map(str, new.release[:2]))
        return _after(old) if old.kind == RELEASE else None

    @property
    def level(self) -> Level:
        """The lowest level that fails."""
        return self.fail_on or self.policy.fail_on or FAIL_ON


def rule_ids() -> list[str]:
    """Return the ids that a policy can name: those of the registry, and its own."""
    return [*RULES, EXPIRED]


def deprecations_of(source: str) -> str | None:
    """Return the list of deprecations that lies beside a schema; None where there is none."""
    try:
        return Tree(TextSource(source)).deprecations()
    except (SourceError, UsageError, OSError, UnicodeDecodeError):
        # what has no text has no such document either; errors of the source are the loader's
        return None


def review_schemas(
    old: LoadedSchema,
    new: LoadedSchema,
    settings: Settings,
    *,
    notes: tuple[str | None, str | None] = (None, None),
) -> Review:
    """Review the change from one schema to another.

    Args:
        old: the schema that counts as known.
        new: the schema that replaces it.
        settings: how.
        notes: the lists of deprecations of both.
    """
    kept, ignored, release = _judged(old, new, settings, notes)
    return Review(
        old.name,
        new.name,
        (*kept, *settings.policy.expired(settings.today)),
        tuple(ignored),
        settings.level,
        release,
        rules=tuple(rule_ids()),
    )


def review_patches(patched: PatchedSchemas, settings: Settings) -> Review:
    """Review a series patch by patch and as a whole."""
    steps = []
    for step in patched.steps:
        if step.old is step.new:
            steps.append(StepReview(step, ()))
            continue
        kept, ignored, _ = _judged(step.old, step.new, settings, step.notes)
        steps.append(StepReview(step, tuple(kept), tuple(ignored)))
    if len(steps) == 1:
        found, passed = list(steps[0].findings), list(steps[0].ignored)
    else:
        found, passed, _ = _judged(patched.old, patched.new, settings, patched.notes)
    changed = any(step.step.applying.files for step in steps)
    notes = [note for step in steps for note in step.step.applying.notes]
    if not changed:
        notes.append("no file of the schema is changed")
    if skipped := [name for step in steps for name in step.step.applying.skipped]:
        names = ", ".join(dict.fromkeys(skipped))
        notes.append(f"not part of the schema: {names}")
    series = patched.series
    return Review(
        patched.old.name,
        patched.new.name if len(steps) == 1 else f"{patched.old.name} with {series.name}",
        (*found, *settings.policy.expired(settings.today)),
        tuple(passed),
        settings.level,
        settings.release_for(patched.old, patched.new),
        tuple(steps),
        patched,
        (*series.notes, *notes),
        tuple(rule_ids()),
    )


def _judged(
    old: LoadedSchema,
    new: LoadedSchema,
    settings: Settings,
    notes: tuple[str | None, str | None],
) -> tuple[list[Finding], list[Ignored], str | None]:
    release = settings.release_for(old, new)
    context = Context(
        release=release,
        window=settings.policy.window or WINDOW,
        history=PackageHistory(),
        deprecation_notes=notes[1],
        old_deprecation_notes=notes[0],
    )
    kept, ignored = settings.policy.judge(review(old, new, context), settings.today)
    return kept, ignored, release


def _after(old: LoadedSchema) -> str | None:
    """Return the first release of the main line after that of a schema."""
    assert old.release is not None
    for entry in known.releases():
        if not entry.is_stable and entry.version[:2] > old.release[:2]:
            return entry.name
    return None
