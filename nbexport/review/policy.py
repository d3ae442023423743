"""The policy file, ``nbexport.toml``: what a project takes how seriously, and what it lets pass.

::

    [review]
    release = "5.2"                 # the release under development
    deprecation-window = 2          # releases between deprecation and removal
    fail-on = "risky"               # the lowest level that gives exit status 1

    [review.levels]
    since-missing = "notice"
    scalar-where-list-likely = "off"

    [[review.ignore]]
    rule = "removed-*"              # a rule's id or a pattern
    element = "x-*"                 # an element of the wire or a pattern
    path = "*"                      # a step of the way to it or a pattern
    reason = "experimental, announced as such"
    expires = 2027-04-30            # the last day

    [[review.approve]]
    fingerprint = "0123456789abcdef"
    reason = "agreed on the list"
    expires = 2027-04-30            # may be missing

Patterns are those of a shell: ``*``, ``?`` and ``[...]``. Of an expired entry a finding tells.
"""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.errors import SourceError, UsageError
from nbexport.qapi import parse_release
from nbexport.review.finding import Finding, Level, Place
from nbexport.units import MiB

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

FILE_NAME = "nbexport.toml"
EXPIRED = "policy-entry-expired"
OFF = "off"
# A thousand ignores with long reasons are 0.3 MB.
MAX_POLICY = 4 * MiB

_LEVELS = {str(level): level for level in Level}
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_HEADER = re.compile(r"\s*(\[{1,2})\s*([A-Za-z0-9_.\s\"'-]+?)\s*\]{1,2}\s*(?:#.*)?$")
_KEY = re.compile(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*=")


class PolicyError(SourceError):
    """A policy file is wrong; the text opens with file and line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Findings that are let pass.

    Attributes:
        reason: why.
        expires: the last day on which it counts, None for ever.
        line: where it stands in the file.
        rule: pattern of rule ids.
        element: pattern of elements.
        path: pattern that one step of the path must match.
        fingerprint: the one finding that is meant; None where patterns tell.
    """

    reason: str
    expires: dt.date | None
    line: int
    rule: str = "*"
    element: str = "*"
    path: str = "*"
    fingerprint: str | None = None

    def covers(self, finding: Finding) -> bool:
        """Return whether a finding is meant."""
        if self.fingerprint is not None:
            return finding.fingerprint == self.fingerprint
        return (
            fnmatchcase(finding.rule, self.rule)
            and fnmatchcase(finding.element, self.element)
            and (self.path == "*" or any(fnmatchcase(step, self.path) for step in finding.path))
        )

    def __str__(self) -> str:
        if self.fingerprint is not None:
            return f"the approval of {self.fingerprint}"
        return f"the ignore of {self.rule} for {self.element}"


@dataclass(frozen=True, slots=True)
class Ignored:
    """A finding that the policy lets pass.

    Attributes:
        finding: the finding.
        reason: why.
        expires: until when, None for ever.
    """

    finding: Finding
    reason: str
    expires: dt.date | None


@dataclass(frozen=True, slots=True)
class Policy:
    """What a project says of findings.

    Attributes:
        file: the policy file, empty where there is none.
        release: the release under development, None where it does not tell.
        window: releases between deprecation and removal, None for QEMU's two.
        fail_on: the lowest level that makes a review fail, None where it does not tell.
        levels: levels by rule, None for a rule that is off.
        entries: what is let pass, in the order of the file.
    """

    file: str = ""
    release: str | None = None
    window: int | None = None
    fail_on: Level | None = None
    levels: dict[str, Level | None] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()

    def judge(
        self, findings: Iterable[Finding], today: dt.date
    ) -> tuple[list[Finding], list[Ignored]]:
        """Return the findings that stay, their levels set, and those that are let pass."""
        valid = [entry for entry in self.entries if not _expired(entry, today)]
        kept: list[Finding] = []
        ignored: list[Ignored] = []
        for finding in findings:
            level = self.levels.get(finding.rule, finding.level)
            if level is None:
                continue
            finding = replace(finding, level=level) if level != finding.level else finding
            entry = next((entry for entry in valid if entry.covers(finding)), None)
            if entry is None:
                kept.append(finding)
            else:
                ignored.append(Ignored(finding, entry.reason, entry.expires))
        return kept, ignored

    def expired(self, today: dt.date) -> list[Finding]:
        """Return a finding for each entry that has expired."""
        level = self.levels.get(EXPIRED, Level.NOTICE)
        if level is None:
            return []
        return [
            Finding(
                EXPIRED,
                level,
                f"{entry} expired on {entry.expires} ({entry.reason})",
                entry.fingerprint or f"{entry.rule} {entry.element}",
                (),
                None,
                Place(self.file, entry.line),
                "Mend what it let pass, or decide anew and give it another day.",
            )
            for entry in self.entries
            if _expired(entry, today)
        ]


def _expired(entry: Entry, today: dt.date) -> bool:
    return entry.expires is not None and today > entry.expires


def find_policy(folder: Path) -> Path | None:
    """Return the policy file of a folder or of the nearest one above it."""
    for place in (folder, *folder.parents):
        if (place / FILE_NAME).is_file():
            return place / FILE_NAME
    return None


def read_policy(path: str, rules: Collection[str]) -> Policy:
    """Read a policy file.

    Args:
        path: the file.
        rules: the ids of all rules; no other one can be named.

    Raises:
        PolicyError: it cannot be read, or something in it is wrong or unknown.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_POLICY + 1)
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_POLICY:
        raise PolicyError(f"{path}: larger than {MAX_POLICY} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: byte {error.start} is no UTF-8") from error
    return parse_policy(text, path, rules)


def parse_policy(text: str, path: str, rules: Collection[str]) -> Policy:
    """Read the text of a policy file; see `read_policy`."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, _, place = str(error).partition(" (at ")
        where = re.match(r"line (\d+), column (\d+)", place)
        line = f"{where[1]}:{where[2]}" if where else str(text.rstrip("\n").count("\n") + 1)
        raise PolicyError(f"{path}:{line}: {reason}") from error
    return _Reader(text, path, rules).run(content)


class _Reader:
    """Checks what a file says, key by key."""

    def __init__(self, text: str, path: str, rules: Collection[str]) -> None:
        self._lines = text.split("\n")
        self._path = path
        self._rules = rules

    def run(self, content: dict[str, Any]) -> Policy:
        self._known(content, ("review",), "")
        review = self._table(content, "review", "")
        keys = ("release", "deprecation-window", "fail-on", "levels", "ignore", "approve")
        self._known(review, keys, "review")
        release = self._text(review, "release", "review")
        if release is not None:
            try:
                parse_release(release)
            except UsageError as error:
                raise self._error("review", "release", str(error)) from error
        window = review.get("deprecation-window")
        if window is not None and (type(window) is not int or window < 1):
            raise self._error(
                "review", "deprecation-window", "a number of releases, 1 at least, is expected"
            )
        fail_on = self._text(review, "fail-on", "review")
        return Policy(
            self._path,
            release,
            window,
            None if fail_on is None else self._level("review", "fail-on", fail_on),
            self._levels(self._table(review, "levels", "review")),
            (
                *self._entries(review, "ignore", ("rule", "element", "path")),
                *self._entries(review, "approve", ("fingerprint",)),
            ),
        )

    def _levels(self, table: dict[str, Any]) -> dict[str, Level | None]:
        where = "review.levels"
        levels: dict[str, Level | None] = {}
        for rule in table:
            if rule not in self._rules:
                raise self._error(where, rule, f"no rule '{rule}'{self._alike(rule, self._rules)}")
            text = self._text(table, rule, where)
            levels[rule] = None if text == OFF else self._level(where, rule, str(text))
        return levels

    def _entries(self, review: dict[str, Any], name: str, own: tuple[str, ...]) -> list[Entry]:
        where = f"review.{name}"
        items = review.get(name, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise self._error("review", name, f"tables [[{where}]] are expected")
        entries = []
        for index, item in enumerate(items):
            self._known(item, (*own, "reason", "expires"), where, index)
            needed = ("rule", "reason", "expires") if name == "ignore" else (*own, "reason")
            for key in needed:
                if key not in item:
                    raise self._error(where, None, f"'{key}' is missing", index)
            texts = {key: self._text(item, key, where, index) for key in (*own, "reason")}
            expires = item.get("expires")
            if expires is not None and type(expires) is not dt.date:
                raise self._error(where, "expires", "a day such as 2027-04-30 is expected", index)
            rule = texts.get("rule")
            if rule is not None and not any(fnmatchcase(known, rule) for known in self._rules):
                hint = self._alike(rule, self._rules)
                raise self._error(where, "rule", f"no rule matches '{rule}'{hint}", index)
            fingerprint = texts.get("fingerprint")
            if fingerprint is not None and not _FINGERPRINT.fullmatch(fingerprint):
                text = "16 hexadecimal digits are expected"
                raise self._error(where, "fingerprint", text, index)
            given = {key: text for key, text in texts.items() if text is not None}
            line = self._find(where, None, index) or 1
            entries.append(Entry(given.pop("reason"), expires, line, **given))
        return entries

    # -- pieces -----------------------------------------------------------------------------

    def _table(self, content: dict[str, Any], name: str, where: str) -> dict[str, Any]:
        table = content.get(name, {})
        if not isinstance(table, dict):
            raise self._error(
                where, name, f"a table [{where + '.' if where else ''}{name}] is expected"
            )
        return table

    def _text(
        self, table: dict[str, Any], key: str, where: str, index: int | None = None
    ) -> str | None:
        value = table.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self._error(where, key, "a text is expected", index)
        return value

    def _level(self, where: str, key: str, text: str) -> Level:
        if text not in _LEVELS:
            off = f" or {OFF}" if where == "review.levels" else ""
            known = ", ".join(_LEVELS)
            raise self._error(where, key, f"no level '{text}' (there are {known}{off})")
        return _LEVELS[text]

    def _known(
        self, table: dict[str, Any], keys: tuple[str, ...], where: str, index: int | None = None
    ) -> None:
        for key in table:
            if key not in keys:
                text = f"unknown key '{key}'{self._alike(key, keys)}"
                raise self._error(where, key, text, index)

    def _alike(self, name: str, known: Collection[str]) -> str:
        import difflib  # noqa: PLC0415 - only for a mistake

        found = difflib.get_close_matches(name, sorted(known), 1)
        return f" (did you mean '{found[0]}'?)" if found else ""

    def _error(
        self, where: str, key: str | None, message: str, index: int | None = None
    ) -> PolicyError:
        """Return an error with the line of a key, and with its full name."""
        line = self._find(where, key, index)
        name = ".".join(part for part in (where, key) if part)
        if index is not None:
            name = ".".join(part for part in (f"{where}[{index}]", key) if part)
        place = f"{self._path}:{line}" if line else self._path
        return PolicyError(f"{place}: {name}: {message}")

    def _find(self, where: str, key: str | None, index: int | None = None) -> int | None:
        """Return the line of a key, or of a table's header for None; None if it is not found.

        The parser does not tell lines; keys and headers stand at the start of a line, unless the
        file uses inline tables, whose header is told instead.
        """
        table, count, header = "", -1, None
        for number, line in enumerate(self._lines, 1):
            match = _HEADER.match(line)
            if match is not None:
                table = re.sub(r"[\s\"']", "", match[2])
                count += match[1] == "[[" and table == where
                here = table == where and (index is None or count == index)
                if here and key is None:
                    return number
                header = number if here else header
                parent, _, name = table.rpartition(".")
                if key is not None and name == key and parent == where:
                    return number
            elif table == where and (index is None or count == index):
                found = _KEY.match(line)
                if found is not None and found[1] == key:
                    return number
        return header
