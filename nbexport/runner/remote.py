"""Runs whose executed copy goes to an address."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.errors import NotebookError
from nbexport.runner import storage
from nbexport.runner.run import failed_path, results_path, run_notebook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbexport.runner.notebook import Notebook


def run_to_address(
    notebook: Notebook,
    address: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> None:
    """Execute a notebook here and put what it leaves at an address.

    The executed copy and beside it the results; of a failed run the copy with its other name.

    Args:
        notebook: what to run.
        address: where the copy goes; papermill has a handler for it.
        parameters: values that replace the defaults.
        progress: whether to draw papermill's progress bar on standard error.

    Raises:
        NotebookError: a parameter is unknown, a cell failed, or the address cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="nbexport-") as folder:
        local = Path(folder, storage.file_name(address))
        failed = failed_path(local)
        try:
            run_notebook(notebook, local, parameters=parameters, progress=progress)
        except NotebookError as error:
            if not failed.exists():
                raise
            beside = storage.sibling(address, failed.name)
            storage.write_text(beside, failed.read_text(encoding="utf-8"))
            raise NotebookError(str(error).replace(str(failed), beside)) from error
        storage.write_text(address, local.read_text(encoding="utf-8"))
        results = results_path(local)
        beside = storage.sibling(address, results.name)
        storage.write_text(beside, results.read_text(encoding="utf-8"))
