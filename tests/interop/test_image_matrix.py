"""Images of every kind that qemu-img makes: each pair of options occurs in some image."""

from __future__ import annotations

import itertools
import json
import random
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from peers import qemu_nbd, run

from nbexport import block
from nbexport.bits import Extents
from nbexport.cli.main import cli
from nbexport.nbd import Client

pytestmark = pytest.mark.interop

MiB = 1 << 20
IMAGES = 64
CHOICES = {
    "compat": ("1.1", "0.10"),
    "cluster": ("64k", "512", "4k", "2M"),
    "extended": (False, True),
    "compression": ("zlib", "zstd"),
    "preallocation": ("off", "metadata", "falloc", "full"),
    "data": ("inside", "file", "raw file"),
    "lazy": (False, True),
    "refcount": (16, 1, 64),
    "backing": ("none", "qcow2", "raw", "longer", "three"),
    "snapshot": (False, True),
    "packed": (False, True),
    "bitmaps": ((), (512,), (65536, 1 << 21)),
}


def is_possible(image):
    old = image["compat"] == "0.10"
    if old and (image["extended"] or image["compression"] == "zstd" or image["lazy"]):
        return False
    if old and (image["refcount"] != 16 or image["bitmaps"] or image["data"] != "inside"):
        return False
    if image["extended"] and image["cluster"] in {"512", "4k"}:
        return False
    if image["data"] != "inside" and (image["packed"] or image["snapshot"] or image["extended"]):
        return False
    if image["backing"] != "none" and (
        (image["preallocation"] != "off" and not image["extended"]) or image["data"] == "raw file"
    ):
        return False
    if image["preallocation"] != "off" and (image["packed"] or image["backing"] != "none"):
        return False
    return not (image["refcount"] == 1 and image["snapshot"])


def pairs_of(image):
    return set(itertools.combinations(sorted((k, str(v)) for k, v in image.items()), 2))


def choose():
    """Return images in which every possible pair of options occurs; a greedy choice."""
    chance = random.Random(5)

    def candidate():
        while True:
            image = {name: chance.choice(values) for name, values in CHOICES.items()}
            if is_possible(image):
                return image

    wanted = set().union(*(pairs_of(candidate()) for _ in range(4000)))
    chosen = []
    while wanted or len(chosen) < IMAGES:
        best = max((candidate() for _ in range(60)), key=lambda one: len(pairs_of(one) & wanted))
        chosen.append(best)
        wanted -= pairs_of(best)
    return chosen


MATRIX = choose()


def name_of(image):
    words = [str(value) for name, value in image.items() if value != CHOICES[name][0]]
    return "-".join(words).replace(" ", "") or "default"


def size_of(image):
    return 12 * MiB if image["cluster"] == "2M" else (1 * MiB + 512 if image["cluster"] == "512"
                                                     else 3 * MiB + 1536)  # fmt: skip


def fill(path, image, seed, *, packed=False):
    """Write, zero and discard here and there by qemu-io."""
    chance = random.Random(seed)
    size = size_of(image)
    commands = []
    if packed:
        step = {"2M": 2 * MiB, "64k": 65536, "4k": 4096, "512": 512}[image["cluster"]]
        commands += [f"write -c -P 9 {step * n} {step}" for n in (1, 2, 5)]
    for _ in range(12):
        kind = chance.choice(("write -P 7", "write -P 8", "write -z", "write -z -u", "discard"))
        offset = chance.randrange(size // 512) * 512
        length = min(size - offset, 512 * chance.randrange(1, size // 4096))
        commands.append(f"{kind} {offset} {length}")
    words = [word for line in commands for word in ("-c", line)]
    run("qemu-io", "-d", "unmap", "-f", path.suffix[1:], *words, path)


def make(folder, image):
    size, words, below = size_of(image), [], None
    kinds = {"none": (), "qcow2": ("qcow2",), "raw": ("raw",), "longer": ("qcow2",),
             "three": ("raw", "qcow2", "qcow2")}[image["backing"]]  # fmt: skip
    for number, kind in enumerate(kinds):
        layer = folder / f"layer{number}.{kind}"
        length = size + MiB if image["backing"] == "longer" else size // 2 // 512 * 512
        over = ["-b", below, "-F", below.suffix[1:]] if below is not None else []
        run("qemu-img", "create", "-q", "-f", kind, *over, layer, str(length))
        like = {**image, "cluster": "512" if length < MiB * 2 else "4k"}
        if length >= size_of(like):
            fill(layer, like, number)
        else:
            run("qemu-io", "-f", kind, "-c", "write -P 5 4k 100k", layer)
        below = layer
    options = [f"compat={image['compat']}", f"cluster_size={image['cluster']}",
               f"preallocation={image['preallocation']}"]  # fmt: skip
    if image["compat"] == "1.1":
        options += [f"refcount_bits={image['refcount']}",
                    f"compression_type={image['compression']}",
                    f"extended_l2={'on' if image['extended'] else 'off'}",
                    f"lazy_refcounts={'on' if image['lazy'] else 'off'}"]  # fmt: skip
    if image["data"] != "inside":
        options.append(f"data_file={folder}/data")
        options.append(f"data_file_raw={'on' if image['data'] == 'raw file' else 'off'}")
    if below is not None:
        words = ["-b", below, "-F", below.suffix[1:]]
    path = folder / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), *words, path, str(size))
    fill(path, image, "first", packed=image["packed"])
    if image["snapshot"]:
        run("qemu-img", "snapshot", "-c", "s", path)
    for number, granularity in enumerate(image["bitmaps"]):
        run("qemu-img", "bitmap", "--add", "-g", str(granularity), path, f"b{number}")
    fill(path, image, "second")
    return path


def invoke(*words):
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.mark.parametrize("image", MATRIX, ids=name_of)
def test_an_image(image, tmp_path):
    path = make(tmp_path, image)
    raw = tmp_path / "disk.raw"
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
    expected = raw.read_bytes()
    with block.open_image(path) as node:
        buffer = bytearray(b"\xaa" * node.size)  # what is not filled shows
        node.read_into(0, memoryview(buffer))
        assert buffer == expected
        chance = random.Random(7)
        for _ in range(20):
            at = chance.randrange(node.size)
            length = chance.randrange(min(100_000, node.size - at))
            assert node.read(at, length) == expected[at : at + length]
        mine = {"base:allocation": node.allocation(), "qemu:allocation-depth": node.depth()}
        for stored in node.bitmaps.values():
            dirty = stored.bitmap.extents()
            mine[f"qemu:dirty-bitmap:{stored.name}"] = dirty.extend(node.size, 0)
    words = [word for n in range(len(image["bitmaps"])) for word in ("-B", f"b{n}")]
    with (
        qemu_nbd(path, tmp_path, "-r", "-f", "qcow2", "-A", *words) as uri,
        Client.connect(uri) as client,
    ):
        theirs = client.map()
    assert {name: joined(extents) for name, extents in theirs.items()} == mine
    for command in (("map",), ("info",), ("check",)):
        official = run("qemu-img", *command, "--output=json", path, check=False)
        ours = invoke("image", *command, "--output", "json", path)
        assert json.loads(ours.stdout) == json.loads(official.stdout), command
        if command == ("map",):
            assert ours.stdout == official.stdout
    if image["snapshot"]:
        run("qemu-img", "convert", "-l", "s", "-f", "qcow2", "-O", "raw", path, raw)
        with block.open_image(path, snapshot="s") as node:
            assert node.read(0, node.size) == raw.read_bytes()


def joined(extents):
    """Return a map whose equal neighbours are one extent, as all maps of this package are."""
    return Extents(np.array(extents.bounds), np.array(extents.flags))


def test_the_matrix_has_every_kind():
    assert len(MATRIX) >= 60
    for name, values in CHOICES.items():
        assert {str(image[name]) for image in MATRIX} == {str(value) for value in values}


def test_nothing_writes_the_images(tmp_path):
    path = make(tmp_path, MATRIX[0])
    before = path.read_bytes()
    copy = tmp_path / "copy.qcow2"
    shutil.copy(path, copy)
    with block.open_image(path) as node:
        node.read(0, node.size)
        node.allocation()
    assert path.read_bytes() == before
