"""Images that commands make are those that QEMU makes, byte for byte, and are told of alike."""

from __future__ import annotations

import pytest
from peers import run

from nbexport import block
from nbexport.emulator import images
from nbexport.errors import UsageError

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("size", [0, 512, 1 << 20, 64 << 20, (1 << 30) + 512, 3 << 40])
@pytest.mark.parametrize("backing", [None, ("b.raw", "raw"), ("with, comma.qcow2", "qcow2")])
def test_a_qcow2_image_is_that_of_qemu(tmp_path, size, backing):
    name, driver = backing or (None, None)
    words = ["-u", "-b", name, "-F", driver] if backing else []
    told = run("qemu-img", "create", "-f", "qcow2", *words, "theirs", str(size), cwd=tmp_path)
    ours = tmp_path / "ours"
    images.make(str(ours), "qcow2", size, backing_file=name, backing_format=driver)
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()
    text = images.creation_text("theirs", "qcow2", size, backing_file=name, backing_format=driver)
    assert told.stdout == text + "\n"


def test_a_raw_image_is_that_of_qemu(tmp_path):
    told = run("qemu-img", "create", "-f", "raw", "theirs", "1M", cwd=tmp_path)
    images.make(str(tmp_path / "ours"), "raw", 1 << 20)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert told.stdout == images.creation_text("theirs", "raw", 1 << 20) + "\n"


def test_what_does_not_fit_is_refused(tmp_path):
    path = str(tmp_path / "x")
    with pytest.raises(UsageError, match=r"Could not assign backing file 'xxx.*Invalid argument"):
        images.make(path, "qcow2", 512, backing_file="x" * 1024)
    with pytest.raises(UsageError, match="Failed to grow the L1 table: File too large"):
        images.make(path, "qcow2", 1 << 62)


@pytest.mark.parametrize("names", [("other.qcow2", "qcow2"), ("x" * 900, "raw"), (None, None)])
def test_an_image_names_another_backing_file(tmp_path, names):
    """As qemu-img rebase -u does; its bitmaps stay."""
    for name in ("ours", "theirs"):
        run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "first", "-F", "raw", name, "1M",
            cwd=tmp_path)  # fmt: skip
        run("qemu-img", "bitmap", "--add", "-f", "qcow2", name, "b", cwd=tmp_path)
    name, driver = names
    words = ["-b", name or "", *(["-F", driver] if driver else [])]
    run("qemu-img", "rebase", "-u", "-f", "qcow2", *words, "theirs", cwd=tmp_path)
    (tmp_path / "first").write_bytes(bytes(1 << 20))
    with block.open_writable(tmp_path / "ours", "qcow2") as node:
        assert isinstance(node, block.Qcow2Node)
        node.change_backing(name, driver)
    shown = [run("qemu-img", "info", "-U", each, cwd=tmp_path, check=False).stdout
             for each in ("ours", "theirs")]  # fmt: skip
    assert (
        shown[0].replace("ours", "theirs").split("disk size")[1].partition("\n")[2]
        == (shown[1].split("disk size")[1].partition("\n")[2])
    )
    assert "name: b" in shown[0]
