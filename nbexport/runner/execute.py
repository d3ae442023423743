"""Executes one run of a matrix, here or on a worker elsewhere, and brings back what it left.

Whatever a run needs travels to it and whatever it leaves travels back: workers share no folder
with the one who asks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.runner.child import EXECUTED, ORDER, OUTCOME

if TYPE_CHECKING:
    from collections.abc import Mapping

GRACE_S = 10.0
"""How long a run that is told to end may take to shut its kernel down."""

LOG_MAX = 1 << 20
"""Characters of a run's log that are kept, the last ones."""

PASSED, FAILED, MISSING = "passed", "failed", "missing"


class LostRunError(Exception):
    """The process of a run was ended from outside: the run says nothing of the notebook."""


@dataclass(frozen=True)
class Order:
    """What to run, complete: it is sent to a worker.

    Attributes:
        id: the run's.
        name: the notebook's file name.
        text: the notebook.
        parameters: what replaces its defaults.
        time_limit: seconds that the run may take.
        requires: programs without which it cannot be run.
    """

    id: str
    name: str
    text: str
    parameters: Mapping[str, Any]
    time_limit: float
    requires: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a run went.

    Attributes:
        id: the run's.
        status: ``passed``, ``failed``, or ``missing`` where a program is not installed.
        reason: why, in one line, unless it passed.
        seconds: how long it took, with the start of its process.
        results: what the notebook recorded, to be compared.
        measured: what it recorded that differs from run to run.
        notebook: the executed copy, of a failed run as far as it went.
        log: what its process printed.
    """

    id: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    results: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    notebook: str | None = None
    log: str = ""


def execute(order: Order) -> Outcome:
    """Run a notebook in a process of its own and wait for it.

    Relative paths among the parameters are seen from the current folder.

    Raises:
        LostRunError: the process was killed, and not because of its time limit.
    """
    for program in order.requires:
        if shutil.which(program) is None:
            return Outcome(order.id, MISSING, f"{program} is not installed")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nbexport-run-") as name:
        folder = Path(name)
        (folder / order.name).write_text(order.text, encoding="utf-8")
        told = json.dumps({"name": order.name, "parameters": dict(order.parameters)})
        (folder / ORDER).write_text(told, encoding="utf-8")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "nbexport.runner.child", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                status: int | None = process.wait(order.time_limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _end(process)
        return _outcome(order, folder, status, time.monotonic() - began)


def _outcome(order: Order, folder: Path, status: int | None, seconds: float) -> Outcome:
    log = (folder / "log").read_text(encoding="utf-8", errors="replace")[-LOG_MAX:]
    copies = sorted((folder / EXECUTED).glob("*.ipynb")) if (folder / EXECUTED).is_dir() else []
    copy = copies[0].read_text(encoding="utf-8") if copies else None

    def failed(reason: str) -> Outcome:
        return Outcome(order.id, FAILED, reason, seconds, notebook=copy, log=log)

    if status is None:
        return failed(f"it took longer than {order.time_limit:g} s")
    told = folder / OUTCOME
    if not told.exists():
        if status < 0:
            raise LostRunError(f"{order.id}: ended by {signal.Signals(-status).name}")
        last = next((line for line in reversed(log.splitlines()) if line.strip()), "")
        return failed(f"its process ended with status {status}: {last.strip()}")
    found = json.loads(told.read_text(encoding="utf-8"))
    if found["reason"]:
        return failed(found["reason"])
    return Outcome(order.id, PASSED, "", seconds, found["results"], found["measured"], copy, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, first by asking."""
    if process.poll() is not None:
        return
    below = _descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    for pid, began in {**below, **_descendants(process.pid)}.items():
        # another process may have got the number since
        with contextlib.suppress(OSError, ValueError):
            if _stat(pid)[1] == began:
                os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _stat(pid: int) -> tuple[int, int]:
    """Return a process's parent, and when it began, in the kernel's ticks.

    Source: proc(5), ``/proc/pid/stat``, fields 4 and 22.
    """
    # "PID (name) state PPID ...": a name may contain anything, even brackets
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    words = fields.rpartition(")")[2].split()
    return int(words[1]), int(words[19])


def _descendants(pid: int) -> dict[int, int]:
    """Return the processes that a process has started, and those that these have; with times."""
    children: dict[int, dict[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent, began = _stat(int(entry.name))
                children.setdefault(parent, {})[int(entry.name)] = began
    found: dict[int, int] = {}
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), {})
        found |= below
        waiting += below
    return found
