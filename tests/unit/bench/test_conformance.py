"""What is compared with QEMU, and which deviations are known: the data, and how they are told."""

import re

import pytest

from nbexport.bench import conformance
from nbexport.bench.conformance import (
    PROGRAMS,
    Compared,
    Comparison,
    compare_with,
    matching_release,
    sessions,
)
from nbexport.bench.deviations import KINDS, deviations
from nbexport.errors import FormatError, UsageError
from nbexport.plots import (
    answers_table,
    conformance_table,
    deviation_table,
    differences_table,
    draw_conformance,
)
from nbexport.qapi import load_release

SAME = Compared("names", "query-status", "yes", "yes")
OTHER = Compared("names", "stop", "yes", "no" * 500)
FOUND = Comparison("qemu-system", "7.2.22", "7.2.22", [SAME, OTHER])
MISSING = Comparison("qemu-nbd")


def test_the_sessions_ask_what_the_interface_has():
    found = sessions()
    known = {command.name for command in load_release("7.2").commands()}
    asked = {command for each in found for command, _ in each.steps}
    assert asked - known == {"no-such-command"}
    assert sum(len(each.steps) for each in found) >= 100
    assert len({each.title for each in found}) == len(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "no sessions"),
        ("[session]\n", "no list of tables"),
        ("[[session]]\ntitle = 'x'\n", "session 1 has no title or no steps"),
        ("[[session]]\ntitle = 'x'\nsteps = [['a'], ['b', 1]]\n", "session 1, step 2"),
        ("[[session]]\ntitle = 'x'\nsteps = [[]]\n", "session 1, step 1"),
    ],
)
def test_a_file_that_is_no_list_of_sessions_is_refused(tmp_path, text, message):
    path = tmp_path / "sessions.toml"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        sessions(path)


@pytest.mark.parametrize(
    ("version", "release"),
    [("7.2.22", "7.2.22"), ("7.2.99", "7.2"), ("99.0.0", "11.0"), ("5.2.0", "5.2.0")],
)
def test_the_release_is_that_of_the_peer(version, release):
    assert matching_release(version) == release


def test_a_peer_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr(conformance.shutil, "which", lambda _name: None)
    found = [compare_with(peer) for peer in PROGRAMS]
    assert not any(each.installed for each in found)
    assert [row[:2] for row in conformance_table(found).rows] == [
        (peer, "not installed") for peer in PROGRAMS
    ]
    assert draw_conformance(found).alt.count("not installed") == len(PROGRAMS)
    with pytest.raises(UsageError, match="unknown peer 'xen'"):
        compare_with("xen")


def test_tables_tell_what_is_different():
    assert conformance_table([FOUND, MISSING]).rows[0][3:] == ("2", "1")
    ((_, where, question, theirs, ours),) = differences_table([FOUND, MISSING]).rows
    assert (where, question, theirs) == ("names", "stop", "yes")
    assert ours.endswith("…")
    assert answers_table(FOUND, "names").rows[0] == ("query-status", "yes", "the same")
    assert answers_table(MISSING, "names").rows == []
    with pytest.raises(UsageError, match="under 'nodes'"):
        answers_table(FOUND, "nodes")
    with pytest.raises(UsageError, match="nothing was compared"):
        draw_conformance([])


def test_a_figure_tells_the_numbers():
    plot = draw_conformance([FOUND, MISSING], title="All")
    assert plot.alt == "All. qemu-system 7.2.22: 2 questions, 1 different; qemu-nbd: not installed."
    words = [text.get_text() for text in plot.figure.axes[0].texts]
    assert words == ["1 of 2", "not\ninstalled"]


# Known deviations


def test_the_tests_that_deviations_name_are_there(root):
    found = deviations()
    assert {each.kind for each in found} == set(KINDS)
    for each in found:
        path, _, name = each.test.partition("::")
        if path:
            text = (root / path).read_text()
            assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), each.test


def test_each_intended_difference_of_the_server_is_in_the_table(root):
    path = "tests/interop/test_nbd_differences.py"
    head = (root / path).read_text().partition("# A raw image whose format was guessed")[0]
    named = {each.test.partition("::")[2] for each in deviations() if each.test.startswith(path)}
    stated = set(re.findall(r"^def (test_\w+)\(", head, re.MULTILINE))
    # one of them is the counterpart of another: what the bound lets through
    assert stated - named == {"test_049_255_queries_of_the_longest_kind_are_taken"}


def test_a_table_of_deviations_has_a_row_for_each():
    found = deviations()
    assert [row[1] for row in deviation_table(found).rows] == [each.what for each in found]


ENTRY = "[[deviation]]\narea='a'\nkind='kept'\nwhat='w'\nwhy='y'\nsince='0.1.0'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=", "no table of deviations"),
        ("", "no table of deviations"),
        ("deviation = [1]", "deviation 1 is no table"),
        ("deviation = 1", "no list of tables"),
        (ENTRY + ENTRY.replace("what='w'\n", ""), "deviation 2: 'what' is missing"),
        (ENTRY + "more = 'x'", "'more' is not understood"),
        (ENTRY + "test = 1", "'test' is not understood"),
        (ENTRY.replace("kept", "kind"), "unknown kind 'kind'"),
    ],
)
def test_what_is_no_table_of_deviations_is_refused(tmp_path, text, message):
    path = tmp_path / "deviations.toml"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        deviations(path)


def test_an_entry_is_read(tmp_path):
    path = tmp_path / "deviations.toml"
    path.write_text(ENTRY)
    (found,) = deviations(path)
    assert (found.area, found.what, found.test) == ("a", "w", "")
