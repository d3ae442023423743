"""One name of a schema, explained."""

from __future__ import annotations

import pytest

from nbexport.errors import UsageError
from nbexport.qapi import introspect, known_releases, load_release, load_schema
from nbexport.qapi.from_introspection import from_introspection
from nbexport.sources import describe
from nbexport.sources import describe as describe_function

TEXT = """
{ 'enum': 'Kind', 'data': [ 'one', { 'name': 'two', 'if': 'CONFIG_TWO' } ] }
{ 'struct': 'Root', 'data': { 'a': 'int' } }
{ 'struct': 'Middle', 'base': 'Root',
  'data': { '*b': { 'type': [ 'Kind' ], 'if': { 'not': 'CONFIG_B' }, 'features': [ 'old' ] } } }
{ 'union': 'Tree', 'base': { 'kind': 'Kind' }, 'discriminator': 'kind',
  'data': { 'one': 'Middle' } }
{ 'alternate': 'Choice', 'data': { 'text': 'str', 'list': [ 'Root' ] } }

##
# @go:
#
# Go there.
#
# @x: how far
#     (since 5.0)
#
# Features:
# @deprecated: stay
#
# Returns: a tree
#
# Since: 1.3
##
{ 'command': 'go', 'data': { '*x': 'Choice' }, 'returns': 'Tree', 'features': [ 'deprecated' ],
  'allow-oob': true, 'if': 'CONFIG_GO' }
{ 'command': 'plain' }
{ 'event': 'CAME', 'boxed': true, 'data': 'Tree' }
"""


@pytest.fixture(scope="module")
def schema():
    return load_schema("s.json", read=lambda _path: TEXT, symbols={"CONFIG_TWO", "CONFIG_GO"})


def test_where_each_member_comes_from(schema):
    found = describe(schema, "Tree")
    assert (found.meta, found.tag) == ("union", "kind")
    assert [(p.name, p.type, p.optional, p.branch, p.origin) for p in found.parts] == [
        ("kind", "one|two", False, "", "implicit base"),
        ("a", "int", False, "kind=one", "base Root"),
        ("b", "[one|two]", True, "kind=one", "Middle"),
    ]
    assert found.parts[2].condition == "not CONFIG_B"
    assert found.parts[2].features == ("old",)
    assert [p.origin for p in describe(schema, "Middle").parts] == ["base Root", "own"]


def test_a_command_with_all_that_is_said_of_it(schema):
    found = describe(schema, "go")
    assert found.meta == "command"
    assert found.place == "s.json:25"
    assert found.returns == "Tree"
    assert found.flags == ("allow-oob",)
    assert found.condition == "CONFIG_GO"
    assert found.features == {"deprecated": "stay"}
    assert (found.since, found.doc) == ("1.3", "Go there.")
    assert ("Returns", "a tree") in found.sections
    (part,) = found.parts
    assert (part.name, part.optional, part.origin, part.since) == ("x", True, "own", "5.0")
    assert part.type == "str or [Root]"
    assert part.doc.startswith("how far")


def test_every_kind_of_thing(schema):
    assert [p.name for p in describe(schema, "Kind").parts] == ["one", "two"]
    assert describe(schema, "Kind").parts[1].condition == "CONFIG_TWO"
    assert [(p.name, p.type) for p in describe(schema, "Choice").parts] == [
        ("text", "str"),
        ("list", "[Root]"),
    ]
    assert describe(schema, "plain").parts == ()
    assert describe(schema, "uint8").meta == "built-in"
    assert [p.type for p in describe(schema, "RootList").parts] == ["Root"]
    event = describe(schema, "CAME")
    assert [p.name for p in event.parts] == ["kind", "a", "b"]
    assert event.parts[0].origin == "implicit base of Tree"
    assert event.as_json()["parts"][0] == {
        "name": "kind",
        "type": "one|two",
        "origin": "implicit base of Tree",
    }


def test_unknown_names_are_answered_with_known_ones(schema):
    with pytest.raises(UsageError, match=r"'plian' in this schema \(did you mean plain"):
        describe_function(schema, "plian")
    with pytest.raises(UsageError, match="'go' in this schema"):
        describe_function(load_schema("s.json", read=lambda _: TEXT, symbols=set()), "go")


def test_what_the_symbols_exclude_is_not_shown():
    schema = load_schema("s.json", read=lambda _: TEXT, symbols={"CONFIG_B"})
    assert [p.name for p in describe(schema, "Kind").parts] == ["one"]
    assert [p.name for p in describe(schema, "Middle").parts] == ["a"]


def test_history_is_what_the_data_says():
    oldest, newest = known_releases()[0], known_releases()[-1]
    schema = load_release(newest)
    found = describe(schema, "block-export-add", with_history=True)
    assert found.releases[-1] == newest
    texts = [text for change in found.history for text in change.texts]
    assert "bitmaps (type=nbd): [str] -> [str or BlockDirtyBitmap]" in texts
    assert "+ mountpoint (type=fuse): str" in texts
    assert "now allow-preconfig" in texts
    quiet = describe(schema, "nbd-server-stop", with_history=True)
    assert quiet.history[0].release == oldest
    assert describe(schema, "nbd-server-stop").history == ()


def test_every_name_of_every_release_can_be_described():
    for release in known_releases():
        schema = load_release(release)
        for other in (schema, from_introspection(introspect(schema))):
            for name in other.entities:
                shown = describe(other, name).as_json()
                assert shown["name"] == name
                assert shown["meta"]
