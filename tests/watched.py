"""Our server as a process whose memory, files and time are watched."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from beside import assemble, statuses
from nbd_talk import GO, READ, SET_META, STATUS, STRUCTURED, Talk, info, queries

if TYPE_CHECKING:
    from collections.abc import Iterator

MiB = 1 << 20
SIZE = 8 * MiB
PATTERN = bytes(range(256))
MEMORY_MARGIN = 24 * MiB


class Server:
    """Our process, watched."""

    def __init__(self, process, path):
        self.process = process
        self.path = path

    def talk(self):
        return Talk(self.path)

    @property
    def files(self):
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def memory(self, what="VmRSS"):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) * 1024
        raise AssertionError("the server has ended")

    @property
    def cpu_ticks(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def check(self):
        """Show that the next client gets its data."""
        with self.talk() as talk:
            talk.flags()
            talk.option(STRUCTURED)
            talk.option(SET_META, queries(b"", b"base:allocation"))
            talk.option(GO, info(b""))
            reply = talk.request(READ, 4096 + 3, 300)
            assert assemble(reply, 4096 + 3, 300)[0] == (PATTERN * 3)[3:303]
            assert statuses(talk.request(STATUS, 0, SIZE))[0][1][0][1] == 0


def make_image(path: Path) -> Path:
    """Make a disk of 8 MiB, the first of them data."""
    with path.open("wb") as file:
        file.write(PATTERN * (MiB // 256))
        file.truncate(SIZE)
    return path


@contextlib.contextmanager
def unharmed(running: Server) -> Iterator[Server]:
    """Check in the end that the server serves the next client and holds no more than before."""
    files, memory = running.files, running.memory()
    yield running
    running.check()
    until = time.monotonic() + 20
    while running.files > files and time.monotonic() < until:
        time.sleep(0.05)
    assert running.files <= files
    assert running.memory() <= memory + MEMORY_MARGIN
    assert running.process.poll() is None


def leave(talk: Talk, *, by_reset: bool) -> None:
    """Close a connection, by a reset if asked for."""
    if by_reset:
        linger = struct.pack("ii", 1, 0)
        talk._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    talk.close()
