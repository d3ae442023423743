"""The same matrix here and on a Dask cluster of two workers, one of which is killed."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time

import nbformat
import pytest

pytestmark = pytest.mark.interop

TIME_LIMIT = 60
CELL = """
import time
from nbexport.runner import record
time.sleep(seconds)
record("square", number ** 2)
"""
RUNS = 5


@pytest.fixture
def file(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# Squares\n\nText."),
        nbformat.v4.new_code_cell("number = 1\nseconds = 0.1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CELL),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, tmp_path / "01_squares.ipynb")
    path = tmp_path / "matrix.toml"
    numbers = list(range(RUNS))
    path.write_text(f"[[group]]\nnotebooks = ['01_squares']\nparameters.number = {numbers}\n")
    return path


@contextlib.contextmanager
def process(folder, name, *words):
    """Run one of Dask's programs; give the process and the file with what it says."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield started, log
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait(20)


def wait_for(log, pattern):
    deadline = time.monotonic() + TIME_LIMIT
    while time.monotonic() < deadline:
        found = re.search(pattern, log.read_text(errors="replace"))
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{log.name} did not say {pattern}: {log.read_text(errors='replace')}")


@contextlib.contextmanager
def cluster(folder):
    """Run a scheduler and two workers on loopback; give its address and the workers."""
    words = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with contextlib.ExitStack() as stack:
        _, log = stack.enter_context(process(folder, "scheduler", *words, "--no-dashboard"))
        address = wait_for(log, r"Scheduler at: +(tcp://127\.0\.0\.1:\d+)")[1]
        words = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
        words += ["--host", "127.0.0.1", "--no-dashboard"]
        workers = []
        for number in range(2):
            worker, log = stack.enter_context(process(folder, f"worker{number}", *words))
            workers.append((worker, log))
        for _, log in workers:
            wait_for(log, r"Registered to: ")
        yield address, [worker for worker, _ in workers]


def command(file, folder, *words):
    return [sys.executable, "-m", "nbexport", "matrix", str(file), "-o", str(folder), *words]


def outcomes(folder):
    """Return what the runs left, without what differs by nature."""
    found = {}
    for path in sorted(folder.glob("runs/*/outcome.json")):
        told = json.loads(path.read_text())
        found[told["id"]] = {key: told[key] for key in ("status", "results", "parameters")}
    return found


def grid(folder):
    text = (folder / "index.html").read_text()
    return re.sub(r"\d+(\.\d+)? s", "N s", text)


def test_a_cluster_gives_the_same_report_even_if_a_worker_is_killed(file, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    with cluster(tmp_path) as (address, workers):
        done = subprocess.Popen(
            command(file, there, "--scheduler", address),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + TIME_LIMIT
            while not list(there.glob("runs/*/outcome.json")) and time.monotonic() < deadline:
                time.sleep(0.05)
            left = RUNS - len(list(there.glob("runs/*/outcome.json")))
            workers[0].kill()
            output, errors = done.communicate(timeout=2 * TIME_LIMIT)
        finally:
            done.kill()
            done.wait()
        assert left > 1, "the worker was killed too late to matter"
        assert done.returncode == 0, errors
        assert output == f"{RUNS} passed: {there}/index.html\n"
        assert workers[1].poll() is None
    local = subprocess.run(
        command(file, here), capture_output=True, text=True, timeout=2 * TIME_LIMIT, check=False
    )
    assert local.stdout == f"{RUNS} passed: {here}/index.html\n", local.stderr
    assert outcomes(there) == outcomes(here)
    assert grid(there) == grid(here)


def test_no_scheduler_is_an_error_in_one_line(file, tmp_path):
    words = command(file, tmp_path / "out", "--scheduler", "tcp://127.0.0.1:1")
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    assert done.returncode == 1
    assert "nbexport: no scheduler at tcp://127.0.0.1:1: " in done.stderr
