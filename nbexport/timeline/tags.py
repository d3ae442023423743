"""What the documentation says of when something came, held against what the schemas show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.qapi import parse_release
from nbexport.timeline.computed import Since, Snapshot, computed_since, everything
from nbexport.timeline.elements import Element, find_element

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbexport.timeline.elements import Form

TOO_EARLY, TOO_LATE, UNMARKED, MISSING = "too-early", "too-late", "unmarked", "missing"
PROBLEMS = {
    TOO_EARLY: "the release that is named does not have it",
    TOO_LATE: "it was there before the release that is named",
    UNMARKED: "it came after its definition and has no remark of its own",
    MISSING: "no release is named",
}


@dataclass(frozen=True, slots=True)
class TagDifference:
    """A written release that the schemas disagree with.

    Attributes:
        element: what it is written of.
        problem: one of `PROBLEMS`.
        told: the release that is written, of the element or else of its definition; empty if
            there is none.
        since: what the schemas show.
        place: file and line of the definition.
    """

    element: Element
    problem: str
    told: str
    since: Since
    place: str

    def __str__(self) -> str:
        told = f"says {self.told}, " if self.told else ""
        return f"{self.element}: {told}computed {self.since}: {PROBLEMS[self.problem]}"


def check_tags(
    snapshots: Sequence[Snapshot], *, dates: Mapping[Element, Since] | None = None
) -> list[TagDifference]:
    """Compare every release that the newest schema's documentation names with the computed one.

    A definition that got its name later than its content came is right to name that later day, and
    so are the members that only its tag speaks for. Without a remark of its own a member counts
    from its definition's day.

    Args:
        snapshots: the schemas, oldest first; the documentation of the last one is checked.
        dates: what `computed_since` gave for them, if it is known already.

    Returns:
        The differences in the order of the schema; none where the newest one came from
        introspection, which has no documentation.
    """
    dates = computed_since(snapshots) if dates is None else dates
    newest = snapshots[-1].schema
    named = _by_name(snapshots)
    found = []
    for element, since in dates.items():
        form = None if element.feature else find_element(newest, element)
        if form is None or not form.place:
            continue
        if element.result or form.definition != element.owner:
            # On the wire it has another name as well; it is told under that of its definition.
            continue
        entity = newest.entities[element.owner]
        if entity.doc is None:
            continue
        problem = _problem(form, since, named[element], dates.get(Element(element.owner)))
        if problem:
            told = form.since or form.owner_since or ""
            found.append(TagDifference(element, problem, told, since, form.place))
    return found


def _problem(form: Form, since: Since, named: Since, owner: Since | None) -> str:
    own = form.since is not None
    told = form.since or form.owner_since
    if told is None:
        return MISSING if form.kind in ("command", "event", "type") else ""
    if since.allows(told) is not False:
        return ""
    assert since.first.release is not None  # else nothing could be said
    release = parse_release(told)[:2]
    if release < since.first.release[:2]:
        if own:
            return TOO_EARLY
        # what came with its definition is told of that
        return UNMARKED if owner is not None and owner != since else ""
    # A name may be younger than what it stands for: that is no error of the one who wrote it.
    younger = named.first.release is None or release <= named.first.release[:2]
    return TOO_LATE if own and not (younger and form.kind == "type") else ""


def _by_name(snapshots: Sequence[Snapshot]) -> dict[Element, Since]:
    """Return for each piece the first schema that has it under this very name."""
    found: dict[Element, Since] = {}
    for index, snapshot in enumerate(snapshots):
        before = snapshots[index - 1] if index else None
        for element in everything(snapshot.schema):
            found.setdefault(element, Since(snapshot, before))
    return found
