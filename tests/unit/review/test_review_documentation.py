"""Names in documentation: those that exist, those that existed, and those that never did."""

from __future__ import annotations

import pytest
from golden_review import schema

from nbexport.review.engine import Context, review_schemas

TEXT = """
##
# @Mode:
#
# How.
#
# @safe: with care
#
# Since: 5.0
##
{ 'enum': 'Mode', 'data': [ 'safe' ] }

##
# @Inner:
#
# What is inside.
#
# @size: %(inner)s
#
# Since: 5.0
##
{ 'struct': 'Inner', 'data': { 'size': 'int' } }

##
# @add-map:
#
# %(body)s
#
# @name: %(name)s
#
# @mode: how
#
# @inner: more
#
# %(section)s
#
# Since: 5.0
##
{ 'command': 'add-map',
  'data': { 'name': 'str', 'mode': 'Mode', 'inner': 'Inner' } }
"""
PLAIN = {"inner": "its size", "body": "Add it.", "name": "its name", "section": "That is all."}


def phantoms(as_of="11.0", **said):
    """The names that do not exist where they are said: name and line's text."""
    new = TEXT % (PLAIN | said)
    old = schema(TEXT % PLAIN, as_of=as_of)
    found = review_schemas(old, schema(new, as_of=as_of), Context(release="5.1"))
    return [
        (one.element.rpartition(".")[2], new.splitlines()[one.new.line - 1])
        for one in found
        if one.rule == "doc-phantom-member"
    ]


@pytest.mark.parametrize("as_of", ["7.2", "8.2", "11.0"])
@pytest.mark.parametrize("part", PLAIN)
def test_a_name_that_does_not_exist_is_found_at_its_line(part, as_of):
    ((name, line),) = phantoms(as_of, **{part: "not with @maps"})
    assert name == "maps"
    assert "not with @maps" in line


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("name", "as @mode says"),
        ("name", "see @add-map, @Inner and @Mode"),
        ("name", "with @safe only"),
        ("name", "below @size"),
        ("inner", "of the map @name"),
        ("body", "Ask map@example.org."),
        ("body", "A lone @ is no name."),
    ],
)
def test_names_that_make_sense(part, text):
    assert phantoms(**{part: text}) == []


def test_what_was_wrong_before_is_not_this_changes():
    old = TEXT % (PLAIN | {"body": "Not with @maps."})
    new = TEXT % (PLAIN | {"body": "Not with @maps, never."})
    assert review_schemas(schema(old), schema(new)) == []


def test_what_is_gone_can_be_told_of():
    new = (TEXT % PLAIN).replace("@mode: how", "@manner: how, @mode before (since 5.1)")
    new = new.replace("'mode': 'Mode'", "'manner': 'Mode'")
    rules = {one.rule for one in review_schemas(schema(TEXT % PLAIN), schema(new))}
    assert "doc-phantom-member" not in rules


UNDOCUMENTED = (TEXT % PLAIN).replace("# @mode: how\n#\n", "")


def test_a_part_that_lost_its_documentation():
    old, new = schema(TEXT % PLAIN, as_of="7.2"), schema(UNDOCUMENTED, as_of="7.2")
    (found,) = review_schemas(old, new)
    assert (found.rule, found.element) == ("doc-undocumented-member", "add-map.mode")
    assert UNDOCUMENTED.splitlines()[found.new.line - 1].strip().startswith("'data'")
    assert review_schemas(new, schema(UNDOCUMENTED, as_of="7.2")) == []


@pytest.mark.parametrize(
    "remark", ["(since 5.1)", "(default: safe, since 5.1)", "(since: 5.1; default: safe)"]
)
def test_remarks_about_releases(remark):
    new = (TEXT % PLAIN).replace("@safe: with care", f"@safe: with care\n#\n# @hard: {remark}")
    new = new.replace("[ 'safe' ]", "[ 'safe', 'hard' ]")
    for release, expected in (("5.1", set()), ("5.2", {"since-wrong"})):
        found = review_schemas(schema(TEXT % PLAIN), schema(new), Context(release=release))
        assert {one.rule for one in found if one.rule.startswith("since")} == expected


def test_a_word_is_no_remark():
    new = (TEXT % PLAIN).replace("@safe: with care", "@safe: with care\n#\n# @hard: ever since 5")
    new = new.replace("[ 'safe' ]", "[ 'safe', 'hard' ]")
    found = review_schemas(schema(TEXT % PLAIN), schema(new), Context(release="5.1"))
    assert "since-missing" in {one.rule for one in found}


def test_what_was_written_before_is_found_by_an_audit_only():
    text = TEXT % (PLAIN | {"name": "not with @maps"})
    text = text.replace("# @mode: how\n#\n", "")
    both = schema(text, as_of="7.2"), schema(text, as_of="7.2")
    assert review_schemas(*both, Context(release="5.1")) == []
    found = review_schemas(*both, Context(release="5.1", audit=True))
    assert [(one.rule, one.element) for one in found] == [
        ("doc-phantom-member", "add-map.maps"),
        ("doc-undocumented-member", "add-map.mode"),
    ]
