"""The clients that QEMU's project ships: its Python library and its shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from peers import TIME_LIMIT, background

pytest.importorskip("qemu.qmp")

from qemu.qmp import ConnectError, QMPClient
from qemu.qmp.qmp_client import ExecuteError

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:There is no current event loop:DeprecationWarning"),
]

NULL = {"driver": "file", "node-name": "n", "filename": "disk"}


@pytest.fixture(params=["4.0", "7.2", "11.0"])
def monitors(request):
    """Two monitors of one emulator; sockets and the release."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "disk").write_bytes(bytes(65536))
        words = [sys.executable, "-m", "nbexport", "qmp", "--release", request.param]
        words += ["--socket", "a", "--socket", "b"]
        with background(*words, ready=folder / "b", cwd=folder, stdout=subprocess.DEVNULL):
            yield folder / "a", folder / "b", request.param


async def limited(work):
    async with asyncio.timeout(TIME_LIMIT):
        await work


def test_the_library(monitors):
    path, other, release = monitors

    async def work():
        client, second = QMPClient("first"), QMPClient("second")
        await client.connect(str(path))
        await second.connect(str(other))
        version = await client.execute("query-version")
        assert f"{version['qemu']['major']}.{version['qemu']['minor']}" == release
        assert client.greeting.QMP.version["qemu"] == version["qemu"]
        await client.execute("blockdev-add", NULL)
        # state is the process's, not the monitor's
        nodes = await second.execute("query-named-block-nodes")
        assert [node["node-name"] for node in nodes] == ["n"]
        with pytest.raises(ExecuteError) as caught:
            await second.execute("blockdev-add", NULL)
        assert caught.value.error_class == "GenericError"
        with pytest.raises(ExecuteError, match="The command nope has not been found"):
            await client.execute("nope")
        # many at once, answered each with its own
        asked = [client.execute("query-named-block-nodes") for _ in range(50)]
        asked += [second.execute("query-version") for _ in range(50)]
        found = await asyncio.gather(*asked)
        assert all(answer == nodes for answer in found[:50])
        assert all(answer == version for answer in found[50:])
        with second.listener("SHUTDOWN") as events:
            await client.execute("quit")
            event = await events.get()
        assert event["data"]["reason"] == "host-qmp-quit"
        for each in (client, second):
            # the library tells so that the process has gone
            with contextlib.suppress(EOFError):
                await each.disconnect()

    asyncio.run(limited(work()))


def test_who_comes_second_waits(monitors):
    path, _, _ = monitors

    async def work():
        first, second = QMPClient("first"), QMPClient("second")
        await first.connect(str(path))
        waiting = asyncio.create_task(second.connect(str(path)))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await first.execute("blockdev-add", NULL)
        await first.disconnect()
        await waiting
        assert len(await second.execute("query-named-block-nodes")) == 1
        await second.disconnect()
        with pytest.raises(ConnectError):
            await QMPClient("none").connect(f"{path}-none")

    asyncio.run(limited(work()))


class Shell:
    """qmp-shell on a terminal."""

    def __init__(self, path: Path, *options: str) -> None:
        self._terminal, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "HOME": str(path.parent)}
        words = [sys.executable, "-m", "qemu.qmp.qmp_shell", *options, str(path)]
        self.process = subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        self.welcome = self._until_prompt()

    def _until_prompt(self) -> str:
        seen = b""
        deadline = time.monotonic() + TIME_LIMIT
        while not seen.endswith((b"(QEMU) ", b"TRANS> ")):
            ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
            assert ready, seen
            try:
                data = os.read(self._terminal, 65536)
            except OSError:
                break
            if not data:
                break
            seen += data
        return seen.decode().replace("\r\n", "\n")

    def say(self, line: str) -> str:
        """Type a line; return what is printed up to the next prompt, or the end."""
        os.write(self._terminal, line.encode() + b"\n")
        return self._until_prompt()

    def close(self) -> int:
        os.write(self._terminal, b"\x04")
        try:
            return self.process.wait(TIME_LIMIT)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            os.close(self._terminal)


def test_the_shell(monitors):
    path, _, release = monitors
    shell = Shell(path)
    try:
        assert f"Connected to QEMU {release}" in shell.welcome
        assert '"package": "nbexport"' in shell.say("query-version")
        added = shell.say("blockdev-add driver=file node-name=n filename=disk")
        assert '"return": {}' in added
        assert "Duplicate nodes" in shell.say("blockdev-add driver=file node-name=n filename=disk")
        assert "CommandNotFound" in shell.say("nope a=1")
        assert '"node-name": "n"' in shell.say("query-named-block-nodes")
        # nested, as JSON
        nested = 'blockdev-add driver=raw node-name=r file={"driver":"file","filename":"disk"}'
        assert '"return": {}' in shell.say(nested)
        if release != "4.0":
            begun = shell.say("transaction(")
            assert "Error" not in begun
            step = shell.say("block-dirty-bitmap-add node=n name=b")
            assert "Error" not in step
            assert '"return": {}' in shell.say(")")
    finally:
        assert shell.close() == 0
