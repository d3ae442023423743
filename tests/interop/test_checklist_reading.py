"""Reads, statement by statement: real clients and raw bytes, qemu-nbd beside our server."""

from __future__ import annotations

import random
import struct
import threading

import pytest
from beside import (
    DATA,
    EINVAL,
    EIO,
    ERROR,
    HOLE,
    NONE,
    ask,
    assemble,
    begin,
    beside,
    chunks,
    error_of,
    nbdsh,
    qemu_options,
    same,
    uri,
)  # fmt: skip
from disks import DISKS, RAW_SIZE, layers, pattern_runs, raw_disk
from nbd_talk import (
    CLOSED,
    DF,
    FAST_ZERO,
    FLUSH,
    FUA,
    GO,
    NO_HOLE,
    PAYLOAD_LEN,
    READ,
    REQ_ONE,
    STRUCTURED,
    Talk,
    info,
    request,
)  # fmt: skip
from peers import run

pytestmark = pytest.mark.interop

SIZE = 64 << 20
MAX = 32 << 20
RANGES = ((0, MAX), (0, 1), (0, 4096), (1, 3), (4090, 12), (4095, 2), (0, 1 << 21),
          ((1 << 20) - 3, 7), (RAW_SIZE - 1, 1), (RAW_SIZE - 512, 512), (32 << 20, 8 << 20),
          ((2 << 20) + 1, 99999))  # fmt: skip


@pytest.fixture(scope="module")
def disk(two_bitmaps, tmp_path_factory):
    """The demonstration image behind both servers, and its bytes."""
    folder = tmp_path_factory.mktemp("disk")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", two_bitmaps, folder / "content.raw")
    with beside(two_bitmaps, folder, "-f", "qcow2") as pair:
        yield pair, (folder / "content.raw").read_bytes()


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A raw disk behind both servers, and its bytes."""
    folder = tmp_path_factory.mktemp("raw")
    image = raw_disk(folder / "disk.raw")
    with beside(image, folder, "-f", "raw") as pair:
        yield pair, image.read_bytes()


def test_066_a_plain_read_is_a_header_with_the_cookie_and_the_data(raw):
    """Without structured replies: 16 bytes that repeat the cookie, then what was asked for."""
    pair, content = raw
    cookies = (0, 1, 1 << 63, (1 << 64) - 1)

    def script(t):
        begin(t, structured=False)
        for number, (offset, length) in enumerate(RANGES):
            cookie = cookies[number % 4]
            reply = t.request(READ, offset, length, cookie=cookie)
            assert reply[:16] == struct.pack(">IIQ", 0x67446698, 0, cookie)
            assert reply[16:] == content[offset : offset + length]

    same(pair, script)


def test_067_chunks_cover_the_range_once(disk):
    """With structured replies: chunks lie in the range, cover it once, and only the last ends."""
    pair, content = disk
    choose = random.Random(67)
    asked = [(0, MAX), (MAX, MAX)]
    for _ in range(30):
        offset = choose.randrange(SIZE)
        asked.append((offset, choose.randrange(1, min(2 << 20, SIZE - offset) + 1)))

    def steps(t):
        begin(t)
        for offset, length in asked:
            data, _ = assemble(t.request(READ, offset, length), offset, length)
            assert data == content[offset : offset + length]

    ask(pair, steps)


COVER = """
told = []
for offset, length in {asked}:
    seen = []
    def chunk(data, at, status, error):
        seen.append([at, len(data), status])
    data = h.pread_structured(length, offset, chunk, {flags})
    told.append([sorted(seen), __import__('hashlib').sha256(data).hexdigest()])
"""


def merged(parts):
    """Join neighbours of the same kind."""
    found = []
    for at, length, kind in parts:
        if found and found[-1][2] == kind and found[-1][0] + found[-1][1] == at:
            found[-1][1] += length
        else:
            found.append([at, length, kind])
    return found


def test_067_070_libnbd_is_told_data_and_holes(disk):
    """What reads as zeroes comes as holes, and libnbd's checks of chunks find nothing wrong."""
    pair, _ = disk
    asked = [(0, MAX), (MAX, MAX), (12345, 20 << 20), (9 << 20, 1 << 20), (SIZE - 1, 1)]
    told = [nbdsh(path, COVER.format(asked=asked, flags=0)) for path in pair]
    # QEMU begins a chunk where the block layer begins a region: joined they are the same.
    assert [[merged(seen), data] for seen, data in told[0]] == told[1]
    assert {kind for seen, _ in told[1] for _, _, kind in seen} == {DATA, HOLE}


@pytest.mark.parametrize("kind", DISKS)
def test_068_every_kind_of_disk_reads_right(kind, tmp_path):
    """nbdcopy, qemu-img, qemu-io and raw requests read what qemu-img reads from the file."""
    image = layers(tmp_path, *DISKS[kind])
    form = image.suffix[1:]
    expected = tmp_path / "expected"
    run("qemu-img", "convert", "-f", form, "-O", "raw", image, expected)
    content = expected.read_bytes()
    choose = random.Random(68)
    asked = [(choose.randrange(len(content) - 70000), choose.randrange(1, 70000))
             for _ in range(50)]  # fmt: skip

    def script(t):
        begin(t)
        for offset, length in asked:
            assert t.request(READ, offset, length, DF)[28:] == content[offset:][:length]

    with beside(image, tmp_path, "-f", form) as pair:
        same(pair, script)
        run("nbdcopy", uri(pair.ours), tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content
        done = run("qemu-img", "compare", "-f", "raw", "-F", form, uri(pair.ours), image)
        assert "identical" in done.stdout
        words = []
        for at, length in pattern_runs(content):
            words += ["-c", f"read -P {content[at]} {at} {length}"]
        done = run("qemu-io", "-r", "-f", "raw", *words, uri(pair.ours))
        assert done.stdout.count(" bytes at offset ") == len(words) // 2
        assert "failed" not in done.stdout + done.stderr


def test_069_a_read_that_must_not_be_fragmented_is_one_chunk(disk, raw):
    """With DF there is one chunk of data, zeroes filled in, of 64 KiB and of the longest."""
    for pair, content in (disk, raw):
        size = len(content)
        asked = [(0, 65536), (65535, 65536), (size - 65536, 65536), (0, MAX), (1 << 20, 3)]

        def script(t, asked=asked, content=content):
            begin(t)
            for offset, length in asked:
                ((_, kind, payload),) = chunks(t.request(READ, offset, length, DF))
                assert kind == DATA
                assert payload == struct.pack(">Q", offset) + content[offset : offset + length]

        same(pair, script)
        told = nbdsh(pair.ours, COVER.format(asked=asked, flags="nbd.CMD_FLAG_DF"))
        assert [seen for seen, _ in told] == [[[offset, length, DATA]] for offset, length in asked]


def test_070_holes_are_told_where_both_know_of_zeroes(raw):
    """On a raw file the very chunks are QEMU's: a hole is 12 bytes with its offset and length."""

    def script(t):
        begin(t)
        for offset, length in RANGES:
            t.request(READ, offset, length)

    replies = same(raw[0], script)[3:]
    assert any(kind == HOLE for reply in replies for _, kind, _ in chunks(reply))


@pytest.mark.parametrize("structured", [True, False])
def test_071_reads_behind_the_end_are_refused(raw, structured):
    """A range that ends behind the disk, or wraps, is EINVAL; the connection goes on."""
    last = (1 << 64) - 1
    asked = ((RAW_SIZE, 1), (RAW_SIZE - 1, 2), (RAW_SIZE + 1, 0), (last, 1), (last, 2),
             (last - 511, 512), (1 << 63, 1), (RAW_SIZE - 5, MAX))  # fmt: skip

    def script(t):
        begin(t, structured=structured)
        for offset, length in asked:
            t.send(request(READ, offset, length))
            assert error_of(t.take_reply()) == EINVAL
        t.request(READ, 5, 7)

    assert same(raw[0], script)[-1].endswith(bytes(range(5, 12)))


def test_071_libnbd_is_told_einval(raw):
    """libnbd reports the same error from both servers, and reads on."""
    code = f"""
told = []
for offset, length in (({RAW_SIZE}, 1), ({RAW_SIZE - 1}, 2), (2**63, 1)):
    try:
        h.pread(length, offset)
        told.append("no error")
    except nbd.Error as error:
        told.append(error.errno)
told.append(h.pread(3, 7).hex())
"""
    told = [nbdsh(path, code) for path in raw[0]]
    assert told == [["EINVAL"] * 3 + ["070809"]] * 2


@pytest.mark.parametrize("structured", [True, False])
def test_072_a_read_of_nothing_is_answered(raw, structured):
    """A length of 0 is no reason to go: it succeeds, and brings no data."""

    def script(t):
        begin(t, structured=structured)
        for offset in (0, 5, RAW_SIZE):
            t.send(request(READ, offset, 0))
            reply = t.take_reply()
            if structured:
                assert chunks(reply) == [(True, NONE, b"")]
            else:
                assert error_of(reply) == 0
        t.request(READ, 5, 7)

    same(raw[0], script)


@pytest.mark.parametrize("structured", [True, False])
def test_073_the_longest_read_works_and_a_longer_one_is_refused(raw, structured):
    """32 MiB are served; a byte more is an error, and the connection goes on."""
    pair, content = raw

    def script(t):
        begin(t, structured=structured)
        data = t.request(READ, 0, MAX, DF if structured else 0)
        assert data.endswith(content[:MAX])
        for length in (MAX + 1, 1 << 31, (1 << 32) - 1):
            t.send(request(READ, 0, length))
            assert error_of(t.take_reply()) == EINVAL
        t.request(READ, 5, 7)

    same(pair, script)


@pytest.mark.parametrize("structured", [True, False])
def test_074_flags_that_mean_nothing_to_a_read_are_refused(raw, structured):
    """REQ_ONE, NO_HOLE, FAST_ZERO, PAYLOAD_LEN and flags nobody knows: EINVAL."""

    def script(t):
        begin(t, structured=structured)
        others = [1 << bit for bit in range(6, 16)]
        for flags in (REQ_ONE, NO_HOLE, FAST_ZERO, PAYLOAD_LEN, *others, FUA | REQ_ONE):
            t.send(request(READ, 0, 512, flags))
            assert error_of(t.take_reply()) == EINVAL
        t.request(READ, 5, 7)

    same(raw[0], script)


def test_075_without_structured_replies_there_is_no_df(raw):
    """A client that cannot get chunks must not ask for one: EINVAL."""

    def script(t):
        begin(t, structured=False)
        t.send(request(READ, 0, 512, DF))
        assert error_of(t.take_reply()) == EINVAL
        t.request(READ, 5, 7)

    same(raw[0], script)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A disk whose fourth cluster of 64 KiB cannot be inflated."""
    folder = tmp_path_factory.mktemp("damaged")
    image = layers(folder, ("qcow2", "1M", "", ("write -P 7 0 512k",)))
    data = bytearray(image.read_bytes())
    (l1,) = struct.unpack_from(">Q", data, 40)
    (l2,) = struct.unpack_from(">Q", data, l1)
    struct.pack_into(">Q", data, (l2 & ~(1 << 63)) + 8 * 3, 1 << 62 | 0x50000)
    image.write_bytes(data)
    with beside(image, folder, "-f", "qcow2") as pair:
        yield pair


def test_076_an_error_in_a_plain_read_comes_instead_of_the_data(damaged):
    """The error is in the header, no data follow it, and the next request is served."""

    def script(t):
        begin(t, structured=False)
        t.send(request(READ, 65536, 196608))
        assert error_of(t.take_reply()) == EIO
        assert t.request(READ, 65536, 65536)[16:] == b"\7" * 65536

    same(damaged, script)


def test_076_an_error_in_an_unfragmented_read_is_the_only_chunk(damaged):
    """With DF QEMU, too, has sent nothing before it knows."""

    def script(t):
        begin(t)
        t.send(request(READ, 65536, 196608, DF))
        ((_, kind, payload),) = chunks(t.take_reply())
        assert (kind, payload[:4]) == (ERROR, struct.pack(">I", EIO))
        assert t.request(READ, 65536, 3, DF)[28:] == b"\7" * 3

    same(damaged, script)


def test_076_an_error_half_way_ends_the_reply_not_the_connection(damaged):
    """Ours sends an error chunk and goes on.

    QEMU closes where it has sent chunks of the same read already, which costs its client the
    requests that are under way.
    """

    def steps(t):
        begin(t)
        t.send(request(READ, 0, 1 << 20))
        return t.take_reply(), t.request(READ, 0, 3, DF)

    (theirs, _), (ours, after) = ask(damaged, steps)
    assert theirs.endswith(CLOSED)
    assert chunks(ours)[-1].kind == ERROR
    assert error_of(ours) == EIO
    assert after.endswith(b"\7\7\7")
    code = """
told = []
try:
    h.pread(1 << 20, 0)
except nbd.Error as error:
    told.append(error.errno)
told.append(h.pread(3, 0).hex())
"""
    assert nbdsh(damaged.ours, code) == ["EIO", "070707"]


@pytest.mark.parametrize("structured", [True, False])
def test_077_fua_on_a_read_is_taken(raw, structured):
    """A server that offers FUA takes it on every command, on a read as well."""

    def script(t):
        begin(t, structured=structured)
        flags = int.from_bytes(t.log[-1][-22:-20], "big")
        assert flags & 8
        for offset, length in RANGES[:8]:
            t.request(READ, offset, length, FUA)

    same(raw[0], script)


def test_078_pipelined_reads_are_each_answered_once(raw):
    """64 reads at once on each of 16 connections: every cookie comes back once, with its data."""
    pair, content = raw
    failures = []

    def one(path, number):
        choose = random.Random(number)
        asked = {}
        for index in range(64):
            offset = choose.randrange(RAW_SIZE - 70000)
            asked[number << 32 | index] = offset, choose.randrange(1, 70000)
        try:
            with Talk(path) as talk:
                begin(talk)
                talk.send(b"".join(request(READ, *asked[cookie], DF, cookie) for cookie in asked))
                while asked:
                    reply = talk.take_reply()
                    (cookie,) = struct.unpack_from(">Q", reply, 8)
                    offset, length = asked.pop(cookie)
                    assert reply[28:] == content[offset : offset + length]
                talk.request(FLUSH)
        except BaseException as error:
            failures.append(error)
            raise

    for path in pair:
        threads = [threading.Thread(target=one, args=(path, number)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert failures == []


def test_078_nbdcopy_over_many_connections(disk, tmp_path):
    """nbdcopy with 16 connections and 64 requests on each copies the disk from both."""
    pair, content = disk
    for path in pair:
        words = ("--connections=16", "--requests=64", uri(path), tmp_path / "copy")
        run("nbdcopy", *words)
        assert (tmp_path / "copy").read_bytes() == content


def test_079_a_client_that_does_not_read_is_in_nobodys_way(raw):
    """One client asks for a GiB and takes nothing; others are served meanwhile."""
    pair, content = raw
    for path in pair:
        with Talk(path) as greedy:
            begin(greedy)
            greedy.send(request(READ, 0, MAX, DF) * 32)
            for _ in range(3):
                with Talk(path) as other:
                    begin(other)
                    assert (
                        other.request(READ, 3 << 20, 1 << 20, DF)[28:]
                        == (content[3 << 20 : 4 << 20])
                    )
            done = run("qemu-img", "map", "--output=json", qemu_options(path))
            assert str(RAW_SIZE - (33 << 20) - 4096) in done.stdout
            # It is answered when it takes what it asked for.
            assert greedy.take_reply()[28:] == content[:MAX]


def test_079_nothing_was_left_behind(raw):
    """After all of this a client with the shortest conversation gets the right bytes."""

    def script(t):
        t.flags()
        t.option(STRUCTURED)
        t.option(GO, info(b""))
        t.request(READ, 5, 7)

    assert same(raw[0], script)[-1].endswith(bytes(range(5, 12)))
