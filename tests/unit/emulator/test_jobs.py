"""Jobs on every release, and what cannot be compared with a QEMU that is installed."""

import asyncio
import struct
import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbexport.emulator import Machine, Release
from nbexport.emulator.branches import known_releases
from nbexport.errors import CommandError
from nbexport.nbd import Client
from nbexport.qapi import validate
from nbexport.qmp import Dispatcher

MiB = 1 << 20
SIZE = 4 * MiB
ALL = known_releases()


class Monitor:
    """A machine's commands; each reply and each event must fit the schema."""

    def __init__(self, release="7.2"):
        self.machine = Machine(Release.parse(release))
        self.schema = self.machine.schema
        version = self.machine.release.version
        self.dispatcher = Dispatcher(self.schema, self.machine.handlers(), release=version)
        self.known = {command.name for command in self.schema.commands()}
        self.told = []
        self.machine.on_event(self._take)

    def _take(self, name, data):
        validate(self.schema, self.schema.event(name).arg_type, data)
        self.told.append((name, data))

    async def ask(self, command, **arguments):
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        result = await self.dispatcher.dispatch(command, words)
        validate(self.schema, self.schema.command(command).ret_type, result)
        return result

    async def refused(self, command, **arguments):
        with pytest.raises(CommandError) as caught:
            await self.ask(command, **arguments)
        return caught.value

    async def null(self, *names, **more):
        for name in names:
            await self.ask("blockdev-add", driver="null-co", node_name=name, size=SIZE, **more)

    async def backup(self, **more):
        words = {"job_id": "j", "device": "a", "target": "b", "sync": "none", **more}
        await self.ask("blockdev-backup", **words)

    def states(self, job="j"):
        return [
            data["status"]
            for name, data in self.told
            if name == "JOB_STATUS_CHANGE" and data["id"] == job
        ]

    def names(self):
        return [name for name, _ in self.told if name != "JOB_STATUS_CHANGE"]

    async def until(self, name):
        while name not in self.names():
            await asyncio.sleep(0.005)


def play(story, release="7.2"):
    async def run():
        monitor = Monitor(release)
        try:
            return await story(monitor)
        finally:
            await monitor.machine.close()

    return asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize("release", ALL)
def test_a_backup_on_every_release(release):
    async def story(m):
        await m.null("a", "b")
        await m.backup(sync="full")
        await m.until("BLOCK_JOB_COMPLETED")
        await asyncio.sleep(0)
        assert await m.ask("query-block-jobs") == []
        states = ["created", "running", "paused", "running", "waiting", "pending", "concluded"]
        since_3_0 = "JOB_STATUS_CHANGE" in {event.name for event in m.schema.events()}
        assert m.states() == ([*states, "null"] if since_3_0 else [])
        assert m.names() == ["BLOCK_JOB_COMPLETED"]
        assert m.told[-1 if not since_3_0 else -3][1]["offset"] == SIZE

        m.told.clear()
        await m.backup()
        (told,) = await m.ask("query-block-jobs")
        assert (told["device"], told["type"], told["len"]) == ("j", "backup", SIZE)
        nodes = {node["node-name"]: node for node in await m.ask("query-named-block-nodes")}
        above = [node["drv"] for name, node in nodes.items() if name not in {"a", "b"}]
        filters = m.machine.release.version
        expected = ["copy-before-write"] if filters >= (6, 2, 0) else ["backup-top"]
        assert above == (expected if filters >= (4, 2, 0) else [])
        assert len(nodes["a"].get("dirty-bitmaps", [])) == len(above)
        await m.refused("blockdev-del", node_name="a")
        await m.refused("blockdev-del", node_name="b")
        await m.ask("block-job-cancel", device="j")
        assert m.names() == ["BLOCK_JOB_CANCELLED"]
        for name in ("a", "b"):
            await m.ask("blockdev-del", node_name=name)
        assert await m.ask("query-named-block-nodes") == []

    play(story, release)


@pytest.mark.parametrize("release", [release for release in ALL if release != "2.12"])
def test_jobs_of_a_transaction_on_every_release(release):
    async def story(m):
        await m.null("a", "b", "c", "d")
        await m.ask("block-dirty-bitmap-add", node="a", name="x")
        jobs = [
            {"type": "blockdev-backup",
             "data": {"device": source, "target": target, "sync": "none", "job-id": target}}
            for source, target in ("ab", "dc")
        ]  # fmt: skip
        grouped = {"completion-mode": "grouped"}
        await m.ask("transaction", actions=jobs, properties=grouped)
        assert [job["id"] for job in await m.ask("query-jobs")] == ["c", "b"]
        await m.ask("job-cancel", id="b")
        assert await m.ask("query-jobs") == []
        assert m.names() == ["BLOCK_JOB_CANCELLED"] * 2
        add = {"type": "block-dirty-bitmap-add", "data": {"node": "a", "name": "y"}}
        error = await m.refused("transaction", actions=[*jobs, add], properties=grouped)
        assert "does not support" in error.desc
        assert await m.ask("query-jobs") == []
        abort = {"type": "abort", "data": {}}
        await m.refused("transaction", actions=[add, *jobs, abort])
        node = m.machine.graph.nodes["a"]
        assert [bitmap.name for bitmap in node.bitmaps] == ["x"]
        assert node.block.guards == ()

    play(story, release)


@pytest.mark.parametrize(
    ("release", "refused"),
    [("4.1", None), ("5.0", None), ("5.1", "Source and target image have different sizes")],
)
def test_targets_of_another_size(release, refused):
    async def story(m):
        await m.null("a")
        await m.ask("blockdev-add", driver="null-co", node_name="b", size=2 * SIZE)
        await m.ask("blockdev-add", driver="null-co", node_name="c", size=MiB)
        for target in "bc":
            words = {"job_id": target, "device": "a", "target": target, "sync": "full"}
            if refused is not None:
                assert (await m.refused("blockdev-backup", **words)).desc == refused
                continue
            await m.ask("blockdev-backup", **words)
            await m.until("BLOCK_JOB_COMPLETED")
            ends = [data for name, data in m.told if name == "BLOCK_JOB_COMPLETED"]
            assert ends[0].get("error") == (None if target == "b" else "Input/output error")
            m.told.clear()

    play(story, release)


def test_incremental_backups_before_they_had_bitmaps():
    async def story(m):
        await m.null("a", "b")
        words = {"job_id": "j", "device": "a", "target": "b", "sync": "incremental"}
        error = await m.refused("blockdev-backup", **words)
        assert error.desc == 'must provide a valid bitmap name for "incremental" sync mode'

    play(story, "4.1")


def empty_qcow2(path, size):
    """Make an image of one L1 entry: header, refcount table, refcount block, L1 table."""
    cluster = 65536
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb", 3, 0, 0, 16, size, 0, 1, 3 * cluster, cluster, 1, 0, 0, 0, 0, 0, 4, 104,
    )  # fmt: skip
    image = bytearray(4 * cluster)
    image[: len(header)] = header
    image[cluster : cluster + 8] = struct.pack(">Q", 2 * cluster)
    image[2 * cluster : 2 * cluster + 8] = struct.pack(">4H", 1, 1, 1, 1)
    path.write_bytes(image)
    return {"driver": "file", "filename": str(path)}


@pytest.mark.parametrize("release", ALL[ALL.index("4.0") :])
def test_the_pull_backup_on_every_release_that_has_what_it_needs(tmp_path, release):
    socket = {"type": "unix", "data": {"path": str(tmp_path / "s")}}
    has_exports = Release.parse(release).exports_have_ids

    def pull():
        context = "qemu:dirty-bitmap:wanted"
        with Client.connect(f"nbd+unix:///pull?socket={tmp_path}/s", contexts=[context]) as client:
            dirty = client.map()[context]
            return client.read(0, SIZE), [start for start, _, flags in dirty if flags]

    async def story(m):
        await m.ask("nbd-server-start", addr=socket)
        for name, more in (("disk", {}), ("scratch", {"backing": "disk"})):
            file = empty_qcow2(tmp_path / name, SIZE)
            await m.ask("blockdev-add", driver="qcow2", node_name=name, file=file, **more)
        disk = m.machine.graph.nodes["disk"].block
        await m.ask("block-dirty-bitmap-add", node="disk", name="check1", persistent=True)
        disk.write_from(MiB, memoryview(b"1" * 1000))
        await m.ask("block-dirty-bitmap-add", node="disk", name="wanted", disabled=True)
        node = {"node": "disk"}
        backup = {"device": "disk", "target": "scratch", "sync": "none", "job-id": "j"}
        merge = {**node, "target": "wanted", "bitmaps": ["check1"]}
        await m.ask("transaction", actions=[
            {"type": "block-dirty-bitmap-merge", "data": merge},
            {"type": "block-dirty-bitmap-disable", "data": {**node, "name": "check1"}},
            {"type": "block-dirty-bitmap-add", "data": {**node, "name": "check2"}},
            {"type": "blockdev-backup", "data": backup},
        ])  # fmt: skip
        if has_exports:
            await m.ask("block-export-add", type="nbd", id="pull", node_name="scratch", name="pull",
                        bitmaps=["wanted"])  # fmt: skip
        else:
            await m.ask("nbd-server-add", device="scratch", name="pull", bitmap="wanted")
        disk.write_from(0, memoryview(b"2" * 2 * MiB))
        content, dirty = await asyncio.to_thread(pull)
        assert content == bytes(MiB) + b"1" * 1000 + bytes(SIZE - MiB - 1000)
        assert dirty == [MiB]
        await m.ask("nbd-server-stop")
        await m.ask("block-job-cancel", device="j")
        await m.ask("blockdev-del", node_name="scratch")
        await m.ask("block-dirty-bitmap-remove", node="disk", name="wanted")
        bitmaps = {each.name: each.bits.count for each in m.machine.graph.nodes["disk"].bitmaps}
        assert bitmaps == {"check1": 65536, "check2": 2 * MiB}
        assert disk.read(0, 2 * MiB) == b"2" * 2 * MiB

    play(story, release)


VERBS = ["pause", "resume", "cancel", "complete", "finalize", "dismiss"]
STEPS = st.lists(st.sampled_from([*VERBS, "speed", "drain", "wait"]), max_size=12)
NEXT = {
    "created": {"running", "aborting", "null"},
    "running": {"paused", "waiting", "aborting"},
    "paused": {"running"},
    "waiting": {"pending", "aborting"},
    "pending": {"aborting", "concluded"},
    "aborting": {"concluded"},
    "concluded": {"null"},
    "null": {"created"},
}


@settings(max_examples=60, deadline=None)
@given(
    steps=STEPS,
    sync=st.sampled_from(["none", "full"]),
    finalize=st.booleans(),
    dismiss=st.booleans(),
)
def test_whatever_a_job_is_told_it_keeps_to_its_states(steps, sync, finalize, dismiss):
    async def story(m):
        await m.null("a", "b")
        await m.backup(sync=sync, auto_finalize=finalize, auto_dismiss=dismiss, speed=8 * MiB)
        refusals = []
        for step in steps:
            try:
                if step == "speed":
                    await m.ask("block-job-set-speed", device="j", speed=0)
                elif step == "drain":
                    await m.ask("transaction", actions=[])
                elif step == "wait":
                    await asyncio.sleep(0.01)
                else:
                    await m.ask(f"job-{step}", id="j")
            except CommandError as error:
                refusals.append(error.desc)
            for job in await m.ask("query-block-jobs"):
                assert job["offset"] <= job["len"]
        await m.machine.jobs.end_all()
        assert m.machine.graph.jobs == {}
        states = m.states()
        assert all(after in NEXT[before] for before, after in pairwise(states))
        known = ("Job not found", "Job is already paused", "Can't resume a job", "Job 'j' in state",
                 "Block job 'j' not found")  # fmt: skip
        assert all(refusal.startswith(known) for refusal in refusals)
        assert states[-1] in {"null", "concluded"}
        assert set(m.machine.graph.nodes) == {"a", "b"}
        assert m.machine.graph.nodes["a"].block.guards == ()

    play(story)


def test_speed_is_kept_to():
    async def story(m):
        await m.null("a", "b")
        loop = asyncio.get_running_loop()
        start = loop.time()
        await m.backup(sync="full", speed=10 * MiB)
        await m.ask("transaction", actions=[])  # what disturbs a job does not hurry it
        await m.until("BLOCK_JOB_COMPLETED")
        assert loop.time() - start > 0.25

    play(story)


def test_a_write_that_comes_while_a_backup_begins_is_kept_from_it(tmp_path):
    source, target = tmp_path / "s", tmp_path / "t"
    source.write_bytes(b"\1" * SIZE)
    target.write_bytes(bytes(SIZE))

    async def story(m):
        for name, path in (("a", source), ("b", target)):
            await m.ask("blockdev-add", driver="file", node_name=name, filename=str(path))
        disk = m.machine.graph.nodes["a"].block
        written, stop = [], threading.Event()

        def write():
            number = 0
            while not stop.is_set():
                disk.write_from((number * 4099 * 512) % SIZE, memoryview(b"\2" * 512))
                written.append(number)
                number += 1

        await m.ask("block-dirty-bitmap-add", node="a", name="x")
        thread = threading.Thread(target=write)
        thread.start()
        while len(written) < 3:
            await asyncio.sleep(0.001)
        backup = {"device": "a", "target": "b", "sync": "full", "job-id": "j"}
        await m.ask("transaction", actions=[
            {"type": "block-dirty-bitmap-disable", "data": {"node": "a", "name": "x"}},
            {"type": "blockdev-backup", "data": backup},
        ])  # fmt: skip
        await m.until("BLOCK_JOB_COMPLETED")
        stop.set()
        thread.join()
        return m.machine.graph.nodes["a"].bitmap("x").bits

    bits = play(story)
    copied = target.read_bytes()
    # A write is in the copy exactly if the bitmap, which was disabled at that moment, has it.
    for start in range(0, SIZE, bits.granularity):
        part = copied[start : start + bits.granularity]
        assert (2 in part) == bool(bits.extents(start, start + 1).flags[0])


@pytest.mark.parametrize("release", ["4.1", "7.2"])
def test_writes_and_transactions_do_not_wait_for_each_other(tmp_path, release):
    path = tmp_path / "d"
    path.write_bytes(b"\1" * SIZE)

    async def story(m):
        await m.null("b")  # the target is older than what is copied to it
        await m.ask("blockdev-add", driver="raw", node_name="a",
                    file={"driver": "file", "filename": str(path)})  # fmt: skip
        await m.ask("block-dirty-bitmap-add", node="a", name="x")
        await m.backup()
        disk = m.machine.graph.nodes["a"].block
        stop = threading.Event()

        def write(seed):
            number = seed
            while not stop.is_set():
                number += 1
                disk.write_from((number * 4099 * 512) % SIZE, memoryview(b"\2" * 512))

        threads = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        clear = {"type": "block-dirty-bitmap-clear", "data": {"node": "a", "name": "x"}}
        for number in range(150):
            await m.ask("transaction", actions=[clear])
            if number % 10 == 9:  # clusters that must be copied again
                await m.ask("block-job-cancel", device="j")
                await m.backup()
            await asyncio.sleep(0)
        stop.set()
        for thread in threads:
            thread.join()

    play(story, release)


def test_a_backup_to_a_disk_that_is_not_there_any_more_fails_the_job(tmp_path):
    async def story(m):
        await m.null("a")
        await m.null("b", latency_ns=1)  # so that the command does not wait for the job

        def fail(_offset, _data):
            raise OSError(28, "No space left on device")

        target = m.machine.graph.nodes["b"].block
        target._write = fail
        target._write_zeroes = lambda *_args, **_words: fail(0, b"")
        await m.backup(sync="full", on_target_error="enospc", auto_dismiss=False)
        await m.until("BLOCK_JOB_ERROR")
        (job,) = await m.ask("query-block-jobs")
        assert (job["io-status"], job["status"], job["paused"]) == ("nospace", "paused", True)
        await m.ask("block-job-cancel", device="j", force=True)
        await m.until("BLOCK_JOB_CANCELLED")
        await m.ask("job-dismiss", id="j")
        await m.backup(sync="full", auto_dismiss=False)
        await m.until("BLOCK_JOB_COMPLETED")
        assert m.told[-2][1]["error"] == "No space left on device"
        # The guest's write fails with the copy, and changes nothing.
        await m.ask("job-dismiss", id="j")
        await m.backup()
        with pytest.raises(OSError, match="No space"):
            m.machine.graph.nodes["a"].block.write_from(0, memoryview(bytes(512)))

    play(story)


def test_a_process_that_ends_ends_its_jobs(tmp_path):
    async def story(m):
        await m.null("a", "b")
        await m.backup()
        await m.ask("job-pause", id="j")
        await m.ask("quit")
        assert m.names() == ["SHUTDOWN", "BLOCK_JOB_CANCELLED"]
        assert m.states()[-4:] == ["running", "aborting", "concluded", "null"]

    play(story)


def test_what_this_emulator_cannot_do_it_says(tmp_path):
    async def story(m):
        error = await m.refused("blockdev-add", driver="nbd", node_name="n",
                                server={"type": "unix", "path": "x", "abstract": True})  # fmt: skip
        assert error.desc.endswith("not supported by this emulator")
        error = await m.refused("blockdev-add", driver="nbd", node_name="n",
                                server={"type": "vsock", "cid": "1", "port": "1"})  # fmt: skip
        assert error.desc.endswith("not supported by this emulator")
        error = await m.refused("blockdev-add", driver="null-co", node_name="n", size=1 << 62 | -1)
        assert error.desc == "null: size -1 is out of range"
        assert await m.ask("query-named-block-nodes") == []

    play(story)


@pytest.mark.parametrize("verb", VERBS)
def test_a_job_that_is_not_there(verb):
    async def story(m):
        assert (await m.refused(f"job-{verb}", id="x")).desc == "Job not found"
        member = "id" if verb in {"finalize", "dismiss"} else "device"
        error = await m.refused(f"block-job-{verb}", **{member: "x"})
        assert (error.error_class, error.desc) == ("DeviceNotActive", "Block job 'x' not found")

    play(story)


@pytest.mark.parametrize(("release", "ended"), [("3.1", True), ("7.2", True), ("8.0", False)])
def test_whether_a_job_that_waits_for_nothing_ends_before_the_reply(release, ended):
    async def story(m):
        await m.null("a", "b")
        await m.backup(sync="full")
        assert ("BLOCK_JOB_COMPLETED" in m.names()) == ended
        await m.until("BLOCK_JOB_COMPLETED")
        m.told.clear()
        # With a speed there is something to wait for.
        await m.backup(sync="full", speed=SIZE)
        assert m.names() == []

    play(story, release)


@pytest.mark.parametrize(("release", "told_first"), [("7.2.8", False), ("7.2.9", True)])
def test_an_export_that_was_removed_is_gone_for_the_next_command(tmp_path, release, told_first):
    """Whether its event precedes the reply or follows it, nothing comes between."""

    async def story(m):
        await m.null("a")
        address = {"type": "unix", "data": {"path": str(tmp_path / "s")}}
        await m.ask("nbd-server-start", addr=address)
        for _ in range(5):
            m.told.clear()
            await m.ask("block-export-add", type="nbd", id="e", node_name="a")
            await m.ask("block-export-del", id="e")
            assert m.names() == (["BLOCK_EXPORT_DELETED"] if told_first else [])
            assert await m.ask("query-block-exports") == []
            assert m.names() == ["BLOCK_EXPORT_DELETED"]

    play(story, release)
