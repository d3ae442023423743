"""Records: what may be one, how it travels, and what the runner makes of it."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.errors import NotebookError, UsageError
from nbexport.runner import Notebook, record, run_notebook
from nbexport.runner.record import MIME, VALUE_MAX, collect, plain

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_what_json_can_tell_stays_as_it_is(value):
    told = plain(value, "it")
    assert told == value
    assert json.loads(json.dumps(told, allow_nan=False)) == value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]], dtype=np.uint32), [[1, 2], [3, 4]]),
        ({"a": (np.uint8(1), None)}, {"a": [1, None]}),
        (Path("a/b"), "a/b"),
    ],
)
def test_values_of_numpy_and_python_become_those_of_json(value, told):
    converted = plain(value, "it")
    assert converted == told
    json.dumps(converted)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "record 'x' is nan"),
        (np.array([1.0, np.inf]), r"record 'x'\[1\] is inf"),
        ({"a": [0, {"b": b"bytes"}]}, r"record 'x'\['a'\]\[1\]\['b'\] is a value of type bytes"),
        ({1: 2}, "record 'x' has the key 1"),
        ({"s": {1, 2}}, r"record 'x'\['s'\] is a value of type set"),
        (np.array([1 + 2j]), "type complex"),
        ("x" * VALUE_MAX, "characters of JSON"),
    ],
)
def test_what_json_cannot_tell_is_refused_with_its_place(value, message):
    with pytest.raises(UsageError, match=message):
        record("x", value)


@pytest.mark.parametrize("name", ["", "Upper", "a b", "1st", "a-b", "x" * 65, None])
def test_a_name_is_one_word(name):
    with pytest.raises(UsageError, match="cannot name a record"):
        record(name, 1)


def output(name, data, **ours):
    return {"data": {MIME: {"name": name, "data": data}}, "metadata": {"nbexport": ours}}


def test_records_are_gathered_in_order_and_by_kind():
    cells = [
        {"cell_type": "markdown"},
        {"cell_type": "code", "outputs": [output("b", 1), output("t", 0.5, measured=True)]},
        {"cell_type": "code", "outputs": [{"data": {"text/plain": "1"}}, output("a", [2])]},
    ]
    found = collect(cells, "n")
    assert list(found.results.items()) == [("b", 1), ("a", [2])]
    assert found.measured == {"t": 0.5}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([output("a", 1), output("a", 1)], "n: 'a' is recorded twice, in cells 1 and 2"),
        ([{"data": {MIME: []}}], "n, cell 1: a record without name or data"),
    ],
)
def test_what_is_no_set_of_records_is_refused(outputs, message):
    cells = [{"cell_type": "code", "outputs": [one]} for one in outputs]
    with pytest.raises(NotebookError, match=message):
        collect(cells, "n")


def story(path, *sources):
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\nSummary."),
        nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]}),
        *(nbformat.v4.new_code_cell(source) for source in sources),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return Notebook.load(path)


@pytest.mark.filterwarnings("ignore")  # papermill's client leaves sockets to the collector
def test_a_run_writes_its_results_beside_the_executed_copy(tmp_path):
    notebook = story(
        tmp_path / "01_a.ipynb",
        "import numpy as np\nfrom nbexport.runner import record\n"
        "record('sum', np.arange(n + 3).sum())\nrecord('took', 0.25, measured=True)",
    )
    run = run_notebook(notebook, tmp_path / "out" / "01_a.ipynb", parameters={"n": 2})
    told = json.loads(run.results.read_text())
    assert run.results == tmp_path / "out" / "01_a.results.json"
    assert told["notebook"] == "01_a"
    assert told["parameters"] == {"n": 2}
    assert told["results"] == {"sum": 10} == run.records.results
    assert told["measured"] == {"took": 0.25}
    executed = json.loads(run.output.read_text())
    scrap = executed["cells"][-1]["outputs"][0]
    # what scrapbook's reader looks at
    assert scrap["data"][MIME] == {"name": "sum", "data": 10, "encoder": "json", "version": 1}
    assert scrap["metadata"]["scrapbook"]["name"] == "sum"
    assert scrap["data"]["text/plain"] == ["recorded sum = 10"]
