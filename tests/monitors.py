"""Monitors of QEMU's programs and of the emulator, each command with its reply and events."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
from typing import TYPE_CHECKING, Any, Self

from beside import QUIET
from peers import TIME_LIMIT, background, peer

from nbexport.errors import PeerError
from nbexport.qmp import QmpClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAEMON = "qemu-storage-daemon"
SYSTEM = "qemu-system-x86_64"
OURS = "nbexport"
OURS_AS_SYSTEM = "nbexport-as-system"


class Monitor:
    """One client of a monitor.

    Attributes:
        folder: where the process runs: its file names are seen from there.
        log: replies and events as they came, without the time and what differs by nature.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(TIME_LIMIT)
            self._socket.connect(str(folder / "qmp.sock"))
            self._stream = self._socket.makefile("rwb")
            greeting = self._stream.readline()
            if not greeting:
                raise ConnectionResetError("the monitor closed the connection")
            assert b'"QMP"' in greeting
            if self.execute("qmp_capabilities") != {}:
                raise ConnectionError("the monitor refused the negotiation")
        except BaseException:
            self._socket.close()
            raise
        self.log.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()
        self._socket.close()

    def take(self) -> dict[str, Any]:
        """Take the next reply or event."""
        line = self._stream.readline()
        assert line.endswith(b"\n"), line
        found: dict[str, Any] = json.loads(line)
        found.pop("timestamp", None)
        self.log.append(found)
        return found

    def execute(self, command: str, /, **arguments: Any) -> Any:
        """Run a command; return its result, or the text of its error. Events go to the log."""
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        request = {"execute": command, "arguments": words}
        self._stream.write(json.dumps(request).encode() + b"\n")
        self._stream.flush()
        while "event" in (reply := self.take()):
            pass
        if "QMP" in reply:
            raise ConnectionError("the monitor greeted twice")  # `peers.settle` knows of whom
        return reply["return"] if "return" in reply else reply["error"]["desc"]

    def events(self, name: str) -> list[Any]:
        """Return the data of the events of one name that have come."""
        return [each["data"] for each in self.log if each.get("event") == name]

    def wait_for(self, name: str, count: int) -> None:
        """Take events until so many of one name have come."""
        while len(self.events(name)) < count:
            self.take()

    def quit(self) -> None:
        """Have the process end; take what it still tells."""
        self.execute("quit")
        with contextlib.suppress(ConnectionError, AssertionError):
            while True:
                self.take()


@contextlib.contextmanager
def daemon_client(path: Path) -> Iterator[QmpClient]:
    """Run a storage daemon with its monitor at ``path``, and give a client of it.

    What `peers.settle` guards against was once in a while seen after it, too: a QEMU that greets
    twice or does not answer is started anew. The emulator never is.
    """
    chardev = f"socket,id=monitor,path={path},server=on,wait=off"
    words = [peer(DAEMON), "--chardev", chardev, "--monitor", "chardev=monitor"]
    for left in (2, 1, 0):
        with background(*words, ready=path):
            try:
                client = QmpClient(path)
            except PeerError as error:
                greeted_twice = "neither result nor error" in str(error)
                if not left or not (greeted_twice or isinstance(error.__cause__, TimeoutError)):
                    raise
                continue
            with client:
                yield client
            return


@contextlib.contextmanager
def monitor(program: str, folder: Path, *images: Path, release: str = "7.2") -> Iterator[Monitor]:
    """Run a program in a new folder with copies of images; give a client of its monitor."""
    folder.mkdir()
    for image in images:
        shutil.copy(image, folder)
    if program == DAEMON:
        chardev = "socket,id=m,path=qmp.sock,server=on,wait=off"
        words = [peer(DAEMON), "--chardev", chardev, "--monitor", "chardev=m"]
    elif program == SYSTEM:
        words = [peer(SYSTEM), "-M", "none", "-nodefaults", "-display", "none"]
        words += ["-qmp", "unix:qmp.sock,server=on,wait=off"]
    else:
        played = DAEMON if program == OURS else "qemu-system"
        words = [sys.executable, "-m", "nbexport", "qmp", "--program", played]
        words += ["--release", release, "--socket", "qmp.sock"]
    # As in `daemon_client`: nothing has been asked yet of one that does not answer.
    for left in (2, 1, 0):
        with background(*words, ready=folder / "qmp.sock", cwd=folder, **QUIET):
            try:
                client = Monitor(folder)
            except (TimeoutError, ConnectionError):
                if not left or program in {OURS, OURS_AS_SYSTEM}:
                    raise
                continue
            with client:
                yield client
            return


def qcow2(name: str, **more: Any) -> dict[str, Any]:
    """Return the arguments of blockdev-add for an image in the process's folder."""
    file = {"driver": "file", "filename": name}
    return {"driver": "qcow2", "file": file, "read_only": True, **more}


def unix(name: str = "nbd.sock") -> dict[str, Any]:
    """Return a listening address in the process's folder."""
    return {"type": "unix", "data": {"path": name}}
