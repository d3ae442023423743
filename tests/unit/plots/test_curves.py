"""Curves and what they say; the many extents of a large disk."""

import time

import numpy as np
import pytest

from nbexport.bits import Extents
from nbexport.bits.measures import costs, from_writes
from nbexport.errors import UsageError
from nbexport.plots import Panel, cost_table, draw_costs, draw_curves, draw_lengths, draw_maps
from nbexport.plots.palette import line

BITMAP = "qemu:dirty-bitmap:b0"


def lines(plot):
    return [
        (each.get_label(), each.get_xdata().tolist(), each.get_ydata().tolist())
        for axes in plot.figure.axes
        for each in axes.get_lines()
        if not each.get_label().startswith("_")
    ]


def test_curves_show_their_points_and_say_their_ends():
    panels = [
        Panel({"ours": ([1, 10, 100], [2.0, 30.0, 4000.0]), "theirs": ([1, 100], [5.0, 6.0])}, "s"),
        Panel({"theirs": ([1, 100], [0.0, 1.0])}, "ratio", zero=True, level=1.0),
    ]
    plot = draw_curves(panels, along="extents", title="Growth")
    assert lines(plot) == [
        ("ours", [1, 10, 100], [2, 30, 4000]),
        ("theirs", [1, 100], [5, 6]),
        ("theirs", [1, 100], [0, 1]),
    ]
    assert plot.alt == (
        "Growth. Curves over extents. s: ours from 2 at 1 to 4 k at 100; "
        "theirs from 5 at 1 to 6 at 100. ratio: theirs from 0 at 1 to 1 at 100."
    )
    assert plot.png().startswith(b"\x89PNG")


def test_a_name_looks_the_same_in_every_panel_and_unlike_the_others():
    panels = [Panel({"a": ([1], [1]), "b": ([1], [1])}, "x"), Panel({"b": ([1], [1])}, "y")]
    first, second = draw_curves(panels, along="n", title="").figure.axes
    a, b = first.get_lines()
    (again,) = second.get_lines()
    assert (b.get_color(), b.get_marker()) == (again.get_color(), again.get_marker())
    signs = [(line(n).marker, line(n).linestyle) for n in range(6)]
    assert len(set(signs)) == 6  # without any colour
    assert a.get_marker() != b.get_marker()


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ([], "no curve"),
        ([Panel({}, "x")], "no curve"),
        ([Panel({"a": ([1, 2], [1])}, "x")], "'a' has 2 places and 1 values"),
        ([Panel({"a": ([], [])}, "x")], "0 places"),
        ([Panel({"a": ([0], [1])}, "x")], "no logarithmic axis"),
        ([Panel({"a": ([1], [0])}, "x")], "no logarithmic axis"),
    ],
)
def test_what_no_axis_shows_is_refused(panels, message):
    with pytest.raises(UsageError, match=message):
        draw_curves(panels, along="n", title="")


def test_costs_are_drawn_where_they_are_not_nothing():
    written = from_writes([0, 100_000], [4096, 4096], 1 << 20)
    found = costs(written, [512, 4096, 65536])
    plot = draw_costs({"b0": found}, title="Costs")
    marked, over, bits = lines(plot)
    assert marked == ("b0", [512, 4096, 65536], [cost.dirty for cost in found])
    assert over == ("b0", [512, 4096, 65536], [cost.over_reported for cost in found])
    assert bits[2] == [256, 32, 2]
    assert "marked dirty: b0 from 8.5 KiB at 512 B to 128 KiB at 64 KiB" in plot.alt
    rows = cost_table(found).rows
    assert rows[2] == ("64 KiB", "2 B", "2", "128 KiB", "120 KiB", "16.00")
    clean = draw_costs({"b0": costs(Extents.uniform(0, 1 << 20, 0), [512])})
    assert [label for label, _, _ in lines(clean)] == ["size of one bitmap"]
    with pytest.raises(UsageError, match="no costs"):
        draw_costs({})


def test_lengths_leave_out_what_nobody_looks_for():
    maps = {
        "base:allocation": Extents.from_lengths([4096, 1 << 20], [0, 3]),
        BITMAP: Extents.from_lengths([512, 512, 1 << 20], [1, 0, 1]),
    }
    plot = draw_lengths(maps)
    found = {(label, tuple(xs)): ys for label, xs, ys in lines(plot)[:2]}
    assert found["base:allocation", (4096,)] == [1]
    ys = found["b0", tuple(1 << k for k in range(9, 21))]
    assert (ys[0], ys[-1]) == (1, 1)
    assert np.isnan(ys[1:-1]).all()
    with pytest.raises(UsageError, match="no context"):
        draw_lengths({BITMAP: Extents.uniform(0, 512, 0)})


def test_a_million_extents_are_drawn_in_two_seconds():
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 1 << 20, 1_000_000)
    maps = {BITMAP: Extents.from_lengths(lengths, np.arange(len(lengths)) % 2)}
    draw_maps({BITMAP: Extents.uniform(0, 512, 1)}).png()  # loads what drawing needs
    begin = time.process_time()
    draw_maps(maps, title="Many").png()
    draw_lengths(maps).png()
    assert time.process_time() - begin < 2


def test_what_hardly_changes_looks_level():
    flat = Panel({"a": ([1, 100], [50.0, 55.0])}, "s")
    ratio = Panel({"a": ([1, 100], [1.5, 1.6])}, "ratio", level=1.0)
    steep = Panel({"a": ([1, 100], [1.0, 5000.0])}, "s")
    for axes, values in zip(
        draw_curves([flat, ratio, steep], along="x", title="t").figure.axes,
        ([50, 55], [1, 1.6], [1, 5000]),
        strict=True,
    ):
        low, high = axes.get_ylim()
        assert high / low > 9.99
        assert low < min(values)
        assert max(values) < high
