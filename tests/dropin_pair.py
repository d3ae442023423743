"""The drop-in commands and the programs in whose places they stand, run side by side."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from peers import TIME_LIMIT, peer

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "qemu-storage-daemon": "nbexport-storage-daemon",
    "qemu-system-x86_64": "nbexport-monitor",
}

MODULES = {
    "qemu-storage-daemon": "nbexport.cli.dropin.storage_daemon",
    "qemu-system-x86_64": "nbexport.cli.dropin.system",
}


class Outcome(NamedTuple):
    """What a run left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


def masked(found: Any) -> Any:
    """Return what a monitor told, without generated names and sizes that differ by nature."""
    text = json.dumps(found, sort_keys=True)
    text = re.sub(r"#block(\d+)\d\d", r"#block\1", text)
    return json.loads(re.sub(r'"actual-size": \d+', '"actual-size": 0', text))


def folder_of_commands(parent: Path) -> Path:
    """Make a folder in which our commands have the names of QEMU's; it goes before the PATH."""
    folder = parent / "commands"
    folder.mkdir(exist_ok=True)
    for name, ours in COMMANDS.items():
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(Path(sys.executable).parent / ours)
    return folder


def run_both(name: str, words: Sequence[str], folder: Path) -> tuple[Outcome, Outcome]:
    """Run QEMU's program and our command with the same words, each in a folder of its own.

    Args:
        name: QEMU's program.
        words: its command line.
        folder: has ``theirs`` and ``ours``, where they run.
    """
    program = peer(name)
    done = subprocess.run(
        [program, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIME_LIMIT,
        check=False,
        cwd=folder / "theirs",
    )
    # What the loader prints that misses modules of the graphical interface is not the program's.
    err = re.sub(r"qemu: module \S+ not found.*\n", "", done.stderr.decode())
    # The C library tells its errors with the program's whole path, a script knows only a name.
    err = err.replace(f"{program}: ", f"{name}: ")
    return Outcome(done.returncode, done.stdout.decode(), err), run_ours(name, words, folder)


def run_ours(name: str, words: Sequence[str], folder: Path) -> Outcome:
    """Run our command in a child of this process, which has imported all of it already."""
    module = importlib.import_module(MODULES[name])
    importlib.import_module("nbexport.cli.dropin.running")
    importlib.import_module("nbexport.emulator.disks")
    out, err = folder / "out", folder / "err"
    pid = os.fork()
    if not pid:
        status = 70
        try:
            os.chdir(folder / "ours")
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdin, sys.stdout, sys.stderr = (
                os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww")
            )
            sys.argv = [name, *words]
            signal.alarm(int(TIME_LIMIT))
            try:
                module.main()
                status = 0
            except SystemExit as stop:
                status = stop.code or 0
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return Outcome(os.waitstatus_to_exitcode(status), out.read_text(), err.read_text())
