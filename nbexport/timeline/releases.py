"""QEMU's releases, its deprecation policy, and deprecations: ``data/releases.toml``, checked.

The file says what its fields mean. Whatever is wrong in it is told with the entry's name when it
is read, so the values here need no checks.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from nbexport.errors import FormatError, UsageError
from nbexport.qapi import parse_release
from nbexport.resources import data_path
from nbexport.timeline.release_data import (
    Deprecation,
    MachineTypes,
    Policy,
    Release,
    ReleaseData,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FILE = "releases.toml"
BASES = ("announced", "tagged")
KINDS = (
    "command",
    "argument",
    "result",
    "value",
    "event",
    "option",
    "command-line",
    "usage",
)

# -- reading ----------------------------------------------------------------------------------


class _Entry:
    """A table of the file, and the words for it in an error."""

    def __init__(self, table: object, title: str, path: str) -> None:
        self.title = title
        self.path = path
        if not isinstance(table, dict):
            raise self.error("is no table")
        self._table = dict(table)

    def error(self, message: str) -> FormatError:
        """Return the error for this entry."""
        return FormatError(f"{self.title}: {message}", path=self.path)

    def take(self, field: str, kind: type, *, needed: bool = True) -> Any:
        """Return a field's value, which must be of exactly this type."""
        value = self._table.pop(field, None)
        if value is None:
            if needed:
                raise self.error(f"{field} is missing")
            return None
        if type(value) is not kind:
            raise self.error(f"{field} is no {_WORDS[kind]}")
        if value in ("", [], {}):
            raise self.error(f"{field} is empty")
        return value

    def choice(self, field: str, allowed: tuple[str, ...]) -> str:
        """Return a field's value, which must be one of these."""
        value: str = self.take(field, str)
        if value not in allowed:
            raise self.error(f"{field} '{value}' is none of {', '.join(allowed)}")
        return value

    def number(self, field: str) -> int:
        """Return a field's value, a count of at least one."""
        value: int = self.take(field, int)
        if value < 1:
            raise self.error(f"{field} {value} is less than 1")
        return value

    def end(self) -> None:
        """Refuse what was not asked for."""
        if self._table:
            raise self.error(f"unknown field {', '.join(sorted(self._table))}")


_WORDS = {
    str: "string",
    int: "integer",
    list: "list",
    dict: "table",
    dt.date: "date",
}


def parse_releases(text: str, *, path: str = FILE) -> ReleaseData:
    """Read and check a file of releases.

    Args:
        text: its content.
        path: its name, for errors.

    Raises:
        FormatError: it is not TOML, or an entry is wrong; the text names the entry.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"not TOML: {error}", path=path) from error
    top = _Entry(table, "the file", path)
    parts = (top.take("release", list), top.take("policy", dict), top.take("deprecation", list))
    top.end()
    releases = _read_releases(parts[0], path)
    known = {entry.name: entry for entry in releases}
    return ReleaseData(
        releases,
        _read_policy(_Entry(parts[1], "policy", path), known),
        _read_deprecations(parts[2], known, path),
    )


def _titled(tables: Iterable[object], what: str, key: str, path: str) -> Iterable[_Entry]:
    """Give the tables of a list as entries, called by name or number."""
    for number, table in enumerate(tables, 1):
        name = table.get(key) if isinstance(table, dict) else None
        yield _Entry(table, f"{what} '{name}'" if name else f"{what} number {number}", path)


def _read_releases(tables: list[object], path: str) -> tuple[Release, ...]:
    found: list[Release] = []
    for entry in _titled(tables, "release", "name", path):
        made = Release(
            entry.take("name", str),
            entry.take("date", dt.date),
            entry.choice("basis", BASES),
            _texts(entry, "behaviour"),
            entry.take("note", str, needed=False) or "",
        )
        entry.end()
        try:
            version = made.version
        except UsageError as error:
            raise entry.error(str(error)) from error
        if made.name != ".".join(map(str, version if made.is_stable else version[:2])):
            raise entry.error("a release of the main line has two numbers, a stable one three")
        main = [other for other in found if not other.is_stable]
        before = found[-1] if made.is_stable else (main[-1] if main else None)
        if found and version <= found[-1].version:
            raise entry.error(f"stands behind {found[-1].name}, in no order or twice")
        if made.is_stable and found[-1].branch != made.branch:
            raise entry.error(f"there is no {made.branch} before it")
        if before is not None and made.date <= before.date:
            raise entry.error(f"is not later than {before.name}")
        found.append(made)
    return tuple(found)


def _texts(entry: _Entry, field: str) -> tuple[str, ...]:
    values = entry.take(field, list, needed=False) or []
    if not all(isinstance(value, str) and value for value in values):
        raise entry.error(f"{field} is no list of strings")
    return tuple(values)


def _known(entry: _Entry, field: str, known: Mapping[str, Release], *, needed: bool) -> Any:
    """Return a field's value, the name of a main release that the file has."""
    name = entry.take(field, str, needed=needed)
    if name is not None and (name not in known or known[name].is_stable):
        raise entry.error(f"{field}: no release of the main line is called '{name}'")
    return name


def _read_policy(entry: _Entry, known: Mapping[str, Release]) -> Policy:
    table = entry.take("machine_types", dict)
    machines = _Entry(table, "policy, machine_types", entry.path)
    made = Policy(
        _known(entry, "began", known, needed=True),
        entry.take("announced", dt.date),
        entry.number("releases"),
        MachineTypes(
            _known(machines, "began", known, needed=True),
            machines.number("deprecated_after"),
            machines.number("removed_after"),
        ),
    )
    machines.end()
    entry.end()
    if made.machine_types.removed_after <= made.machine_types.deprecated_after:
        raise machines.error("removed_after is not greater than deprecated_after")
    return made


def _read_deprecations(
    tables: list[object], known: Mapping[str, Release], path: str
) -> tuple[Deprecation, ...]:
    found: dict[str, Deprecation] = {}
    for entry in _titled(tables, "deprecation", "item", path):
        item = entry.take("item", str)
        kind = entry.choice("kind", KINDS)
        steps = {
            field: _known(entry, field, known, needed=False)
            for field in ("deprecated", "experimental", "flagged", "removed", "delisted")
        }
        texts = {field: entry.take(field, str, needed=False) or "" for field in _TEXTS}
        entry.end()
        if (steps["deprecated"] is None) == (steps["experimental"] is None):
            raise entry.error("has to have either deprecated or experimental")
        if steps["removed"] is not None and steps["delisted"] is not None:
            raise entry.error("has both removed and delisted")
        start = steps["deprecated"] or steps["experimental"]
        for field in ("flagged", "removed", "delisted"):
            name = steps[field]
            if name is not None and known[name].version <= known[start].version:
                raise entry.error(f"{field} {name} is not later than {start}")
        if item in found:
            raise entry.error("is there twice")
        found[item] = Deprecation(item, kind, **steps, **texts)
    return tuple(found.values())


_TEXTS = ("replacement", "note")


# -- the package's own ------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _data() -> ReleaseData:
    path = data_path(FILE)
    return parse_releases(path.read_text(encoding="utf-8"), path=FILE)


def releases() -> tuple[Release, ...]:
    """Return the releases by version, oldest first, stable ones behind their branch's main one.

    Of the stable releases only those are known that changed what clients see.
    """
    return _data().releases


def release(name: str) -> Release:
    """Return a release by its number; ``5.2.0`` is ``5.2``.

    Raises:
        UsageError: the text is no number of a release, or no release with it is known.
    """
    return _data().release(name)


def policy() -> Policy:
    """Return the deprecation policy."""
    return _data().policy


def deprecations() -> tuple[Deprecation, ...]:
    """Return what was deprecated around block devices, NBD and QMP."""
    return _data().deprecations


def deprecated_in(version: tuple[int, ...]) -> Mapping[str, Deprecation]:
    """Return what a release has although it is deprecated there, by item.

    Introspection tells of commands and arguments only since 5.0, and of some never; this tells
    what the list of deprecations said.

    Args:
        version: the release, as two or three numbers.
    """
    branch = version[:2]

    def holds(entry: Deprecation) -> bool:
        if entry.deprecated is None or parse_release(entry.deprecated) > branch:
            return False
        gone = entry.removed or entry.delisted
        return gone is None or branch < parse_release(gone)

    return {entry.item: entry for entry in deprecations() if holds(entry)}


def earliest_removal(deprecated: str, *, window: int | None = None) -> Release | None:
    """Return the first release that may be without what the release ``deprecated`` deprecated.

    Args:
        deprecated: the release that deprecated it.
        window: in how many releases it works on, that one included; None for the policy's.

    Returns:
        A release of the main line; None if it is not out yet.

    Raises:
        UsageError: there is no such release, or the window is less than one release.
    """
    return _data().earliest_removal(deprecated, window=window)


def between(first: str, last: str) -> tuple[Release, ...]:
    """Return the main line from one release up to another, that one excluded.

    Raises:
        UsageError: there is no such release.
    """
    return _data().between(first, last)
