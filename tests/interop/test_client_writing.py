"""Our client writes through qemu-nbd, nbdkit and our own server, and the disks are the same."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import contextmanager

import pytest
from peers import background, peer

from nbexport.errors import PeerError, UsageError
from nbexport.nbd import Client

pytestmark = pytest.mark.interop

SIZE = 4 << 20


@contextmanager
def serving(server, image, path):
    if server == "nbexport":
        words = [sys.executable, "-m", "nbexport", "serve", "-f", "raw", "--writable"]
        words += ["-k", path, image]
    elif server == "qemu-nbd":
        words = [peer("qemu-nbd"), "-t", "-f", "raw", "-k", path, image]
    else:
        words = [peer("nbdkit"), "-f", "-U", path, "file", image]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with background(*words, ready=path, **quiet):
        yield f"nbd+unix:///?socket={path}"


@pytest.mark.parametrize("server", ["nbexport", "qemu-nbd", "nbdkit"])
def test_the_disk_is_what_was_written(server, tmp_path):
    chance = random.Random(5)
    image = tmp_path / "disk.raw"
    expected = bytearray(chance.randbytes(SIZE))
    image.write_bytes(expected)
    with serving(server, image, tmp_path / "s") as uri:
        with Client.connect(uri) as client:
            for _ in range(60):
                offset = chance.randrange(SIZE)
                length = chance.randrange(1, min(300_000, SIZE - offset) + 1)
                if chance.random() < 0.6:
                    data = chance.randbytes(length)
                    client.write(offset, data, fua=chance.random() < 0.2)
                else:
                    data = bytes(length)
                    client.write_zeroes(offset, length, may_trim=chance.random() < 0.5)
                expected[offset : offset + length] = data
            client.flush()
            client.cache(0, SIZE)
            assert client.read(0, SIZE) == expected
            client.trim(0, 65536)
            with pytest.raises(UsageError, match="range outside the disk"):
                client.write(SIZE, b"x")
        with Client.connect(uri) as client:
            assert client.read(65536, SIZE - 65536) == expected[65536:]
    assert image.read_bytes()[65536:] == expected[65536:]


def test_what_is_read_only_is_not_written(tmp_path):
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(SIZE))
    path = tmp_path / "s"
    words = [sys.executable, "-m", "nbexport", "serve", "-f", "raw", "-k", path, image]
    with (
        background(*words, ready=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
        Client.connect(f"nbd+unix:///?socket={path}") as client,
    ):
        for do in (
            lambda: client.write(0, b"x"),
            lambda: client.write_zeroes(0, 512),
            lambda: client.trim(0, 512),
        ):
            with pytest.raises(UsageError, match="the export is read-only"):
                do()
        client.flush()
        assert client.read(0, 512) == bytes(512)


def test_a_server_that_fails_is_told(tmp_path):
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(SIZE))
    path = tmp_path / "s"
    words = [peer("nbdkit"), "-f", "-U", path, "--filter=error", "file", image]
    words += ["error-pwrite=ENOSPC", "error-pwrite-rate=100%"]
    with (
        background(*words, ready=path, stderr=subprocess.DEVNULL),
        Client.connect(f"nbd+unix:///?socket={path}") as client,
    ):
        with pytest.raises(PeerError, match=r"write at offset 512: .*ENOSPC"):
            client.write(512, b"x" * 512)
        # the connection goes on
        assert client.read(0, 1024) == bytes(1024)
