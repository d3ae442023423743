"""Where our server differs from QEMU's on purpose. Each test states both sides, and why."""

import struct
from itertools import pairwise

import numpy as np
import pytest
from disks import RAW_SIZE
from nbd_pair import BASE, BITMAPS, DISK, DISK_SIZE, RAW, begin, both
from nbd_talk import (
    CACHE,
    CLOSED,
    DF,
    GO,
    INFO,
    LIST,
    LIST_META,
    READ,
    SET_META,
    STATUS,
    STRUCTURED,
    Talk,
    info,
    queries,
    serving,
)
from peers import qemu_nbd

from nbexport import block, nbd
from nbexport.bits import Extents

pytestmark = pytest.mark.interop

ERROR_EINVAL = b"\0\0\0\x16"
DATA, HOLE = 1, 2


@pytest.fixture(scope="module")
def pair(two_bitmaps, tmp_path_factory):
    with both(two_bitmaps, tmp_path_factory.mktemp("pair")) as paths:
        yield paths


def ask(paths, steps):
    """Return what the steps give with each server, QEMU first."""
    results = []
    for path in paths:
        with Talk(path) as talk:
            results.append(steps(talk))
    return results


def chunks(reply):
    """Return the chunks of a structured reply: flags, type, payload."""
    found, at = [], 0
    while at < len(reply):
        magic, flags, kind, _, length = struct.unpack_from(">IHHQI", reply, at)
        assert magic == 0x668E33EF
        found.append((flags, kind, reply[at + 20 : at + 20 + length]))
        at += 20 + length
    return found


def kind_of(reply):
    """Return the type of the first reply to an option."""
    return int.from_bytes(reply[12:16], "big")


# The handshake


@pytest.mark.parametrize("number", [LIST_META, SET_META])
def test_047_bytes_behind_the_last_query_are_refused(pair, number):
    """The protocol calls such an option invalid; QEMU takes the bytes for what comes next."""

    def steps(t):
        t.flags()
        t.option(STRUCTURED)
        first = t.option(number, queries(DISK) + b"x")
        return kind_of(first), t.option(LIST)

    (theirs, _), (ours, listing) = ask(pair, steps)
    assert theirs in {1, 4}
    assert ours == 0x80000003
    assert listing.endswith(b"\0\0\0\3\0\0\0\1\0\0\0\0")


def test_049_an_option_of_more_than_a_mebibyte_is_refused(pair):
    """QEMU reads up to 32 MiB of queries as they come; ours keeps a body, and bounds it."""
    body = queries(DISK, *[b"x:" + b"y" * 4000] * 263, BASE)
    assert len(body) > (1 << 20)

    def steps(t):
        t.flags()
        t.option(STRUCTURED)
        return kind_of(t.option(SET_META, body)), t.option(GO, info(DISK))[-8:]

    done = b"\0\0\0\1\0\0\0\0"
    assert ask(pair, steps) == [(4, done), (0x80000009, done)]


def test_049_255_queries_of_the_longest_kind_are_taken(pair):
    """The bound above is not in the way of what the protocol's own bounds allow."""
    body = queries(b"n" * 4096, *[b"x:" + b"y" * 4094] * 255)

    def steps(t):
        t.flags()
        t.option(STRUCTURED)
        return t.option(SET_META, body)

    theirs, ours = ask(pair, steps)
    assert theirs == ours
    assert kind_of(ours) == 0x80000006


@pytest.mark.parametrize("name", [b"\xff\xfe", b"x" + "é".encode() * 60])
def test_error_texts_are_utf8(pair, name):
    """Texts are UTF-8 by the protocol; QEMU repeats other bytes, and cuts within a character."""

    def steps(t):
        t.flags()
        return t.option(INFO, info(name))[20:]

    theirs, ours = ask(pair, steps)
    assert (
        theirs == b"export '" + name[:80] + (b"..." if len(name) > 80 else b"") + b"' not present"
    )
    with pytest.raises(UnicodeDecodeError):
        theirs.decode()
    assert ours.decode() == theirs.decode(errors="replace")


# Reads


@pytest.mark.parametrize("range_", [(0, 32 << 20), (32 << 20, 32 << 20), (12345, 20 << 20)])
def test_neighbouring_holes_are_one_chunk(pair, range_):
    """QEMU begins a chunk where the block layer begins a region; the bytes are the same."""

    def steps(t):
        begin(t)
        return chunks(t.request(READ, *range_))

    read = []
    for found in ask(pair, steps):
        buffer, reached, kinds = bytearray(), range_[0], []
        for _, kind, payload in found:
            assert int.from_bytes(payload[:8], "big") == reached
            length = int.from_bytes(payload[8:], "big") if kind == HOLE else len(payload) - 8
            buffer += bytes(length) if kind == HOLE else payload[8:]
            reached += length
            kinds.append(kind)
        assert [flags for flags, _, _ in found] == [0] * (len(found) - 1) + [1]
        read.append((bytes(buffer), kinds))
    (theirs, their_kinds), (ours, our_kinds) = read
    assert theirs == ours
    assert all(a != b for a, b in pairwise(our_kinds))
    assert set(our_kinds) == set(their_kinds) == {DATA, HOLE}
    assert len(our_kinds) < len(their_kinds)


def test_a_read_that_fails_half_way_keeps_the_connection(tmp_path):
    """QEMU closes behind the chunks that it has sent; the protocol has an error chunk for that."""
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.seek(65536)
        file.write(b"x" * (1 << 20))
    size = image.stat().st_size
    words = (
        f"driver=blkdebug,image.driver=file,image.filename={image},inject-error.0.event=none,"
        "inject-error.0.iotype=read,inject-error.0.errno=5,inject-error.0.sector=200,"
        "inject-error.0.once=off"
    )

    def read_into(offset, buffer):
        if offset <= 200 * 512 < offset + len(buffer):
            raise OSError(5, "Input/output error")
        buffer[:] = image.read_bytes()[offset : offset + len(buffer)]

    layout = Extents.from_lengths([65536, size - 65536], [3, 0])
    export = nbd.Export("", size, read_into, layout.clip)

    def steps(t):
        begin(t)
        return t.request(READ, 0, size), t.request(READ, 65536, 3) if t.log[-1] != CLOSED else b""

    with (
        qemu_nbd(words, tmp_path, "-r", "--image-opts") as uri,
        serving(tmp_path / "ours", export),
    ):
        (theirs, _), (ours, after) = ask((uri.partition("=")[2], tmp_path / "ours"), steps)
    assert theirs.endswith(CLOSED)
    ((flags, kind, payload),) = chunks(ours)
    assert (flags, kind) == (1, 0x8001)
    assert payload == b"\0\0\0\5\0\x18reading from file failed"
    assert after.endswith(b"xxx")


def test_a_cache_request_has_nothing_to_refuse(pair):
    """QEMU wants to write what it caches into an overlay, and may not; ours has no cache."""

    def steps(t):
        begin(t, structured=False)
        return t.request(CACHE, 4096, 4096)[4:8]

    theirs, ours = ask(pair, steps)
    assert (theirs, ours) == (b"\0\0\0\1", bytes(4))


# A raw image whose format was guessed


def test_a_guessed_raw_image_is_served_in_sectors_as_by_qemu(tmp_path):
    """No difference here: the length is rounded up, and requests have a least size of 512."""
    image = tmp_path / "disk"
    image.write_bytes(b"abc" * 21846)  # 65538 bytes
    size = 66048

    def steps(t):
        t.flags()
        for kinds in ((), (3,), (1, 3)):
            t.option(INFO, info(b"", *kinds))
        t.option(STRUCTURED)
        t.option(SET_META, queries(b"", BASE))
        t.option(INFO, info(b""))
        t.option(GO, info(b""))
        for offset, length in ((0, size), (65530, 100), (65538, 1), (size - 1, 1), (size, 1)):
            for flags in (0, DF):
                t.request(READ, offset, length, flags)
            t.request(STATUS, offset, length)
        return t.log

    with (
        qemu_nbd(image, tmp_path, "-r") as uri,
        block.open_image(image) as node,
        serving(tmp_path / "ours", nbd.from_node(node, "")),
    ):
        theirs, ours = ask((uri.partition("=")[2], tmp_path / "ours"), steps)
    for number, (expected, got) in enumerate(zip(theirs, ours, strict=True)):
        assert got == expected, f"step {number}"
    assert b"request NBD_INFO_BLOCK_SIZE to use this export" in theirs[1]


# Nothing else differs: conversations that nobody wrote

NAMES = (RAW, DISK, b"none", b"r\0w", b"n" * 80, b"ra")
TEXTS = (
    BASE, *BITMAPS, b"qemu:allocation-depth", b"base:", b"qemu:", b"qemu:dirty-bitmap:", b"x:y",
    b"", b"qemu", BASE + b"\0", b"qemu:dirty-bitmap:x", BASE[:-1],
)  # fmt: skip
OFFSETS = (0, 1, 511, 512, 4096, RAW_SIZE - 1, RAW_SIZE, DISK_SIZE - 1, DISK_SIZE, DISK_SIZE + 1,
           1 << 63, (1 << 64) - 1)  # fmt: skip
LENGTHS = (0, 1, 2, 511, 512, 4096, 65536, 1 << 20, 32 << 20, (32 << 20) + 1, RAW_SIZE, DISK_SIZE,
           (1 << 32) - 1)  # fmt: skip


def conversation(seed):
    """Return steps: negotiate at random, then send requests at random."""
    numbers = np.random.default_rng(seed)

    def one(choices):
        return choices[int(numbers.integers(len(choices)))]

    def option():
        number = one((3, 4, 5, 6, 7, 8, 8, 9, 10, 11, 99))
        if number in (6, 7):
            data = info(
                one(NAMES[2:] if number == 7 else NAMES), *numbers.integers(0, 5, one(range(4)))
            )
        elif number in (9, 10):
            data = queries(one(NAMES), *(one(TEXTS) for _ in range(one(range(5)))))
        else:
            data = one((b"", b"", b"", b"some data"))
        # Cut short, but never longer than it says: that is a difference of its own.
        return number, data if numbers.random() < 0.85 else data[: one(range(len(data) + 1))]

    options = [option() for _ in range(one(range(6)))]
    requests = [
        (one((0, 0, 3, 4, 6, 7, 7, 7, 8, 77)), one(OFFSETS), one(LENGTHS),
         one((0, 0, 0, 0, 1, 4, 8, 9, 2, 16, 32, 0x8000)))
        for _ in range(8)
    ]  # fmt: skip
    export = one((RAW, DISK))

    def steps(t):
        t.flags(1 + 2 * (seed % 2))
        for number, data in options:
            t.option(number, data)
        if seed % 5:
            t.option(GO, info(export))
        else:
            t.export_name(export, zeroes=not seed % 2)
        for command, offset, length, flags in requests:
            # Holes of the qcow2 image are told otherwise, as above; long reads only cost time.
            if command == READ:
                length = min(length, 4096)
            t.request(command, offset, length, flags)
        return t.log

    return steps


@pytest.mark.parametrize("part", range(4))
def test_random_conversations_are_the_same(pair, part):
    for seed in range(100 * part, 100 * (part + 1)):
        theirs, ours = ask(pair, conversation(seed))
        for number, (expected, got) in enumerate(zip(theirs, ours, strict=True)):
            assert got == expected, f"conversation {seed}, step {number}"
