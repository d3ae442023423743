"""The same bytes to QEMU's server and to ours: the same bytes must come back.

Where the two may differ a script names the mask that it needs; every mask says why.
"""

import struct

import pytest
from nbd_talk import (
    ABORT,
    CACHE,
    DF,
    DISC,
    EXTENDED,
    FAST_ZERO,
    FLUSH,
    FUA,
    GO,
    INFO,
    LIST,
    LIST_META,
    NO_HOLE,
    PAYLOAD_LEN,
    PEEK,
    READ,
    REQ_ONE,
    SET_META,
    STARTTLS,
    STATUS,
    STRUCTURED,
    TRIM,
    WRITE,
    ZEROES,
    Talk,
    info,
    option,
    queries,
    request,
    serving,
    string,
)  # fmt: skip
from peers import background, peer

from nbexport import block, nbd

pytestmark = pytest.mark.interop

RAW = b"raw"
RAW_SIZE = (40 << 20) + 512
DISK = b""
DISK_SIZE = 64 << 20
BITMAPS = (b"qemu:dirty-bitmap:weekly", b"qemu:dirty-bitmap:daily")
BASE, DEPTH = b"base:allocation", b"qemu:allocation-depth"
BIG = 1 << 63


@pytest.fixture(scope="module")
def raw_image(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    with path.open("wb") as file:
        file.truncate(RAW_SIZE)
        for offset, length in ((0, 4096), (1 << 20, 65536), (3 << 20, 1 << 20), (33 << 20, 4096)):
            file.seek(offset)
            file.write(bytes(range(256)) * (length // 256))
    return path


@pytest.fixture(scope="module")
def theirs(raw_image, two_bitmaps, tmp_path_factory):
    path = tmp_path_factory.mktemp("theirs") / "s"
    words = []
    for name, driver, image in (("r", "raw", raw_image), ("q", "qcow2", two_bitmaps)):
        words += ["--blockdev", f"driver=file,filename={image},node-name={name}f,read-only=on"]
        words += ["--blockdev", f"driver={driver},file={name}f,node-name={name},read-only=on"]
    words += ["--nbd-server", f"addr.type=unix,addr.path={path}"]
    words += ["--export", "type=nbd,id=r,node-name=r,name=raw,description=ein Text"]
    words += ["--export", ("type=nbd,id=q,node-name=q,name=,allocation-depth=on,"
              "bitmaps.0=weekly,bitmaps.1=daily")]  # fmt: skip
    with background(peer("qemu-storage-daemon"), *words, ready=path):
        yield str(path)


@pytest.fixture(scope="module")
def ours(raw_image, two_bitmaps, tmp_path_factory):
    path = tmp_path_factory.mktemp("ours") / "s"
    with (
        block.open_image(str(raw_image), format="raw") as raw,
        block.open_image(str(two_bitmaps)) as disk,
    ):
        found = [disk.find_bitmap(name) for name in ("weekly", "daily")]
        bitmaps = [(stored.name, stored.bitmap.extents) for _, stored in found]
        exports = (
            nbd.from_node(raw, "raw", description="ein Text"),
            nbd.from_node(disk, "", allocation_depth=True, bitmaps=bitmaps),
        )
        with serving(path, *exports):
            yield str(path)


SCRIPTS = {}


def script(function):
    SCRIPTS[function.__name__] = function
    return function


def family(**variants):
    """Register one script for each variant: keyword arguments of the function."""

    def register(function):
        for name, arguments in variants.items():
            SCRIPTS[f"{function.__name__}-{name}"] = lambda t, a=arguments: function(t, *a)
        return function

    return register


def begin(t, *contexts, export=DISK, structured=True):
    """Negotiate up to the transmission phase."""
    t.flags()
    if structured:
        t.option(STRUCTURED)
    if contexts:
        t.option(SET_META, queries(export, *contexts))
    t.option(GO, info(export))


def alive(t):
    """Show that the stream is still in step."""
    t.request(READ, 5, 7, cookie=99)


# Greeting and framing


@family(unknown=(4,), high=(1 << 31,), all=(0xFFFFFFFF,))
def client_flags(t, value):
    t.flags(value)
    t.end()


@family(none=(0,), fixed=(1,), zeroes=(2,), both=(3,))
def export_name(t, value):
    t.flags(value)
    t.export_name(RAW, zeroes=not value & 2)
    t.request(READ, 4090, 12)


@family(none=(0,), zeroes=(2,))
def options_of_a_client_that_cannot_negotiate(t, value):
    t.flags(value)
    t.option(LIST)


@script
def bad_option_magic(t):
    t.flags()
    t.send(b"IHAVEOPX" + option(LIST)[8:])
    t.end()


@family(none=(b"",), one=(b"x",), many=(bytes(4096),), large=(bytes(70000),))
def unknown_option(t, data):
    t.flags()
    t.option(99, data)
    t.option(0, data)
    t.option(0xFFFFFFFF, data)
    t.option(PEEK, data)
    t.option(EXTENDED, data)
    t.option(LIST)


@family(all_ones=(0xFFFFFFFF,), half=(1 << 31,), one_more=((32 << 20) + 1,))
def option_too_long(t, length):
    t.flags()
    t.send(option(LIST, b"", length))
    t.end()


@script
def longest_option(t):
    t.flags()
    t.option(77, bytes(32 << 20))
    t.option(LIST)


@family(plain=(b"", None), data=(b"why not", None), promise=(b"", 99))
def abort(t, data, length):
    t.flags()
    t.option(ABORT, data, length)
    t.end()


@script
def two_options_in_one_piece(t):
    t.flags()
    t.send(option(LIST) + option(99, b"abc") + option(INFO, info(RAW)))
    t.take_option()
    t.take_option()
    t.take_option()


@script
def everything_in_one_piece(t):
    flags = struct.pack(">I", 3)
    t.send(flags + option(STRUCTURED) + option(GO, info(RAW)) + request(READ, 0, 5))
    t.take_option()
    t.take_option()
    t.take_reply()


@script
def byte_by_byte(t):
    data = option(STRUCTURED) + option(SET_META, queries(DISK, BASE)) + option(GO, info(DISK))
    for byte in struct.pack(">I", 3) + data:
        t.send(bytes([byte]))
    t.take_option()
    t.take_option()
    t.take_option()
    for byte in request(STATUS, 0, 10):
        t.send(bytes([byte]))
    t.take_reply()


# Options without data


@family(list=(LIST,), starttls=(STARTTLS,), structured=(STRUCTURED,))
def option_with_data(t, number):
    t.flags()
    t.option(number, b"x")
    t.option(number, bytes(5000))
    t.option(LIST)


@script
def starttls(t):
    t.flags()
    t.option(STARTTLS)
    t.option(LIST)


@script
def structured_reply_twice(t):
    t.flags()
    t.option(STRUCTURED)
    t.option(STRUCTURED)
    t.option(GO, info(RAW))
    alive(t)


# Names


@family(
    unknown=(b"none",), longest=(b"n" * 4096,), too_long=(b"n" * 4097,), huge=(b"n" * 70000,),
    nul=(b"raw\0x",), nul_first=(b"\0",), n79=(b"n" * 79,), n80=(b"n" * 80,), n81=(b"n" * 81,),
    n255=(b"n" * 255,), n256=(b"n" * 256,), utf8=("ö".encode(),), control=(b"a\nb\x1b[1m\x7f",),
)  # fmt: skip
def wrong_name(t, name):
    t.flags()
    t.option(STRUCTURED)
    t.option(INFO, info(name))
    t.option(GO, info(name))
    t.option(LIST_META, queries(name))
    t.option(SET_META, queries(name, BASE))
    t.option(GO, info(DISK))
    t.request(STATUS, 0, 512)


@family(unknown=(b"none",), longest=(b"n" * 4096,), too_long=(b"n" * 4097,), long=(b"n" * 9999,))
def wrong_export_name(t, name):
    t.flags()
    t.export_name(name)
    t.end()


@family(all_ones=(0xFFFFFFFF,), half=(1 << 31,), one_more=(4,), longest=(4096,), too_long=(4097,))
def inner_name_length(t, length):
    t.flags()
    t.option(STRUCTURED)
    for number in (INFO, GO, LIST_META, SET_META):
        t.option(number, struct.pack(">I", length) + b"raw")
        t.option(number, struct.pack(">I", length))
        t.option(number, struct.pack(">I", length) + b"raw\0\0")
    t.option(LIST)


@family(info=(INFO,), go=(GO,), list=(LIST_META,), set=(SET_META,))
def short_body(t, number):
    t.flags()
    t.option(STRUCTURED)
    for length in range(8):
        t.option(number, (string(RAW) + b"\0")[:length])
    t.option(LIST)


# INFO and GO


@family(
    none=((),), all=((0, 1, 2, 3),), unknown=((77, 0xFFFF),), twice=((1, 1, 3, 3),), name=((1,),)
)
def describe(t, kinds):
    t.flags()
    for name in (RAW, DISK):
        t.option(INFO, info(name, *kinds))
    t.option(STRUCTURED)
    t.option(INFO, info(RAW, *kinds))
    t.option(GO, info(RAW, *kinds))
    alive(t)


@family(trailing=(info(RAW, 1) + b"x",), count=(string(RAW) + b"\0\x03\0\1",),
        count_max=(string(RAW) + b"\xff\xff",), odd=(string(RAW) + b"\0\1\0",))  # fmt: skip
def wrong_info(t, data):
    t.flags()
    t.option(INFO, data)
    t.option(GO, data)
    t.option(GO, info(RAW))
    alive(t)


@script
def failed_go_then_export_name(t):
    t.flags()
    t.option(INFO, info(RAW))
    t.option(INFO, info(DISK))
    t.option(GO, info(b"x"))
    t.option(LIST)
    t.export_name(DISK)
    alive(t)


# Contexts


@family(
    nothing=((),), base=((BASE,),), depth=((DEPTH,),), bitmap=((BITMAPS[1],),),
    everything=((BITMAPS[1], BITMAPS[0], DEPTH, BASE),), twice=((BASE, BASE, DEPTH, DEPTH),),
    wild_base=((b"base:",),), wild_qemu=((b"qemu:",),), wild_bitmap=((b"qemu:dirty-bitmap:",),),
    wild_and_name=((b"qemu:", BITMAPS[0], b"base:", BASE),),
    unknown_leaf=((b"base:x", b"qemu:x", b"qemu:dirty-bitmap:x", b"qemu:dirty-bitmap:week"),),
    unknown_space=((b"x:y", b"x:", b":", b"base", b"qemu", b"", b"BASE:allocation"),),
    longer=((BASE + b"x", DEPTH + b" ", BITMAPS[0] + b":", b"qemu:dirty-bitmap"),),
    long=((b"base:" + b"x" * 4091, b"base:" + b"x" * 4092, b"x" * 9000, BASE),),
    nul=((b"base:\0",),), nul_other=((b"x\0y",),), many=((b"x:y",) * 2000,),
)  # fmt: skip
def contexts(t, texts):
    t.flags()
    t.option(LIST_META, queries(DISK, *texts))
    t.option(SET_META, queries(DISK, *texts))
    t.option(STRUCTURED)
    t.option(LIST_META, queries(DISK, *texts))
    t.option(SET_META, queries(DISK, *texts))
    t.option(LIST_META, queries(RAW, *texts))
    t.option(GO, info(DISK))
    t.request(STATUS, 0, DISK_SIZE)


@family(
    count=(string(DISK) + b"\xff\xff\xff\xff",), count_one=(string(DISK) + b"\0\0\0\1",),
    length=(string(DISK) + b"\0\0\0\1\xff\xff\xff\xffbase",),
    second=(string(DISK) + b"\0\0\0\2" + string(BASE) + b"\0\0\0\5base",),
    cut=(string(DISK) + b"\0\0\0\2" + string(BASE) + b"\0\0",), none=(string(DISK),),
)  # fmt: skip
def wrong_queries(t, data):
    t.flags()
    t.option(STRUCTURED)
    t.option(SET_META, queries(DISK, BASE))
    t.option(LIST_META, data)
    t.option(SET_META, data)
    t.option(GO, info(DISK))
    t.request(STATUS, 0, 512)
    alive(t)


@script
def second_set_replaces_the_first(t):
    t.flags()
    t.option(STRUCTURED)
    t.option(SET_META, queries(DISK, BASE, DEPTH))
    t.option(SET_META, queries(DISK, BITMAPS[0]))
    t.option(GO, info(DISK))
    t.request(STATUS, 0, DISK_SIZE)


@script
def selection_for_another_export(t):
    t.flags()
    t.option(STRUCTURED)
    t.option(SET_META, queries(RAW, BASE))
    t.option(GO, info(DISK))
    t.request(STATUS, 0, 512)
    alive(t)


@family(go=(False,), export_name=(True,))
def selection_survives_questions(t, by_name):
    t.flags()
    t.option(STRUCTURED)
    t.option(SET_META, queries(DISK, BITMAPS[0], BASE))
    t.option(INFO, info(RAW))
    t.option(LIST)
    t.option(LIST_META, queries(RAW))
    t.option(GO, info(b"none"))
    if by_name:
        t.export_name(DISK)
    else:
        t.option(GO, info(DISK))
    t.request(STATUS, 1 << 20, 32 << 20)


# Reads


READS = ((0, 1), (0, 4096), (1, 3), (4090, 12), (4095, 2), (0, 1 << 21), ((1 << 20) - 3, 7),
         (RAW_SIZE - 1, 1), (RAW_SIZE - 512, 512), (32 << 20, 8 << 20), (0, 32 << 20),
         (RAW_SIZE - 1000, 1000), ((2 << 20) + 1, 99999))  # fmt: skip


@family(simple=(False, 0), structured=(True, 0), df=(True, DF), fua=(True, FUA),
        simple_fua=(False, FUA))  # fmt: skip
def read(t, structured, flags):
    begin(t, export=RAW, structured=structured)
    for offset, length in READS:
        t.request(READ, offset, length, flags)


@family(simple=(False,), structured=(True,))
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


@script
def cookies(t):
    begin(t)
    for cookie in (0, 1, 2**63, 2**64 - 1):
        t.request(READ, 0, 1, cookie=cookie)
        t.request(FLUSH, cookie=cookie)
        t.request(WRITE, 0, 1, cookie=cookie, payload=b"x")


# Writes to a read-only export, and commands that nobody knows


@family(simple=(False,), structured=(True,))
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


@family(one_more=((32 << 20) + 1,), max=(2**32 - 1,))
def write_too_long(t, length):
    begin(t)
    t.request(WRITE, 0, length)
    t.end()


@family(simple=(False,), structured=(True,))
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


@family(plain=(0, 0, 0), garbage=(2**64 - 1, 2**32 - 1, 0xFFFF))
def disconnect(t, offset, length, flags):
    begin(t)
    t.send(request(DISC, offset, length, flags))
    t.end()


@family(simple=(False,), structured=(True,))
def bad_request_magic(t, structured):
    begin(t, structured=structured)
    t.send(b"\x12" + request(READ, 0, 1)[1:])
    t.end()


@script
def extended_request_magic(t):
    begin(t)
    t.send(struct.pack(">IHHQQQ", 0x21E41C71, 0, READ, 1, 0, 512))
    t.end()


@family(simple=(False,), structured=(True,))
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


@family(
    base=((BASE,), 0), depth=((DEPTH,), 0), weekly=((BITMAPS[0],), 0), daily=((BITMAPS[1],), 0),
    all=((BASE, DEPTH, *BITMAPS), 0), one=((BASE, DEPTH, *BITMAPS), REQ_ONE),
    one_fua=((BITMAPS[0],), REQ_ONE | FUA), fua=((BASE,), FUA),
)  # fmt: skip
def status(t, texts, flags):
    begin(t, *texts)
    for offset, length in RANGES:
        t.request(STATUS, offset, length, flags)


@script
def status_of_a_raw_file(t):
    begin(t, BASE, export=RAW)
    for offset, length in ((0, RAW_SIZE), (1, 5000), (RAW_SIZE - 1, 1), (1 << 20, 1 << 20)):
        t.request(STATUS, offset, length)
        t.request(STATUS, offset, length, REQ_ONE)


@script
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


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_replies(ours, theirs, name):
    logs = []
    for path in (theirs, ours):
        with Talk(path) as talk:
            SCRIPTS[name](talk)
            logs.append(talk.log)
    for number, (expected, got) in enumerate(zip(*logs, strict=True)):
        assert got == expected, f"step {number}"


def test_there_are_many_scripts():
    assert len(SCRIPTS) >= 60
