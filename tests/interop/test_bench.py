"""The benchmark runs, and every server is asked for the same."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from peers import peer, run

from nbexport.bench.images import write_scattered
from nbexport.cli.main import cli

pytestmark = pytest.mark.interop


def test_qemu_finds_nothing_wrong_with_the_images(tmp_path):
    image = write_scattered(tmp_path / "i.qcow2", 1 << 34, 5000)
    assert "No errors" in run("qemu-img", "check", image.path).stdout
    told = json.loads(run("qemu-img", "info", "--output=json", image.path).stdout)
    bitmaps = told["format-specific"]["data"]["bitmaps"]
    assert [(bitmap["name"], bitmap["flags"]) for bitmap in bitmaps] == [
        ("b0", ["auto"]),
        ("b1", ["auto"]),
    ]


def test_a_quick_run(tmp_path):
    for name in ("qemu-nbd", "nbdkit", "nbdcopy"):
        peer(name)
    target = tmp_path / "bench.json"
    result = CliRunner().invoke(cli, ["bench", "--quick", "--json", str(target)])
    assert result.exit_code == 0, result.output
    report = json.loads(target.read_text())
    names = [comparison["name"] for comparison in report["comparisons"]]
    assert names[:5] == [
        "map, 4 contexts",
        "map, base:allocation",
        "map, one bitmap",
        "peak memory",
        "map, one bitmap, 64-bit",
    ]
    for comparison in report["comparisons"]:
        samples = comparison["samples"]
        other = "qemu-img" if comparison["name"] == "open and map" else "qemu-nbd"
        if comparison["name"].startswith("monitor"):
            # the peers serve no monitors
            assert len(samples["nbexport"]) == report["rounds"]
            continue
        assert {"nbexport", other} == set(samples) - {"nbdkit"}, comparison["name"]
        assert all(len(values) == report["rounds"] for values in samples.values())
        assert comparison["ratios"][other] > 0
    assert "nbdkit" in report["comparisons"][names.index("small reads")]["samples"]


def test_unknown_work_is_refused():
    result = CliRunner().invoke(cli, ["bench", "--only", "nothing"])
    assert result.exit_code == 1
    assert "no work 'nothing' (there is: maps, status" in str(result.exception)
