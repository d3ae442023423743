"""Servers that do the same: this package's, and the peers that are installed."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from nbexport.errors import PeerError
from nbexport.nbd import QEMU_8_2

if TYPE_CHECKING:
    from collections.abc import Sequence

OURS = "nbexport"
PEERS = ("qemu-nbd", "nbdkit")
START_LIMIT_S = 30.0
STOP_LIMIT_S = 10.0
_POLL_S = 0.0005


@dataclass(frozen=True)
class Disk:
    """What is to be served.

    Attributes:
        path: the image.
        format: ``qcow2`` or ``raw``.
        bitmaps: the bitmaps to offer; with any, the allocation depth is offered too.
        extended: let this package's server offer extended headers; peers do what they can.
        writable: whether clients may write.
    """

    path: Path
    format: str
    bitmaps: tuple[str, ...] = ()
    extended: bool = False
    writable: bool = False


def available(peers: Sequence[str] = PEERS) -> list[str]:
    """Return this package's server and the installed ones of ``peers``."""
    return [OURS, *(name for name in peers if shutil.which(name))]


def can_serve(server: str, disk: Disk) -> bool:
    """Return whether a server knows the disk's format and its bitmaps."""
    plain = disk.format == "raw" and not disk.bitmaps and not disk.writable
    return server != "nbdkit" or plain


def _command(server: str, disk: Disk, path: str) -> list[str]:
    bitmaps = [word for name in disk.bitmaps for word in ("-B", name)]
    depth = ["-A"] if disk.bitmaps else []
    if server == OURS:
        words = [sys.executable, "-m", "nbexport", "serve", "-f", disk.format, "-k", path]
        profile = ["--profile", QEMU_8_2.name] if disk.extended else []
        writable = ["--writable"] if disk.writable else []
        return [*words, *profile, *writable, *depth, *bitmaps, str(disk.path)]
    if server == "qemu-nbd":
        words = ["qemu-nbd", "-t", "-e", "0", "-f", disk.format, "-k", path]
        read_only = [] if disk.writable else ["-r"]
        return [*words, *read_only, *depth, *bitmaps, str(disk.path)]
    return ["nbdkit", "-f", "-r", "-U", path, "file", str(disk.path)]


class Server:
    """A running server on a unix socket; a context manager that ends it.

    Args:
        name: which one, of `available`.
        disk: what it serves.
        folder: where its socket goes; a short path.

    Attributes:
        uri: where it listens.
        started_in: seconds from its start to its greeting.

    Raises:
        PeerError: it ends at once, or does not answer in time.
    """

    def __init__(self, name: str, disk: Disk, folder: Path) -> None:
        self.name = name
        path = folder / f"{name}.sock"
        path.unlink(missing_ok=True)
        self.uri = f"nbd+unix:///?socket={path}"
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            _command(name, disk, str(path)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait(path, begin + START_LIMIT_S)
        except BaseException:
            self.close()
            raise
        self.started_in = time.perf_counter() - begin

    def _wait(self, path: Path, deadline: float) -> None:
        while time.perf_counter() < deadline:
            if self._process.poll() is not None:
                raise PeerError(f"{self.name} ended with status {self._process.returncode}")
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(START_LIMIT_S)
                    probe.connect(str(path))
                    if probe.recv(8) == b"NBDMAGIC":
                        return
            except (FileNotFoundError, ConnectionError):
                pass
            time.sleep(_POLL_S)
        raise PeerError(f"{self.name} does not answer within {START_LIMIT_S:.0f} s")

    @property
    def peak_memory(self) -> int:
        """The most memory that it has had resident, in bytes."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise PeerError(f"{self.name} has ended")

    def close(self) -> None:
        """End it, kindly first."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
