import json

import nbformat
import pytest
from click.testing import CliRunner

from nbexport.cli.main import cli

CELL = "from nbexport.runner import record\nrecord('twice', 2 * value)"


@pytest.fixture
def file(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# A value\n\nText."),
        nbformat.v4.new_code_cell("value = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CELL),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, tmp_path / "01_value.ipynb")
    path = tmp_path / "matrix.toml"
    path.write_text(
        "title = 'Values'\n[[group]]\nnotebooks = ['01_value']\nparameters.value = [1, 2]\n"
        "[[group]]\nnotebooks = ['01_value']\nrequires = ['no-such-program']\n"
        "parameters.value = [3]\n"
    )
    return path


def run(file, *words):
    return CliRunner().invoke(
        cli, ["matrix", str(file), "-o", str(file.parent / "out"), *words], catch_exceptions=False
    )


def test_the_runs_are_listed_without_running(file):
    assert run(file, "--list", "--only", "*=2]").output == "01_value[value=2]\n"
    assert not (file.parent / "out").exists()


def test_a_baseline_is_made_on_demand_and_then_guards(file, monkeypatch):
    monkeypatch.delenv("NBEXPORT_REQUIRE_PEERS", raising=False)
    made = run(file, "--update-baseline")
    assert made.exit_code == 0
    assert "2 passed, 1 not run: " in made.output
    assert "missing: 01_value[value=3]: no-such-program is not installed" in made.output
    baseline = file.with_name("baseline.json")
    runs = json.loads(baseline.read_text())["runs"]
    assert runs == {"01_value[value=1]": {"twice": 2}, "01_value[value=2]": {"twice": 4}}

    runs["01_value[value=2]"]["twice"] = 5
    runs["01_value[value=7]"] = {}
    baseline.write_text(json.dumps({"runs": runs}))
    changed = run(file, "--resume")
    assert changed.exit_code == 1
    assert "differs: 01_value[value=2]: twice: 4, was 5" in changed.output
    assert "only in the baseline: 01_value[value=7]" in changed.output
    assert "1 passed, 1 differs, 1 not run: " in changed.output
    assert "twice" in (file.parent / "out" / "index.html").read_text()

    # a part of the matrix is compared with its part of the baseline
    assert run(file, "--resume", "--only", "*=1]").exit_code == 0
    assert run(file, "--only", "*=3]").exit_code == 0
    monkeypatch.setenv("NBEXPORT_REQUIRE_PEERS", "1")
    assert run(file, "--only", "*=3]").exit_code == 1


def test_wrong_usage(file):
    missing = run(file, "--baseline", str(file.parent / "none.json"))
    assert missing.exit_code == 2
    assert "there is no baseline" in missing.output
