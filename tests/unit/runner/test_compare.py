import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.errors import FormatError
from nbexport.runner.compare import compare, read_baseline, write_baseline

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)
RESULTS = st.dictionaries(st.text(min_size=1, max_size=3), VALUES, max_size=3)


def told(*arguments, **more):
    return [str(each) for each in compare("run", *arguments, **more)]


@given(RESULTS)
def test_what_went_through_a_file_is_the_same(results):
    kept = read_baseline(write_baseline({"run": results}), "baseline.json")["run"]
    assert compare("run", results, kept) == []


@given(RESULTS, RESULTS)
def test_different_results_differ(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    if same:
        assert not compare("run", one, other)
    elif one != other:
        assert compare("run", one, other)


def test_the_place_and_both_values_are_told():
    old = {"extents": [{"dirty": True}, {"dirty": False}], "count": 3, "name": "x"}
    new = {"extents": [{"dirty": True}, {"dirty": True}, {"dirty": None}], "count": 3, "more": []}
    assert told(new, old) == [
        "extents[1].dirty: true, was false",
        "extents[2].dirty: null, not in the baseline",
        'name: missing, was "x"',
        "more: [], not in the baseline",
    ]


def test_true_is_not_one_and_nothing_is_not_a_part():
    assert told({"a": True}, {"a": 1}) == ["a: true, was 1"]
    assert told({"a": {"b": 1}}, {"a": {}}) == [
        "a: missing, was {}",
        "a.b: 1, not in the baseline",
    ]


def test_patterns_choose_what_may_differ():
    old, new = {"ratio": 2.0, "kept": 1}, {"ratio": 2.1, "kept": 2}
    assert told(new, old, ignore=["run.*"]) == []
    assert told(new, old, ignore=["*.ratio"]) == ["kept: 2, was 1"]
    assert told(new, old, tolerance={"run.ratio": 0.1}) == ["kept: 2, was 1"]
    assert told(new, old, tolerance={"run.ratio": 0.01}) == [
        "ratio: 2.1, was 2.0",
        "kept: 2, was 1",
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runs": []}', '{"runs": {"a": 1}}'])
def test_what_is_no_baseline_is_refused(text):
    with pytest.raises(FormatError, match=r"b.json: it is no baseline"):
        read_baseline(text, "b.json")
