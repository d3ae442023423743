"""Several monitors of one process, the emulator's beside QEMU's: the same bytes on each."""

from __future__ import annotations

import json
import re
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from beside import QUIET
from peers import background, peer

pytestmark = pytest.mark.interop

LIMIT = 20.0
CAPS = '{"execute": "qmp_capabilities"}'
ADDRESS = {"type": "unix", "data": {"path": "nbd.sock"}}
DISK = {"driver": "file", "node-name": "n", "filename": "disk"}
EXPORT = {"type": "nbd", "id": "e", "node-name": "n"}


def call(command, arguments=None, number=None):
    request = {"execute": command}
    if arguments is not None:
        request["arguments"] = arguments
    if number is not None:
        request["id"] = number
    return json.dumps(request)


# Who says what, and how many lines each monitor has to have got after it, greetings included.
STEPS = [
    (0, CAPS, (2, 1, 1)),
    (1, CAPS, (2, 2, 1)),
    (
        0,
        call("blockdev-add", {"driver": "file", "node-name": "n", "filename": "disk"}, 1),
        (3, 2, 1),
    ),
    (1, call("nbd-server-start", {"addr": ADDRESS}), (3, 3, 1)),
    (1, call("block-export-add", EXPORT), (3, 4, 1)),
    # an event to both that have negotiated, and none to the third
    (0, call("block-export-del", {"id": "e"}, [2]), (5, 5, 1)),
    (2, call("query-block-exports"), (5, 5, 2)),
    (2, CAPS, (5, 5, 3)),
    (2, call("block-export-add", EXPORT), (5, 5, 4)),
    (2, call("nbd-server-stop", None, None), (6, 6, 6)),
    (2, CAPS, (6, 6, 7)),
    (1, call("quit"), (6, 7, 7)),
]


class Client:
    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LIMIT)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rwb")
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self._stream.write(line.encode() + b"\n")
        self._stream.flush()

    def take(self) -> bool:
        try:
            line = self._stream.readline().decode()
        except ConnectionResetError:
            line = ""
        if line:
            line = re.sub(r'"timestamp": \{[^}]*\}', '"timestamp": 0', line)
            self.lines.append(re.sub(r'"version": \{.*?\}, "package": "[^"]*"\}', "", line))
        return bool(line)

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


def told(words, folder):
    """Play the steps; return the lines that each monitor sent."""
    paths = [folder / name for name in "abc"]
    with background(*words, ready=paths[-1], cwd=folder, **QUIET):
        clients = [Client(path) for path in paths]
        try:
            for client in clients:
                assert client.take()
            for who, line, counts in STEPS:
                clients[who].say(line)
                for client, count in zip(clients, counts, strict=True):
                    while len(client.lines) < count:
                        assert client.take(), line
            for client in clients:
                while client.take():
                    pass
            return [client.lines for client in clients]
        finally:
            for client in clients:
                client.close()


def test_the_same_lines_on_each_monitor():
    theirs = [peer("qemu-storage-daemon")]
    ours = [sys.executable, "-m", "nbexport", "qmp", "--program", "qemu-storage-daemon"]
    for name in "abc":
        theirs += ["--chardev", f"socket,id={name},path={name},server=on,wait=off"]
        theirs += ["--monitor", f"chardev={name}"]
        ours += ["--socket", name]
    found = []
    for words in (theirs, ours):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "disk").write_bytes(bytes(65536))
            found.append(told(words, Path(folder)))
    if '"oob"' not in found[0][0][0]:
        pytest.skip("not a storage daemon of release 7")
    assert found[1] == found[0]
    events = ["BLOCK_EXPORT_DELETED" in line for line in found[0][2]]
    assert sum(events) == 1
