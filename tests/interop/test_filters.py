"""Filters and images that are made, beside QEMU 7.2: which requests fail, and what files hold."""

from __future__ import annotations

import json
import re

import pytest
from monitors import DAEMON, OURS, monitor, unix
from peers import nbdinfo_map, run

pytestmark = pytest.mark.interop

MiB = 1 << 20
RATES = re.compile(r".* ops; .*\n")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    base, top, disk = (folder / name for name in ("base.qcow2", "top.qcow2", "disk.raw"))
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "4M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 300k", base)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", top, cwd=folder)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 8 64k 64k", top)
    disk.write_bytes(bytes(range(256)) * 4096)
    return [base, top, disk]


def file(name="top.qcow2", **more):
    return {"driver": "file", "filename": name, **more}


class Disk:
    """A monitor whose node ``n`` is exported."""

    def __init__(self, client):
        self.client = client

    def serve(self, **node):
        assert self.client.execute("blockdev-add", node_name="n", **node) == {}
        self.client.execute("nbd-server-start", addr=unix())
        self.client.execute("block-export-add", type="nbd", id="e", node_name="n", name="e",
                            writable=True)  # fmt: skip

    @property
    def uri(self):
        return f"nbd+unix:///e?socket={self.client.folder}/nbd.sock"

    def io(self, *commands):
        """Do each on a connection of its own: QEMU ends one on which a read fails half way."""
        told = []
        for command in commands:
            done = run("qemu-io", "-f", "raw", "-c", command, self.uri, check=False)
            told.append((command, RATES.sub("", done.stdout + done.stderr)))
        return told


def both(tmp_path, images, act):
    """Do the same with both programs; return what ``act`` found with each, and the folders."""
    found = []
    for program in (DAEMON, OURS):
        with monitor(program, tmp_path / program, *images) as client:
            seen = act(Disk(client))
            client.quit()
        found.append(seen)
    theirs, ours = found
    if isinstance(ours, list):
        for one, other in zip(theirs, ours, strict=True):
            assert other == one
    assert ours == theirs
    return ours


def facts(path):
    """Return what QEMU says of an image: its map, its faults, its length and its description."""
    told = json.loads(run("qemu-img", "map", "--output=json", path).stdout)
    for each in told:
        each.pop("offset", None)
    checked = json.loads(run("qemu-img", "check", "--output=json", path).stdout)
    described = json.loads(run("qemu-img", "info", "--output=json", path).stdout)
    for name in ("filename", "actual-size", "full-backing-filename", "dirty-flag", "children"):
        described.pop(name, None)
    described.get("format-specific", {}).get("data", {}).pop("data-file", None)
    wanted = ("check-errors", "allocated-clusters", "compressed-clusters", "corruptions", "leaks")
    return told, [checked.get(name) for name in wanted], described, path.stat().st_size


REQUESTS = (
    "read 0 64k", "read 64k 64k", "write 64k 64k", "write 200k 4k", "write 600k 4k", "flush",
    "write -z 320k 64k", "discard 64k 64k", "flush", "read 0 64k",
)  # fmt: skip
EVENTS = (
    "read_aio", "read_backing_aio", "write_aio", "cow_read", "cow_write", "l2_load", "l2_update",
    "refblock_update_part", "refblock_alloc", "cluster_alloc", "cluster_free",
    "cluster_alloc_space", "flush_to_os", "pwritev", "pwritev_zero", "pwritev_done",
)  # fmt: skip


@pytest.mark.parametrize("once", [False, True])
def test_the_same_requests_fail_after_each_step_of_qcow2(tmp_path, images, once):
    # one of a few images at a time: a process has as many exports as one likes
    def act(disk):
        disk.client.execute("nbd-server-start", addr=unix())
        told = {}
        for event in EVENTS:
            name = event.replace("_", "-")
            copy = disk.client.folder / f"{name}.qcow2"
            copy.write_bytes((disk.client.folder / "top.qcow2").read_bytes())
            rule = {"event": event, "once": once}
            image = {"driver": "blkdebug", "image": file(copy.name), "inject-error": [rule]}
            disk.client.execute("blockdev-add", driver="qcow2", node_name=name, file=image)
            disk.client.execute("block-export-add", type="nbd", id=name, node_name=name,
                                name=name, writable=True)  # fmt: skip
            uri = f"nbd+unix:///{name}?socket={disk.client.folder}/nbd.sock"
            ended = [
                run("qemu-io", "-f", "raw", "-c", command, uri, check=False) for command in REQUESTS
            ]
            told[event] = [
                (each.returncode, RATES.sub("", each.stdout + each.stderr)) for each in ended
            ]
        return told

    told = both(tmp_path, images, act)
    failed = {event: sum(status for status, _ in ended) for event, ended in told.items()}
    assert failed["write_aio"] >= (1 if once else 3)
    assert failed["l2_load"] >= 1


@pytest.mark.parametrize(
    "rule",
    [
        {"event": "none", "iotype": "write-zeroes"},
        {"event": "none", "iotype": "discard"},
        {"event": "none", "iotype": "read", "sector": 129},
        {"event": "pwritev", "errno": 28, "once": True},
    ],
)
def test_the_same_kinds_of_requests_fail(tmp_path, images, rule):
    def act(disk):
        disk.serve(driver="blkdebug", image=file("disk.raw"), discard="unmap",
                   **{"inject-error": [rule], "opt-write-zero": 65536})  # fmt: skip
        return disk.io("write 0 512", "read 64k 512", "read 63k 2k", "write -z 1k 128k",
                       "write -z 512 512", "discard 0 64k", "write 0 64k")  # fmt: skip

    assert any("failed" in text for _, text in both(tmp_path, images, act))


def test_what_is_written_compressed_is_what_qemu_reads(tmp_path, images):
    def act(disk):
        disk.serve(driver="compress", file={"driver": "qcow2", "file": file()})
        told = disk.io("write -P 5 512k 192k", "write -P 6 1000k 10k", "write 64k 64k",
                       "read -P 5 512k 192k", "read -P 6 1000k 10k", "write 512k 64k",
                       "discard 512k 64k", "write -z 576k 64k")  # fmt: skip
        disk.client.execute("block-export-del", id="e")
        disk.client.execute("nbd-server-stop")
        disk.client.execute("blockdev-del", node_name="n")
        return told, facts(disk.client.folder / "top.qcow2")[:3]

    _, (_, checked, _) = both(tmp_path, images, act)
    assert checked[2] >= 2
    assert run("qemu-img", "compare", tmp_path / DAEMON / "top.qcow2",
               tmp_path / OURS / "top.qcow2")  # fmt: skip


def test_a_backup_is_compressed(tmp_path, images):
    def act(disk):
        client = disk.client
        path = client.folder / "copy.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
        client.execute("blockdev-add", driver="qcow2", node_name="s", file=file())
        client.execute("blockdev-add", driver="qcow2", node_name="t", file=file(path.name))
        client.execute("blockdev-backup", job_id="j", device="s", target="t", sync="full",
                       compress=True)  # fmt: skip
        client.wait_for("BLOCK_JOB_COMPLETED", 1)
        for node in ("t", "s"):
            client.execute("blockdev-del", node_name=node)
        return facts(path)[:3]

    _, checked, _ = both(tmp_path, images, act)
    assert checked[2] == 5
    run("qemu-img", "compare", tmp_path / OURS / "copy.qcow2", tmp_path / OURS / "top.qcow2")


def test_what_was_read_is_kept(tmp_path, images):
    def act(disk):
        backing = {"driver": "qcow2", "file": file("base.qcow2"), "node-name": "b"}
        disk.serve(driver="copy-on-read", file={"driver": "qcow2", "file": file(),
                                                "backing": backing})  # fmt: skip
        told = disk.io("read -P 7 0 4k", "read -P 8 64k 4k", "read -P 7 200k 70k", "write 0 512")
        disk.client.execute("block-export-del", id="e")
        disk.client.execute("blockdev-del", node_name="n")
        return told, facts(disk.client.folder / "top.qcow2")[:2]

    both(tmp_path, images, act)


@pytest.mark.parametrize("options", ["cluster_size=64k", "extended_l2=on", "cluster_size=4k"])
@pytest.mark.parametrize("backing", [False, True])
def test_a_part_of_a_new_cluster_is_written_as_qemu_does(tmp_path, images, options, backing):
    def act(disk):
        path = disk.client.folder / "new.qcow2"
        below = ["-b", "base.qcow2", "-F", "qcow2"] if backing else []
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *below, path, "4M",
            cwd=disk.client.folder)  # fmt: skip
        disk.serve(driver="qcow2", file=file(path.name))
        told = disk.io("write -P 1 1M 512", "write -P 2 1700k 100k", "write -P 3 100k 5k",
                       "write -P 4 3000k 1M", "write -P 5 310k 1k")  # fmt: skip
        told.append(nbdinfo_map(disk.uri, "base:allocation"))
        disk.client.execute("block-export-del", id="e")
        disk.client.execute("blockdev-del", node_name="n")
        return told, facts(path)[:2]

    both(tmp_path, images, act)


PLANS = (
    {},
    {"version": "v2"},
    {"backing-file": "base.qcow2", "backing-fmt": "qcow2"},
    {"cluster-size": 512, "size": 512 * MiB, "refcount-bits": 64},
    {"cluster-size": 2 * MiB, "refcount-bits": 1, "lazy-refcounts": True,
     "preallocation": "metadata"},
    {"extended-l2": True, "compression-type": "zstd"},
    {"size": 4 * MiB, "preallocation": "falloc"},
    {"size": 4 * MiB, "preallocation": "full"},
    {"size": 4 * MiB, "data-file": None, "data-file-raw": True},
    {"size": 100},
    {"size": 1 << 60},
    {"size": (1 << 64) - 512},
    {"version": "v2", "refcount-bits": 8},
    {"cluster-size": 1000},
    {"refcount-bits": 0},
    {"data-file-raw": True},
    {"backing-fmt": "raw"},
    {"backing-file": "x", "preallocation": "full"},
)  # fmt: skip


def concluded(client):
    """Return how many jobs have ended so far."""
    told = client.events("JOB_STATUS_CHANGE")
    return sum(each["status"] == "concluded" for each in told)


def test_images_are_made_alike(tmp_path, images):
    def act(disk):
        client, found, made = disk.client, [], []

        def create(**options):
            client.execute("blockdev-create", job_id="j", options=options)
            made.append(options)
            while concluded(client) < len(made):
                client.take()
            found.append(client.execute("query-jobs"))
            found.append(client.execute("query-block-jobs"))
            client.execute("job-dismiss", id="j")

        path = client.folder / "new.qcow2"
        for plan in PLANS:
            path.unlink(missing_ok=True)
            create(driver="file", filename=path.name, size=0)
            if "data-file" in plan:
                plan = {**plan, "data-file": file(str(client.folder / "disk.raw"))}
            create(driver="qcow2", **{"file": file(path.name), "size": 64 * MiB, **plan})
            if "error" not in found[-2][0]:
                found.append(facts(path))
        create(driver="qcow2", file="none", size=512)
        create(driver="file", filename="none/none", size=512)
        create(driver="file", filename="f", size=3 * MiB, preallocation="falloc")
        create(driver="file", filename="f", size=1000)
        client.execute("blockdev-create", job_id="1", options={
            "driver": "file", "filename": "f", "size": 1})  # fmt: skip
        client.execute("blockdev-create", job_id="j", options={"driver": "raw"})
        events = [each for each in client.log if "event" in each]
        return [*found, events, (client.folder / "f").stat().st_size]

    *found, events, _ = both(tmp_path, images, act)
    assert sum(isinstance(each, tuple) for each in found) == 9
    assert len(events) >= 200


def test_disks_grow_alike(tmp_path, images):
    def act(disk):
        client = disk.client
        client.execute("blockdev-add", driver="qcow2", node_name="n", file=file())
        client.execute("block-dirty-bitmap-add", node="n", name="b", persistent=True)
        told = [client.execute("block_resize", node_name="n", size=size)
                for size in (6 * MiB, 600 * MiB, 1 << 60, 700 * MiB + 1)]  # fmt: skip
        client.execute("nbd-server-start", addr=unix())
        client.execute("block-export-add", type="nbd", id="e", node_name="n", name="e",
                       writable=True)  # fmt: skip
        told += disk.io("read -P 7 0 64k", "read -P 0 4M 2M", "write -P 9 590M 1M")
        client.execute("block-export-del", id="e")
        client.execute("blockdev-del", node_name="n")
        return told, facts(client.folder / "top.qcow2")[:3]

    both(tmp_path, images, act)


def test_an_image_goes_on_in_another_node(tmp_path, images):
    def act(disk):
        client = disk.client
        client.execute("blockdev-add", driver="qcow2", node_name="q", file=file(**{
            "node-name": "f"}))  # fmt: skip
        client.execute("block-dirty-bitmap-add", node="q", name="b", persistent=True)
        client.execute("blockdev-add", driver="raw", node_name="r", file="f")
        told = [client.execute("blockdev-reopen", options=[
            {"driver": "qcow2", "node-name": "q", "file": "r", "backing": None}])]  # fmt: skip
        client.execute("nbd-server-start", addr=unix())
        client.execute("block-export-add", type="nbd", id="e", node_name="q", name="e",
                       writable=True)  # fmt: skip
        told += disk.io("read -P 8 64k 64k", "write -P 9 64k 64k", "read -P 9 64k 64k")
        told.append(client.execute("x-debug-block-dirty-bitmap-sha256", node="q", name="b"))
        client.execute("block-export-del", id="e")
        client.execute("blockdev-del", node_name="q")
        return told, facts(client.folder / "top.qcow2")[:2]

    told, _ = both(tmp_path, images, act)
    assert told[0] == {}
