"""Jobs and the disks they work at: every reply and event of the emulator beside QEMU's."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
from monitors import OURS_AS_SYSTEM, SYSTEM, monitor, qcow2, unix
from peers import background, peer, run
from told import masked

pytestmark = pytest.mark.interop

MiB = 1 << 20
SIZE = 4 * MiB


@pytest.fixture
def images(tmp_path):
    source, target = tmp_path / "src.qcow2", tmp_path / "dst.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", source, str(SIZE))
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 2M", "-c", "write -P 8 3M 10k", source)
    run("qemu-img", "create", "-q", "-f", "qcow2", target, str(SIZE))
    return [source, target]


def both(tmp_path, images, act):
    """Do the same with both programs; compare what they told and what was seen."""
    found = []
    for program in (SYSTEM, OURS_AS_SYSTEM):
        with monitor(program, tmp_path / program, *images) as client:
            seen = act(client)
            client.quit()
            found.append((masked(client.log), seen))
    for theirs, ours in zip(found[0][0], found[1][0], strict=True):
        assert ours == theirs
    assert found[1][1] == found[0][1]
    return [tmp_path / program for program in (SYSTEM, OURS_AS_SYSTEM)]


def null(client, *names, **more):
    for name in names:
        client.execute("blockdev-add", driver="null-co", node_name=name, size=SIZE, **more)


def writable(name, node, **more):
    return qcow2(name, read_only=False, node_name=node, **more)


def backup(client, **more):
    words = {"job_id": "j", "device": "n1", "target": "n2", "sync": "none", **more}
    return client.execute("blockdev-backup", **words)


def action(job, target, **more):
    data = {"job-id": job, "device": "s", "target": target, "sync": "none", **more}
    return {"type": "blockdev-backup", "data": data}


def until(client, job, status):
    """Take events until a job has come to a state since it was created."""

    def come():
        told = [each.get("data") for each in client.log]
        created = len(told) - told[::-1].index({"id": job, "status": "created"})
        return {"id": job, "status": status} in told[created:]

    while not come():
        client.take()


def until_pending(client, job):
    """Take events until a job waits to be finalized."""
    until(client, job, "pending")
    while client.log[-1].get("data") == {"id": job, "status": "pending"}:
        client.take()


def until_told(client, job, status, times):
    """Take events until a job has been told to have come to a state so many times."""
    while [each.get("data") for each in client.log].count({"id": job, "status": status}) < times:
        client.take()


def guest(client, node="s"):
    """Let the disk be written, and return what does that."""
    client.execute("nbd-server-start", addr=unix())
    client.execute("block-export-add", type="nbd", id="g", node_name=node, name="g", writable=True)
    where = f"nbd+unix:///g?socket={client.folder}/nbd.sock"

    def write(*commands):
        words = [word for command in commands for word in ("-c", command)]
        run("qemu-io", "-f", "raw", *words, where)

    return write


def look(client):
    client.execute("query-jobs")
    client.execute("query-block-jobs")
    client.execute("query-named-block-nodes", flat=True)


def digest(image, folder):
    raw = folder / "compared.raw"
    run("qemu-img", "convert", "-O", "raw", folder / image, raw)
    return hashlib.sha256(raw.read_bytes()).hexdigest()


def test_a_job_is_paused_resumed_cancelled_and_dismissed(tmp_path):
    def act(client):
        null(client, "n1", "n2")
        backup(client, auto_finalize=False, auto_dismiss=False, filter_node_name="flt")
        look(client)
        for command in ("pause", "pause", "complete", "finalize", "dismiss", "resume", "resume"):
            client.execute(f"job-{command}", id="j")
            client.execute("query-block-jobs")
        for command in ("pause", "pause", "complete", "cancel", "resume", "resume"):
            client.execute(f"block-job-{command}", device="j")
        for speed in (-1, 1000, 0):
            client.execute("block-job-set-speed", device="j", speed=speed)
            client.execute("query-block-jobs")
        client.execute("block-job-cancel", device="j")
        look(client)
        for command in ("pause", "cancel", "finalize", "complete", "resume"):
            client.execute(f"job-{command}", id="j")
        client.execute("block-job-set-speed", device="j", speed=1)
        client.execute("block-job-dismiss", id="j")
        look(client)
        backup(client)
        client.execute("block-job-pause", device="j")
        client.execute("block-job-cancel", device="j", force=False)
        client.execute("block-job-cancel", device="j", force=True)
        backup(client)
        client.execute("job-pause", id="j")
        client.execute("transaction", actions=[])
        client.execute("job-cancel", id="j")

    both(tmp_path, [], act)


def test_a_job_that_does_not_exist(tmp_path):
    def act(client):
        for command in ("pause", "resume", "cancel", "complete", "dismiss", "finalize"):
            client.execute(f"job-{command}", id="x")
            member = "id" if command in {"dismiss", "finalize"} else "device"
            client.execute(f"block-job-{command}", **{member: "x"})
        client.execute("block-job-set-speed", device="x", speed=-1)

    both(tmp_path, [], act)


def test_what_a_backup_refuses(tmp_path, images):
    def act(client):
        null(client, "n1", "n2", "n3")
        null(client, "ro", read_only=True)
        client.execute("blockdev-add", driver="null-co", node_name="big", size=2 * SIZE)
        client.execute("blockdev-add", **writable("dst.qcow2", "q"))
        client.execute("block-dirty-bitmap-add", node="n1", name="b")
        for more in (
            {"device": "nope"},
            {"target": "nope"},
            {"target": "n1"},
            {"target": "big"},
            {"target": "ro"},
            {"compress": True},
            {"sync": "incremental"},
            {"sync": "bitmap"},
            {"sync": "incremental", "bitmap_mode": "never"},
            {"sync": "incremental", "bitmap": "x", "bitmap_mode": "never"},
            {"sync": "incremental", "bitmap": "x"},
            {"sync": "bitmap", "bitmap": "b"},
            {"bitmap": "b", "bitmap_mode": "always"},
            {"bitmap": "b"},
            {"sync": "full", "bitmap": "b", "bitmap_mode": "never"},
            {"sync": "full", "bitmap_mode": "never"},
            {"x_perf": {"max-workers": 0}},
            {"x_perf": {"max-workers": 1 << 31}},
            {"x_perf": {"max-chunk": -1}},
            {"x_perf": {"max-chunk": 1}},
            {"job_id": "1j"},
            {"job_id": ""},
            {"speed": -1},
            {"filter_node_name": "1x"},
            {"filter_node_name": "n3"},
            {"filter_node_name": "f" * 40},
        ):
            backup(client, **more)
        client.execute("blockdev-backup", device="n1", target="n2", sync="none")
        look(client)
        backup(client, filter_node_name="flt")
        for more in (
            {"target": "n3"},
            {"job_id": "k"},
            {"job_id": "k", "device": "flt", "target": "n3"},
            {"job_id": "k", "device": "n2", "target": "n3"},
            {"job_id": "k", "device": "n3", "target": "n2"},
            {"job_id": "k", "device": "n3", "target": "q", "filter_node_name": "flt"},
        ):
            backup(client, **more)
        look(client)

    both(tmp_path, images, act)


def test_who_may_use_the_nodes_of_a_job(tmp_path, images):
    def act(client):
        null(client, "n1", "n2")
        client.execute("blockdev-add", **writable("src.qcow2", "s"))
        client.execute("blockdev-add", **writable("dst.qcow2", "t", backing="s"))
        guest(client)
        backup(client, device="s", target="t", filter_node_name="flt")
        client.execute("query-block-exports")
        null(client, "n4")
        client.execute("blockdev-del", node_name="n4")
        for command in ("add", "disable", "enable", "clear", "remove"):
            client.execute(f"block-dirty-bitmap-{command}", node="s", name="c")
        client.execute("block-dirty-bitmap-add", node="flt", name="c")
        client.execute("transaction", actions=[])
        for node, name in (("t", "t"), ("s", "t"), ("s", "s"), ("flt", "f")):
            for may_write in (True, False):
                client.execute("block-export-add", type="nbd", id=name, node_name=node, name=name,
                               writable=may_write)  # fmt: skip
        client.execute("block-export-del", id="f")
        client.execute("blockdev-add", driver="raw", node_name="r", file="s", read_only=True)
        client.execute("blockdev-add", driver="raw", node_name="r2", file="flt", read_only=True)
        client.execute("blockdev-add", driver="raw", node_name="r3", file="s")
        for node in ("flt", "s", "t", "r", "r2", "r3"):
            client.execute("blockdev-del", node_name=node)
        look(client)
        backup(client, job_id="k", device="n1", target="n2")
        client.execute("job-cancel", id="j")
        client.execute("query-block-exports")
        look(client)
        client.execute("nbd-server-stop")
        for node in ("t", "s", "n2", "n1"):
            client.execute("blockdev-del", node_name=node)

    both(tmp_path, images, act)


def test_two_jobs_at_one_source(tmp_path):
    def act(client):
        null(client, "n1", "n2", "n3")
        for first, second in (("j", "k"), ("k", "j")):
            backup(client)
            backup(client, job_id="k", target="n3")
            look(client)
            client.execute("job-cancel", id=first)
            client.execute("job-cancel", id=second)
        backup(client)
        backup(client, job_id="k", target="n3")

    both(tmp_path, [], act)


def test_a_full_backup_and_an_incremental_one_after_it(tmp_path, images):
    def act(client):
        client.execute("blockdev-add", **writable("src.qcow2", "s"))
        client.execute("blockdev-add", **writable("dst.qcow2", "t"))
        write = guest(client)
        backup(client, device="s", target="t", sync="full")
        until(client, "j", "null")
        client.execute("block-dirty-bitmap-add", node="s", name="b")
        client.execute("block-dirty-bitmap-add", node="s", name="later")
        write("write -P 1 100k 70k", "write -z 1M 64k", "write -P 3 4090k 6k")
        backup(client, device="s", target="t", sync="incremental", bitmap="b",
               auto_finalize=False, auto_dismiss=False)  # fmt: skip
        until_pending(client, "j")
        look(client)
        write("write -P 4 2M 64k")
        look(client)
        for command in ("clear", "disable", "remove"):
            client.execute(f"block-dirty-bitmap-{command}", node="s", name="b")
        client.execute("block-export-add", type="nbd", id="b", node_name="s", bitmaps=["b"])
        null(client, "n2")
        backup(client, job_id="k", device="s", sync="incremental", bitmap="b")
        client.execute("job-finalize", id="j")
        look(client)
        client.execute("block-job-dismiss", id="j")
        backup(client, device="s", target="t", sync="incremental", bitmap="b")
        until(client, "j", "null")
        look(client)
        client.execute("nbd-server-stop")
        client.execute("blockdev-del", node_name="t")
        client.execute("blockdev-del", node_name="s")
        return digest("src.qcow2", client.folder), digest("dst.qcow2", client.folder)

    folders = both(tmp_path, images, act)
    for folder in folders:
        assert digest("src.qcow2", folder) == digest("dst.qcow2", folder)


@pytest.mark.parametrize(("chunk", "copied"), [(131072, 131072), (100_000, 131072), (0, MiB)])
def test_the_pieces_in_which_a_slow_job_copies(tmp_path, images, chunk, copied):
    def act(client):
        client.execute("blockdev-add", **writable("src.qcow2", "s"))
        null(client, "n2")
        backup(client, device="s", sync="full", speed=1000, x_perf={"max-chunk": chunk})
        while client.execute("query-block-jobs")[0]["offset"] < copied:
            del client.log[-1]
        client.execute("job-cancel", id="j")

    both(tmp_path, images, act)


@pytest.mark.parametrize("mode", ["never", "on-success", "always"])
def test_what_a_bitmap_says_after_its_backup(tmp_path, images, mode):
    def act(client):
        client.execute("blockdev-add", **writable("src.qcow2", "s"))
        null(client, "n2")
        client.execute("block-dirty-bitmap-add", node="s", name="b", granularity=4096)
        client.execute("block-dirty-bitmap-add", node="s", name="off", disabled=True)
        write = guest(client)
        words = {"device": "s", "bitmap": "b", "bitmap_mode": mode}
        for ending in ("cancel", "finalize"):
            write("write -P 1 100k 70k")
            backup(client, sync="bitmap", auto_finalize=False, **words)
            until_pending(client, "j")
            write("write -P 1 1M 70k")
            client.execute(f"job-{ending}", id="j")
            look(client)
        # One that is cancelled in the middle: a MiB is copied, then nothing for a long time.
        write("write -P 1 0 2M")
        backup(client, sync="bitmap", speed=65536, **words)
        while client.execute("query-block-jobs")[0]["offset"] < MiB:
            del client.log[-1]
        look(client)
        write("write -P 2 1900k 64k", "write -P 2 3M 4k")
        look(client)
        client.execute("block-job-cancel", device="j")
        look(client)
        if mode != "never":
            backup(client, sync="full", auto_finalize=False, **words)
            until_pending(client, "j")
            client.execute("block-job-finalize", id="j")
            look(client)

    both(tmp_path, images, act)


def test_the_top_image_alone_is_copied(tmp_path, images):
    top = tmp_path / "top.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "src.qcow2", "-F", "qcow2", top,
        cwd=tmp_path)  # fmt: skip
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 70k 1k", "-c", "write -z 1M 64k", top)

    def act(client):
        client.execute("blockdev-add", **writable("top.qcow2", "s"))
        client.execute("blockdev-add", **writable("dst.qcow2", "t"))
        backup(client, device="s", target="t", sync="top", auto_finalize=False)
        until_pending(client, "j")
        look(client)
        client.execute("job-finalize", id="j")
        client.execute("blockdev-del", node_name="t")
        told = run("qemu-img", "map", "--output=json", client.folder / "dst.qcow2").stdout
        return [(e["start"], e["length"], e["data"], e["zero"]) for e in json.loads(told)]

    both(tmp_path, [*images, top], act)


def test_jobs_of_a_transaction_end_together_or_each_by_itself(tmp_path, images):
    def act(client):
        client.execute("blockdev-add", **writable("src.qcow2", "s"))
        null(client, "n1", "n2", "n3")
        client.execute("block-dirty-bitmap-add", node="s", name="b")
        grouped = {"completion-mode": "grouped"}
        one = action("g1", "n1", sync="full", bitmap="b", **{"bitmap-mode": "on-success"})
        client.execute("transaction", actions=[one, action("g2", "n2")], properties=grouped)
        until(client, "g1", "waiting")
        look(client)
        client.execute("job-cancel", id="g2")
        look(client)
        client.execute("transaction", actions=[action("g1", "n1"), action("g2", "n2"),
                                               action("g3", "n3")], properties=grouped)  # fmt: skip
        client.execute("job-pause", id="g3")
        client.execute("job-cancel", id="g2")
        client.execute("transaction", actions=[action("g1", "n1"), action("g2", "n2")])
        client.execute("job-cancel", id="g1")
        client.execute("job-cancel", id="g2")
        add = {"type": "block-dirty-bitmap-add", "data": {"node": "s", "name": "b2"}}
        disable = {"type": "block-dirty-bitmap-disable", "data": {"node": "s", "name": "b"}}
        abort = {"type": "abort", "data": {}}
        busy = action("g3", "n2")
        client.execute("transaction", actions=[disable, add, action("g1", "n1"), busy, busy])
        client.execute("transaction", actions=[disable, add, one, action("g2", "n2"), abort])
        # (With two jobs that would have ended together QEMU 7.2 never answers.)
        client.execute("transaction", actions=[one, abort], properties=grouped)
        client.execute("transaction", actions=[one, add], properties=grouped)
        client.execute("transaction", actions=[action("g1", "n1"), action("g1", "n2")])
        client.execute("transaction", actions=[add, one, disable])
        client.execute("transaction", actions=[one, disable])
        look(client)
        client.execute("transaction", actions=[disable, add, action("g1", "n1")])
        look(client)

    both(tmp_path, images, act)


def test_disks_of_other_drivers_are_described(tmp_path, images):
    def act(client):
        add = client.execute
        add("blockdev-add", driver="null-co", node_name="n1")
        add("blockdev-add", driver="null-co", node_name="n2", size=1000)
        add("blockdev-add", driver="null-co", node_name="n0", size=0)
        add("blockdev-add", driver="null-co", node_name="n3", read_zeroes=True)
        add("blockdev-add", driver="null-aio", node_name="n4", latency_ns=1000, read_only=True)
        add("blockdev-add", driver="raw", node_name="r1", file="n1")
        add("blockdev-add", driver="raw", node_name="r2", file="n3", offset=512, size=1024)
        add("blockdev-add", driver="raw", node_name="r3", offset=512,
            file={"driver": "null-co", "size": 4096, "read-zeroes": True})  # fmt: skip
        add("blockdev-add", driver="raw", node_name="r4", file="r3")
        add("blockdev-add", driver="raw", node_name="r5", file="r4", size=512)
        add("blockdev-add", driver="raw", node_name="r6", file="r5", size=1024)
        add("blockdev-add", driver="qcow2", node_name="q1", file="n3")
        add("blockdev-add", **writable("src.qcow2", "s"))
        add("blockdev-add", driver="raw", node_name="rs", file="s")
        add("blockdev-add", **writable("dst.qcow2", "d", backing="rs"))
        look(client)
        add("blockdev-del", node_name="rs")
        add("blockdev-del", node_name="d")
        add("blockdev-add", **writable("dst.qcow2", "d", backing=None))
        add("blockdev-add", **writable("dst.qcow2", "d2", backing=None))
        look(client)

    both(tmp_path, images, act)


def test_a_filter_that_copies_before_it_writes(tmp_path, images):
    def act(client):
        add = client.execute
        null(client, "n1", "n2", "n3", "n5")
        null(client, "ro", read_only=True)
        add("blockdev-add", **writable("src.qcow2", "s"))
        add("blockdev-add", **writable("dst.qcow2", "d", backing="s"))
        add("block-dirty-bitmap-add", node="n1", name="b")
        cbw = {"driver": "copy-before-write"}
        add("blockdev-add", **cbw, node_name="c1", file="s", target="d")
        add("blockdev-add", **cbw, node_name="c2", file="n1", target="n3",
            on_cbw_error="break-snapshot", cbw_timeout=5)  # fmt: skip
        add("blockdev-add", **cbw, node_name="c2", file="n1", target="n3")
        add("blockdev-add", **cbw, node_name="c3", file="n5", target="n5")
        add("blockdev-add", **cbw, node_name="c4", file="n1", target="ro")
        bits = {"node": "n1", "name": "b"}
        add("blockdev-add", **cbw, node_name="c5", file="n1", target="n2", bitmap=bits)
        for wrong in ({"bitmap": {"node": "n9", "name": "b"}}, {"bitmap": {**bits, "name": "x"}},
                      {"file": "x"}, {"target": "x"}, {"on_cbw_error": "x"}):  # fmt: skip
            words = {**cbw, "node_name": "c9", "file": "n1", "target": "n3", **wrong}
            add("blockdev-add", **words)
        add("blockdev-add", **cbw, node_name="c6", file={"driver": "null-co"},
            target={"driver": "null-co"})  # fmt: skip
        look(client)
        write = guest(client, "c1")
        add("block-export-add", type="nbd", id="s", node_name="s", name="s", writable=True)
        add("block-export-add", type="nbd", id="d", node_name="d", name="d")
        write("write -P 4 64k 4k", "write -z 1M 128k", "discard 2M 64k")
        look(client)
        told = f"nbd+unix:///d?socket={client.folder}/nbd.sock"
        raw = client.folder / "d.raw"
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", told, raw)
        for node in ("c1", "s", "d", "n1", "n3", "c2", "c3", "c5", "c6", "n1"):
            add("blockdev-del", node_name=node)
        look(client)
        return hashlib.sha256(raw.read_bytes()).hexdigest()

    folders = both(tmp_path, images, act)
    assert (
        digest("src.qcow2", tmp_path)
        == hashlib.sha256((folders[1] / "d.raw").read_bytes()).hexdigest()
    )


def serving(image, socket, *options):
    """Serve an image to several clients."""
    words = ["qemu-nbd", "-t", "-e", "9", "-k", socket, "-f", "qcow2", *options, image]
    return background(peer("qemu-nbd"), *words[1:], ready=socket, stderr=subprocess.DEVNULL)


def test_an_export_of_another_server_is_a_disk(tmp_path, images):
    socket, read_only = tmp_path / "s", tmp_path / "r"

    def act(client):
        add = client.execute
        at = {"driver": "nbd", "server": {"type": "unix", "path": str(socket)}}
        there = {"driver": "nbd", "server": {"type": "unix", "path": str(read_only)}}
        none = {"type": "inet", "host": "127.0.0.1", "port": "1"}
        add("blockdev-add", **at, node_name="b1", export="e/1 ?")
        for more in (
            {},
            {"export": "e/1 ?", "node_name": "b1"},
            {"export": "x" * 5000},
            {"export": "e/1 ?", "tls-creds": "none"},
            {"export": "e/1 ?", "read_only": True, "x_dirty_bitmap": "qemu:dirty-bitmap:b"},
            {"export": "e/1 ?", "server": {"type": "unix", "path": "none.sock"}},
            {"export": "e/1 ?", "server": none},
            {"export": "e/1 ?", "server": none, "open_timeout": 1},
            {"export": "e/1 ?", "server": {**none, "port": "zz"}},
        ):
            add("blockdev-add", **{**at, "node_name": "b2", **more})
        add("blockdev-add", **at, node_name="b3", export="e/1 ?", read_only=True,
            reconnect_delay=1)  # fmt: skip
        add("blockdev-add", **there, node_name="b4", export="e")
        add("blockdev-add", **there, node_name="b4", export="e", auto_read_only=True)
        add("blockdev-add", **there, node_name="b5", export="e", read_only=True)
        add("blockdev-add", driver="raw", node_name="r", file="b1")
        look(client)
        add("blockdev-add", **writable("dst.qcow2", "t"))
        backup(client, device="b5", target="t", sync="full")
        until(client, "j", "null")
        write = guest(client, "r")
        write("write -P 6 1M 64k", "write -z 2M 128k", "discard 0 64k", "flush")
        add("nbd-server-stop")
        add("blockdev-del", node_name="b1")
        for node in ("r", "b1", "t"):
            add("blockdev-del", node_name=node)
        return digest("dst.qcow2", client.folder)

    changed = []

    def prepared(client):
        for image in images:
            run("cp", image, client.folder)
        served, kept = client.folder / "src.qcow2", client.folder / "dst2.qcow2"
        run("cp", images[0], kept)
        socket.unlink(missing_ok=True)
        read_only.unlink(missing_ok=True)
        with serving(served, socket, "-x", "e/1 ?"), serving(kept, read_only, "-r", "-x", "e"):
            seen = act(client)
        changed.append(digest("src.qcow2", client.folder))
        return seen

    both(tmp_path, [], prepared)
    assert changed[0] == changed[1] != digest("src.qcow2", tmp_path)


@pytest.mark.parametrize("policy", ["report", "stop", "enospc", "ignore"])
def test_a_target_that_fails(tmp_path, images, policy):
    def act(client):
        socket = client.folder / "t.sock"
        with serving(client.folder / "dst.qcow2", socket, "-x", "e"):
            client.execute("blockdev-add", driver="nbd", node_name="t", export="e",
                           server={"type": "unix", "path": str(socket)})  # fmt: skip
        client.execute("blockdev-add", **writable("src.qcow2", "s"))
        # At a speed at which nobody copies a second piece meanwhile.
        words = {"device": "s", "target": "t", "sync": "full", "on_target_error": policy}
        backup(client, **words, auto_dismiss=False, x_perf={"max-workers": 1})
        if policy in {"report", "enospc"}:
            until(client, "j", "concluded")
            client.execute("query-jobs")
            client.execute("query-block-jobs")
            client.execute("job-dismiss", id="j")
            return
        if policy == "stop":
            for paused in (2, 3):  # the first was before the job began
                until_told(client, "j", "paused", paused)
                client.execute("query-jobs")
                client.execute("query-block-jobs")
                if paused == 2:
                    client.execute("block-job-resume", device="j")
            client.execute("block-job-cancel", device="j")
            client.execute("block-job-cancel", device="j", force=True)
            until_told(client, "j", "concluded", 1)
            client.execute("job-dismiss", id="j")
            # Whether a reply or an event comes first is a matter of speed here.
            client.log.sort(key=lambda each: "event" in each)
            return
        client.wait_for("BLOCK_JOB_ERROR", 1)
        data = {json.dumps(each, sort_keys=True) for each in client.events("BLOCK_JOB_ERROR")}
        client.log.clear()
        client.seen = data

    if policy == "ignore":
        return_values = []
        for program in (SYSTEM, OURS_AS_SYSTEM):
            with monitor(program, tmp_path / program, *images) as client:
                act(client)
                return_values.append(client.seen)
        assert return_values[0] == return_values[1]
        return
    both(tmp_path, images, act)
