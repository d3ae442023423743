import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.bits import Extents
from nbexport.errors import UsageError
from nbexport.plots import draw_maps
from nbexport.plots.maps import _label, shares

BITMAP = "qemu:dirty-bitmap:b0"


def pixels(plot):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(plot.png())).convert("RGB")).astype(int)


def has_colour(picture, colour, tolerance=3):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((abs(picture - wanted).max(axis=2) <= tolerance).any())


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 2)), min_size=1, max_size=30),
    st.integers(1, 40),
)
def test_shares_agree_with_counting_bytes(runs, columns):
    extents = Extents.from_lengths([n for n, _ in runs], [f for _, f in runs])
    flat = np.repeat([f for _, f in runs], [n for n, _ in runs])
    edges = np.linspace(0, extents.end, columns + 1)
    for flags in range(3):
        exact = np.array(
            [
                sum(
                    max(0.0, min(high, at + 1) - max(low, at))
                    for at in range(int(low), min(int(np.ceil(high)), len(flat)))
                    if flat[at] == flags
                )
                / (high - low)
                for low, high in itertools.pairwise(edges)
            ]
        )
        np.testing.assert_allclose(shares(extents, flags, edges), exact, atol=1e-9)


def test_shares_of_all_flags_fill_each_column():
    extents = Extents.from_lengths([7, 11, 13], [0, 1, 3])
    edges = np.linspace(0, 31, 9)
    total = sum(shares(extents, flags, edges) for flags in (0, 1, 3))
    np.testing.assert_allclose(total, 1.0)


def test_a_single_dirty_granule_of_a_huge_disk_is_visible():
    size = 1 << 44
    clean = Extents.uniform(0, size, 0)
    one = Extents.from_lengths([size // 2, 65536, size // 2 - 65536], [0, 1, 0])
    without, with_one = (pixels(draw_maps({BITMAP: e})) for e in (clean, one))
    height = without.shape[0]
    lane = slice(height // 4, height // 3)
    changed = np.abs(without[lane] - with_one[lane]).max(axis=(0, 2))
    assert changed.max() > 60


def test_each_kind_of_extent_has_its_colour():
    maps = {
        "base:allocation": Extents.from_lengths([100, 100, 100], [0, 3, 2]),
        "qemu:allocation-depth": Extents.from_lengths([100, 100, 100], [1, 2, 0]),
        BITMAP: Extents.from_lengths([100, 100, 100], [0, 1, 0]),
    }
    picture = pixels(draw_maps(maps))
    for colour in ("#0072B2", "#56B4E9", "#00543D", "#009E73", "#D55E00", "#E4E4E4"):
        assert has_colour(picture, colour), colour


def test_the_text_alternative_tells_context_and_bytes():
    plot = draw_maps({BITMAP: Extents.from_lengths([1 << 20, 3 << 20], [1, 0])}, title="Disk")
    assert plot.alt == ("Disk, offsets 0 B to 4 MiB. qemu:dirty-bitmap:b0: 1 MiB dirty (25.0%).")


def test_the_same_data_gives_the_same_bytes():
    maps = {BITMAP: Extents.from_lengths([10, 20], [0, 1])}
    assert draw_maps(maps).png() == draw_maps(maps).png()


def test_a_window_shows_only_its_range():
    maps = {BITMAP: Extents.from_lengths([1 << 20, 1 << 20], [1, 0])}
    assert not has_colour(pixels(draw_maps(maps, start=1 << 20, end=2 << 20)), "#D55E00")
    assert has_colour(pixels(draw_maps(maps, start=0, end=1 << 20)), "#D55E00")


def test_any_bitmap_name_can_be_drawn():
    name = "qemu:dirty-bitmap:$^{" + "x" * 1000
    plot = draw_maps({name: Extents.uniform(0, 4096, 1)})
    assert plot.png().startswith(b"\x89PNG")
    assert len(_label(name).partition("\n")[2]) == 24


@pytest.mark.parametrize(
    ("maps", "window", "message"),
    [
        ({}, {}, "no metadata context"),
        ({BITMAP: Extents.empty()}, {}, "is empty"),
        ({BITMAP: Extents.uniform(0, 10, 0)}, {"start": 5, "end": 5}, "is empty"),
        ({BITMAP: Extents.uniform(0, 10, 0)}, {"start": 5, "end": 50}, "outside the map"),
    ],
)
def test_what_cannot_be_drawn_is_refused(maps, window, message):
    with pytest.raises(UsageError, match=message):
        draw_maps(maps, **window)
