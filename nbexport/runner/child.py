"""The process of one run of a matrix: ``python -m nbexport.runner.child FOLDER``.

Its folder has the notebook and ``run.json`` with the parameters; it gets the executed copy, the
results, and ``outcome.json``. A process of its own, so that it can be ended whatever it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import sys
from pathlib import Path
from typing import NoReturn

from nbexport.errors import NbexportError
from nbexport.runner.notebook import Notebook
from nbexport.runner.run import run_notebook

OUTCOME = "outcome.json"
ORDER = "run.json"
EXECUTED = "executed"

_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Be told to end when the worker that started this process dies, however it does."""
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _interrupt(number: int, frame: object) -> NoReturn:
    """Let a signal end the run as Control-C would: the kernel is shut down on the way."""
    del number, frame
    raise KeyboardInterrupt


def main(folder: Path) -> None:
    """Run what the folder asks for and say there how it went."""
    signal.signal(signal.SIGTERM, _interrupt)
    _end_with_parent()
    order = json.loads((folder / ORDER).read_text(encoding="utf-8"))
    told: dict[str, object] = {"reason": "", "seconds": 0.0, "results": {}, "measured": {}}
    output = folder / EXECUTED / order["name"]
    try:
        notebook = Notebook.load(folder / order["name"])
        run = run_notebook(notebook, output, parameters=order["parameters"])
    except NbexportError as error:
        told["reason"] = str(error).replace(f" (executed copy: {output.parent}/", " (see ")
    else:
        told["seconds"] = run.seconds
        told["results"] = dict(run.records.results)
        told["measured"] = dict(run.records.measured)
    (folder / OUTCOME).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
