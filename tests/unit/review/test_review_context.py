"""What a review knows beside the schemas: elements by name, releases, lists of deprecations."""

from __future__ import annotations

import pytest
from golden_review import schema
from hypothesis import HealthCheck, given, settings
from unit.qapi.schema_texts import schema_texts

from nbexport.errors import UsageError
from nbexport.qapi.model import Command, EnumMember, Member
from nbexport.review.context import Past, releases_after, releases_between
from nbexport.review.engine import Context, PackageHistory, Schemas, review, review_schemas
from nbexport.review.lookup import find
from nbexport.review.wire import Side
from nbexport.sources.load import load


@pytest.fixture(scope="module")
def side():
    return Side(load("release:7.2").schema, conditional=True)


@pytest.mark.parametrize(
    ("element", "kind"),
    [
        ("block-export-add", Command),
        ("block-export-add.node-name", Member),
        ("block-export-add[type=nbd].bitmaps", Member),
        ("block-export-add[type=nbd].bitmaps[].node", Member),
        ("block-export-add.bitmaps.node", Member),
        ("block-export-add.type=nbd", EnumMember),
        ("query-block-exports.returns[].shutting-down", Member),
        ("query-block-exports.returns[].type=fuse", EnumMember),
        ("BLOCK_EXPORT_DELETED.id", Member),
        ("nbd-server-start.addr[type=inet].data.host", Member),
    ],
)
def test_an_element_is_found_by_its_name(side, element, kind):
    assert isinstance(find(side, element), kind)


@pytest.mark.parametrize(
    "element",
    [
        "",
        "block-export",
        "BlockExportOptions",
        "block-export-add.bitmap",
        "block-export-add[type=fuse].bitmaps",
        "block-export-add.type=usb",
        "block-export-add.id=nbd",
        "block-export-add.id.more",
        "query-block-exports.returns[].more",
        "query-block-exports.id",
    ],
)
def test_an_element_that_is_not_there(side, element):
    assert find(side, element) is None


def test_the_past_tells_when_things_came_and_were_deprecated():
    past = Past(Context(history=PackageHistory()))
    assert past.first("nbd-server-add.bitmap") == "4.0"
    assert past.first("block-export-add[type=nbd].bitmaps") == "5.2"
    assert past.first("nbd-server-add.bitmaps") is None
    assert past.first_deprecated("nbd-server-add") == "5.2"
    assert past.first_deprecated("block-export-add") is None


def test_the_past_ends_before_the_release_that_is_made():
    past = Past(Context(release="5.2", history=PackageHistory()))
    assert past.releases[-1] == "5.1"
    assert past.first("block-export-add") is None
    assert past.first_deprecated("nbd-server-add") is None


def test_the_list_of_deprecations_reaches_where_schemas_do_not():
    listed = PackageHistory().deprecated_by_list
    assert listed("block-dirty-bitmap-add.autoload") is not None
    assert listed("query-block.returns[].dirty-bitmaps") is not None
    assert listed("migrate.blk") == "8.2"
    assert listed("object-add.props") == "5.0"
    assert listed("blockdev-add.driver=sheepdog") == "5.2"
    assert listed("migrate-set-capabilities.capabilities[].capability=block") == "8.2"
    assert listed("block-export-add.id") is None


def test_releases_are_counted():
    assert releases_between("5.2", "6.1") == 2
    assert releases_between("5.2", "5.2") == 0
    assert releases_after("5.2", "6.1") == ["6.0", "6.1"]
    # a release that is not out yet
    assert releases_after("11.0", "99.0")[-1] == "99.0"


def test_a_context_has_to_make_sense():
    with pytest.raises(UsageError, match="'soon' is no release"):
        Context(release="soon")
    with pytest.raises(UsageError, match="'then' is no release"):
        Context(old_release="then")
    with pytest.raises(UsageError, match="window 0"):
        Context(window=0)


def test_releases_are_those_of_the_sources_unless_said():
    old, new = load("release:2.9"), load("release:2.10")
    # its type says 2.9, and the schema is that of 2.10
    backing = ("since-wrong", "blockdev-add[driver=qcow2].backing")
    assert backing in {(finding.rule, finding.element) for finding in review(old, new)}
    told = review(old, new, Context(release="2.9"))
    assert backing not in {(finding.rule, finding.element) for finding in told}


OLD = "{ 'command': 'add', 'data': { 'device': 'str' } }"
NEW = """
##
# @add:
#
# Add it.
#
# @device: the device
#
# @node-name: the node (since 8.0)
#
# Features:
# @deprecated: member @device: use @node-name
#
# Since: 5.0
##
{ 'command': 'add',
  'data': { 'device': { 'type': 'str', 'features': ['deprecated'] }, '*node-name': 'str' } }
"""


def test_a_member_is_replaced_by_another_one():
    found = review_schemas(schema(OLD), schema(NEW))
    (finding,) = [one for one in found if one.rule == "replacement-not-shipped"]
    assert finding.element == "add.device"
    assert "add.node-name" in finding.message
    shipped = "{ 'command': 'add', 'data': { 'device': 'str', '*node-name': 'str' } }"
    for old, context in (
        (shipped, Context()),
        (OLD, Context(release="8.0", history=Schemas({"7.2": schema(shipped)}))),
        (OLD, Context(release="8.0", old_release="7.1")),
    ):
        result = review_schemas(schema(old), schema(NEW), context)
        assert "replacement-not-shipped" not in {one.rule for one in result}


def test_an_introspection_has_no_documentation_to_judge(tmp_path):
    import json

    from nbexport.qapi import introspect

    new = load("release:5.2")
    path = tmp_path / "replies.json"
    path.write_text(json.dumps(introspect(load("release:5.2").schema)))
    assert review(load(str(path)), new, Context(release="5.2", old_release="5.1")) == []
    assert review(new, load(str(path))) == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(schema_texts(), schema_texts())
def test_any_two_schemas_can_be_reviewed(first, second):
    old, new = schema(first), schema(second)
    context = Context(release="6.0", old_release="5.2", deprecation_notes="do-0: gone")
    result = review_schemas(old, new, context)
    assert result == review_schemas(schema(first), schema(second), context)
    for finding in result:
        assert finding.element
        assert finding.message
        assert finding.path[0]
        assert not finding.message.endswith(".")
    assert review_schemas(old, old, context) == []
