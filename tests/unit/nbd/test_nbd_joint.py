"""One table for several contexts says what each of them says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.bits import Bitmap, Extents
from nbexport.nbd import maps as module
from nbexport.nbd.contexts import MetaContext
from nbexport.nbd.maps import Joint, Maps, descriptors, piece, window_of

SIZE = 1000


@st.composite
def extents(draw):
    inner = sorted(draw(st.sets(st.integers(1, SIZE - 1), max_size=8)))
    flags = draw(st.lists(st.integers(0, 3), min_size=len(inner) + 1, max_size=len(inner) + 1))
    return Extents(np.array([0, *inner, SIZE]), np.array(flags, dtype=np.uint32))


@given(st.lists(extents(), min_size=1, max_size=4), st.integers(0, SIZE - 1), st.integers(1, 200))
def test_it_answers_what_has_one_answer(found, start, length):
    end = min(SIZE, start + length)
    joint = Joint([window_of(one) for one in found])
    pieces = [one.clip(start, end) for one in found]
    told = joint.flags(start, end)
    if told is None:
        assert any(len(piece) > 1 for piece in pieces)
    else:
        assert [piece.flags.tolist() for piece in pieces] == [[flag] for flag in told]


@given(
    st.lists(extents(), min_size=1, max_size=4), st.integers(0, SIZE - 1), st.integers(1, SIZE),
    st.integers(2, 10),
)  # fmt: skip
def test_descriptors_made_at_once_are_those_of_each_piece(found, start, length, limit):
    end = min(SIZE, start + length)
    windows = [window_of(one) for one in found]
    pieces = [piece([window], start, end, SIZE) for window in windows]
    told = descriptors(windows, start, end, limit)
    if told is None:
        assert max(map(len, pieces)) > limit
    else:
        assert [bytes(one) for one in told[0]] == [bytes(one.to_wire()) for one in pieces]
        assert told[1] == max(map(len, pieces))


def test_many_extents_are_found_as_well():
    many = Extents(np.arange(0, SIZE + 1), (np.arange(SIZE) % 2).astype(np.uint32))
    answers, most = descriptors([window_of(many)], 3, 903, SIZE)
    assert most == 900
    assert bytes(answers[0]) == bytes(piece([window_of(many)], 3, 903, SIZE).to_wire())


def test_what_is_too_much_is_not_joined(monkeypatch):
    many = Extents(np.arange(0, SIZE + 1), np.arange(SIZE, dtype=np.uint32))
    monkeypatch.setattr(module, "JOINT_ANSWERS", 999)
    with pytest.raises(ValueError, match="answers"):
        Joint([window_of(many)])
    monkeypatch.setattr(module, "JOINT_PLACES", 999)
    with pytest.raises(ValueError, match="places"):
        Joint([window_of(many)])


def bitmap_context(bitmap, number):
    def answer(start, end):
        return bitmap.extents(start, end)

    return MetaContext(f"x:{number}", number, answer, None, lambda: bitmap)


def test_it_lasts_until_a_bitmap_changes():
    bitmaps = [Bitmap(1 << 20, 4096) for _ in range(2)]
    bitmaps[0].set(0, 8192)
    contexts = tuple(bitmap_context(bitmap, number) for number, bitmap in enumerate(bitmaps))
    kept = Maps(1 << 20, contexts)
    assert kept.joint(contexts) is None
    kept.pieces(contexts, 0, 1 << 20, 10)
    kept.join(contexts)
    assert kept.joint(contexts).flags(0, 4096) == (1, 0)
    assert kept.joint(contexts).flags(0, 12288) is None
    bitmaps[1].set(0, 4096)
    assert kept.joint(contexts) is None
    kept.join(contexts)
    assert kept.joint(contexts).flags(0, 4096) == (1, 1)
    assert kept.joint(contexts[:1]) is None
