"""Writable disks, statement by statement, qemu-nbd beside our server on a twin."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from beside import (
    BASE,
    BITMAP,
    EINVAL,
    ENOSPC,
    QUIET,
    ask,
    begin,
    beside,
    error_of,
    nbdsh,
    ours,
    same,
    statuses,
    theirs,
    uri,
)
from disks import RAW_SIZE, layers, raw_disk
from nbd_talk import (
    CLOSED,
    DF,
    FAST_ZERO,
    FLUSH,
    FUA,
    NO_HOLE,
    READ,
    STATUS,
    TRIM,
    WRITE,
    ZEROES,
    Talk,
    request,
)
from peers import background, nbdinfo_map, run

pytestmark = pytest.mark.interop

MAX = 32 << 20
SIZE = 4 << 20
LAST = (1 << 64) - 1


@pytest.fixture(scope="module")
def by_the_book(tmp_path_factory):
    """A writable disk of a server that follows the protocol where QEMU does not."""
    folder = tmp_path_factory.mktemp("book")
    image = raw_disk(folder / "disk.raw")
    with ours(image, folder / "s", "-f", "raw", "--profile", "spec", "--writable"):
        yield folder / "s"


def twins(folder):
    images = folder / "theirs.raw", folder / "ours.raw"
    for image in images:
        with image.open("wb") as file:
            file.truncate(SIZE)
            for at in (0, 1 << 20, 3 << 20):
                file.seek(at)
                file.write(bytes(range(256)) * 1024)
    return images


@pytest.fixture(scope="module")
def writable(tmp_path_factory):
    """Twin disks behind both servers, their sockets and their images."""
    folder = tmp_path_factory.mktemp("writable")
    images = twins(folder)
    with beside(images, folder, "-f", "raw", "--discard=unmap", writable=True) as pair:
        yield pair, images


def same_bytes(images):
    contents = [image.read_bytes() for image in images]
    assert contents[0] == contents[1]
    return contents[1]


def test_082_too_long_a_write_changes_nothing(writable):
    """Where writes are allowed its data are not written, and not taken for requests."""

    def script(t):
        begin(t)
        assert error_of(t.request(WRITE, 0, MAX + 1)) == EINVAL
        t.send(request(ZEROES, 0, SIZE) * 10)
        assert t.end() == CLOSED

    pair, images = writable
    same(pair, script)
    assert any(same_bytes(images)[:512])


def test_088_writing_behind_the_end_has_no_space(writable, by_the_book):
    """Where there is no room for data the error is ENOSPC; QEMU says EINVAL to everything."""

    def steps(size):
        def run_them(t):
            begin(t)
            told = []
            for offset, length in ((size, 4), (size - 2, 4), (LAST, 4), (size + 5, 28)):
                data = request(TRIM, 0, size)[:length]
                told += [t.request(WRITE, offset, length, payload=data),
                         t.request(ZEROES, offset, length), t.request(TRIM, offset, length),
                         t.request(READ, size, 1)]  # fmt: skip
            t.request(FLUSH)
            return [error_of(reply) for reply in told]

        return run_them

    pair, images = writable
    same(pair, steps(SIZE))
    assert ask(pair, steps(SIZE))[1] == [EINVAL] * 16
    same_bytes(images)
    with Talk(by_the_book) as talk:
        assert steps(RAW_SIZE)(talk) == [ENOSPC, ENOSPC, EINVAL, EINVAL] * 4


def test_089_fua_makes_a_write_durable_before_it_is_answered(tmp_path):
    """The file is synchronized between the write and its reply, and not without FUA."""
    image, path, log = raw_disk(tmp_path / "disk.raw"), tmp_path / "s", tmp_path / "log"
    launcher = (
        "import os, sys\n"
        "def note(name, real=None):\n"
        "    real = getattr(os, name)\n"
        "    def call(*words):\n"
        "        done = real(*words)\n"
        f"        with open({str(log)!r}, 'a') as file: file.write(name + '\\n')\n"
        "        return done\n"
        "    setattr(os, name, call)\n"
        "note('fsync'); note('fdatasync')\n"
        "from nbexport.cli.main import main\n"
        "sys.argv = ['nbexport', *sys.argv[1:]]\n"
        "main()\n"
    )
    log.touch()

    def syncs():
        count = len(log.read_text().splitlines())
        log.write_text("")
        return count

    words = ["serve", str(image), "-f", "raw", "--writable", "-k", str(path)]
    with (
        background(sys.executable, "-c", launcher, *words, ready=path, **QUIET),
        Talk(path) as talk,
    ):
        begin(talk)
        for arguments in ((WRITE, 0, 4), (ZEROES, 8192, 4096), (TRIM, 1 << 20, 4096)):
            payload = b"abcd" if arguments[0] == WRITE else b""
            for flags, expected in ((0, 0), (FUA, 1)):
                assert error_of(talk.request(*arguments, flags, payload=payload)) == 0
                assert syncs() == expected, arguments
        assert error_of(talk.request(FLUSH)) == 0
        assert syncs() == 1
    assert image.read_bytes()[:4] == b"abcd"


def zeroed_map(path):
    """Return what is allocated of an image, from the file itself."""
    rows = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", path).stdout)
    return [(row["start"], row["length"], row["data"]) for row in rows]


def test_090_no_hole_keeps_what_is_allocated(tmp_path):
    """Zeroes with NO_HOLE stay allocated; without it they may give storage back, as in QEMU."""
    images = twins(tmp_path)
    with beside(images, tmp_path, "-f", "raw", "--discard=unmap", writable=True) as pair:
        for path in pair:
            done = run("qemu-io", "-f", "raw", "-c", "write -z 64k 64k", uri(path))
            assert "wrote" in done.stdout

        def script(t):
            begin(t, BASE)
            t.request(ZEROES, 1 << 20, 65536, NO_HOLE)
            t.request(ZEROES, 3 << 20, 65536)
            t.request(FLUSH)
            for at in (65536, 1 << 20, 3 << 20):
                assert t.request(READ, at, 65536, DF)[28:] == bytes(65536)
            t.request(STATUS, 0, SIZE)

        ((_, extents),) = statuses(same(pair, script)[-1])
        at = 0
        flags = {}
        for length, value in extents:
            flags |= dict.fromkeys(range(at, at + length, 65536), value)
            at += length
        assert flags[3 << 20] == 3
        assert zeroed_map(images[0]) == zeroed_map(images[1])
        same_bytes(images)
        assert images[1].stat().st_blocks == images[0].stat().st_blocks


def places():
    """Return folders on file systems that differ in how they can zero a range."""
    found = {"temporary": Path(tempfile.gettempdir())}
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK):
        found["memory"] = memory
    return found


@pytest.mark.parametrize("where", places())
def test_091_fast_zeroing_is_fast_or_refused(where):
    """With FAST_ZERO: success or ENOTSUP; without it never ENOTSUP."""
    folder = Path(tempfile.mkdtemp(dir=places()[where]))
    try:
        images = twins(folder)
        with beside(images, folder, "-f", "raw", "--discard=unmap", writable=True) as pair:

            def script(t):
                begin(t)
                for flags in (FAST_ZERO, FAST_ZERO | NO_HOLE, FAST_ZERO | FUA):
                    for at, length in ((0, 65536), (1 << 20, 4096), ((3 << 20) + 5, 300)):
                        assert error_of(t.request(ZEROES, at, length, flags)) in {0, 95}
                for flags in (0, NO_HOLE, FUA):
                    assert error_of(t.request(ZEROES, 131072, 8192, flags)) == 0
                assert error_of(t.request(TRIM, 0, 512, FAST_ZERO)) == EINVAL
                t.request(FLUSH)

            if where == "temporary":
                same(pair, script)
            else:  # what is fast depends on the file system, and on how a server asks it
                ask(pair, script)
            same_bytes(images)
    finally:
        shutil.rmtree(folder)


def test_092_a_flush_covers_what_other_connections_wrote(writable):
    """Where several connections are promised to see one disk, a flush on any is for all."""
    pair, images = writable
    for path in pair:
        with Talk(path) as one, Talk(path) as other:
            begin(one)
            begin(other)
            done = one.request(WRITE, 5, 3, payload=b"abc")
            assert other.request(FLUSH) == done
            assert other.request(READ, 4, 5, DF)[-5:] == b"\x04abc\x08"
    assert same_bytes(images)[4:9] == b"\x04abc\x08"
    code = "h.pwrite(b'xyz', 70000); h.flush(); told = [h.can_multi_conn(), h.can_flush()]"
    for path in pair:
        assert nbdsh(path, code) == [True, True]
        with Talk(path) as talk:
            begin(talk)
            assert talk.request(READ, 70000, 3, DF)[28:] == b"xyz"
    same_bytes(images)


def test_092_writers_side_by_side_lose_nothing(tmp_path):
    """Eight connections write their own parts at once; one flush, and all of it is in the file."""
    images = twins(tmp_path)
    with beside(images, tmp_path, "-f", "raw", writable=True) as pair:

        def one(path, number):
            with Talk(path) as talk:
                begin(talk)
                for at in range(number * 4096, SIZE, 8 * 4096):
                    talk.request(WRITE, at, 4096, payload=bytes([number + 1]) * 4096)

        for path in pair:
            threads = [threading.Thread(target=one, args=(path, n)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            with Talk(path) as talk:
                begin(talk)
                assert error_of(talk.request(FLUSH)) == 0
    expected = b"".join(bytes([n + 1]) * 4096 for n in range(8)) * (SIZE // 4096 // 8)
    assert same_bytes(images) == expected


def granules_of(before, after):
    """Return which granules of 64 KiB differ."""
    return {at for at in range(0, SIZE, 65536) if before[at:][:65536] != after[at:][:65536]}


def content(image):
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, image.with_suffix(".plain"))
    return image.with_suffix(".plain").read_bytes()


@contextlib.contextmanager
def unless_refused(server, *words):
    """Run a server; tell whether it has started."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(server(*words))
        except AssertionError:
            yield False
        else:
            yield True


@pytest.mark.parametrize("server", [theirs, ours])
def test_093_no_write_leaves_a_bitmap_that_lies(server, tmp_path):
    """What clients could change is dirty in an enabled bitmap, or that cannot be used any more.

    A server that keeps no bitmaps does not let clients write an image that has some.
    """
    image = layers(tmp_path, ("qcow2", SIZE, "", ("write -P 1 0 1M",)))
    run("qemu-img", "bitmap", "--add", image, "b")
    before, path = content(image), tmp_path / "s"
    words = ("-f", "qcow2", *(("--writable",) if server is ours else ()))
    with unless_refused(server, image, path, *words) as started:
        if started:
            code = "h.pwrite(b'x' * 9, 70000); h.zero(262144, 262144); told = h.flush()"
            nbdsh(path, code)
    changed = granules_of(before, content(image))
    assert changed == ({65536, *range(262144, 524288, 65536)} if started else set())
    assert started or server is ours
    with unless_refused(theirs, image, path, "-r", "-B", "b") as usable:
        rows = nbdinfo_map(uri(path), f"{BITMAP}b") if usable else []
    dirty = {at for row in rows if row["type"]
             for at in range(row["offset"], row["offset"] + row["length"], 65536)}  # fmt: skip
    assert dirty == changed or not usable
    assert usable or server is ours
