"""Runs a notebook's code without a kernel, for tests that look at what its cells show."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def run_cells(path: Path, **parameters: Any) -> list[Any]:
    """Run the code cells of a notebook and return what each of them shows, None if nothing.

    Args:
        path: the notebook.
        parameters: put in the place of those of the same names.
    """
    names: dict[str, Any] = {}
    shown = []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), names)
        shown.append(None if last is None else eval(ast.unparse(last), names))
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= names.keys()
            names |= parameters
    return shown
