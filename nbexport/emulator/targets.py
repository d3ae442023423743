"""Something that speaks QMP, in a process of its own: the emulator, or a program of QEMU's.

Notebooks and tests start any of them by name and drive them all with the same script.
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
    from collections.abc import Mapping, Sequence

TARGETS = ("emulated", "qemu-storage-daemon", "qemu-system")
# What a target is called where a program of QEMU's has another name: program and Debian package.
_PROGRAMS = {
    "qemu-storage-daemon": ("qemu-storage-daemon", "qemu-system-common"),
    "qemu-system": ("qemu-system-x86_64", "qemu-system-x86"),
}
# A machine without processor, memory or devices: what is left is the monitor and the block layer.
_NO_MACHINE = ("-machine", "none", "-nodefaults", "-display", "none")
START_TIME_LIMIT_S = 20.0
STOP_TIME_LIMIT_S = 10.0


class Target:
    """A running process with a QMP monitor, and a folder for its sockets.

    Args:
        name: one of `TARGETS`.
        release: what the emulator behaves as; a real QEMU is what it is.
        options: further words of the command line, such as ``--compat`` and its value. The
            emulator and QEMU each have their own; what a program does not know, it refuses.

    Raises:
        UsageError: there is no such target, or its program is not installed.
        PeerError: it did not come up.

    Attributes:
        name: which target it is.
        release: as it was asked for; see `version` for what answers.
        qmp: a negotiated client of its monitor.
        folder: a temporary folder that lasts as long as the process.
    """

    def __init__(self, name: str, release: str, options: Sequence[str] = ()) -> None:
        if name not in TARGETS:
            raise UsageError(f"unknown target '{name}' (known: {', '.join(TARGETS)})")
        self.name = name
        self.release = release
        self.folder = Path(tempfile.mkdtemp(prefix="nbexport-"))
        atexit.register(self.close)
        self._process: subprocess.Popen[str] | None = None
        try:
            own = self.folder / "own.sock"
            self._process = subprocess.Popen(
                [*_command(name, release, [own, self.monitor_socket]), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.qmp = self._connect(own)
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
    def monitor_socket(self) -> Path:
        """Where a second monitor listens, for the application that is to be tried."""
        return self.folder / "monitor.sock"

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


def launch(name: str, release: str, options: Sequence[str] = ()) -> Target:
    """Start a target; see `Target`."""
    return Target(name, release, options)


def _command(name: str, release: str, monitors: Sequence[Path]) -> list[str]:
    if name == "emulated":
        words = [sys.executable, "-m", "nbexport", "qmp", "--release", release]
        return [*words, *(word for path in monitors for word in ("--socket", str(path)))]
    program, package = _PROGRAMS[name]
    path = shutil.which(program)
    if path is None:
        raise UsageError(f"{program} is not installed (Debian package {package})")
    is_daemon = name == "qemu-storage-daemon"
    words = [path, *(() if is_daemon else _NO_MACHINE)]
    for number, monitor in enumerate(monitors):
        words += ["--chardev", f"socket,id=m{number},path={monitor},server=on,wait=off"]
        if is_daemon:
            words += ["--monitor", f"chardev=m{number}"]
        else:
            words += ["-mon", f"chardev=m{number},mode=control"]
    return words


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
