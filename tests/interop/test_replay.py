"""Recording a session and playing it again: at other releases, and at a real QEMU."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from peers import TIME_LIMIT, background, peer

from nbexport.cli.main import cli
from nbexport.emulator import Release, Transcript, replay, replay_at
from nbexport.qmp import QmpClient, QmpCommandError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.interop

FILE = {"driver": "file", "filename": "disk.qcow2"}
DISK = {"driver": "qcow2", "node-name": "n", "read-only": True, "file": FILE}


def session(first, second):
    """Ask this and that over two monitors; all that is told is QEMU's, too."""

    def ask(client, command, arguments=None):
        try:
            return client.execute(command, arguments)
        except QmpCommandError as error:
            return error.desc

    ask(first, "query-version")
    ask(first, "blockdev-add", DISK)
    ask(first, "blockdev-add", DISK)
    address = {"type": "unix", "data": {"path": "nbd.sock"}}
    ask(second, "nbd-server-start", {"addr": address})
    ask(first, "nbd-server-add", {"device": "n", "bitmap": "nope"})
    export = {"type": "nbd", "id": "e", "node-name": "n", "name": "é"}
    ask(second, "block-export-add", export)
    ask(first, "query-block-exports")
    ask(first, "block-export-del", {"id": "e"})
    ask(second, "query-block-exports")
    # the name of the file's node is generated; a later command uses it
    nodes = ask(second, "query-named-block-nodes")
    generated = next(node["node-name"] for node in nodes if node["node-name"] != "n")
    ask(second, "block-dirty-bitmap-add", {"node": generated, "name": "b"})
    ask(second, "block-dirty-bitmap-add", {"node": generated, "name": "b"})
    ask(second, "nope", {"nested": [generated]})
    ask(second, "nbd-server-stop")


@pytest.fixture
def recorded(tmp_path, two_bitmaps_copy):
    """A folder with an image and the transcript of a session, as 7.2."""
    folder = tmp_path / "f"
    folder.mkdir()
    shutil.copy(two_bitmaps_copy, folder / "disk.qcow2")
    shutil.copy(two_bitmaps_copy.with_name("two-bitmaps.base.qcow2"), folder)
    words = [sys.executable, "-m", "nbexport", "qmp", "--socket", "a", "--socket", "b"]
    words += ["--log", "t.jsonl", "--program", "qemu-storage-daemon"]
    with (
        background(*words, ready=folder / "b", cwd=folder, stdout=subprocess.DEVNULL),
        QmpClient(folder / "a") as first,
    ):
        with QmpClient(folder / "b") as second:
            session(first, second)
        with QmpClient(folder / "b") as again:
            again.execute("query-version")
    return folder


def play(folder: Path, *words: str):
    return CliRunner().invoke(
        cli, ["qmp", "replay", str(folder / "t.jsonl"), "-C", str(folder), *words]
    )


def test_the_same_release_answers_the_same(recorded):
    transcript = Transcript.load(recorded / "t.jsonl")
    assert (transcript.release, transcript.monitors) == (str(Release.parse("7.2")), 2)
    assert transcript.directory == str(recorded)
    found = replay_at(transcript, "7.2", directory=recorded)
    assert found.differences == ()
    assert found.requests == 18  # three negotiations among them
    result = play(recorded)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "18 answers, 0 differences" in result.stderr


def test_another_release_answers_otherwise(recorded):
    found = replay_at(Transcript.load(recorded / "t.jsonl"), "5.1", directory=recorded)
    asked = [difference.request["execute"] for difference in found.differences]
    # before block-export-add nothing had an id, and bitmaps had other words
    assert {"block-export-add", "query-block-exports", "block-export-del"} <= set(asked)
    assert "blockdev-add" not in asked
    one = next(d for d in found.differences if d.request["execute"] == "block-export-add")
    assert one.recorded.reply["return"] == {}
    assert one.replayed.reply["error"]["class"] == "CommandNotFound"
    result = play(recorded, "--release", "5.1")
    assert result.exit_code == 1
    assert '"error": {"class": "CommandNotFound"' in result.stdout
    assert f"{len(found.differences)} differences" in result.stderr


def test_the_order_of_events_is_a_difference(recorded):
    found = replay_at(Transcript.load(recorded / "t.jsonl"), "7.2.0", directory=recorded)
    one, end = found.differences
    assert one.request["execute"] == "block-export-del"
    assert [event["event"] for event in one.recorded.events] == ["BLOCK_EXPORT_DELETED"]
    assert (one.replayed.events, one.replayed.reply) == ((), one.recorded.reply)
    # nothing was asked after it, so there it comes at the end
    assert (end.request, end.recorded.events) == (None, ())
    assert end.replayed.events == one.recorded.events


def test_after_a_removal(recorded):
    result = play(recorded, "--pretend", "removed=nbd-server-add")
    assert result.exit_code == 1
    assert result.stdout.count("\n") == 3
    assert "The command nbd-server-add has not been found" in result.stdout
    result = play(recorded, "--compat", "deprecated-input=crash")
    # it is not a storage daemon that is asked, so it has policies; what follows has no answer
    assert result.exit_code == 1
    assert result.stdout.count("+ (no answer)") >= 8


def test_a_real_daemon_answers_the_same(recorded):
    words = [peer("qemu-storage-daemon")]
    for name in ("c", "d"):
        words += ["--chardev", f"socket,id={name},path={name},server=on,wait=off"]
        words += ["--monitor", f"chardev={name}"]
    with background(*words, ready=recorded / "d", cwd=recorded):
        transcript = Transcript.load(recorded / "t.jsonl")
        found = replay(transcript, [recorded / "c", recorded / "d"])
    assert (found.requests, found.differences) == (18, ())


def test_what_cannot_be_played(recorded, tmp_path):
    bad = tmp_path / "bad.jsonl"
    lines = (recorded / "t.jsonl").read_text().splitlines(keepends=True)
    for text, words in (
        ("", "line 1: not JSON"),
        ("[]\n", "line 1: not an object"),
        ('{"a": 1}\n', "line 1: not a transcript"),
        (lines[0] + "nope\n", "line 2: not JSON"),
        (lines[0] + '{"monitor": true}\n', "line 2: 'monitor' is no number"),
        (lines[0] + '{"monitor": 1024}\n', "line 2: 'monitor' is not below 1024"),
        (lines[0] + '{"monitor": 0, "direction": "up"}\n', "line 2: unknown 'direction'"),
        (
            lines[0] + '{"monitor": 0, "direction": "sent", "text": "\\ud800"}\n',
            "line 2: 'text' has no bytes",
        ),
    ):
        bad.write_text(text)
        result = CliRunner().invoke(cli, ["qmp", "replay", str(bad)])
        assert result.exit_code == 2, text
        assert words in result.stderr, text
    result = CliRunner().invoke(cli, ["qmp", "replay", str(tmp_path / "none")])
    assert (result.exit_code, "No such file" in result.stderr) == (2, True)
    assert play(recorded, "--release", "99").exit_code == 2
    assert "is no command or event" in play(recorded, "--pretend", "removed=zork").stderr
    result = CliRunner().invoke(
        cli, ["qmp", "replay", str(recorded / "t.jsonl"), "--qmp", str(tmp_path / "one.sock")]
    )
    assert (result.exit_code, "2 monitors, 1 given" in result.stderr) == (2, True)
    assert play(recorded, "--qmp", "x.sock").exit_code == 2


def test_bytes_are_kept_as_they_were(tmp_path):
    log = tmp_path / "t.jsonl"
    sent = b"{'execute':'qmp_capabilities'}\n\xff{'execute':'\xc3\xa9'} [[}"
    done = subprocess.run(
        [sys.executable, "-m", "nbexport", "qmp", "--stdio", "--log", str(log)],
        input=sent,
        capture_output=True,
        timeout=TIME_LIMIT,
        check=True,
    )
    entries = Transcript.load(log).entries
    assert b"".join(e.data for e in entries if e.direction == "received") == sent
    assert b"".join(e.data for e in entries if e.direction == "sent") == done.stdout
    assert [e.direction for e in entries][:2] == ["connected", "sent"]
    assert entries[-1].direction == "disconnected"
    assert all(json.loads(line) for line in log.read_text().splitlines())
    assert replay_at(Transcript.load(log), "7.2").same
    found = replay_at(Transcript.load(log).renamed({"qmp_capabilities": "nope"}), "7.2")
    assert not found.same
