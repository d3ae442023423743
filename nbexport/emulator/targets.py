"""Something that speaks QMP, in a process of its own: the emulator, or QEMU's storage daemon.

Notebooks and tests start either by name and drive both with the same script.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nbexport import qmp
from nbexport.errors import PeerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

TARGETS = ("emulated", "qemu-storage-daemon")
START_TIME_LIMIT_S = 20.0
STOP_TIME_LIMIT_S = 10.0


class Target:
    """A running process with a QMP monitor, and a folder for its sockets.

    Args:
        name: one of `TARGETS`.
        release: what the emulator behaves as; a real QEMU is what it is.

    Raises:
        UsageError: there is no such target, or its program is not installed.
        PeerError: it did not come up.

    Attributes:
        qmp: a negotiated client of its monitor.
        folder: a temporary folder that lasts as long as the process.
    """

    def __init__(self, name: str, release: str) -> None:
        if name not in TARGETS:
            raise UsageError(f"unknown target '{name}' (known: {', '.join(TARGETS)})")
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="nbexport-"))
        atexit.register(self.close)
        self._process: subprocess.Popen[str] | None = None
        try:
            monitor = self.folder / "monitor.sock"
            self._process = subprocess.Popen(
                _command(name, release, monitor),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.qmp = self._connect(monitor)
        except BaseException:
            self.close()
            raise

    def _connect(self, path: Path) -> qmp.QmpClient:
        """Connect to the monitor as soon as it listens: its socket appears a moment before."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIME_LIMIT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                assert self._process.stderr is not None
                raise PeerError(f"{self.name} did not start: {self._process.stderr.read().strip()}")
            if path.exists():
                try:
                    return qmp.QmpClient(path)
                except PeerError as error:
                    if not isinstance(error.__cause__, ConnectionRefusedError):
                        raise
            time.sleep(0.01)
        raise PeerError(f"{self.name} did not start in {START_TIME_LIMIT_S:.0f} s")

    @property
    def version(self) -> str:
        """The release that the monitor's greeting tells."""
        number = self.qmp.greeting["version"]["qemu"]
        return f"{number['major']}.{number['minor']}.{number['micro']}"

    def ask(self, command: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a command and return the whole reply, be it ``return`` or ``error``."""
        try:
            return {"return": self.qmp.execute(command, arguments)}
        except qmp.QmpCommandError as error:
            return {"error": {"class": error.error_class, "desc": error.desc}}

    def nbd_uri(self, export: str = "") -> str:
        """Return the URI of an export on the server that listens at ``nbd_socket``."""
        return f"nbd+unix:///{export}?socket={self.nbd_socket}"

    @property
    def nbd_socket(self) -> Path:
        """Where a script should have the NBD server listen."""
        return self.folder / "nbd.sock"

    def close(self) -> None:
        """End the process and remove its folder. Safe to call twice."""
        atexit.unregister(self.close)
        client = getattr(self, "qmp", None)
        if client is not None:
            client.close()
        if self._process is not None:
            _end(self._process)
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def launch(name: str, release: str) -> Target:
    """Start a target; see `Target`."""
    return Target(name, release)


def _command(name: str, release: str, monitor: Path) -> list[str]:
    if name == "emulated":
        python = [sys.executable, "-m", "nbexport"]
        return [*python, "qmp", "--release", release, "--socket", str(monitor)]
    program = shutil.which(name)
    if program is None:
        raise UsageError(f"{name} is not installed (Debian package qemu-system-common)")
    chardev = f"socket,id=monitor,path={monitor},server=on,wait=off"
    return [program, "--chardev", chardev, "--monitor", "chardev=monitor"]


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIME_LIMIT_S)
    if process.poll() is None:
        process.kill()
        process.wait(STOP_TIME_LIMIT_S)
    if process.stderr is not None:
        process.stderr.close()
