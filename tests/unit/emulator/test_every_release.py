"""One story on every release that can be emulated: what each knows, refuses, and serves."""

import asyncio
import shutil

import pytest

from nbexport.emulator import Machine, Release
from nbexport.emulator.branches import known_releases
from nbexport.errors import CommandError, UsageError
from nbexport.nbd import Client, wire
from nbexport.qapi import validate
from nbexport.qmp import Dispatcher

ALL = known_releases()


class Monitor:
    """A machine's commands, without the monitor's protocol; each reply must fit the schema."""

    def __init__(self, release):
        self.machine = Machine(Release.parse(release))
        self.schema = self.machine.schema
        version = self.machine.release.version
        self.dispatcher = Dispatcher(self.schema, self.machine.handlers(), release=version)
        self.events = []
        self.machine.on_event(lambda name, data: self.events.append((name, data)))

    async def ask(self, command, **arguments):
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        result = await self.dispatcher.dispatch(command, given)
        validate(self.schema, self.schema.command(command).ret_type, result)
        return result

    async def refused(self, command, **arguments):
        with pytest.raises(CommandError) as caught:
            await self.ask(command, **arguments)
        return str(caught.value)


@pytest.fixture
def run(tmp_path, two_bitmaps):
    shutil.copy(two_bitmaps, tmp_path / "disk.qcow2")
    shutil.copy(two_bitmaps.with_name("two-bitmaps.base.qcow2"), tmp_path)

    def run_story(release, story):
        async def play():
            monitor = Monitor(release)
            try:
                return await story(monitor, tmp_path)
            finally:
                await monitor.machine.close()

        return asyncio.run(asyncio.wait_for(play(), 60))

    return run_story


def disk(folder):
    file = {"driver": "file", "filename": str(folder / "disk.qcow2")}
    return {"driver": "qcow2", "node_name": "n0", "read_only": True, "file": file}


def unix(folder):
    return {"type": "unix", "data": {"path": str(folder / "nbd.sock")}}


def contexts_of(folder, name, wanted=None):
    with Client.connect(f"nbd+unix:///{name}?socket={folder}/nbd.sock", contexts=wanted) as client:
        return client.contexts, client.transmission_flags, client.map()


def at_least(release, *version):
    return Release.parse(release).version >= version


def test_the_releases_that_are_known():
    assert (ALL[0], ALL[-1]) == ("2.12", "11.0")
    assert len(ALL) == 25
    assert str(Release.parse("10.1.9")) == "10.1.9"  # a branch that still gets releases
    with pytest.raises(UsageError, match=r"its branch ends with 8\.2\.10"):
        Release.parse("8.2.11")


@pytest.mark.parametrize("release", ALL)
def test_the_deprecated_way_works_on_every_release(release, run):
    async def story(monitor, folder):
        await monitor.ask("blockdev-add", **disk(folder))
        nodes = await monitor.ask("query-named-block-nodes")
        assert nodes[-1]["drv"] in {"qcow2", "file"}
        await monitor.ask("nbd-server-start", addr=unix(folder))
        await monitor.ask("nbd-server-add", device="n0", name="e")
        found = await asyncio.to_thread(contexts_of, folder, "e")
        await monitor.ask("nbd-server-remove", name="e", mode="hard")
        await monitor.ask("nbd-server-stop")
        await monitor.ask("blockdev-del", node_name="n0")
        assert await monitor.ask("query-named-block-nodes") == []
        return found, list(monitor.events)

    (contexts, flags, maps), events = run(release, story)
    assert contexts == {"base:allocation": 0}
    assert maps["base:allocation"].end > 0
    assert bool(flags & wire.CAN_MULTI_CONN) is at_least(release, 4, 2, 0)
    assert bool(flags & wire.SEND_CACHE) is at_least(release, 3, 0, 0)
    told = [("BLOCK_EXPORT_DELETED", {"id": "e"})] if at_least(release, 5, 2, 0) else []
    assert events == told


@pytest.mark.parametrize("release", [name for name in ALL if at_least(name, 4, 0, 0)])
def test_a_bitmap_has_the_number_of_its_release(release, run):
    async def story(monitor, folder):
        await monitor.ask("blockdev-add", **disk(folder))
        await monitor.ask("nbd-server-start", addr=unix(folder))
        await monitor.ask("nbd-server-add", device="n0", bitmap="weekly")
        assert "in use" in await monitor.refused(
            "block-dirty-bitmap-remove", node="n0", name="weekly"
        )
        return await asyncio.to_thread(contexts_of, folder, "n0")

    contexts, _, maps = run(release, story)
    number = 2 if at_least(release, 5, 2, 0) else 1
    assert contexts == {"base:allocation": 0, "qemu:dirty-bitmap:weekly": number}
    assert maps["qemu:dirty-bitmap:weekly"].total(1) > 0


@pytest.mark.parametrize("release", ALL)
def test_which_check_comes_first(release, run):
    """Before 5.2 the server and the name came first, then the device; names were free."""

    async def story(monitor, folder):
        no_server = await monitor.refused("nbd-server-add", device="none")
        await monitor.ask("blockdev-add", **disk(folder))
        await monitor.ask("nbd-server-start", addr=unix(folder))
        await monitor.ask("nbd-server-add", device="n0")
        twice = await monitor.refused("nbd-server-add", device="none", name="n0")
        again = await monitor.refused("nbd-server-add", device="n0")
        if at_least(release, 5, 2, 0):
            free = await monitor.refused("nbd-server-add", device="n0", name="a b")
        else:
            free = await monitor.ask("nbd-server-add", device="n0", name="a b")
        gone = await monitor.refused("nbd-server-remove", name="none")
        return no_server, twice, again, free, gone

    missing = "Cannot find device='none' nor node-name='none'"
    gone = "Export 'none' is not found"
    if at_least(release, 5, 2, 0):
        again = "Block export id 'n0' is already in use"
        assert run(release, story) == (missing, missing, again, "Invalid block export id", gone)
    else:
        taken = "NBD server already has export named 'n0'"
        assert run(release, story) == ("NBD server not running", taken, taken, {}, gone)


@pytest.mark.parametrize("release", ["2.12", "3.1", "4.0", "7.2", "11.0"])
def test_stopping_no_server(release, run):
    async def story(monitor, _folder):
        if at_least(release, 4, 0, 0):
            assert await monitor.refused("nbd-server-stop") == "NBD server not running"
        else:
            assert await monitor.ask("nbd-server-stop") == {}

    run(release, story)


@pytest.mark.parametrize("release", ["3.0", "3.1"])
def test_the_experimental_command_shows_a_bitmap_under_another_name(release, run):
    async def story(monitor, folder):
        add = "x-nbd-server-add-bitmap"
        assert await monitor.refused(add, name="n0", bitmap="b") == "NBD server not running"
        await monitor.ask("blockdev-add", **disk(folder))
        await monitor.ask("nbd-server-start", addr=unix(folder))
        assert await monitor.refused(add, name="n0", bitmap="b") == "Export 'n0' is not found"
        await monitor.ask("nbd-server-add", device="n0")
        assert await monitor.refused(add, name="n0", bitmap="b") == "Bitmap 'b' is not found"
        await monitor.ask(add, name="n0", bitmap="weekly", bitmap_export_name="full")
        assert "already set" in await monitor.refused(add, name="n0", bitmap="daily")
        return (await asyncio.to_thread(contexts_of, folder, "n0"))[0]

    assert run(release, story) == {"base:allocation": 0, "qemu:dirty-bitmap:full": 1}


def test_it_is_in_no_other_release(run):
    async def story(monitor, _folder):
        text = await monitor.refused("x-nbd-server-add-bitmap", name="n0", bitmap="b")
        assert text == "The command x-nbd-server-add-bitmap has not been found"

    run("4.0", story)
    run("2.12", story)


@pytest.mark.parametrize("release", ["3.0", "3.1", "4.0", "4.2", "11.0"])
def test_bitmap_commands_by_the_names_of_the_release(release, run):
    x = "" if at_least(release, 4, 0, 0) else "x-"

    async def story(monitor, folder):
        await monitor.ask("blockdev-add", **disk(folder))
        options = {"disabled" if not x else "x_disabled": True}
        await monitor.ask(
            "block-dirty-bitmap-add", node="n0", name="t", granularity=4096, **options
        )
        await monitor.ask(f"{x}block-dirty-bitmap-enable", node="n0", name="t")
        source = {"target": "t", "bitmaps": ["weekly"]}
        if x:
            source = {"src_name": "weekly", "dst_name": "t"}
        await monitor.dispatcher.dispatch(f"{x}block-dirty-bitmap-merge", {"node": "n0", **source})
        return monitor.machine.graph.nodes["n0"].bitmap("t")

    bitmap = run(release, story)
    assert bitmap.enabled
    assert bitmap.bits.count > 0


@pytest.mark.parametrize("release", ["10.0", "11.0"])
def test_what_the_newest_releases_ask_first(release, run):
    async def story(monitor, folder):
        await monitor.ask("blockdev-add", **disk(folder))
        options = {"type": "nbd", "id": "e", "node_name": "n0", "allow_inactive": True}
        await monitor.ask("nbd-server-start", addr=unix(folder), handshake_max_seconds=0)
        if release == "11.0":
            empty = await monitor.refused("block-export-add", **options, iothread=[])
            assert empty == "The set of I/O threads must not be empty"
            both = await monitor.refused(
                "block-export-add", **options, iothread=["t"], fixed_iothread=True
            )
            assert both == "Cannot use fixed-iothread for a multi-threaded export"
            one = await monitor.refused("block-export-add", **options, iothread=["t", "u"])
            assert one == 'iothread "t" not found'
        await monitor.ask("block-export-add", **options)
        described = await monitor.ask("query-named-block-nodes", flat=True)
        assert described[0]["active"] is True

    run(release, story)
