"""Which runs a matrix asks for: notebooks, each with every combination of its parameters' values.

A matrix is a TOML file::

    title = "What the site shows, on every release"
    time-limit = 120                        # seconds that a run may take

    [[group]]
    notebooks = ["03_qmp_session"]
    releases = ["4.0", "5.1", "5.2"]        # the parameter `release`
    targets = ["emulated"]                  # `target`
    images = ["two-bitmaps.qcow2"]          # `image`
    requires = ["qemu-storage-daemon"]      # programs without which the group cannot run
    exclude = [{ release = "4.0", target = "qemu-storage-daemon" }]
    [group.parameters]
    bitmaps = [["weekly"], ["weekly", "daily"]]

A notebook that has no parameter ``release``, ``target`` or ``image`` is run without; what becomes
the same run by that is run once. Any other parameter that a notebook lacks is an error.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.errors import FormatError, NotebookError
from nbexport.resources import notebooks_path
from nbexport.runner.notebook import Notebook
from nbexport.runner.storage import is_remote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TIME_LIMIT_S = 300.0
RUNS_MAX = 10_000
"""A matrix multiplies quickly; more runs than this are taken for a mistake."""

_AXES = {"releases": "release", "targets": "target", "images": "image"}
_NAME_MAX = 80
_UNSAFE = re.compile(r"[^A-Za-z0-9.,=_-]+")


@dataclass(frozen=True)
class MatrixRun:
    """One run of a matrix.

    Attributes:
        notebook: what is run.
        parameters: what replaces the notebook's defaults.
        time_limit: seconds that it may take.
        requires: programs that must be installed where it runs.
    """

    notebook: Notebook
    parameters: Mapping[str, Any]
    time_limit: float
    requires: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """What names the run in reports and baselines: the notebook and its parameters, sorted."""
        words = [f"{name}={_word(value)}" for name, value in sorted(self.parameters.items())]
        return f"{self.notebook.name}[{','.join(words)}]" if words else self.notebook.name

    @property
    def folder(self) -> str:
        """A name for a folder of the run's own: short, without odd characters, still unique."""
        plain = _UNSAFE.sub("_", self.id.replace("[", ".").rstrip("]"))
        if plain == self.id and len(plain) <= _NAME_MAX:
            return plain
        digest = hashlib.sha256(self.id.encode()).hexdigest()[:8]
        return f"{plain[:_NAME_MAX]}.{digest}"


@dataclass(frozen=True)
class Matrix:
    """A matrix file, read.

    Attributes:
        path: the file.
        title: what a report is called.
        runs: every run once, in the order of the file.
        ignore: patterns of results that are not compared, ``run.result`` with ``*``.
        tolerance: patterns of results and the relative difference of numbers that is none.
    """

    path: Path
    title: str
    runs: tuple[MatrixRun, ...]
    ignore: tuple[str, ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Matrix:
        """Read a matrix and expand it.

        Args:
            path: the file; notebooks are found beside it, from the current folder, or among those
                that travel with the package.

        Raises:
            FormatError: it is no TOML, or an entry is not what it has to be; file and group are
                named.
            NotebookError: a notebook cannot be read, or lacks a parameter.
            OSError: the file cannot be read.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FormatError(str(error), path=str(path)) from error
        return _Reader(path).matrix(table)


class _Reader:
    """Reads the tables of one file; errors name the file and the table."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._where = ""
        self._notebooks: dict[str, Notebook] = {}

    def matrix(self, table: dict[str, Any]) -> Matrix:
        limit = self._seconds(table, TIME_LIMIT_S)
        title = self._take(table, "title", str, "Matrix")
        ignore = tuple(self._words(table, "ignore"))
        tolerance = {
            name: self._share(name, value)
            for name, value in self._take(table, "tolerance", dict, {}).items()
        }
        groups = self._take(table, "group", list, [])
        self._end(table)
        if not groups:
            raise self._error("there is no [[group]]")
        runs: dict[str, MatrixRun] = {}
        for number, group in enumerate(groups, 1):
            self._where = f"group {number}: "
            if not isinstance(group, dict):
                raise self._error("it is no table")
            for run in self._group(group, limit):
                runs.setdefault(run.id, run)
                if len(runs) > RUNS_MAX:
                    raise self._error(f"the matrix has more than {RUNS_MAX} runs")
        return Matrix(self._path, title, tuple(runs.values()), ignore, tolerance)

    def _group(self, group: dict[str, Any], limit: float) -> Iterator[MatrixRun]:
        limit = self._seconds(group, limit)
        names = self._words(group, "notebooks")
        if not names:
            raise self._error("'notebooks' is missing")
        axes = {_AXES[key]: self._words(group, key) for key in _AXES if key in group}
        own = self._take(group, "parameters", dict, {})
        requires = tuple(self._words(group, "requires"))
        exclude = self._take(group, "exclude", list, [])
        self._end(group)
        for name, values in own.items():
            if name in axes:
                raise self._error(f"parameter '{name}' is given twice")
            if not isinstance(values, list) or not values:
                raise self._error(f"parameter '{name}' takes a list of values")
        for each in exclude:
            if not isinstance(each, dict) or not each:
                raise self._error("'exclude' takes tables of parameters")
        for name in names:
            notebook = self._notebook(name)
            chosen = {axis: axes[axis] for axis in axes if axis in notebook.parameters} | own
            for parameter in chosen:
                if parameter not in notebook.parameters:
                    raise NotebookError(
                        f"{self._path}: {self._where}{notebook.path.name} has no parameter "
                        f"'{parameter}'"
                    )
            for values in itertools.product(*chosen.values()):
                parameters = dict(zip(chosen, values, strict=True))
                if not any(each.items() <= parameters.items() for each in exclude):
                    yield MatrixRun(notebook, parameters, limit, requires)

    def _notebook(self, name: str) -> Notebook:
        if name not in self._notebooks:
            if is_remote(name):
                self._notebooks[name] = Notebook.load(name)
            else:
                file = name if name.endswith(".ipynb") else f"{name}.ipynb"
                places = (self._path.parent / file, Path(file), notebooks_path() / file)
                path = next((place for place in places if place.is_file()), None)
                if path is None:
                    raise self._error(f"there is no notebook '{name}'")
                self._notebooks[name] = Notebook.load(path)
        return self._notebooks[name]

    def _error(self, message: str) -> FormatError:
        return FormatError(f"{self._where}{message}", path=str(self._path))

    def _take(self, table: dict[str, Any], key: str, kind: type, default: Any) -> Any:
        value = table.pop(key, default)
        if not isinstance(value, kind):
            raise self._error(f"'{key}' takes a {kind.__name__}, not {json.dumps(str(value))}")
        return value

    def _words(self, table: dict[str, Any], key: str) -> list[str]:
        words: list[str] = self._take(table, key, list, [])
        if not all(isinstance(word, str) for word in words):
            raise self._error(f"'{key}' takes a list of texts")
        return words

    def _seconds(self, table: dict[str, Any], default: float) -> float:
        value = table.pop("time-limit", default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise self._error("'time-limit' takes a number of seconds above 0")
        return float(value)

    def _share(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise self._error(f"tolerance '{name}' takes a number, 0.1 for a tenth")
        return float(value)

    def _end(self, table: Mapping[str, Any]) -> None:
        for key in table:
            raise self._error(f"unknown key '{key}'")


def _word(value: Any) -> str:
    """Return a value as it stands in the name of a run."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
