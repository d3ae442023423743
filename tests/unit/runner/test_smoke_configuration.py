"""The configuration that runs every notebook notices one that fails."""

import subprocess
import sys

import nbformat
import pytest


@pytest.mark.parametrize(("source", "outcome"), [("1 + 1", "1 passed"), ("1 / 0", "1 failed")])
def test_a_notebook_passes_if_and_only_if_it_runs(root, tmp_path, source, outcome):
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "x.ipynb")
    configuration = root / "tests" / "notebooks" / "pytest.ini"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", configuration, tmp_path / "x.ipynb"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert outcome in done.stdout


@pytest.mark.parametrize(("stored", "outcome"), [("2", "1 passed"), ("3", "1 failed")])
def test_a_golden_notebook_passes_if_and_only_if_its_outputs_are_the_stored_ones(
    root, tmp_path, stored, outcome
):
    result = nbformat.v4.new_output("execute_result", {"text/plain": stored}, execution_count=1)
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=1, outputs=[result])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "x.ipynb")
    configuration = root / "tests" / "notebooks" / "golden.ini"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", configuration, tmp_path / "x.ipynb"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert outcome in done.stdout


def test_there_are_golden_notebooks_with_outputs(root):
    found = sorted((root / "tests" / "notebooks" / "golden").glob("*.ipynb"))
    assert len(found) >= 2
    for path in found:
        cells = nbformat.read(path, as_version=4).cells
        assert any(cell.get("outputs") for cell in cells), path
