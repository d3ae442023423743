"""The schemas before and after each patch of a series, and of the series as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.qapi import load_schema
from nbexport.qapi.source import QapiError
from nbexport.review.patch.errors import PatchError
from nbexport.review.patch.tree import Tree
from nbexport.sources.load import FILE, RELEASE, LoadedSchema
from nbexport.sources.text import TextSource

if TYPE_CHECKING:
    from collections.abc import Collection

    from nbexport.review.patch.series import Patch, Series
    from nbexport.review.patch.tree import Applying, Place


@dataclass(frozen=True, slots=True)
class Step:
    """One patch of a series.

    Attributes:
        patch: the patch.
        old: the schema that it applies to.
        new: the schema that it leaves; the same object where it changes no file of the schema.
        applying: lines shown, files changed, files skipped.
        notes: text of the deprecation document before and after, None where there is none.
    """

    patch: Patch
    old: LoadedSchema
    new: LoadedSchema
    applying: Applying
    notes: tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class PatchedSchemas:
    """A base and a series on top of it.

    Attributes:
        series: the series.
        steps: one for each patch.
        origins: for a line after all patches the patch that brought it and the line of its text.
        removed: for a line of the base the patch that removed it and the line of its text.
    """

    series: Series
    steps: tuple[Step, ...]
    origins: dict[Place, tuple[int, int]]
    removed: dict[Place, tuple[int, int]]

    @property
    def old(self) -> LoadedSchema:
        """The schema of the base."""
        return self.steps[0].old

    @property
    def new(self) -> LoadedSchema:
        """The schema after all patches."""
        return self.steps[-1].new

    @property
    def notes(self) -> tuple[str | None, str | None]:
        """The deprecation document before the first and after the last patch."""
        return self.steps[0].notes[0], self.steps[-1].notes[1]


def apply_series(
    series: Series,
    base: str,
    *,
    strip: int | None = None,
    context: int | None = None,
    defines: Collection[str] | None = None,
    as_of: tuple[int, ...] | None = None,
) -> PatchedSchemas:
    """Apply a series to a base, patch by patch, and load the schema each time.

    Args:
        series: what to apply.
        base: a schema source that is text: a file or folder, ``git:``, ``release:``.
        strip: leading folders of the patch's names that are left out, ``git apply -p``.
        context: lines of context that must match, ``git apply -C``; None for all.
        defines: configuration symbols of the build; None defines all that occur.
        as_of: the release by whose rules the text is read, None for that of its tree.

    Raises:
        PatchError: a patch does not apply, or what it leaves is no schema.
        QapiError: the base is no schema.
        SourceError: the base cannot be had.
        UsageError: the base is no text.
    """
    source = TextSource(base)
    tree = Tree(source, strip=strip, context=context)
    symbols = None if defines is None else frozenset(defines)
    rules = source.release if as_of is None else as_of

    def load(name: str, *, patched: bool) -> LoadedSchema:
        schema = load_schema(source.root, read=tree.read, symbols=symbols, as_of=rules)
        if patched and source.kind == RELEASE:
            return LoadedSchema(schema, name, FILE)
        return LoadedSchema(schema, name, source.kind, source.interface)

    schema = load(base, patched=False)
    notes = tree.deprecations()
    steps: list[Step] = []
    for number, patch in enumerate(series.patches):
        title = f"{series.name} ({patch.shown})" if len(series.patches) > 1 else series.name
        applying = tree.apply(patch, number, name=title)
        old, old_notes = schema, notes
        if applying.files:
            try:
                schema = load(f"{base} with {patch.shown}", patched=True)
            except QapiError as error:
                raise PatchError(f"what it leaves is no schema: {error}", name=title) from error
            notes = tree.deprecations()
        steps.append(Step(patch, old, schema, applying, (old_notes, notes)))
    return PatchedSchemas(series, tuple(steps), tree.origins(), tree.removed)
