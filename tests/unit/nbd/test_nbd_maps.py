"""What is kept of an export's maps: right after every change, small whatever the density."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.bits import Bitmap, Extents
from nbexport.errors import FormatError
from nbexport.nbd import MetaContext
from nbexport.nbd import maps as module
from nbexport.nbd.maps import Maps

SIZE = 300 * 512


def as_extents(piece):
    return Extents(piece.bounds, piece.flags)


def maps_of(bitmap, size=None):
    context = MetaContext("qemu:dirty-bitmap:b", 2, bitmap.extents, source=lambda: bitmap)
    return Maps(bitmap.size if size is None else size, (context,)), context


def descriptors(data):
    return list(struct.iter_unpack(">II", data))


RANGES = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(
    lambda pair: (pair[0], min(SIZE, pair[0] + pair[1]))
)


@given(
    st.lists(st.integers(0, 299), max_size=200),
    st.lists(RANGES, min_size=1, max_size=4),
    st.integers(1, 300),
    st.integers(2, 40),
)
def test_pieces_are_the_map(granules, ranges, limit, span):
    bitmap = Bitmap(SIZE, 512)
    for granule in granules:
        bitmap.set(granule * 512, 512)
    whole = bitmap.extents()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW_EXTENTS", span)
        maps, context = maps_of(bitmap)
        for start, end in ranges:
            piece = maps.piece(context, start, end, limit)
            expected = whole.clip(start, end)
            expected = expected.clip(start, int(expected.bounds[min(limit, len(expected))]))
            assert as_extents(piece) == expected
            pairs = list(zip(expected.lengths.tolist(), expected.flags.tolist(), strict=True))
            assert descriptors(piece.to_wire()) == pairs
            assert list(struct.iter_unpack(">QQ", piece.to_wide_wire())) == pairs
            middle = (start + piece.end + 1) // 2
            if middle > start:
                cut = piece.cut(middle)
                assert as_extents(cut) == expected.clip(start, middle)
                assert Extents.from_wire(cut.to_wire(), start) == expected.clip(start, middle)


def test_a_change_of_the_bitmap_is_seen_at_once():
    bitmap = Bitmap(SIZE, 512)
    maps, context = maps_of(bitmap)
    for granule in (5, 7, 8):
        bitmap.set(granule * 512, 1)
        assert as_extents(maps.piece(context, 0, SIZE, 1000)) == bitmap.extents()
    bitmap.clear()
    assert len(maps.piece(context, 0, SIZE, 1000).flags) == 1


def test_a_bitmap_shorter_than_the_disk_is_clean_behind_its_end():
    bitmap = Bitmap(SIZE, 512)
    bitmap.set(0, SIZE)
    maps, context = maps_of(bitmap, 2 * SIZE)
    piece = maps.piece(context, SIZE - 5, SIZE + 5, 100)
    assert list(as_extents(piece)) == [(SIZE - 5, 5, 1), (SIZE, 5, 0)]
    assert list(as_extents(maps.piece(context, SIZE + 1, SIZE + 9, 9))) == [(SIZE + 1, 8, 0)]


def test_memory_is_bounded_whatever_the_density():
    size = 1 << 40
    bitmap = Bitmap.from_bytes(b"\x55" * (size // 65536 // 8), size, 65536)
    maps, context = maps_of(bitmap)
    (kept,) = maps._maps.values()
    reached, step = 0, 1 << 32
    while reached < size:
        piece = maps.piece(context, reached, min(reached + step - 1, size), 131072)
        assert piece.end > reached
        reached = piece.end
        assert kept._cache._bytes <= module.KEPT_BYTES
    assert kept._cache._bytes > 0


class Disk:
    """A map that counts how often it is asked."""

    def __init__(self):
        self.map = Extents.from_lengths([512] * (SIZE // 512), np.arange(SIZE // 512) % 2)
        self.number = 0
        self.asked = []

    def extents(self, start, end):
        self.asked.append((start, end))
        return self.map.clip(start, end)

    def context(self):
        return MetaContext("base:allocation", 0, self.extents, lambda: self.number)


def test_a_map_is_kept_from_the_second_question_on_until_it_changes():
    disk = Disk()
    context = disk.context()
    maps = Maps(SIZE, (context,))
    for _ in range(5):
        assert as_extents(maps.piece(context, 512, 5120, 99)) == disk.map.clip(512, 5120)
    # A single question does not cost the whole map.
    assert disk.asked == [(512, 5120), (0, SIZE)]
    disk.map, disk.number = Extents.uniform(0, SIZE, 3), 1
    for _ in range(3):
        assert list(as_extents(maps.piece(context, 512, 5120, 99))) == [(512, 4608, 3)]
    assert disk.asked[2:] == [(512, 5120), (0, SIZE)]


def test_damage_elsewhere_does_not_spoil_an_answer():
    def extents(start, end):
        if end > SIZE // 2:
            raise FormatError("damaged")
        return Extents.uniform(start, end, 0)

    context = MetaContext("base:allocation", 0, extents, lambda: 1)
    maps = Maps(SIZE, (context,))
    for _ in range(4):
        assert maps.piece(context, 0, 512, 9).end == 512
    with pytest.raises(FormatError):
        maps.piece(context, 0, SIZE, 9)


def test_a_map_without_a_version_is_asked_each_time():
    disk = Disk()
    for version in (None, lambda: None):
        context = MetaContext("x:y", 0, disk.extents, version)
        maps = Maps(SIZE, (context,))
        disk.asked.clear()
        for _ in range(3):
            maps.piece(context, 0, 512, 9)
        assert disk.asked == [(0, 512)] * 3


def test_a_map_too_large_to_keep_is_not_kept(monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 1000)
    disk = Disk()
    context = disk.context()
    maps = Maps(SIZE, (context,))
    for _ in range(4):
        assert as_extents(maps.piece(context, 0, SIZE, 10_000)) == disk.map
        (kept,) = maps._maps.values()
        assert kept._cache._bytes == 0
