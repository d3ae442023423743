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
