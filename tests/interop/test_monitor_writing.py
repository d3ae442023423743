"""Writable exports and stored bitmaps of the monitor beside qemu-storage-daemon's.

The same commands and the same writes; replies, maps, contents and what the images hold in the end
are compared.
"""

from __future__ import annotations

import json
import random
import re

import pytest
from monitors import DAEMON, OURS, OURS_AS_SYSTEM, SYSTEM, monitor, qcow2, unix
from peers import nbdinfo_map, qemu_nbd, run

pytestmark = pytest.mark.interop

MiB = 1 << 20
GENERATED = re.compile(r"#block\d+")


def made(folder, *, size="4M", bitmaps=("b0",)):
    """Make an image on a base that has data."""
    base, top = folder / "base.qcow2", folder / "top.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", base, size)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 2M", base)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", top,
        cwd=folder)  # fmt: skip
    for bitmap in bitmaps:
        run("qemu-img", "bitmap", "--add", top, bitmap)
    return base, top


def writable(name, node, **more):
    return qcow2(name, read_only=False, node_name=node, **more)


def nbd_export(name, node, **more):
    return {"type": "nbd", "id": name, "node_name": node, "name": name, **more}


def uri(folder, name):
    return f"nbd+unix:///{name}?socket={folder}/nbd.sock"


def write(folder, name, *commands):
    words = [word for command in commands for word in ("-c", command)]
    run("qemu-io", "-f", "raw", *words, uri(folder, name))


def maps(folder, name, *bitmaps):
    return [nbdinfo_map(uri(folder, name), f"qemu:dirty-bitmap:{bitmap}") for bitmap in bitmaps]


def stored(image):
    """Return the bitmaps of an image that nobody has open, with their maps."""
    told = json.loads(run("qemu-img", "info", "--output=json", image).stdout)
    bitmaps = told["format-specific"]["data"].get("bitmaps", [])
    return sorted(bitmaps, key=lambda bitmap: bitmap["name"])


def masked(log):
    """Return what was told, without what differs by chance."""
    text = json.dumps(log, sort_keys=True)
    text = re.sub(r'"(actual-size|virtual-size)": \d+', r'"\1": 0', text)
    return json.loads(GENERATED.sub("#block", text))


def both(tmp_path, images, act, programs=(DAEMON, OURS)):
    """Do the same with both programs and compare what they told; return their folders."""
    found = []
    for program in programs:
        folder = tmp_path / program
        with monitor(program, folder, *images) as client:
            seen = act(client)
            client.quit()
            found.append((masked(client.log), seen))
    for theirs, ours in zip(*(told for told, _seen in found), strict=True):
        assert ours == theirs
    assert found[1] == found[0]
    return [tmp_path / program for program in programs]


def same_images(folders, *names):
    for name in names:
        raws = []
        for folder in folders:
            image, raw = folder / name, folder / f"{name}.raw"
            assert "No errors" in run("qemu-img", "check", image).stdout
            run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw)
            raws.append(raw.read_bytes())
        assert raws[0] == raws[1], name
        assert stored(folders[0] / name) == stored(folders[1] / name), name


def test_writes_are_seen_in_bitmaps_which_are_stored(tmp_path):
    def act(client):
        client.execute("blockdev-add", **writable("top.qcow2", "n0"))
        client.execute("block-dirty-bitmap-add", node="n0", name="kept", persistent=True)
        client.execute("block-dirty-bitmap-add", node="n0", name="gone", granularity=4096)
        client.execute("nbd-server-start", addr=unix())
        listed = ["b0", "kept", "gone"]
        client.execute("block-export-add", **nbd_export("e", "n0", bitmaps=listed))
        client.execute("block-export-add", **nbd_export("e", "n0", writable=True, bitmaps=listed))
        write(client.folder, "e", "write -P 1 100k 70k", "write -z 1M 128k", "discard 3M 64k")
        first = maps(client.folder, "e", *listed)
        client.execute("block-dirty-bitmap-clear", node="n0", name="b0")
        client.execute("block-export-del", id="e")
        client.execute("block-dirty-bitmap-clear", node="n0", name="b0")
        client.execute("block-dirty-bitmap-disable", node="n0", name="kept")
        client.execute("block-export-add", **nbd_export("f", "n0", writable=True, bitmaps=listed))
        write(client.folder, "f", "write -P 2 2M 4k", "flush")
        second = maps(client.folder, "f", *listed)
        client.execute("query-named-block-nodes", flat=True)
        client.execute("block-export-del", id="f")
        client.execute("blockdev-del", node_name="n0")
        return first, second

    folders = both(tmp_path, made(tmp_path), act)
    same_images(folders, "top.qcow2", "base.qcow2")
    names = [bitmap["name"] for bitmap in stored(folders[1] / "top.qcow2")]
    assert names == ["b0", "kept"]
    for folder in folders:  # the next user finds the bits
        image = folder / "top.qcow2"
        with qemu_nbd(image, tmp_path, "-r", "-f", "qcow2", "-B", "b0", "-B", "kept") as address:
            told = nbdinfo_map(address, "qemu:dirty-bitmap:b0")
        dirty = [entry["offset"] for entry in told if entry["type"]]
        assert dirty == [2 * MiB]


def test_a_removed_bitmap_leaves_the_image_at_once(tmp_path):
    def act(client):
        client.execute("blockdev-add", **writable("top.qcow2", "n0"))
        client.execute("block-dirty-bitmap-remove", node="n0", name="b1")
        client.execute("query-named-block-nodes", flat=True)
        client.execute("block-dirty-bitmap-add", node="n0", name="b1", persistent=True)
        client.execute("block-dirty-bitmap-remove", node="n0", name="b1")
        client.execute("block-dirty-bitmap-remove", node="n0", name="b1")
        return json.loads(
            run("qemu-img", "info", "-U", "--output=json", client.folder / "top.qcow2").stdout
        )["format-specific"]["data"]["bitmaps"]

    folders = both(tmp_path, made(tmp_path, bitmaps=("b0", "b1")), act)
    same_images(folders, "top.qcow2")


def test_a_transaction_that_fails_changes_nothing(tmp_path):
    def act(client):
        client.execute("blockdev-add", **writable("top.qcow2", "n0"))
        client.execute("nbd-server-start", addr=unix())
        client.execute("block-export-add", **nbd_export("e", "n0", writable=True))
        write(client.folder, "e", "write -P 1 0 64k")
        node = {"node": "n0"}
        actions = [
            {"type": "block-dirty-bitmap-add", "data": {**node, "name": "new",
                                                        "persistent": True}},
            {"type": "block-dirty-bitmap-clear", "data": {**node, "name": "b0"}},
            {"type": "block-dirty-bitmap-disable", "data": {**node, "name": "b0"}},
            {"type": "block-dirty-bitmap-remove", "data": {**node, "name": "b0"}},
        ]  # fmt: skip
        client.execute("transaction", actions=[*actions, {"type": "abort", "data": {}}])
        write(client.folder, "e", "write -P 1 1M 64k")
        client.execute("query-named-block-nodes", flat=True)
        client.execute("transaction", actions=actions[:3])
        write(client.folder, "e", "write -P 1 2M 64k")
        client.execute("block-export-add", **nbd_export("f", "n0", bitmaps=["b0"]))
        return maps(client.folder, "f", "b0")

    folders = both(tmp_path, made(tmp_path), act, (SYSTEM, OURS_AS_SYSTEM))
    same_images(folders, "top.qcow2")


def test_who_contradicts_whom(tmp_path):
    def act(client):
        add = client.execute
        add("nbd-server-start", addr=unix())
        add("blockdev-add", driver="file", node_name="f", filename="base.qcow2")
        add("blockdev-add", driver="qcow2", node_name="q1", file="f")
        add("blockdev-add", driver="qcow2", node_name="q2", file="f")
        add("blockdev-add", driver="qcow2", node_name="q3", file="f", read_only=True)
        add("blockdev-add", driver="raw", node_name="r1", file="f")
        add("block-export-add", **nbd_export("x", "r1", writable=True))
        add("block-export-add", **nbd_export("x", "r1"))
        add("block-export-add", **nbd_export("x", "f", writable=True))
        add("block-export-add", **nbd_export("x", "f"))
        add("blockdev-del", node_name="q1")
        add("block-export-add", **nbd_export("x", "r1"))
        add("blockdev-add", driver="qcow2", node_name="q1", file="f")
        add("blockdev-add", driver="qcow2", node_name="q3", file="f", read_only=True)
        add("block-export-add", **nbd_export("y", "r1", writable=True))
        add("blockdev-add", driver="file", node_name="d", filename="disk.raw")
        add("block-export-add", **nbd_export("z", "d", writable=True))
        add("blockdev-add", driver="qcow2", node_name="qd", file="d")
        add("blockdev-add", driver="file", node_name="ro", filename="disk.raw", read_only=True)
        add("blockdev-add", driver="raw", node_name="rr", file="ro")
        add("blockdev-add", driver="qcow2", node_name="rq", file="ro")
        add("block-export-add", **nbd_export("w", "rr", writable=True))
        add("block-export-add", **nbd_export("w", "none", writable=True, iothread="t"))
        add("block-export-add", **nbd_export("w", "f", writable=True, iothread="t"))
        add("block-export-add", **nbd_export("w", "ro", writable=True))
        add("nbd-server-stop")
        add("block-export-add", **nbd_export("w", "f", writable=True))
        add("block-export-add", **nbd_export("w", "f"))
        add("blockdev-add", **writable("base.qcow2", "again"))

    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(MiB))
    both(tmp_path, [*made(tmp_path), raw], act)


def test_a_raw_disk_is_written(tmp_path):
    def act(client):
        client.execute("blockdev-add", driver="raw", node_name="r", offset=MiB, size=MiB,
                       discard="unmap", file={"driver": "file", "filename": "disk.raw",
                                              "discard": "unmap"})  # fmt: skip
        client.execute("block-dirty-bitmap-add", node="r", name="b", granularity=512)
        client.execute("nbd-server-start", addr=unix())
        client.execute("block-export-add", **nbd_export("e", "r", writable=True, bitmaps=["b"]))
        write(client.folder, "e", "write -P 7 1000 3000", "discard 512k 64k", "write -z 900k 4k")
        return maps(client.folder, "e", "b"), nbdinfo_map(
            uri(client.folder, "e"), "base:allocation"
        )

    raw = tmp_path / "disk.raw"
    raw.write_bytes(random.Random(3).randbytes(3 * MiB))
    folders = both(tmp_path, [raw], act)
    found = [(folder / "disk.raw").read_bytes() for folder in folders]
    assert found[0] == found[1]
    assert found[0] != raw.read_bytes()
