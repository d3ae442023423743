"""Plays scripted monitor sessions at QEMU and at the emulator, and shows where they differ.

A session is a list of steps, data without behaviour (`qmp_sessions`). After each step but the last
of a connection the player asks for a command that nobody has, with an id of its own: everything up
to that answer belongs to the step, so replies are never counted and any input may be sent.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from beside import QUIET
from peers import background, peer

from nbexport.nbd import Client

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

DAEMON = "qemu-storage-daemon"
SYSTEM = "qemu-system-x86_64"
PROGRAMS = (DAEMON, SYSTEM)

TIME_LIMIT = 15.0
"""Seconds for any answer. QEMU's are there in a hundredth; nothing of the sessions waits."""

MONITORS = ("qmp.sock", "qmp2.sock")
HELLO = b'{"execute": "qmp_capabilities"}'

Command = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Until:
    """A command whose consequences outlast its reply: wait for an event as well.

    Attributes:
        command: what to run.
        event: the event that ends the step.
        count: how many of them.
    """

    command: Command
    event: str
    count: int = 1


@dataclass(frozen=True)
class Reconnect:
    """Leave the monitor and come back; the greeting is part of the transcript.

    Attributes:
        negotiate: whether to send qmp_capabilities.
    """

    negotiate: bool = False


@dataclass(frozen=True)
class NbdConnect:
    """Have an NBD client connect to an export.

    Attributes:
        client: what later steps call it.
        export: the export's name.
    """

    client: str
    export: str


@dataclass(frozen=True)
class NbdLeave:
    """Have an NBD client go; the server has noticed when the step ends."""

    client: str


@dataclass(frozen=True)
class Part:
    """Bytes that are no whole request: the next step goes on."""

    data: bytes


@dataclass(frozen=True)
class At:
    """A step at another monitor of the same process; the first is used otherwise.

    Attributes:
        monitor: its number, from 1.
        step: what to do there.
    """

    monitor: int
    step: Command | bytes | Part | Until | Reconnect


Step = At | Command | bytes | Part | Until | Reconnect | NbdConnect | NbdLeave


class Link:
    """A connection to a monitor.

    Args:
        path: its socket.
    """

    _serial = itertools.count(1)

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> bytes:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIME_LIMIT)
        self._socket.connect(str(self._path))
        self._stream = self._socket.makefile("rb")
        return self._stream.readline()

    def renew(self) -> bytes:
        """Leave, wait until the other side has noticed, and come back; return the greeting."""
        self._socket.shutdown(socket.SHUT_WR)
        while self._stream.readline():
            pass
        self.close()
        return self._open()

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._socket.sendall(data)

    def ask(self, data: bytes) -> list[bytes]:
        """Send bytes and return every line that they bring."""
        end = f"end of step {next(self._serial)}"
        self.send(data + json.dumps({"execute": "x-end-of-step", "id": end}).encode())
        lines = []
        while end.encode() not in (line := self.line()):
            lines.append(line)
        return lines

    def line(self) -> bytes:
        """Return the next line."""
        line = self._stream.readline()
        assert line.endswith(b"\r\n"), f"the monitor left: {line!r}"
        return line

    def until(self, step: Until) -> list[bytes]:
        """Run a command; read until the reply and the events are there, in whatever order."""
        self.send(_encode(step.command))
        lines: list[bytes] = []
        event = f'"event": "{step.event}"'.encode()
        while sum(event in line for line in lines) < step.count or all(
            b'"event": ' in line for line in lines
        ):
            lines.append(self.line())
        return lines


@dataclass
class Player:
    """One process, with connections to its monitors and to its exports.

    Args:
        folder: where the process runs; file names are seen from there.
    """

    folder: Path
    _links: list[Link] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    _clients: dict[str, Client] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._links = [Link(self.folder / name) for name in MONITORS]
        return self

    def __exit__(self, *exception: object) -> None:
        for each in (*self._clients.values(), *self._links):
            each.close()

    def play(self, steps: Sequence[Step]) -> list[tuple[str, list[str]]]:
        """Play a session on connections of its own; return each step with what it brought."""
        self._names.clear()
        self._begin_anew()
        told = []
        for step in steps:
            try:
                told.append((show(step), [self._mask(line) for line in self._do(step)]))
            except (OSError, AssertionError) as error:
                raise AssertionError(f"{self.folder.name}: {show(step)}: {error!r}") from error
        self._clean_up()
        return told

    def _begin_anew(self) -> None:
        for link in self._links:
            link.renew()
            link.ask(HELLO)

    def _do(self, step: Step) -> list[bytes]:
        if isinstance(step, NbdConnect):
            uri = f"nbd+unix:///{step.export}?socket={self.folder}/nbd.sock"
            self._clients[step.client] = Client.connect(uri)
            return []
        if isinstance(step, NbdLeave):
            self._clients.pop(step.client).close()
            return []
        if isinstance(step, At):
            return self._say(self._links[step.monitor - 1], step.step)
        return self._say(self._links[0], step)

    def _say(self, link: Link, step: Command | bytes | Part | Until | Reconnect) -> list[bytes]:
        if isinstance(step, Reconnect):
            greeting = link.renew()
            return [greeting, *(link.ask(HELLO) if step.negotiate else ())]
        if isinstance(step, Part):
            link.send(step.data)
            return []
        if isinstance(step, Until):
            return link.until(step)
        return link.ask(step if isinstance(step, bytes) else _encode(step))

    def result(self, command: str, /, **arguments: Any) -> Any:
        """Run a command outside of the transcript; return its result, None if it is refused."""
        replies = [json.loads(line) for line in self._links[0].ask(_encode((command, arguments)))]
        return next(reply.get("return") for reply in replies if "event" not in reply)

    def _clean_up(self) -> None:
        """Take away all that a session has made, so that the next finds the process empty."""
        for client in self._clients.values():
            with contextlib.suppress(OSError):
                client.close()
        self._clients.clear()
        self._begin_anew()
        self.result("nbd-server-stop")
        while nodes := self.result("query-named-block-nodes", flat=True):
            gone = [self.result("blockdev-del", **{"node-name": n["node-name"]}) for n in nodes]
            assert {} in gone, f"nodes that cannot be deleted: {nodes}"

    def _mask(self, line: bytes) -> str:
        """Mask what differs by nature; a generated node name becomes its number in the session."""
        text = line.decode("ascii")
        text = re.sub(r'"(seconds|microseconds|actual-size)": \d+', r'"\1": 0', text)
        # A file's last cluster need not be whole.
        text = re.sub(r'"virtual-size": \d+(, "filename": "[^"]*\.qcow2", "format": "file")',
                      r'"virtual-size": 0\1', text)  # fmt: skip
        text = re.sub(r'"package": "[^"]*"', '"package": ""', text)
        return re.sub(
            r"#block\d+", lambda m: self._names.setdefault(m[0], f"#{len(self._names)}"), text
        )


def _encode(command: Command) -> bytes:
    return json.dumps({"execute": command[0], "arguments": command[1]}).encode()


def show(step: Step) -> str:
    """Return a step as a line of a transcript."""
    if isinstance(step, At):
        return f"monitor {step.monitor}: {show(step.step)}"
    if isinstance(step, Until):
        return f"{show(step.command)} until {step.count} {step.event}"
    if isinstance(step, tuple):
        return f"{step[0]} {json.dumps(step[1])}"
    return repr(step) if len(repr(step)) < 300 else f"{repr(step)[:300]}..."


@contextlib.contextmanager
def player(program: str, folder: Path, *, emulated: bool) -> Iterator[Player]:
    """Run a program of QEMU's in a new folder, or the emulator in its place."""
    folder.mkdir()
    if emulated:
        played = "qemu-system" if program == SYSTEM else program
        words = [sys.executable, "-m", "nbexport", "qmp", "--release", "7.2", "--program", played]
        words += [word for name in MONITORS for word in ("--socket", name)]
    else:
        chardevs = [f"socket,id={name},path={name},server=on,wait=off" for name in MONITORS]
        words = [peer(program)]
        if program == SYSTEM:
            words += ["-M", "none", "-nodefaults", "-display", "none"]
        for name, chardev in zip(MONITORS, chardevs, strict=True):
            monitor = f"chardev={name}" + (",mode=control" if program == SYSTEM else "")
            words += ["-chardev" if program == SYSTEM else "--chardev", chardev]
            words += ["-mon" if program == SYSTEM else "--monitor", monitor]
    with (
        background(*words, ready=folder / MONITORS[-1], cwd=folder, **QUIET),
        Player(folder) as started,
    ):
        yield started


class Pair:
    """A program of QEMU's and the emulator in its place; started anew once a session fails.

    Args:
        program: one of `PROGRAMS`.
        folder: gets a folder for each process.
        files: what each session begins with.
    """

    def __init__(self, program: str, folder: Path, files: Path) -> None:
        self.program = program
        self._folder = folder
        self._files = files
        self._count = 0
        self._running = contextlib.ExitStack()
        self._players: list[Player] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()

    def difference(self, steps: Sequence[Step]) -> str:
        """Play a session at both and return how they differ; empty if they do not."""
        if not self._players:
            self._count += 1
            for emulated in (False, True):
                folder = self._folder / f"{self._count}-{'emulator' if emulated else 'qemu'}"
                entered = player(self.program, folder, emulated=emulated)
                self._players.append(self._running.enter_context(entered))
        told = []
        try:
            for each in self._players:
                lay_out(self._files, each.folder)
                told.append(each.play(steps))
        except BaseException:
            self._stop()
            raise
        found = compare(*told)
        if found:
            self._stop()
        return found

    def _stop(self) -> None:
        self._players.clear()
        self._running.close()


def lay_out(files: Path, folder: Path) -> None:
    """Give a process the files that a session begins with."""
    for path in folder.iterdir():
        if path.name not in MONITORS:
            path.unlink()
    for path in files.iterdir():
        shutil.copy(path, folder)


def compare(theirs: list[tuple[str, list[str]]], ours: list[tuple[str, list[str]]]) -> str:
    """Return the steps whose answers differ, with a line-by-line difference; empty if none."""
    told = []
    for (step, expected), (_, found) in zip(theirs, ours, strict=True):
        if expected != found:
            lines = difflib.unified_diff(_wide(expected), _wide(found), "QEMU", "emulator", n=1)
            told += [f"> {step}", *(line.rstrip("\r\n") for line in lines), ""]
    return "\n".join(told)


def _wide(lines: list[str]) -> list[str]:
    """Spread long answers, so that a difference stands alone."""
    spread = []
    for line in lines:
        if len(line) > 200:
            with contextlib.suppress(ValueError):
                line = json.dumps(json.loads(line), indent=1)
        spread += line.splitlines()
    # What is lost by that, such as the order of members, must still be seen.
    return [*spread, *(f"as sent: {line!r}" for line in lines if len(line) > 200)]


def make_files(folder: Path, two_bitmaps: Path) -> None:
    """Make the files that sessions use."""
    for name in ("two-bitmaps.qcow2", "two-bitmaps.base.qcow2"):
        shutil.copy(two_bitmaps.parent / name, folder)
    (folder / "text").write_bytes(b"not an image\n" * 2000)
    (folder / "odd.raw").write_bytes(bytes(4 * 65536 + 1))
    (folder / "small.raw").write_bytes(bytes(65536))
    img = peer("qemu-img")
    for name, options in (
        ("empty.qcow2", "compat=1.1"),
        ("old.qcow2", "compat=0.10"),
        ("wide.qcow2", "cluster_size=2M"),
    ):
        words = [img, "create", "-q", "-f", "qcow2", "-o", options, folder / name, "4M"]
        subprocess.run(words, check=True, timeout=TIME_LIMIT)
