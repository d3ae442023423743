"""One notebook, executed by papermill with checked parameters."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbexport import __version__
from nbexport.errors import NotebookError
from nbexport.runner.record import Records, collect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from nbexport.runner.notebook import Notebook

CELL_TIME_LIMIT_S = 300
"""A cell that runs longer is interrupted: a notebook is meant to end in seconds."""


@dataclass(frozen=True)
class Run:
    """The outcome of a notebook's execution.

    Attributes:
        notebook: what was run.
        parameters: every parameter with the value it had, defaults included.
        output: the executed copy, with its outputs.
        seconds: how long the cells took, without the start of the kernel.
        records: what the notebook recorded.
    """

    notebook: Notebook
    parameters: Mapping[str, Any]
    output: Path
    seconds: float
    records: Records = field(default_factory=Records)

    @property
    def results(self) -> Path:
        """The file with what was recorded, beside the executed copy."""
        return results_path(self.output)


def results_path(output: Path) -> Path:
    """Return where the results of an executed copy are kept."""
    return output.with_suffix(".results.json")


def failed_path(output: Path) -> Path:
    """Return where the copy of a run goes that failed."""
    return output.with_name(f"{output.stem}.failed.ipynb")


def parse_parameters(notebook: Notebook, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Turn the words of a command line into values of the types that the notebook's defaults have.

    A parameter whose default is a string takes the word as it is; a list takes JSON or words
    separated by commas; anything else takes JSON, with Python's ``True``, ``False`` and ``None``
    as well.

    Raises:
        NotebookError: a name is not a parameter, or a word is not a value of its type.
    """
    values: dict[str, Any] = {}
    for name, word in pairs:
        check_parameters(notebook, [name])
        values[name] = _value(notebook, name, word)
    return values


def _value(notebook: Notebook, name: str, word: str) -> Any:
    default = notebook.parameters[name]
    if isinstance(default, str):
        return word
    if isinstance(default, list) and not word.startswith("["):
        return [part.strip() for part in word.split(",")] if word else []
    plain = {"True": "true", "False": "false", "None": "null"}.get(word, word)
    try:
        value = json.loads(plain)
    except ValueError:
        if default is None:
            return word
        raise _mismatch(notebook, name, word) from None
    if default is None or type(value) is type(default):
        return value
    if type(default) is float and type(value) is int:
        return float(value)
    raise _mismatch(notebook, name, word)


def _mismatch(notebook: Notebook, name: str, word: str) -> NotebookError:
    kind = type(notebook.parameters[name]).__name__
    return NotebookError(f"{notebook.path.name}: parameter '{name}' takes {kind}, not '{word}'")


def check_parameters(notebook: Notebook, names: Iterable[str]) -> None:
    """Raise NotebookError for the first name that the notebook's parameters cell does not set."""
    for name in names:
        if name not in notebook.parameters:
            known = ", ".join(notebook.parameters) or "none"
            raise NotebookError(
                f"{notebook.path.name}: unknown parameter '{name}' (it has: {known})"
            )


def run_notebook(
    notebook: Notebook,
    output: Path,
    *,
    parameters: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Run:
    """Execute a notebook in a fresh kernel and keep the executed copy.

    The copy appears at ``output`` only when every cell has succeeded. A failed one is kept beside
    it as ``OUTPUT.failed.ipynb``, because its outputs are what one looks at next. What the notebook
    recorded goes into ``OUTPUT.results.json``, with the parameters that led there.

    Args:
        notebook: what to run; it is not changed.
        output: where the executed copy goes; its folder is made.
        parameters: values that replace the defaults; relative paths among them are seen from the
            current folder, in which the notebook runs.
        progress: whether to draw papermill's progress bar on standard error.

    Raises:
        NotebookError: a parameter is unknown, a cell failed, or two cells recorded under one name;
            the text names the cell.
    """
    given = dict(parameters or {})
    check_parameters(notebook, given)
    failed = failed_path(output)
    executed = _execute(notebook, output, failed, given, progress=progress)
    failed.unlink(missing_ok=True)
    seconds = float(executed.metadata.papermill.get("duration") or 0.0)
    records = collect(executed.cells, notebook.path.name)
    run = Run(notebook, {**notebook.parameters, **given}, output, seconds, records)
    _write_results(run)
    return run


def _write_results(run: Run) -> None:
    """Write what was recorded, and from what, as JSON; values that are compared stand alone."""
    told = {
        "notebook": run.notebook.name,
        "nbexport": __version__,
        "parameters": dict(run.parameters),
        "results": dict(run.records.results),
        "measured": dict(run.records.measured),
    }
    partial = run.results.with_name(f".{run.results.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(run.results)
    finally:
        partial.unlink(missing_ok=True)


def _execute(
    notebook: Notebook, output: Path, failed: Path, given: dict[str, Any], *, progress: bool
) -> Any:
    import papermill  # noqa: PLC0415 - more than a second that only a run should cost
    from papermill.exceptions import PapermillExecutionError  # noqa: PLC0415
    from traitlets.config import Config  # noqa: PLC0415

    logging.getLogger("papermill").setLevel(logging.WARNING)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{notebook.name}.{os.getpid()}.ipynb")
    # Unix sockets: no other user of the machine can listen to the kernel. In a folder of their own:
    # by default they lie in the current one, where kernels that start together take each other's.
    sockets = tempfile.TemporaryDirectory(prefix="nbexport-kernel-")
    try:
        executed = papermill.execute_notebook(
            notebook.source,
            partial,
            parameters=given,
            progress_bar=progress,
            execution_timeout=CELL_TIME_LIMIT_S,
            config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets.name}/kernel"}),
        )
        partial.replace(output)
    except PapermillExecutionError as error:
        partial.replace(failed)
        raise NotebookError(
            f"{notebook.path.name}, cell {error.exec_count}: {error.ename}: "
            f"{_first_line(error.evalue)} (executed copy: {failed})"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
        sockets.cleanup()
    return executed


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
