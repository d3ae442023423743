"""Real peers: finding them, running them, and what their absence means.

A peer that is missing skips the test and names itself. Where `NBEXPORT_REQUIRE_PEERS` is set
(as in CI) its absence is a failure, so that green never means skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import in_place
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TIME_LIMIT = 60.0
MONITORS = {"qemu-storage-daemon", "qemu-system-x86_64"}
PACKAGES = {
    "chromium": "chromium",
    "git": "git",
    "nbd-client": "nbd-client",
    "nbdcopy": "libnbd-bin",
    "nbdinfo": "libnbd-bin",
    "nbdkit": "nbdkit",
    "nbdsh": "python3-libnbd",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "qemu-system-x86_64": "qemu-system-x86",
    "socat": "socat",
}


def peer(name: str) -> str:
    """Return the path of a peer's program; skip, or fail where peers are required.

    In a run of `in_place` the servers are our commands, and nothing else is.
    """
    path = shutil.which(name)
    ours = in_place.folder()
    if ours is not None and path is not None:
        assert (Path(path).parent == ours) == (name in in_place.SERVERS), path
    if path is None:
        reason = f"{name} is not installed (Debian package {PACKAGES[name]})"
        if os.environ.get("NBEXPORT_REQUIRE_PEERS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def qemu_source() -> Path:
    """Return the folder with QEMU's schemas and front end; skip, or fail where it is required.

    It is what `.ci/fetch_qemu_source.sh` brings, or what NBEXPORT_QEMU_SOURCE names.
    """
    default = Path(__file__).parent.parent / "build" / "qemu-source"
    folder = Path(os.environ.get("NBEXPORT_QEMU_SOURCE") or default)
    if not (folder / "scripts" / "qapi").is_dir():
        reason = f"{folder} has no QEMU sources (.ci/fetch_qemu_source.sh brings them)"
        if os.environ.get("NBEXPORT_REQUIRE_PEERS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder.resolve()


def run(
    *argv: str | os.PathLike[str], check: bool = True, **kwargs: Any
) -> subprocess.CompletedProcess[str]:
    """Run a peer to its end and return what it printed; the first word is looked up by `peer`."""
    name, *rest = argv
    done = subprocess.run(
        [peer(str(name)), *map(str, rest)],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
        **kwargs,
    )
    if check and done.returncode:
        raise AssertionError(f"{argv} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done


def listens(pid: int, path: Path) -> bool:
    """Whether a process accepts connections at a unix socket; its file appears a moment before.

    Nobody connects to find out: QEMU's monitors may drop a client that comes right after another.
    """
    accepting = 1 << 16  # the kernel's SO_ACCEPTCON
    table = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    inodes = {
        f"socket:[{line[6]}]"
        for line in table
        if len(line) == 8 and int(line[3], 16) & accepting and Path(line[7]).name == path.name
    }
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if str(link.readlink()) in inodes:
                return True
    return False


def settle(pid: int) -> None:
    """Wait until every thread of a process sleeps at five looks in turn.

    QEMU 7.2 listens before its monitor has moved to the thread that serves it. One client in 140
    that came within that moment was greeted twice, told to negotiate again, or never answered.
    """
    deadline = time.monotonic() + TIME_LIMIT
    asleep = 0
    while asleep < 5 and time.monotonic() < deadline:
        states = set()
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                states.add((thread / "stat").read_text().rpartition(")")[2].split()[0])
        asleep = asleep + 1 if states <= {"S"} else 0
        time.sleep(0.005)


@contextlib.contextmanager
def background(
    *argv: str | os.PathLike[str], ready: Path | None = None, **kwargs: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the block lasts; wait until it listens on the socket ``ready`` first.

    The program is told to end by SIGTERM, then killed, and always reaped.
    """
    kwargs.setdefault("stderr", subprocess.PIPE)
    process = subprocess.Popen([str(word) for word in argv], **kwargs)
    try:
        deadline = time.monotonic() + TIME_LIMIT
        while ready is not None and not listens(process.pid, ready):
            if process.poll() is not None:
                text = process.stderr.read().decode() if process.stderr else ""
                raise AssertionError(f"{argv[0]} ended with {process.returncode}: {text}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{argv[0]} did not listen on {ready} in {TIME_LIMIT} s")
            time.sleep(0.01)
        if ready is not None and Path(argv[0]).name in MONITORS:
            settle(process.pid)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def qemu_nbd(image: Path, folder: Path, *options: str) -> Iterator[str]:
    """Serve ``image`` by qemu-nbd until the block ends; give the URI of the default export."""
    path = folder / "qemu-nbd.sock"
    path.unlink(missing_ok=True)
    with background(peer("qemu-nbd"), "-t", "-e", "0", "-k", path, *options, image, ready=path):
        yield f"nbd+unix:///?socket={path}"


def nbdinfo_map(uri: str, context: str) -> list[dict[str, Any]]:
    """Return libnbd's view of one context of an export, as `nbdinfo --map --json` prints it."""
    done = run("nbdinfo", f"--map={context}", "--json", uri)
    result: list[dict[str, Any]] = json.loads(done.stdout)
    return result
