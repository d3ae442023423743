"""Block status, statement by statement: real clients and raw bytes, qemu-nbd beside our server."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import numpy as np
import pytest
from beside import (
    BASE,
    BITMAP,
    DEPTH,
    EINVAL,
    STATUS_CHUNK,
    ask,
    begin,
    beside,
    chunks,
    error_of,
    nbdsh,
    qemu_options,
    same,
    statuses,
    uri,
)  # fmt: skip
from disks import RAW_SIZE, alternating, layers, raw_disk, write
from nbd_talk import (
    DF,
    FAST_ZERO,
    FUA,
    NO_HOLE,
    PAYLOAD_LEN,
    READ,
    REQ_ONE,
    STATUS,
)  # fmt: skip
from peers import nbdinfo_map, run

pytestmark = pytest.mark.interop

SIZE = 64 << 20
BITMAPS = ("weekly", "daily")
CONTEXTS = (BASE, DEPTH, *(BITMAP + name for name in BITMAPS))
RANGES = ((0, SIZE), (0, 1), (SIZE - 1, 1), (1, 10), (65535, 2), (65536, 65536), (9437183, 8194),
          (1048575, 2097153), (33554431, 33554433), (12345678, 23456789))  # fmt: skip
WALK = """
told = []
for offset, length in {asked}:
    found = {{}}
    def extent(name, at, entries, error):
        found.setdefault(name, []).append([at, entries])
    h.block_status(length, offset, extent, {flags})
    told.append(found)
"""


@pytest.fixture(scope="module")
def disk(two_bitmaps, tmp_path_factory):
    """The demonstration image behind both servers."""
    folder = tmp_path_factory.mktemp("disk")
    with beside(two_bitmaps, folder, "-f", "qcow2", "-A", bitmaps=BITMAPS) as pair:
        yield pair


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    """80 MiB whose bitmap alternates in granules of 512 bytes up to the last cluster."""
    folder = tmp_path_factory.mktemp("fine")
    image = alternating(folder / "fine.qcow2", 80 << 20, (80 << 20) - 65536)
    with beside(image, folder, "-f", "qcow2", bitmaps=("b",)) as pair:
        yield pair


def walk(path, asked, *contexts, flags=0):
    """Ask by libnbd's shell; return for each range and context the (length, flags) it was told."""
    told = nbdsh(path, WALK.format(asked=list(asked), flags=flags), *contexts)
    result = []
    for (offset, _), found in zip(asked, told, strict=True):
        for calls in found.values():
            assert [at for at, _ in calls] == [offset]
        result.append({
            name: list(zip(calls[0][1][::2], calls[0][1][1::2], strict=True))
            for name, calls in found.items()
        })  # fmt: skip
    return result


@pytest.mark.parametrize("structured", [True, False])
def test_094_what_was_not_negotiated_is_refused(disk, structured):
    """Without a selected context: EINVAL, with a reason where there is room; then as before."""

    def script(t):
        begin(t, structured=structured)
        for arguments in ((0, 512), (0, 512, REQ_ONE), (0, SIZE)):
            reply = t.request(STATUS, *arguments)
            assert error_of(reply) == EINVAL
            assert reply.endswith(b"CMD_BLOCK_STATUS not negotiated") == structured
        t.request(READ, 5, 7)

    same(disk, script)


def test_095_each_selected_context_has_one_chunk(disk):
    """One chunk each, with the number it was selected under, and the last one ends the reply."""

    def script(t):
        begin(t, *reversed(CONTEXTS))
        for offset, length in RANGES:
            reply = t.request(STATUS, offset, length)
            assert [chunk.kind for chunk in chunks(reply)] == [STATUS_CHUNK] * 4
            assert [number for number, _ in statuses(reply)] == [0, 1, 2, 3]

    same(disk, script)
    told = [walk(path, RANGES, *CONTEXTS) for path in disk]
    assert told[0] == told[1]
    assert all(set(found) == set(CONTEXTS) for found in told[1])


def test_096_extents_begin_at_the_offset_and_fit(disk, fine):
    """No extent is empty, and all but the last together are shorter than the range."""
    choose = random.Random(96)
    asked = [*RANGES]
    for _ in range(100):
        offset = choose.randrange(SIZE)
        asked.append((offset, choose.randrange(1, SIZE - offset + 1)))
    told = [walk(path, asked, *CONTEXTS) for path in disk]
    assert told[0] == told[1]
    told += [walk(path, asked[:30], BASE, f"{BITMAP}b") for path in fine]
    for found in told[1:]:
        for (_, length), contexts in zip(asked, found, strict=False):
            for extents in contexts.values():
                assert all(part for part, _ in extents)
                assert sum(part for part, _ in extents[:-1]) < length


def test_097_req_one_is_one_extent_within_the_range(disk):
    """Each context tells exactly one extent, which does not go beyond what was asked for."""

    def script(t):
        begin(t, *CONTEXTS)
        for offset, length in RANGES:
            for flags in (REQ_ONE, REQ_ONE | FUA):
                for _, extents in statuses(t.request(STATUS, offset, length, flags)):
                    ((told, _),) = extents
                    assert 0 < told <= length

    same(disk, script)
    told = [walk(path, RANGES, *CONTEXTS, flags="nbd.CMD_FLAG_REQ_ONE") for path in disk]
    assert told[0] == told[1]


def test_098_a_range_must_end_within_the_disk(disk):
    """Behind the end: EINVAL; the last byte of the disk is fine."""
    last = (1 << 64) - 1
    wrong = ((SIZE, 1), (SIZE - 1, 2), (last, 1), (last, 2), (0, (1 << 32) - 1), (1 << 63, 512))

    def script(t):
        begin(t, *CONTEXTS)
        for offset, length in wrong:
            assert error_of(t.request(STATUS, offset, length)) == EINVAL
        for _, extents in statuses(t.request(STATUS, SIZE - 1, 1)):
            assert [length for length, _ in extents] == [1]

    same(disk, script)
    code = f"""
told = []
for offset, length in {wrong[:3] + wrong[5:]}:
    try:
        h.block_status(length, offset, lambda *_: None)
    except nbd.Error as error:
        told.append(error.errno)
"""
    assert [nbdsh(path, code, BASE) for path in disk] == [["EINVAL"] * 4] * 2


def test_099_a_range_of_nothing_is_refused(disk):
    """A length of 0: EINVAL, wherever; the connection goes on."""

    def script(t):
        begin(t, BASE)
        for offset in (0, 5, SIZE):
            assert error_of(t.request(STATUS, offset, 0)) == EINVAL
        t.request(STATUS, 0, 512)

    same(disk, script)


def test_100_nothing_is_told_of_what_is_behind_the_end(disk, fine):
    """The last extent ends with the disk at the latest."""
    for path in (*disk, *fine):
        size = nbdsh(path, "told = h.get_size()")
        names = CONTEXTS if path in disk else (BASE, f"{BITMAP}b")
        asked = [(at, size - at) for at in (0, 1, size // 2, size - 70000, size - 513, size - 1)]
        for (_, length), found in zip(asked, walk(path, asked, *names), strict=True):
            for extents in found.values():
                assert sum(part for part, _ in extents) <= length


def test_101_equal_neighbours_are_one_extent(disk, tmp_path):
    """A disk that is all the same is one extent, as long as a request can be."""

    def neighbours(t):
        begin(t, *CONTEXTS)
        for _, extents in statuses(t.request(STATUS, 0, SIZE)):
            assert all(a[1] != b[1] for a, b in pairwise(extents))

    same(disk, neighbours)
    image = tmp_path / "empty.raw"
    with image.open("wb") as file:
        file.truncate(8 << 30)
    most = (1 << 32) - 1

    def script(t):
        begin(t, BASE)
        for offset, length in ((0, most), (1, most), (511, most - 1), (4 << 30, most - 511),
                               (65535, 1 << 31)):  # fmt: skip
            assert statuses(t.request(STATUS, offset, length)) == [(0, [(length, 3)])]

    with beside(image, tmp_path, "-f", "raw") as pair:
        same(pair, script)


def test_102_a_reply_has_a_bound_and_the_next_goes_on_where_it_ends(fine):
    """At most 2^20 extents, here QEMU's 131072; the map of the whole is right nevertheless."""

    def script(t):
        begin(t, f"{BITMAP}b")
        ((number, extents),) = statuses(t.request(STATUS, 0, 80 << 20))
        assert (number, len(extents)) == (2, 131072)
        assert [flags for _, flags in extents] == [1, 0] * 65536
        reached = sum(length for length, _ in extents)
        assert reached == 64 << 20
        ((_, rest),) = statuses(t.request(STATUS, reached, (80 << 20) - reached))
        assert sum(length for length, _ in rest) == (80 << 20) - reached

    same(fine, script)
    maps = [run("nbdinfo", f"--map={BITMAP}b", uri(path)).stdout for path in fine]
    assert maps[0] == maps[1]
    lines = maps[1].splitlines()
    assert len(lines) == ((80 << 20) - 65536) // 512
    assert lines[131072].split() == [str(64 << 20), "512", "1", "dirty"]


def test_103_the_union_of_replies_is_the_truth(tmp_path):
    """Walks from random offsets over random lengths find what was written, and nothing else."""
    size, granule = 16 << 20, 4096
    choose = random.Random(103)
    writes = [(choose.randrange(size - 20000), choose.randrange(1, 20000)) for _ in range(150)]
    image = layers(tmp_path, ("qcow2", size, "", ()))
    run("qemu-img", "bitmap", "--add", "-g", str(granule), image, "b")
    write(image, *(f"write -q -P 1 {at} {length}" for at, length in writes))
    model = np.zeros(size, dtype=np.uint8)
    for at, length in writes:
        model[at // granule * granule : -(-(at + length) // granule) * granule] = 1
    asked = []
    for _ in range(60):
        offset = choose.randrange(size)
        asked.append((offset, choose.randrange(1, size - offset + 1)))
    # libnbd asks on from where a reply ends, in steps of at most 3 MB.
    code = f"""
told = []
for offset, length in {asked}:
    at, parts = offset, []
    while at < offset + length:
        found = []
        h.block_status(min(3000000, offset + length - at), at,
                       lambda name, start, entries, error: found.extend(entries))
        parts += found
        at += sum(found[::2])
    told.append(parts)
"""
    with beside(image, tmp_path, "-f", "qcow2", bitmaps=("b",)) as pair:
        told = [nbdsh(path, code, f"{BITMAP}b") for path in pair]
    assert told[0] == told[1]
    for (offset, length), parts in zip(asked, told[1], strict=True):
        seen = np.repeat(np.array(parts[1::2], dtype=np.uint8), parts[::2])
        assert np.array_equal(seen, model[offset : offset + length])


def test_104_contexts_of_one_reply_end_at_the_same_offset(fine):
    """QEMU cuts each context for itself; clients that step by one of them lose parts of others."""

    def steps(t):
        begin(t, BASE, f"{BITMAP}b")
        return [[length for length, _ in extents]
                for _, extents in statuses(t.request(STATUS, 0, 80 << 20))]  # fmt: skip

    (their_base, their_bits), (our_base, our_bits) = ask(fine, steps)
    assert their_bits == our_bits
    assert (sum(their_base), sum(their_bits)) == (80 << 20, 64 << 20)
    assert (sum(our_base), sum(our_bits)) == (64 << 20, 64 << 20)


def test_105_flags_are_those_of_their_context(disk):
    """A bitmap says 0 or 1, base:allocation two bits, the depth a number of layers."""
    allowed = {BASE: {0, 1, 2, 3}, DEPTH: {0, 1, 2}} | {BITMAP + name: {0, 1} for name in BITMAPS}
    told = [walk(path, [(0, SIZE)], *CONTEXTS)[0] for path in disk]
    assert told[0] == told[1]
    for name, extents in told[1].items():
        seen = {flags for _, flags in extents}
        assert seen <= allowed[name]
        assert len(seen) > 1


def test_107_what_is_said_to_be_zero_reads_as_zeroes(disk):
    """Every extent with the bit for zeroes is read back."""
    code = f"""
told, zeroes = [], []
def extent(name, at, entries, error):
    for length, flags in zip(entries[::2], entries[1::2]):
        if flags & 2:
            zeroes.append((at, length))
        at += length
h.block_status({SIZE}, 0, extent)
for at, length in zeroes:
    for start in range(at, at + length, 1 << 20):
        data = h.pread(min(1 << 20, at + length - start), start, nbd.CMD_FLAG_DF)
        told.append([start, len(data), any(data)])
"""
    told = [nbdsh(path, code, BASE) for path in disk]
    assert told[0] == told[1]
    assert sum(length for _, length, _ in told[1]) > SIZE // 4
    assert not any(dirty for _, _, dirty in told[1])


def test_112_ranges_cut_extents_at_the_byte(disk):
    """The first and the last extent are cut to the range, aligned or not."""
    whole = {}
    for name in CONTEXTS:
        rows = nbdinfo_map(uri(disk.theirs), name)
        whole[name] = [(row["offset"], row["offset"] + row["length"], row["type"]) for row in rows]
    edges = sorted({start for rows in whole.values() for start, _, _ in rows[1:]})
    asked = [(edge - 3, 7) for edge in edges] + [(edge + 1, 12345) for edge in edges[:-1]]

    def script(t):
        begin(t, *CONTEXTS)
        for offset, length in asked:
            end = offset + length
            found = statuses(t.request(STATUS, offset, length))
            for (_, extents), rows in zip(found, whole.values(), strict=True):
                assert extents == [(min(end, stop) - max(offset, start), flags)
                                   for start, stop, flags in rows
                                   if start < end and stop > offset]  # fmt: skip

    same(disk, script)


def test_113_fua_is_taken_and_other_flags_are_not(disk):
    """FUA changes nothing; DF, NO_HOLE, FAST_ZERO and unknown flags are EINVAL."""

    def script(t):
        begin(t, *CONTEXTS)
        assert t.request(STATUS, 0, SIZE, FUA) == t.request(STATUS, 0, SIZE)
        for flags in (DF, NO_HOLE, FAST_ZERO, PAYLOAD_LEN, 0x8000, DF | REQ_ONE, FUA | NO_HOLE):
            assert error_of(t.request(STATUS, 0, 512, flags)) == EINVAL
        t.request(STATUS, 0, 512)

    same(disk, script)


@pytest.mark.parametrize("context", CONTEXTS[1:])
def test_114_qemu_reads_every_context_from_both_alike(disk, context):
    """qemu-img map with x-dirty-bitmap prints the same, and the clean parts are its data."""
    maps = [
        json.loads(run("qemu-img", "map", "--output=json",
                       qemu_options(path, **{"x-dirty-bitmap": context})).stdout)
        for path in disk
    ]  # fmt: skip
    assert maps[0] == maps[1]
    if context.startswith(BITMAP):
        dirty = [(row["start"], row["length"]) for row in maps[1] if not row["data"]]
        rows = nbdinfo_map(uri(disk.ours), context)
        assert dirty == [(row["offset"], row["length"]) for row in rows if row["type"] == 1]


def test_114_a_raw_file_has_the_same_map(tmp_path):
    """A raw file tells its holes alike, whatever the range."""
    image = raw_disk(tmp_path / "disk.raw")

    def script(t):
        begin(t, BASE)
        for offset, length in ((0, RAW_SIZE), (1, 5000), (RAW_SIZE - 1, 1), (1 << 20, 1 << 20)):
            for flags in (0, REQ_ONE):
                t.request(STATUS, offset, length, flags)

    with beside(image, tmp_path, "-f", "raw") as pair:
        same(pair, script)
        maps = [run("qemu-img", "map", "--output=json", qemu_options(path)).stdout
                for path in pair]  # fmt: skip
        assert maps[0] == maps[1]
