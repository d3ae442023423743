"""Bitmap against a list of booleans, one a granule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.bits import Bitmap, Extents
from nbexport.errors import UsageError

GRANULARITY = st.sampled_from([512, 1024, 4096, 65536])


@st.composite
def pairs(draw, granularity=GRANULARITY):
    """Return a bitmap and its model."""
    size = draw(st.integers(0, 300) | st.sampled_from([512 * 63, 512 * 64, 512 * 65 + 1, 1 << 20]))
    size += draw(st.sampled_from([0, 0, 512 * 100]))
    grain = draw(granularity)
    count = -(-size // grain)
    model = draw(
        st.lists(st.booleans(), min_size=count, max_size=count)
        if count <= 200
        else st.integers(0, (1 << count) - 1).map(
            lambda word: [bool(word >> bit & 1) for bit in range(count)]
        )
    )
    packed = sum(bit << number for number, bit in enumerate(model)).to_bytes(
        -(-count // 8), "little"
    )
    return Bitmap.from_bytes(packed, size, grain), model


def bits(bitmap: Bitmap) -> list[bool]:
    word = int.from_bytes(bitmap.to_bytes(), "little")
    assert word >> bitmap.n_bits == 0, "bits behind the end"
    return [bool(word >> bit & 1) for bit in range(bitmap.n_bits)]


@st.composite
def ranges(draw, size):
    offset = draw(st.integers(0, size))
    return offset, draw(st.integers(0, size - offset))


@given(pairs())
def test_bytes_there_and_back(pair):
    bitmap, model = pair
    assert bits(bitmap) == model
    assert bitmap.n_bits == len(model)
    assert len(bitmap.to_bytes()) == -(-len(model) // 8)
    assert bitmap.count == sum(model) * bitmap.granularity
    assert Bitmap.from_bytes(bitmap.to_bytes(), bitmap.size, bitmap.granularity) == bitmap


@given(pairs(), st.binary(max_size=20))
def test_bytes_missing_are_zero_and_bits_behind_the_end_are_ignored(pair, tail):
    bitmap, model = pair
    full = Bitmap.from_bytes(
        b"\xff" * (len(bitmap.to_bytes()) + 9), bitmap.size, bitmap.granularity
    )
    assert bits(full) == [True] * len(model)
    assert full.count == len(model) * bitmap.granularity
    cut = bitmap.to_bytes()[:3]
    short = Bitmap.from_bytes(cut, bitmap.size, bitmap.granularity)
    assert bits(short) == model[:24] + [False] * (len(model) - 24)
    assert Bitmap.from_bytes(bitmap.to_bytes() + tail, bitmap.size, bitmap.granularity) == bitmap
    assert Bitmap.from_bytes(memoryview(cut), bitmap.size, bitmap.granularity) == short


@given(pairs(), st.data())
def test_set_and_reset(pair, data):
    bitmap, model = pair
    grain = bitmap.granularity
    for _ in range(data.draw(st.integers(1, 4))):
        offset, length = data.draw(ranges(bitmap.size))
        end = offset + length
        if data.draw(st.booleans()):
            bitmap.set(offset, length)
            model = [
                old or (length > 0 and number * grain < end and offset < (number + 1) * grain)
                for number, old in enumerate(model)
            ]
        else:
            bitmap.reset(offset, length)
            model = [
                old
                and not (offset <= number * grain and min((number + 1) * grain, bitmap.size) <= end)
                for number, old in enumerate(model)
            ]
        assert bits(bitmap) == model
    bitmap.clear()
    assert not any(bits(bitmap))


@given(pairs())
def test_extents_and_back(pair):
    bitmap, model = pair
    extents = bitmap.extents()
    grain = bitmap.granularity
    lengths = [min(grain, bitmap.size - number * grain) for number in range(len(model))]
    assert extents == Extents.from_lengths(lengths, [int(bit) for bit in model])
    assert (extents.start, extents.end) == (0, bitmap.size)
    assert Bitmap.from_extents(extents, bitmap.size, grain) == bitmap


@given(pairs(), st.data())
def test_from_extents_marks_what_is_touched(pair, data):
    bitmap, _ = pair
    size, grain = bitmap.size, bitmap.granularity
    start, length = data.draw(ranges(size))
    cuts = data.draw(st.lists(st.integers(start, start + length), max_size=6, unique=True))
    bounds = sorted({start, start + length, *cuts})
    flags = [data.draw(st.integers(0, 3)) for _ in bounds[1:]]
    expected = Bitmap(size, grain)
    for low, high, flag in zip(bounds, bounds[1:], flags, strict=False):
        if flag:
            expected.set(low, high - low)
    assert Bitmap.from_extents(Extents(bounds, flags), size, grain) == expected


@given(pairs(), GRANULARITY)
def test_at_granularity_keeps_every_mark(pair, granularity):
    bitmap, _ = pair
    expected = Bitmap(bitmap.size, granularity)
    for offset, length, flag in bitmap.extents():
        if flag:
            expected.set(offset, length)
    before = bitmap.to_bytes()
    result = bitmap.at_granularity(granularity)
    assert result == expected
    result.clear()
    assert bitmap.to_bytes() == before


@given(st.data())
def test_merge_is_or_at_the_own_granularity(data):
    one, _ = data.draw(pairs())
    other = Bitmap(one.size, data.draw(GRANULARITY))
    for _ in range(data.draw(st.integers(0, 3))):
        other.set(*data.draw(ranges(one.size)))
    expected = one.copy()
    for offset, length, flag in other.extents():
        if flag:
            expected.set(offset, length)
    before = other.copy()
    one.merge(other)
    assert one == expected
    assert other == before


@given(pairs())
def test_copies_are_independent(pair):
    bitmap, model = pair
    copy = bitmap.copy()
    assert copy == bitmap
    copy.set(0, copy.size)
    assert bits(bitmap) == model
    assert (copy == bitmap) == all(model)


def test_the_ends_of_the_range_of_sizes():
    nothing = Bitmap(0, 512)
    assert nothing.n_bits == nothing.count == 0
    assert nothing.extents() == Extents.empty()
    assert nothing.at_granularity(65536) == Bitmap(0, 65536)
    nothing.set(0, 0)
    nothing.reset(0, 0)
    nothing.merge(Bitmap(0, 512))
    largest = 1 << 62
    huge = Bitmap(largest, 1 << 40)
    huge.set(largest - 1, 1)
    assert list(huge.extents()) == [(0, largest - (1 << 40), 0), (largest - (1 << 40), 1 << 40, 1)]
    one = Bitmap(1, 1 << 31)
    one.set(0, 1)
    assert list(one.extents()) == [(0, 1, 1)]
    assert one.count == 1 << 31
    one.reset(0, 1)
    assert one.count == 0


@pytest.mark.parametrize("busy", [True, False])
def test_both_ways_to_find_runs_agree(busy):
    bitmap = Bitmap(1 << 24, 512)
    step = 1536 if busy else 1 << 21
    for offset in range(512, 1 << 24, step):
        bitmap.set(offset, 512)
    runs = [(offset, length) for offset, length, flag in bitmap.extents() if flag]
    assert runs == [(offset, 512) for offset in range(512, 1 << 24, step)]


def test_impossible_requests():
    for size, granularity in ((-1, 512), (10, 0), (10, 256), (10, 513), (10, -512)):
        with pytest.raises(UsageError):
            Bitmap(size, granularity)
    bitmap = Bitmap(1000, 512)
    for offset, length in ((-1, 1), (0, 1001), (1000, 1), (0, -1), (1 << 70, 0)):
        with pytest.raises(UsageError, match="range outside the disk"):
            bitmap.set(offset, length)
        with pytest.raises(UsageError, match="range outside the disk"):
            bitmap.reset(offset, length)
    with pytest.raises(UsageError, match="different sizes"):
        bitmap.merge(Bitmap(1001, 512))
    for outside in (Extents([0, 1001], [1]), Extents([-1, 5], [1])):
        with pytest.raises(UsageError):
            Bitmap.from_extents(outside, 1000, 512)
    with pytest.raises(TypeError, match="unhashable"):
        hash(bitmap)
    assert bitmap != "a bitmap"
    assert bitmap != Bitmap(1000, 1024)
    assert repr(bitmap) == "Bitmap(size=1000, granularity=512, count=0)"
