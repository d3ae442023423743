"""``-s``: what clients write goes to an overlay in a file that nobody can find."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import pytest
from in_place import make_folder
from peers import TIME_LIMIT, background, nbdinfo_map, peer, run

pytestmark = pytest.mark.interop

CONTEXTS = ("base:allocation", "qemu:allocation-depth")
WRITES = ["write -P 7 128k 64k", "write -z 0 4k", "discard 192k 64k", "write -P 9 510 4", "flush"]


@pytest.fixture
def folder(tmp_path):
    """Images that are left alone, and a folder for temporary files."""
    base, top = tmp_path / "base.qcow2", tmp_path / "q.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "4M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", base)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 2 64k 96k", top)
    run("qemu-img", "bitmap", "--add", top, "b0")
    (tmp_path / "odd.raw").write_bytes(b"raw" * 100_000)
    (tmp_path / "tmp").mkdir()
    make_folder(tmp_path)
    return tmp_path


def commands(folder):
    return peer("qemu-nbd"), str(folder / "in-place" / "qemu-nbd")


def seen(uri, contexts):
    """Return all that clients learn of the export: its flags, its maps, its data."""
    (export,) = json.loads(run("nbdinfo", "--json", uri).stdout)["exports"]
    export.pop("uri")
    maps = [nbdinfo_map(uri, context) for context in contexts]
    return export, maps, run("nbdcopy", uri, "-", check=False).stdout


@pytest.mark.parametrize(
    ("words", "contexts"),
    [
        (["-A", "-B", "b0", "-f", "qcow2", "q.qcow2"], (*CONTEXTS, "qemu:dirty-bitmap:b0")),
        (["-A", "--discard=unmap", "-f", "raw", "odd.raw"], CONTEXTS),
        (["-A", "-o", "512", "-f", "raw", "odd.raw"], CONTEXTS),
        (["--image-opts", "driver=qcow2,file.filename=q.qcow2"], CONTEXTS[:1]),
    ],
    ids=["qcow2", "raw", "part", "options"],
)
def test_writes_stay_in_an_overlay(words, contexts, folder):
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    temporary = {**os.environ, "TMPDIR": str(folder / "tmp")}
    told = []
    for command in commands(folder):
        path = folder / "s.sock"
        path.unlink(missing_ok=True)
        uri = f"nbd+unix:///?socket={path}"
        argv = [command, "-t", "-s", "-k", path, *words]
        with background(*argv, ready=path, cwd=folder, env=temporary) as process:
            first = seen(uri, contexts)
            run("qemu-io", "-f", "raw", *(x for write in WRITES for x in ("-c", write)), uri)
            told.append((first, seen(uri, contexts)))
            assert not list((folder / "tmp").iterdir())
            process.send_signal(signal.SIGKILL)
            process.wait(TIME_LIMIT)
        assert not list((folder / "tmp").iterdir())
    assert told[1] == told[0]
    assert told[0][0] != told[0][1]
    assert {path: path.read_bytes() for path in before} == before


def test_reading_only_needs_an_overlay_as_well(folder):
    path = folder / "s.sock"
    told = []
    for command in commands(folder):
        path.unlink(missing_ok=True)
        argv = [command, "-t", "-s", "-r", "-A", "-k", path, "-f", "qcow2", "q.qcow2"]
        with background(*argv, ready=path, cwd=folder):
            told.append(seen(f"nbd+unix:///?socket={path}", CONTEXTS))
    assert told[1] == told[0]


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["-f", "raw", "odd.raw"], "nowhere"),
        (["--image-opts", "driver=null-co,size=2251799813685760"], "tmp"),
    ],
    ids=["no folder", "too large"],
)
def test_an_overlay_that_cannot_be_made_is_told_of(words, where, folder):
    told = []
    for command in commands(folder):
        done = subprocess.run(
            [command, "-s", "-k", folder / "s.sock", *words],
            cwd=folder, env={**os.environ, "TMPDIR": str(folder / where)},
            capture_output=True, text=True, timeout=TIME_LIMIT, check=False,
        )  # fmt: skip
        told.append((done.returncode, re.sub(r"/vl\.\w+'", "/vl.X'", done.stderr)))
        (folder / "s.sock").unlink()
    assert told[1] == told[0]
    assert told[0][0] == 1
    assert not list((folder / "tmp").iterdir())
