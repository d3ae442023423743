"""Measures of maps, compared with counting every byte or with a bitmap's own arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.bits import Bitmap, Extents
from nbexport.bits.measures import busiest, coarsen, costs, from_writes, length_classes
from nbexport.bits.patterns import PAGE, PATTERNS, make_writes
from nbexport.errors import UsageError

SIZE = 9000
WRITES = st.lists(
    st.integers(0, SIZE).flatmap(lambda at: st.tuples(st.just(at), st.integers(0, SIZE - at))),
    max_size=12,
)


def touched(writes):
    flat = np.zeros(SIZE, dtype=bool)
    for offset, length in writes:
        flat[offset : offset + length] = True
    return flat


def unrolled(extents):
    return np.repeat(extents.flags, extents.lengths).astype(bool)


@given(WRITES)
def test_a_map_of_writes_marks_the_bytes_that_they_touch(writes):
    extents = from_writes([w[0] for w in writes], [w[1] for w in writes], SIZE)
    assert (extents.start, extents.end) == (0, SIZE)
    np.testing.assert_array_equal(unrolled(extents), touched(writes))


@given(WRITES, st.sampled_from([512, 1024, 4096, 16384]))
def test_coarsening_does_what_a_bitmap_does(writes, granularity):
    extents = from_writes([w[0] for w in writes], [w[1] for w in writes], SIZE)
    bitmap = Bitmap.from_extents(extents, SIZE, granularity)
    assert coarsen(extents, granularity) == bitmap.extents()


@given(WRITES)
def test_costs_are_those_of_a_bitmap(writes):
    extents = from_writes([w[0] for w in writes], [w[1] for w in writes], SIZE)
    for cost in costs(extents, [512, 2048, 8192]):
        bitmap = Bitmap.from_extents(extents, SIZE, cost.granularity)
        assert cost.bitmap_bytes == len(bitmap.to_bytes())
        assert cost.extents == len(bitmap.extents())
        assert cost.dirty == bitmap.extents().total(1)
        assert cost.over_reported == cost.dirty - int(touched(writes).sum())


@given(WRITES)
def test_classes_count_each_extent_once(writes):
    extents = from_writes([w[0] for w in writes], [w[1] for w in writes], SIZE)
    found = length_classes(extents)
    lengths = [length for _, length, flags in extents if flags]
    assert int(found.counts.sum()) == len(lengths)
    assert int(found.totals.sum()) == sum(lengths)
    for exponent, count in zip(found.exponents.tolist(), found.counts.tolist(), strict=True):
        assert count == sum(length.bit_length() - 1 == exponent for length in lengths)


def test_classes_are_exact_at_their_edges():
    extents = Extents.from_lengths([2**40 - 1, 1, 2**40, 1], [1, 0, 1, 0])
    found = length_classes(extents)
    assert found.exponents.tolist() == [39, 40]
    assert found.counts.tolist() == [1, 1]


def test_the_busiest_window_is_where_most_extents_are():
    lengths = [1000, *[1] * 100, 5000]
    extents = Extents.from_lengths(lengths, [0, *[1, 0] * 50, 1])
    start, end = busiest(extents, 200)
    assert end - start == 200
    assert start <= 1000
    assert end >= 1100
    assert busiest(extents, 10**9) == (0, extents.end)
    with pytest.raises(UsageError, match="must have a length"):
        busiest(extents, 0)


@pytest.mark.parametrize(
    ("offsets", "lengths"), [([-1], [1]), ([SIZE], [1]), ([0, 1], [1, SIZE]), ([5], [-1])]
)
def test_writes_outside_the_disk_are_refused(offsets, lengths):
    with pytest.raises(UsageError, match="outside the disk"):
        from_writes(offsets, lengths, SIZE)


def test_what_is_no_granularity_is_refused():
    extents = Extents.uniform(0, SIZE, 1)
    for granularity in (0, 256, 1000):
        with pytest.raises(UsageError, match="power of two"):
            coarsen(extents, granularity)
    with pytest.raises(UsageError, match="begins at offset 0"):
        coarsen(Extents.uniform(512, 1024, 1), 512)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", [4 << 20, 1 << 30, 1 << 44])
def test_a_pattern_writes_whole_pages_of_its_disk(pattern, size):
    offsets, lengths = make_writes(pattern, size, 1000, seed=3)
    assert len(offsets) == len(lengths) == 1000
    assert not (offsets % PAGE).any()
    assert not (lengths % PAGE).any()
    assert from_writes(offsets, lengths, size).total(1) > 0


def test_days_differ_and_the_same_day_does_not():
    def once(day):
        return make_writes("mixed", 1 << 32, 999, seed=1, day=day)

    assert all(np.array_equal(a, b) for a, b in zip(once(0), once(0), strict=True))
    first, second = (from_writes(*once(day), 1 << 32) for day in (0, 1))
    both = first.combine(second, np.minimum).total(1)
    assert 0 < both < min(first.total(1), second.total(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", 1 << 30, 1), "unknown pattern 'none'"),
        (("random", 4096, 1), "whole pages"),
        (("random", (1 << 30) + 1, 1), "whole pages"),
        (("random", 1 << 30, -1), "-1 writes"),
    ],
)
def test_impossible_patterns_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        make_writes(*arguments)
