"""Listening before anything else is ready, so that clients wait in the queue and not for a file.

Some wait for a socket's file for a second only, and what serves it takes a good part of that to be
imported. Looked at is what is most often written; all else is opened in its turn.
"""

from __future__ import annotations

import contextlib
import re
import socket
from typing import TYPE_CHECKING

from nbexport.listening import forget_early, listen_early

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BACKLOG = 1
"""Of a monitor, as `nbexport.qmp.endpoints` has it."""

_SHORT = re.compile(r"unix:([^,=]+),server(?:=on)?,(?:nowait|wait=off)\Z")
_SERVES = ({"server": "on", "wait": "off"}, {"server": "", "nowait": ""})


@contextlib.contextmanager
def monitors(options: Iterable[tuple[str, str]]) -> Iterator[None]:
    """Listen at unix sockets of monitors that wait for nobody; what nobody takes is removed.

    Args:
        options: names and values of a command line.
    """
    for name, value in options:
        path = _path(name, value)
        if path is not None:
            listen_early(path, BACKLOG)
    try:
        yield
    finally:
        forget_early()


@contextlib.contextmanager
def server(path: str) -> Iterator[None]:
    """Listen at an NBD server's unix socket; it is removed if nobody takes it."""
    listen_early(path, socket.SOMAXCONN)
    try:
        yield
    finally:
        forget_early()


def _path(name: str, value: str) -> str | None:
    if name in {"qmp", "qmp-pretty"}:
        match = _SHORT.match(value)
        return None if match is None else match[1]
    if name != "chardev" or ",," in value or not value.startswith("socket,"):
        return None
    pairs = dict(part.partition("=")[::2] for part in value.split(",")[1:])
    path = pairs.pop("path", None)
    identifier = pairs.pop("id", "")
    return path if path and identifier and pairs in _SERVES else None
