import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.bits import Bitmap
from nbexport.emulator.graph import BlockExport, DirtyBitmap, Graph, Node, is_well_formed
from nbexport.errors import CommandError


def add(graph, name, *, file=None, backing=None, owned=False):
    node = Node(name, SimpleNamespace(), {}, read_only=True, monitor_owned=owned)
    node.file, node.backing = file, backing
    graph.nodes[name] = node
    return node


@given(st.text(max_size=5))
def test_a_well_formed_id_is_a_letter_then_letters_digits_and_three_signs(text):
    ascii_letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    expected = (
        bool(text)
        and text[0] in ascii_letters
        and all(c in ascii_letters + "0123456789-._" for c in text)
    )
    assert is_well_formed(text) is expected


def test_generated_names_are_unique_and_impossible_to_give():
    graph = Graph()
    names = [graph.generate_name() for _ in range(300)]
    assert len(set(names)) == 300
    assert all(re.fullmatch(r"#block\d{3,}", name) for name in names)
    assert not any(is_well_formed(name) for name in names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "Invalid node-name: ''"),
        ("1x", "Invalid node-name: '1x'"),
        ("n0", "Duplicate nodes with node-name='n0'"),
        ("n" * 32, "Node name too long"),
    ],
)
def test_names_that_a_node_may_not_have(name, message):
    graph = Graph()
    add(graph, "n0")
    with pytest.raises(CommandError) as caught:
        graph.check_name(name)
    assert caught.value.desc == message
    graph.check_name("n" * 31)


def test_removing_a_node_takes_the_children_that_nothing_else_holds():
    graph = Graph()
    base = add(graph, "base")
    shared = add(graph, "shared")
    kept = add(graph, "kept", owned=True)
    middle = add(graph, "middle", file=shared, backing=base)
    add(graph, "other", file=shared)
    top = add(graph, "top", file=kept, backing=middle)
    assert [node.name for node in graph.remove(top)] == ["top", "middle", "base"]
    assert list(graph.nodes) == ["shared", "kept", "other"]


def test_an_exported_child_stays():
    graph = Graph()
    child = add(graph, "child")
    top = add(graph, "top", file=child)
    graph.exports["e"] = BlockExport("e", "nbd", child, "e", [])
    assert [node.name for node in graph.remove(top)] == ["top"]


def test_a_diamond_is_removed_once():
    graph = Graph()
    base = add(graph, "base")
    left, right = add(graph, "left", file=base), add(graph, "right", file=base)
    top = add(graph, "top", file=left, backing=right)
    assert {node.name for node in graph.remove(top)} == {"top", "left", "right", "base"}
    assert graph.nodes == {}


IN_USE = "Bitmap 'b' is currently in use by another operation and cannot be used"
READONLY = "Bitmap 'b' is readonly and cannot be modified"
INCONSISTENT = "Bitmap 'b' is inconsistent and cannot be used"


@pytest.mark.parametrize(
    ("state", "allow", "message"),
    [
        ({}, {}, None),
        ({"busy": True, "readonly": True, "inconsistent": True}, {}, IN_USE),
        ({"readonly": True, "inconsistent": True}, {}, READONLY),
        ({"readonly": True, "inconsistent": True}, {"allow_readonly": True}, INCONSISTENT),
        ({"inconsistent": True}, {"allow_inconsistent": True}, None),
        ({"readonly": True}, {"allow_readonly": True}, None),
    ],
)
def test_a_bitmaps_state_is_checked_in_order(state, allow, message):
    bitmap = DirtyBitmap("b", Bitmap(1024, 512), **state)
    if message is None:
        bitmap.check(**allow)
        return
    with pytest.raises(CommandError) as caught:
        bitmap.check(**allow)
    assert caught.value.desc == message
