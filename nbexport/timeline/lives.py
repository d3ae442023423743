"""The lives of the pieces of an interface, told from its schemas and the list of deprecations.

What schemas show is computed from them. What they cannot show, such as deprecations before 5.0,
replacements and changed defaults, comes from ``data/releases.toml``.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.qapi import parse_release
from nbexport.timeline.computed import Since, computed_since, everything
from nbexport.timeline.elements import Element, find_element, parse_element, pieces
from nbexport.timeline.lifecycle import (
    AT_LATEST,
    BEHAVIOUR,
    COMPUTED,
    DOCUMENTED,
    Change,
    Lifecycle,
    day,
)
from nbexport.timeline.releases import between, deprecations, earliest_removal, release, releases

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nbexport.qapi import Schema
    from nbexport.timeline.computed import Snapshot
    from nbexport.timeline.elements import Form, Memo
    from nbexport.timeline.release_data import Deprecation

_SUGGESTIONS = 3


class Timeline:
    """The lives of the pieces of an interface, seen in some of its schemas.

    Args:
        snapshots: the schemas, oldest first.
        policy_window: in how many releases something deprecated works on; None for the policy's.

    Attributes:
        dates: when each piece of the newest schema came.

    Raises:
        UsageError: there is no schema, or a schema is of an older release than the one before.
    """

    def __init__(self, snapshots: Sequence[Snapshot], *, policy_window: int | None = None) -> None:
        self.snapshots = tuple(snapshots)
        for before, after in zip(self.snapshots, self.snapshots[1:], strict=False):
            if before.release and after.release and after.release < before.release:
                raise UsageError(f"{after.name} is older than {before.name}: oldest first, please")
        self.dates: Mapping[Element, Since] = computed_since(self.snapshots)
        self._window = policy_window
        self._memos: list[Memo] = [{} for _ in self.snapshots]
        self._listed = {_normal(entry.item): entry for entry in deprecations()}

    # -- which ------------------------------------------------------------------------------

    def find(self, text: str) -> list[Lifecycle]:
        """Return the life of an element, and of the pieces of a command, event or type.

        Args:
            text: an element, or an item of the list of deprecations.

        Raises:
            UsageError: it is neither; names that are alike are told.
        """
        normal = _normal(text)
        found = [self.of(normal)]
        if " " in normal or "=" in normal or ":" in normal:
            return found
        parts: dict[Element, None] = {}
        for snapshot in self.snapshots:
            parts.update(dict.fromkeys(pieces(snapshot.schema, normal)))
        found += [self.of(part) for part in parts]
        return found + [self._behaviour(*item) for item in _behaviours() if item[0] == normal]

    def all(self) -> Iterator[Lifecycle]:
        """Give the life of every piece, gone ones included, and what is listed beside them.

        Commands and events come first, each with its pieces, then types, then behaviours. Of a
        type that is gone nothing is told: what it stood for may be there under another name.
        How they changed is not told.
        """
        newest = self.snapshots[-1].schema
        shown: dict[Element, None] = {}
        for snapshot in self.snapshots:
            for element in everything(snapshot.schema):
                entity = newest.entities.get(element.owner)
                is_call = snapshot.schema.entities[element.owner].meta in ("command", "event")
                if not element.feature and (is_call or entity is not None):
                    shown[element] = None
        order: dict[str, int] = {}
        for element in shown:
            order.setdefault(element.owner, len(order))
        for element in sorted(shown, key=lambda item: (order[item.owner], bool(item.parent))):
            yield self.of(element, with_changes=False)
        told = {str(element) for element in shown}
        for item in self._listed:
            if item not in told:
                yield self.of(item)
        for behaviour in _behaviours():
            yield self._behaviour(*behaviour)

    # -- one --------------------------------------------------------------------------------

    def of(self, text: str | Element, *, with_changes: bool = True) -> Lifecycle:
        """Return the life of one element.

        Args:
            text: an element, or an item of the list of deprecations.
            with_changes: whether to tell how it changed meanwhile.

        Raises:
            UsageError: it is no element, or in none of the schemas and not listed as deprecated.
        """
        normal = _normal(text) if isinstance(text, str) else str(text)
        entry = self._listed.get(normal)
        try:
            element = parse_element(normal) if isinstance(text, str) else text
        except UsageError:
            if entry is None:
                raise
            return self._with_entry(Lifecycle(normal, entry.kind, newest=self._newest), entry)
        forms = self._forms(element)
        if not any(forms):
            if entry is None:
                raise UsageError(self._unknown(element))
            return self._with_entry(Lifecycle(normal, entry.kind, newest=self._newest), entry)
        return self._with_entry(self._seen(element, forms, with_changes=with_changes), entry)

    def _forms(self, element: Element) -> list[Form | None]:
        return [
            find_element(snapshot.schema, element, memo)
            for snapshot, memo in zip(self.snapshots, self._memos, strict=True)
        ]

    @property
    def _newest(self) -> str:
        return self.snapshots[-1].name

    def _unknown(self, element: Element) -> str:
        names = [name for snapshot in self.snapshots for name in snapshot.schema.entities]
        alike = difflib.get_close_matches(element.owner, names, _SUGGESTIONS)
        parts = pieces(self.snapshots[-1].schema, element.owner)
        if parts and element.path:
            alike = difflib.get_close_matches(str(element), map(str, parts), _SUGGESTIONS)
        hint = f" (did you mean {', '.join(dict.fromkeys(alike))}?)" if alike else ""
        span = " to ".join(dict.fromkeys((self.snapshots[0].name, self._newest)))
        return f"no element '{element}' in {span}{hint}"

    def _seen(self, element: Element, forms: list[Form | None], *, with_changes: bool) -> Lifecycle:
        """Tell a life from the forms that an element has in the schemas."""
        last = max(index for index, form in enumerate(forms) if form)
        form = forms[last]
        assert form is not None
        first = last
        while first and forms[first - 1] is not None:
            first -= 1
        since = Since(self.snapshots[first], self.snapshots[first - 1] if first else None)
        if forms[-1] is not None and not element.feature:
            # A type may have had another name before.
            since = self.dates.get(element, since)
        told = form.since or form.owner_since
        introduced, basis = since.first.name, COMPUTED if since.exact else AT_LATEST
        if not since.exact and told is not None and since.allows(told):
            introduced, basis = told, DOCUMENTED
        flagged = next(
            (self.snapshots[n].name for n in range(first, last + 1) if _deprecated(forms[n])), None
        )
        unstable = next(
            (self.snapshots[n].name for n in range(first, last + 1) if _unstable(forms[n])), None
        )
        removed = self.snapshots[last + 1].name if last + 1 < len(forms) else None
        return Lifecycle(
            str(element),
            form.kind,
            introduced,
            basis,
            experimental=since.first.name if _is_experiment(element) else unstable,
            deprecated=flagged,
            removed=removed,
            last_seen=self.snapshots[last].name,
            newest=self._newest,
            told=told,
            changes=tuple(self._changes(element, forms)) if with_changes else (),
        )

    def _changes(self, element: Element, forms: list[Form | None]) -> Iterator[Change]:
        for number in range(1, len(forms)):
            old, new = forms[number - 1], forms[number]
            if new is None:
                continue
            name = self.snapshots[number].name
            if old is None:
                if any(forms[:number]):
                    yield Change(name, "back again")
                continue
            texts = list(_form_changes(old, new))
            if element.parent is None:
                texts += _piece_changes(
                    self.snapshots[number - 1].schema, self.snapshots[number].schema, element.owner
                )
            for text in texts:
                yield Change(name, text)

    def _with_entry(self, life: Lifecycle, entry: Deprecation | None) -> Lifecycle:
        """Add what the list of deprecations says, and what follows from the dates."""
        parent = self._parent_entry(life.element) if entry is None else None
        if entry is not None:
            listed = entry.deprecated if self._reached(entry.deprecated) else None
            removed = entry.removed if self._reached(entry.removed) else None
            delisted = entry.delisted if self._reached(entry.delisted) else None
            flag = life.deprecated or entry.flagged
            life = replace(
                life,
                experimental=entry.experimental or life.experimental,
                deprecated=listed or life.deprecated,
                flagged=flag if listed is not None and flag != listed else None,
                removed=life.removed or removed,
                delisted=delisted,
                replacement=entry.replacement,
                note=entry.note,
            )
        elif parent is not None and life.deprecated is not None:
            life = replace(life, note=f"deprecated with {parent.item}")
        return self._measured(life)

    def _parent_entry(self, text: str) -> Deprecation | None:
        owner = text.partition(" ")[0]
        return self._listed.get(owner) if owner != text else None

    def _reached(self, name: str | None) -> bool:
        """Return whether a release is not newer than the newest that is looked at."""
        newest = self.snapshots[-1].release
        return name is not None and (newest is None or parse_release(name) <= newest)

    def _measured(self, life: Lifecycle) -> Lifecycle:
        replaced = self._replaced_since(life.replacement) if life.replacement else None
        if life.deprecated is None:
            return replace(life, replaced_since=replaced)
        end = life.removed or life.delisted or life.newest
        began, ended = day(life.deprecated), day(end)
        earliest = window = None
        if began is not None:
            planned = earliest_removal(life.deprecated, window=self._window)
            earliest = planned.name if planned else None
        if began is not None and ended is not None:
            # The newest one still has it, the one that removed it has not.
            still_there = life.removed is None and life.delisted is None
            window = len(between(life.deprecated, end)) + still_there
        return replace(
            life,
            earliest=earliest,
            window=window,
            days=(ended - began).days if began is not None and ended is not None else None,
            replaced_since=replaced,
        )

    def _replaced_since(self, replacement: str) -> str | None:
        try:
            element = parse_element(_normal(replacement))
        except UsageError:
            return None
        forms = self._forms(element)
        first = next((n for n, form in enumerate(forms) if form), None)
        if first is None:
            return None
        form = forms[first]
        told = form.since or form.owner_since if form is not None else None
        since = Since(self.snapshots[first], None)
        return told if not first and told and since.allows(told) else self.snapshots[first].name

    def _behaviour(self, owner: str, text: str, where: tuple[str, ...]) -> Lifecycle:
        main = [name for name in where if not release(name).is_stable]
        stable = [name for name in where if release(name).is_stable]
        note = f"in stable releases too: {', '.join(stable)}" if stable else ""
        return Lifecycle(
            f"{owner}: {text}", BEHAVIOUR, main[0] if main else stable[0], DOCUMENTED, note=note,
            newest=self._newest,
        )  # fmt: skip


def _form_changes(old: Form, new: Form) -> Iterator[str]:
    """Give what a client can see of the change from one form to the next."""
    if old.wire != new.wire:
        yield f"{old.type or 'nothing'} -> {new.type or 'nothing'}"
    if old.optional != new.optional:
        yield f"now {'optional' if new.optional else 'required'}"
    for feature in (*new.features, *new.flags):
        if feature not in (*old.features, *old.flags):
            yield f"now {feature}"
    for feature in (*old.features, *old.flags):
        if feature not in (*new.features, *new.flags):
            yield f"no longer {feature}"


def _piece_changes(old: Schema, new: Schema, owner: str) -> Iterator[str]:
    """Give what came to a command, event or type, what went from it, and what changed in it."""
    was = {part: find_element(old, part) for part in pieces(old, owner)}
    now = {part: find_element(new, part) for part in pieces(new, owner)}
    for part, form in now.items():
        title = str(part).removeprefix(owner).lstrip(" =")
        before = was.get(part)
        if form is None:
            continue
        if before is None:
            optional = ", optional" if form.optional else ""
            yield f"+ {title}" + (f": {form.type}{optional}" if form.type else "")
            continue
        for text in _form_changes(before, form):
            yield f"{title}: {text}"
    for part in was:
        if part not in now:
            yield f"- {str(part).removeprefix(owner).lstrip(' =')}"


def _deprecated(form: Form | None) -> bool:
    return form is not None and form.deprecated


def _unstable(form: Form | None) -> bool:
    return form is not None and form.unstable


def _is_experiment(element: Element) -> bool:
    """Return whether a name announces that it may go without notice."""
    return any(name.startswith("x-") for name in (element.owner, *element.path, element.value))


def _normal(text: str) -> str:
    """Write an element's name in its usual form; other words stay."""
    try:
        return str(parse_element(text))
    except UsageError:
        return text


def _behaviours() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return what changed without the schema: of what, the words, and in which releases."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in releases():
        for line in entry.behaviour:
            owners, _, text = line.partition(": ")
            for owner in owners.split(", "):
                found.setdefault((owner, text), []).append(entry.name)
    return [(owner, text, tuple(where)) for (owner, text), where in found.items()]
