"""The interop suite with our commands in the place of QEMU's: servers are ours, clients are not.

``make interop-dropin`` calls this. A folder in front of the PATH has `qemu-nbd`,
`qemu-storage-daemon` and `qemu-system-x86_64`, which are our commands; qemu-img, qemu-io and
libnbd's tools stay the genuine ones. What the suite says of QEMU's programs then has to hold of
ours. Where that cannot be, the test stands in `in_place.toml` with the reason; one that is listed
there and passes is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVERS = {
    "qemu-nbd": "nbexport-nbd",
    "qemu-storage-daemon": "nbexport-storage-daemon",
    "qemu-system-x86_64": "nbexport-monitor",
}
FOLDER = "NBEXPORT_IN_PLACE"
"""The environment variable that names the folder with the commands, in such a run."""

TESTS = Path(__file__).resolve().parent
LIST = TESTS / "in_place.toml"


def folder() -> Path | None:
    """Return the folder with our commands, None in a run with the genuine programs."""
    name = os.environ.get(FOLDER)
    return Path(name) if name else None


def read_list() -> dict[str, Any]:
    """Return which tests do not hold, and which files make the shorter run."""
    found: dict[str, Any] = tomllib.loads(LIST.read_text("utf-8"))
    return found


def expect(items: Sequence[pytest.Item]) -> None:
    """Mark the tests that are listed as failing, so that one that passes is a failure."""
    for entry in read_list()["apart"]:
        mark = pytest.mark.xfail(reason=entry["reason"], strict=True)
        for item in items:
            nodeid = item.nodeid.removeprefix("tests/interop/")
            if any(_covers(name, nodeid) for name in entry["tests"]):
                item.add_marker(mark)


def _covers(name: str, nodeid: str) -> bool:
    """Whether a name in the list is a test's: its file, its function, or one case of that."""
    return nodeid == name or nodeid.startswith((f"{name}[", f"{name}::"))


def make_folder(parent: Path) -> Path:
    """Make the folder for the PATH; return it."""
    made = parent / "in-place"
    made.mkdir(parents=True, exist_ok=True)
    for name, ours in SERVERS.items():
        link = made / name
        link.unlink(missing_ok=True)
        link.symlink_to(Path(sys.executable).parent / ours)
    return made


def main(words: Sequence[str]) -> int:
    """Run the suite; return pytest's status.

    Args:
        words: of pytest. ``--short`` first stands for the files of the shorter run.
    """
    words = list(words)
    where = [str(TESTS / "interop")]
    if words[:1] == ["--short"]:
        where = [str(TESTS / "interop" / name) for name in read_list()["short"]]
        del words[0]
    made = make_folder(TESTS.parent / "build")
    environment = {
        **os.environ,
        FOLDER: str(made),
        "PATH": f"{made}{os.pathsep}{os.environ['PATH']}",
    }
    # A path among the words stands for the whole suite.
    if any((TESTS.parent / word.partition("::")[0]).exists() for word in words):
        where = []
    argv = [sys.executable, "-bb", "-m", "pytest", "-n", "2", "-p", "no:cacheprovider"]
    return subprocess.run([*argv, *where, *words], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
