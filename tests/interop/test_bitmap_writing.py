"""Bitmaps that this package writes, beside those that QEMU writes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monitors import daemon_client
from peers import background, nbdinfo_map, peer, qemu_nbd, run

from nbexport import block, qmp
from nbexport.bits import Bitmap
from nbexport.block import FileNode, RawNode, edit_bitmaps, open_image
from nbexport.cli.image import image_group

pytestmark = pytest.mark.interop

KiB, MiB = 1 << 10, 1 << 20


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def create(name: str, *options: str, size: str = "1M") -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, name, size)


def ours(*words: str) -> tuple[int, str]:
    """Run our command; return its status and what it printed."""
    done = CliRunner().invoke(image_group, ["bitmap", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def theirs(*words: str) -> tuple[int, str]:
    """Run qemu-img's; what it prints is changed to what we print for the same reason."""
    done = run("qemu-img", "bitmap", *words, check=False)
    text = done.stderr.replace("qemu-img: ", "nbexport: ")
    # Its generated names of nodes are random; ours have the file's.
    return done.returncode, re.sub(r"'?#block\d+'?", "NODE", text)


def same(words: list[str], twin: str = "twin.qcow2", mine: str = "mine.qcow2") -> None:
    """Let both do the same to their images; compare what they say and what they leave."""
    expected = theirs(*(twin if word == "IMAGE" else word for word in words))
    status, text = ours(*(mine if word == "IMAGE" else word for word in words))
    text = re.sub(rf"'{mine}'(?=: )|(?<=to ){mine}", "NODE", text).replace(mine, twin)
    expected = expected[0], expected[1].replace("Could not open NODE", f"Could not open '{twin}'")
    text = text.replace("Could not open NODE", f"Could not open '{twin}'")
    assert (status, text) == expected, words
    assert directory(mine) == directory(twin), words


def directory(name: str) -> Any:
    """Return the bitmaps as qemu-img tells them, in the order of the directory."""
    facts = json.loads(run("qemu-img", "info", "--output=json", name).stdout)
    return facts["format-specific"]["data"].get("bitmaps")


def bits(name: str) -> dict[str, Bitmap | None]:
    with open_image(name) as node:
        return {one.name: one.bitmap for one in node.bitmaps.values()}


def checked(name: str) -> None:
    done = run("qemu-img", "check", name, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def leave_in_use(name: str, folder: Path) -> None:
    """Have QEMU open an image for writing and never close it."""
    path = folder / "killed.sock"
    command = [peer("qemu-nbd"), "-t", "-k", path, "-f", "qcow2", name]
    with background(*command, ready=path) as process:
        uri = f"nbd+unix:///?socket={path}"
        run("nbdinfo", "--size", uri)
        process.kill()
        process.wait(10)
    path.unlink(missing_ok=True)


SCRIPT = [
    ["--add", "IMAGE", "b0"],
    ["--add", "IMAGE", "b0"],
    ["IMAGE", "b0"],
    ["--add", "IMAGE"],
    ["--add"],
    ["--add", "IMAGE", "b0", "more"],
    ["--add", "none.qcow2", "b"],
    *([action, "IMAGE", "no"] for action in ("--clear", "--enable", "--disable", "--remove")),
    ["--merge", "no", "IMAGE", "b0"],
    ["--merge", "b0", "IMAGE", "no"],
    ["--add", "-b", "other.qcow2", "IMAGE", "b9"],
    ["--add", "-F", "qcow2", "IMAGE", "b9"],
    *(
        ["--add", "-g", size, "IMAGE", f"g{size}"]
        for size in ("1", "513", "1k", "3k", "4G", "2G", "0", "x", "-1", "9E", "1.5k", "0x400", "")
    ),
    *(
        ["--add", "-g", size, "IMAGE", f"g{size}"]
        for size in ("8589935104", "99999999999999999999", "1KiB", "512.5", "1K", "0.5k")
    ),
    ["-g", "1k", "--enable", "IMAGE", "b0"],
    ["--add", "--remove", "IMAGE", "b3"],
    ["--add", "--disable", "IMAGE", "b4"],
    ["--enable", "--disable", "IMAGE", "b0"],
    ["--disable", "--enable", "IMAGE", "b0"],
    ["--enable", "--add", "IMAGE", "b6"],
    ["--add", "--merge", "no", "IMAGE", "b7"],  # what was done stays done
    ["--remove", "--add", "IMAGE", "b7"],
    ["--clear", "--merge", "b0", "--merge", "g1k", "IMAGE", "b4"],
    ["--merge", "b0", "IMAGE", "b0"],
    ["--add", "IMAGE", ""],
    ["--add", "IMAGE", "ü" * 511],
    ["--add", "IMAGE", "n" * 1024],
    ["--merge", "b0", "-b", "other.qcow2", "IMAGE", "b0"],
    ["--merge", "o0", "-b", "other.qcow2", "IMAGE", "b0"],
    ["--merge", "o0", "-b", "other.qcow2", "-F", "raw", "IMAGE", "b0"],
    ["--merge", "o0", "-b", "larger.qcow2", "IMAGE", "b0"],
    ["--merge", "o0", "-b", "none.qcow2", "IMAGE", "b0"],
    ["--merge", "b0", "-b", "IMAGE", "IMAGE", "b0"],
    ["--remove", "IMAGE", "b0"],
]


def test_each_action_leaves_and_says_what_qemu_img_does(folder):
    create("twin.qcow2")
    shutil.copy("twin.qcow2", "mine.qcow2")
    create("other.qcow2")
    create("larger.qcow2", size="2M")
    for name in ("other.qcow2", "larger.qcow2"):
        run("qemu-img", "bitmap", "--add", "-g", "4k", name, "o0")
        run("qemu-io", "-c", "write 12k 5k", "-c", "write 700k 100k", name)
    for words in SCRIPT:
        same(words)
    checked("mine.qcow2")
    assert bits("mine.qcow2") == bits("twin.qcow2")


def test_images_that_cannot_have_bitmaps(folder):
    create("twin.qcow2", "-o", "compat=0.10")
    shutil.copy("twin.qcow2", "mine.qcow2")
    same(["--add", "IMAGE", "b0"])
    same(["--add", "-g", "5", "IMAGE", "b0"])
    create("twin.qcow2", size="64T")
    shutil.copy("twin.qcow2", "mine.qcow2")
    same(["--add", "-g", "512", "IMAGE", "b0"])
    run("qemu-img", "create", "-q", "-f", "raw", "disk.raw", "1M")
    for action in ("--add", "--remove", "--clear", "--enable", "--disable"):
        expected = theirs(action, "-f", "raw", "disk.raw", "b")
        status, text = ours(action, "-f", "raw", "disk.raw", "b")
        assert (status, text.replace("to disk.raw", "to NODE")) == expected


def test_what_another_holds_is_not_changed(folder):
    create("twin.qcow2")
    with qemu_nbd(Path("twin.qcow2"), folder, "-r", "-f", "qcow2") as uri:
        run("nbdinfo", "--size", uri)
        assert ours("--add", "twin.qcow2", "b") == theirs("--add", "twin.qcow2", "b")


def test_inconsistent_bitmaps_can_only_be_removed(folder):
    create("twin.qcow2")
    run("qemu-img", "bitmap", "--add", "twin.qcow2", "b0")
    run("qemu-img", "bitmap", "--add", "--disable", "twin.qcow2", "b1")
    run("qemu-io", "-c", "write 0 300k", "twin.qcow2")
    leave_in_use("twin.qcow2", folder)
    shutil.copy("twin.qcow2", "mine.qcow2")
    assert bits("twin.qcow2") == {"b0": None, "b1": None}
    for words in (
        *([action, "IMAGE", "b0"] for action in ("--clear", "--enable", "--disable", "--add")),
        ["--merge", "b1", "IMAGE", "b0"],
        ["--merge", "no", "IMAGE", "b0"],
        ["--add", "IMAGE", "new"],
        ["--merge", "b1", "IMAGE", "new"],
        ["--merge", "b0", "-b", "IMAGE", "IMAGE", "new"],
        ["--remove", "--add", "IMAGE", "b0"],
        ["--remove", "IMAGE", "b1"],
    ):
        same(words)
        checked("mine.qcow2")
    assert bits("mine.qcow2") == bits("twin.qcow2")


def test_while_the_image_is_open_its_bitmaps_are_in_use(folder):
    create("a.qcow2")
    run("qemu-img", "bitmap", "--add", "a.qcow2", "b0")
    with edit_bitmaps("a.qcow2") as store:
        shutil.copy("a.qcow2", "crashed.qcow2")
        store.add("b1")
        assert [one.inconsistent for one in store.bitmaps.values()] == [False, False]
    assert directory("crashed.qcow2")[0]["flags"] == ["in-use", "auto"]
    assert [one["flags"] for one in directory("a.qcow2")] == [["auto"], ["auto"]]
    checked("crashed.qcow2")


def test_bitmaps_that_some_other_writer_ignored_are_dropped(folder):
    create("twin.qcow2")
    run("qemu-img", "bitmap", "--add", "twin.qcow2", "b0")
    stored = bytearray(Path("twin.qcow2").read_bytes())
    stored[95] &= 0xFE  # the autoclear bit of the bitmaps
    Path("twin.qcow2").write_bytes(stored)
    Path("mine.qcow2").write_bytes(stored)
    run("qemu-img", "bitmap", "--add", "twin.qcow2", "new")
    assert ours("--add", "mine.qcow2", "new") == (0, "")
    assert directory("mine.qcow2") == directory("twin.qcow2")
    left = [run("qemu-img", "check", name, check=False).returncode for name in
            ("mine.qcow2", "twin.qcow2")]  # fmt: skip
    assert left == [3, 3]  # what the old ones had is leaked


@pytest.mark.parametrize("bit", [0, 1])
def test_images_that_are_dirty_or_corrupt_are_refused(folder, bit):
    create("a.qcow2", "-o", "lazy_refcounts=on")
    stored = bytearray(Path("a.qcow2").read_bytes())
    stored[79] |= 1 << bit
    Path("a.qcow2").write_bytes(stored)
    status, text = ours("--add", "a.qcow2", "b")
    assert status == 1
    assert ("corrupt" if bit else "not closed cleanly") in text
    assert Path("a.qcow2").read_bytes() == stored


# The same random operations on two images

OPTIONS = [
    ("cluster_size=512",),
    ("cluster_size=4k", "refcount_bits=1"),
    ("cluster_size=64k", "lazy_refcounts=on"),
    ("cluster_size=2M", "refcount_bits=64"),
    ("cluster_size=16k", "extended_l2=on"),
    ("cluster_size=1k", "refcount_bits=2", "preallocation=metadata"),
    ("cluster_size=64k", "data_file=EXT.data"),
    ("cluster_size=8k", "refcount_bits=8", "backing_file=a backing file.raw", "backing_fmt=raw"),
]
NAMES = ["b0", "b1", "ünï"]
SIZE = 5 * MiB + 512

action = st.one_of(
    st.tuples(st.just("--add"), st.sampled_from(["512", "4k", "64k", "2M", "2G"])),
    st.sampled_from([("--remove",), ("--clear",), ("--enable",), ("--disable",)]),
    st.tuples(st.just("--merge"), st.sampled_from(NAMES)),
)
commands = st.tuples(st.lists(action, min_size=1, max_size=3), st.sampled_from(NAMES))
place = st.integers(0, SIZE // 512 - 1).map(lambda sector: sector * 512)
write = st.tuples(
    st.sampled_from(["write", "write -z", "write -zu", "discard"]), place, st.integers(1, 3 * MiB)
)
steps = st.lists(st.one_of(commands, st.lists(write, min_size=1, max_size=3)), max_size=7)


@pytest.fixture(scope="module")
def monitor(tmp_path_factory):
    """A storage daemon that reads images and tells digests of their bitmaps."""
    path = tmp_path_factory.mktemp("monitor") / "qmp.sock"
    with daemon_client(path) as client:
        yield client


def digests(monitor: qmp.QmpClient, path: Path) -> dict[str, str]:
    """Return QEMU's digest of the bits of every bitmap of an image."""
    file = {"driver": "file", "filename": str(path.resolve())}
    options = {"driver": "qcow2", "node-name": "image", "read-only": True, "file": file}
    monitor.execute("blockdev-add", options)
    try:
        nodes = monitor.execute("query-named-block-nodes", {"flat": True})
        assert isinstance(nodes, list)
        found = next(node for node in nodes if node["node-name"] == "image")
        return {
            one["name"]: monitor.execute(
                "x-debug-block-dirty-bitmap-sha256", {"node": "image", "name": one["name"]}
            )["sha256"]
            for one in found.get("dirty-bitmaps", [])
        }
    finally:
        monitor.execute("blockdev-del", {"node-name": "image"})


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options[0] + options[-1][:8])
@settings(
    max_examples=4,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=steps)
def test_any_operations_leave_what_qemu_leaves(folder, monitor, options, steps):
    for name in ("twin.qcow2", "mine.qcow2"):
        Path(name).unlink(missing_ok=True)
        Path("a backing file.raw").write_bytes(bytes(MiB))
        words = ",".join(options).replace("EXT", str(folder / name))
        create(name, "-o", words, size=str(SIZE))
    for step in steps:
        if isinstance(step, tuple):
            flat: list[str] = []
            for one in step[0]:
                flat += ["--add", "-g", one[1]] if one[0] == "--add" else one
            same([*flat, "IMAGE", step[1]])
        else:
            texts = [f"{what} {at} {min(length, SIZE - at)}" for what, at, length in step]
            io = [word for text in texts for word in ("-c", text)]
            for name in ("twin.qcow2", "mine.qcow2"):
                run("qemu-io", "-d", "unmap", "-f", "qcow2", *io, name)
    checked("mine.qcow2")
    assert block.check_image("mine.qcow2").messages == []
    assert bits("mine.qcow2") == bits("twin.qcow2")
    assert digests(monitor, Path("mine.qcow2")) == digests(monitor, Path("twin.qcow2"))
    run("qemu-img", "compare", "mine.qcow2", "twin.qcow2")


@pytest.mark.parametrize("claimed", ["l1", "l2"])
def test_an_image_with_snapshots_and_a_claim_on_its_metadata(folder, claimed):
    create("a.qcow2", "-o", "cluster_size=4k")
    run("qemu-img", "bitmap", "--add", "-g", "512", "a.qcow2", "b0")
    run("qemu-io", "-c", "write -P 7 0 900k", "a.qcow2")
    run("qemu-img", "snapshot", "-c", "before", "a.qcow2")
    run("qemu-io", "-c", "write -P 8 100k 300k", "a.qcow2")
    assert ours("--add", "--merge", "b0", "a.qcow2", "b1") == (0, "")
    checked("a.qcow2")
    run("qemu-io", "-r", "-c", "read -P 8 100k 300k", "-c", "read -P 7 400k 500k", "a.qcow2")
    # A bitmap that names a table as its bits: freeing it must not give the table away.
    with open_image("a.qcow2") as node:
        l1 = node.header.l1_table_offset
        place = node.header.bitmaps.directory_offset
    stored = bytearray(Path("a.qcow2").read_bytes())
    table = int.from_bytes(stored[place : place + 8], "big")
    l2 = int.from_bytes(stored[l1 : l1 + 8], "big") & ~(1 << 63)
    stored[table : table + 8] = {"l1": l1, "l2": l2}[claimed].to_bytes(8, "big")
    Path("a.qcow2").write_bytes(stored)
    assert ours("--remove", "a.qcow2", "b0") == (0, "")
    assert ours("--add", "a.qcow2", "b2") == (0, "")
    run("qemu-io", "-r", "-c", "read -P 8 100k 300k", "-c", "read -P 7 400k 500k", "a.qcow2")
    assert run("qemu-img", "check", "a.qcow2", check=False).returncode == 3


@settings(
    max_examples=10,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(writes=st.lists(write, max_size=6), granularity=st.sampled_from([512, 4096, 65536, MiB]))
def test_live_bitmaps_follow_writes_as_qemus(folder, writes, granularity):
    Path("twin.qcow2").unlink(missing_ok=True)
    create("twin.qcow2", size=str(SIZE))
    run("qemu-img", "bitmap", "--add", "-g", str(granularity), "twin.qcow2", "b")
    texts = [f"{what} {at} {min(length, SIZE - at)}" for what, at, length in writes]
    io = [word for text in texts for word in ("-c", text)]
    run("qemu-io", "-d", "unmap", "-f", "qcow2", *(io or ["-c", "quit"]), "twin.qcow2")
    Path("disk.raw").write_bytes(b"")
    with Path("disk.raw").open("r+b") as disk:
        disk.truncate(SIZE)
    followed = Bitmap(SIZE, granularity)
    with FileNode("disk.raw", writable=True) as file, RawNode(file) as node:
        node.tracking.start(followed)
        for what, at, length in writes:
            count = min(length, SIZE - at)
            if what == "write":
                node.write_from(at, memoryview(bytes(count)))
            elif what == "discard":
                node.discard(at, count)
            else:
                node.write_zeroes(at, count, unmap=what.endswith("u"))
        node.tracking.stop(followed)
        node.write_from(0, memoryview(bytes(512 * 9)))
    assert bits("twin.qcow2")["b"] == followed


def test_nbdinfo_sees_what_was_merged(folder):
    create("a.qcow2", size="1M")
    for name, size, write in (("fine", "512", "write 1k 512"), ("coarse", "128k", "write 500k 1k")):
        run("qemu-img", "bitmap", "--add", "-g", size, "a.qcow2", name)
        run("qemu-io", "-c", write, "a.qcow2")
        run("qemu-img", "bitmap", "--disable", "a.qcow2", name)
    assert (
        ours("--add", "-g", "4k", "--merge", "fine", "--merge", "coarse", "a.qcow2", "all")[0] == 0
    )
    with qemu_nbd(Path("a.qcow2"), folder, "-r", "-f", "qcow2", "-B", "all") as uri:
        found = nbdinfo_map(uri, "qemu:dirty-bitmap:all")
    assert [(one["offset"], one["length"], one["type"]) for one in found] == [
        (0, 4 * KiB, 1),
        (4 * KiB, 380 * KiB, 0),
        (384 * KiB, 128 * KiB, 1),
        (512 * KiB, 512 * KiB, 0),
    ]
