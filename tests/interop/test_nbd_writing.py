"""Writable exports beside qemu-nbd: the same replies, the same maps, the same bytes at the end."""

import contextlib
import os
import random
import subprocess
import sys

import pytest
from nbd_talk import (
    CACHE,
    DF,
    FAST_ZERO,
    FLUSH,
    FUA,
    GO,
    INFO,
    NO_HOLE,
    PAYLOAD_LEN,
    READ,
    REQ_ONE,
    SET_META,
    STATUS,
    STRUCTURED,
    TRIM,
    WRITE,
    ZEROES,
    Talk,
    info,
    queries,
    request,
)  # fmt: skip
from peers import background, peer, run

pytestmark = pytest.mark.interop

SIZE = 4 << 20
NBEXPORT = (sys.executable, "-m", "nbexport")


def fill(path):
    with path.open("wb") as file:
        file.truncate(SIZE)
        for at in (0, 1 << 20, 3 << 20):
            file.seek(at)
            file.write(bytes(range(256)) * 1024)


@contextlib.contextmanager
def both(folder, *, shared=0, discard="unmap"):
    """Serve two copies of a raw disk for writing; give (socket, image) of QEMU and of ours."""
    images = folder / "theirs.raw", folder / "ours.raw"
    for image in images:
        fill(image)
    paths = folder / "t", folder / "o"
    theirs = background(
        peer("qemu-nbd"), "-t", "-f", "raw", "-e", str(shared), f"--discard={discard}",
        "-k", paths[0], images[0], ready=paths[0],
    )  # fmt: skip
    ours = background(
        *NBEXPORT, "serve", images[1], "-f", "raw", "--writable", "-e", str(shared),
        "--discard", discard, "-k", paths[1], ready=paths[1], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with theirs, ours:
        yield tuple(zip(paths, images, strict=True))


def begin(path, *, structured=True):
    talk = Talk(path)
    talk.flags()
    if structured:
        talk.option(STRUCTURED)
        talk.option(SET_META, queries(b"", b"base:allocation"))
    talk.option(GO, info(b""))
    return talk


def compare(pair, script, *, structured=True):
    """Run a script against both; compare every reply, then every byte."""
    logs = []
    for path, _ in pair:
        with begin(path, structured=structured) as talk:
            script(talk)
            talk.request(FLUSH)
            logs.append(talk.log)
    for number, (expected, got) in enumerate(zip(*logs, strict=True)):
        assert got == expected, f"step {number}"
    contents = [image.read_bytes() for _, image in pair]
    assert contents[0] == contents[1]
    return contents[0]


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("shared", [0, 1, 2])
def test_34_35_37_the_flags_of_a_writable_export(tmp_path, shared, structured):
    with both(tmp_path, shared=shared) as pair:
        replies = []
        for path, _ in pair:
            with Talk(path) as talk:
                talk.flags()
                if structured:
                    talk.option(STRUCTURED)
                talk.option(INFO, info(b"", 3))
                replies.append(talk.option(GO, info(b"")))
    assert replies[0] == replies[1]
    flags = int.from_bytes(replies[1][-22:-20], "big")
    assert bool(flags & 0x100) == (shared != 1)


@pytest.mark.parametrize("structured", [True, False])
def test_every_command_and_what_is_refused(tmp_path, structured):
    def script(t):
        t.request(WRITE, 10, 5, payload=b"hello")
        t.request(WRITE, 4090, 12, FUA, payload=b"x" * 12)
        t.request(WRITE, SIZE - 1, 1, payload=b"!")
        t.request(WRITE, 0, 0)
        t.request(WRITE, SIZE, 0)
        # Refused, and their data are not taken for requests.
        for offset, length in ((SIZE, 4), (SIZE - 2, 4), (2**64 - 1, 4), (SIZE + 5, 28)):
            t.request(WRITE, offset, length, payload=request(TRIM, 0, SIZE)[:length])
        for flags in (DF, NO_HOLE, REQ_ONE, FAST_ZERO, PAYLOAD_LEN, 0x8000, FUA | DF):
            t.request(WRITE, 0, 4, flags, payload=b"abcd")
        t.request(ZEROES, 65536, 8192)
        t.request(ZEROES, 131072, 8192, NO_HOLE)
        t.request(ZEROES, (1 << 20) + 5, 7, FUA)
        t.request(ZEROES, (1 << 20) + 4096, 4096, FAST_ZERO)
        t.request(ZEROES, (1 << 20) + 16384, 4096, FAST_ZERO | NO_HOLE)
        t.request(ZEROES, 0, 0)
        t.request(ZEROES, SIZE, 1)
        t.request(ZEROES, 4096, 8 << 20)
        t.request(ZEROES, 0, 2**32 - 1)
        t.request(TRIM, 3 << 20, 65536)
        t.request(TRIM, (3 << 20) + 131072, 4096, FUA)
        t.request(TRIM, (3 << 20) + 200001, 3)
        t.request(TRIM, 0, 0)
        t.request(TRIM, SIZE, 1)
        for command in (ZEROES, TRIM, FLUSH, CACHE):
            for flags in (DF, REQ_ONE, PAYLOAD_LEN, 0x8000):
                t.request(command, 0, 512, flags)
        t.request(TRIM, 0, 512, FAST_ZERO)
        t.request(FLUSH, 0, 0, FUA)
        t.request(CACHE, 0, SIZE)
        t.request(READ, 0, 1 << 20, DF if structured else 0)
        t.request(READ, 5, 20, FUA | (DF if structured else 0))

    with both(tmp_path) as pair:
        data = compare(pair, script, structured=structured)
    assert data[10:15] == b"hello"
    assert data[65536 : 65536 + 8192] == bytes(8192)


@pytest.mark.parametrize("discard", ["unmap", "ignore"])
def test_the_map_after_a_write_is_that_of_the_next_request(tmp_path, discard):
    """What was computed before is not told again, on whichever connection the write came."""

    def script(t):
        def look():
            t.request(FLUSH)
            t.request(STATUS, 0, SIZE)
            t.request(STATUS, 0, SIZE)
            t.request(STATUS, 65536, 131072, REQ_ONE)

        look()
        t.request(WRITE, 2 << 20, 65536, payload=b"y" * 65536)
        look()
        t.request(ZEROES, 0, 65536)
        look()
        t.request(ZEROES, 131072, 65536, NO_HOLE)
        look()
        t.request(TRIM, 1 << 20, 131072)
        look()
        t.request(WRITE, 4096, 4096, payload=b"z" * 4096)
        look()

    with both(tmp_path, discard=discard) as pair:
        compare(pair, script)


def test_random_writes_leave_the_same_bytes(tmp_path):
    choose = random.Random(7)
    steps = []
    for number in range(300):
        offset = choose.randrange(SIZE)
        length = min(choose.choice((1, 511, 512, 4096, 65537, 300000)), SIZE - offset)
        command = choose.choice((WRITE, WRITE, ZEROES, TRIM))
        if command == TRIM:  # what a trimmed byte reads as is the same on the same file system
            offset, length = offset // 4096 * 4096, 4096
        steps.append((command, offset, length, choose.choice((0, 0, FUA)), number % 256))

    def script(t):
        for command, offset, length, flags, value in steps:
            payload = bytes([value]) * length if command == WRITE else b""
            t.request(command, offset, length, flags, payload=payload)

    with both(tmp_path) as pair:
        compare(pair, script)


def test_qemu_io_writes_to_ours_what_it_writes_to_qemu_nbd(tmp_path):
    commands = (
        "write -P 0x41 0 64k", "write -P 0x42 100k 3k", "write -f -P 0x43 1M 512",
        "write -z 200k 64k", "write -z -u 300k 64k", "write -z -n 400k 64k", "discard 3M 128k",
        "flush", "aio_write -P 0x44 2M 1M", "aio_write -P 0x45 3500k 64k", "aio_flush",
        "read -P 0x44 2M 1M", "read -P 0 200k 64k",
    )  # fmt: skip
    words = [word for command in commands for word in ("-c", command)]
    with both(tmp_path) as pair:
        for path, _ in pair:
            done = run("qemu-io", "-f", "raw", *words, f"nbd+unix:///?socket={path}")
            assert "verification failed" not in done.stdout + done.stderr
        contents = [image.read_bytes() for _, image in pair]
    assert contents[0] == contents[1]
    assert contents[1][:65536] == b"A" * 65536


def test_nbdcopy_writes_a_disk_over_several_connections(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20) + bytes(1 << 20) + os.urandom(2 << 20))
    with both(tmp_path) as pair:
        for path, image in pair:
            run("nbdcopy", "--flush", source, f"nbd+unix:///?socket={path}")
            assert image.read_bytes() == source.read_bytes()


def test_what_is_written_into_a_hole_is_read_as_data(tmp_path):
    """Clients that skip holes must not skip what another connection has just written there."""
    with both(tmp_path) as pair:
        for path, image in pair:
            uri = f"nbd+unix:///?socket={path}"
            run("nbdcopy", uri, tmp_path / "before")
            with begin(path) as one, begin(path) as other:
                other.request(READ, 2 << 20, 65536)
                other.request(READ, 2 << 20, 65536)
                for at in range(2 << 20, (2 << 20) + 65536, 8192):
                    one.request(WRITE, at, 4096, payload=b"n" * 4096)
                    assert b"n" * 4096 in other.request(READ, at, 4096)
                one.request(FLUSH)
            run("nbdcopy", uri, tmp_path / "after")
            assert (tmp_path / "after").read_bytes() == image.read_bytes()
            assert (tmp_path / "after").read_bytes()[2 << 20 :][:4096] == b"n" * 4096


def test_what_cannot_be_written_is_refused(tmp_path, two_bitmaps_copy):
    image = tmp_path / "disk.raw"
    fill(image)
    before = two_bitmaps_copy.read_bytes()
    for words, text in (
        ([image, "--writable"], "--writable needs --format"),
        ([image, "--writable", "-f", "qcow2"], "Image is not in qcow2 format"),
        ([two_bitmaps_copy, "--writable", "-f", "vmdk"], "vmdk"),
        ([tmp_path / "none", "--writable", "-f", "raw"], "No such file or directory"),
    ):
        done = subprocess.run(
            [*NBEXPORT, "serve", *map(str, words), "-k", str(tmp_path / "s")],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert text in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "s").exists()
    assert two_bitmaps_copy.read_bytes() == before
