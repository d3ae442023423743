"""Nothing that introspection shows is missed, and nothing is made up.

Both are asked for their differences independently: the review of the schemas, and a plain
comparison of what ``query-qmp-schema`` would answer.
"""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from introspection_diff import visible
from unit.qapi.schema_texts import schema_texts

from nbexport.qapi import QapiError, introspect, known_releases, load_schema
from nbexport.qapi.from_introspection import from_introspection
from nbexport.qapi.model import ALWAYS
from nbexport.resources import data_path
from nbexport.review.compare import Kind
from nbexport.review.facts import differences

_WIDTH = re.compile(r"\bu?int(?:8|16|32|64)\b|\bsize\b")
_HIDDEN = (Kind.CONDITION_CHANGED, Kind.CONDITION_NARROWED, Kind.CONDITION_WIDENED)


def told(old, new):
    """What the review tells, as far as introspection shows it."""
    found = set()
    for item in differences(old, new):
        flag = item.kind in (Kind.FLAG_ADDED, Kind.FLAG_REMOVED)
        if item.kind in _HIDDEN or (flag and item.name != "out-of-band"):
            continue
        if item.was and _WIDTH.sub("int", item.was) == _WIDTH.sub("int", item.now):
            continue
        found |= {(root, str(item.direction), str(item.kind), item.name) for root in item.roots}
    return found


def release(name):
    root = str(data_path("interface", name, "schema.json"))
    everything = load_schema(root).all_symbols
    return load_schema(root, symbols=everything | {"OTHER"})


@pytest.fixture(scope="module")
def schemas():
    return {name: release(name) for name in known_releases()}


def test_releases_one_after_the_other(schemas):
    for before, after in pairwise(schemas):
        old, new = schemas[before], schemas[after]
        assert told(old, new) == visible(introspect(old), introspect(new)), (before, after)


@pytest.mark.parametrize(
    ("before", "after"), [("2.5", "11.0"), ("5.1", "7.2"), ("10.0", "4.0"), ("2.12", "6.0")]
)
def test_releases_far_apart(schemas, before, after):
    old, new = schemas[before], schemas[after]
    found = told(old, new)
    assert len(found) > 50
    assert found == visible(introspect(old), introspect(new))


def test_what_comes_from_introspection_differs_in_the_same(schemas):
    old, new = schemas["5.1"], schemas["5.2"]
    lists = introspect(old), introspect(new)
    read = [from_introspection(entries) for entries in lists]
    assert told(*read) == visible(*lists)


def parsed(text, symbols):
    read = {"schema.json": text}.__getitem__
    schema = load_schema("schema.json", read=read, symbols={*symbols, "OTHER"})
    for kind in schema.types():
        # a member whose type is not compiled in makes no introspection
        kind.condition = ALWAYS
    return schema


SYMBOLS = st.sets(st.sampled_from(["CONFIG_A", "CONFIG_B", "HOST_C"]))
SLOW = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(schema_texts(), schema_texts(), SYMBOLS)
def test_any_two_schemas(first, second, symbols):
    old, new = parsed(first, symbols), parsed(second, symbols)
    assert told(old, new) == visible(introspect(old), introspect(new))


EDITS = (
    (r"'\*(?=(?:m|arg|base)\d?-)", "'"),
    (r"'(?=(?:m|arg|base)\d?-\d':)", "'*"),
    (r"'str'", "'int'"),
    (r"'bool'", "['bool']"),
    (r"'deprecated'", "'unstable'"),
    (r"\['Kind'\]", "'Kind'"),
    (r"'Either'", "'Union'"),
)


@SLOW
@given(schema_texts(), SYMBOLS, st.data())
def test_a_schema_that_is_edited(text, symbols, data):
    pattern, instead = data.draw(st.sampled_from(EDITS))
    places = list(re.finditer(pattern, text))
    assume(places)
    chosen = data.draw(st.sampled_from(places))
    edited = text[: chosen.start()] + instead + text[chosen.end() :]
    try:
        old, new = parsed(text, symbols), parsed(edited, symbols)
    except QapiError:
        # the edit breaks a rule of the language
        reject()
    assert told(old, new) == visible(introspect(old), introspect(new))


@SLOW
@given(schema_texts())
def test_names_of_types_are_not_on_the_wire(text):
    renamed = re.sub(r"\b(Ss\d|Kind|Union|Either)\b", r"My\1", text)
    old, new = parsed(text, ()), parsed(renamed, ())
    assert differences(old, new) == []


MIRROR = {
    "added": "removed",
    "removed": "added",
    "widened": "narrowed",
    "narrowed": "widened",
    "required": "optional",
    "optional": "required",
    "changed": "changed",
}


@SLOW
@given(schema_texts(), schema_texts())
def test_the_way_back_is_the_mirror(first, second):
    old, new = (
        load_schema("schema.json", read={"schema.json": text}.__getitem__)
        for text in (first, second)
    )
    there = {(d.kind, d.direction, d.element) for d in differences(old, new)}
    back = {(d.kind, d.direction, d.element) for d in differences(new, old)}
    assert {name for _, _, name in there} == {name for _, _, name in back}
    for kind, direction, element in there:
        stem, _, end = kind.rpartition("-")
        assert (Kind(f"{stem}-{MIRROR[end]}"), direction, element) in back
