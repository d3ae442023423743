"""Files of a git revision, read without a checkout.

Only git's own reading commands run, on object names where possible; nothing that a user gives
can become an option, and nothing is fetched from a network.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
from pathlib import Path

from nbexport.errors import SourceError
from nbexport.qapi.lexer import MAX_SOURCE

# One object of a local repository; a cold disk takes well under a second.
TIME_LIMIT = 30.0
# In git's variable-length worst case a character takes four bytes.
_MAX_BLOB = 4 * MAX_SOURCE

_HEADER = re.compile(rb"([0-9a-f]{40,64}) (\w+) (\d+)\n")
# Variables that would lead git to another repository than the one that was named.
_MISLEADING = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)


class Revision:
    """The files of one commit or tree.

    Args:
        repository: a work tree, or a folder inside one, or a bare repository.
        rev: anything that git understands as a revision.

    Attributes:
        tree: object name of the tree.

    Raises:
        SourceError: there is no such repository or revision, or git cannot be run.
    """

    def __init__(self, repository: str, rev: str) -> None:
        self._repository = repository
        self.rev = rev
        self._shown = f"git:{repository}@{rev}"
        if not Path(repository).is_dir():
            raise SourceError(f"{self._shown}: no such folder: {repository}")
        code, _, text = self._git("rev-parse", "--git-dir")
        if code:
            raise SourceError(f"{self._shown}: {repository} is no git repository: {text}")
        if not rev or "\0" in rev or "\n" in rev:
            raise SourceError(f"{self._shown}: no revision '{rev}'")
        code, found, _ = self._git(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{tree}}"
        )
        self.tree = found.decode("ascii", "replace").strip()
        if code or not re.fullmatch(r"[0-9a-f]{40,64}", self.tree):
            raise SourceError(f"{self._shown}: unknown revision '{rev}' in {repository}")

    def _git(self, *words: str, given: bytes = b"") -> tuple[int, bytes, str]:
        """Run git; return its status, what it printed, and its last line of complaint."""
        environment = {key: value for key, value in os.environ.items() if key not in _MISLEADING}
        environment |= {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "LC_ALL": "C",
        }
        command = ["git", "-c", "core.fsmonitor=false", "-C", self._repository, *words]
        try:
            done = subprocess.run(
                command,
                input=given,
                capture_output=True,
                timeout=TIME_LIMIT,
                check=False,
                env=environment,
            )
        except FileNotFoundError as error:
            raise SourceError(f"{self._shown}: git is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise SourceError(
                f"{self._shown}: git {words[0]} took more than {TIME_LIMIT:g} s"
            ) from error
        complaint = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return done.returncode, done.stdout, complaint[-1] if complaint else "git failed"

    def _find(self, path: str) -> tuple[str, str, int] | None:
        """Return object name, kind and size of a path, links followed; None if there is none."""
        if "\n" in path or "\0" in path:
            return None
        _, answer, _ = self._git(
            "cat-file",
            "--batch-check",
            "--follow-symlinks",
            given=f"{self.tree}:{path}\n".encode("utf-8", "surrogateescape"),
        )
        match = _HEADER.fullmatch(answer)
        if match is None:
            return None
        return match[1].decode(), match[2].decode(), int(match[3])

    def has_file(self, path: str) -> bool:
        """Return whether there is a file of that path, from the top of the tree."""
        found = self._find(path)
        return found is not None and found[1] == "blob"

    def read(self, path: str) -> str:
        """Return the text of a file.

        Args:
            path: from the top of the tree.

        Raises:
            OSError: it is not there, is no file or is too big.
            UnicodeDecodeError: it is no UTF-8.
            SourceError: git failed.
        """
        path = posixpath.normpath(path)
        if path.startswith(("../", "/")) or path == "..":
            raise OSError("it lies outside of the revision")
        found = self._find(path)
        if found is None:
            raise OSError(f"no such file in revision {self.rev}")
        name, kind, size = found
        if kind != "blob":
            raise OSError(f"it is a {kind}, not a file")
        if size > _MAX_BLOB:
            raise OSError(f"it is larger than {_MAX_BLOB} bytes")
        code, data, complaint = self._git("cat-file", "blob", name)
        if code:
            raise SourceError(f"{self._shown}: {path}: {complaint}")
        return data.decode("utf-8")


def split_address(text: str) -> tuple[str, str, str | None]:
    """Split ``REPO@REV[:path]`` (without ``git:``) into its parts.

    A repository's path may hold ``@``: the first ``@`` that follows an existing folder counts,
    else the last one. The path begins after the first ``:`` of the revision outside of braces.

    Raises:
        SourceError: there is no ``@``, or nothing on one of its sides.
    """
    places = [index for index, letter in enumerate(text) if letter == "@"]
    if not places:
        raise SourceError(f"git:{text}: expected git:REPO@REV or git:REPO@REV:path")
    # "@{" belongs to a revision such as HEAD@{1}
    whole = [index for index in places if text[index + 1 : index + 2] != "{"] or places
    at = next((index for index in whole if Path(text[:index] or ".").is_dir()), whole[-1])
    repository, rest = text[:at] or ".", text[at + 1 :]
    depth = 0
    rev, path = rest, None
    for index, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if letter == ":" and depth <= 0:
            rev, path = rest[:index], rest[index + 1 :]
            break
    if not rev or path == "":
        raise SourceError(f"git:{text}: expected git:REPO@REV or git:REPO@REV:path")
    return repository, rev, path
