"""Extents against a list with one flag a byte."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.bits import Extents
from nbexport.errors import ProtocolError, UsageError

FLAGS = st.integers(0, 3) | st.just(0xFFFF_FFFF)
START = st.integers(-5, 50)
U32 = (1 << 32) - 1


@st.composite
def maps(draw, start=START, flags=FLAGS):
    """Return a map and its model: the first offset, and a flag for each byte."""
    runs = draw(st.lists(st.tuples(flags, st.integers(0, 6)), max_size=12))
    first = draw(start)
    model = [flag for flag, length in runs for _ in range(length)]
    lengths, values = [length for _, length in runs], [flag for flag, _ in runs]
    return Extents.from_lengths(lengths, values, first), first, model


def of(model: list[int], start: int = 0) -> Extents:
    return Extents.from_lengths([1] * len(model), model, start)


def spelled(extents: Extents) -> list[int]:
    return [flag for _, length, flag in extents for _ in range(length)]


@given(maps())
def test_a_map_says_the_same_of_every_byte(made):
    extents, start, model = made
    assert spelled(extents) == model
    assert (extents.start, extents.end) == (start, start + len(model))
    assert len(extents) == len(list(itertools.groupby(model)))
    assert extents.lengths.tolist() == [len(list(run)) for _, run in itertools.groupby(model)]
    assert extents == of(model, start)
    assert hash(extents) == hash(of(model, start))
    assert Extents(extents.bounds, extents.flags) == extents
    assert [extents.at(start + number) for number in range(len(model))] == model
    for outside in (start - 1, start + len(model)):
        with pytest.raises(UsageError, match="outside"):
            extents.at(outside)


@given(maps(), st.data())
def test_clip(made, data):
    extents, start, model = made
    low = data.draw(st.integers(0, len(model)))
    high = data.draw(st.integers(low, len(model)))
    assert extents.clip(start + low, start + high) == of(model[low:high], start + low)
    for wrong in ((start - 1, start), (start, start + len(model) + 1), (start + 1, start)):
        with pytest.raises(UsageError, match="outside the map"):
            extents.clip(*wrong)


@given(maps(), st.lists(st.integers(0, 80), max_size=5))
def test_splitting_and_concatenating_is_the_same_map(made, cuts):
    extents, start, model = made
    at = sorted({0, len(model), *(cut for cut in cuts if cut <= len(model))})
    parts = [extents.clip(start + a, start + b) for a, b in itertools.pairwise(at)]
    assert Extents.concatenate(parts or [extents]) == extents


@given(maps(), st.integers(-1000, 1000), st.integers(0, 9), FLAGS)
def test_shift_and_extend(made, delta, more, flag):
    extents, start, model = made
    assert extents.shift(delta) == of(model, start + delta)
    assert extents.extend(extents.end + more, flag) == of(model + [flag] * more, start)
    assert extents.extend(extents.end - more, flag) == extents


@given(st.data())
def test_combine(data):
    one, start, model = data.draw(maps())
    other_model = data.draw(st.lists(FLAGS, min_size=len(model), max_size=len(model)))
    other = of(other_model, start)
    expected = of([a ^ b for a, b in zip(model, other_model, strict=True)], start)
    assert one.combine(other, np.bitwise_xor) == expected
    assert other.combine(one, np.bitwise_xor) == expected
    for wrong in (other.shift(1), other.extend(other.end + 1, 0)):
        with pytest.raises(UsageError, match="different ranges"):
            one.combine(wrong, np.bitwise_or)


@given(maps())
def test_map_flags_and_totals(made):
    extents, start, model = made
    assert extents.map_flags(lambda flags: flags & 1) == of([flag & 1 for flag in model], start)
    assert extents.totals() == {flag: model.count(flag) for flag in sorted(set(model))}
    for flag in (0, 1, U32):
        assert extents.total(flag) == model.count(flag)


@given(maps(start=st.integers(0, 1 << 62)), st.integers(1, 14))
def test_the_wire(made, most):
    extents, start, model = made
    if not model:
        with pytest.raises(UsageError, match="at least one"):
            extents.to_wire(most)
        return
    payload = extents.to_wire(most)
    runs = [(len(list(run)), flag) for flag, run in itertools.groupby(model)]
    assert payload == b"".join(struct.pack(">II", *run) for run in runs[:most])
    again = Extents.from_wire(payload, start)
    assert again == extents.clip(start, again.end)
    assert Extents.from_wire(memoryview(payload), start) == again


LONG = st.integers(1, 10) | st.integers(U32 - 2, U32 + 2) | st.integers(1, 1 << 45)


@given(st.lists(st.tuples(LONG, st.integers(0, 3)), min_size=1, max_size=5), st.integers(1, 9))
def test_the_wire_splits_what_is_too_long(runs, most):
    runs = [(length, number % 2) for number, (length, _) in enumerate(runs)]
    extents = Extents.from_lengths([length for length, _ in runs], [flag for _, flag in runs])
    expected = []
    for length, flag in runs:
        whole = (length - 1) // U32
        expected += [(U32, flag)] * min(whole, most) + [(length - whole * U32, flag)]
        if whole > most:
            break
    got = list(struct.iter_unpack(">II", extents.to_wire(most)))
    assert got == expected[:most]


def test_the_wire_of_the_longest_disk_is_bounded():
    payload = Extents.uniform(0, 1 << 62, 0).to_wire(2)
    assert payload == struct.pack(">IIII", U32, 0, U32, 0)


@pytest.mark.parametrize("payload", [b"", b"\0" * 7, b"\0\0\0\1" + b"\0" * 5, b"\0" * 8])
def test_broken_wire(payload):
    with pytest.raises(ProtocolError):
        Extents.from_wire(payload, 0)


def test_values_are_frozen_and_own_their_arrays():
    bounds = np.array([0, 5, 9])
    flags = np.array([1, 2], dtype=np.uint32)
    extents = Extents(bounds, flags)
    bounds[1] = 7
    flags[0] = 9
    assert list(extents) == [(0, 5, 1), (5, 4, 2)]
    with pytest.raises(ValueError, match="read-only"):
        extents.bounds[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        extents.flags[0] = 1
    with pytest.raises(AttributeError):
        extents.other = 1
    assert extents.bounds.dtype == np.int64
    assert extents.flags.dtype == np.uint32


def test_impossible_maps():
    for bounds, flags in (([0, 1], []), ([0], [1]), ([], []), ([0, 2, 1], [1, 2]), ([0, 0], [1])):
        with pytest.raises(UsageError):
            Extents(bounds, flags)
    with pytest.raises(UsageError, match="negative"):
        Extents.from_lengths([1, -1], [0, 1])
    with pytest.raises(UsageError, match="nothing to concatenate"):
        Extents.concatenate([])
    with pytest.raises(UsageError, match="do not touch: 5 and 6"):
        Extents.concatenate([Extents.uniform(0, 5, 1), Extents.uniform(6, 7, 1)])


def test_empty_and_uniform():
    assert Extents.uniform(3, 3, 9) == Extents.empty(3)
    assert Extents.uniform(3, 2, 9) == Extents.empty(3)
    assert len(Extents.empty()) == 0
    assert Extents.empty(3) != Extents.empty(4)
    assert Extents.empty().totals() == {}
    assert Extents.empty() != "nothing"
    assert repr(Extents.uniform(1, 5, 2)) == "Extents([1, 5), 1 extents)"
    assert list(Extents.uniform(0, 1 << 62, 3)) == [(0, 1 << 62, 3)]
