"""How jobs end: at once, with a full or a failing target, with the process; beside QEMU's."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from job_play import (
    SIZE,
    action,
    backup,
    both,
    guest,
    look,
    make_images,
    null,
    serving,
    until,
    until_told,
    writable,
)
from monitors import OURS_AS_SYSTEM, SYSTEM, monitor
from peers import background, peer, run

pytestmark = pytest.mark.interop


@pytest.fixture
def images(tmp_path):
    return make_images(tmp_path)


def test_a_backup_of_nothing_has_ended_when_it_is_answered(tmp_path, images):
    """Nothing was written since the last one: all events come before the reply."""

    def act(client):
        client.execute("blockdev-add", **writable("src.qcow2", "s"))
        client.execute("blockdev-add", **writable("dst.qcow2", "d"))
        null(client, "n")
        for name in "ab":
            client.execute("block-dirty-bitmap-add", node="s", name=name)
        words = {"device": "s", "target": "d", "bitmap": "a"}
        backup(client, **words, sync="incremental")
        backup(client, **words, sync="incremental", speed=1000)
        backup(client, **words, sync="bitmap", bitmap_mode="never", auto_finalize=False,
               auto_dismiss=False)  # fmt: skip
        client.execute("query-jobs")
        client.execute("job-finalize", id="j")
        client.execute("job-dismiss", id="j")
        two = [action(job, target, sync="incremental", bitmap=name)
               for job, target, name in (("j", "d", "a"), ("k", "n", "b"))]  # fmt: skip
        client.execute("transaction", actions=two[:1])
        client.execute("transaction", actions=two)
        client.execute("transaction", actions=two, properties={"completion-mode": "grouped"})
        client.execute("transaction", actions=[two[0], action("k", "n")])
        backup(client, **words, sync="incremental")
        client.execute("job-cancel", id="k")
        look(client)

    both(tmp_path, images, act)


def test_a_backup_between_disks_without_storage_has_ended_when_it_is_answered(tmp_path):
    def act(client):
        null(client, "n1", "n2", "n3", "n4")
        client.execute("blockdev-add", driver="raw", node_name="r", file="n4")
        backup(client, sync="full")
        backup(client, sync="top")
        backup(client, sync="full", target="r", auto_finalize=False, auto_dismiss=False)
        client.execute("job-cancel", id="j")
        client.execute("job-dismiss", id="j")
        two = [action("j", "n2", device="n1", sync="full"),
               action("k", "r", device="n3", sync="full")]  # fmt: skip
        client.execute("transaction", actions=two)
        client.execute("transaction", actions=two, properties={"completion-mode": "grouped"})
        look(client)

    both(tmp_path, [], act)


def test_a_slow_job_does_not_wait_after_its_last_piece(tmp_path, images):
    def act(client):
        client.execute("blockdev-add", **writable("src.qcow2", "s"))
        null(client, "n2")
        client.execute("block-dirty-bitmap-add", node="s", name="b")
        guest(client)("write 0 64k")
        begun = time.monotonic()
        backup(client, device="s", sync="incremental", bitmap="b", speed=1000)
        until(client, "j", "null")
        assert time.monotonic() - begun < 60  # the piece is worth 65 seconds

    both(tmp_path, images, act)


@pytest.mark.parametrize("state", ["running", "paused", "pending", "concluded", "two", "group"])
def test_a_process_that_ends_ends_its_jobs(tmp_path, images, state):
    """What is told of them meanwhile, and what the bitmap says afterwards."""

    def act(client):
        client.execute("blockdev-add", **writable("src.qcow2", "s"))
        client.execute("blockdev-add", **writable("dst.qcow2", "d"))
        null(client, "n1", "n2", "n3", "n4")
        client.execute("block-dirty-bitmap-add", node="s", name="b", persistent=True)
        guest(client)("write 0 100k", "write 512k 64k", "write 1M 2M")
        speed = 0 if state in {"pending", "concluded"} else 65536
        words = {"device": "s", "target": "d", "bitmap": "b", "bitmap_mode": "always"}
        backup(client, **words, sync="bitmap", auto_dismiss=state == "running", speed=speed,
               auto_finalize=state != "pending")  # fmt: skip
        if not speed:
            until(client, "j", state)
        else:
            while client.execute("query-block-jobs")[0]["offset"] < 128 << 10:
                del client.log[-1]
        if state == "paused":
            client.execute("job-pause", id="j")
        if state == "two":
            backup(client, job_id="k", auto_dismiss=False)
        if state == "group":
            two = [action("k", "n2", device="n1", **{"auto-dismiss": False}),
                   action("l", "n4", device="n3")]  # fmt: skip
            client.execute("transaction", actions=two, properties={"completion-mode": "grouped"})
        if not speed:
            while client.log[-1].get("data") == {"id": "j", "status": state}:
                client.take() if state == "pending" else client.execute("query-jobs")

    stored = []
    for folder in both(tmp_path, images, act):
        told = json.loads(run("qemu-img", "info", "--output=json", folder / "src.qcow2").stdout)
        stored.append(told["format-specific"]["data"]["bitmaps"])
        assert "No errors" in run("qemu-img", "check", folder / "src.qcow2").stdout
    assert stored[0] == stored[1]
    assert [each["flags"] for each in stored[1]] == [["auto"]]


@pytest.mark.parametrize("policy", ["report", "stop", "enospc"])
def test_a_target_that_is_full(tmp_path, images, policy):
    def act(client):
        socket = client.folder / "t.sock"
        words = [peer("nbdkit"), "-f", "-U", socket, "full", str(SIZE)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with background(*words, ready=socket, **quiet):
            client.execute("blockdev-add", driver="nbd", node_name="t",
                           server={"type": "unix", "path": "t.sock"})  # fmt: skip
            client.execute("blockdev-add", **writable("src.qcow2", "s"))
            client.execute("block-dirty-bitmap-add", node="s", name="b")
            words = {"device": "s", "target": "t", "sync": "full", "on_target_error": policy}
            backup(client, **words, auto_dismiss=False, x_perf={"max-workers": 1})
            if policy == "report":
                until(client, "j", "concluded")
            else:
                until_told(client, "j", "paused", 2)
            look(client)
            client.execute("block-job-cancel", device="j", force=True)
            until_told(client, "j", "concluded", 1)
            client.execute("query-block-jobs")
            # Whether a reply or an event comes first is a matter of speed here.
            client.log.sort(key=lambda each: "event" in each)
            client.execute("job-dismiss", id="j")
            # Nothing is written that could not be copied before.
            write = guest(client)
            backup(client, device="s", target="t")
            with pytest.raises(AssertionError, match="No space left on device"):
                write("write 0 64k")
            client.execute("query-jobs")
            client.execute("job-cancel", id="j")
            write("write 0 64k")
            look(client)
            client.execute("blockdev-del", node_name="t")  # nbdkit does not leave its clients

    both(tmp_path, images, act)


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
        began = len(client.log)
        backup(client, **words, auto_dismiss=False, x_perf={"max-workers": 1})
        if policy in {"report", "enospc"}:
            # Whether its reply or the error of its first write comes first is a matter of speed;
            # all that follows has one order.
            client.log.insert(began, client.log.pop())
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
