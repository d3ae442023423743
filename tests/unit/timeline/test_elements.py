import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.errors import UsageError
from nbexport.qapi import load_release, load_schema
from nbexport.timeline import Snapshot, Timeline
from nbexport.timeline.elements import Element, find_element, parse_element, pieces

SCHEMA = load_release("11.0")


@pytest.mark.parametrize(
    ("text", "element", "shown"),
    [
        ("nbd-server-add", Element("nbd-server-add"), None),
        ("nbd-server-add bitmap", Element("nbd-server-add", ("bitmap",)), None),
        ("nbd-server-add.bitmap", Element("nbd-server-add", ("bitmap",)), "nbd-server-add bitmap"),
        ("a b.c.d", Element("a", ("b", "c", "d")), None),
        ("a result b.c", Element("a", ("b", "c"), result=True), None),
        ("a.result.b", Element("a", ("b",), result=True), "a result b"),
        ("a.result", Element("a", ("result",)), "a result"),
        ("E=v", Element("E", value="v"), None),
        ("E=l1_grow.alloc_table", Element("E", value="l1_grow.alloc_table"), None),
        ("a b=v:f", Element("a", ("b",), value="v", feature="f"), None),
        ("a:deprecated", Element("a", feature="deprecated"), None),
        ("__org.example_go.on", Element("__org.example_go", ("on",)), "__org.example_go on"),
    ],
)
def test_the_notation_is_read_and_written(text, element, shown):
    assert parse_element(text) == element
    assert str(element) == (shown or text)
    assert parse_element(str(element)) == element


@pytest.mark.parametrize("text", ["", " ", "a b c", "a..b", "a=", "a:", "a b.", "-a", "a\nb", "ä"])
def test_what_is_no_name_is_refused(text):
    with pytest.raises(UsageError, match=r"names no element: expected NAME, NAME\.MEMBER"):
        parse_element(text)


@given(st.text(max_size=40))
def test_any_text_is_an_element_or_refused(text):
    try:
        element = parse_element(text)
    except UsageError:
        return
    assert parse_element(str(element)) == element
    find_element(SCHEMA, element)


@pytest.mark.parametrize(
    ("text", "kind", "type_", "special"),
    [
        ("nbd-server-add", "command", "", ("deprecated",)),
        ("nbd-server-add bitmap", "argument", "str", ("deprecated",)),
        ("block-export-add bitmaps", "argument", "[str or BlockDirtyBitmap]", ()),
        ("block-export-add bitmaps.node", "argument", "str", ()),
        ("nbd-server-start addr.data.path", "argument", "str", ()),
        ("query-block-exports result shutting-down", "result", "bool", ()),
        ("BLOCK_EXPORT_DELETED id", "data", "str", ()),
        ("BlockExportOptionsNbd bitmaps", "member", "[str or BlockDirtyBitmap]", ()),
        ("BlockExportType=fuse", "value", "", ()),
        ("block-export-add type=fuse", "value", "", ()),
        ("nbd-server-add:deprecated", "feature", "", ()),
    ],
)
def test_what_a_schema_has_of_an_element(text, kind, type_, special):
    form = find_element(SCHEMA, parse_element(text))
    assert (form.kind, form.type) == (kind, type_)
    assert form.deprecated == ("deprecated" in special)
    assert form.place.startswith(SCHEMA.root.removesuffix("schema.json"))


@pytest.mark.parametrize(
    "text",
    [
        "none",
        "nbd-server-add bitmaps",
        "nbd-server-add result bitmap",
        "nbd-server-add bitmap.more",
        "BLOCK_EXPORT_DELETED result id",
        "BlockExportType=none",
        "nbd-server-add=nbd",
        "block-export-add:deprecated",
    ],
)
def test_what_a_schema_does_not_have(text):
    assert find_element(SCHEMA, parse_element(text)) is None


def test_pieces_are_arguments_then_results_or_values():
    assert [str(part) for part in pieces(SCHEMA, "nbd-server-add")] == [
        f"nbd-server-add {name}" for name in ("name", "description", "device", "writable", "bitmap")
    ]
    assert [str(part) for part in pieces(SCHEMA, "query-block-exports")] == [
        f"query-block-exports result {name}"
        for name in ("id", "type", "node-name", "shutting-down")
    ]
    assert str(pieces(SCHEMA, "BlockExportType")[0]) == "BlockExportType=nbd"
    assert pieces(SCHEMA, "none") == []


RECURSIVE = """
{ 'pragma': { 'doc-required': false } }
{ 'alternate': 'Tree', 'data': { 'leaf': 'str', 'more': ['Tree'] } }
{ 'struct': 'Node', 'data': { '*next': 'Node', '*all': ['Node'] } }
{ 'command': 'go', 'data': { 'tree': 'Tree', 'node': 'Node' } }
"""


def test_types_that_hold_themselves_are_walked_to_an_end():
    schemas = [load_schema("s.json", read=lambda _: RECURSIVE) for _ in range(2)]
    assert find_element(schemas[0], parse_element("go tree")).type == "str or [Tree]"
    assert find_element(schemas[0], parse_element("go node.next.next.all.next")).optional
    timeline = Timeline([Snapshot(str(n), schema) for n, schema in enumerate(schemas)])
    assert {life.basis for life in timeline.all() if life.last_seen} == {"at-latest"}
