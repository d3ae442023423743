"""The project's own matrix and its baseline fit each other."""

import pytest

from nbexport.resources import notebooks_path
from nbexport.runner import find_notebooks
from nbexport.runner.compare import read_baseline
from nbexport.runner.matrix import Matrix


@pytest.fixture(scope="module")
def matrix():
    return Matrix.load(notebooks_path() / "matrix.toml")


def test_it_has_runs_enough_and_every_notebook(matrix):
    assert len(matrix.runs) >= 40
    assert {run.notebook.name for run in matrix.runs} == {
        notebook.name for notebook in find_notebooks(notebooks_path())
    }


def test_the_baseline_knows_each_run_and_no_other(matrix):
    path = notebooks_path() / "baseline.json"
    baseline = read_baseline(path.read_text(), str(path))
    assert set(baseline) == {run.id for run in matrix.runs}
    assert all(baseline.values()), "a run that records nothing shows nothing"


def test_what_needs_qemu_says_so(matrix):
    for run in matrix.runs:
        target = run.parameters.get("target", "emulated")
        needs = target != "emulated" or run.notebook.name == "09_conformance"
        assert bool(run.requires) == needs, run.id


def test_several_releases_and_targets_are_tried(matrix):
    releases = {run.parameters.get("release") for run in matrix.runs}
    assert {"4.0", "5.1", "5.2", "6.0", "7.1", "11.0"} <= releases
    targets = {run.parameters.get("target") for run in matrix.runs}
    assert {"emulated", "qemu-storage-daemon", "qemu-system"} <= targets
