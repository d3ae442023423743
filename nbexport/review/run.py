"""A review from its sources to what is reported: the engine run, the policy applied."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nbexport.errors import SourceError, UsageError
from nbexport.resources import data_path
from nbexport.review.context import Context, PackageHistory
from nbexport.review.engine import review
from nbexport.review.finding import Level
from nbexport.review.patch import apply_series, make_patch, parse_series, read_patch
from nbexport.review.patch.tree import Tree
from nbexport.review.policy import EXPIRED, Policy
from nbexport.review.report.model import Review, StepReview
from nbexport.review.rules import RULES
from nbexport.sources import load
from nbexport.sources.load import RELEASE
from nbexport.sources.text import TextSource
from nbexport.timeline import releases as known

if TYPE_CHECKING:
    from collections.abc import Collection

    from nbexport.qapi import Schema
    from nbexport.review.finding import Finding
    from nbexport.review.patch import PatchedSchemas
    from nbexport.review.policy import Ignored
    from nbexport.sources import LoadedSchema

FAIL_ON = Level.RISKY
WINDOW = 2
_OF_NOTES = ("deprecation-without-note", "migration-note-lacks-rename")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to review.

    Attributes:
        policy: levels, entries, defaults.
        release: the release under development; None for that of the policy, else the one that the
            sources tell.
        fail_on: the lowest level that fails, None for that of the policy, else ``risky``.
        today: the day by which entries of the policy expire.
        audit: whether to find what the change leaves as it was, too.
    """

    policy: Policy = field(default_factory=Policy)
    release: str | None = None
    fail_on: Level | None = None
    today: dt.date = field(default_factory=lambda: dt.datetime.now().astimezone().date())
    audit: bool = False

    def release_for(self, old: LoadedSchema, new: LoadedSchema) -> str | None:
        """Return the release under development.

        What neither option nor policy tell is taken from the new schema's tree; a patch on top of
        a release of the package's data is for the next one.
        """
        if self.release is not None or self.policy.release is not None:
            return self.release or self.policy.release
        if new.release is not None:
            return ".".join(map(str, new.release[:2]))
        return _after(old) if old.kind == RELEASE and not new.introspected else None

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


def find_source(name: str) -> str:
    """Return a schema source, or the revision of a patch series that travels with the package.

    Args:
        name: ``multiple-bitmaps/v5``, say, or whatever `nbexport.sources.load` takes; a folder of
            that name here comes first.
    """
    if not Path(name).exists() and ":" not in name:
        folder = data_path("series") / name
        if (folder / "schema.json").is_file():
            return str(folder)
    return name


def review_sources(
    old: str,
    new: str,
    settings: Settings | None = None,
    *,
    defines: Collection[str] | None = None,
    as_of: tuple[int, ...] | None = None,
) -> Review:
    """Load two schema sources and review the change between them.

    Args:
        old: a source, or the name of a revision as `find_source` knows it.
        new: another one.
        settings: how to review.
        defines: configuration symbols of the build; None defines all that occur.
        as_of: the release by whose rules text is read, None for that of its tree.

    Raises:
        QapiError: one of them is no schema.
        SourceError: one of them cannot be had.
        UsageError: an unknown release.
    """
    sources = find_source(old), find_source(new)
    notes = deprecations_of(sources[0]), deprecations_of(sources[1])
    schemas = [load(source, defines=defines, as_of=as_of) for source in sources]
    found = review_schemas(schemas[0], schemas[1], settings or Settings(), notes=notes)
    return replace(found, old=_named(old, schemas[0]), new=_named(new, schemas[1]))


def _named(name: str, loaded: LoadedSchema) -> str:
    """Return what to call a source: a revision of the package by its name, others as they are."""
    return name if find_source(name) != name else loaded.name


def review_change(
    old: str,
    new: str,
    patch: str = "",
    settings: Settings | None = None,
    *,
    strip: int | None = None,
    context: int | None = None,
    defines: Collection[str] | None = None,
    as_of: tuple[int, ...] | None = None,
) -> Review:
    """Review a patch on top of a source; without one, the patch that leads to another source.

    Args:
        old: the source that the patch is for, or the name of a revision.
        new: another source, of which the patch is made where none is given.
        patch: a file with a diff, a mail or a series, ``-`` for standard input; empty for none.
        settings: how to review.
        strip: leading folders of the patch's names that are left out, ``git apply -p``.
        context: lines of context that must match, ``git apply -C``; None for all.
        defines: configuration symbols of the build; None defines all that occur.
        as_of: the release by whose rules text is read, None for that of its tree.

    Raises:
        PatchError: the patch cannot be read or does not apply.
        QapiError: a source is no schema.
        SourceError: a source cannot be had.
        UsageError: a source is no text, or nothing differs.
    """
    base = find_source(old)
    if patch:
        series = read_patch(patch)
    else:
        text = make_patch(base, find_source(new)).encode("utf-8", "surrogateescape")
        series = parse_series(text, name=f"{old} to {new}")
    patched = apply_series(series, base, strip=strip, context=context, defines=defines, as_of=as_of)
    found = review_patches(patched, settings or Settings())
    return replace(found, old=old, new=f"{old} with {series.name}" if patch else new)


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
    """Review a series patch by patch and as a whole.

    What a patch leaves as the one before it did is a finding of the earlier one only.
    """
    steps = []
    said: frozenset[str] = frozenset()
    for step in patched.steps:
        if step.old is step.new:
            steps.append(StepReview(step, ()))
            continue
        base = patched.old.schema if len(patched.steps) > 1 else None
        kept, ignored, _ = _judged(step.old, step.new, settings, step.notes, base)
        # rules about a state find it after each patch; the one that brought it is to be told
        fresh = tuple(finding for finding in kept if finding.fingerprint not in said)
        steps.append(StepReview(step, fresh, tuple(ignored)))
        said = frozenset(finding.fingerprint for finding in kept)
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
    base: Schema | None = None,
) -> tuple[list[Finding], list[Ignored], str | None]:
    release = settings.release_for(old, new)
    context = Context(
        release=release,
        window=settings.policy.window or WINDOW,
        history=PackageHistory(),
        deprecation_notes=notes[1],
        old_deprecation_notes=notes[0],
        audit=settings.audit,
        base=base,
    )
    found = review(old, new, context)
    if new.introspected:
        # an introspection has no documentation that could lack anything
        found = [finding for finding in found if not _reads_words(finding.rule)]
    kept, ignored = settings.policy.judge(found, settings.today)
    return kept, ignored, release


def _reads_words(rule: str) -> bool:
    """Whether a rule is about what documentation says."""
    about = RULES[rule].taxonomy.what
    return about in ("documentation", "since") or rule in _OF_NOTES


def _after(old: LoadedSchema) -> str | None:
    """Return the first release of the main line after that of a schema."""
    assert old.release is not None
    for entry in known.releases():
        if not entry.is_stable and entry.version[:2] > old.release[:2]:
            return entry.name
    return None
