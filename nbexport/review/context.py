"""What a review knows beside the two schemas: releases, history, the list of deprecations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from nbexport.errors import UsageError
from nbexport.qapi import interface_of, known_releases, load_release, parse_release
from nbexport.review.lookup import find
from nbexport.review.wire import Side
from nbexport.timeline import releases as known

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nbexport.qapi import Schema


class History(Protocol):
    """Schemas of releases."""

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases, oldest first: ``("5.1", "5.2")``."""

    def schema(self, release: str) -> Schema:
        """Return the schema of one of them."""

    def deprecated_by_list(self, element: str) -> str | None:
        """Return the release whose list of deprecations has an element first, None for none."""


class PackageHistory:
    """The interfaces of the NBD-export family that travel with the package."""

    @cached_property
    def releases(self) -> tuple[str, ...]:
        """The releases whose interface is known, oldest first."""
        return tuple(known_releases())

    def schema(self, release: str) -> Schema:
        """Return the schema of one of them."""
        return load_release(interface_of(release))

    def deprecated_by_list(self, element: str) -> str | None:
        """Return the release whose list of deprecations has an element first, None for none."""
        names = _items(element)
        found = (entry for entry in known.deprecations() if entry.item in names)
        return next((entry.deprecated for entry in found), None)


def _items(element: str) -> set[str]:
    """Return what a list of deprecations may call an element: ``migrate blk``."""
    plain = re.sub(r"\[[^\]]*\]", "", element)
    root, _, rest = plain.partition(".")
    if not rest:
        return {plain.replace("=", " ")}
    result, rest = rest.startswith("returns."), rest.removeprefix("returns.")
    last = re.split(r"[.=]", rest)[-1]
    word = "result " if result else ""
    return {f"{root} {word}{rest}".replace("=", " "), f"{root} {word}{last}"}


class Schemas:
    """A history out of schemas at hand.

    Args:
        schemas: by release, in any order.
    """

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = dict(schemas)
        self.releases = tuple(sorted(schemas, key=parse_release))

    def schema(self, release: str) -> Schema:
        """Return the schema of one of them."""
        return self._schemas[release]

    def deprecated_by_list(self, element: str) -> str | None:  # noqa: ARG002 - the protocol's
        """Return None: a schema is no list of deprecations."""
        return None


@dataclass(frozen=True, slots=True)
class Context:
    """What a review takes into account.

    Args:
        release: the release under development, ``5.2``, in which the new schema will ship. None
            if it is not known; then nothing is said of what depends on it.
        old_release: the release that the old schema is that of, or was made for. None if it is not
            known; then no other release is taken to lie between the two schemas.
        window: in how many releases something works on after its deprecation, the one that
            deprecates it included.
        history: schemas of earlier releases. None if there are none; then the old schema counts
            as released.
        deprecation_notes: the text of the list of deprecations that goes with the new schema.
        old_deprecation_notes: that which goes with the old one.
        audit: whether to find what the change leaves as it was, too.
        base: the schema before the series of which the change is a part. None if it is no part.
    """

    release: str | None = None
    old_release: str | None = None
    window: int = 2
    history: History | None = None
    deprecation_notes: str | None = None
    old_deprecation_notes: str | None = None
    audit: bool = False
    base: Schema | None = None

    def __post_init__(self) -> None:
        for name in (self.release, self.old_release):
            if name is not None:
                parse_release(name)
        if self.window < 1:
            raise UsageError(f"deprecation window {self.window} is less than one release")


def branch(release: str) -> tuple[int, int]:
    """Return major and minor number of a release: ``(5, 2)`` of ``5.2.0``."""
    numbers = (*parse_release(release), 0)
    return numbers[0], numbers[1]


class Past:
    """The releases before the one under development, asked for elements.

    Args:
        context: the review's.
    """

    def __init__(self, context: Context) -> None:
        self._history = context.history
        self._limit = None if context.release is None else branch(context.release)
        self._sides: dict[str, Side] = {}
        self._first: dict[str, str | None] = {}

    @cached_property
    def releases(self) -> tuple[str, ...]:
        """The releases with a schema, oldest first."""
        if self._history is None:
            return ()
        return tuple(
            name
            for name in self._history.releases
            if self._limit is None or branch(name) < self._limit
        )

    def schemas(self) -> Iterator[tuple[str, Schema]]:
        """Give the releases with their schemas, oldest first."""
        for release in self.releases:
            yield release, self._side(release).schema

    def _side(self, release: str) -> Side:
        assert self._history is not None
        side = self._sides.get(release)
        if side is None:
            side = Side(self._history.schema(release), conditional=True)
            self._sides[release] = side
        return side

    def _states(self, element: str) -> Iterator[tuple[str, frozenset[str] | None]]:
        """Give the element's features in each release, None where it does not exist."""
        for release in self.releases:
            side = self._side(release)
            part = find(side, element)
            if part is None:
                yield release, None
            else:
                yield release, frozenset(feature.name for feature in part.features)

    def first(self, element: str) -> str | None:
        """Return the first release that has an element; None if none has."""
        if element not in self._first:
            self._first[element] = next(
                (release for release, state in self._states(element) if state is not None), None
            )
        return self._first[element]

    def first_deprecated(self, element: str) -> str | None:
        """Return the release since which an element is deprecated without a break."""
        since = None
        if self._history is not None:
            since = self._history.deprecated_by_list(element)
        if since is not None and (self._limit is None or branch(since) < self._limit):
            return since
        since = None
        for release, state in self._states(element):
            if state is None or "deprecated" not in state:
                since = None
            elif since is None:
                since = release
        return since

    def has(self, element: str, release: str) -> bool:
        """Whether a release has an element."""
        return find(self._side(release), element) is not None


def releases_after(first: str, last: str) -> list[str]:
    """Return the known releases of the main line behind one, up to another one, and that one."""
    main = {branch(entry.name) for entry in known.releases() if not entry.is_stable}
    main.add(branch(last))
    return [f"{a}.{b}" for a, b in sorted(main) if branch(first) < (a, b) <= branch(last)]


def releases_between(first: str, last: str) -> int:
    """Return how many releases of the main line there are from one to before another.

    Releases that the package does not know are not counted, except ``first`` itself.
    """
    main = {branch(entry.name) for entry in known.releases() if not entry.is_stable}
    main.add(branch(first))
    return sum(branch(first) <= number < branch(last) for number in main)
