"""The life of a piece of the interface: introduced, deprecated, removed, replaced."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nbexport.errors import UsageError
from nbexport.qapi import parse_release
from nbexport.timeline.releases import between, release

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator

COMPUTED, DOCUMENTED, AT_LATEST = "computed", "documented", "at-latest"
BEHAVIOUR = "behaviour"


@dataclass(frozen=True, slots=True)
class Change:
    """What is different from a release on.

    Attributes:
        release: the release with the new form.
        text: one line.
    """

    release: str
    text: str


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What happened to one element.

    Releases are named as the sources are: by their number where it is known.

    Attributes:
        element: its name in the notation of ``nbexport.timeline.elements``, or the words of the
            list of deprecations.
        kind: ``command``, ``argument``, ``event``, ``value``, ``behaviour``, ...
        introduced: the release that brought it; None if nothing tells.
        basis: how that is known: ``computed`` from the schemas; ``documented``, as the oldest
            schema looked at has it already and the documentation names a release; ``at-latest``,
            the oldest schema has it and nothing tells more. Empty where ``introduced`` is None.
        experimental: the release that brought it as an experiment, if it was one.
        deprecated: the release that deprecated it.
        flagged: the first one whose introspection tells, where that is a later one.
        removed: the first one without it.
        delisted: the first one whose list of deprecations has lost it, where nothing else tells.
        last_seen: the newest release that was looked at and has it; None where none has.
        newest: the newest release that was looked at.
        earliest: the first release that the policy lets remove it; None if it is not deprecated,
            or that release is not out.
        window: the releases of the main line in which it was deprecated and worked, the first
            included; None if it is not deprecated or dates are not known.
        days: from the release that deprecated it to the one that removed it, or to the newest.
        replacement: what to use instead.
        replaced_since: the release that brought the replacement, where it is an element.
        told: the release that its documentation names.
        changes: how it changed meanwhile.
        note: what else to know.
    """

    element: str
    kind: str
    introduced: str | None = None
    basis: str = ""
    experimental: str | None = None
    deprecated: str | None = None
    flagged: str | None = None
    removed: str | None = None
    delisted: str | None = None
    last_seen: str | None = None
    newest: str = ""
    earliest: str | None = None
    window: int | None = None
    days: int | None = None
    replacement: str = ""
    replaced_since: str | None = None
    told: str | None = None
    changes: tuple[Change, ...] = ()
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object with the days of the releases; what is empty is left out."""
        shown = asdict(self) | {"verdict": self.verdict}
        named = ("introduced", "experimental", "deprecated", "removed", "delisted", "earliest")
        days = {name: day(shown[name]) for name in named}
        shown["dates"] = {name: found.isoformat() for name, found in days.items() if found}
        return {
            name.replace("_", "-"): value
            for name, value in shown.items()
            if value not in (None, "", (), {})
        }

    @property
    def on_its_way_out(self) -> bool:
        """Whether it is deprecated, experimental or gone."""
        return bool(self.deprecated or self.experimental or self.removed)

    @property
    def verdict(self) -> str:
        """What the policy has to say of it, in a few words; empty where it has nothing to say."""
        gone = self.removed or self.delisted
        if self.deprecated is None:
            if self.experimental:
                return "an experiment, which no policy protects"
            return "removed without a deprecation" if self.removed else ""
        if self.earliest is None:
            return "may not be removed yet" if not gone else "removed before the policy allows"
        if self.delisted:
            return f"no longer listed in {self.delisted}"
        actual = self.removed or self.newest
        behind = _distance(self.earliest, actual)
        if behind is None:
            return ""
        if self.removed is None:
            if behind < 0:
                return f"may be removed from {self.earliest} on"
            if behind == 0:
                return f"still there in {self.newest}, the first that may remove it"
            return f"still there in {self.newest}, {_releases(behind)} after {self.earliest}"
        if behind == 0:
            return f"removed in {self.removed}, as early as the policy allows"
        when = "after" if behind > 0 else "before"
        return f"removed in {self.removed}, {_releases(abs(behind))} {when} {self.earliest}"

    @property
    def releases(self) -> Iterator[str]:
        """The releases in which something happened to it."""
        for name in (self.introduced, self.experimental, self.deprecated, self.flagged,
                     self.removed, self.delisted):  # fmt: skip
            if name is not None:
                yield name
        for change in self.changes:
            yield change.release


def _releases(count: int) -> str:
    return f"{count} release{'' if count == 1 else 's'}"


def _distance(first: str, last: str) -> int | None:
    """Return how many releases of the main line one is behind another; negative if before."""
    try:
        if parse_release(last) < parse_release(first):
            return -len(between(last, first))
        return len(between(first, last))
    except UsageError:
        return None


def day(name: str | None) -> dt.date | None:
    """Return the day of a release, None where it is not known or no release."""
    try:
        return release(name).date if name else None
    except UsageError:
        return None
