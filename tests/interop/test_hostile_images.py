"""Damaged images: an error that says what is wrong, or what QEMU reads; never more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from peers import run

from nbexport import block
from nbexport.errors import NbexportError

pytestmark = pytest.mark.interop

TIME_LIMIT_S = 240
KINDS = {
    "plain": "cluster_size=4k",
    "subclusters": "extended_l2=on,cluster_size=16k",
    "old": "compat=0.10,cluster_size=512",
    "wide": "refcount_bits=64,cluster_size=512,compression_type=zstd",
}


def make(path, kind):
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", KINDS[kind], path, "1M")
    packed = [] if kind == "wide" else ["-c", "write -c -P 5 64k 16k"]
    zeroed = ["-c", "write -z 128k 8k"]
    run("qemu-io", "-f", "qcow2", "-c", "write -P 3 1k 20k", *packed, *zeroed, path)
    if kind != "old":
        run("qemu-img", "bitmap", "--add", "-g", "4k", path, "b")
    run("qemu-img", "snapshot", "-c", "s", path)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 4 4k 9k", "-c", "discard 512k 64k", path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_at_an_extreme_is_an_error_or_harmless(kind, tmp_path):
    make(tmp_path / "base-image", kind)
    program = Path(__file__).parents[1] / "hostile_images.py"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    opened, refused = map(int, done.stdout.split())
    assert opened > 100
    assert refused > 100


def content(path):
    with block.open_image(path, format="qcow2") as node:
        return node.read(0, node.size)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_ends_early(kind, tmp_path):
    image = make(tmp_path / "whole.qcow2", kind).read_bytes()
    cut, raw = tmp_path / "cut.qcow2", tmp_path / "cut.raw"
    lengths = range(0, len(image), 512)
    compared = 0
    for number, length in enumerate(lengths):
        cut.write_bytes(image[:length])
        mine, told = None, ""
        try:
            mine = content(cut)
        except (NbexportError, OSError) as error:
            told = str(error)
        assert mine is not None or "qcow2" in told, length
        if number % 16 == 0:
            done = run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", cut, raw, check=False)
            theirs = raw.read_bytes() if done.returncode == 0 else None
            assert mine == theirs, length
            compared += 1
    assert compared > len(lengths) // 17
