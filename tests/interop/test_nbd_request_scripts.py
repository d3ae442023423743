"""The same requests to QEMU's server and to ours: the same bytes must come back.

What differs on purpose is in test_nbd_differences.py, with its reasons.
"""

import struct

import pytest
from disks import RAW_SIZE
from nbd_pair import BASE, BITMAPS, DEPTH, DISK_SIZE, RAW, Scripts, alive, begin, both
from nbd_talk import (
    CACHE,
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
    request,
)  # fmt: skip

pytestmark = pytest.mark.interop

BIG = 1 << 63
scripts = Scripts()


# Reads


READS = ((0, 1), (0, 4096), (1, 3), (4090, 12), (4095, 2), (0, 1 << 21), ((1 << 20) - 3, 7),
         (RAW_SIZE - 1, 1), (RAW_SIZE - 512, 512), (32 << 20, 8 << 20), (0, 32 << 20),
         (RAW_SIZE - 1000, 1000), ((2 << 20) + 1, 99999))  # fmt: skip


@scripts.family(simple=(False, 0), structured=(True, 0), df=(True, DF), fua=(True, FUA),
        simple_fua=(False, FUA))  # fmt: skip
def read(t, structured, flags):
    begin(t, export=RAW, structured=structured)
    for offset, length in READS:
        t.request(READ, offset, length, flags)


@scripts.family(simple=(False,), structured=(True,))
def wrong_read(t, structured):
    begin(t, export=RAW, structured=structured)
    for offset, length in (
        (0, 0), (RAW_SIZE, 0), (RAW_SIZE + 1, 0), (RAW_SIZE, 1), (RAW_SIZE - 1, 2), (2**64 - 1, 1),
        (2**64 - 1, 2), (2**64 - 512, 512), (BIG, 1), (0, (32 << 20) + 1), (0, 2**32 - 1),
        (0, 1 << 31), (RAW_SIZE, 1 << 31),
    ):  # fmt: skip
        # A failed read has no data to wait for; a read of no bytes has none either.
        t.send(request(READ, offset, length))
        t.take_reply()
    for bit in range(1, 16):
        t.send(request(READ, 0, 0, 1 << bit))
        t.take_reply()
    alive(t)


@scripts.one
def cookies(t):
    begin(t)
    for cookie in (0, 1, 2**63, 2**64 - 1):
        t.request(READ, 0, 1, cookie=cookie)
        t.request(FLUSH, cookie=cookie)
        t.request(WRITE, 0, 1, cookie=cookie, payload=b"x")


# Writes to a read-only export, and commands that nobody knows


@scripts.family(simple=(False,), structured=(True,))
def write(t, structured):
    begin(t, structured=structured)
    t.request(WRITE, 0, 5, payload=b"hello")
    t.request(WRITE, 0, 28, payload=request(DISC))
    t.request(WRITE, 0, 100000, payload=bytes(100000))
    t.request(WRITE, 2**64 - 1, 5, payload=b"hello")
    t.request(WRITE, 0, 0)
    t.request(WRITE, 0, 3, FUA | 0x8000, payload=b"abc")
    t.request(WRITE, 0, 32 << 20, payload=bytes(32 << 20))
    for command in (TRIM, ZEROES):
        t.request(command, 0, 512)
        t.request(command, 0, DISK_SIZE + 1)
        t.request(command, 0, 0, NO_HOLE | FAST_ZERO)
    alive(t)


@scripts.family(one_more=((32 << 20) + 1,), max=(2**32 - 1,))
def write_too_long(t, length):
    begin(t)
    t.request(WRITE, 0, length)
    t.end()


@scripts.family(simple=(False,), structured=(True,))
def other_commands(t, structured):
    begin(t, export=RAW, structured=structured)
    for command in (8, 9, 255, 0xFFFF):
        t.request(command, 0, 512)
        t.request(command, RAW_SIZE, 1)
        t.request(command, 0, 0, DF)
        t.request(command, 0, 0, FUA)
    t.request(FLUSH)
    t.request(FLUSH, 4096, 5, FUA)
    t.request(FLUSH, RAW_SIZE + 1)
    t.request(FLUSH, 0, 0, DF)
    t.request(CACHE, 0, 4096)
    t.request(CACHE, 0, 4096, FUA)
    t.request(CACHE, 0, 4096, REQ_ONE)
    t.request(CACHE, 0, (32 << 20) + 1)
    t.request(CACHE, RAW_SIZE, 1)
    alive(t)


@scripts.family(plain=(0, 0, 0), garbage=(2**64 - 1, 2**32 - 1, 0xFFFF))
def disconnect(t, offset, length, flags):
    begin(t)
    t.send(request(DISC, offset, length, flags))
    t.end()


@scripts.family(simple=(False,), structured=(True,))
def bad_request_magic(t, structured):
    begin(t, structured=structured)
    t.send(b"\x12" + request(READ, 0, 1)[1:])
    t.end()


@scripts.one
def extended_request_magic(t):
    begin(t)
    t.send(struct.pack(">IHHQQQ", 0x21E41C71, 0, READ, 1, 0, 512))
    t.end()


@scripts.family(simple=(False,), structured=(True,))
def status_not_negotiated(t, structured):
    begin(t, structured=structured)
    t.request(STATUS, 0, 512)
    t.request(STATUS, 0, 0)
    t.request(STATUS, 0, 512, REQ_ONE)
    t.request(STATUS, DISK_SIZE, 512)
    alive(t)


# Block status


RANGES = ((0, DISK_SIZE), (0, 1), (DISK_SIZE - 1, 1), (1, 10), (65535, 2), (65536, 65536),
          (1048575, 2097153), (9437184, 8192), (9437183, 8194), (33554431, 33554433),
          (12345678, 23456789))  # fmt: skip


@scripts.family(
    base=((BASE,), 0), depth=((DEPTH,), 0), weekly=((BITMAPS[0],), 0), daily=((BITMAPS[1],), 0),
    all=((BASE, DEPTH, *BITMAPS), 0), one=((BASE, DEPTH, *BITMAPS), REQ_ONE),
    one_fua=((BITMAPS[0],), REQ_ONE | FUA), fua=((BASE,), FUA),
)  # fmt: skip
def status(t, texts, flags):
    begin(t, *texts)
    for offset, length in RANGES:
        t.request(STATUS, offset, length, flags)


@scripts.one
def status_of_a_raw_file(t):
    begin(t, BASE, export=RAW)
    for offset, length in ((0, RAW_SIZE), (1, 5000), (RAW_SIZE - 1, 1), (1 << 20, 1 << 20)):
        t.request(STATUS, offset, length)
        t.request(STATUS, offset, length, REQ_ONE)


@scripts.one
def wrong_status(t):
    begin(t, BASE, BITMAPS[0])
    t.request(STATUS, 0, 0)
    t.request(STATUS, DISK_SIZE, 0)
    t.request(STATUS, DISK_SIZE, 1)
    t.request(STATUS, DISK_SIZE - 1, 2)
    t.request(STATUS, 2**64 - 1, 2)
    t.request(STATUS, 0, 2**32 - 1)
    for flags in (DF, NO_HOLE, FAST_ZERO, PAYLOAD_LEN, 0x8000, DF | REQ_ONE):
        t.request(STATUS, 0, 512, flags)
    alive(t)


@pytest.fixture(scope="module")
def pair(two_bitmaps, tmp_path_factory):
    with both(two_bitmaps, tmp_path_factory.mktemp("pair")) as paths:
        yield paths


@pytest.mark.parametrize("name", scripts)
def test_the_same_replies(pair, name):
    scripts.compare(name, pair)
