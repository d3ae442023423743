"""The orders of QEMU's dictionaries, against values seen from real programs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nbexport.qapi.order import GlibNames, qdict_bucket, qdict_order, to_modified_utf8

NAMES = st.lists(st.text(max_size=8), unique=True, max_size=80)


def test_objects_that_real_monitors_print():
    version = dict.fromkeys(("major", "minor", "micro"))
    assert qdict_order(version) == ["micro", "minor", "major"]
    assert qdict_order({"class": 1, "desc": 2}) == ["class", "desc"]
    assert qdict_order({"return": 1, "id": 2}) == ["return", "id"]
    assert qdict_order({"error": 1, "id": 2}) == ["id", "error"]
    export = dict.fromkeys(("id", "type", "node-name", "shutting-down"))
    assert qdict_order(export) == ["node-name", "shutting-down", "type", "id"]
    bitmap = dict.fromkeys(("name", "count", "granularity", "recording", "busy", "persistent"))
    assert qdict_order(bitmap) == [
        "name",
        "recording",
        "persistent",
        "busy",
        "granularity",
        "count",
    ]


def test_of_one_bucket_the_newest_comes_first():
    assert qdict_bucket("minor") == qdict_bucket("micro")
    assert qdict_order({"micro": 1, "minor": 2}) == ["minor", "micro"]
    assert qdict_order({"minor": 1, "micro": 2}) == ["micro", "minor"]


@given(NAMES)
def test_every_name_once_in_ascending_buckets(names):
    ordered = qdict_order(dict.fromkeys(names))
    assert sorted(ordered) == sorted(names)
    buckets = [qdict_bucket(name) for name in ordered]
    assert buckets == sorted(buckets)
    assert all(0 <= bucket < 512 for bucket in buckets)


def test_modified_utf8():
    assert to_modified_utf8("a\0\u00e9") == b"a\xc0\x80\xc3\xa9"
    assert to_modified_utf8(b"\xff".decode("utf-8", "surrogateescape")) == b"\xff"
    assert to_modified_utf8("\ud800") == b"\xed\xa0\x80"


@given(NAMES, st.randoms(use_true_random=False))
def test_glib_names_is_a_set(names, choose):
    table = GlibNames(names)
    left = set(names)
    order = list(names)
    choose.shuffle(order)
    assert len(table) == len(left)
    for name in order:
        assert table.first() in left
        table.discard(name)
        table.discard(name)
        left.discard(name)
        assert len(table) == len(left)


def test_glib_names_takes_a_name_once():
    table = GlibNames(["a", "a"])
    assert len(table) == 1
    table.discard("a")
    table.add("a")
    assert table.first() == "a"
