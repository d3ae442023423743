"""The committed images are what their recipes make."""

import subprocess

import pytest
from peers import peer, run

pytestmark = pytest.mark.interop


def test_the_recipe_makes_the_committed_image(root, tmp_path):
    peer("qemu-img")
    peer("qemu-io")
    # Other releases lay the same content out in another way.
    same_release = " 7.2." in run("qemu-img", "--version").stdout
    images = root / "data" / "images"
    subprocess.run([images / "make_two_bitmaps.sh", tmp_path], check=True, timeout=60)
    for name in ("two-bitmaps.qcow2", "two-bitmaps.base.qcow2"):
        made, committed = tmp_path / name, images / name
        run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", made, committed)
        maps = [run("qemu-img", "map", "--output=json", p).stdout for p in (made, committed)]
        assert maps[0] == maps[1]
        if same_release:
            assert made.read_bytes() == committed.read_bytes()


def test_the_images_are_small(root):
    sizes = [path.stat().st_size for path in (root / "data" / "images").glob("*.qcow2")]
    assert sum(sizes) < 300 * 1024
