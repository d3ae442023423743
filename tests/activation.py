"""Starting programs with sockets, as service managers do."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from beside import NBEXPORT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 20


def activation(*words: Any) -> list[str]:
    """Return a command that becomes `nbexport` with LISTEN_PID set to its own number."""
    code = (
        "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid());"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", code, *NBEXPORT, *map(str, words)]


def started(argv: Any, sockets: Any, **environment: str) -> subprocess.Popen[str]:
    """Start a program with sockets from descriptor 3 on."""

    def place() -> None:
        high = [os.dup2(each.fileno(), 100 + n) for n, each in enumerate(sockets)]
        for number, fd in enumerate(high):
            os.dup2(fd, 3 + number)

    return subprocess.Popen(
        argv,
        preexec_fn=place,  # noqa: PLW1509 - no threads run in this process
        close_fds=False, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@contextlib.contextmanager
def ending(process: Any) -> Iterator[Any]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


@contextlib.contextmanager
def listeners(folder: Path, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(count):
            each = stack.enter_context(socket.socket(socket.AF_UNIX))
            each.bind(str(folder / f"s{number}"))
            each.listen()
            made.append(each)
        yield made
