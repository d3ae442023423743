r"""Transcripts: what went over the monitors of a process, as JSON lines.

The first line is about the recording, each other one about one thing that happened::

    {"transcript": 1, "release": "7.2.22", "directory": "/home/me"}
    {"time": 1700000000.25, "monitor": 0, "direction": "connected", "text": ""}
    {"time": 1700000000.25, "monitor": 0, "direction": "sent", "text": "{\"QMP\": ..."}
    {"time": 1700000000.26, "monitor": 0, "direction": "received", "text": "{\"execute\": ..."}

``received`` is what came from the client, ``sent`` what went to it, cut as it was read and
written; put together, the texts are the exact bytes. A byte that is no UTF-8 is a lone surrogate,
U+DC00 plus the byte. Monitors are numbered in the order in which they were given.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nbexport.errors import FormatError, UsageError
from nbexport.qmp import CONNECTED, DISCONNECTED, RECEIVED, SENT
from nbexport.units import MiB

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
DIRECTIONS = (CONNECTED, DISCONNECTED, RECEIVED, SENT)
# A line holds at most one piece of output, 16 MiB of unsent text, each byte as \udcXX at worst.
MAX_LINE = 6 * 16 * MiB + 4096
MAX_MONITORS = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    Attributes:
        monitor: which monitor, from 0.
        direction: one of `DIRECTIONS`.
        data: the bytes; none for a connection that begins or ends.
        time: seconds since 1970.
    """

    monitor: int
    direction: str
    data: bytes = b""
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was recorded.

    Attributes:
        entries: in order.
        release: of the process, as text; empty if unknown.
        directory: where relative file names were seen from; empty if unknown.
    """

    entries: tuple[Entry, ...]
    release: str = ""
    directory: str = ""

    @property
    def monitors(self) -> int:
        """How many monitors there were, those without a client at the end left out."""
        return max((entry.monitor for entry in self.entries), default=-1) + 1

    @classmethod
    def load(cls, path: Path) -> Transcript:
        """Read a transcript.

        Raises:
            UsageError: the file cannot be read.
            FormatError: it is no transcript; the message names the line.
        """
        try:
            with path.open("rb") as file:
                lines = _lines(file, str(path))
                header = _header(lines, str(path))
                entries = tuple(
                    _entry(line, number, str(path)) for number, line in enumerate(lines, 2)
                )
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from error
        return cls(entries, str(header.get("release", "")), str(header.get("directory", "")))

    def renamed(self, names: dict[str, str]) -> Transcript:
        """Return a copy in which texts are replaced in all that was received and sent.

        Args:
            names: for each text, usually the beginning of file names, what stands in its place.
        """
        entries = []
        for entry in self.entries:
            data = entry.data
            for old, new in names.items():
                data = data.replace(old.encode(), new.encode())
            entries.append(Entry(entry.monitor, entry.direction, data, entry.time))
        return Transcript(tuple(entries), self.release, self.directory)


class TranscriptWriter:
    """Writes a transcript while it happens; a context manager that closes the file.

    Each entry is on disk, for other processes to read, before the bytes it tells of take effect.

    Args:
        path: the file; what was in it is lost.
        release: of the process.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, *, release: str) -> None:
        self._file = path.open("w", encoding="ascii")
        header = {"transcript": VERSION, "release": release, "directory": str(Path.cwd())}
        self._write(header)

    def observe(self, monitor: int, direction: str, data: bytes) -> None:
        """Take note of something; fit for the ``observer`` of a server."""
        self._write(
            {
                "time": round(time.time(), 6),
                "monitor": monitor,
                "direction": direction,
                "text": data.decode("utf-8", "surrogateescape"),
            }
        )

    def _write(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def _lines(file: Any, path: str) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise FormatError(f"line {number} is longer than {MAX_LINE} bytes", path=path)
        yield line


def _header(lines: Iterator[bytes], path: str) -> dict[str, Any]:
    header = _object(next(lines, b""), 1, path)
    if header.get("transcript") != VERSION:
        raise FormatError("line 1: not a transcript of a monitor", path=path)
    return header


def _object(line: bytes, number: int, path: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"line {number}: not JSON", path=path) from error
    if not isinstance(value, dict):
        raise FormatError(f"line {number}: not an object", path=path)
    return value


def _entry(line: bytes, number: int, path: str) -> Entry:
    value = _object(line, number, path)
    monitor, direction, text = value.get("monitor"), value.get("direction"), value.get("text", "")
    when = value.get("time", 0)
    if isinstance(monitor, bool) or not isinstance(monitor, int):
        raise FormatError(f"line {number}: 'monitor' is no number", path=path)
    if not 0 <= monitor < MAX_MONITORS:
        raise FormatError(f"line {number}: 'monitor' is not below {MAX_MONITORS}", path=path)
    if direction not in DIRECTIONS:
        raise FormatError(f"line {number}: unknown 'direction'", path=path)
    if not isinstance(text, str) or isinstance(when, bool) or not isinstance(when, int | float):
        raise FormatError(f"line {number}: 'text' or 'time' has the wrong type", path=path)
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise FormatError(f"line {number}: 'text' has no bytes", path=path) from error
    return Entry(monitor, direction, data, float(when))
