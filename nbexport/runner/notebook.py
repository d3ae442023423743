"""What a notebook says of itself before it runs: title, summary and parameters."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.errors import NotebookError
from nbexport.runner import storage

if TYPE_CHECKING:
    from collections.abc import Mapping

PARAMETERS_TAG = "parameters"


@dataclass(frozen=True)
class Notebook:
    """A notebook file, read but not run.

    Attributes:
        path: the file; of a notebook at an address, the last part of that.
        title: its first heading.
        summary: the paragraph behind that heading, in markdown.
        parameters: the names that its parameters cell assigns, with their defaults.
        address: where it is, if it is not a file of this machine.
    """

    path: Path
    title: str
    summary: str
    parameters: Mapping[str, Any]
    address: str | None = None

    @property
    def name(self) -> str:
        """The file's name without its suffix: what pages and outputs are called."""
        return self.path.stem

    @property
    def source(self) -> str:
        """Where papermill reads it."""
        return self.address or str(self.path)

    def text(self) -> str:
        """Return the whole file.

        Raises:
            NotebookError: it cannot be read any more.
        """
        try:
            if self.address is not None:
                return storage.read_text(self.address)
            return self.path.read_text(encoding="utf-8")
        except OSError as error:
            raise NotebookError(f"{self.path}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: Path | str) -> Notebook:
        """Read a notebook.

        Args:
            path: a file, or an address for which papermill has a handler (``s3://...``).

        Raises:
            NotebookError: there is no such file, it is not a notebook, it does not open with a
                title, or its parameters cell holds anything but assignments of literals.
        """
        address = str(path) if storage.is_remote(path) else None
        path = Path(path) if address is None else Path(storage.file_name(address))
        where = address or str(path)
        try:
            text = (
                path.read_text(encoding="utf-8") if address is None else storage.read_text(address)
            )
            cells = json.loads(text)["cells"]
            sources = [(cell, "".join(cell["source"])) for cell in cells]
        except OSError as error:
            raise NotebookError(f"{where}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise NotebookError(f"{where}: not a notebook") from error
        prose = next((text for cell, text in sources if cell.get("cell_type") == "markdown"), "")
        title, summary = _heading(prose)
        if not title:
            raise NotebookError(f"{where}: the first text cell must open with a title, '# ...'")
        parameters: dict[str, Any] = {}
        for cell, text in sources:
            if PARAMETERS_TAG in cell.get("metadata", {}).get("tags", []):
                parameters.update(_assignments(where, text))
        return cls(path, title, summary, parameters, address)


def _heading(markdown: str) -> tuple[str, str]:
    """Return the heading and the paragraph that follows it."""
    head, _, rest = markdown.strip().partition("\n")
    if not head.startswith("# "):
        return "", ""
    paragraph = rest.strip().split("\n\n", 1)[0]
    return head[2:].strip(), " ".join(paragraph.split())


def _assignments(where: str, source: str) -> dict[str, Any]:
    """Return the literals that a parameters cell assigns."""
    found: dict[str, Any] = {}
    try:
        for statement in ast.parse(source).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    found[name] = ast.literal_eval(value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    found[name] = ast.literal_eval(value)
                case _:
                    raise NotebookError(
                        f"{where}: line {statement.lineno} of the parameters cell is no assignment"
                    )
    except (SyntaxError, ValueError) as error:
        raise NotebookError(f"{where}: the parameters cell must assign literals only") from error
    return found


def find_notebooks(folder: Path) -> list[Notebook]:
    """Return the notebooks of a folder in reading order, which is the order of their names.

    Raises:
        NotebookError: there is none, or one cannot be read.
    """
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise NotebookError(f"{folder}: there are no notebooks here")
    return [Notebook.load(path) for path in paths]
