"""``nbexport timeline`` and ``nbexport migrate``."""

from __future__ import annotations

import json
import subprocess

import pytest
from click.testing import CliRunner

from nbexport.cli.main import cli


def run(*words):
    return CliRunner().invoke(cli, [str(word) for word in words])


NOTE = (
    "  note             device becomes node-name, bitmap becomes the list bitmaps; an id is needed"
)


@pytest.mark.parametrize("name", ["timeline", "migrate"])
def test_each_command_explains_itself(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"\n    nbexport {name} " in result.output
    assert "\\b" not in result.output
    assert "Exit status: 0" in result.output


# -- timeline ------------------------------------------------------------------------------------


def test_a_command_is_told_with_its_pieces():
    result = run("timeline", "nbd-server-add")
    assert result.exit_code == 0
    told, pieces = result.output.split("\n\n", 1)
    assert told.splitlines() == [
        "nbd-server-add (command)",
        "  introduced       1.3 (2012-12-03)  (by the documentation)",
        "  deprecated       5.2 (2020-12-08)",
        "  removal planned  6.1 (2021-08-24)",
        "  window           17 releases, 1960 days so far",
        "  policy           still there in 11.0, 14 releases after 6.1",
        "  instead          block-export-add, since 5.2 (2020-12-08)",
        NOTE,
        "  changed          2.12: + name: str, optional",
        "  changed          4.0: + bitmap: str, optional",
        "  changed          5.0: + description: str, optional",
        "  changed          5.2: now deprecated",
        "  changed          7.1: now allow-preconfig",
    ]
    assert [line.split()[1] for line in pieces.splitlines()[1:6]] == [
        "device",
        "writable",
        "name",
        "bitmap",
        "description",
    ]


def test_several_elements_and_other_words():
    result = run("timeline", "block-export-add.iothread", "qemu-nbd --partition")
    assert "block-export-add iothread (argument)" in result.output
    assert "changed     11.0: str -> str or [str]" in result.output
    assert "qemu-nbd --partition (command-line)" in result.output


def test_json_and_markdown():
    shown = json.loads(run("timeline", "nbd-server-add", "--format", "json").output)
    assert shown["looked-at"][0] == "2.5"
    first = shown["elements"][0]
    assert (first["element"], first["window"], first["days"]) == ("nbd-server-add", 17, 1960)
    assert shown["tags"] == []
    text = run("timeline", "nbd-server-add", "--format", "markdown").output
    assert text.startswith("### `nbd-server-add` (command)\n\n- introduced: 1.3 (2012-12-03)")
    assert "\n| --- | --- |" in text


def test_what_happened_in_a_range():
    result = run("timeline", "--only-deprecated", "--from", "5.2", "--to", "6.1")
    names = [line.split("  ")[0] for line in result.output.splitlines()[1:]]
    assert "nbd-server-add" in names
    assert "x-blockdev-reopen" in names
    assert "x-blockdev-reopen driver" not in names, "it went with its command"
    assert "qemu-nbd --partition" not in names, "it was gone before"


def test_another_window():
    assert "removal planned  7.0" in run("timeline", "nbd-server-add", "--window", "4").output


def test_other_schemas_and_their_tags():
    sources = ["--source", "release:10.1", "--source", "release:11.0"]
    result = run("timeline", *sources, "block-export-add.iothread")
    assert "changed     11.0: str -> str or [str]" in result.output
    shown = json.loads(run("timeline", *sources, "--format", "json", "--tags").output)
    problems = {item["element"]: item["problem"] for item in shown}
    assert problems["ShutdownCause"] == "missing"
    result = run("timeline", *sources, "--tags", "nbd-server-add")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "every written release of 11.0 agrees\n"


def test_revisions_of_a_repository_are_told_apart(tmp_path):
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]

    def git(*words):
        words = ["git", "-C", tmp_path, *who, *words]
        subprocess.run(words, check=True, capture_output=True, timeout=20)

    git("init", "-q")
    document = "##\n# @go:\n#\n# It goes.\n#\n{doc}# Since: 7.2\n##\n"
    text = "{{ 'command': 'go', 'data': {{ {data} }} }}\n"
    path = tmp_path / "schema.json"
    (tmp_path / "VERSION").write_text("7.2.0\n")
    path.write_text(document.format(doc="") + text.format(data=""))
    git("add", ".")
    git("commit", "-qm", "one")
    path.write_text(document.format(doc="# @how: so\n#\n") + text.format(data="'how': 'str'"))
    (tmp_path / "VERSION").write_text("8.0.0\n")
    git("commit", "-qam", "two")
    sources = [f"git:{tmp_path}@HEAD~", f"git:{tmp_path}@HEAD"]
    words = [word for source in sources for word in ("--source", source)]
    result = run("timeline", *words, "go.how")
    assert "introduced  8.0 (2023-04-19)" in result.output
    result = run("timeline", *words, "--tags")
    assert result.exit_code == 1
    assert result.output.endswith(
        "schema.json:10: go how: says 7.2, computed 8.0: it came after its definition and has no "
        "remark of its own\n"
    )
    result = run("timeline", *words[2:], *words[:2], "go")
    assert result.exit_code == 2
    assert "7.2 is older than 8.0: oldest first, please." in result.output
    (tmp_path / "VERSION").write_text("7.2.0\n")
    git("commit", "-qam", "three")
    words = ("--source", f"git:{tmp_path}@HEAD~2", "--source", f"git:{tmp_path}@HEAD")
    assert f"introduced  git:{tmp_path}@HEAD\n" in run("timeline", *words, "go.how").output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none",), "no element 'none' in 2.5 to 11.0."),
        (("a b c d",), "'a b c d' names no element"),
        (("--from", "6.1", "--to", "5.2"), "--from 6.1 is later than --to 5.2."),
        (("--to", "1.0"), "no interface from 2.5 to 1.0"),
        (("--from", "soon"), "soon"),
        (("--source", "release:5.2"), "a timeline needs two sources at least."),
        (("--source", "release:5.2", "--source", "release:5.1"), "5.1 is older than 5.2"),
        (("--window", "0"), "0 is not in the range"),
    ],
)
def test_wrong_usage_of_a_timeline(words, message):
    result = run("timeline", *words)
    assert result.exit_code == 2
    assert message in result.output


# -- migrate -------------------------------------------------------------------------------------


def test_the_plan_of_the_export_command():
    result = run("migrate", "nbd-server-add", "--from", "5.0", "--to", "6.1", "--no-deprecated")
    assert result.exit_code == 0
    assert (
        result.output
        == """\
nbd-server-add with device, nothing deprecated

release  date        nbd-server-add  block-export-add  call
5.0      2020-04-28  clean           -                 nbd-server-add
5.1      2020-08-11  clean           -                 nbd-server-add
5.2      2020-12-08  deprecated      clean             block-export-add  switch
6.0      2021-04-29  deprecated      clean             block-export-add
6.1      2021-08-24  deprecated      clean             block-export-add

nbd-server-add does in 5.0 and 5.1.
From 5.2 on, block-export-add.
Two calls work in 5.2, 6.0 and 6.1.
In no release from 5.0 to 6.1 are two of them clean: look for the new one, and take it where it \
is there.

nbd-server-add  block-export-add
device          node-name              the name of a node; that of a device is not taken any more
name            name
description     description
writable        writable
bitmap: X       bitmaps: [X]
-               type: "nbd"
-               id: name, else device  ASCII letters, digits, '-', '.' and '_', a letter first

Note: an export is removed by its id now, so the id is what to remember.
"""
    )


def test_a_plan_as_json_and_markdown():
    words = ("migrate", "nbd-server-add", "--from", "5.1", "--to", "5.2", "--format")
    shown = json.loads(run(*words, "json").output)
    assert shown["releases"][1]["states"] == {
        "nbd-server-add": "deprecated",
        "block-export-add": "clean",
    }
    assert shown["both-work"] == ["5.2"]
    assert shown["mapping"][0]["arguments"][4] == {
        "old": "bitmap",
        "new": "bitmaps",
        "as": "list",
        "note": "",
    }
    assert "| bitmap: X | bitmaps: [X] |" in run(*words, "markdown").output


def test_code_is_printed_and_compiles():
    result = run("migrate", "nbd-server-add", "--no-deprecated", "--code")
    assert result.exit_code == 0
    compile(result.output, "made", "exec")
    assert max(map(len, result.output.splitlines())) < 100


def test_a_release_without_a_call_gives_status_1():
    words = ("migrate", "nbd-server-add", "--from", "3.1", "--to", "4.0", "--argument", "bitmap")
    result = run(*words)
    assert result.exit_code == 1
    assert "No call in 3.1." in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nbd-serveradd",), "no migration of 'nbd-serveradd' (did you mean nbd-server-add"),
        (("nbd-server-add", "--to", "11.1"), "the interface of 11.1 has not been looked at"),
        (("nbd-server-add", "--from", "6.0", "--to", "5.0"), "release 5.0 is older than 6.0."),
        (("nbd-server-add", "--argument", "x"), "nbd-server-add has no argument 'x'"),
    ],
)
def test_wrong_usage_of_a_plan(words, message):
    result = run("migrate", *words)
    assert result.exit_code == 2
    assert message in result.output
