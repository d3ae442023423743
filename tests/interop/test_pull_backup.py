"""The pull backup that libvirt and oVirt run, with data: the same script at QEMU and the emulator.

A client of a writable export of the disk stands in for the guest. What it writes after the backup
began must not be seen in the backup's export, and the bitmap of that export must name exactly what
it wrote since the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time

import pytest
from monitors import OURS_AS_SYSTEM, SYSTEM, monitor, unix
from peers import nbdinfo_map, run
from told import masked

from nbexport.errors import PeerError
from nbexport.nbd import Client

pytestmark = pytest.mark.interop

KiB, MiB = 1 << 10, 1 << 20
SIZE = 8 * MiB
CLUSTER = 64 * KiB


def uri(folder, name):
    return f"nbd+unix:///{name}?socket={folder}/nbd.sock"


def both(tmp_path, act):
    """Do the same with both programs; compare what they told, what was seen, and the disk."""
    disk = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", disk, str(SIZE))
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 3M", "-c", "write -P 2 5M 100k", disk)
    for name in ("scratch.qcow2", "scratch2.qcow2"):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk.name, "-F", "qcow2",
            tmp_path / name, cwd=tmp_path)  # fmt: skip
    images = [disk, tmp_path / "scratch.qcow2", tmp_path / "scratch2.qcow2"]
    found = []
    for program in (SYSTEM, OURS_AS_SYSTEM):
        folder = tmp_path / program
        with monitor(program, folder, *images) as client:
            seen = act(client)
            client.quit()
            log = masked(client.log)
        raw = folder / "disk.raw"
        assert "No errors" in run("qemu-img", "check", folder / disk.name).stdout
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", folder / disk.name, raw)
        told = json.loads(run("qemu-img", "info", "--output=json", folder / disk.name).stdout)
        stored = told["format-specific"]["data"].get("bitmaps")
        found.append((log, seen, hashlib.sha256(raw.read_bytes()).hexdigest(), stored))
    for theirs, ours in zip(found[0][0], found[1][0], strict=True):
        assert ours == theirs
    assert found[1][1:] == found[0][1:]
    return found[1][1]


class Guest:
    """What writes the disk, and knows what is on it and where it wrote."""

    def __init__(self, client):
        self.connection = Client.connect(uri(client.folder, "guest"))
        self.disk = bytearray(self.connection.read(0, SIZE))
        self.random = random.Random(7)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.connection.close()

    def write(self, offset, data):
        self.connection.write(offset, data)
        self.disk[offset : offset + len(data)] = data
        return (offset, len(data))

    def scribble(self, count):
        """Write here and there; return the clusters that were touched."""
        touched = set()
        for _ in range(count):
            offset = self.random.randrange(0, SIZE - 20 * KiB) & ~511
            length = self.random.randrange(1, 40) * 512
            kind = self.random.randrange(4)
            if kind:
                self.write(offset, self.random.randbytes(length))
            else:
                self.connection.write_zeroes(offset, length, may_trim=False)
                self.disk[offset : offset + length] = bytes(length)
            touched |= set(range(offset // CLUSTER, (offset + length - 1) // CLUSTER + 1))
        return touched


def dirty(folder, name, bitmap):
    """Return the clusters that an export's bitmap marks, as libnbd sees it."""
    told = nbdinfo_map(uri(folder, name), f"qemu:dirty-bitmap:{bitmap}")
    return {
        cluster
        for entry in told
        if entry["type"]
        for cluster in range(
            entry["offset"] // CLUSTER, (entry["offset"] + entry["length"]) // CLUSTER
        )
    }


def content(folder, name):
    with Client.connect(uri(folder, name)) as client:
        return client.read(0, SIZE)


def bitmap(kind, name, **more):
    return {"type": f"block-dirty-bitmap-{kind}", "data": {"node": "disk", "name": name, **more}}


def start(client):
    """Begin as a machine that runs: its disk, and the guest's way to it."""
    client.execute("nbd-server-start", addr=unix())
    client.execute(
        "blockdev-add",
        driver="qcow2",
        node_name="disk",
        discard="unmap",
        file={"driver": "file", "filename": "disk.qcow2", "node-name": "disk-file"},
    )
    client.execute("block-dirty-bitmap-add", node="disk", name="check1", persistent=True)
    client.execute("block-export-add", type="nbd", id="guest", node_name="disk", name="guest",
                   writable=True)  # fmt: skip


def checkpoint(client, old, new):
    actions = [bitmap("disable", old), bitmap("add", new, persistent=True)]
    client.execute("transaction", actions=actions)


def begin_backup(client, number, checkpoints, new, *, scratch="scratch"):
    """Do what libvirt does: scratch, merged bitmap, and all at one moment."""
    wanted, job = f"backup{number}", f"backup-job{number}"
    name = f"{scratch}{number}"
    client.execute("blockdev-add", driver="qcow2", node_name=name, backing="disk",
                   file={"driver": "file", "filename": f"{scratch}.qcow2"})  # fmt: skip
    client.execute("block-dirty-bitmap-add", node="disk", name=wanted, disabled=True)
    merge = {"node": "disk", "target": wanted, "bitmaps": checkpoints}
    client.execute(
        "transaction",
        actions=[
            {"type": "block-dirty-bitmap-merge", "data": merge},
            bitmap("disable", checkpoints[-1]),
            bitmap("add", new, persistent=True),
            {
                "type": "blockdev-backup",
                "data": {"device": "disk", "target": name, "sync": "none", "job-id": job,
                         "auto-dismiss": False},
            },
        ],
    )  # fmt: skip
    return name, wanted, job


def export_backup(client, node, wanted, name):
    client.execute("block-export-add", type="nbd", id=name, node_name=node, name=name,
                   bitmaps=[{"node": "disk", "name": wanted}])  # fmt: skip


def end_backup(client, node, wanted, job):
    client.execute("job-cancel", id=job)
    client.execute("job-dismiss", id=job)
    client.execute("blockdev-del", node_name=node)
    client.execute("block-dirty-bitmap-remove", node="disk", name=wanted)


def test_one_consumer_pulls_what_was_written_since_a_checkpoint(tmp_path):
    def act(client):
        start(client)
        with Guest(client) as guest:
            first = guest.scribble(12)
            checkpoint(client, "check1", "check2")
            second = guest.scribble(12)
            then = bytes(guest.disk)
            node, wanted, job = begin_backup(client, 1, ["check1", "check2"], "check3")
            export_backup(client, node, wanted, "pull")
            client.execute("query-block-exports")
            assert dirty(client.folder, "pull", wanted) == first | second
            third = guest.scribble(40)
            assert bytes(guest.disk) != then
            assert content(client.folder, "pull") == then
            assert dirty(client.folder, "pull", wanted) == first | second
            maps = nbdinfo_map(uri(client.folder, "pull"), "base:allocation")
            client.execute("query-block-jobs")
            client.execute("query-jobs")
            client.execute("query-named-block-nodes", flat=True)
            # A client that is still there when the backup ends.
            with Client.connect(uri(client.folder, "pull")) as left:
                assert left.read(0, 512) == then[:512]
                client.execute("block-export-del", id="pull")
                client.execute("block-export-del", id="pull", mode="hard")
                client.wait_for("BLOCK_EXPORT_DELETED", 1)
                with pytest.raises(PeerError):
                    left.read(0, 512)
            end_backup(client, node, wanted, job)
            # What was written during the backup is for the next one.
            export_of_checkpoint = {"node": "disk", "name": "check3"}
            client.execute("block-export-add", type="nbd", id="next", node_name="disk",
                           name="next", bitmaps=[export_of_checkpoint])  # fmt: skip
            assert dirty(client.folder, "next", "check3") == third
            assert content(client.folder, "guest") == bytes(guest.disk)
        client.execute("nbd-server-stop")
        client.execute("query-named-block-nodes", flat=True)
        client.execute("blockdev-del", node_name="disk")
        return maps, sorted(first | second), sorted(third), hashlib.sha256(then).hexdigest()

    both(tmp_path, act)


def test_the_backup_stays_as_it_was_under_a_storm_of_writes(tmp_path):
    def act(client):
        start(client)
        with Guest(client) as guest:
            guest.scribble(5)
            then = bytes(guest.disk)
            node, wanted, job = begin_backup(client, 1, ["check1"], "check2")
            export_backup(client, node, wanted, "pull")
            storm = threading.Thread(target=guest.scribble, args=(600,))
            storm.start()
            rounds = 0
            while storm.is_alive() or not rounds:
                assert content(client.folder, "pull") == then
                rounds += 1
            storm.join()
            assert content(client.folder, "pull") == then
            assert content(client.folder, "guest") == bytes(guest.disk)
        # The server ends under its clients, and the job goes on without it.
        client.execute("nbd-server-stop")
        end_backup(client, node, wanted, job)
        client.execute("blockdev-del", node_name="disk")
        return hashlib.sha256(guest.disk).hexdigest()

    both(tmp_path, act)


def test_two_consumers_with_a_bitmap_each_at_once(tmp_path):
    def act(client):
        start(client)
        with Guest(client) as guest:
            first = guest.scribble(8)
            checkpoint(client, "check1", "check2")
            second = guest.scribble(8)
            then1 = bytes(guest.disk)
            one = begin_backup(client, 1, ["check1", "check2"], "check3")
            third = guest.scribble(20)
            then2 = bytes(guest.disk)
            two = begin_backup(client, 2, ["check3"], "check4", scratch="scratch2")
            export_backup(client, one[0], one[1], "pull1")
            export_backup(client, two[0], two[1], "pull2")
            seen = {}

            def pull(name, wanted):
                seen[name] = (content(client.folder, name), dirty(client.folder, name, wanted))

            threads = [
                threading.Thread(target=pull, args=("pull1", one[1])),
                threading.Thread(target=pull, args=("pull2", two[1])),
                threading.Thread(target=guest.scribble, args=(60,)),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert seen["pull1"] == (then1, first | second)
            assert seen["pull2"] == (then2, third)
            client.execute("query-block-jobs")
            # The older ends first, and the younger is not disturbed in what it shows.
            client.execute("block-export-del", id="pull1", mode="hard")
            end_backup(client, *one)
            guest.scribble(20)
            assert content(client.folder, "pull2") == then2
            client.execute("block-export-del", id="pull2", mode="hard")
            end_backup(client, *two)
            assert content(client.folder, "guest") == bytes(guest.disk)
        time.sleep(0.1)  # until the server has seen that the guest has gone
        client.execute("block-export-del", id="guest")
        client.execute("query-named-block-nodes", flat=True)
        return [sorted(clusters) for clusters in (first, second, third)]

    both(tmp_path, act)


def test_a_backup_that_cannot_begin_leaves_all_as_it_was(tmp_path):
    def act(client):
        start(client)
        with Guest(client) as guest:
            touched = guest.scribble(6)
            client.execute("blockdev-add", driver="null-co", node_name="small", size=MiB)
            merge = {"node": "disk", "target": "check1", "bitmaps": ["check1"]}
            client.execute(
                "transaction",
                actions=[
                    bitmap("disable", "check1"),
                    bitmap("add", "check2", persistent=True),
                    {"type": "block-dirty-bitmap-merge", "data": merge},
                    {
                        "type": "blockdev-backup",
                        "data": {"device": "disk", "target": "small", "sync": "none",
                                 "job-id": "j"},
                    },
                ],
            )  # fmt: skip
            client.execute("query-named-block-nodes", flat=True)
            touched |= guest.scribble(6)
            client.execute("block-dirty-bitmap-disable", node="disk", name="check1")
            client.execute("block-export-add", type="nbd", id="e", node_name="disk", name="e",
                           bitmaps=["check1"])  # fmt: skip
            assert dirty(client.folder, "e", "check1") == touched
        return sorted(touched)

    both(tmp_path, act)
