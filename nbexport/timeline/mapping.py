"""How the arguments of an old call become those of its replacement: ``data/migrations.toml``.

The file says what its fields mean. Whatever is wrong in it is told with the entry's name when it
is read; whether its names exist in the interfaces is for a test to say.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from nbexport.errors import FormatError, UsageError
from nbexport.resources import data_path
from nbexport.timeline.elements import parse_element

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "migrations.toml"
SAME, LIST = "same", "list"
_SUGGESTIONS = 3
MAX_STEPS = 8
"""Replacements of replacements that are followed; the file has two at most."""


@dataclass(frozen=True, slots=True)
class Argument:
    """What becomes of an argument.

    Attributes:
        old: its name in the old call.
        to: the argument of the new one that takes its value; empty if none does.
        form: ``same``, or ``list`` if the value becomes a list of one.
        note: what changes in its meaning.
    """

    old: str
    to: str = ""
    form: str = SAME
    note: str = ""

    def convert(self, value: Any) -> Any:
        """Return the value as the new call takes it."""
        return [value] if self.form == LIST else value


@dataclass(frozen=True, slots=True)
class New:
    """An argument that the old call has no counterpart of; one of the fields says where from.

    Attributes:
        name: its name.
        value: what it always is, a string; empty if it is not always the same.
        of: old arguments; the first that is given is the value, unless the application has one.
        asked: what the application has to know to give it.
        note: what a value has to be.
    """

    name: str
    value: str = ""
    of: tuple[str, ...] = ()
    asked: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from a call to its replacement.

    Attributes:
        item: what goes, in the notation of ``nbexport.timeline.elements``.
        to: the command to call instead.
        arguments: what becomes of each old argument; empty if ``whole`` is given.
        new: arguments without a counterpart.
        whole: what all old arguments together become, with an empty ``old``; None otherwise.
        note: what else to know.
    """

    item: str
    to: str
    arguments: tuple[Argument, ...] = ()
    new: tuple[New, ...] = ()
    whole: Argument | None = None
    note: str = ""

    @property
    def command(self) -> str:
        """The old command."""
        return self.item.partition(" ")[0]

    @property
    def argument(self) -> str:
        """The argument that goes where the command stays, else empty."""
        return self.item.partition(" ")[2]

    def convert(self, arguments: Mapping[str, Any], **known: Any) -> dict[str, Any]:
        """Return the new call's arguments.

        Args:
            arguments: those of the old call.
            known: what the application has to know, by the names of the new arguments.

        Raises:
            UsageError: an argument is not one of the old call, or one that has to be known is not.
        """
        if self.whole is not None:
            return {self.whole.to: self.whole.convert(dict(arguments))}
        left = set(arguments) - {argument.old for argument in self.arguments}
        if left:
            raise UsageError(f"{self.command} has no argument '{min(left)}'")
        made: dict[str, Any] = {}
        for new in self.new:
            if new.value:
                made[new.name] = new.value
            elif new.name in known:
                made[new.name] = known[new.name]
            elif given := [arguments[old] for old in new.of if old in arguments]:
                made[new.name] = given[0]
            else:
                why = new.asked or f"give it, or one of {', '.join(new.of)}"
                raise UsageError(f"{self.to} needs '{new.name}': {why}")
        for argument in self.arguments:
            if argument.to and argument.old in arguments:
                made[argument.to] = argument.convert(arguments[argument.old])
        return made

    def targets(self, used: tuple[str, ...]) -> tuple[str, ...]:
        """Return the arguments of the new call that a call with these old ones becomes."""
        if self.whole is not None:
            return (self.whole.to,)
        moved = [a.to for a in self.arguments if a.to and a.old in used]
        return tuple(dict.fromkeys([*(new.name for new in self.new), *moved]))


# -- reading ----------------------------------------------------------------------------------


def parse_migrations(text: str, *, path: str = FILE) -> tuple[Migration, ...]:
    """Read and check a file of migrations.

    Raises:
        FormatError: it is not TOML, or an entry is wrong; the text names the entry.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"not TOML: {error}", path=path) from error
    entries = table.pop("migration", None)
    if table or not isinstance(entries, list) or not entries:
        raise FormatError("expected a list 'migration' and nothing else", path=path)
    found: dict[str, Migration] = {}
    for number, entry in enumerate(entries, 1):
        try:
            made = _migration(entry)
        except (ValueError, UsageError) as error:
            item = entry.get("item", f"number {number}") if isinstance(entry, dict) else number
            raise FormatError(f"migration {item}: {error}", path=path) from error
        if made.item in found:
            raise FormatError(f"migration {made.item}: is there twice", path=path)
        found[made.item] = made
    return tuple(found.values())


def _text(table: dict[str, Any], field: str, *, needed: bool = False) -> str:
    value = table.pop(field, None)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{field} is {'missing' if value is None else 'no text'}")
    return value


def _table(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no table")
    return dict(value)


def _end(table: dict[str, Any], what: str) -> None:
    if table:
        raise ValueError(f"{what}: unknown field {', '.join(sorted(table))}")


def _migration(entry: Any) -> Migration:
    table = _table(entry, "the entry")
    item = str(parse_element(_text(table, "item", needed=True)))
    to = _text(table, "to", needed=True)
    note = _text(table, "note")
    listed = _table(table.pop("arguments", {}), "arguments")
    arguments = tuple(_argument(old, value) for old, value in listed.items())
    given = _table(table.pop("new", {}), "new")
    new = tuple(_new(name, value) for name, value in given.items())
    whole = table.pop("whole", None)
    _end(table, "the entry")
    if (whole is None) == (not arguments):
        raise ValueError("has to have either arguments or whole")
    olds = {argument.old for argument in arguments}
    for part in new:
        if not set(part.of) <= olds:
            raise ValueError(f"new.{part.name}: of names no old argument")
    return Migration(item, to, arguments, new, _argument("", whole) if whole else None, note)


def _argument(old: str, value: Any) -> Argument:
    table = _table(value, f"arguments.{old}")
    made = Argument(old, _text(table, "to"), _text(table, "as") or SAME, _text(table, "note"))
    _end(table, f"arguments.{old}")
    if made.form not in (SAME, LIST):
        raise ValueError(f"arguments.{old}: as '{made.form}' is none of {SAME}, {LIST}")
    return made


def _new(name: str, value: Any) -> New:
    table = _table(value, f"new.{name}")
    of = table.pop("of", [])
    if not isinstance(of, list) or not all(isinstance(old, str) for old in of):
        raise ValueError(f"new.{name}: of is no list of texts")
    texts = _text(table, "value"), tuple(of), _text(table, "asked"), _text(table, "note")
    made = New(name, *texts)
    _end(table, f"new.{name}")
    if sum(map(bool, (made.value, made.of, made.asked))) != 1:
        raise ValueError(f"new.{name}: has to have one of value, of and asked")
    return made


# -- the package's own ------------------------------------------------------------------------


@lru_cache(maxsize=1)
def migrations() -> tuple[Migration, ...]:
    """Return the steps that are known, in the order of the file."""
    return parse_migrations(data_path(FILE).read_text(encoding="utf-8"), path=FILE)


def chain(item: str) -> tuple[Migration, ...]:
    """Return the steps from an item to its replacement, and to that one's.

    Raises:
        UsageError: nothing is known of the item; those that are known are told.
    """
    known = {step.item: step for step in migrations()}
    normal = str(parse_element(item))
    if normal not in known:
        alike = difflib.get_close_matches(normal, known, _SUGGESTIONS)
        hint = f"did you mean {', '.join(alike)}?" if alike else f"known are {', '.join(known)}"
        raise UsageError(f"no migration of '{normal}' ({hint})")
    steps = [known[normal]]
    while steps[-1].to in known and len(steps) < MAX_STEPS:
        steps.append(known[steps[-1].to])
    return tuple(steps)
