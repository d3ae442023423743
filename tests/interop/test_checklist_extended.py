"""Extended headers, statement by statement: raw bytes of our process, by the protocol's words.

QEMU speaks them from 8.2 on; where 7.2 must refuse them its bytes are compared.
"""

from __future__ import annotations

import hashlib
import struct

import pytest
from beside import BASE, BITMAP, DEPTH, beside, ours, same, uri
from disks import layers, raw_disk
from extended import COOKIE, ExtendedTalk, chunk, error, ids, request
from nbd_talk import (
    CACHE,
    CLOSED,
    DF,
    EXTENDED,
    FLUSH,
    GO,
    INFO,
    LIST,
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
)  # fmt: skip
from nbd_talk import request as compact_request
from peers import nbdinfo_map, run

pytestmark = pytest.mark.interop

SIZE = 64 << 20
MAX = 32 << 20
TIB = 1 << 40
LAST = (1 << 64) - 1
BITMAPS = ("weekly", "daily")
CONTEXTS = (BASE, DEPTH, *(BITMAP + name for name in BITMAPS))
ACK, INVALID, EXT_REQD = 1, 0x80000003, 0x8000000A


@pytest.fixture(scope="module")
def server(two_bitmaps, tmp_path_factory):
    """The demonstration image behind our server, which behaves as QEMU 8.2."""
    path = tmp_path_factory.mktemp("extended") / "s"
    words = ("-A", *(word for name in BITMAPS for word in ("-B", name)))
    with ours(two_bitmaps, path, "-f", "qcow2", "--profile", "qemu-8.2", *words):
        yield path


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An empty disk of 16 TiB."""
    folder = tmp_path_factory.mktemp("large")
    image = layers(folder, ("qcow2", "16T", "", ()))
    with ours(image, folder / "s", "-f", "qcow2", "--profile", "qemu-8.2"):
        yield folder / "s"


def kind_and_text(reply):
    """Return the type and the data of the only reply to an option."""
    number, kind, length = struct.unpack_from(">III", reply, 8)
    assert number in {EXTENDED, STRUCTURED}
    assert len(reply) == 20 + length
    return kind, reply[20:]


def chunk_list(reply):
    """Return (kind, payload) of each chunk; the last one only is marked as done."""
    found, at = [], 0
    while at < len(reply):
        magic, flags, kind, cookie, offset, length = struct.unpack_from(">IHHQQQ", reply, at)
        assert (magic, cookie) == (0x6E8A278C, COOKIE)
        found.append((flags, offset, kind, reply[at + 32 : at + 32 + length]))
        at += 32 + length
    assert [flags for flags, *_ in found] == [0] * (len(found) - 1) + [1]
    return [part[1:] for part in found]


def test_115_extended_headers_are_agreed_on_once(server):
    """Data with the option and a second time are invalid; structured replies come too late."""
    with Talk(server) as talk:
        talk.flags()
        unexpected = b"option 'extended headers' has unexpected length"
        again = b"extended headers already negotiated"
        assert kind_and_text(talk.option(EXTENDED, b"x")) == (INVALID, unexpected)
        assert kind_and_text(talk.option(EXTENDED)) == (ACK, b"")
        assert kind_and_text(talk.option(EXTENDED)) == (INVALID, again)
        assert kind_and_text(talk.option(STRUCTURED)) == (EXT_REQD, again)
        assert talk.option(LIST).endswith(b"\0\0\0\1\0\0\0\0")
        talk.option(GO, info(b""))
        talk.send(request(READ, 5, 7, DF))
        assert talk._exactly(32)[:4] == b"\x6e\x8a\x27\x8c"


def test_115_structured_replies_may_come_first(server):
    """Who has agreed on structured replies may still agree on more."""
    with Talk(server) as talk:
        talk.flags()
        assert kind_and_text(talk.option(STRUCTURED)) == (ACK, b"")
        assert kind_and_text(talk.option(EXTENDED)) == (ACK, b"")


def test_115_an_export_by_name_ends_the_connection(server):
    """EXPORT_NAME cannot say what it would have to."""
    with Talk(server) as talk:
        talk.flags()
        talk.option(EXTENDED)
        assert talk.export_name(b"") == CLOSED


def test_116_every_reply_has_the_offset_of_its_request(server, two_bitmaps, tmp_path):
    """Headers are 32 bytes with the request's offset; success without data is a NONE chunk."""
    plain = tmp_path / "plain"
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", two_bitmaps, plain)
    content = plain.read_bytes()
    with ExtendedTalk(server, *CONTEXTS) as talk:
        assert talk.ask(FLUSH) == chunk(0)
        assert talk.ask(CACHE, 4096, 512) == chunk(0, offset=4096)
        assert talk.ask(READ, 9, 0) == chunk(0, offset=9)
        for offset, length in ((0, 4096), (9437183, 8194), (SIZE - 1, 1), (0, MAX)):
            data = struct.pack(">Q", offset) + content[offset : offset + length]
            assert talk.ask(READ, offset, length, DF) == chunk(1, data, offset=offset)
            parts = b""
            for at, kind, payload in chunk_list(talk.ask(READ, offset, length)):
                assert at == offset
                assert int.from_bytes(payload[:8], "big") == offset + len(parts)
                parts += bytes(int.from_bytes(payload[8:], "big")) if kind == 2 else payload[8:]
            assert parts == content[offset : offset + length]
        assert {at for at, _, _ in chunk_list(talk.ask(STATUS, 777, 9999))} == {777}
        past = f"operation past EOF; From: {SIZE}, Len: 1, Size: {SIZE}"
        for command in (READ, STATUS, CACHE):
            assert talk.ask(command, SIZE, 1) == error(past, offset=SIZE)
        assert talk.ask(8, 3, 4) == error("invalid request type (8) received", offset=3)
        text = "Export is read-only"
        assert talk.ask(WRITE, 7, 4, PAYLOAD_LEN, b"abcd") == error(text, offset=7)
        assert talk.ask(TRIM, 7, 4) == error(text, offset=7)


def test_117_extents_have_64_bits_and_a_count(server):
    """Each context is a chunk of type 6: number, count, then lengths and flags of 8 bytes each."""
    with ExtendedTalk(server, *CONTEXTS) as talk:
        reply = chunk_list(talk.ask(STATUS, 0, SIZE))
        one = chunk_list(talk.ask(STATUS, 100, SIZE - 100, REQ_ONE))
    assert [kind for _, kind, _ in reply + one] == [6] * 8
    for number, (name, (_, _, payload)) in enumerate(zip(CONTEXTS, reply, strict=True)):
        found, count = struct.unpack_from(">II", payload)
        assert (found, len(payload)) == (number, 8 + 16 * count)
        extents = list(struct.iter_unpack(">QQ", payload[8:]))
        rows = nbdinfo_map(uri(server), name)
        assert extents == [(row["length"], row["type"]) for row in rows]
        length, flags = extents[0]
        assert one[number][2] == struct.pack(">IIQQ", number, 1, length - 100, flags)


def test_117_sixteen_tebibytes_are_one_extent(large):
    """No limit of 32 bits is left in a length."""
    with ExtendedTalk(large, BASE) as talk:
        for offset, length in ((0, 16 * TIB), (1, 16 * TIB - 1), (TIB, 5 * TIB + 3)):
            expected = chunk(6, struct.pack(">IIQQ", 0, 1, length, 3), offset=offset)
            assert talk.ask(STATUS, offset, length) == expected
            assert talk.ask(STATUS, offset, length, REQ_ONE) == expected
        assert talk.ask(CACHE, 0, MAX + 1) == (
            error(f"len ({MAX + 1}) is larger than max len ({MAX})")
        )


@pytest.mark.parametrize("number", [INFO, GO])
@pytest.mark.parametrize("selected", [True, False])
@pytest.mark.parametrize("agreed", [EXTENDED, STRUCTURED])
def test_118_the_payload_flag_needs_extended_headers(server, agreed, selected, number):
    """And for GO contexts that could be chosen from; chunks forbid fragments either way."""
    with Talk(server) as talk:
        talk.flags()
        talk.option(agreed)
        if selected:
            talk.option(SET_META, queries(b"", BASE.encode()))
        reply = talk.option(number, info(b""))
    size, flags = struct.unpack(">QH", reply[-30:-20])
    assert size == SIZE
    assert bool(flags & 0x1000) == (agreed == EXTENDED and (selected or number == INFO))
    assert flags & 0x80


def test_119_a_filter_brings_what_it_names(server):
    """Only the contexts whose numbers are in the payload, whatever their order there."""
    with ExtendedTalk(server, *CONTEXTS) as talk:
        whole = {payload[:4]: payload for _, _, payload in chunk_list(talk.ask(STATUS, 0, SIZE))}
        for numbers in ((0,), (3,), (3, 1), (0, 1, 2, 3), (2, 0)):
            data = ids(SIZE, *numbers)
            reply = chunk_list(talk.ask(STATUS, 0, len(data), PAYLOAD_LEN, data))
            assert [payload for _, _, payload in reply] == [
                whole[struct.pack(">I", number)] for number in sorted(numbers)
            ]
        data = ids(10, 2)
        reply = talk.ask(STATUS, SIZE - 10, len(data), PAYLOAD_LEN | REQ_ONE, data)
        assert [len(payload) for _, _, payload in chunk_list(reply)] == [24]


@pytest.mark.parametrize(
    "data",
    [ids(512), ids(512, 9), ids(512, 0, 0), ids(512, 1), ids(512, 0) + b"x", b"", b"1234",
     ids(512, 0, 2, 3), bytes(70000)],
    ids=["none", "unknown", "twice", "unselected", "odd", "empty", "short", "more", "long"],
)  # fmt: skip
def test_119_a_filter_that_is_wrong_is_read_and_refused(server, data):
    """Unknown, unselected, repeated or no numbers, and odd sizes: EINVAL, in step."""
    with ExtendedTalk(server, BASE, CONTEXTS[2]) as talk:
        reply = talk.ask(STATUS, 4096, len(data), PAYLOAD_LEN, data)
        assert reply == error("CMD_BLOCK_STATUS payload not valid", offset=4096)
        talk.alive()


def test_119_the_range_in_a_filter_is_checked(server):
    """It ends within the disk and has a byte at least."""
    with ExtendedTalk(server, BASE) as talk:
        for length in (SIZE + 1, LAST, 1 << 63):
            data = ids(length, 0)
            text = f"operation past EOF; From: 0, Len: {length}, Size: {SIZE}"
            assert talk.ask(STATUS, 0, 12, PAYLOAD_LEN, data) == error(text)
        reply = talk.ask(STATUS, 0, 12, PAYLOAD_LEN, ids(0, 0))
        assert reply == error("need non-zero length")
        talk.alive()
    with ExtendedTalk(server) as talk:
        reply = talk.ask(STATUS, 0, 12, PAYLOAD_LEN, ids(512, 0))
        assert int.from_bytes(reply[32:36], "big") == 22
        talk.alive()


@pytest.mark.parametrize(
    ("command", "text"),
    [(READ, "read"), (FLUSH, "flush"), (CACHE, "cache"), (TRIM, None), (ZEROES, None), (8, None)],
)
def test_120_a_payload_where_none_belongs_is_read_and_refused(server, command, text):
    """Its bytes are not taken for requests, whatever they look like."""
    with ExtendedTalk(server, BASE) as talk:
        for data in (request(READ, 0, 1) * 100, b"x", bytes(1 << 20)):
            reply = talk.ask(command, 0, len(data), PAYLOAD_LEN, data)
            assert int.from_bytes(reply[32:36], "big") == 22
            if text is not None:
                assert reply == error(f"unsupported flags for command {text} (got 0x20)")
        talk.alive()


@pytest.mark.parametrize("command", [READ, WRITE, STATUS])
def test_120_a_payload_beyond_every_limit_ends_the_connection(server, command):
    """More than the longest write will not be read."""
    with ExtendedTalk(server, BASE) as talk:
        reply = talk.ask(command, 0, MAX + 1, PAYLOAD_LEN)
        assert reply == error(f"len ({MAX + 1}) is larger than max len ({MAX})")
        assert talk.end() == CLOSED


def test_121_lengths_of_64_bits_do_not_wrap(server, large):
    """2^40 bytes of a small disk, and sums beyond 2^64, are past its end; long reads too long."""
    with ExtendedTalk(server, BASE) as talk:
        for offset, length in ((0, TIB), (5, LAST), (SIZE, LAST - SIZE + 1), (SIZE - 1, 1 << 32)):
            past = f"operation past EOF; From: {offset}, Len: {length}, Size: {SIZE}"
            assert talk.ask(STATUS, offset, length) == error(past, offset=offset)
        talk.alive()
    with ExtendedTalk(large, BASE) as talk:
        for length in (MAX + 1, 1 << 32, (1 << 32) + 512, TIB):
            text = f"len ({length}) is larger than max len ({MAX})"
            assert talk.ask(READ, 512, length) == error(text, offset=512)
        at = 16 * TIB - 7
        assert talk.ask(READ, at, 7, DF) == chunk(1, struct.pack(">Q", at) + bytes(7), offset=at)


def test_121_a_compact_request_among_extended_ones_is_not_guessed_at(server):
    """28 bytes wait for four more; then the magic is wrong, and the connection ends."""
    with ExtendedTalk(server) as talk:
        talk.send(compact_request(READ, 0, 512) + bytes(4))
        assert b"invalid magic (got 0x25609513)" in talk.end()


def test_122_who_has_no_extended_headers_says_so_and_goes_on(tmp_path):
    """As QEMU 7.2 does, so that newer clients fall back; the tools of today are served."""
    image = raw_disk(tmp_path / "disk.raw")

    def script(t):
        t.flags()
        t.option(EXTENDED)
        t.option(EXTENDED, b"xy")
        t.option(STRUCTURED)
        t.option(EXTENDED)
        t.option(GO, info(b""))
        t.request(READ, 5, 7)

    with beside(image, tmp_path, "-f", "raw") as pair:
        log = same(pair, script)
    assert kind_and_text(log[1])[0] == 0x80000001


@pytest.mark.parametrize("profile", ["qemu-7.2", "qemu-8.2", "spec"])
def test_122_every_profile_serves_the_clients_of_today(tmp_path, profile):
    """nbdcopy, qemu-img and qemu-nbd's listing work, whether or not more is on offer."""
    image, path = raw_disk(tmp_path / "disk.raw"), tmp_path / "s"
    with ours(image, path, "-f", "raw", "--profile", profile):
        run("nbdcopy", uri(path), tmp_path / "copy")
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri(path), tmp_path / "converted")
        sums = {
            hashlib.sha256(file.read_bytes()).digest()
            for file in (image, tmp_path / "copy", tmp_path / "converted")
        }
        assert len(sums) == 1
        assert "exports available: 1" in run("qemu-nbd", "--list", "-k", path).stdout
        with Talk(path) as talk:
            talk.flags()
            kind, _ = kind_and_text(talk.option(EXTENDED))
            assert kind == (0x80000001 if profile == "qemu-7.2" else ACK)
