"""Releases, the deprecation policy and deprecations as values; ``releases`` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.qapi import parse_release

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

Version = tuple[int, int, int]


def version_of(name: str) -> Version:
    """Return a release's major, minor and micro number."""
    numbers = (*parse_release(name), 0)
    return numbers[0], numbers[1], numbers[2]


@dataclass(frozen=True, slots=True)
class Release:
    """A release of QEMU.

    Attributes:
        name: ``5.2`` for one of the main line, ``7.2.9`` for a stable one.
        date: the day.
        basis: ``announced``, by the project's list of releases, or ``tagged``, the day of the
            version's commit; the announcement may be some days later.
        behaviour: what changed for clients without a change of the schema.
        note: what else to know.
    """

    name: str
    date: dt.date
    basis: str
    behaviour: tuple[str, ...] = ()
    note: str = ""

    @property
    def version(self) -> Version:
        """Major, minor and micro number."""
        return version_of(self.name)

    @property
    def branch(self) -> str:
        """The release of the main line that it belongs to: ``7.2`` of ``7.2.9``."""
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def is_stable(self) -> bool:
        """Whether it is a stable release, made of fixes for one of the main line."""
        return self.version[2] != 0

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class MachineTypes:
    """The longer window of versioned machine types.

    Attributes:
        began: the release in which it was first written down.
        deprecated_after: after how many releases of the main line one is deprecated.
        removed_after: after how many it is removed.
    """

    began: str
    deprecated_after: int
    removed_after: int


@dataclass(frozen=True, slots=True)
class Policy:
    """The deprecation policy.

    Attributes:
        began: the first release with a written policy. What was deprecated before counts as
            deprecated since then.
        announced: the day on which the project told of it.
        releases: in how many releases of the main line something works on after its deprecation,
            the one that deprecates it included.
        machine_types: the longer window of versioned machine types.
    """

    began: str
    announced: dt.date
    releases: int
    machine_types: MachineTypes


@dataclass(frozen=True, slots=True)
class Deprecation:
    """Something that is on its way out, or gone.

    Attributes:
        item: what: a command, ``COMMAND MEMBER``, ``COMMAND result MEMBER``, ...
        kind: one of ``releases.KINDS``.
        deprecated: the release that deprecated it; None for an experiment.
        experimental: the release that brought it as an experiment, which no policy protects; None
            for something that was deprecated.
        flagged: the first release whose introspection says so; None where it is the one that
            deprecated it, or where introspection does not reach.
        removed: the release without it; None if it is there in the newest one looked at.
        delisted: the first release whose list of deprecations does not have it any more, where it
            is not known whether it was removed.
        replacement: what to use instead; empty if nothing replaces it.
        note: what else to know.
    """

    item: str
    kind: str
    deprecated: str | None = None
    experimental: str | None = None
    flagged: str | None = None
    removed: str | None = None
    delisted: str | None = None
    replacement: str = ""
    note: str = ""

    def __str__(self) -> str:
        return self.item


@dataclass(frozen=True)
class ReleaseData:
    """Everything that the file says.

    Attributes:
        releases: by version, oldest first; a stable one stands behind its branch's main one.
        policy: the deprecation policy.
        deprecations: in the order of the file.
    """

    releases: tuple[Release, ...]
    policy: Policy
    deprecations: tuple[Deprecation, ...]

    @cached_property
    def _by_version(self) -> Mapping[Version, Release]:
        return {entry.version: entry for entry in self.releases}

    def release(self, name: str) -> Release:
        """Return a release by its number; ``5.2.0`` is ``5.2``.

        Raises:
            UsageError: the text is no number of a release, or there is no such release.
        """
        found = self._by_version.get(version_of(name))
        if found is None:
            main = [entry.name for entry in self.releases if not entry.is_stable]
            raise UsageError(f"no release {name}: known are {main[0]} to {main[-1]}")
        return found

    def earliest_removal(self, deprecated: str, *, window: int | None = None) -> Release | None:
        """Return the first release that may be without what another one deprecated.

        Args:
            deprecated: the release that deprecated it.
            window: in how many releases it works on, that one included; None for the policy's.

        Returns:
            A release of the main line; None if it is not out yet.

        Raises:
            UsageError: there is no such release, or the window is less than one release.
        """
        window = self.policy.releases if window is None else window
        if window < 1:
            raise UsageError(f"a window of {window} releases: expected at least 1")
        since = max(self.release(deprecated).version, version_of(self.policy.began))
        # A stable release counts as the main one that it belongs to.
        later = [entry for entry in self.main_line if entry.version >= (*since[:2], 0)]
        return later[window] if len(later) > window else None

    @cached_property
    def main_line(self) -> tuple[Release, ...]:
        """The releases of the main line, oldest first."""
        return tuple(entry for entry in self.releases if not entry.is_stable)

    def between(self, first: str, last: str) -> tuple[Release, ...]:
        """Return the main line from one release up to another, that one excluded.

        Raises:
            UsageError: there is no such release.
        """
        low, high = self.release(first).version, self.release(last).version
        return tuple(entry for entry in self.main_line if low <= entry.version < high)
