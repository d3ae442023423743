"""Which options the drivers have where an image is named by options, and how their values are read.

Source: QEMU's ``qapi/block-core.json``, ``BlockdevOptions``; the words of QEMU's option parser.
"""

from __future__ import annotations

import enum
from typing import Any

from nbexport.emulator.numbers import parse_size, parse_uint64
from nbexport.errors import CommandError

_INT64_MAX = (1 << 63) - 1
_TRUE = frozenset({"on", "yes", "true", "y"})
_FALSE = frozenset({"off", "no", "false", "n"})


class Kind(enum.Enum):
    """A type of values."""

    TEXT = enum.auto()
    BOOL = enum.auto()
    NUMBER = enum.auto()
    SIZE = enum.auto()
    CACHE = enum.auto()

    def read(self, name: str, value: Any) -> Any:
        """Return a value that was given as text, or as JSON.

        Raises:
            CommandError: it is none of this type.
        """
        if isinstance(value, dict | list):
            raise CommandError(f"Parameter '{name}' has no parts")
        text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
        found: Any = text
        if self is Kind.BOOL:
            found = True if text in _TRUE else False if text in _FALSE else None
        elif self is Kind.NUMBER:
            found = parse_uint64(text)
        elif self is Kind.SIZE:
            found = parse_size(text)
        if found is None:
            raise CommandError(self.refusal(name))
        return found

    def refusal(self, name: str) -> str:
        """Return what is said of a value that is none of this type."""
        if self is Kind.BOOL:
            return f"Parameter '{name}' expects 'on' or 'off'"
        if self is Kind.NUMBER:
            return f"Parameter '{name}' expects a number"
        return (
            f"Parameter '{name}' expects a non-negative number below 2^64\n"
            "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
            "and exabytes, respectively."
        )


def _kinds(text: str, kind: Kind | None) -> dict[str, Kind | None]:
    return dict.fromkeys(text.split(), kind)


_COMMON = {
    **_kinds("driver node-name discard detect-zeroes", Kind.TEXT),
    **_kinds("read-only auto-read-only force-share", Kind.BOOL),
    "cache": Kind.CACHE,
}
_FILE: dict[str, Kind | None] = {
    **_kinds("filename aio locking pr-manager", Kind.TEXT),
    **_kinds("drop-cache x-check-cache-dropped", Kind.BOOL),
    "aio-max-batch": Kind.NUMBER,
}
_NULL: dict[str, Kind | None] = {
    "size": Kind.SIZE,
    "latency-ns": Kind.NUMBER,
    "read-zeroes": Kind.BOOL,
}
_OF_DRIVER: dict[str, dict[str, Kind | None]] = {
    "file": _FILE,
    "host_device": _FILE,
    "null-co": _NULL,
    "null-aio": _NULL,
    "nbd": {
        "server": None,
        **_kinds("path host port export tls-creds tls-hostname x-dirty-bitmap", Kind.TEXT),
        **_kinds("reconnect-delay open-timeout", Kind.NUMBER),
    },
    "raw": {"file": None, "offset": Kind.SIZE, "size": Kind.SIZE},
    "qcow2": {
        **_kinds("file backing data-file encrypt overlap-check", None),
        **_kinds(
            "lazy-refcounts pass-discard-request pass-discard-snapshot pass-discard-other "
            "discard-no-unref",
            Kind.BOOL,
        ),
        **_kinds("cache-size l2-cache-size l2-cache-entry-size refcount-cache-size", Kind.SIZE),
        "cache-clean-interval": Kind.NUMBER,
    },
    "copy-before-write": {
        **_kinds("file target bitmap", None),
        "on-cbw-error": Kind.TEXT,
        "cbw-timeout": Kind.NUMBER,
    },
    "blkdebug": {
        **_kinds("image inject-error set-state take-child-perms unshare-child-perms", None),
        "config": Kind.TEXT,
        **_kinds(
            "align max-transfer opt-write-zero max-write-zero opt-discard max-discard", Kind.SIZE
        ),
    },
    "throttle": {"file": None, "throttle-group": Kind.TEXT},
    "copy-on-read": {"file": None, "bottom": Kind.TEXT},
    "compress": {"file": None},
    "snapshot-access": {"file": None},
    "preallocate": {"file": None, **_kinds("prealloc-align prealloc-size", Kind.SIZE)},
}


def names_of(driver: str) -> set[str]:
    """Return the names of a driver's options."""
    return _COMMON.keys() | _OF_DRIVER[driver].keys()


def kind_of(driver: str, name: str) -> Kind | None:
    """Return the type of an option's values; None for a node or another object."""
    return _COMMON.get(name) or _OF_DRIVER[driver].get(name)
