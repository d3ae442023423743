"""Plays scripted monitor sessions at QEMU and at the emulator, and shows where they differ.

A session is a list of steps, data without behaviour (`qmp_sessions`). After each step but the last
of a connection the player asks for a command that nobody has, with an id of its own: everything up
to that answer belongs to the step, so replies are never counted and any input may be sent.
"""

from __future__ import annotations

import contextlib
import difflib
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


Step = Command | bytes | Part | Until | Reconnect | NbdConnect | NbdLeave


@dataclass
class Player:
    """One process, and a connection to its monitor.

    Args:
        folder: where the process runs; file names are seen from there.
    """

    folder: Path
    _names: dict[str, str] = field(default_factory=dict)
    _clients: dict[str, Client] = field(default_factory=dict)
    _serial: int = 0

    def __post_init__(self) -> None:
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for client in self._clients.values():
            client.close()
        self._link.close()

    def _open(self) -> bytes:
        self._link = socket.socket(socket.AF_UNIX)
        self._link.settimeout(TIME_LIMIT)
        self._link.connect(str(self.folder / "qmp.sock"))
        self._stream = self._link.makefile("rb")
        return self._stream.readline()

    def _leave(self) -> None:
        """Close the connection; wait until the other side has noticed."""
        self._link.shutdown(socket.SHUT_WR)
        while self._stream.readline():
            pass
        self._stream.close()
        self._link.close()

    def play(self, steps: Sequence[Step]) -> list[tuple[str, list[str]]]:
        """Play a session on a connection of its own; return each step with what it brought."""
        self._names.clear()
        self._leave()
        self._open()
        self._ask(("qmp_capabilities", {}))
        told = []
        for step in steps:
            try:
                told.append((show(step), [self._mask(line) for line in self._step(step)]))
            except (OSError, AssertionError) as error:
                raise AssertionError(f"{self.folder.name}: {show(step)}: {error!r}") from error
        self._clean_up()
        return told

    def _step(self, step: Step) -> list[bytes]:
        if isinstance(step, Reconnect):
            self._leave()
            lines = [self._open()]
            return lines + (self._ask(("qmp_capabilities", {})) if step.negotiate else [])
        if isinstance(step, NbdConnect):
            uri = f"nbd+unix:///{step.export}?socket={self.folder}/nbd.sock"
            self._clients[step.client] = Client.connect(uri)
            return []
        if isinstance(step, NbdLeave):
            self._clients.pop(step.client).close()
            return []
        if isinstance(step, bytes):
            return self._send(step)
        if isinstance(step, Part):
            return self._send(step.data, marked=False)
        if isinstance(step, Until):
            self._send(_encode(step.command), marked=False)
            return self._read_until(step)
        return self._ask(step)

    def _ask(self, command: Command) -> list[bytes]:
        return self._send(_encode(command))

    def _send(self, data: bytes, *, marked: bool = True) -> list[bytes]:
        if not marked:
            self._link.sendall(data)
            return []
        self._serial += 1
        end = f"end of step {self._serial}"
        self._link.sendall(data + json.dumps({"execute": "x-end-of-step", "id": end}).encode())
        lines = []
        while end.encode() not in (line := self._line()):
            lines.append(line)
        return lines

    def _line(self) -> bytes:
        line = self._stream.readline()
        assert line.endswith(b"\r\n"), f"the monitor left: {line!r}"
        return line

    def _read_until(self, step: Until) -> list[bytes]:
        """Read until the reply and the events are there, in whatever order."""
        lines: list[bytes] = []
        event = f'"event": "{step.event}"'.encode()
        while sum(event in line for line in lines) < step.count or not any(
            b'"event": ' not in line for line in lines
        ):
            lines.append(self._line())
        return lines

    def result(self, command: str, /, **arguments: Any) -> Any:
        """Run a command outside of the transcript; return its result, None if it is refused."""
        replies = [json.loads(line) for line in self._ask((command, arguments))]
        return next(reply.get("return") for reply in replies if "event" not in reply)

    def _clean_up(self) -> None:
        """Take away all that a session has made, so that the next finds the process empty."""
        for client in self._clients.values():
            with contextlib.suppress(OSError):
                client.close()
        self._clients.clear()
        self._leave()
        self._open()
        self._ask(("qmp_capabilities", {}))
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
    if isinstance(step, Until):
        return f"{show(step.command)} until {step.count} {step.event}"
    if isinstance(step, tuple):
        return f"{step[0]} {json.dumps(step[1])}"
    return repr(step) if len(repr(step)) < 300 else f"{repr(step)[:300]}..."


@contextlib.contextmanager
def player(program: str, folder: Path, *, emulated: bool) -> Iterator[Player]:
    """Run a program of QEMU's in a new folder, or the emulator in its place."""
    folder.mkdir()
    chardev = "socket,id=m,path=qmp.sock,server=on,wait=off"
    if emulated:
        played = "qemu-system" if program == SYSTEM else program
        words = [sys.executable, "-m", "nbexport", "qmp", "--release", "7.2"]
        words += ["--program", played, "--socket", "qmp.sock"]
    elif program == SYSTEM:
        words = [peer(SYSTEM), "-M", "none", "-nodefaults", "-display", "none"]
        words += ["-chardev", chardev, "-mon", "chardev=m,mode=control"]
    else:
        words = [peer(DAEMON), "--chardev", chardev, "--monitor", "chardev=m"]
    with (
        background(*words, ready=folder / "qmp.sock", cwd=folder, **QUIET),
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
        if path.name != "qmp.sock":
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
