"""The notebook of one session: what it shows of each release, and that QEMU shows the same."""

from __future__ import annotations

import pytest
from notebook_cells import run_cells
from peers import peer

from nbexport.plots import Table
from nbexport.resources import notebooks_path

NOTEBOOK = notebooks_path() / "03_qmp_session.ipynb"
DONE = "\N{CHECK MARK}"
UNKNOWN = "CommandNotFound: The command {} has not been found"


def session(**parameters):
    """Run the notebook; return the greeting, the family's features, and the answers by step."""
    shown = run_cells(NOTEBOOK, **{"releases": [], **parameters})
    greeting, features = [each for each in shown if isinstance(each, dict)]
    *acts, comparison = [each for each in shown if isinstance(each, Table)]
    answers = {step: (answer, events) for t in acts for step, _, answer, events in t.rows}
    return greeting, features, answers, comparison


def texts(answers, *steps):
    return [answers[step][0] for step in steps]


OLD = ["one bitmap", "a list of bitmaps", "a busy bitmap", "remove the export"]
NEW = ["a list", "delete it", "node and name"]


@pytest.mark.parametrize("release", ["4.0", "5.1"])
def test_before_5_2_there_is_one_command(release):
    _, features, answers, _ = session(release=release)
    assert features == {"nbd-server-add": [], "nbd-server-remove": []}
    assert texts(answers, "export what is not there") == ["NBD server not running"]
    assert texts(answers, *OLD)[:2] == [DONE, "Parameter 'bitmaps' is unexpected"]
    assert answers["remove the export"] == (DONE, "")
    commands = ["block-export-add", "block-export-del", "block-export-add"]
    assert texts(answers, *NEW) == [UNKNOWN.format(command) for command in commands]
    assert texts(answers, "list the exports") == [UNKNOWN.format("query-block-exports")]


def test_5_2_has_both_and_calls_one_deprecated():
    _, features, answers, _ = session(release="5.2")
    assert features["nbd-server-add"] == ["deprecated"]
    assert features["block-export-add"] == []
    assert answers["one bitmap"][0] == answers["a list"][0] == DONE
    assert answers["remove the export"][1].endswith("after the reply")
    assert texts(answers, "node and name", "an unknown kind") == [
        "Invalid parameter type for 'bitmaps[0]', expected: string",
        "Invalid parameter 'smb'",
    ]


def test_6_0_takes_the_deprecated_command_away_if_it_is_told_to():
    options = {"release": "6.0", "compat": "deprecated-input=reject", "releases": ["6.0"]}
    greeting, _, answers, comparison = session(**options)
    assert greeting["version"]["qemu"]["major"] == 6
    for step in OLD[:3]:
        assert "nbd-server-add" in answers[step][0]
        assert "disabled by policy" in answers[step][0]
    assert texts(answers, "a list", "delete it") == [DONE, DONE]
    assert list(comparison.header) == ["", "6.0", "6.0, deprecated-input=reject"]
    row = next(row for row in comparison.rows if row[0] == "one bitmap")
    assert row[1] == DONE
    assert row[2] == answers["one bitmap"][0]


def test_since_7_1_a_bitmap_is_named_with_its_node():
    _, _, answers, _ = session(release="7.1")
    assert texts(answers, "node and name") == [DONE]
    assert '"id": "pairs"' in answers["list the exports"][0]
    assert answers["stop the server"][1].endswith("before the reply")
    assert answers["delete it"][1].endswith("after the reply")
    assert texts(answers, "an unknown kind") == ["Parameter 'type' does not accept value 'smb'"]


def test_in_11_0_the_event_comes_first():
    _, _, answers, _ = session(release="11.0")
    for step in ("remove the export", "delete it", "stop the server"):
        assert answers[step][0] == DONE
        assert answers[step][1].endswith("before the reply")


def test_releases_side_by_side():
    *_, comparison = session(releases=["5.1", "5.2", "7.1"])
    assert list(comparison.header) == ["", "5.1", "5.2", "7.1"]
    rows = {name: answers for name, *answers in comparison.rows}
    assert rows["a list"] == [UNKNOWN.format("block-export-add"), DONE, DONE]
    assert rows["delete it"][1:] == [f"{DONE}, BLOCK_EXPORT_DELETED"] * 2
    assert rows["a list of bitmaps"] == ["Parameter 'bitmaps' is unexpected"] * 3


@pytest.mark.interop
@pytest.mark.parametrize(
    ("target", "program"),
    [("qemu-system", "qemu-system-x86_64"), ("qemu-storage-daemon", "qemu-storage-daemon")],
)
def test_qemu_answers_the_same(target, program):
    peer(program)
    greeting, features, answers, _ = session(target=target)
    assert (features, answers) == session(release="7.2")[1:3]
    assert greeting["version"]["qemu"]["major"] == 7
