import json

import nbformat
import pytest

from nbexport.errors import NotebookError
from nbexport.runner import Notebook, build_site, run_notebook

# papermill and its kernel client leave sockets and loops to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore")

CELL = nbformat.v4.new_code_cell
FIGURE = """
from nbexport.bits import Extents
from nbexport.plots import draw_maps, show
show(draw_maps({"qemu:dirty-bitmap:b": Extents.from_lengths([4096, 4096], [0, flags])}))
"""


def story(folder, name, *sources):
    cells = [
        nbformat.v4.new_markdown_cell(f"# Title of {name}\n\nA `summary` <of> it."),
        CELL("flags = 1", metadata={"tags": ["parameters"]}),
        *(CELL(source) for source in sources),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, folder / f"{name}.ipynb")
    return Notebook.load(folder / f"{name}.ipynb")


def test_a_run_keeps_the_executed_copy_and_tells_what_it_used(tmp_path):
    notebook = story(tmp_path, "01_good", "flags * 100")
    before = notebook.path.read_bytes()
    run = run_notebook(notebook, tmp_path / "out" / "01_good.ipynb", parameters={"flags": 3})
    outputs = [
        o for cell in json.loads(run.output.read_text())["cells"] for o in cell.get("outputs", [])
    ]
    assert [o["data"]["text/plain"] for o in outputs] == [["300"]]
    assert run.parameters == {"flags": 3}
    assert run.seconds > 0
    assert notebook.path.read_bytes() == before
    kept = sorted(p.name for p in run.output.parent.iterdir())
    assert kept == ["01_good.ipynb", "01_good.results.json"]


def test_a_relative_path_is_seen_from_where_the_run_was_started(tmp_path, monkeypatch):
    (tmp_path / "books").mkdir()
    (tmp_path / "here.txt").write_text("found")
    monkeypatch.chdir(tmp_path)
    notebook = story(tmp_path / "books", "01_good", "assert open(flags).read() == 'found'")
    run_notebook(notebook, tmp_path / "out.ipynb", parameters={"flags": "here.txt"})


def test_a_failing_cell_is_named_and_leaves_no_result(tmp_path):
    notebook = story(tmp_path, "02_bad", "1 / 0")
    output = tmp_path / "out" / "02_bad.ipynb"
    with pytest.raises(NotebookError, match=r"02_bad.ipynb, cell 2: ZeroDivisionError: division"):
        run_notebook(notebook, output)
    assert sorted(p.name for p in output.parent.iterdir()) == ["02_bad.failed.ipynb"]


def test_an_unknown_parameter_starts_nothing(tmp_path):
    notebook = story(tmp_path, "01_good", "flags")
    with pytest.raises(NotebookError, match="unknown parameter 'flasg'"):
        run_notebook(notebook, tmp_path / "out" / "x.ipynb", parameters={"flasg": 1})
    assert not (tmp_path / "out").exists()


def test_the_site_lists_pages_with_figures_and_survives_a_failure(tmp_path):
    good = story(tmp_path, "01_good", FIGURE)
    index = build_site([good], tmp_path / "build")
    text = index.read_text()
    assert "Title of 01_good" in text
    assert "A <code>summary</code>" in text
    assert 'src="01_good-1.png" alt="Metadata contexts' in text
    assert (index.parent / "01_good-1.png").read_bytes().startswith(b"\x89PNG")
    page = (index.parent / "01_good.html").read_text()
    assert 'alt="Metadata contexts, offsets 0 B to 8 KiB.' in page
    assert "http://" not in page
    with pytest.raises(NotebookError):
        build_site([story(tmp_path, "02_bad", "1 / 0")], tmp_path / "build")
    assert index.read_text() == text
    assert not (tmp_path / "build" / "site.new").exists()
