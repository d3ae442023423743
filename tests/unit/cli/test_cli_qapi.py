"""``nbexport qapi`` and ``nbexport validate``."""

from __future__ import annotations

import io
import json

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from nbexport.cli.main import cli
from nbexport.cli.validate import read_stream
from nbexport.qapi import introspect, load_release, load_schema


def run(*words, given_=None):
    return CliRunner().invoke(cli, [str(word) for word in words], input=given_)


TEXT = """
{ 'enum': 'Kind', 'data': [ 'a', { 'name': 'b', 'if': 'CONFIG_B' } ] }
{ 'command': 'go', 'data': { 'kind': 'Kind' } }
"""


@pytest.fixture
def schema_file(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(TEXT)
    return path


# -- help -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("qapi", "introspect"), ("qapi", "show"), ("qapi", "check"), ("validate",)]
)
def test_each_command_explains_itself(words):
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert f"\n    nbexport {' '.join(words)} " in result.output
    assert "\\b" not in result.output
    assert len(result.output.splitlines()) > 12


def test_the_group_lists_its_commands():
    text = run("qapi", "--help").output
    for name in ("check", "introspect", "show"):
        assert f"\n  {name} " in text


# -- introspect -----------------------------------------------------------------------------


def test_introspect_prints_the_list(schema_file):
    schema = load_schema(str(schema_file))
    result = run("qapi", "introspect", schema_file)
    assert json.loads(result.output) == introspect(schema)
    assert '"values"' in result.output
    result = run("qapi", "introspect", schema_file, "--define", "OTHER")
    assert json.loads(result.output) == introspect(load_schema(str(schema_file), symbols=set()))
    assert '"b"' not in result.output
    assert '"Kind"' in run("qapi", "introspect", schema_file, "--unmask").output
    old = json.loads(run("qapi", "introspect", schema_file, "--release", "6.1").output)
    assert [set(e) for e in old if e["meta-type"] == "enum"] == [{"name", "meta-type", "values"}]


def test_introspect_takes_the_form_of_the_release():
    assert json.loads(run("qapi", "introspect", "release:5.2").output) == introspect(
        load_release("5.2"), release=(5, 2)
    )


# -- show -----------------------------------------------------------------------------------


def test_show_prints_members_with_their_origin():
    text = run("qapi", "show", "release:7.2", "block-export-add").output
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "command block-export-add (boxed, allow-preconfig)"
    assert "node-name str implicit base of BlockExportOptions" in lines
    assert "bitmaps? [str or BlockDirtyBitmap] type=nbd: BlockExportOptionsNbd" in lines
    assert any(line.startswith("In releases 5.2") for line in lines)
    assert (
        "feature deprecated: use block-export-add"
        in run("qapi", "show", "release:7.2", "nbd-server-add").output
    )


def test_show_as_json(schema_file):
    shown = json.loads(run("qapi", "show", schema_file, "go", "--json").output)
    assert shown["parts"] == [{"name": "kind", "type": "a|b", "origin": "own"}]
    assert "history" not in shown


def test_show_of_what_is_not_there(schema_file):
    result = run("qapi", "show", schema_file, "gone")
    assert result.exit_code == 1
    assert "no command, event or type 'gone'" in str(result.exception)


# -- check ----------------------------------------------------------------------------------


def test_check_prints_errors_as_a_compiler(tmp_path, schema_file):
    (tmp_path / "root.json").write_text("{ 'include': 'bad.json' }\n")
    (tmp_path / "bad.json").write_text("\n{ 'command': 'c', 'data': 'Nope' }\n")
    result = run("qapi", "check", schema_file)
    assert (result.exit_code, result.output) == (0, "")
    result = run("qapi", "check", schema_file, tmp_path / "root.json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"In file included from {tmp_path}/root.json:1:\n" in result.stderr
    assert f"{tmp_path}/bad.json:2: " in result.stderr
    (error,) = json.loads(run("qapi", "check", "--json", tmp_path / "root.json").stdout)
    assert error["file"] == f"{tmp_path}/bad.json"
    assert error["line"] == 2
    assert error["name"] == "c"
    assert error["included-from"] == [{"file": f"{tmp_path}/root.json", "line": 1}]
    assert json.loads(run("qapi", "check", "--json", schema_file).stdout) == []


def test_the_rules_of_an_old_release(tmp_path):
    old = tmp_path / "old.json"
    old.write_text("{ 'struct': 'Ss', 'data': {} }\n{ 'union': 'Uu', 'data': { 'one': 'Ss' } }\n")
    result = run("qapi", "check", old)
    assert result.exit_code == 1
    assert f"{old}:2: union misses keys 'base', 'discriminator'" in result.stderr
    assert run("qapi", "check", "--as-of", "5.2", old).exit_code == 0
    assert "type=one" in run("qapi", "show", "--as-of", "6.1", old, "Uu").output
    listed = run("qapi", "introspect", "--as-of", "6.1", "--unmask", old)
    assert (listed.exit_code, json.loads(listed.output)) == (0, [])
    for words in (("check", "--as-of", "x", old), ("check", "--as-of", "1.3", old)):
        result = run("qapi", *words)
        assert result.exit_code == 1
        assert "release" in str(result.exception)


def test_check_of_a_missing_file(tmp_path):
    result = run("qapi", "check", tmp_path / "none.json")
    assert result.exit_code == 1
    assert "none.json" in result.stderr


# -- the stream of commands -----------------------------------------------------------------


def placed(text):
    data = text if isinstance(text, bytes) else text.encode()
    return [
        (item.line, item.message.value if item.message.error is None else item.message.error)
        for item in read_stream(io.BytesIO(data))
    ]


def test_commands_are_placed_where_they_begin():
    text = "\n{'a':\n1}\n\n  {'b': 2} {'c': 3}\n{'d':\n4} {'e'\n:5}"
    assert placed(text) == [
        (2, {"a": 1}),
        (5, {"b": 2}),
        (5, {"c": 3}),
        (6, {"d": 4}),
        (7, {"e": 5}),
    ]


def test_what_is_wrong_is_placed_too():
    assert placed("{}\n{'a': @ 1\n{'b': 2}\n") == [
        (1, {}),
        (2, "JSON parse error, stray '@'"),
        (3, {"b": 2}),
    ]
    assert placed("@@@ x\n\n{}\n") == [(1, "JSON parse error, stray '@'"), (3, {})]
    assert placed("{}\n\n{'a': [\n1") == [
        (1, {}),
        (3, "JSON parse error, the input ends inside of a value"),
    ]
    assert placed("42") == [(1, 42)]
    assert placed("") == placed("\n \n") == []


def test_long_lines_are_read_in_pieces():
    text = '{"a": "' + "x" * 200_000 + '"} {"b": 1}\n{"c": 1}'
    assert [line for line, _ in placed(text)] == [1, 1, 2]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", " ", "\n", "\n\n", " \n\t"]), st.integers(0, 3)), max_size=8
    )
)
def test_any_layout_gives_the_same_lines(items):
    text, expected = "", []
    for number, (gap, breaks) in enumerate(items):
        text += gap
        expected.append((text.count("\n") + 1, {"n": number}))
        text += "{" + "\n" * breaks + f'"n": {number}' + "\n" * breaks + "}"
    assert placed(text) == expected


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_values_or_errors(data):
    lines = [line for line, _ in placed(data)]
    assert lines == sorted(lines)
    assert all(1 <= line <= data.count(b"\n") + 1 for line in lines)


# -- validate -------------------------------------------------------------------------------

GOOD = '{"execute": "query-block-exports"}\n'
OLD = '{"execute": "nbd-server-remove", "arguments": {"name": "x"}}\n'
BAD = '{"execute": "nbd-server-remove", "arguments": {"mode": "x", "y": 1}}\n'


def test_each_command_gets_its_line():
    result = run("validate", "--release", "7.2", given_=GOOD + OLD + BAD)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "stdin:1: query-block-exports: accepted",
        (
            "stdin:2: nbd-server-remove: warning: execute: "
            "command 'nbd-server-remove' is deprecated (use block-export-del) [deprecated-command]"
        ),
        (
            "stdin:3: nbd-server-remove: warning: execute: "
            "command 'nbd-server-remove' is deprecated (use block-export-del) [deprecated-command]"
        ),
        (
            "stdin:3: nbd-server-remove: error: arguments.name: Parameter 'name' is missing "
            "[missing-member]"
        ),
        (
            "stdin:3: nbd-server-remove: error: arguments.mode: Parameter 'mode' does not accept "
            "value 'x' [unknown-value]"
        ),
        (
            "stdin:3: nbd-server-remove: error: arguments.y: Parameter 'y' is unexpected "
            "[unknown-member]"
        ),
    ]
    assert result.stderr == (
        "3 commands against release:7.2: 2 accepted, 1 refused; 0 other values skipped\n"
    )


@pytest.mark.parametrize(
    ("options", "text", "status"),
    [
        ((), "", 0),
        ((), GOOD, 0),
        ((), OLD, 0),
        (("--no-deprecated",), OLD, 1),
        (("--no-unstable",), OLD, 0),
        (("--fail-on", "warning"), OLD, 1),
        (("--fail-on", "warning"), GOOD, 0),
        ((), BAD, 1),
        (("--fail-on", "warning"), BAD, 1),
        ((), "{", 1),
        ((), f"[{GOOD}]", 1),
        ((), '{"return": {}}{"event": "X"}{"error": {}}{"QMP": {}}', 0),
        ((), '{"return": {}, "execute": "quit"}', 1),
        ((), "{}", 1),
    ],
)
def test_the_exit_status(options, text, status):
    assert run("validate", "-r", "7.2", *options, given_=text).exit_code == status


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--release", "7.2", "--against", "release:7.2"),
        ("--release", "seven"),
        ("--release", "1.0"),
        ("--release", "7.2", "--format", "xml"),
    ],
)
def test_wrong_usage(words):
    assert run("validate", *words, given_=GOOD).exit_code == 2


def test_the_same_command_in_another_release(tmp_path):
    text = json.dumps(
        {
            "execute": "block-export-add",
            "arguments": {
                "type": "nbd",
                "id": "e",
                "node-name": "n",
                "bitmaps": [{"node": "n", "name": "b"}],
            },
        },
        indent=1,
    )
    path = tmp_path / "c.json"
    path.write_text(text)
    assert run("validate", "-r", "7.2", path).exit_code == 0
    result = run("validate", "-r", "5.2", path)
    assert result.exit_code == 1
    assert f"{path}:1: block-export-add: error: arguments.bitmaps[0]: " in result.stdout


def test_what_only_the_list_of_deprecations_tells(tmp_path):
    commands = tmp_path / "commands.json"
    commands.write_text(
        '{"execute": "block-dirty-bitmap-add", "arguments": {"node": "n", "name": "b", '
        '"autoload": true}}'
    )
    deprecated = "arguments.autoload: argument 'autoload' is deprecated since 2.12"
    for release, status, told in (
        ("2.11", 0, "accepted"),
        ("2.12", 1, deprecated),
        ("4.1", 1, deprecated),
        ("4.2", 1, "Parameter 'autoload' is unexpected"),
    ):
        result = run("validate", "--release", release, "--no-deprecated", commands)
        assert (result.exit_code, told in result.stdout) == (status, True), result.stdout
        assert len(result.stdout.splitlines()) == 1
    # what the schema tells is told once
    commands.write_text('{"execute": "nbd-server-remove", "arguments": {"name": "x"}}')
    result = run("validate", "--release", "7.2", commands)
    assert result.stdout.count("is deprecated") == 1


def test_against_another_schema(schema_file):
    good, bad = ({"execute": "go", "arguments": {"kind": kind}} for kind in "bc")
    result = run("validate", "--against", schema_file, given_=json.dumps(good) + json.dumps(bad))
    assert result.stdout.splitlines() == [
        "stdin:1: go: accepted",
        (
            "stdin:1: go: error: arguments.kind: Parameter 'kind' does not accept value 'c' "
            "[unknown-value]"
        ),
    ]


def test_json_is_one_object_a_line():
    result = run("validate", "-r", "7.2", "--format", "json", given_=GOOD + BAD + "[")
    shown = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.stderr == ""
    assert [(item["line"], item["accepted"]) for item in shown] == [
        (1, True),
        (2, False),
        (3, False),
    ]
    assert shown[1]["findings"][0] == {
        "level": "warning",
        "kind": "deprecated-command",
        "path": "execute",
        "message": "command 'nbd-server-remove' is deprecated",
        "instead": "use block-export-del",
        "entity": "nbd-server-remove",
    }


def test_annotations_are_escaped(tmp_path):
    path = tmp_path / "a,b:c.json"
    path.write_text(json.dumps({"execute": "50%\nno"}))
    result = run("validate", "-r", "7.2", "--format", "github", path)
    place = str(path).replace(",", "%2C").replace(":", "%3A")
    assert result.stdout == (
        f"::error file={place},line=1,title=unknown-command::50%25%0Ano execute: "
        "The command 50%25%0Ano has not been found\n"
    )
    result = run("validate", "-r", "7.2", "--format", "github", given_=OLD)
    assert result.stdout.startswith("::warning line=1,title=deprecated-command::nbd-server-remove")


def test_a_missing_file_is_named(tmp_path):
    result = run("validate", "-r", "7.2", tmp_path / "none")
    assert result.exit_code == 1
    assert str(result.exception) == f"{tmp_path}/none: No such file or directory"
