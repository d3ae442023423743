"""The same handshakes with QEMU's server and with ours: the same bytes must come back.

What differs on purpose is in test_nbd_differences.py, with its reasons.
"""

import struct

import pytest
from nbd_pair import BASE, BITMAPS, DEPTH, DISK, DISK_SIZE, RAW, Scripts, alive, both
from nbd_talk import (
    ABORT,
    EXTENDED,
    GO,
    INFO,
    LIST,
    LIST_META,
    PEEK,
    READ,
    SET_META,
    STARTTLS,
    STATUS,
    STRUCTURED,
    info,
    option,
    queries,
    request,
    string,
)  # fmt: skip

pytestmark = pytest.mark.interop

scripts = Scripts()


# Greeting and framing


@scripts.family(unknown=(4,), high=(1 << 31,), all=(0xFFFFFFFF,))
def client_flags(t, value):
    t.flags(value)
    t.end()


@scripts.family(none=(0,), fixed=(1,), zeroes=(2,), both=(3,))
def export_name(t, value):
    t.flags(value)
    t.export_name(RAW, zeroes=not value & 2)
    t.request(READ, 4090, 12)


@scripts.family(none=(0,), zeroes=(2,))
def options_of_a_client_that_cannot_negotiate(t, value):
    t.flags(value)
    t.option(LIST)


@scripts.one
def bad_option_magic(t):
    t.flags()
    t.send(b"IHAVEOPX" + option(LIST)[8:])
    t.end()


@scripts.family(none=(b"",), one=(b"x",), many=(bytes(4096),), large=(bytes(70000),))
def unknown_option(t, data):
    t.flags()
    t.option(99, data)
    t.option(0, data)
    t.option(0xFFFFFFFF, data)
    t.option(PEEK, data)
    t.option(EXTENDED, data)
    t.option(LIST)


@scripts.family(all_ones=(0xFFFFFFFF,), half=(1 << 31,), one_more=((32 << 20) + 1,))
def option_too_long(t, length):
    t.flags()
    t.send(option(LIST, b"", length))
    t.end()


@scripts.one
def longest_option(t):
    t.flags()
    t.option(77, bytes(32 << 20))
    t.option(LIST)


@scripts.family(plain=(b"", None), data=(b"why not", None), promise=(b"", 99))
def abort(t, data, length):
    t.flags()
    t.option(ABORT, data, length)
    t.end()


@scripts.one
def two_options_in_one_piece(t):
    t.flags()
    t.send(option(LIST) + option(99, b"abc") + option(INFO, info(RAW)))
    t.take_option()
    t.take_option()
    t.take_option()


@scripts.one
def everything_in_one_piece(t):
    flags = struct.pack(">I", 3)
    t.send(flags + option(STRUCTURED) + option(GO, info(RAW)) + request(READ, 0, 5))
    t.take_option()
    t.take_option()
    t.take_reply()


@scripts.one
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


@scripts.family(list=(LIST,), starttls=(STARTTLS,), structured=(STRUCTURED,))
def option_with_data(t, number):
    t.flags()
    t.option(number, b"x")
    t.option(number, bytes(5000))
    t.option(LIST)


@scripts.one
def starttls(t):
    t.flags()
    t.option(STARTTLS)
    t.option(LIST)


@scripts.one
def structured_reply_twice(t):
    t.flags()
    t.option(STRUCTURED)
    t.option(STRUCTURED)
    t.option(GO, info(RAW))
    alive(t)


# Names


@scripts.family(
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


@scripts.family(
    unknown=(b"none",), longest=(b"n" * 4096,), too_long=(b"n" * 4097,), long=(b"n" * 9999,)
)
def wrong_export_name(t, name):
    t.flags()
    t.export_name(name)
    t.end()


@scripts.family(
    all_ones=(0xFFFFFFFF,), half=(1 << 31,), one_more=(4,), longest=(4096,), too_long=(4097,)
)
def inner_name_length(t, length):
    t.flags()
    t.option(STRUCTURED)
    for number in (INFO, GO, LIST_META, SET_META):
        t.option(number, struct.pack(">I", length) + b"raw")
        t.option(number, struct.pack(">I", length))
        t.option(number, struct.pack(">I", length) + b"raw\0\0")
    t.option(LIST)


@scripts.family(info=(INFO,), go=(GO,), list=(LIST_META,), set=(SET_META,))
def short_body(t, number):
    t.flags()
    t.option(STRUCTURED)
    for length in range(8):
        t.option(number, (string(RAW) + b"\0")[:length])
    t.option(LIST)


# INFO and GO


@scripts.family(
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


@scripts.family(trailing=(info(RAW, 1) + b"x",), count=(string(RAW) + b"\0\x03\0\1",),
        count_max=(string(RAW) + b"\xff\xff",), odd=(string(RAW) + b"\0\1\0",))  # fmt: skip
def wrong_info(t, data):
    t.flags()
    t.option(INFO, data)
    t.option(GO, data)
    t.option(GO, info(RAW))
    alive(t)


@scripts.one
def failed_go_then_export_name(t):
    t.flags()
    t.option(INFO, info(RAW))
    t.option(INFO, info(DISK))
    t.option(GO, info(b"x"))
    t.option(LIST)
    t.export_name(DISK)
    alive(t)


# Contexts


@scripts.family(
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


@scripts.family(
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


@scripts.one
def second_set_replaces_the_first(t):
    t.flags()
    t.option(STRUCTURED)
    t.option(SET_META, queries(DISK, BASE, DEPTH))
    t.option(SET_META, queries(DISK, BITMAPS[0]))
    t.option(GO, info(DISK))
    t.request(STATUS, 0, DISK_SIZE)


@scripts.one
def selection_for_another_export(t):
    t.flags()
    t.option(STRUCTURED)
    t.option(SET_META, queries(RAW, BASE))
    t.option(GO, info(DISK))
    t.request(STATUS, 0, 512)
    alive(t)


@scripts.family(go=(False,), export_name=(True,))
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


@pytest.fixture(scope="module")
def pair(two_bitmaps, tmp_path_factory):
    with both(two_bitmaps, tmp_path_factory.mktemp("pair")) as paths:
        yield paths


@pytest.mark.parametrize("name", scripts)
def test_the_same_replies(pair, name):
    scripts.compare(name, pair)
