"""Options inside an option's value, as those of ``-chardev`` and ``-drive``: ``name=value,...``.

Unlike those with dotted keys that follow the interface, they are a flat list of texts: a name
alone is a switch, and a comma in a value is written twice.

Source: qemu(1); the texts were compared with QEMU 7.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

_WELL_FORMED = re.compile(r"[A-Za-z][A-Za-z0-9\-._]*\Z")
_SWITCH = frozenset({"on", "off", "yes", "no", "true", "false", "y", "n"})


class HelpWantedError(Exception):
    """The value asks for help."""


@dataclass
class Group:
    """The options of one kind, all that a command line has of them.

    Attributes:
        name: how errors call the kind.
        implied: the name of a first value that stands alone, if there is one.
        known: the names that there are, or None for any.
        switches: names of those that are on or off.
        numbers: names of those that are numbers.
        warn: told of a switch without a value, if such are deprecated.
    """

    name: str
    implied: str | None
    known: frozenset[str] | None = None
    switches: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    warn: Callable[[str], None] | None = None
    ids: set[str] = field(default_factory=set)

    def parse(self, text: str, *, implied: str | None = None) -> dict[str, str]:
        """Return names and values; the last one of a name counts.

        Args:
            text: the value of the option.
            implied: another name for a first value that stands alone.

        Raises:
            CommandError: it is wrong.
            HelpWantedError: it is ``help``, or has ``help`` in it.
        """
        found: dict[str, str] = {}
        for name, value in self._pairs(text, implied or self.implied):
            if name == "id":
                check_id(value)
            found.pop(name, None)
            found[name] = value
        identifier = found.get("id")
        if identifier is not None:
            if identifier in self.ids:
                raise CommandError(f"Duplicate ID '{identifier}' for {self.name}")
            self.ids.add(identifier)
        for name, value in found.items():
            self._check(name, value)
        return found

    def _pairs(self, text: str, implied: str | None) -> list[tuple[str, str]]:
        pairs = []
        position, first = 0, True
        while position < len(text):
            match = re.compile(r"[^=,]*").match(text, position)
            assert match is not None
            name, end = match[0], match.end()
            if text[end : end + 1] == "=":
                value, position = _value(text, end + 1)
            elif first and implied is not None:
                value, position = _value(text, position)
                if value in {"help", "?"}:
                    raise HelpWantedError
                name = implied
            else:
                position = end + 1
                if name in {"help", "?"}:
                    raise HelpWantedError
                shown, value = name, "on"
                if name.startswith("no"):
                    name, value = name[2:], "off"
                if self.warn is not None:
                    self.warn(
                        f"warning: short-form boolean option '{shown}' deprecated\n"
                        f"Please use {name}={value} instead"
                    )
            pairs.append((name, value))
            first = False
        return pairs

    def _check(self, name: str, value: str) -> None:
        if self.known is not None and name not in self.known and name != "id":
            raise CommandError(f"Invalid parameter '{name}'")
        if name in self.switches and value not in _SWITCH:
            raise CommandError(f"Parameter '{name}' expects 'on' or 'off'")
        if name in self.numbers and not (value.isascii() and value.isdecimal()):
            raise CommandError(f"Parameter '{name}' expects a number")


def check_id(value: str) -> None:
    """Raise CommandError unless ``value`` can be an id."""
    if not _WELL_FORMED.match(value):
        raise CommandError("Parameter 'id' expects an identifier")


def _value(text: str, start: int) -> tuple[str, int]:
    """Return a value, in which a comma is written twice, and where the next option begins."""
    pieces = []
    while True:
        comma = text.find(",", start)
        if comma < 0:
            pieces.append(text[start:])
            return "".join(pieces), len(text)
        if text[comma + 1 : comma + 2] != ",":
            pieces.append(text[start:comma])
            return "".join(pieces), comma + 1
        pieces.append(text[start : comma + 1])
        start = comma + 2


CHARDEV_SWITCHES = frozenset({
    "abstract", "append", "clipboard", "delay", "ipv4", "ipv6", "logappend", "mouse", "mux",
    "nodelay", "server", "signal", "telnet", "tight", "tn3270", "wait", "websocket",
})  # fmt: skip
CHARDEV_NUMBERS = frozenset({"cols", "height", "reconnect", "rows", "to", "width"})
CHARDEV_NAMES = CHARDEV_SWITCHES | CHARDEV_NUMBERS | frozenset({
    "backend", "chardev", "debug", "fd", "host", "input-path", "localaddr", "localport", "logfile",
    "name", "path", "port", "size", "tls-authz", "tls-creds",
})  # fmt: skip
CHARDEV_KINDS = ("null", "socket", "stdio")


def chardevs(warn: Callable[[str], None] | None = None) -> Group:
    """Return the group of character devices."""
    return Group("chardev", "backend", CHARDEV_NAMES, CHARDEV_SWITCHES, CHARDEV_NUMBERS, warn)
