"""How metadata contexts are chosen: our process and qemu-nbd get the same bytes.

The numbers are those of the project's list of what a server has to do.
"""

from __future__ import annotations

import json
import struct
import time

import pytest
from beside import BASE, BITMAP, DEPTH, beside, nbdsh, same, statuses, uri
from nbd_talk import (
    GO,
    INFO,
    LIST,
    LIST_META,
    READ,
    SET_META,
    STATUS,
    STRUCTURED,
    info,
    queries,
    string,
)  # fmt: skip
from peers import nbdinfo_map, run

pytestmark = pytest.mark.interop

INVALID, TOO_BIG, ACK, CONTEXT = 0x80000003, 0x80000009, 1, 4
SIZE = 64 << 20
NAMES = ("weekly", "daily")
WEEKLY, DAILY = (f"{BITMAP}{name}" for name in NAMES)
ALL = [BASE, DEPTH, WEEKLY, DAILY]


@pytest.fixture(scope="module")
def pair(two_bitmaps, tmp_path_factory):
    with beside(two_bitmaps, tmp_path_factory.mktemp("pair"), "-A", bitmaps=NAMES) as sockets:
        yield sockets


def frames(reply):
    """Return type and data of each reply to an option."""
    found, at = [], 0
    while at < len(reply):
        _, _, kind, length = struct.unpack_from(">QIII", reply, at)
        found.append((kind, reply[at + 20 : at + 20 + length]))
        at += 20 + length
    return found


def last_kind(reply):
    return frames(reply)[-1][0]


def contexts_in(reply):
    """Return ids and names of the contexts in a reply that ends with an acknowledgement."""
    *told, (kind, _) = frames(reply)
    assert kind == ACK
    assert {kind for kind, _ in told} <= {CONTEXT}
    return [(int.from_bytes(data[:4], "big"), data[4:].decode()) for _, data in told]


def encoded(names):
    return [name if isinstance(name, bytes) else name.encode() for name in names]


def query(pair, number, *names):
    """Return the contexts that a query gives, the same from both."""

    def script(talk):
        talk.flags()
        talk.option(STRUCTURED)
        talk.option(number, queries(b"", *encoded(names)))

    return contexts_in(same(pair, script)[-1])


def test_038_structured_replies_are_agreed_once_and_have_no_data(pair):
    def script(talk):
        talk.flags()
        talk.option(STRUCTURED, b"x")
        talk.option(STRUCTURED)
        talk.option(STRUCTURED)
        talk.option(GO, info(b""))
        talk.request(READ, 0, 1)

    kinds = [last_kind(reply) for reply in same(pair, script)[1:4]]
    assert kinds == [INVALID, ACK, INVALID]


def test_039_contexts_need_structured_replies(pair):
    def script(talk):
        talk.flags()
        talk.option(SET_META, queries(b"", BASE.encode()))
        talk.option(LIST_META, queries(b""))
        talk.option(STRUCTURED)
        talk.option(SET_META, queries(b"", BASE.encode()))

    _, early, listed, _, later = same(pair, script)
    assert [last_kind(reply) for reply in (early, listed)] == [INVALID, ACK]  # to list is free
    assert contexts_in(later) == [(0, BASE)]


def test_040_a_list_without_queries_is_of_all_contexts(pair):
    assert query(pair, LIST_META) == [(0, name) for name in ALL]
    for path in pair:
        told = json.loads(run("nbdinfo", "--json", uri(path)).stdout)["exports"][0]
        assert told["contexts"] == ALL
    theirs, mine = (run("qemu-nbd", "--list", "-k", path).stdout for path in pair)
    assert theirs == mine
    assert "available meta contexts: 4" in mine


def test_041_a_namespace_is_listed_but_selects_nothing(pair):
    assert query(pair, LIST_META, "base:") == [(0, BASE)]
    assert query(pair, SET_META, "base:") == []


def test_042_so_are_the_namespaces_of_qemu(pair):
    assert query(pair, LIST_META, "qemu:") == [(0, name) for name in ALL[1:]]
    assert query(pair, LIST_META, BITMAP) == [(0, WEEKLY), (0, DAILY)]
    assert query(pair, SET_META, "qemu:", BITMAP) == []
    for path in pair:
        assert run("nbdinfo", "--map=qemu:", uri(path), check=False).returncode == 1


@pytest.mark.parametrize("number", [LIST_META, SET_META])
def test_043_what_nobody_knows_is_ignored(pair, number):
    unknown = ("x:y", "base:x", "qemu:x", f"{BITMAP}x", f"{WEEKLY}x", "base", "", ":", "BASE:x")
    assert query(pair, number, *unknown) == []
    assert [name for _, name in query(pair, number, *unknown, BASE)] == [BASE]


def test_044_each_selected_context_comes_once_with_a_number_of_its_own(pair):
    found = query(pair, SET_META, DAILY, DAILY, BASE, WEEKLY, BASE)
    assert sorted(name for _, name in found) == sorted([BASE, WEEKLY, DAILY])
    assert len({number for number, _ in found}) == 3


@pytest.mark.parametrize("name", ALL)
def test_045_who_asks_for_one_name_gets_that_name_only(pair, name):
    assert [found for _, found in query(pair, SET_META, name)] == [name]
    maps = []
    for path in pair:
        server = {"type": "unix", "path": str(path)}
        options = {"driver": "nbd", "server": server, "x-dirty-bitmap": name}
        maps.append(run("qemu-img", "map", "--output=json", "json:" + json.dumps(options)).stdout)
    assert maps[0] == maps[1]


MALFORMED = {
    "query": string(b"") + b"\0\0\0\1\xff\xff\xff\xffbase",
    "second query": string(b"") + b"\0\0\0\2" + string(BASE.encode()) + b"\0\0\0\5base",
    "half a length": string(b"") + b"\0\0\0\2" + string(BASE.encode()) + b"\0\0",
    "no count": string(b""),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_046_a_query_that_does_not_fit_the_data(pair, data):
    def script(talk):
        talk.flags()
        talk.option(STRUCTURED)
        for number in (LIST_META, SET_META):
            talk.option(number, data)
        talk.option(LIST_META, queries(b""))

    *_, listed, set_, after = same(pair, script)
    assert [last_kind(reply) for reply in (listed, set_, after)] == [INVALID, INVALID, ACK]


def test_048_four_billion_queries_in_four_bytes_are_refused_at_once(pair):
    def script(talk):
        talk.flags()
        talk.option(STRUCTURED)
        for number in (LIST_META, SET_META):
            talk.option(number, string(b"") + b"\xff\xff\xff\xff")

    begun = time.monotonic()
    for reply in same(pair, script)[2:]:
        assert last_kind(reply) == INVALID
    assert time.monotonic() - begun < 10


def test_049_ten_thousand_queries_are_answered(pair):
    def script(talk):
        talk.flags()
        talk.option(STRUCTURED)
        talk.option(SET_META, queries(b"", *[b"x:y"] * 9_998, BASE.encode(), DAILY.encode()))
        talk.option(LIST)

    found = contexts_in(same(pair, script)[2])
    assert sorted(name for _, name in found) == sorted([BASE, DAILY])


def selected_after(pair, *options, export=b"", length=SIZE):
    """Return the contexts of a block status after options and GO."""

    def script(talk):
        talk.flags()
        talk.option(STRUCTURED)
        for number, data in options:
            talk.option(number, data)
        talk.option(GO, info(export))
        talk.request(STATUS, 0, length)

    reply = same(pair, script)[-1]
    return [number for number, _ in statuses(reply)] if reply[7] != 1 else None


def selection(*names, export=b""):
    return (SET_META, queries(export, *encoded(names)))


def test_050_a_second_selection_replaces_the_first_and_a_failing_one_clears_it(pair):
    assert selected_after(pair, selection(BASE, DEPTH), selection(DAILY)) == [3]

    def script(talk):
        talk.flags()
        talk.option(STRUCTURED)
        talk.option(*selection(BASE))
        talk.option(SET_META, MALFORMED["query"])
        talk.option(GO, info(b""))
        talk.request(STATUS, 0, 512)

    assert int.from_bytes(same(pair, script)[-1][20:24], "big") == 22


def test_051_a_selection_holds_for_its_export_only(two_bitmaps, tmp_path):
    """qemu-nbd has one export: to select for another one selects nothing there."""
    with beside(two_bitmaps, tmp_path, "-x", "a", bitmaps=NAMES) as sockets:

        def script(talk):
            talk.flags()
            talk.option(STRUCTURED)
            talk.option(*selection(BASE, export=b"b"))
            talk.option(GO, info(b"a"))
            talk.request(STATUS, 0, 512)
            talk.request(READ, 0, 512)

        reply = same(sockets, script)[-2]
    assert int.from_bytes(reply[20:24], "big") == 22


def test_052_questions_in_between_do_not_touch_a_selection(pair):
    between = ((INFO, info(b"")), (LIST, b""), (LIST_META, queries(b"", DEPTH.encode())))
    assert selected_after(pair, selection(DAILY, BASE), *between) == [0, 3]


def test_053_several_bitmaps_at_once_beside_the_others(pair):
    assert selected_after(pair, selection(*ALL)) == [0, 1, 2, 3]
    code = "\n".join((
        "told = {}",
        "def take(context, offset, extents, error):",
        "    told.setdefault(context, []).extend(extents)",
        f"h.block_status({SIZE}, 0, take)",
    ))  # fmt: skip
    theirs, mine = (nbdsh(path, code, *ALL) for path in pair)
    assert theirs == mine
    assert sorted(mine) == sorted(ALL)


def test_054_bitmaps_of_every_name_can_be_selected(tmp_path):
    names = ("with blank", "a:b", "schön-漢字", "n" * 1023)
    image = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    for name in names:
        run("qemu-img", "bitmap", "--add", image, name)
    run("qemu-io", "-f", "qcow2", "-c", "write 64k 64k", image)
    with beside(image, tmp_path, bitmaps=names) as sockets:
        for name in names:
            assert [found for _, found in query(sockets, SET_META, BITMAP + name)] == [
                BITMAP + name
            ]
        for name in names[:3]:
            theirs, mine = (nbdinfo_map(uri(path), BITMAP + name) for path in sockets)
            assert theirs == mine
            assert len(mine) == 3


def test_055_the_old_way_to_choose_keeps_the_selection(pair):
    def script(talk):
        talk.flags()
        talk.option(STRUCTURED)
        talk.option(*selection(DAILY, BASE))
        talk.export_name(b"")
        talk.request(STATUS, 0, SIZE)

    assert [number for number, _ in statuses(same(pair, script)[-1])] == [0, 3]
