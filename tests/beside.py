"""Our server and qemu-nbd, both as processes, on the same image; and how to ask both the same."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from nbd_talk import GO, SET_META, STRUCTURED, Talk, info, queries
from peers import background, peer, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NBEXPORT = (sys.executable, "-m", "nbexport")
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
BASE, DEPTH, BITMAP = "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:"
EPERM, EIO, EINVAL, ENOSPC = 1, 5, 22, 28
NONE, DATA, HOLE, STATUS_CHUNK, STATUS_EXT = 0, 1, 2, 5, 6
ERROR, ERROR_OFFSET = 0x8001, 0x8002


class Pair(NamedTuple):
    """The sockets of both servers."""

    theirs: Path
    ours: Path


@contextlib.contextmanager
def ours(image: Any, path: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve an image by our command until the block ends."""
    words = [*NBEXPORT, "serve", str(image), "-k", str(path), *options]
    with background(*words, ready=path, **QUIET) as process:
        yield process


@contextlib.contextmanager
def theirs(image: Any, path: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve an image by qemu-nbd until the block ends."""
    words = [peer("qemu-nbd"), "-t", "-e", "0", "-k", str(path), *options, str(image)]
    # It tells of every refusal, and stops when nobody reads that.
    with background(*words, ready=path, **QUIET) as process:
        yield process


@contextlib.contextmanager
def beside(
    image: Any, folder: Path, *options: str, bitmaps: tuple[str, ...] = (), writable: bool = False
) -> Iterator[Pair]:
    """Serve an image by both, with options that both know.

    Args:
        image: what to serve, or two twins of it: theirs, ours.
        folder: where the sockets are made.
        options: of both commands.
        bitmaps: in the order in which clients see them.
        writable: whether clients may write.
    """
    images = image if isinstance(image, tuple) else (image, image)
    pair = Pair(folder / "theirs.sock", folder / "ours.sock")
    for path in pair:
        path.unlink(missing_ok=True)
    mine = [word for name in bitmaps for word in ("-B", name)]
    # qemu-nbd turns the order of its bitmaps round.
    its = [word for name in reversed(bitmaps) for word in ("-B", name)]
    more = ("--writable",) if writable else ()
    with (
        theirs(images[0], pair.theirs, *(() if writable else ("-r",)), *options, *its),
        ours(images[1], pair.ours, *options, *mine, *more),
    ):
        yield pair


def uri(path: Path, export: str = "") -> str:
    return f"nbd+unix:///{export}?socket={path}"


def begin(talk: Talk, *contexts: str | bytes, export: bytes = b"", structured: bool = True) -> None:
    """Negotiate up to the transmission phase."""
    talk.flags()
    if structured:
        talk.option(STRUCTURED)
    if contexts:
        names = [name.encode() if isinstance(name, str) else name for name in contexts]
        talk.option(SET_META, queries(export, *names))
    talk.option(GO, info(export))


def ask(pair: Pair, steps: Callable[[Talk], Any]) -> list[Any]:
    """Return what the steps give with each server, theirs first."""
    results = []
    for path in pair:
        with Talk(path) as talk:
            results.append(steps(talk))
    return results


def same(pair: Pair, script: Callable[[Talk], Any]) -> list[bytes]:
    """Run a script against both; fail at the first reply that differs, return ours."""
    logs = ask(pair, lambda talk: (script(talk), talk.log)[1])
    for number, (expected, got) in enumerate(zip(*logs, strict=True)):
        assert got == expected, f"step {number}"
    log: list[bytes] = logs[1]
    return log


class Chunk(NamedTuple):
    """One chunk of a structured reply."""

    done: bool
    kind: int
    payload: bytes


def chunks(reply: bytes, cookie: int = 0x1122334455667788) -> list[Chunk]:
    """Return the chunks of a structured reply; check their headers."""
    found, at = [], 0
    while at < len(reply):
        magic, flags, kind, echoed, length = struct.unpack_from(">IHHQI", reply, at)
        assert (magic, echoed, flags & ~1) == (0x668E33EF, cookie, 0)
        found.append(Chunk(bool(flags), kind, reply[at + 20 : at + 20 + length]))
        at += 20 + length
    assert [chunk.done for chunk in found] == [False] * (len(found) - 1) + [True]
    return found


def error_of(reply: bytes) -> int:
    """Return the error number of a reply to a request, 0 for success."""
    if reply[:4] == bytes.fromhex("67446698"):
        return int.from_bytes(reply[4:8], "big")
    last = chunks(reply)[-1]
    return int.from_bytes(last.payload[:4], "big") if last.kind & 0x8000 else 0


def assemble(reply: bytes, offset: int, length: int) -> tuple[bytes, list[tuple[int, int, int]]]:
    """Put a read together; check that its chunks are the range, each byte once.

    Returns:
        The bytes, and kind, offset and length of each chunk by offset.
    """
    buffer, parts = bytearray(b"?" * length), []
    for _, kind, payload in chunks(reply):
        at = int.from_bytes(payload[:8], "big")
        if kind == HOLE:
            assert len(payload) == 12
            data = bytes(int.from_bytes(payload[8:], "big"))
        else:
            assert kind == DATA, payload
            data = payload[8:]
        assert data
        parts.append((kind, at, len(data)))
        buffer[at - offset : at - offset + len(data)] = data
    parts.sort(key=lambda part: part[1])
    assert len(buffer) == length
    assert [at for _, at, _ in parts] == [offset + sum(p[2] for p in parts[:n])
                                          for n in range(len(parts))]  # fmt: skip
    assert sum(part[2] for part in parts) == length
    return bytes(buffer), parts


def statuses(reply: bytes) -> list[tuple[int, list[tuple[int, int]]]]:
    """Return the contexts of a block status: the id, and (length, flags) of each extent."""
    found = []
    for _, kind, payload in chunks(reply):
        assert kind == STATUS_CHUNK, payload
        assert len(payload) % 8 == 4
        found.append((
            int.from_bytes(payload[:4], "big"), list(struct.iter_unpack(">II", payload[4:]))
        ))  # fmt: skip
    return found


def nbdsh(path: Path, code: str, *contexts: str, export: str = "") -> Any:
    """Run Python in libnbd's shell, connected as `h`; return what it leaves in `told`.

    The library is told to send what it would refuse itself.
    """
    lines = ["h.set_strict_mode(0)", f"h.set_export_name({export!r})"]
    lines += [f"h.add_meta_context({name!r})" for name in contexts]
    return shell("\n".join([*lines, f"h.connect_unix({str(path)!r})", code]))


def shell(code: str) -> Any:
    """Run Python in libnbd's shell with a handle `h`; return what it leaves in `told`."""
    lines = ["import json, nbd", code, "print(json.dumps(told))", "h.shutdown()"]
    # The library belongs to the system's Python, which the shell takes from PATH.
    environment = {**os.environ, "PATH": f"/usr/bin:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    done = run("nbdsh", "-n", "-c", "h = nbd.NBD()", "-c", "\n".join(lines), env=environment)
    return json.loads(done.stdout)


def qemu_options(path: Path, **options: Any) -> str:
    """Return how QEMU's tools name an export."""
    return "json:" + json.dumps(
        {"driver": "nbd", "server": {"type": "unix", "path": str(path)}, **options}
    )
