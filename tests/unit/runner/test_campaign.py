import json
import subprocess
import time
import xml.etree.ElementTree as ET
from concurrent.futures import Executor, Future
from pathlib import Path

import nbformat
import pytest

from nbexport.errors import UsageError
from nbexport.runner import campaign
from nbexport.runner.campaign import Outputs, local_executor, new_baseline, run_matrix, select
from nbexport.runner.execute import FAILED, MISSING, PASSED, LostRunError, Outcome, execute
from nbexport.runner.matrix import Matrix
from nbexport.runner.matrix_report import junit, page, tally

CELL = """
import os, time
from nbexport.runner import record
record("doubled", 2 * value)
record("seconds", time.time(), measured=True)
if value == 13:
    raise ValueError("unlucky")
if value == 99:
    print(os.getpid(), flush=True)
    open(note, "w").write(str(os.getpid()))
    time.sleep(60)
"""


@pytest.fixture
def make(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# A value\n\nText."),
        nbformat.v4.new_code_cell("value = 1\nnote = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CELL),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, tmp_path / "01_value.ipynb")

    def matrix(values, more=""):
        text = f"[[group]]\nnotebooks = ['01_value']\n{more}\nparameters.value = {values}\n"
        (tmp_path / "matrix.toml").write_text(text)
        return Matrix.load(tmp_path / "matrix.toml")

    return matrix


class Played(Executor):
    """Answers with what it was given, and keeps the orders."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.orders = []

    def submit(self, function, order):
        assert function is execute
        self.orders.append(order.id)
        future = Future()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(Outcome(order.id, PASSED, results=answer, notebook="{}", log="text"))
        return future


def statuses(verdicts):
    return [verdict.status for verdict in verdicts]


def test_real_runs_pass_fail_and_are_kept(make, tmp_path):
    matrix = make([1, 13])
    out = tmp_path / "out"
    with local_executor(2) as pool:
        good, bad = run_matrix(matrix, Outputs(str(out)), pool)
    assert (good.status, good.outcome.results) == (PASSED, {"doubled": 2})
    assert list(good.outcome.measured) == ["seconds"]
    assert bad.status == FAILED
    assert "01_value.ipynb, cell 3: ValueError: unlucky" in bad.outcome.reason
    for verdict in (good, bad):
        folder = out / "runs" / verdict.run.folder
        assert {path.name for path in folder.iterdir()} == {
            "01_value.ipynb",
            "log.txt",
            "outcome.json",
        }
    copy = json.loads((out / "runs" / bad.run.folder / "01_value.ipynb").read_text())
    assert "unlucky" in json.dumps(copy)


def test_a_run_that_takes_too_long_is_ended_with_its_kernel(make, tmp_path):
    note = tmp_path / "pid"
    matrix = make([99], f"time-limit = 6\nparameters.note = ['{note}']")
    began = time.monotonic()
    with local_executor(1) as pool:
        (late,) = run_matrix(matrix, Outputs(str(tmp_path / "out")), pool)
    assert late.status == FAILED
    assert late.outcome.reason == "it took longer than 6 s"
    assert time.monotonic() - began < 40
    kernel = Path("/proc", note.read_text())
    deadline = time.monotonic() + 10
    while kernel.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not kernel.exists()


def test_a_missing_program_is_named_and_nothing_started(make, tmp_path):
    matrix = make([1], "requires = ['no-such-program']")
    with local_executor(1) as pool:
        verdicts = run_matrix(matrix, Outputs(str(tmp_path / "out")), pool, baseline={})
    assert statuses(verdicts) == [MISSING]
    assert verdicts[0].outcome.reason == "no-such-program is not installed"


def test_a_lost_run_is_taken_up_again_but_not_for_ever(make, tmp_path):
    matrix = make([1, 2])
    pool = Played(LostRunError("gone"), {"doubled": 4}, {"doubled": 2})
    verdicts = run_matrix(matrix, Outputs(str(tmp_path / "out")), pool)
    assert statuses(verdicts) == [PASSED, PASSED]
    assert [verdict.outcome.results for verdict in verdicts] == [{"doubled": 2}, {"doubled": 4}]
    pool = Played(*[LostRunError("gone")] * campaign.ATTEMPTS)
    (lost,) = run_matrix(make([1]), Outputs(str(tmp_path / "out")), pool)
    assert lost.status == FAILED
    assert lost.outcome.reason == "lost 3 times: gone"


def test_a_process_that_is_killed_is_a_lost_run(make, monkeypatch):
    start = subprocess.Popen

    def killed(*arguments, **more):
        process = start(*arguments, **more)
        process.kill()
        return process

    (run,) = make([1]).runs
    monkeypatch.setattr("nbexport.runner.execute.subprocess.Popen", killed)
    with pytest.raises(LostRunError, match=r"01_value\[value=1\]: ended by SIGKILL"):
        execute(campaign._order(run, run.notebook.text()))


def test_resuming_repeats_only_what_did_not_pass(make, tmp_path):
    matrix = make([1, 2, 3])
    outputs = Outputs(str(tmp_path / "out"))
    run_matrix(matrix, outputs, Played({"a": 1}, ValueError("no"), {"a": 3}))
    pool = Played({"a": 2})
    verdicts = run_matrix(matrix, outputs, pool, resume=True)
    assert pool.orders == ["01_value[value=2]"]
    assert statuses(verdicts) == [PASSED] * 3
    assert [verdict.kept for verdict in verdicts] == [True, False, True]
    assert [verdict.outcome.results for verdict in verdicts] == [{"a": 1}, {"a": 2}, {"a": 3}]
    # another notebook of the same name is another run
    path = matrix.runs[0].notebook.path
    path.write_text(path.read_text().replace("A value", "Another"))
    pool = Played({"a": 1}, {"a": 2}, {"a": 3})
    assert not any(each.kept for each in run_matrix(matrix, outputs, pool, resume=True))


def test_results_are_compared_with_the_baseline(make, tmp_path):
    matrix = make([1, 2, 3])
    baseline = {"01_value[value=1]": {"a": 1}, "01_value[value=2]": {"a": 1}}
    pool = Played({"a": 1}, {"a": 2}, {})
    verdicts = run_matrix(matrix, Outputs(str(tmp_path / "out")), pool, baseline=baseline)
    assert statuses(verdicts) == [PASSED, "differs", "differs"]
    assert [str(each) for each in verdicts[1].differences] == ["a: 2, was 1"]
    assert [str(each) for each in verdicts[2].differences] == [
        "the run: passed, not in the baseline"
    ]
    assert tally(verdicts) == "1 passed, 2 differs"
    assert new_baseline(verdicts, {"old": {}}) == {
        "01_value[value=1]": {"a": 1},
        "01_value[value=2]": {"a": 2},
        "01_value[value=3]": {},
    }


def test_a_failed_run_keeps_its_place_in_the_baseline(make, tmp_path):
    pool = Played(ValueError("no"))
    verdicts = run_matrix(make([1]), Outputs(str(tmp_path / "out")), pool)
    old = {"01_value[value=1]": {"a": 1}}
    assert new_baseline(verdicts, old) == old


def test_the_report_has_every_run_and_what_is_wrong_with_it(make, tmp_path):
    matrix = make([1, 2, 3])
    pool = Played({"a": 1}, {"a": "<b>"}, ValueError("broken \x1b[31m"))
    baseline = {run.id: {"a": 1} for run in matrix.runs}
    verdicts = run_matrix(matrix, Outputs(str(tmp_path / "out")), pool, baseline=baseline)
    text = page("Title", verdicts, gone=["99_gone"])
    assert "1 passed, 1 differs, 1 failed" in text
    assert "&#34;&lt;b&gt;&#34;" in text
    assert "99_gone" in text
    assert text.count('class="run passed" href="runs/') == 1
    suite = ET.fromstring(junit("Title", verdicts)).find("testsuite")
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "3", "failures": "1", "errors": "1", "skipped": "0"}
    assert suite[1].find("failure").text == 'a: "<b>", was 1'


def test_runs_are_selected_by_pattern(make):
    matrix = make([1, 12, 2])
    assert [run.id for run in select(matrix, ["*[value=1*]"]).runs] == [
        "01_value[value=1]",
        "01_value[value=12]",
    ]
    with pytest.raises(UsageError, match="no run matches 02"):
        select(matrix, ["02*"])
