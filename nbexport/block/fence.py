"""Keeps the readers of a node and a copy into it apart."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Fence:
    """Many readers, or one that writes; who waits to write goes first.

    A backup's target that has its source as backing file shows the source as it was. Who reads it
    may find that a cluster is not there yet and look into the source: the copy must not come, and
    the source not be overwritten, between these two looks.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._waiting = 0
        self._owner: int | None = None
        self._inside = threading.local()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Read: no copy is made meanwhile. A reader may enter again, and so may the copier."""
        me = threading.get_ident()
        depth = getattr(self._inside, "depth", 0)
        if self._owner == me or depth:
            yield
            return
        with self._changed:
            while self._owner is not None or self._waiting:
                self._changed.wait()
            self._readers += 1
        self._inside.depth = 1
        try:
            yield
        finally:
            self._inside.depth = 0
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Copy: nobody reads meanwhile."""
        with self._changed:
            self._waiting += 1
            while self._readers or self._owner is not None:
                self._changed.wait()
            self._waiting -= 1
            self._owner = threading.get_ident()
        try:
            yield
        finally:
            with self._changed:
                self._owner = None
                self._changed.notify_all()
