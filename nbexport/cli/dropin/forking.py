"""Going into the background as QEMU's programs do: who called learns when all is ready.

Source: qemu-nbd(8), ``--fork`` and ``--pid-file``.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from nbexport.cli.dropin.stop import StopError

_STDERR: Final = 2
_PIECE: Final = 1024


class Daemon:
    """A process that leaves its caller; what it complains of until it is ready reaches that.

    Args:
        talks: whether it goes on to write to the caller's standard error when it is ready. Who
            reads from that until its end waits for as long.
    """

    def __init__(self, *, talks: bool) -> None:
        self._talks = talks
        self._kept = 1

    def fork(self) -> int | None:
        """Fork; return None in the new process, and an exit status in the one that was called.

        That is 0 if the new process has said nothing until it was `ready`.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        reading, writing = os.pipe()
        if os.fork():
            os.close(writing)
            return _pass_on(reading)
        os.close(reading)
        os.setsid()
        if self._talks:
            self._kept = os.dup(_STDERR)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        os.close(nothing)
        os.dup2(writing, _STDERR)
        os.close(writing)
        return None

    def ready(self) -> None:
        """Let the process that was called end."""
        sys.stderr.flush()
        os.dup2(self._kept, _STDERR)


def _pass_on(reading: int) -> int:
    complained = False
    while piece := os.read(reading, _PIECE):
        complained = True
        os.write(_STDERR, piece)
    return int(complained)


def write_pid(path: str) -> None:
    """Write the number of this process to a file, and keep a lock on it until the end.

    Raises:
        StopError: it cannot be written.
    """
    import fcntl  # noqa: PLC0415 - few ask for it

    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StopError(f"Could not create '{path}': {error.strerror}") from error
    try:
        # As long as it is held another process must not take the file for its own.
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
    except OSError as error:
        os.close(fd)
        raise StopError(f"Cannot lock pid file: {error.strerror}") from error
