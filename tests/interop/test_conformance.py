"""What notebook 09 compares is the same with the installed QEMU, and a difference is seen."""

import pytest
from peers import peer, run

from nbexport.bench import conformance
from nbexport.bench.conformance import PROGRAMS, compare_monitors, compare_with, sessions
from nbexport.bench.images import write_scattered
from nbexport.emulator import launch
from nbexport.errors import PeerError

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_answer_is_the_same(name):
    peer(PROGRAMS[name])
    found = compare_with(name)
    assert found.installed
    assert len(found.found) >= 20
    assert [f"{each.asked}: {each.theirs} / {each.ours}" for each in found.different] == []


def test_another_release_is_seen_to_differ(monkeypatch):
    peer("qemu-storage-daemon")
    monkeypatch.setattr(conformance, "matching_release", lambda _version: "6.0")
    wanted = [each for each in sessions() if each.title == "Arguments that do not fit"]
    found = compare_monitors("qemu-storage-daemon", wanted)
    (different,) = [each for each in found.different if "smb" in each.asked]
    # 6.2 changed the words
    assert "does not accept value" in different.theirs
    assert "Invalid parameter 'smb'" in different.ours


# What the table of deviations states


def ask(target, *commands):
    """Return the last reply, or None if the process ended."""
    with launch(target, "7.2") as machine:
        reply = None
        for command, arguments in commands:
            try:
                reply = machine.ask(command, arguments)
            except PeerError:
                return None
        return reply


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("block-dirty-bitmap-merge", {"node": "n", "target": "a", "bitmaps": []}, None),
        ("blockdev-reopen", {"options": []}, None),
        (
            "transaction",
            {
                "actions": [
                    {
                        "type": "block-dirty-bitmap-enable",
                        "data": {"node": "n", "name": "none"},
                    }
                ]
            },
            "Dirty bitmap 'none' not found",
        ),
    ],
)
def test_what_ends_qemu_is_answered(tmp_path, command, arguments, text):
    version = run("qemu-storage-daemon", "--version").stdout
    image = write_scattered(tmp_path / "disk.qcow2", 4 << 20, 0, bitmaps=()).path
    file = {"driver": "file", "filename": str(image)}
    steps = [
        ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": file}),
        ("block-dirty-bitmap-add", {"node": "n", "name": "a"}),
        (command, arguments),
    ]
    reply = ask("emulated", *steps)
    if text is None:
        assert reply == {"return": {}}
    else:
        assert reply == {"error": {"class": "GenericError", "desc": text}}
    if " 7.2" in version:
        assert ask("qemu-storage-daemon", *steps) is None
