import nbformat
import pytest

from nbexport.errors import NotebookError
from nbexport.runner import Notebook, find_notebooks, parse_parameters


def write(path, *cells):
    made = []
    for kind, text, *tags in cells:
        make = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        made.append(make(text, metadata={"tags": tags} if tags else {}))
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


@pytest.fixture
def notebook(tmp_path):
    path = write(
        tmp_path / "01_story.ipynb",
        ("markdown", "# A title\n\nWhat it is\nabout.\n\nMore."),
        (
            "code",
            (
                "text: str = 'a'  # why\nnumber = 1\nflag = False\nshare = 0.5\n"
                "many = ['x']\nany = None"
            ),
            "parameters",
        ),
        ("code", "number + 1"),
    )
    return Notebook.load(path)


def test_a_notebook_tells_title_summary_and_parameters(notebook):
    assert (notebook.title, notebook.summary) == ("A title", "What it is about.")
    assert notebook.parameters == {
        "text": "a",
        "number": 1,
        "flag": False,
        "share": 0.5,
        "many": ["x"],
        "any": None,
    }


@pytest.mark.parametrize(
    ("name", "word", "value"),
    [
        ("text", "7", "7"),
        ("number", "7", 7),
        ("flag", "true", True),
        ("flag", "False", False),
        ("share", "2", 2.0),
        ("share", "2.5", 2.5),
        ("many", "b0,b1", ["b0", "b1"]),
        ("many", '["b,0"]', ["b,0"]),
        ("many", "", []),
        ("any", "word", "word"),
        ("any", "3", 3),
    ],
)
def test_words_become_values_of_the_defaults_type(notebook, name, word, value):
    parsed = parse_parameters(notebook, [(name, word)])
    assert parsed == {name: value}
    assert type(parsed[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("nubmer", "7", "unknown parameter 'nubmer'.*text, number"),
        ("number", "x", "'number' takes int, not 'x'"),
        ("number", "1.5", "takes int"),
        ("number", "true", "takes int"),
        ("flag", "1", "takes bool"),
        ("many", "[1", "takes list"),
    ],
)
def test_wrong_parameters_are_refused_by_name(notebook, name, word, message):
    with pytest.raises(NotebookError, match=message):
        parse_parameters(notebook, [(name, word)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "not a notebook"),
        ("[]", "not a notebook"),
        ('{"cells": [{"cell_type": "markdown", "source": "no title"}]}', "open with a title"),
    ],
)
def test_what_is_no_notebook_is_refused_with_its_path(tmp_path, content, message):
    path = tmp_path / "x.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(NotebookError, match=message) as caught:
        Notebook.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("source", ["import os", "a = b", "a = (", "print(1)", "a.b = 1"])
def test_a_parameters_cell_holds_assignments_of_literals(tmp_path, source):
    path = write(tmp_path / "x.ipynb", ("markdown", "# T"), ("code", source, "parameters"))
    with pytest.raises(NotebookError, match="parameters cell"):
        Notebook.load(path)


def test_notebooks_are_found_in_reading_order(tmp_path):
    for name in ("02_b", "01_a"):
        write(tmp_path / f"{name}.ipynb", ("markdown", f"# {name}"))
    assert [n.name for n in find_notebooks(tmp_path)] == ["01_a", "02_b"]
    with pytest.raises(NotebookError, match="no notebooks"):
        find_notebooks(tmp_path / "none")
