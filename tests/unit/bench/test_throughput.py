"""Workloads and rates; the figures themselves are nobody's test."""

from dataclasses import replace

import pytest

from nbexport.bench.images import CLUSTER, write_pieces, write_scattered
from nbexport.bench.throughput import (
    Bench,
    MapTime,
    Rate,
    Workload,
    bitmap_context,
    check,
    ratios,
)
from nbexport.block import open_image
from nbexport.errors import UsageError
from nbexport.plots import draw_map_times, draw_rates, map_time_table, rate_table, server_table

SMALL = Workload(size=1 << 28, share=0.1, length=1 << 20, depth=4)


def test_our_server_alone_is_measured_and_the_missing_peer_named():
    with Bench(["no-such-server"], rounds=1) as bench:
        assert (bench.servers, bench.missing) == (["nbexport"], ["no-such-server"])
        (rate,) = bench.rates(SMALL)
        assert server_table(bench).rows[1] == ("no-such-server", "not installed")
        # all contexts of a request have one extent at least
        assert rate.extents >= 3 * rate.requests > 0
        times = bench.map_times(SMALL, [(bitmap_context(),), ("base:allocation",)])
    assert [time.contexts[0] for time in times] == ["qemu:dirty-bitmap:b0", "base:allocation"]
    # what is dirty is what is allocated
    assert times[0].extents == times[1].extents > 100
    assert ratios([rate]) == {}
    assert rate_table([rate]).rows[0][3] == ""


def test_a_raw_disk_is_measured_too():
    with Bench([], rounds=1) as bench:
        raw = replace(SMALL, raw=True, contexts=("base:allocation",))
        short, long_ = bench.sweep(raw, length=[1 << 16, 1 << 24])
    # a long request meets more pieces than a short one
    assert long_.extents / long_.requests > 4 * short.extents / short.requests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": 0}, "dirty share"),
        ({"share": 0.6}, "dirty share"),
        ({"size": 1000}, "too small"),
        ({"length": 512}, "too short"),
        ({"length": 1 << 40}, "too long"),
        ({"depth": 0}, "in flight"),
        ({"contexts": ()}, "a context"),
        ({"raw": True}, "base:allocation only"),
    ],
)
def test_impossible_workloads_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        check(replace(SMALL, **change))


def test_only_an_attribute_can_be_swept():
    with Bench([]) as bench, pytest.raises(UsageError, match="can be swept, not colour"):
        bench.sweep(SMALL, colour=[1])


def test_ratios_and_figures_compare_with_each_peer():
    rates = [
        Rate(server, replace(SMALL, share=share), requests, 4 * requests)
        for share in (0.1, 0.2)
        for server, requests in (("nbexport", 300.0), ("qemu-nbd", 100.0 / share))
    ]
    assert ratios(rates[:2]) == {"qemu-nbd": pytest.approx(0.3)}
    plot = draw_rates(rates, "share", title="Rates")
    assert "nbexport / peer: qemu-nbd from 0.3 at 0.1 to 0.6 at 0.2" in plot.alt
    assert len(plot.figure.axes) == 3
    assert len(draw_rates(rates[::2], "share", title="Alone").figure.axes) == 2
    with pytest.raises(UsageError, match="over 'contexts'"):
        draw_rates(rates, "contexts", title="")


def test_times_of_maps_are_told_for_each_extent():
    times = [MapTime("nbexport", ("base:allocation",), n, n * 2e-6, n * 1e-6) for n in (10, 1000)]
    assert times[1].cost() == pytest.approx(1)
    assert times[1].cost(cold=True) == pytest.approx(2)
    assert map_time_table(times).rows[1][2:5] == ("1,000", "2.00 ms", "1.00 ms")
    assert (
        "nbexport, base:allocation from 0.02 at 10 to 2 at 1 k"
        in draw_map_times(times, title="Maps").alt
    )


def test_clusters_can_lie_side_by_side(tmp_path):
    image = write_scattered(tmp_path / "i.qcow2", 1 << 30, 64, run=16)
    with open_image(image.path) as node:
        stored = node.depth(0, node.size)
        runs = stored.lengths[stored.flags != 0]
    assert int(runs.sum()) == 64 * CLUSTER
    assert not (runs % (16 * CLUSTER)).any()
    for run, blocks in ((0, 64), (3, 64)):
        with pytest.raises(UsageError, match="in runs of"):
            write_scattered(tmp_path / "none", 1 << 30, blocks, run=run)


def test_pieces_have_holes_between_them(tmp_path):
    path = write_pieces(tmp_path / "p.raw", 1 << 24, 10)
    with open_image(path, format="raw") as node:
        found = node.allocation(0, node.size)
    assert found.total(0) == 10 * 4096
    with pytest.raises(UsageError, match="scattered pieces"):
        write_pieces(tmp_path / "none", 1 << 24, 129)
