"""Writing, statement by statement: what is refused, and what a writable export does."""

from __future__ import annotations

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
    EINVAL,
    ENOSPC,
    EPERM,
    NBEXPORT,
    QUIET,
    ask,
    begin,
    beside,
    error_of,
    nbdsh,
    ours,
    same,
    statuses,
    uri,
)  # fmt: skip
from disks import RAW_SIZE, layers, raw_disk
from nbd_talk import (
    CACHE,
    CLOSED,
    DF,
    DISC,
    FAST_ZERO,
    FLUSH,
    FUA,
    NO_HOLE,
    PAYLOAD_LEN,
    READ,
    REQ_ONE,
    STATUS,
    TRIM,
    WRITE,
    ZEROES,
    Talk,
    request,
)  # fmt: skip
from peers import background, run

pytestmark = pytest.mark.interop

MAX = 32 << 20
SIZE = 4 << 20
LAST = (1 << 64) - 1
BOTH_FORMS = pytest.mark.parametrize("structured", [True, False])


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A raw disk that nobody may write, behind both servers."""
    folder = tmp_path_factory.mktemp("raw")
    image = raw_disk(folder / "disk.raw")
    before = image.read_bytes()
    with beside(image, folder, "-f", "raw") as pair:
        yield pair
        assert image.read_bytes() == before


@pytest.fixture(scope="module")
def by_the_book(tmp_path_factory):
    """A read-only and a writable disk of a server that follows the protocol where QEMU does not."""
    folder = tmp_path_factory.mktemp("book")
    paths = folder / "ro", folder / "rw"
    for path in paths:
        raw_disk(path.with_suffix(".raw"))
    words = ("-f", "raw", "--profile", "spec")
    with (
        ours(folder / "ro.raw", paths[0], *words),
        ours(folder / "rw.raw", paths[1], *words, "--writable"),
    ):
        yield paths


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


# Read-only


@BOTH_FORMS
def test_080_a_write_to_what_is_read_only_is_read_and_refused(raw, by_the_book, structured):
    """The data of a refused write are never taken for requests; the next request is served."""

    def steps(t):
        begin(t, structured=structured)
        told = [t.request(WRITE, 0, len(data), payload=data)
                for data in (b"hello", request(DISC), request(READ, 0, 1) * 3000, b"")]  # fmt: skip
        told.append(t.request(WRITE, LAST, 5, payload=b"hello"))
        told.append(t.request(WRITE, 0, 3, FUA, payload=b"abc"))
        assert t.request(READ, 5, 7)[-7:] == bytes(range(5, 12))
        return [error_of(reply) for reply in told]

    same(raw, steps)
    # QEMU says EINVAL where the protocol wants EPERM; clients take either for a refusal.
    assert ask(raw, steps) == [[EINVAL] * 6] * 2
    with Talk(by_the_book[0]) as talk:
        assert steps(talk) == [EPERM] * 6


@BOTH_FORMS
def test_081_zeroing_and_trimming_what_is_read_only_is_refused(raw, by_the_book, structured):
    """The same for the commands that change a disk without data."""

    def steps(t):
        begin(t, structured=structured)
        told = [t.request(command, 0, 4096, flags)
                for command in (ZEROES, TRIM) for flags in (0, FUA)]  # fmt: skip
        told.append(t.request(ZEROES, 0, 4096, NO_HOLE | FAST_ZERO))
        assert t.request(READ, 5, 7)[-7:] == bytes(range(5, 12))
        return [error_of(reply) for reply in told]

    same(raw, steps)
    assert ask(raw, steps) == [[EINVAL] * 5] * 2
    with Talk(by_the_book[0]) as talk:
        assert steps(talk) == [EPERM] * 5


@pytest.mark.parametrize("length", [MAX + 1, (1 << 32) - 1])
def test_082_a_write_of_more_than_the_limit_ends_the_connection(raw, writable, length):
    """Nobody reads so much: the client is told, and what it sends on is no request."""

    def script(t):
        begin(t)
        assert error_of(t.request(WRITE, 0, length)) == EINVAL
        t.send(request(ZEROES, 0, SIZE) * 10)
        assert t.end() == CLOSED

    same(raw, script)
    pair, images = writable
    same(pair, script)
    assert any(same_bytes(images)[:512])


@BOTH_FORMS
def test_083_a_flush_has_nothing_to_do_and_succeeds(raw, structured):
    """Flushing is offered for a read-only disk too, and is never refused."""

    def script(t):
        begin(t, structured=structured)
        for arguments in ((), (0, 0, FUA), (4096, 5)):
            assert error_of(t.request(FLUSH, *arguments)) == 0
        assert error_of(t.request(FLUSH, 0, 0, DF)) == EINVAL

    same(raw, script)
    code = "h.flush(); told = [h.can_flush(), h.is_read_only(), h.pread(2, 7).hex()]"
    assert [nbdsh(path, code) for path in raw] == [[True, True, "0708"]] * 2


@BOTH_FORMS
def test_084_cache_requests_change_nothing(raw, structured):
    """They are taken within the disk and the longest length, without flags that nobody knows."""

    def script(t):
        begin(t, structured=structured)
        assert error_of(t.request(CACHE, 0, 4096)) == 0
        assert error_of(t.request(CACHE, 1 << 20, MAX, FUA)) == 0
        for flags in (DF, REQ_ONE, NO_HOLE, FAST_ZERO, PAYLOAD_LEN, 0x8000):
            assert error_of(t.request(CACHE, 0, 4096, flags)) == EINVAL
        assert error_of(t.request(CACHE, 0, MAX + 1)) == EINVAL
        assert error_of(t.request(CACHE, RAW_SIZE, 1)) == EINVAL
        t.request(READ, 0, 8192)

    same(raw, script)
    code = "h.cache(65536, 0); told = [h.can_cache(), h.pread(2, 7).hex()]"
    assert [nbdsh(path, code) for path in raw] == [[True, "0708"]] * 2


@BOTH_FORMS
def test_085_commands_that_nobody_knows_are_refused(raw, structured):
    """RESIZE and every other number: EINVAL, and the stream stays in step."""

    def script(t):
        begin(t, structured=structured)
        for command in (8, 9, 77, 0xFFFF):
            for arguments in ((0, 0), (0, 512), (0, 0, FUA), (RAW_SIZE, 1)):
                assert error_of(t.request(command, *arguments)) == EINVAL
        t.request(READ, 5, 7)

    same(raw, script)


@pytest.mark.parametrize("garbage", [(0, 0, 0), (LAST, (1 << 32) - 1, 0xFFFF)])
def test_086_a_goodbye_is_not_answered_whatever_stands_in_it(raw, garbage):
    """DISC is not answered and ends the connection; its other fields are not looked at."""

    def script(t):
        begin(t)
        t.request(READ, 5, 7)
        t.send(request(DISC, *garbage))
        assert t.end() == CLOSED

    same(raw, script)


def test_086_what_was_asked_before_a_goodbye_is_answered(raw):
    """The protocol has pending requests finished first; QEMU cuts its replies short."""

    def steps(t):
        begin(t)
        t.send(request(READ, 0, 1 << 20, DF) * 8 + request(DISC) + request(READ, 0, 1))
        return t.end()

    theirs, ours = ask(raw, steps)
    assert len(ours) == 8 * (28 + (1 << 20)) + len(CLOSED)
    assert len(theirs) <= len(ours)


@BOTH_FORMS
@pytest.mark.parametrize("magic", [b"\x12\x60\x95\x13", b"\x25\x60\x95\x14", bytes(4)])
def test_087_a_wrong_magic_ends_the_connection(raw, magic, structured):
    """Nobody knows where the next request would begin."""

    def script(t):
        begin(t, structured=structured)
        t.send(magic + request(READ, 0, 1)[4:] + request(READ, 0, 1))
        assert t.end().endswith(CLOSED)

    same(raw, script)


# Writable


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
    with Talk(by_the_book[1]) as talk:
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


def test_093_no_write_leaves_a_bitmap_that_lies(tmp_path):
    """A server that would write guest data without its bitmaps must not: here it does not start."""
    image = layers(tmp_path, ("qcow2", SIZE, "", ("write -P 1 0 64k",)))
    run("qemu-img", "bitmap", "--add", image, "b")
    before = image.read_bytes()
    path = tmp_path / "s"
    words = [*NBEXPORT[1:], "serve", image, "-f", "qcow2", "--writable", "-k", path]
    done = run(NBEXPORT[0], *words, check=False)
    assert done.returncode == 1
    assert "qcow2" in done.stderr
    assert image.read_bytes() == before
    assert not path.exists()
