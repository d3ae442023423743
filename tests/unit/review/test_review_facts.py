"""Differences on the wire: what counts, what does not, and how a client meets each."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_review import schema

from nbexport.qapi import QapiError
from nbexport.resources import data_path
from nbexport.review.compare import Kind
from nbexport.review.facts import differences
from nbexport.review.finding import Direction
from nbexport.review.wire import Side
from nbexport.sources.load import load


def found(old, new):
    """The differences of two texts: kind, direction, element."""
    return [(str(d.kind), str(d.direction), d.element) for d in compared(old, new)]


def compared(old, new):
    return differences(schema(old, name="old.json"), schema(new, name="new.json"))


GO = "{ 'command': 'go', 'data': 'Args' }"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(
            "{ 'struct': 'Args', 'data': { 'a': 'str', '*b': 'int' } }" + GO,
            "{ 'command': 'go', 'data': { '*b': 'int', 'a': 'str' } }",
            id="named or inline, in another order",
        ),
        pytest.param(
            "{ 'struct': 'Args', 'data': { 'a': 'str', '*b': 'int' } }" + GO,
            "{ 'struct': 'Base', 'data': { 'a': 'str' } }"
            "{ 'struct': 'Middle', 'base': 'Base', 'data': { '*b': 'int' } }"
            "{ 'struct': 'Args', 'base': 'Middle', 'data': {} }" + GO,
            id="split into bases",
        ),
        pytest.param(
            "{ 'enum': 'Kind', 'data': ['one', 'two'] }"
            "{ 'struct': 'One', 'data': { 'a': 'str' } }"
            "{ 'struct': 'Two', 'data': { 'a': 'str', 'b': 'int' } }"
            "{ 'union': 'Args', 'base': { 'kind': 'Kind' }, 'discriminator': 'kind',"
            "  'data': { 'one': 'One', 'two': 'Two' } }"
            "{ 'command': 'go', 'data': 'Args', 'boxed': true }",
            "{ 'enum': 'Sort', 'data': ['two', 'one'] }"
            "{ 'struct': 'More', 'data': { 'b': 'int' } }"
            "{ 'union': 'Args', 'base': { 'kind': 'Sort', 'a': 'str' },"
            "  'discriminator': 'kind', 'data': { 'two': 'More' } }"
            "{ 'command': 'go', 'data': 'Args', 'boxed': true }",
            id="a member of every branch moves into the base",
        ),
        pytest.param(
            "{ 'alternate': 'Either', 'data': { 'one': 'str', 'many': ['str'] } }"
            "{ 'command': 'go', 'data': { 'a': 'Either' } }",
            "{ 'alternate': 'OneOrMore', 'data': { 'l': ['str'], 's': 'str' } }"
            "{ 'command': 'go', 'data': { 'a': 'OneOrMore' } }",
            id="names of an alternate's branches",
        ),
        pytest.param(
            "{ 'command': 'go', 'data': { 'a': 'int' } }",
            "{ 'command': 'go', 'data': { 'a': 'int64' } }",
            id="int is int64",
        ),
        pytest.param(
            "{ 'struct': 'Empty', 'data': {} }{ 'command': 'go', 'returns': 'Empty' }",
            "{ 'command': 'go' }",
            id="an object without members, and nothing",
        ),
        pytest.param(
            "{ 'command': 'go', 'if': { 'all': ['A', 'B'] } }",
            "{ 'command': 'go', 'if': { 'not': { 'any': [ { 'not': 'A' }, { 'not': 'B' } ] } } }",
            id="a condition in other words",
        ),
        pytest.param(
            "{ 'struct': 'Unused', 'data': { 'a': 'str' } }{ 'command': 'go' }",
            "{ 'struct': 'Unused', 'data': { 'a': 'int' } }{ 'command': 'go' }",
            id="a type that nothing reaches",
        ),
    ],
)
def test_refactorings_are_no_difference(old, new):
    assert found(old, new) == []
    assert found(new, old) == []


CHAIN = (
    "{ 'struct': 'Node', 'data': { 'name': 'str', '*next': 'Node', '*others': ['Node']%s } }"
    "{ 'command': 'set-node', 'data': 'Node' }{ 'command': 'get-node', 'returns': 'Node' }"
)


def test_a_type_that_refers_to_itself():
    assert found(CHAIN % "", CHAIN % ", 'size': 'int'") == [
        ("member-added", "sends", "set-node.size"),
        ("member-added", "receives", "get-node.returns.size"),
    ]


def test_an_alternate_that_holds_itself():
    text = "{ 'alternate': 'Tree', 'data': { 'leaf': 'str', 'trees': ['Tree']%s } }"
    text += "{ 'command': 'plant', 'data': { 'a': 'Tree' } }"
    assert found(text % "", text % "") == []
    (widened,) = compared(text % "", text % ", 'none': 'null'")
    assert (widened.kind, widened.element) == (Kind.TYPE_WIDENED, "plant.a")
    assert (widened.was, widened.now) == ("str or [Tree]", "str or [Tree] or null")


def nested(levels):
    """Unions in unions: each level doubles the combinations."""
    text = "{ 'enum': 'Kind', 'data': ['one', 'two'] }{ 'struct': 'Level0', 'data': {} }"
    for level in range(1, levels + 1):
        text += (
            f"{{ 'union': 'Level{level}', 'base': {{ 'kind-{level}': 'Kind' }},"
            f"  'discriminator': 'kind-{level}',"
            f"  'data': {{ 'one': 'Level{level - 1}', 'two': 'Level{level - 1}' }} }}"
        )
    return text + f"{{ 'command': 'go', 'data': 'Level{levels}', 'boxed': true }}"


def test_combinations_have_a_bound():
    one = schema(nested(6))
    assert differences(one, schema(nested(6))) == []
    assert len(Side(one, conditional=True).cases(one.command("go").arg_type)) == 64
    with pytest.raises(QapiError, match="over 10000 branches"):
        differences(schema(nested(14)), schema(nested(14)))


def test_a_type_used_both_ways_is_judged_in_both():
    old = "{ 'enum': 'Mode', 'data': ['a'] }{ 'struct': 'Args', 'data': { 'mode': 'Mode' } }"
    old += "{ 'command': 'go', 'data': 'Args', 'returns': 'Args' }"
    assert found(old, old.replace("['a']", "['a', 'b']")) == [
        ("value-added", "sends", "go.mode=b"),
        ("value-added", "receives", "go.returns.mode=b"),
    ]


def test_a_common_type_is_told_once_with_all_that_reach_it():
    text = "{ 'struct': 'Address', 'data': { 'host': 'str'%s } }"
    text += "".join(
        f"{{ 'command': 'connect-{n}', 'data': {{ 'to': ['Address'] }} }}" for n in range(300)
    )
    text += "{ 'event': 'CONNECTED', 'data': 'Address' }"
    sent, received = compared(text % "", text % ", '*port': 'int'")
    assert sent.roots == tuple(sorted(f"connect-{n}" for n in range(300)))
    assert sent.element == "connect-0.to[].port"
    assert sent.path == ("connect-0", "to", "Address", "port")
    assert (received.direction, received.element) == (Direction.RECEIVES, "CONNECTED.port")


def test_the_path_goes_through_types_and_bases():
    old, new = (
        load("release:5.1").schema,
        load(str(data_path("series", "multiple-bitmaps", "v5"))).schema,
    )
    leak = next(d for d in differences(old, new) if d.name == "bitmaps")
    assert leak.path == (
        "nbd-server-add",
        "NbdServerAddOptions",
        "base BlockExportOptionsNbd",
        "bitmaps",
    )
    assert leak.new.file.endswith("v5/block-export.json")
    assert leak.new.context == "struct 'BlockExportOptionsNbd'"
    assert "'*bitmaps'" in line_of(leak.new)
    assert leak.old is None


def line_of(place):
    return Path(place.file).read_text().splitlines()[place.line - 1]


def test_a_branch_is_named_where_not_all_have_it():
    text = (
        "{ 'enum': 'Kind', 'data': ['one', 'two'] }"
        "{ 'struct': 'One', 'data': { '*a': 'str'%s } }"
        "{ 'union': 'Args', 'base': { 'kind': 'Kind'%s }, 'discriminator': 'kind',"
        "  'data': { 'one': 'One' } }"
        "{ 'command': 'go', 'data': 'Args', 'boxed': true }"
    )
    plain = text % ("", "")
    (in_one,) = compared(plain, text % (", 'b': 'int'", ""))
    assert (in_one.element, in_one.path) == (
        "go[kind=one].b",
        ("go", "Args", "kind=one", "One", "b"),
    )
    assert found(plain, text % ("", ", 'b': 'int'")) == [("member-added", "sends", "go.b")]
    # from the base into one branch: the other one loses it
    assert found(text % ("", ", '*b': 'int'"), text % (", '*b': 'int'", "")) == [
        ("member-removed", "sends", "go[kind=two].b")
    ]


def test_an_object_that_gets_a_tag():
    old = "{ 'command': 'go', 'data': { 'kind': 'Kind', '*a': 'str', '*b': 'int' } }"
    kind = "{ 'enum': 'Kind', 'data': ['one', 'two'] }"
    new = (
        "{ 'struct': 'One', 'data': { '*b': 'int' } }"
        "{ 'union': 'Args', 'base': { 'kind': 'Kind', '*a': 'str' }, 'discriminator': 'kind',"
        "  'data': { 'one': 'One' } }"
        "{ 'command': 'go', 'data': 'Args', 'boxed': true }"
    )
    assert found(kind + old, kind + new) == [("member-removed", "sends", "go[kind=two].b")]


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("'uint8'", "'uint16'", Kind.TYPE_WIDENED),
        ("'uint8'", "'int16'", Kind.TYPE_WIDENED),
        ("'int8'", "'uint8'", Kind.TYPE_CHANGED),
        ("'int'", "'number'", Kind.TYPE_WIDENED),
        ("'int'", "'uint64'", Kind.TYPE_WIDENED),
        ("'uint64'", "'size'", None),
        ("'str'", "'any'", Kind.TYPE_WIDENED),
        ("'str'", "'Mode'", Kind.TYPE_NARROWED),
        ("'str'", "['str']", Kind.TYPE_CHANGED),
        ("['uint8']", "['uint16']", Kind.TYPE_WIDENED),
        ("'str'", "'NameOrNames'", Kind.TYPE_WIDENED),
        ("'Mode'", "'NameOrNames'", Kind.TYPE_WIDENED),
        ("['Mode']", "'NameOrNames'", Kind.TYPE_WIDENED),
        ("'int'", "'NameOrNames'", Kind.TYPE_CHANGED),
        ("'bool'", "'str'", Kind.TYPE_CHANGED),
    ],
)
def test_types(old, new, kind):
    text = "{ 'enum': 'Mode', 'data': ['a'] }"
    text += "{ 'alternate': 'NameOrNames', 'data': { 'one': 'str', 'many': ['str'] } }"
    text += "{ 'command': 'go', 'data': { 'a': %s } }"
    result = compared(text % old, text % new)
    assert [d.kind for d in result] == ([kind] if kind else [])
    back = {Kind.TYPE_WIDENED: Kind.TYPE_NARROWED, Kind.TYPE_NARROWED: Kind.TYPE_WIDENED}
    reverse = compared(text % new, text % old)
    assert [d.kind for d in reverse] == ([back.get(kind, kind)] if kind else [])


def test_what_is_returned():
    command = "{ 'struct': 'Map', 'data': { 'a': 'str' } }{ 'command': 'get'%s }"
    nothing, one, many = (command % text for text in ("", ", 'returns': 'Map'",
                                                      ", 'returns': ['Map']"))  # fmt: skip
    assert found(nothing, one) == [("member-added", "receives", "get.returns.a")]
    (changed,) = compared(one, many)
    assert (changed.kind, changed.element) == (Kind.TYPE_CHANGED, "get.returns")
    assert (changed.was, changed.now) == ("Map", "[Map]")


def test_a_command_that_is_an_event_now():
    assert found("{ 'event': 'GONE' }", "{ 'command': 'gone' }") == [
        ("command-added", "", "gone"),
        ("event-removed", "", "GONE"),
    ]


def test_features_of_commands_members_values_and_types():
    text = (
        "{ 'enum': 'Mode', 'data': [ { 'name': 'a'%s } ] }"
        "{ 'struct': 'Args', 'data': { 'mode': { 'type': 'Mode'%s } }%s }"
        "{ 'command': 'go', 'data': 'Args'%s }"
    )
    mark = ", 'features': ['fast']"
    assert found(text % ("", "", "", ""), text % (mark, mark, mark, mark)) == [
        ("feature-added", "", "go"),
        ("feature-added", "sends", "go"),
        ("feature-added", "sends", "go.mode"),
        ("feature-added", "sends", "go.mode=a"),
    ]


def test_conditions_count_as_text_unless_symbols_are_chosen():
    old, new = (
        "{ 'command': 'go', 'if': 'CONFIG_A' }{ 'command': 'stay' }",
        "{ 'command': 'go', 'if': { 'not': 'CONFIG_A' } }{ 'command': 'stay' }",
    )
    assert found(old, new) == [("condition-changed", "", "go")]
    built = [schema(text) for text in (old, new)]
    for each in built:
        each.symbols = {"CONFIG_A", "CONFIG_B"}
    assert [str(d.kind) for d in differences(*built)] == ["command-removed"]


def test_introspection_has_neither_conditions_nor_widths(tmp_path):
    import json

    from nbexport.qapi import introspect

    text = "{ 'command': 'go', 'data': { 'a': 'uint8' }, 'if': 'CONFIG_A' }"
    path = tmp_path / "replies.json"
    path.write_text(json.dumps(introspect(schema(text))))
    assert differences(schema(text), load(str(path)).schema) == []


def test_the_same_schema_does_not_differ():
    for release in ("2.5", "5.2", "11.0"):
        one = load(f"release:{release}").schema
        assert differences(one, one) == []
