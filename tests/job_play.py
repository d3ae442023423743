"""The same done with jobs of QEMU's and of the emulator: what both do, and what is compared."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING, Any

from monitors import OURS_AS_SYSTEM, SYSTEM, monitor, qcow2, unix
from peers import background, peer, run
from told import masked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from monitors import Monitor

MiB = 1 << 20
SIZE = 4 * MiB


def make_images(folder: Path) -> list[Path]:
    """Make ``src.qcow2``, with data, and ``dst.qcow2``, without."""
    source, target = folder / "src.qcow2", folder / "dst.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", source, str(SIZE))
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 2M", "-c", "write -P 8 3M 10k", source)
    run("qemu-img", "create", "-q", "-f", "qcow2", target, str(SIZE))
    return [source, target]


def both(tmp_path: Path, images: Sequence[Path], act: Callable[[Monitor], object]) -> list[Path]:
    """Do the same with both programs; compare what they told and what was seen."""
    found = []
    for program in (SYSTEM, OURS_AS_SYSTEM):
        with monitor(program, tmp_path / program, *images) as client:
            seen = act(client)
            client.quit()
            found.append((masked(client.log), seen))
    for theirs, ours in zip(found[0][0], found[1][0], strict=True):
        assert ours == theirs, f"{ours}\nQEMU: {theirs}"
    assert found[1][1] == found[0][1]
    return [tmp_path / program for program in (SYSTEM, OURS_AS_SYSTEM)]


def null(client: Monitor, *names: str, **more: Any) -> None:
    """Add disks without storage."""
    for name in names:
        client.execute("blockdev-add", driver="null-co", node_name=name, size=SIZE, **more)


def writable(name: str, node: str, **more: Any) -> dict[str, Any]:
    """Return the arguments of blockdev-add for an image that may be written."""
    return qcow2(name, read_only=False, node_name=node, **more)


def backup(client: Monitor, **more: Any) -> Any:
    """Start a backup, of ``n1`` to ``n2`` unless something else is said."""
    words = {"job_id": "j", "device": "n1", "target": "n2", "sync": "none", **more}
    return client.execute("blockdev-backup", **words)


def action(job: str, target: str, **more: Any) -> dict[str, Any]:
    """Return an action of a transaction that starts a backup of ``s``."""
    data = {"job-id": job, "device": "s", "target": target, "sync": "none", **more}
    return {"type": "blockdev-backup", "data": data}


def until(client: Monitor, job: str, status: str) -> None:
    """Take events until a job has come to a state since it was created."""

    def come() -> bool:
        told = [each.get("data") for each in client.log]
        created = len(told) - told[::-1].index({"id": job, "status": "created"})
        return {"id": job, "status": status} in told[created:]

    while not come():
        client.take()


def until_pending(client: Monitor, job: str) -> None:
    """Take events until a job waits to be finalized."""
    until(client, job, "pending")
    while client.log[-1].get("data") == {"id": job, "status": "pending"}:
        client.take()


def until_told(client: Monitor, job: str, status: str, times: int) -> None:
    """Take events until a job has been told to have come to a state so many times."""
    while [each.get("data") for each in client.log].count({"id": job, "status": status}) < times:
        client.take()


def guest(client: Monitor, node: str = "s") -> Callable[..., None]:
    """Let the disk be written, and return what does that."""
    client.execute("nbd-server-start", addr=unix())
    client.execute("block-export-add", type="nbd", id="g", node_name=node, name="g", writable=True)
    where = f"nbd+unix:///g?socket={client.folder}/nbd.sock"

    def write(*commands: str) -> None:
        words = [word for command in commands for word in ("-c", command)]
        run("qemu-io", "-f", "raw", *words, where)

    return write


def look(client: Monitor) -> None:
    """Ask for all there is."""
    client.execute("query-jobs")
    client.execute("query-block-jobs")
    client.execute("query-named-block-nodes", flat=True)


def digest(image: str, folder: Path) -> str:
    """Return the hash of what a guest sees of an image."""
    raw = folder / "compared.raw"
    run("qemu-img", "convert", "-O", "raw", folder / image, raw)
    return hashlib.sha256(raw.read_bytes()).hexdigest()


def serving(
    image: Path, socket: Path, *options: str
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Serve an image to several clients."""
    words = ["qemu-nbd", "-t", "-e", "9", "-k", socket, "-f", "qcow2", *options, image]
    return background(peer("qemu-nbd"), *words[1:], ready=socket, stderr=subprocess.DEVNULL)
