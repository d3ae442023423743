"""nbexport copy and info, beside nbdcopy, qemu-img and nbdinfo."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from peers import background, peer, qemu_nbd, run

from nbexport.cli.main import cli
from nbexport.errors import PeerError, SourceError, UsageError
from nbexport.nbd.copy import copy
from nbexport.units import MiB

pytestmark = pytest.mark.interop

SIZE = 64 << 20


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A disk with a checkpoint: written, a bitmap added, written again."""
    path = tmp_path_factory.mktemp("image") / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    first = ["write -P 1 0 3M", "write -P 2 10M 64k", "write -z 20M 2M"]
    run("qemu-io", "-f", "qcow2", *(word for line in first for word in ("-c", line)), path)
    shutil.copy(path, path.with_name("before.qcow2"))
    run("qemu-img", "bitmap", "--add", path, "b0")
    second = ["write -P 3 1M 64k", "write -P 4 30M 100k", "discard 10M 64k", "write -z 2M 64k"]
    run("qemu-io", "-f", "qcow2", *(word for line in second for word in ("-c", line)), path)
    return path


def converted(image, target):
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, target)
    return target.read_bytes()


def serve(server, image, folder, *options):
    if server == "qemu-nbd":
        return qemu_nbd(image, folder, *options)
    return Ours(image, folder, *options)


class Ours:
    def __init__(self, image, folder, *options):
        self.path = folder / "ours.sock"
        self.running = background(
            *(sys.executable, "-m", "nbexport", "serve", image, "-k", self.path, *options),
            ready=self.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self):
        self.running.__enter__()
        return f"nbd+unix:///?socket={self.path}"

    def __exit__(self, *exception):
        self.running.__exit__(*exception)


@pytest.mark.parametrize("server", ["nbexport", "qemu-nbd"])
def test_a_full_copy(server, image, tmp_path):
    expected = converted(image, tmp_path / "expected.raw")
    target = tmp_path / "copy.raw"
    with serve(server, image, tmp_path) as uri:
        told = copy(uri, target)
        run("nbdcopy", uri, tmp_path / "theirs.raw")
    assert target.read_bytes() == expected == (tmp_path / "theirs.raw").read_bytes()
    assert (told.size, told.selected) == (SIZE, SIZE)
    assert 3 << 20 <= told.transferred < 5 << 20
    # what reads as zeroes takes no room
    assert target.stat().st_blocks * 512 <= (tmp_path / "theirs.raw").stat().st_blocks * 512 + 65536
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("server", ["nbexport", "qemu-nbd"])
def test_an_incremental_copy(server, image, tmp_path):
    expected = converted(image, tmp_path / "expected.raw")
    target = tmp_path / "copy.raw"
    before = converted(image.with_name("before.qcow2"), target)
    assert before != expected
    seen = []
    with serve(server, image, tmp_path, "-B", "b0") as uri:
        told = copy(
            uri, target, bitmap="b0", progress=lambda done, total: seen.append((done, total))
        )
    assert target.read_bytes() == expected
    assert told.selected == 5 * 65536
    assert told.transferred <= told.selected
    assert seen[0] == (0, told.selected)
    assert seen[-1] == (told.selected, told.selected)


def test_what_cannot_be_copied(image, tmp_path):
    target = tmp_path / "copy.raw"
    with qemu_nbd(image, tmp_path, "-B", "b0") as uri:
        with pytest.raises(SourceError, match=r"copy\.raw: No such file"):
            copy(uri, target, bitmap="b0")
        with pytest.raises(UsageError, match="no metadata context 'qemu:dirty-bitmap:b1'"):
            copy(uri, target, bitmap="b1")
        target.write_bytes(b"short")
        with pytest.raises(UsageError, match=f"5 bytes, but the export has {SIZE}"):
            copy(uri, target, bitmap="b0")
        assert target.read_bytes() == b"short"
        with pytest.raises(SourceError, match="nowhere"):
            copy(uri, tmp_path / "nowhere" / "copy.raw")
    with pytest.raises(PeerError):
        copy(uri, target)
    assert target.read_bytes() == b"short"


def test_a_copy_that_fails_leaves_nothing(tmp_path):
    peer("nbdkit")
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"x" * (8 << 20))
    path = tmp_path / "kit.sock"
    command = [peer("nbdkit"), "-f", "-U", path, "--filter=error", "file", disk]
    command += ["error-pread=EIO", "error-pread-rate=100%"]
    target = tmp_path / "copy.raw"
    target.write_bytes(b"old")
    with (
        background(*command, ready=path, stderr=subprocess.DEVNULL),
        pytest.raises(PeerError, match="EIO"),
    ):
        copy(f"nbd+unix:///?socket={path}", target)
    assert target.read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir()} <= {"disk.raw", "kit.sock", "copy.raw"}


def test_what_is_no_regular_file_keeps_its_place(image, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    target, link = tmp_path / "copy.raw", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with qemu_nbd(image, tmp_path) as uri:
        with pytest.raises(UsageError, match="pipe: not a regular file"):
            copy(uri, pipe)
        copy(uri, link)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert target.stat().st_size == SIZE


def test_a_server_that_takes_short_reads_only(tmp_path):
    disk, path, target = tmp_path / "disk.raw", tmp_path / "kit.sock", tmp_path / "copy.raw"
    disk.write_bytes(bytes(range(256)) * 4096 * 3)
    command = [peer("nbdkit"), "-f", "-U", path, "--filter=blocksize-policy", "file", disk]
    command += ["blocksize-minimum=512", "blocksize-preferred=4096", "blocksize-maximum=65536"]
    with background(*command, "blocksize-error-policy=error", ready=path):
        copy(f"nbd+unix:///?socket={path}", target)
    assert target.read_bytes() == disk.read_bytes()


def test_zeroes_that_are_data_take_no_room(tmp_path):
    """As nbdcopy and qemu-img leave them out; a disk that ends within a block is whole."""
    disk, target = tmp_path / "disk.raw", tmp_path / "copy.raw"
    parts = [bytes(MiB), b"a" * 4096, bytes(3 * MiB), bytes(4095) + b"b", bytes(MiB), b"c" * 512]
    disk.write_bytes(b"".join(parts))
    with qemu_nbd(disk, tmp_path, "-f", "raw") as uri:
        told = copy(uri, target)
        run("nbdcopy", uri, tmp_path / "theirs.raw")
    assert told.transferred == disk.stat().st_size
    assert target.read_bytes() == disk.read_bytes()
    assert target.stat().st_blocks <= (tmp_path / "theirs.raw").stat().st_blocks


@pytest.fixture(scope="module")
def much_changed(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    run("qemu-img", "bitmap", "--add", path, "b0")
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 9 0 {SIZE}", path)
    return path


def test_an_increment_that_ends_early_says_what_it_leaves(much_changed, tmp_path, monkeypatch):
    target = tmp_path / "copy.raw"
    with qemu_nbd(much_changed, tmp_path, "-B", "b0", "-e", "4") as uri:

        def stop_at(limit):
            def progress(done, _total):
                if done >= limit:
                    raise KeyboardInterrupt

            return progress

        target.write_bytes(bytes(SIZE))
        with pytest.raises(KeyboardInterrupt) as stopped:
            copy(uri, target, bitmap="b0", progress=stop_at(0))
        assert not stopped.value.args
        assert not any(target.read_bytes())
        with pytest.raises(KeyboardInterrupt, match="neither the old nor the new"):
            copy(uri, target, bitmap="b0", progress=stop_at(20 * MiB))
        assert any(target.read_bytes())

        write = os.pwrite

        def full(file, data, offset):
            if offset >= 30 * MiB:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, data, offset)

        monkeypatch.setattr(os, "pwrite", full)
        expected = r"copy\.raw: No space left on device \(the copy is neither"
        with pytest.raises(SourceError, match=expected):
            copy(uri, target, bitmap="b0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_copy_that_is_stopped_leaves_nothing(tmp_path, number):
    disk, path, folder = tmp_path / "disk.raw", tmp_path / "kit.sock", tmp_path / "out"
    disk.write_bytes(b"x" * SIZE)
    folder.mkdir()
    command = [peer("nbdkit"), "-f", "-U", path, "--filter=delay", "file", disk, "rdelay=500ms"]
    words = ["nbexport", "copy", f"nbd+unix:///?socket={path}", folder / "full.raw"]
    with background(*command, ready=path, stderr=subprocess.DEVNULL):
        copying = subprocess.Popen(
            [sys.executable, "-m", *words], stderr=subprocess.PIPE, text=True
        )
        try:
            until = time.monotonic() + 30
            while not list(folder.iterdir()) and time.monotonic() < until:
                time.sleep(0.02)
            assert list(folder.iterdir())
            copying.send_signal(number)
            assert copying.communicate(timeout=30)[1] == "nbexport: interrupted\n"
        finally:
            copying.kill()
            copying.wait()
    assert copying.returncode == 128 + number
    assert list(folder.iterdir()) == []


def invoke(*words):
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_the_command(image, tmp_path):
    with qemu_nbd(image, tmp_path, "-B", "b0") as uri:
        result = invoke("copy", uri, tmp_path / "full.raw", "--json")
        assert json.loads(result.stdout)["size"] == SIZE
        result = invoke("copy", uri, tmp_path / "full.raw", "-B", "b0")
        assert result.stdout.startswith(f"{tmp_path}/full.raw: 327680 of {SIZE} bytes selected")


def test_an_increment_gives_back_what_became_zeroes(tmp_path):
    """Zeroed, discarded, or written with zeroes: the older copy has data there."""
    disk, target = tmp_path / "disk.qcow2", tmp_path / "copy.raw"
    run("qemu-img", "create", "-q", "-f", "qcow2", disk, "8M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 8M", disk)
    with qemu_nbd(disk, tmp_path) as uri:
        copy(uri, target)
    assert target.stat().st_blocks * 512 >= 8 << 20
    run("qemu-img", "bitmap", "--add", disk, "b0")
    changes = ["write -z 0 1M", "discard 2M 1M", "write -P 0 4M 1M", "write -P 5 6M 4k"]
    run("qemu-io", "-f", "qcow2", *(word for line in changes for word in ("-c", line)), disk)
    with qemu_nbd(disk, tmp_path, "-B", "b0") as uri:
        told = copy(uri, target, bitmap="b0")
    assert target.read_bytes() == converted(disk, tmp_path / "expected.raw")
    assert target.stat().st_blocks * 512 <= (5 << 20) + 65536
    assert (told.selected, told.transferred) == ((3 << 20) + 65536, (1 << 20) + 65536)
