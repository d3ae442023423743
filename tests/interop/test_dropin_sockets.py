"""Listening at a unix socket's path where something is already, or that is too long."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from in_place import SERVERS, make_folder
from peers import TIME_LIMIT, background, listens, peer, run

pytestmark = pytest.mark.interop

NAMES = list(SERVERS)
FIELD = 108  # bytes that the kernel has for a path


def words_of(name, path, *more):
    """Return what makes a program listen at a path."""
    if name == "qemu-nbd":
        return ["-t", "-k", str(path), *(more or ("-f", "raw", "-r", "disk.raw"))]
    if name == "qemu-storage-daemon":
        return ["--nbd-server", f"addr.type=unix,addr.path={path}", *more]
    machine = ["-M", "none", "-nodefaults", "-display", "none"]
    return [*machine, "-qmp", f"unix:{path},server=on,wait=off", *more]


def commands(name, folder):
    """Return QEMU's program and ours, under the same name."""
    return peer(name), str(folder / "in-place" / name)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "disk.raw").write_bytes(bytes(1 << 20))
    make_folder(tmp_path)
    return tmp_path


@contextmanager
def running(command, name, path):
    words = words_of(name, path)
    with background(command, *words, ready=path, cwd=path.parent) as process:
        yield process


def ended(command, name, path, *more):
    """Return how a program ended that could not begin."""
    done = subprocess.run(
        [command, *words_of(name, path, *more)],
        cwd=path.parent, capture_output=True, text=True, timeout=TIME_LIMIT, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def stop(process):
    process.terminate()
    process.wait(TIME_LIMIT)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_at_the_path_is_replaced(name, folder):
    path = folder / "s.sock"
    left = []
    for command in commands(name, folder):
        path.unlink(missing_ok=True)
        path.write_text("of no use")
        with running(command, name, path), running(command, name, path) as later:
            assert listens(later.pid, path)
            stop(later)
        left.append(path.exists())
    # The storage daemon's end does not look at the NBD server's socket.
    assert left == [name == "qemu-storage-daemon"] * 2


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_later_servers_socket_survives_an_earlier_one(name, folder):
    path = folder / "s.sock"
    left = []
    for command in commands(name, folder):
        with running(command, name, path) as first, running(command, name, path) as second:
            stop(first)
            left.append(path.exists())
            stop(second)
        path.unlink(missing_ok=True)
    # QEMU's removes what is there, unless its end does not look at it.
    assert left == [name == "qemu-storage-daemon", True]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_at_the_path_is_told_of(name, folder):
    path = folder / "s.sock"
    path.mkdir()
    theirs, ours = (ended(command, name, path) for command in commands(name, folder))
    assert ours == theirs
    assert f"Failed to unlink socket {path}: Is a directory" in ours[1]


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_path_may_fill_the_kernels_field(name, folder):
    short = Path("/tmp", f"nbexport-{os.getpid()}")
    short.mkdir(exist_ok=True)
    try:
        shutil.copy(folder / "disk.raw", short)
        path = short / ("x" * (FIELD - 1 - len(str(short))))
        for command in commands(name, folder):
            with running(command, name, path):
                # Few clients know such a path, QEMU's does.
                assert "exports available" in run("qemu-nbd", "-L", "-k", path).stdout
            path.unlink(missing_ok=True)
        longer = path.with_name(f"{path.name}x")
        theirs, ours = (ended(command, name, longer) for command in commands(name, folder))
        assert ours == theirs
        assert f"is too long\nPath must be less than {FIELD} bytes\n" in ours[1]
    finally:
        shutil.rmtree(short)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("qemu-nbd", ["-f", "raw", "nope"]),
        ("qemu-nbd", ["-f", "raw", "disk.raw", "-B", "nope"]),
        ("qemu-nbd", ["-f", "raw", "disk.raw", "--pid-file", "/nonexistent/pid"]),
        ("qemu-storage-daemon", ["--export", "type=nbd,id=e,node-name=nope"]),
        ("qemu-system-x86_64", ["-blockdev", "driver=file,node-name=f,filename=nope"]),
    ],
    ids=["image", "bitmap", "pid file", "export", "node"],
)
def test_the_socket_stays_when_nothing_can_be_served(name, more, folder):
    path = folder / "s.sock"
    for command in commands(name, folder):
        status, _ = ended(command, name, path, *more)
        assert (status, path.is_socket()) == (1, True)
        path.unlink()


@pytest.mark.parametrize("label", ["user:role:type:s0", ""])
def test_a_label_is_the_kernels_affair(label, folder):
    path = folder / "s.sock"
    words = ["-f", "raw", "disk.raw", f"--selinux-label={label}"]
    theirs, ours = (
        ended(command, "qemu-nbd", path, *words) for command in commands("qemu-nbd", folder)
    )
    assert ours == theirs
    assert "Cannot set SELinux socket create context" in ours[1]
