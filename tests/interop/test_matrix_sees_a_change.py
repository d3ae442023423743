"""A reply of the emulator that changes turns those runs of a matrix red that show it, and no other.

The change is made from outside: a module that Python loads at its start gives the error another
text, in every process below the matrix.
"""

from __future__ import annotations

import os
import subprocess
import sys

import nbformat
import pytest

pytestmark = pytest.mark.interop

TIME_LIMIT = 100
CELL = """
from nbexport.emulator import launch, play, told
from nbexport.runner import record
script = {
    "stop": {"stop the server": ("nbd-server-stop", {})},
    "delete": {"delete a node": ("blockdev-del", {"node-name": "none"})},
}
with launch("emulated", "7.2") as machine:
    record("answers", told(play(machine, script[chosen])))
"""
CHANGE = """
from nbexport import errors
begin = errors.CommandError.__init__
def changed(self, desc, **more):
    begin(self, desc.replace("NBD server not running", "The NBD server does not run"), **more)
errors.CommandError.__init__ = changed
"""


def test_only_the_runs_that_show_it_are_red(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# Replies\n\nText."),
        nbformat.v4.new_code_cell("chosen = 'stop'", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CELL),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, tmp_path / "01_replies.ipynb")
    group = "[[group]]\nnotebooks = ['01_replies']\nparameters.chosen = ['stop', 'delete']\n"
    (tmp_path / "matrix.toml").write_text(group)
    (tmp_path / "change").mkdir()
    (tmp_path / "change" / "sitecustomize.py").write_text(CHANGE)

    def matrix(*words, **environment):
        return subprocess.run(
            [sys.executable, "-m", "nbexport", "matrix", tmp_path / "matrix.toml", "-o",
             tmp_path / "out", *words],
            env={**os.environ, **environment},
            capture_output=True, text=True, timeout=TIME_LIMIT, check=False,
        )  # fmt: skip

    made = matrix("--update-baseline")
    assert made.returncode == 0, made.stderr
    changed = matrix(PYTHONPATH=str(tmp_path / "change"))
    assert changed.returncode == 1
    assert changed.stdout.startswith("1 passed, 1 differs: ")
    told = [line for line in changed.stderr.splitlines() if line.startswith("differs: ")]
    (line,) = told
    assert line == (
        "differs: 01_replies[chosen=stop]: answers.stop the server.reply.error.desc: "
        '"The NBD server does not run", was "NBD server not running"'
    )
