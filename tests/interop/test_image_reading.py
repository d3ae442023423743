"""What `nbexport image` tells of an image is what qemu-img tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from peers import nbdinfo_map, qemu_nbd, run

from nbexport.block import open_image
from nbexport.cli.main import cli
from nbexport.errors import UsageError

pytestmark = pytest.mark.interop

# Eleven lines of options, chosen so that most pairs of values meet: cluster size, version, width
# of counts, subclusters, compression, preallocation.
OPTIONS = (
    ("cluster_size=512", "refcount_bits=1"),
    ("cluster_size=512", "compat=0.10"),
    ("cluster_size=4k", "refcount_bits=64", "preallocation=metadata"),
    ("cluster_size=4k", "refcount_bits=2", "lazy_refcounts=on", "compression_type=zstd"),
    ("cluster_size=64k", "compat=0.10", "preallocation=metadata"),
    ("cluster_size=64k", "extended_l2=on", "refcount_bits=8"),
    ("cluster_size=64k", "extended_l2=on", "preallocation=metadata", "compression_type=zstd"),
    ("cluster_size=64k", "preallocation=falloc", "refcount_bits=32"),
    ("cluster_size=16k", "extended_l2=on", "preallocation=full", "lazy_refcounts=on"),
    ("cluster_size=2M", "refcount_bits=4"),
    ("cluster_size=4k", "data_file=data.raw"),
    ("cluster_size=64k", "data_file=data.raw", "extended_l2=on"),
    ("cluster_size=64k", "data_file=data.raw", "data_file_raw=on"),
    ("cluster_size=2M", "extended_l2=on", "lazy_refcounts=on"),
)
BACKINGS = ("none", "raw", "short-qcow2")
CASES = [
    pytest.param(options, backing, id="-".join((*options, backing)).replace("=", ""))
    for options in OPTIONS
    for backing in BACKINGS
    # QEMU takes a backing file with preallocation only where there are subclusters.
    if backing == "none"
    or "extended_l2=on" in options
    or not any(word in option for option in options for word in ("preallocation", "file_raw"))
]


def io(image, *commands):
    """Run qemu-io commands; those that the image cannot do (version 2) only fail themselves."""
    words = [word for command in commands for word in ("-c", command)]
    run("qemu-io", "-f", "qcow2" if image.suffix == ".qcow2" else "raw", *words, image, check=False)


def make(folder, options, backing):
    image = folder / "a.qcow2"
    # The data file's name is seen from the folder of the process.
    options = tuple(word.replace("=data.raw", f"={folder}/data.raw") for word in options)
    words = []
    if backing == "raw":
        base = folder / "base.raw"
        run("qemu-img", "create", "-q", "-f", "raw", base, "5M")
        io(base, "write -P 7 1M 300k", "write -P 8 4M 64k")
        words = ["-b", "base.raw", "-F", "raw"]
    elif backing == "short-qcow2":
        base = folder / "base.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", base, "3M")
        io(base, "write -P 7 1M 300k", "write -z 2M 256k", "write -c -P 3 2560k 64k")
        words = ["-b", "base.qcow2", "-F", "qcow2"]
    run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), *words, image, "5M",
        cwd=folder,
    )  # fmt: skip
    if "compat=0.10" not in options:
        run("qemu-img", "bitmap", "--add", image, "b0")
        run("qemu-img", "bitmap", "--add", "--disable", "-g", "1M", image, "b1")
    io(
        image, "write -P 1 0 5k", "write -P 2 70k 200k", "write -z 512k 64k", "write -P 3 2M 2M",
        "write -z 2560k 100k", "discard 2304k 64k", "write -P 5 4194816 512",
    )  # fmt: skip
    if "refcount_bits=1" not in options and "data_file=" not in "".join(options):
        run("qemu-img", "snapshot", "-c", "first snapshot", image)
        io(image, "write -P 9 64k 8k", "write -z -u 3M 64k")
    return image


def ours(*words):
    done = CliRunner().invoke(cli, ["image", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(("options", "backing"), CASES)
def test_info_map_and_content_are_those_of_qemu_img(tmp_path, options, backing):
    image = make(tmp_path, options, backing)
    theirs = json.loads(run("qemu-img", "info", "--output=json", image).stdout)
    assert json.loads(ours("info", "--output", "json", image)) == theirs
    theirs = json.loads(run("qemu-img", "map", "--output=json", image).stdout)
    assert json.loads(ours("map", "--output", "json", image)) == theirs
    plain = tmp_path / "content.raw"
    run("qemu-img", "convert", "-O", "raw", image, plain)
    with open_image(image) as node:
        assert node.read(0, node.size) == plain.read_bytes()


def test_the_map_of_a_compressed_image_has_no_offsets(tmp_path):
    image = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    io(image, "write -c -P 1 64k 128k")
    theirs = json.loads(run("qemu-img", "map", "--output=json", image).stdout)
    assert json.loads(ours("map", "--output", "json", image)) == theirs
    assert not any("offset" in entry for entry in theirs)


def test_the_table_of_a_map_is_qemu_imgs(tmp_path):
    image = make(tmp_path, ("cluster_size=4k",), "raw")
    theirs = run("qemu-img", "map", image).stdout.splitlines()
    mine = ours("map", image).splitlines()
    assert [line.split() for line in mine] == [line.split() for line in theirs]


def test_raw_images_have_facts_and_a_map(tmp_path):
    image = tmp_path / "a.raw"
    run("qemu-img", "create", "-q", "-f", "raw", image, "3M")
    io(image, "write -P 1 1M 64k")
    for command in ("info", "map"):
        theirs = json.loads(run("qemu-img", command, "-f", "raw", "--output=json", image).stdout)
        assert json.loads(ours(command, "-f", "raw", "--output", "json", image)) == theirs


def test_bitmaps_are_listed_with_their_flags_and_counts(tmp_path):
    image = make(tmp_path, ("cluster_size=64k",), "none")
    listed = json.loads(ours("bitmap", "--list", "--output", "json", image))
    facts = json.loads(run("qemu-img", "info", "--output=json", image).stdout)
    counts = [entry.pop("count") for entry in listed]
    assert listed == facts["format-specific"]["data"]["bitmaps"]
    assert counts[0] > 0
    assert counts[1] == 0
    assert "b0" in ours("bitmap", "--list", image)
    assert Path(image).name in ours("info", image)


@pytest.mark.parametrize(
    "options",
    [("cluster_size=512",), ("cluster_size=64k", "extended_l2=on"), ("compat=0.10",)],
    ids="-".join,
)
@pytest.mark.parametrize("backing", BACKINGS)
def test_snapshots_are_read_and_mapped_as_qemu_nbd_serves_them(tmp_path, options, backing):
    image = make(tmp_path, options, backing)
    run("qemu-img", "snapshot", "-c", "second", image)
    io(image, "write -P 11 0 4M")
    now = image.parent / "now.raw"
    run("qemu-img", "convert", "-O", "raw", image, now)
    for name, chosen in (("1", "snapshot.id=1"), ("second", "snapshot.name=second")):
        plain = tmp_path / "content.raw"
        run("qemu-img", "convert", "-l", chosen, "-O", "raw", image, plain)
        with open_image(image, snapshot=name) as node:
            assert node.read(0, node.size) == plain.read_bytes() != now.read_bytes()
            mine = list(node.allocation())
        with qemu_nbd(image, tmp_path, "-l", chosen, "-r", "-f", "qcow2") as uri:
            theirs = nbdinfo_map(uri, "base:allocation")
        assert mine == [(entry["offset"], entry["length"], entry["type"]) for entry in theirs]


def test_snapshots_that_are_not_there_are_refused_in_qemus_words(tmp_path):
    image = make(tmp_path, ("cluster_size=64k",), "none")
    raw = tmp_path / "a.raw"
    raw.write_bytes(bytes(4096))
    for path, form in ((image, "qcow2"), (raw, "raw")):
        done = run(
            "qemu-img", "convert", "-f", form, "-l", "nowhere", "-O", "raw", path,
            tmp_path / "out", check=False,
        )  # fmt: skip
        theirs = done.stderr.strip().removeprefix("qemu-img: ")
        with pytest.raises(UsageError) as refused:
            open_image(path, format=form, snapshot="nowhere")
        assert str(refused.value) == f"{path}: {theirs}"
