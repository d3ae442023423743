"""Many monitors at once, with clients that never read and never end: nothing gets lost."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from nbexport.bench.monitors import memory_bound
from nbexport.emulator import Machine, Release, make_monitor
from nbexport.qmp import connection, jsonstream
from nbexport.units import MiB

LIMIT = 30.0
CAPS = b"{'execute':'qmp_capabilities'}"


@contextlib.asynccontextmanager
async def crowd(folder, count, release="7.2"):
    """Give clients of as many monitors of one machine, negotiated, and the monitors."""
    machine = Machine(Release.parse(release))
    server = make_monitor(machine)
    clients = []
    try:
        for number in range(count):
            path = folder / f"{number}"
            await server.listen_unix(path)
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(CAPS)
            greeting = json.loads(await reader.readuntil(b"\n"))
            assert greeting["QMP"]["capabilities"] == ([] if release < "4" else ["oob"])
            await reader.readuntil(b"\n")
            clients.append((reader, writer))
        yield server, clients
    finally:
        for _, writer in clients:
            writer.transport.abort()
        await server.close()
        await machine.close()


def run(scenario):
    async def limited():
        async with asyncio.timeout(LIMIT):
            await scenario()

    asyncio.run(limited())


def test_nothing_is_lost_beside_bad_clients(tmp_path):
    async def scenario():
        async with crowd(tmp_path, 22) as (_, clients):
            (stalled, mute), (_, endless), *good = clients
            # wants much and reads nothing
            stalled._transport.pause_reading()
            mute.write(b"{'execute':'query-qmp-schema'}" * 100)
            endless.write(b"{'execute':'x','arguments':{'a':[" + b"'bbbbbbbb'," * 100_000)

            async def ask(reader, writer):
                for number in range(50):
                    writer.write(b"{'execute':'query-block-exports','id':%d}" % number)
                found = [json.loads(await reader.readuntil(b"\n")) for _ in range(50)]
                assert found == [{"return": [], "id": number} for number in range(50)]

            await asyncio.gather(*(ask(*client) for client in good))

    run(scenario)


def test_events_reach_every_monitor_that_has_negotiated(tmp_path):
    async def scenario():
        async with crowd(tmp_path, 3) as (server, clients):
            extra = tmp_path / "new"
            await server.listen_unix(extra)
            new, writer = await asyncio.open_unix_connection(str(extra))
            await new.readuntil(b"\n")
            server.emit("BLOCK_EXPORT_DELETED", {"id": "e"})
            lines = [await reader.readuntil(b"\n") for reader, _ in clients]
            assert len(set(lines)) == 1
            assert json.loads(lines[0])["data"] == {"id": "e"}
            writer.write(CAPS)
            # the one that came before its negotiation is not told of later either
            assert await new.readuntil(b"\n") == b'{"return": {}}\r\n'
            writer.close()

    run(scenario)


@pytest.mark.parametrize("release", ["2.12", "3.1"])
def test_oob_is_not_offered_before_4_0(tmp_path, release):
    async def scenario():
        async with crowd(tmp_path, 1, release):
            pass

    run(scenario)


def test_the_bound_is_made_of_the_bounds_of_its_parts():
    assert memory_bound(0, 1) - memory_bound(0, 0) > connection.MAX_UNSENT
    message = memory_bound(1, 0) - memory_bound(0, 0)
    assert message > jsonstream.MAX_TOKEN_SIZE + 100 * jsonstream.MAX_TOKEN_COUNT
    assert memory_bound(1, 1) < 1024 * MiB
