"""The files of a schema that is text, one by one: what a patch is applied to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nbexport.errors import SourceError, UsageError
from nbexport.qapi import interface_of, parse_release
from nbexport.qapi.parser import read_file
from nbexport.resources import data_path
from nbexport.sources.git import Revision, split_address
from nbexport.sources.load import (
    FILE,
    FOLDER_ROOTS,
    GIT,
    RELEASE,
    ROOTS,
    VERSION,
    VERSION_MAX,
    release_of_tree,
)
from nbexport.sources.replies import looks_like_json

if TYPE_CHECKING:
    from collections.abc import Callable


class _Files(Protocol):
    """Files by their path from the top of a tree, ``/`` between its parts."""

    def has_file(self, path: str) -> bool:
        """Return whether there is such a file."""

    def read(self, path: str) -> str:
        """Return the text of a file; raise OSError or UnicodeDecodeError."""


class _Folder:
    """The files of a folder on the disk."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def has_file(self, path: str) -> bool:
        return "\0" not in path and (self._top / path).is_file()

    def read(self, path: str) -> str:
        return read_file(str(self._top / path))


class TextSource:
    """The files of a folder, a git revision or a release of the package's data.

    Args:
        source: as `nbexport.sources.load` takes it; a running monitor and a saved introspection
            have no text.

    Attributes:
        name: how to call it in a text.
        kind: ``file``, ``git`` or ``release``.
        root: path of the root file from the top of the tree.
        release: the release by whose rules its text is read, None for the newest rules.
        interface: the release that it is the interface of, None where nothing tells.

    Raises:
        SourceError: it cannot be had.
        UsageError: it is no text, or an unknown release.
    """

    def __init__(self, source: str) -> None:
        scheme, colon, rest = source.partition(":")
        self.name = source
        self._files: _Files
        if colon and scheme == "qmp":
            raise UsageError(f"{source}: a monitor has no text that a patch could be applied to")
        if colon and scheme == "git":
            self.kind = GIT
            self.root = self._git(source, rest)
        elif colon and scheme == "release":
            self.kind = RELEASE
            self._files = _Folder(data_path("interface", interface_of(rest)))
            self.root = "schema.json"
        else:
            self.kind = FILE
            self.root = self._path(source)
        self.release = self._rules()
        self.interface = parse_release(rest) if self.kind == RELEASE else self.release
        self.has_file: Callable[[str], bool] = self._files.has_file
        self.read: Callable[[str], str] = self._files.read

    def _git(self, source: str, address: str) -> str:
        repository, rev, path = split_address(address)
        self._files = Revision(repository, rev)
        if path is None:
            path = next((name for name in ROOTS if self._files.has_file(name)), None)
            if path is None:
                raise SourceError(f"{source}: no {' or '.join(ROOTS)} in revision {rev}")
        elif not self._files.has_file(path):
            raise SourceError(f"{source}: no file '{path}' in revision {rev}")
        return path

    def _path(self, source: str) -> str:
        path = Path(source)
        if path.is_dir():
            self._files = _Folder(path)
            found = next((name for name in FOLDER_ROOTS if (path / name).is_file()), None)
            if found is None:
                raise SourceError(f"{source}: no {' or '.join(FOLDER_ROOTS)} in this folder")
            return found
        if not path.is_file():
            raise SourceError(f"{source}: no such file or folder")
        with path.open("rb") as file:
            if looks_like_json(file.read(4096).decode("utf-8", "replace")):
                raise UsageError(f"{source}: an introspection has no text to apply a patch to")
        # QEMU's schema lies one folder below the top of its tree, where patches begin
        top = path.parent
        if path.name == "qapi-schema.json" and top.resolve().name == "qapi":
            top = top / ".." if top == Path() else top.parent
        self._files = _Folder(top)
        return path.relative_to(top).as_posix() if top in path.parents else f"qapi/{path.name}"

    def _rules(self) -> tuple[int, ...] | None:
        places = [] if self.kind == RELEASE else [VERSION]
        if self.kind == FILE:
            places.append(f"../{VERSION}")
        for name in places:
            if self._files.has_file(name):
                return release_of_tree(self._files.read(name)[:VERSION_MAX])
        return None
