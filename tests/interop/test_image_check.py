"""`nbexport image check` counts what qemu-img check counts, on sound images and on broken ones."""

from __future__ import annotations

import json
import random
import struct

import pytest
from click.testing import CliRunner
from peers import run

from nbexport.block import open_image
from nbexport.cli.main import cli

pytestmark = pytest.mark.interop

COPIED = 1 << 63
PLACE = 0x00FF_FFFF_FFFF_FE00


def make(folder, *options):
    image = folder / "a.qcow2"
    words = ",".join(options).replace("=data.raw", f"={folder}/data.raw")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", words, image, "3M")
    if "compat=0.10" not in options:
        run("qemu-img", "bitmap", "--add", "-g", "4k", image, "b0")
        run("qemu-img", "bitmap", "--add", "-g", "64k", image, "b1")
    words = ["write -P 1 0 50k", "write -P 2 1M 300k", "write -z 128k 64k", "write -P 3 700k 9k"]
    words += ["write -c -P 4 2M 64k", "write -P 5 600k 10k", "discard 1100k 64k"]
    run("qemu-io", "-f", "qcow2", *[w for c in words for w in ("-c", c)], image, check=False)
    # The compressed clusters share one of the file's: narrow counts have no room for a snapshot.
    # An image with a data file cannot have any.
    no_room = {"refcount_bits=1", "refcount_bits=2", "refcount_bits=4", "data_file=data.raw"}
    if not no_room & set(options):
        run("qemu-img", "snapshot", "-c", "s", image)
        run("qemu-io", "-f", "qcow2", "-c", "write -P 6 1M 10k", image)
    return image


def compare(image):
    """Check by both; return what both found."""
    theirs = run("qemu-img", "check", "-f", "qcow2", "--output=json", image, check=False)
    mine = CliRunner().invoke(
        cli, ["image", "check", "-f", "qcow2", "--output", "json", str(image)]
    )
    assert mine.exit_code == theirs.returncode, (mine.output, theirs.stderr)
    if not theirs.stdout:
        return {}
    facts = json.loads(mine.stdout)
    assert facts == json.loads(theirs.stdout), (mine.output, theirs.stderr)
    return facts


def number(image, offset):
    with image.open("rb") as file:
        file.seek(offset)
        return struct.unpack(">Q", file.read(8))[0]


def patch(image, offset, value):
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack(">Q", value))


@pytest.mark.parametrize(
    "options",
    [
        ("cluster_size=512", "refcount_bits=1"),
        ("cluster_size=512", "refcount_bits=64"),
        ("cluster_size=4k", "refcount_bits=2"),
        ("cluster_size=4k", "refcount_bits=4", "compression_type=zstd"),
        ("cluster_size=64k", "refcount_bits=8", "extended_l2=on"),
        ("cluster_size=64k", "compat=0.10"),
        ("cluster_size=64k", "preallocation=metadata"),
        ("cluster_size=2M", "refcount_bits=32", "lazy_refcounts=on"),
        ("cluster_size=4k", "data_file=data.raw"),
        ("cluster_size=64k", "data_file=data.raw", "extended_l2=on"),
    ],
    ids="-".join,
)
def test_sound_images_are_sound(tmp_path, options):
    facts = compare(make(tmp_path, *options))
    assert "corruptions" not in facts
    assert "leaks" not in facts
    assert facts["allocated-clusters"]


def tables(image):
    with open_image(image) as node:
        header = node.header
    l2 = next(
        entry & PLACE
        for at in range(header.l1_size)
        if (entry := number(image, header.l1_table_offset + 8 * at))
    )
    block = number(image, header.refcount_table_offset)
    return header, l2, block


# Each takes an image with 4 KiB clusters and counts of 16 bits, and breaks one thing.


def leak(image):
    image.write_bytes(image.read_bytes() + bytes(4096))
    _, _, block = tables(image)
    patch(image, block + (image.stat().st_size // 4096 - 1) * 2, 1 << 48)


def lost_count(image):
    _, _, block = tables(image)
    patch(image, block, 0)


def overlap(image):
    _, l2, _ = tables(image)
    patch(image, l2 + 8, number(image, l2))


def flag_lost(image):
    _, l2, _ = tables(image)
    patch(image, l2, number(image, l2) ^ COPIED)


def l1_flag_lost(image):
    header, _, _ = tables(image)
    patch(image, header.l1_table_offset, number(image, header.l1_table_offset) ^ COPIED)


def unaligned_data(image):
    _, l2, _ = tables(image)
    patch(image, l2 + 16, number(image, l2 + 16) | 512)


def unaligned_table(image):
    header, _, _ = tables(image)
    patch(image, header.l1_table_offset, number(image, header.l1_table_offset) | 512)


def reserved_data(image):
    _, l2, _ = tables(image)
    patch(image, l2 + 16, number(image, l2 + 16) | 2)


def reserved_l1(image):
    header, _, _ = tables(image)
    patch(image, header.l1_table_offset, number(image, header.l1_table_offset) | 1)


def data_outside(image):
    _, l2, _ = tables(image)
    patch(image, l2 + 16, COPIED | 1 << 40)


def data_just_outside(image):
    _, l2, _ = tables(image)
    patch(image, l2 + 16, COPIED | -(-image.stat().st_size // 4096) * 4096)


def data_in_block(image):
    _, l2, block = tables(image)
    patch(image, l2 + 16, COPIED | block)


def block_unaligned(image):
    header, _, block = tables(image)
    patch(image, header.refcount_table_offset, block | 512)


def block_outside(image):
    header, _, _ = tables(image)
    patch(image, header.refcount_table_offset + 8, 1 << 40)


def block_twice(image):
    header, _, block = tables(image)
    patch(image, header.refcount_table_offset + 8, block)


def block_reserved(image):
    header, _, block = tables(image)
    patch(image, header.refcount_table_offset, block | 1)


def no_block(image):
    header, _, _ = tables(image)
    patch(image, header.refcount_table_offset, 0)


def bitmap_cluster_shared(image):
    header, l2, _ = tables(image)
    patch(image, l2 + 16, COPIED | header.bitmaps.directory_offset)


def dirty_and_corrupt_bits(image):
    patch(image, 72, number(image, 72) | 3)


BREAKERS = (
    leak, lost_count, overlap, flag_lost, l1_flag_lost, unaligned_data, unaligned_table,
    reserved_data, reserved_l1, data_outside, data_just_outside, data_in_block, block_unaligned,
    block_outside, block_twice, block_reserved, no_block, bitmap_cluster_shared,
    dirty_and_corrupt_bits,
)  # fmt: skip


@pytest.mark.parametrize("breaker", BREAKERS, ids=lambda breaker: breaker.__name__)
def test_broken_images_have_the_same_faults(tmp_path, breaker):
    image = make(tmp_path, "cluster_size=4k")
    breaker(image)
    facts = compare(image)
    if breaker is leak:
        assert facts["leaks"] == 1
    elif breaker not in {dirty_and_corrupt_bits, block_unaligned}:
        assert facts["corruptions"]


@pytest.mark.parametrize("bits", [COPIED, 512, 1 << 40, 1 << 62], ids=hex)
def test_flags_and_places_of_a_data_file_have_the_same_faults(tmp_path, bits):
    image = make(tmp_path, "cluster_size=4k", "data_file=data.raw")
    _, l2, _ = tables(image)
    patch(image, l2 + 16, number(image, l2 + 16) ^ bits)
    compare(image)


@pytest.mark.parametrize("seed", range(12))
def test_random_flips_in_tables_have_the_same_faults(tmp_path, seed):
    source = random.Random(seed)
    image = make(tmp_path, "cluster_size=4k")
    header, l2, block = tables(image)
    for _ in range(3):
        at = source.choice([l2, block, header.l1_table_offset]) + 8 * source.randrange(64)
        patch(image, at, number(image, at) ^ 1 << source.randrange(9, 64))
    compare(image)


def test_raw_images_have_nothing_to_check(tmp_path):
    image = tmp_path / "a.raw"
    image.write_bytes(bytes(4096))
    theirs = run("qemu-img", "check", "-f", "raw", image, check=False)
    mine = CliRunner().invoke(cli, ["image", "check", "-f", "raw", str(image)])
    assert mine.exit_code == theirs.returncode == 63


def test_the_text_is_qemu_imgs(tmp_path):
    image = make(tmp_path, "cluster_size=4k")
    leak(image)
    theirs = run("qemu-img", "check", image, check=False).stdout.splitlines()
    mine = CliRunner().invoke(cli, ["image", "check", str(image)]).stdout.splitlines()
    assert mine[-2:] == theirs[-2:]
    assert mine[0] == "1 leaked clusters were found on the image."
