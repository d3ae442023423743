"""Commits, streams, mirrors, overlays and backups to images: the emulator beside QEMU."""

from __future__ import annotations

import itertools
import json

import pytest
from job_play import both, digest, guest, null, until, until_pending, writable
from monitors import OURS_AS_SYSTEM, monitor, unix
from peers import run

pytestmark = pytest.mark.interop

WRITTEN = {
    "base": ("write -P 1 0 2M",),
    "mid": ("write -P 2 1M 1M",),
    "top": ("write -P 3 3M 512k", "write -z 2M 64k"),
    "dst": (),
}
GROUPED = {"completion-mode": "grouped"}


@pytest.fixture
def images(tmp_path):
    below = None
    made = []
    for name, commands in WRITTEN.items():
        path = tmp_path / f"{name}.qcow2"
        backing = ["-b", f"{below}.qcow2", "-F", "qcow2"] if below and name != "dst" else []
        run("qemu-img", "create", "-q", "-f", "qcow2", *backing, path,
            *([] if backing else ["4M"]), cwd=tmp_path)  # fmt: skip
        if commands:
            words = [word for command in commands for word in ("-c", command)]
            run("qemu-io", "-f", "qcow2", *words, path)
        below = name
        made.append(path)
    return made


def chain(client):
    """Open the three images of the chain, the top one for writing."""
    add = client.execute
    for name, backing in (("base", None), ("mid", "base")):
        words = writable(f"{name}.qcow2", name, **({"backing": backing} if backing else {}))
        add("blockdev-add", **{**words, "read_only": True})
    add("blockdev-add", **writable("top.qcow2", "top", backing="mid"))


def nodes(client):
    client.execute("query-named-block-nodes", flat=True)


def jobs(client):
    client.execute("query-jobs")
    client.execute("query-block-jobs")


def ready(client, count=1):
    client.wait_for("BLOCK_JOB_READY", count)


def start(client, kind, **more):
    """Start a job, of ``top`` unless something else is said."""
    words = {"job_id": "j", "device": "top", **more}
    return client.execute(kind, **words)


def seen(client, *names):
    """Return what is in images after the process, or others, have let them go."""
    found = []
    for name in names:
        path = client.folder / (name if "." in name else f"{name}.qcow2")
        shown = json.loads(run("qemu-img", "info", "--output=json", path, cwd=client.folder).stdout)
        found.append((digest(path.name, client.folder), shown.get("backing-filename"),
                      shown.get("backing-filename-format")))  # fmt: skip
        assert "No errors" in run("qemu-img", "check", path, cwd=client.folder).stdout
    return found


# Commits


def test_what_a_commit_refuses(tmp_path, images):
    def act(client):
        chain(client)
        null(client, "n")
        for more in (
            {"device": "x"}, {"device": "mid"}, {"top_node": "base"}, {"top_node": "n"},
            {"top_node": "zz"}, {"base_node": "zz"}, {"base_node": "n"}, {"base_node": "top"},
            {"top_node": "mid", "base_node": "mid"}, {"top_node": "mid", "base_node": "top"},
            {"top": "x"}, {"top": "mid.qcow2", "base": "x"}, {"top": "a", "top_node": "b"},
            {"base": "a", "base_node": "b"}, {"backing_file": "x"}, {"device": "n"},
            {"speed": -1, "top_node": "mid"}, {"speed": -1}, {"job_id": ""},
            {"job_id": "", "top_node": "mid"}, {"filter_node_name": "top"},
            {"filter_node_name": "1", "top_node": "mid"}, {"job_id": "1"},
            {"on_error": "x"},
        ):  # fmt: skip
            start(client, "block-commit", **more)
        nodes(client)
        client.execute("nbd-server-start", addr=unix())
        client.execute("block-export-add", type="nbd", id="m", node_name="mid", name="m")
        start(client, "block-commit")
        start(client, "block-commit", top_node="mid")
        until(client, "j", "null")
        client.execute("query-block-exports")
        nodes(client)

    both(tmp_path, images, act)


def test_images_go_down_while_the_disk_is_used(tmp_path, images):
    def act(client):
        chain(client)
        client.execute("block-dirty-bitmap-add", node="mid", name="m")
        client.execute("block-dirty-bitmap-add", node="top", name="t", persistent=True)
        write = guest(client, "top")
        start(client, "block-commit", top_node="mid", auto_dismiss=False, auto_finalize=False,
              filter_node_name="flt")  # fmt: skip
        until_pending(client, "j")
        jobs(client)
        nodes(client)
        write("write -P 7 100k 70k")
        for node in ("flt", "top", "mid", "base"):
            client.execute("blockdev-del", node_name=node)
            client.execute("change-backing-file", device=node, image_node_name="mid",
                           backing_file="x")  # fmt: skip
            client.execute("blockdev-snapshot", node=node, overlay="x")
            start(client, "block-commit", job_id="k", device=node)
            start(client, "block-stream", job_id="k", device=node)
        client.execute("job-finalize", id="j")
        jobs(client)
        nodes(client)
        client.execute("blockdev-del", node_name="mid")
        client.execute("blockdev-del", node_name="base")
        client.execute("job-dismiss", id="j")
        client.execute("blockdev-del", node_name="mid")
        client.execute("blockdev-del", node_name="base")
        write("write -P 8 1M 70k")
        nodes(client)
        client.execute("nbd-server-stop")
        client.execute("blockdev-del", node_name="top")
        return seen(client, "base", "top")

    both(tmp_path, images, act)


def test_a_commit_that_is_cancelled_leaves_the_chain(tmp_path, images):
    def act(client):
        chain(client)
        start(client, "block-commit", top_node="mid", auto_finalize=False, backing_file="name",
              base_node="base")  # fmt: skip
        until_pending(client, "j")
        client.execute("job-cancel", id="j")
        nodes(client)
        start(client, "block-commit", top_node="mid", backing_file="other")
        until(client, "j", "null")
        nodes(client)

    both(tmp_path, images, act)


def test_the_active_image_goes_down(tmp_path, images):
    def act(client):
        chain(client)
        client.execute("block-dirty-bitmap-add", node="base", name="b")
        client.execute("block-dirty-bitmap-add", node="top", name="t")
        write = guest(client, "top")
        write("write -P 7 100k 70k")
        start(client, "block-commit", auto_dismiss=False)
        ready(client)
        jobs(client)
        nodes(client)
        client.execute("job-pause", id="j")
        jobs(client)
        client.execute("block-job-complete", device="x")
        client.execute("job-resume", id="j")
        write("write -P 8 2M 130k", "write -z 3M 64k")
        client.execute("block-job-complete", device="j")
        until(client, "j", "concluded")
        nodes(client)
        client.execute("query-block-exports")
        write("write -P 9 2M 4k")
        for node, name in (("base", "b"), ("top", "t")):
            client.execute("x-debug-block-dirty-bitmap-sha256", node=node, name=name)
        for node in ("top", "mid", "base"):
            client.execute("blockdev-del", node_name=node)
        nodes(client)
        client.execute("nbd-server-stop")
        client.execute("blockdev-del", node_name="base")
        return seen(client, "base")

    both(tmp_path, images, act)


@pytest.mark.parametrize("driver", ["qcow2", "raw"])
@pytest.mark.parametrize("is_active", [False, True], ids=["between", "active"])
def test_a_base_that_is_shorter_grows(tmp_path, is_active, driver):
    images = [tmp_path / f"{name}.qcow2" for name in ("base", "mid", "top")]
    run("qemu-img", "create", "-q", "-f", driver, images[0], "1M")
    for below, image in itertools.pairwise(images):
        shape = driver if below.stem == "base" else "qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below.name, "-F", shape, image, "3M",
            cwd=tmp_path)  # fmt: skip
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 2M 64k", images[1])

    def act(client):
        words = {**writable("base.qcow2", "base"), "read_only": True, "driver": driver}
        client.execute("blockdev-add", **words)
        client.execute("blockdev-add", **writable("mid.qcow2", "mid", backing="base"))
        client.execute("blockdev-add", **writable("top.qcow2", "top", backing="mid"))
        start(client, "block-commit", **({} if is_active else {"top_node": "mid"}))
        if is_active:
            ready(client)
            client.execute("block-job-complete", device="j")
        until(client, "j", "null")
        nodes(client)
        client.execute("blockdev-del", node_name="top")
        client.execute("blockdev-del", node_name="mid")

    folders = both(tmp_path, images, act)
    assert digest("base.qcow2", folders[0]) == digest("base.qcow2", folders[1])


# Streams


def test_what_a_stream_refuses(tmp_path, images):
    def act(client):
        chain(client)
        null(client, "n")
        for more in (
            {"device": "x"}, {"base": "zz"}, {"base_node": "zz"}, {"base_node": "n"},
            {"base_node": "top"}, {"base": "a", "base_node": "b"}, {"base": "a", "bottom": "b"},
            {"base_node": "a", "bottom": "b"}, {"bottom": "zz"}, {"bottom": "n"},
            {"backing_file": "x"}, {"speed": -1}, {"job_id": ""}, {"filter_node_name": "mid"},
            {"filter_node_name": "mid", "job_id": "1"}, {"device": "mid", "job_id": ""},
        ):  # fmt: skip
            start(client, "block-stream", **more)
        nodes(client)

    both(tmp_path, images, act)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"base_node": "base"},
        {"base": "base.qcow2", "backing_file": "name"},
        {"bottom": "mid"},
        {"device": "mid"},
    ],
)
def test_data_come_up(tmp_path, images, more):
    def act(client):
        chain(client)
        client.execute("block-dirty-bitmap-add", node="top", name="t")
        write = guest(client, "top")
        start(client, "block-stream", auto_finalize=False, **more)
        until_pending(client, "j")
        jobs(client)
        nodes(client)
        write("write -P 7 2M 70k")
        client.execute("job-finalize", id="j")
        nodes(client)
        client.execute("x-debug-block-dirty-bitmap-sha256", node="top", name="t")
        client.execute("nbd-server-stop")
        for node in ("top", "mid", "base"):
            client.execute("blockdev-del", node_name=node)
        if more.get("backing_file"):
            return None
        shown = run("qemu-img", "map", "--output=json", client.folder / "top.qcow2").stdout
        return seen(client, "top", "mid"), [
            [each[key] for key in ("start", "length", "depth", "zero", "data")]
            for each in json.loads(shown)
        ]

    both(tmp_path, images, act)


# Mirrors


def test_what_a_mirror_refuses(tmp_path, images):
    def act(client):
        chain(client)
        client.execute("blockdev-add", **writable("dst.qcow2", "dst"))
        for more in (
            {"device": "x"}, {"target": "x"}, {"device": "mid"}, {"target": "top"},
            {"target": "mid"}, {"granularity": 1000}, {"granularity": 3},
            {"granularity": 1536}, {"granularity": 128 << 20}, {"buf_size": -1},
            {"sync": "incremental"}, {"sync": "bitmap"}, {"sync": "none", "speed": -1},
            {"job_id": "4"}, {"job_id": ""}, {"filter_node_name": "top"}, {"replaces": "zz"},
            {"replaces": "dst"}, {"replaces": "mid"}, {"copy_mode": "x"}, {"granularity": -1},
        ):  # fmt: skip
            start(client, "blockdev-mirror", **{"target": "dst", "sync": "full", **more})
        client.execute("nbd-server-start", addr=unix())
        for may_write in (True, False):
            client.execute("block-export-add", type="nbd", id="d", node_name="dst", name="d",
                           writable=may_write)  # fmt: skip
            start(client, "blockdev-mirror", target="dst", sync="full")
            client.execute("block-export-del", id="d")
            client.wait_for("BLOCK_EXPORT_DELETED", 2 - may_write)
        nodes(client)

    both(tmp_path, images, act)


@pytest.mark.parametrize("mode", ["background", "write-blocking"])
def test_a_mirror_follows_until_it_is_cancelled(tmp_path, images, mode):
    def act(client):
        chain(client)
        client.execute("blockdev-add", **writable("dst.qcow2", "dst"))
        write = guest(client, "top")
        words = {"target": "dst", "copy_mode": mode, "filter_node_name": "flt"}
        start(client, "blockdev-mirror", sync="full", **words)
        ready(client)
        jobs(client)
        nodes(client)
        for node in ("flt", "top", "dst"):
            client.execute("blockdev-del", node_name=node)
            client.execute("block-export-add", type="nbd", id="e", node_name=node, name=node)
            if node == "top":
                client.execute("block-export-del", id="e")
                client.wait_for("BLOCK_EXPORT_DELETED", 1)
        write("write -P 8 2M 130k", "write -z 3M 64k", "discard 0 64k")
        client.execute("block-job-cancel", device="j")
        until(client, "j", "null")
        nodes(client)
        found = digest("dst.qcow2", client.folder) if False else None
        start(client, "blockdev-mirror", sync="top", **words)
        ready(client, 2)
        client.execute("job-pause", id="j")
        client.execute("block-job-cancel", device="j")
        client.execute("block-job-cancel", device="j", force=True)
        until(client, "j", "null")
        nodes(client)
        start(client, "blockdev-mirror", sync="none", auto_finalize=False, **words)
        ready(client, 3)
        client.execute("block-job-cancel", device="j")
        until_pending(client, "j")
        client.execute("block-job-complete", device="j")
        client.execute("job-finalize", id="j")
        nodes(client)
        client.execute("nbd-server-stop")
        client.execute("blockdev-del", node_name="dst")
        client.execute("blockdev-del", node_name="top")
        return found, seen(client, "dst", "top")

    folders = both(tmp_path, images, act)
    for folder in folders:
        assert digest("dst.qcow2", folder) == digest("top.qcow2", folder)


def test_a_mirror_takes_the_place_of_its_source(tmp_path, images):
    def act(client):
        chain(client)
        client.execute("blockdev-add", **writable("dst.qcow2", "dst", discard="unmap"))
        client.execute("blockdev-add", driver="raw", node_name="r", file="top")
        write = guest(client, "r")
        start(client, "blockdev-mirror", device="r", target="dst", sync="full")
        ready(client)
        write("write -P 8 2M 130k", "write -z 3M 64k")
        client.execute("block-job-complete", device="j")
        until(client, "j", "null")
        client.execute("query-block-exports")
        nodes(client)
        write("write -P 3 0 64k")
        for node in ("r", "top", "dst"):
            client.execute("blockdev-del", node_name=node)
        client.execute("nbd-server-stop")
        client.execute("blockdev-del", node_name="dst")
        nodes(client)
        return seen(client, "dst")

    both(tmp_path, images, act)


def test_mirrors_that_are_images(tmp_path, images):
    def act(client):
        chain(client)
        words = {"target": "new.qcow2", "sync": "full"}
        for more in (
            {"device": "x"}, {"device": "mid"}, {"target": "/nonexistent/x"}, {"format": "foo"},
            {"mode": "existing"}, {"replaces": "x"}, {"replaces": "x", "node_name": "q"},
            {"node_name": "top"}, {"node_name": "1"}, {"sync": "incremental"},
            {"granularity": 3}, {"buf_size": -1}, {"job_id": "1"}, {"speed": -1},
            {"format": "raw", "sync": "top"},
        ):  # fmt: skip
            start(client, "drive-mirror", **{**words, **more})
        nodes(client)
        for number, sync in enumerate(("full", "top", "none"), 1):
            start(client, "drive-mirror", target=f"{sync}.new", sync=sync, node_name="m")
            ready(client, number)
            nodes(client)
            client.execute("block-job-complete", device="j")
            until(client, "j", "null")
            nodes(client)
        write = guest(client, "top")
        for number, sync in enumerate(("full", "top"), 4):
            top = {0: "top", 1: "m4"}[number - 4]
            start(client, "drive-mirror", device=top, target=f"{sync}.new", sync=sync,
                  node_name=f"m{number}", mode="existing")  # fmt: skip
            ready(client, number)
            write("write -P 9 64k 64k")
            client.execute("block-job-complete", device="j")
            until(client, "j", "null")
            nodes(client)
        client.execute("nbd-server-stop")
        client.execute("blockdev-del", node_name="top")
        nodes(client)
        return seen(client, "full.new", "none.new")

    both(tmp_path, images, act)


# Overlays


def test_what_an_overlay_must_be(tmp_path, images):
    def act(client):
        chain(client)
        words = {"node_name": "top", "snapshot_file": "new.qcow2", "snapshot_node_name": "new"}
        client.execute("blockdev-snapshot-sync", snapshot_file="x")
        client.execute("blockdev-snapshot-sync", node_name="top", snapshot_file="x")
        client.execute("blockdev-snapshot-sync", device="top", snapshot_file="x")
        for more in (
            {"node_name": "zz"}, {"snapshot_node_name": "mid"}, {"snapshot_node_name": "1"},
            {"format": "raw"}, {"format": "foo"}, {"format": "null-co"},
            {"snapshot_file": "/nonexistent/x"}, {"mode": "existing", "snapshot_file": "none"},
            {"mode": "existing", "snapshot_file": "base.qcow2"}, {"snapshot_file": "top.qcow2"},
            {"node_name": "mid"}, {"snapshot_file": "foo:bar"}, {"snapshot_file": "/tmp"},
            {"snapshot_file": ""},
        ):  # fmt: skip
            client.execute("blockdev-snapshot-sync", **{**words, **more})
        null(client, "n")
        client.execute("blockdev-add", **writable("dst.qcow2", "dst"))
        for node, overlay in (("x", "dst"), ("top", "x"), ("top", "mid"), ("top", "top"),
                              ("top", "n"), ("mid", "dst"), ("n", "dst"), ("n", "dst"),
                              ("dst", "n"), ("top", "dst")):  # fmt: skip
            client.execute("blockdev-snapshot", node=node, overlay=overlay)
        nodes(client)
        words = {"device": "top", "image_node_name": "mid", "backing_file": "x"}
        for more in (
            {"device": "x"}, {"device": "mid"}, {"image_node_name": "x"},
            {"image_node_name": "base"}, {"image_node_name": "dst"}, {},
            {"backing_file": "z" * 1000}, {"image_node_name": "top", "backing_file": ""},
        ):  # fmt: skip
            client.execute("change-backing-file", **{**words, **more})
        nodes(client)

    both(tmp_path, images, act)


def test_overlays_with_bitmaps_in_one_moment(tmp_path, images):
    def overlay(name, **more):
        data = {"node-name": "top", "snapshot-file": f"{name}.qcow2",
                "snapshot-node-name": name, **more}  # fmt: skip
        return {"type": "blockdev-snapshot-sync", "data": data}

    def bitmap(node, name):
        return {"type": "block-dirty-bitmap-add",
                "data": {"node": node, "name": name, "persistent": True}}  # fmt: skip

    def act(client):
        chain(client)
        write = guest(client, "top")
        client.execute("block-dirty-bitmap-add", node="top", name="b", persistent=True)
        write("write -P 5 0 64k")
        abort = {"type": "abort", "data": {}}
        do = client.execute
        do("transaction", actions=[overlay("t1"), bitmap("top", "c"), abort])
        nodes(client)
        do("transaction", actions=[bitmap("top", "c"), overlay("t1"), bitmap("top", "c")])
        do("transaction", actions=[overlay("t1")], properties=GROUPED)
        nodes(client)
        do("transaction", actions=[overlay("t1"), bitmap("t1", "c")])
        write("write -P 6 64k 64k")
        nodes(client)
        do("query-block-exports")
        for verb in ("clear", "disable", "remove"):
            do(f"block-dirty-bitmap-{verb}", node="top", name="b")
        do("blockdev-snapshot-sync", node_name="t1", snapshot_file="t2.qcow2",
           snapshot_node_name="t2")  # fmt: skip
        write("write -P 7 128k 64k")
        nodes(client)
        do("block-commit", job_id="j", device="t2", top_node="t1", base_node="top")
        until(client, "j", "null")
        nodes(client)
        for node, name in (("t1", "c"), ("top", "b")):
            do("x-debug-block-dirty-bitmap-sha256", node=node, name=name)
        do("block-stream", job_id="j", device="t2")
        until(client, "j", "null")
        nodes(client)
        do("blockdev-del", node_name="top")
        do("nbd-server-stop")
        nodes(client)
        return seen(client, "t2", "top")

    both(tmp_path, images, act)


# Backups to images


def test_what_a_backup_to_an_image_refuses(tmp_path, images):
    def act(client):
        chain(client)
        words = {"target": "new.qcow2", "sync": "full"}
        for more in (
            {"device": "x"}, {"target": "/nonexistent/x"}, {"format": "foo"},
            {"format": "null-co"}, {"mode": "existing", "target": "none"},
            {"mode": "existing", "target": "dst.qcow2", "format": "foo"},
            {"target": "top.qcow2"}, {"sync": "incremental"}, {"sync": "bitmap", "bitmap": "x"},
            {"job_id": "1"}, {"speed": -1}, {"format": "raw", "sync": "top"},
            {"format": "raw", "sync": "none"}, {"target": "foo:x"},
            {"filter_node_name": "top"}, {"device": "mid", "job_id": ""},
            {"target": "dst.qcow2", "mode": "existing", "format": "raw", "compress": True},
        ):  # fmt: skip
            start(client, "drive-backup", **{**words, **more})
        nodes(client)

    both(tmp_path, images, act)


def test_backups_to_images(tmp_path, images):
    def act(client):
        chain(client)
        write = guest(client, "top")
        client.execute("block-dirty-bitmap-add", node="top", name="b")
        write("write -P 5 64k 64k")
        for more in (
            {"sync": "full"}, {"sync": "top"}, {"sync": "full", "format": "raw"},
            {"sync": "full", "target": "dst.qcow2", "mode": "existing"},
            {"sync": "incremental", "bitmap": "b"},
            {"sync": "bitmap", "bitmap": "b", "bitmap_mode": "never"},
        ):  # fmt: skip
            words = {"target": f"{more['sync']}.new", "auto_finalize": False, **more}
            start(client, "drive-backup", **words)
            until_pending(client, "j")
            nodes(client)
            client.execute("job-finalize", id="j")
            nodes(client)
        start(client, "drive-backup", sync="none", target="none.qcow2", auto_dismiss=False)
        write("write -P 6 128k 64k")
        jobs(client)
        nodes(client)
        client.execute("block-job-cancel", device="j")
        nodes(client)
        client.execute("job-dismiss", id="j")

        def action(number, **more):
            data = {"job-id": f"j{number}", "device": "top", "target": f"t{number}.qcow2",
                    "sync": "full", "auto-finalize": False, **more}  # fmt: skip
            return {"type": "drive-backup", "data": data}

        abort = {"type": "abort", "data": {}}
        client.execute("transaction", actions=[action(1), abort])
        nodes(client)
        client.execute("transaction", actions=[action(2, bitmap="b", sync="incremental")],
                       properties=GROUPED)  # fmt: skip
        until_pending(client, "j2")
        client.execute("job-finalize", id="j2")
        nodes(client)
        client.execute("nbd-server-stop")
        client.execute("blockdev-del", node_name="top")
        return seen(client, "top", "dst", "t2")

    both(tmp_path, images, act)


@pytest.mark.parametrize("release", ["2.12", "3.1", "4.1", "5.0", "8.2", "11.0"])
def test_the_jobs_of_other_releases(tmp_path, images, release):
    """What they take differs; what they do to the images is the same."""
    with monitor(OURS_AS_SYSTEM, tmp_path / "run", *images, release=release) as client:
        client.execute("blockdev-add", **writable("top.qcow2", "top"))
        client.execute("block-dirty-bitmap-add", node="top", name="b")
        client.log.clear()
        assert start(client, "drive-backup", target="full.new", sync="full") == {}
        client.wait_for("BLOCK_JOB_COMPLETED", 1)
        increment = {"target": "inc.new", "sync": "incremental", "bitmap": "b"}
        assert start(client, "drive-backup", **increment) == {}
        client.wait_for("BLOCK_JOB_COMPLETED", 2)
        assert start(client, "block-commit", top="mid.qcow2") == {}
        client.wait_for("BLOCK_JOB_COMPLETED", 3)
        assert start(client, "drive-mirror", target="mirror.new", sync="full") == {}
        ready(client)
        assert client.execute("block-job-complete", device="j") == {}
        client.wait_for("BLOCK_JOB_COMPLETED", 4)
        told = client.events("BLOCK_JOB_COMPLETED")
        assert [each["type"] for each in told] == ["backup", "backup", "commit", "mirror"]
        assert all("error" not in each for each in told)
        client.quit()
    found = {digest(name, tmp_path / "run") for name in ("top.qcow2", "full.new", "mirror.new")}
    assert len(found) == 1
    backing = run("qemu-img", "info", tmp_path / "run" / "top.qcow2").stdout
    assert "backing file: base.qcow2" in backing


# The end of the process


@pytest.mark.parametrize(
    ("kind", "more", "status"),
    [
        ("blockdev-mirror", {"target": "dst", "sync": "full"}, "ready"),
        ("block-commit", {}, "ready"),
        ("block-stream", {"auto_finalize": False}, "pending"),
        ("block-commit", {"top_node": "mid", "auto_finalize": False}, "pending"),
    ],
)
def test_a_process_ends_in_the_middle_of_a_job(tmp_path, images, kind, more, status):
    def act(client):
        chain(client)
        client.execute("blockdev-add", **writable("dst.qcow2", "dst"))
        start(client, kind, **more)
        until(client, "j", status)
        if status == "ready":
            ready(client)

    folders = both(tmp_path, images, act)
    for folder in folders:
        assert digest("top.qcow2", folder) == digest("top.qcow2", tmp_path)


def test_a_mirror_that_waits_to_be_finalized_holds_its_disk(tmp_path, images):
    def act(client):
        chain(client)
        start(client, "drive-mirror", target="x.new", sync="full", auto_finalize=False,
              auto_dismiss=False)  # fmt: skip
        ready(client)
        client.execute("block-job-complete", device="j")
        until_pending(client, "j")
        jobs(client)
        client.execute("job-cancel", id="j")
        until(client, "j", "concluded")
        jobs(client)
        nodes(client)
        client.execute("block-job-dismiss", id="j")

    both(tmp_path, images, act)
