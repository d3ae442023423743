"""The benchmark's images, its load and its report; the figures themselves are nobody's test."""

from __future__ import annotations

import pytest

from nbexport.bench.images import CLUSTER, write_data, write_scattered
from nbexport.bench.report import Comparison, Report
from nbexport.block import open_image
from nbexport.errors import UsageError


@pytest.mark.parametrize(("size", "blocks"), [(1 << 30, 100), (1 << 20, 8), (1 << 16, 0)])
def test_a_scattered_image_is_what_it_says(tmp_path, size, blocks):
    image = write_scattered(tmp_path / "i.qcow2", size, blocks, bitmaps=("one", "two"))
    node = open_image(image.path)
    try:
        assert node.size == size
        stored = node.depth(0, size)
        lengths = stored.bounds[1:] - stored.bounds[:-1]
        assert int(lengths[stored.flags != 0].sum()) == blocks * CLUSTER
        found = {name: node.find_bitmap(name)[1].bitmap for name in ("one", "two")}
        for bitmap in found.values():
            assert bitmap.count == blocks * CLUSTER
        assert found["one"] == found["two"]
    finally:
        node.close()


@pytest.mark.parametrize(("size", "blocks"), [(1000, 0), (1 << 20, 9), (1 << 47, 1), (0, 0)])
def test_what_cannot_be_made_is_refused(tmp_path, size, blocks):
    with pytest.raises(UsageError, match="can be made"):
        write_scattered(tmp_path / "i.qcow2", size, blocks)
    assert not list(tmp_path.iterdir())


def test_data_have_no_holes(tmp_path):
    path = write_data(tmp_path / "d.raw", 1 << 20)
    assert path.stat().st_blocks * 512 >= 1 << 20
    assert path.read_bytes() != bytes(1 << 20)


def test_a_report_tells_medians_and_ratios():
    comparison = Comparison("maps", "all of it", target=2)
    for ours, theirs in ((1.0, 3.0), (2.0, 5.0), (9.0, 4.0)):
        comparison.add("nbexport", ours)
        comparison.add("qemu-nbd", theirs)
    alone = Comparison("memory", "of it", "B")
    alone.add("nbexport", 2**20)
    report = Report([comparison, alone], 3, {"nbexport": "1", "qemu-nbd": "7.2"})
    assert comparison.ratio("qemu-nbd") == 2.0
    assert comparison.ratio("nbdkit") is None
    lines = report.lines()
    assert lines[2].split() == ["maps", "2.00", "s", "4.00", "s", "2.00", ">=", "2"]
    assert lines[3].split() == ["memory", "1.0", "MiB", "-", "-"]
    told = report.as_json()["comparisons"][0]
    assert told["ratios"] == {"qemu-nbd": 2.0}
    assert told["samples"]["nbexport"] == [1.0, 2.0, 9.0]
