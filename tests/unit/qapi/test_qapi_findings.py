"""All that is wrong or unwise about a command."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbexport.errors import CommandError
from nbexport.qapi import load_release, load_schema, validate
from nbexport.qapi.findings import MAX_FINDINGS, Finding, validate_command

TEXT = """
{ 'pragma': { 'documentation-exceptions': [ 'cut' ] } }
{ 'enum': 'Kind', 'data': [ 'one', { 'name': 'two', 'features': [ 'deprecated', 'unstable' ] } ] }

##
# @Leaf:
#
# A leaf.
#
# @old: what it was
#
# @new: what it is
#
# @trial: what it may be
#
# Features:
# @deprecated: Member @old is deprecated.
#     Use @new instead.
# @unstable: Member @trial may change.
##
{ 'struct': 'Leaf',
  'data': { '*old': { 'type': 'int', 'features': [ 'deprecated' ] },
            '*new': 'int',
            '*trial': { 'type': 'int', 'features': [ 'unstable' ] } } }
{ 'alternate': 'Choice', 'data': { 'text': 'str', 'leaf': 'Leaf' } }
{ 'union': 'Tree', 'base': { 'kind': 'Kind' }, 'discriminator': 'kind',
  'data': { 'one': 'Leaf' } }

##
# @cut:
#
# Features:
# @deprecated: use @prune
##
{ 'command': 'cut', 'features': [ 'deprecated' ],
  'data': { '*leaves': [ 'Leaf' ], '*choice': 'Choice', '*tree': 'Tree', '*kinds': [ 'Kind' ],
            '*size': 'uint32' } }
{ 'command': 'prune', 'data': { 'x': 'int', 'tree': 'Tree' }, 'allow-oob': true }
{ 'command': 'raw', 'gen': false, 'data': { 'x': 'int' } }
{ 'command': 'maybe', 'if': 'CONFIG_MAYBE' }
"""


@pytest.fixture(scope="module")
def schema():
    return load_schema("s.json", read=lambda _path: TEXT, symbols=frozenset())


def found(schema, command, **kwargs):
    return [
        (item.level, item.kind, item.path, item.message)
        for item in validate_command(schema, command, **kwargs)
    ]


def test_a_good_command_has_no_findings(schema):
    tree = {"kind": "one", "new": 1}
    command = {"execute": "prune", "arguments": {"x": 1, "tree": tree}, "id": [1]}
    assert validate_command(schema, command) == []
    command["exec-oob"] = command.pop("execute")
    assert validate_command(schema, command) == []


def test_deprecated_parts_are_found_wherever_they_are_nested(schema):
    command = {
        "execute": "cut",
        "arguments": {
            "leaves": [{"new": 1}, {"old": 1}],
            "choice": {"old": 2},
            "tree": {"kind": "one", "old": 3, "trial": 4},
            "kinds": ["one", "two"],
        },
    }
    findings = validate_command(schema, command)
    assert all(item.level == "warning" for item in findings)
    assert [(item.kind, item.path, item.entity) for item in findings] == [
        ("deprecated-command", "execute", "cut"),
        ("deprecated-member", "arguments.leaves[1].old", "Leaf.old"),
        ("deprecated-member", "arguments.choice.old", "Leaf.old"),
        ("deprecated-member", "arguments.tree.old", "Leaf.old"),
        ("unstable-member", "arguments.tree.trial", "Leaf.trial"),
        ("deprecated-value", "arguments.kinds[1]", "Kind.two"),
        ("unstable-value", "arguments.kinds[1]", "Kind.two"),
    ]
    assert findings[0].instead == "use @prune"
    assert findings[1].instead == "Member @old is deprecated. Use @new instead."
    assert findings[1].message == "argument 'old' is deprecated"
    # what is unstable has nothing instead; undocumented deprecation has no advice
    assert [findings[4].instead, findings[5].instead] == [None, None]


def test_all_faults_are_reported_and_the_first_is_that_of_qemu(schema):
    arguments = {
        "leaves": [1, {"old": "x", "more": 1}],
        "choice": 5,
        "tree": {"kind": "two", "old": 1},
        "kinds": ["no"],
        "size": 1 << 32,
        "zzz": 0,
    }
    findings = [
        item
        for item in found(schema, {"execute": "cut", "arguments": arguments})
        if item[0] == "error"
    ]
    assert [item[1:] for item in findings] == [
        (
            "wrong-type",
            "arguments.leaves[0]",
            "Invalid parameter type for 'leaves[0]', expected: object",
        ),
        (
            "wrong-type",
            "arguments.leaves[1].old",
            "Invalid parameter type for 'leaves[1].old', expected: integer",
        ),
        (
            "unknown-member",
            "arguments.leaves[1].more",
            "Parameter 'leaves[1].more' is unexpected",
        ),
        ("wrong-type", "arguments.choice", "Invalid parameter type for 'choice', expected: Choice"),
        ("unknown-member", "arguments.tree.old", "Parameter 'tree.old' is unexpected"),
        (
            "unknown-value",
            "arguments.kinds[0]",
            "Parameter 'null' does not accept value 'no'",
        ),
        ("out-of-range", "arguments.size", "Parameter 'size' expects uint32_t"),
        ("unknown-member", "arguments.zzz", "Parameter 'zzz' is unexpected"),
    ]


@pytest.mark.parametrize("tree", [{}, {"kind": "three"}, {"kind": 1}])
def test_a_union_without_a_known_branch_is_not_blamed_for_branch_members(schema, tree):
    command = {"execute": "cut", "arguments": {"tree": {**tree, "new": 1, "alien": 2}}}
    errors = [item for item in found(schema, command) if item[0] == "error"]
    assert [item[2] for item in errors] == ["arguments.tree.kind", "arguments.tree.alien"]


@pytest.mark.parametrize(
    ("command", "kind", "path", "message"),
    [
        ([], "not-a-command", "", "QMP input must be a JSON object"),
        ({}, "not-a-command", "", "QMP input lacks member 'execute'"),
        (
            {"execute": 1},
            "not-a-command",
            "execute",
            "QMP input member 'execute' must be a string",
        ),
        (
            {"execute": "raw", "extra": 1},
            "not-a-command",
            "extra",
            "QMP input member 'extra' is unexpected",
        ),
        (
            {"execute": "raw", "arguments": []},
            "not-a-command",
            "arguments",
            "QMP input member 'arguments' must be an object",
        ),
        ({"execute": "none"}, "unknown-command", "execute", "The command none has not been found"),
        (
            {"execute": "maybe"},
            "unknown-command",
            "execute",
            "The command maybe has not been found",
        ),
        ({"exec-oob": "raw"}, "no-oob", "exec-oob", "The command raw does not support OOB"),
    ],
)
def test_the_request_itself(schema, command, kind, path, message):
    assert found(schema, command) == [("error", kind, path, message)]


def test_both_ways_to_execute_clash(schema):
    command = {"execute": "raw", "exec-oob": "prune"}
    (finding,) = validate_command(schema, command)
    assert "clashes with" in finding.message


def test_what_is_not_generated_takes_anything(schema):
    assert validate_command(schema, {"execute": "raw", "arguments": {"y": []}}) == []


def test_findings_are_bounded(schema):
    command = {"execute": "prune", "arguments": {f"x{n}": n for n in range(3 * MAX_FINDINGS)}}
    findings = validate_command(schema, command)
    assert len(findings) == MAX_FINDINGS + 1
    assert findings[-1].kind == "more-findings"
    envelope = {f"x{n}": n for n in range(3 * MAX_FINDINGS)}
    assert len(validate_command(schema, envelope)) <= MAX_FINDINGS + 1


def test_as_json_leaves_out_what_is_empty():
    shown = Finding("error", "unknown-command", "execute", "text").as_json()
    assert list(shown) == ["level", "kind", "path", "message"]


@pytest.mark.parametrize(
    ("release", "value", "message"),
    [
        ((2, 8), {"size": []}, "Invalid parameter type for 'size', expected: integer"),
        ((2, 9), {"size": "5"}, "Invalid parameter type for 'size', expected: integer"),
        ((2, 9), {"size": 1 << 63}, "Invalid parameter type for 'size', expected: integer"),
        ((2, 10), {"size": "5"}, "Parameter 'size' expects uint64"),
        ((2, 8), {"leaves": {}}, "Invalid parameter type for 'leaves', expected: list"),
        ((2, 9), {"leaves": {}}, "Invalid parameter type for 'leaves', expected: array"),
        ((2, 8), {"leaves": [1]}, "Invalid parameter type for 'null', expected: QDict"),
        ((2, 9), {"leaves": [1]}, "Invalid parameter type for 'leaves[0]', expected: object"),
        ((2, 8), {"leaves": [{"x": 1}]}, "QMP input object member 'x' is unexpected"),
        ((2, 9), {"leaves": [{"x": 1}]}, "Parameter 'leaves[0].x' is unexpected"),
        ((2, 8), {"tree": {}}, "Parameter 'kind' is missing"),
        ((2, 9), {"tree": {}}, "Parameter 'tree.kind' is missing"),
        ((6, 1), {"kinds": ["x"]}, "Invalid parameter 'x'"),
        ((6, 2), {"kinds": ["x"]}, "Parameter 'null' does not accept value 'x'"),
        ((7, 2), {"size": 1 << 64}, "Parameter 'size' expects uint64"),
        ((7, 2), {"size": -1}, "Parameter 'size' expects uint32_t"),
        ((7, 2), {"size": -(1 << 63) - 1}, "Parameter 'size' expects uint64"),
    ],
)
def test_the_words_of_each_release(schema, release, value, message):
    findings = validate_command(schema, {"execute": "cut", "arguments": value}, release=release)
    assert [item.message for item in findings if item.level == "error"] == [message]
    with pytest.raises(CommandError) as caught:
        validate(schema, schema.command("cut").arg_type, value, release=release)
    assert caught.value.desc == message


_SCALAR = st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["nbd", "safe", "x", ""])
_KEYS = st.sampled_from(
    ["type", "id", "node-name", "name", "bitmaps", "node", "addr", "path", "data", "mode", "x"]
)
_VALUES = st.recursive(
    _SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["5.2", "7.2"]),
    st.sampled_from(["block-export-add", "nbd-server-start", "nbd-server-remove", "transaction"]),
    st.dictionaries(_KEYS, _VALUES, max_size=6),
)
def test_the_first_error_is_that_of_the_checker(release, name, arguments):
    schema = load_release(release)
    numbers = tuple(map(int, release.split(".")))
    entity = schema.command(name)
    if entity is None:
        return
    try:
        validate(schema, entity.arg_type, arguments, release=numbers)
        expected = None
    except CommandError as error:
        expected = error.desc
    findings = validate_command(schema, {"execute": name, "arguments": arguments}, release=numbers)
    errors = [item.message for item in findings if item.level == "error"]
    assert (errors[0] if errors else None) == expected


def test_deep_values_take_no_stack(schema):
    value: object = 1
    for _ in range(1000):
        value = [value]
    command = {"execute": "cut", "arguments": {"leaves": value}}
    assert [item[1] for item in found(schema, command) if item[0] == "error"] == ["wrong-type"]
