"""Our stand-ins for QEMU's commands: found in the PATH, and started fast for many short runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from peers import peer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SECONDS = 20

# Imports once, then forks for each command line: a start from nothing takes a moment each time.
_STARTER = """
import json, os, signal, sys
from nbexport.cli.dropin import nbd, nbd_list, nbd_serve, objects
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        signal.alarm(asked["seconds"])
        os.chdir(asked["folder"])
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        for number, path in ((1, asked["out"]), (2, asked["err"])):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(fd, number)
        try:
            sys.argv = asked["argv"]
            nbd.main()
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(99)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


class Starter:
    """Runs many command lines of ours."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def run(self, words: Sequence[str], folder: Path) -> Ended:
        """Run ``qemu-nbd`` with these words in a folder."""
        out, err = self._folder / "out", self._folder / "err"
        asked = {
            "argv": ["qemu-nbd", *words], "folder": str(folder), "out": str(out), "err": str(err),
            "seconds": SECONDS,
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        return Ended(status, out.read_text(), err.read_text())


@contextlib.contextmanager
def starter(folder: Path) -> Iterator[Starter]:
    """Give what runs our command lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", _STARTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Starter(process, folder)
        assert process.stdin is not None
        process.stdin.close()


def theirs(words: Sequence[str], folder: Path) -> Ended:
    """Run the real qemu-nbd with these words in a folder."""
    done = subprocess.run(
        ["qemu-nbd", *words],
        executable=peer("qemu-nbd"),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def in_place(folder: Path) -> Path:
    """Make a folder for the PATH in which ``qemu-nbd`` is ours; return the command."""
    folder.mkdir(exist_ok=True)
    script = folder / "nbexport-nbd"
    script.write_text(
        f"#!{sys.executable}\nfrom nbexport.cli.dropin.nbd import main\nmain()\n", "utf-8"
    )
    script.chmod(0o755)
    command = folder / "qemu-nbd"
    command.symlink_to(script)
    return command


def first_in_path(folder: Path) -> dict[str, Any]:
    """Return the environment in which a folder's commands come before all others."""
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def with_pid(command: str) -> list[str]:
    """Return words that become a command with LISTEN_PID set to its own number."""
    code = (
        "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid());"
        "os.execvp(sys.argv[1], ['qemu-nbd', *sys.argv[2:]])"
    )
    return [sys.executable, "-c", code, command]


def end(pid: int) -> None:
    """Tell a process that is not our child to end, and wait until it has."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.02)
