"""The monitor on real sockets, and the client, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys

import pytest

from nbexport.errors import CommandError, PeerError, UsageError
from nbexport.qapi import load_release
from nbexport.qmp import Dispatcher, QmpClient, QmpCommandError, QmpServer, connection, endpoints

VERSION = {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""}
CAPS = b'{"execute":"qmp_capabilities"}'
LIMIT = 10.0


class Program:
    """A program with a monitor: two slow commands, one that fails, quit."""

    def __init__(self, **options):
        self.gate = asyncio.Event()
        self.entered = 0
        handlers = {
            "query-version": self.version,
            "block-export-del": self.delete,
            "blockdev-del": self.wait,
            "nbd-server-stop": self.fault,
            "query-block-exports": self.exports,
            "quit": self.quit,
        }
        dispatcher = Dispatcher(load_release("7.2"), handlers, release=(7, 2))
        self.server = QmpServer(dispatcher, version=VERSION, clock=lambda: (10, 20), **options)

    async def version(self, _arguments):
        return VERSION

    async def delete(self, arguments):
        if arguments["id"] == "none":
            raise CommandError("Export 'none' is not found")
        self.server.emit("BLOCK_EXPORT_DELETED", {"id": arguments["id"]})

    async def wait(self, _arguments):
        self.entered += 1
        await self.gate.wait()

    async def fault(self, _arguments):
        raise RuntimeError("a fault of ours")

    async def exports(self, _arguments):
        info = {"shutting-down": False, "node-name": "n" * 100_000, "type": "nbd", "id": "e"}
        return [info] * 100

    async def quit(self, _arguments):
        self.server.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        self.server.request_close()


def run(scenario):
    """Run a scenario, a coroutine function, within a time limit."""

    async def limited():
        async with asyncio.timeout(LIMIT):
            await scenario()
        # transports of this side let go of their sockets in the next rounds of the loop
        for _ in range(3):
            await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left

    asyncio.run(limited())


async def connect(path):
    return await asyncio.open_unix_connection(str(path))


async def lines(reader, count):
    return [json.loads(await reader.readuntil(b"\r\n")) for _ in range(count)]


@contextlib.asynccontextmanager
async def program(path=None, **options):
    made = Program(**options)
    if path is not None:
        await made.server.listen_unix(path)
    try:
        yield made
    finally:
        await made.server.close()
    if path is not None:
        assert not os.path.lexists(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.sock"


def test_a_conversation(path):
    async def scenario():
        async with program(path):
            reader, writer = await connect(path)
            writer.write(CAPS + b"{'execute':'block-export-del','arguments':{'id':'e'},'id':5}")
            greeting, negotiated, event, answer = await lines(reader, 4)
            assert greeting["QMP"]["capabilities"] == ["oob"]
            assert negotiated == {"return": {}}
            # what a command emits comes before its reply
            assert event == {
                "event": "BLOCK_EXPORT_DELETED",
                "data": {"id": "e"},
                "timestamp": {"seconds": 10, "microseconds": 20},
            }
            assert answer == {"return": {}, "id": 5}
            writer.write(b"{'execute':'block-export-del','arguments':{'id':'none'}}")
            writer.write(b"{'execute':'nope'}{'execute':'block-export-del'}")
            found = [line["error"] for line in await lines(reader, 3)]
            assert [error["desc"] for error in found] == [
                "Export 'none' is not found",
                "The command nope has not been found",
                "Parameter 'id' is missing",
            ]
            assert found[1]["class"] == "CommandNotFound"
            writer.close()

    run(scenario)


def test_what_was_sent_before_the_end_is_answered(path):
    async def scenario():
        async with program(path):
            reader, writer = await connect(path)
            writer.write(CAPS + b"{'execute':'query-version'}" * 50)
            writer.write_eof()
            data = await reader.read()
            assert data.count(b"\r\n") == 52
            writer.close()

    run(scenario)


def test_the_next_client_gets_a_new_session(path):
    async def scenario():
        async with program(path):
            for _ in range(2):
                reader, writer = await connect(path)
                await lines(reader, 1)
                writer.write(b"{'execute':'query-version'}")
                (answer,) = await lines(reader, 1)
                assert "Expecting capabilities negotiation" in answer["error"]["desc"]
                writer.close()

    run(scenario)


def test_quit_answers_and_ends_everything(path, tmp_path):
    async def scenario():
        made = Program()
        other = tmp_path / "other.sock"
        await made.server.listen_unix(path)
        await made.server.listen_unix(other)
        ends = [await connect(path), await connect(other)]
        for reader, writer in ends:
            writer.write(CAPS)
            await lines(reader, 2)
        ends[0][1].write(b"{'execute':'quit'}{'execute':'query-version'}")
        await made.server.wait_closed()
        first, second = [await reader.read() for reader, _ in ends]
        assert [next(iter(json.loads(line))) for line in first.splitlines()] == [
            "timestamp",
            "return",
        ]
        assert b"SHUTDOWN" in second
        assert second.count(b"\n") == 1
        for _, writer in ends:
            writer.close()
        assert list(tmp_path.iterdir()) == []

    run(scenario)


def test_a_close_from_outside_waits_for_no_client(path):
    async def scenario():
        made = Program()
        await made.server.listen_unix(path)
        _, writer = await connect(path)
        made.server.request_close()
        await made.server.wait_closed()
        await made.server.close()
        writer.close()

    run(scenario)


def test_a_silent_client_delays_nobody(path, tmp_path):
    async def scenario():
        other = tmp_path / "other.sock"
        async with program(path) as made:
            await made.server.listen_unix(other)
            deaf = socket.socket(socket.AF_UNIX)
            deaf.connect(str(path))
            # ten answers of 10 MB each, and nobody reads them
            deaf.sendall(CAPS + b"{'execute':'query-block-exports'}" * 10)
            reader, writer = await connect(other)
            writer.write(CAPS + b"{'execute':'query-version'}" * 5)
            assert (await lines(reader, 7))[-1]["return"]["package"] == ""
            unsent = [client._channel.unsent for client in made.server._clients]
            assert max(unsent) <= connection.MAX_UNSENT
            writer.close()
            await asyncio.get_running_loop().run_in_executor(None, deaf.close)

    run(scenario)


def test_a_client_that_never_reads_its_events_is_dropped(path, monkeypatch):
    monkeypatch.setattr(connection, "MAX_UNSENT", 100_000)

    async def scenario():
        async with program(path) as made:
            reader, writer = await connect(path)
            writer.write(CAPS)
            await lines(reader, 2)
            reader._transport.pause_reading()
            for _ in range(20_000):
                made.server.emit("BLOCK_EXPORT_DELETED", {"id": "e"})
                if not any(client._channel.unsent for client in made.server._clients):
                    await asyncio.sleep(0)
                if not made.server._clients:
                    break
            for _ in range(10):
                await asyncio.sleep(0.01)
            assert not made.server._clients
            writer.close()

    run(scenario)


def test_commands_of_two_monitors_take_turns(path, tmp_path):
    async def scenario():
        other = tmp_path / "other.sock"
        async with program(path) as made:
            await made.server.listen_unix(other)
            ends = [await connect(path), await connect(other)]
            for reader, writer in ends:
                writer.write(CAPS + b"{'execute':'blockdev-del','arguments':{'node-name':'n'}}")
                await lines(reader, 2)
            await asyncio.sleep(0.05)
            assert made.entered == 1
            made.gate.set()
            for reader, writer in ends:
                assert await lines(reader, 1) == [{"return": {}}]
                writer.close()

    run(scenario)


def test_a_client_that_goes_while_its_command_runs(path):
    async def scenario():
        async with program(path) as made:
            reader, writer = await connect(path)
            writer.write(CAPS + b"{'execute':'blockdev-del','arguments':{'node-name':'n'}}")
            await lines(reader, 2)
            writer.close()
            await asyncio.sleep(0.02)
            made.gate.set()
            reader, writer = await connect(path)
            assert (await lines(reader, 1))[0]["QMP"]
            writer.close()

    run(scenario)


def test_a_fault_of_ours_is_answered(path, caplog):
    async def scenario():
        async with program(path):
            reader, writer = await connect(path)
            writer.write(CAPS + b"{'execute':'nbd-server-stop'}{'execute':'query-version'}")
            answers = await lines(reader, 4)
            assert answers[2]["error"]["desc"] == "internal error: a fault of ours"
            assert "return" in answers[3]
            writer.close()

    run(scenario)
    assert "nbd-server-stop failed" in caplog.text


def test_tcp():
    async def scenario():
        async with program() as made:
            host, port = await made.server.listen_tcp("127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(host, port)
            assert (await lines(reader, 1))[0]["QMP"]
            with pytest.raises(UsageError, match=f"127.0.0.1:{port}: cannot listen there"):
                await made.server.listen_tcp("127.0.0.1", port)
            with pytest.raises(UsageError, match="address is unknown"):
                await made.server.listen_tcp("no such host.invalid", 1)
            writer.close()

    run(scenario)


def test_an_occupied_path(path, tmp_path):
    async def scenario():
        async with program(path):
            second = Program()
            with pytest.raises(UsageError, match=r"m\.sock: another program listens"):
                await second.server.listen_unix(path)
            assert path.is_socket()
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(path))
        stale.close()
        async with program(path):
            reader, writer = await connect(path)
            await lines(reader, 1)
            writer.close()
        text = tmp_path / "text"
        text.write_text("keep me")
        with pytest.raises(UsageError, match="text: exists and is no socket"):
            await second.server.listen_unix(text)
        assert text.read_text() == "keep me"
        with pytest.raises(UsageError, match="is too long"):
            await second.server.listen_unix("/" + "x" * 200)
        with pytest.raises(UsageError, match="cannot listen there: No such file"):
            await second.server.listen_unix(tmp_path / "none" / "m.sock")

    run(scenario)


def test_somebody_elses_socket_is_left_alone(path):
    async def scenario():
        made = Program()
        await made.server.listen_unix(path)
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))
        await made.server.close()
        assert path.is_socket()
        other.close()

    run(scenario)


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_standard_input_and_output(monkeypatch, tmp_path, kind):
    request = CAPS + b"{'execute':'query-version','id':1}"
    if kind == "pipe":
        source, feed = os.pipe()
        result, target = os.pipe()
        os.write(feed, request)
        os.close(feed)
    else:
        (tmp_path / "in").write_bytes(request)
        source = os.open(tmp_path / "in", os.O_RDONLY)
        target = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    with os.fdopen(source, "rb") as stdin, os.fdopen(target, "wb") as stdout:
        for name, stream in (("stdin", stdin), ("stdout", stdout)):
            monkeypatch.setattr(sys, name, stream)
            monkeypatch.setattr(sys, f"__{name}__", stream)

        async def scenario():
            async with program() as made:
                await made.server.serve_stdio()

        run(scenario)
        assert os.get_blocking(target)
        monkeypatch.undo()
    if kind == "pipe":
        with os.fdopen(result, "rb") as stream:
            output = stream.read()
    else:
        output = (tmp_path / "out").read_bytes()
    assert [next(iter(json.loads(line))) for line in output.splitlines()] == [
        "QMP",
        "return",
        "return",
    ]


def test_an_event_that_the_schema_lacks(path):
    async def scenario():
        async with program() as made:
            with pytest.raises(UsageError, match="no event NOPE"):
                made.server.emit("NOPE")

    run(scenario)


def test_a_handler_for_an_unknown_command():
    async def handler(_arguments):
        return None

    with pytest.raises(UsageError, match="the schema has no command nope"):
        Dispatcher(load_release("7.2"), {"nope": handler}, release=(7, 2))


def test_dispatcher():
    async def version(_arguments):
        # in no particular order, as Python code writes it
        return {"package": "", "qemu": {"micro": 1, "minor": 2, "major": 3}}

    async def scenario():
        dispatcher = Dispatcher(load_release("7.2"), {"query-version": version}, release=(7, 2))
        result = await dispatcher.dispatch("query-version", {})
        assert list(result["qemu"]) == ["major", "minor", "micro"]
        names = [entry["name"] for entry in await dispatcher.dispatch("query-commands", {})]
        assert names == ["query-qmp-schema", "query-commands", "query-version", "qmp_capabilities"]
        assert len(await dispatcher.dispatch("query-qmp-schema", {})) > 100
        for command, arguments, oob, desc in (
            ("quit", {}, False, "The command quit has not been found"),
            ("quit", {}, True, "The command quit has not been found"),
            ("query-version", {}, True, "The command query-version does not support OOB"),
            ("query-version", {"x": 1}, False, "Parameter 'x' is unexpected"),
        ):
            with pytest.raises(CommandError) as caught:
                await dispatcher.dispatch(command, arguments, oob=oob)
            assert caught.value.desc == desc

    run(scenario)


def in_thread(scenario, path, **options):
    """Run a blocking scenario against a program on the loop."""

    async def whole():
        async with program(path, **options) as made:
            await asyncio.get_running_loop().run_in_executor(None, scenario, made)

    run(whole)


@pytest.mark.parametrize("pretty", [False, True])
def test_client(path, pretty):
    def scenario(_made):
        with QmpClient(path, timeout=LIMIT, enable=["oob"]) as client:
            assert client.greeting["version"]["qemu"]["major"] == 7
            assert client.execute("query-version") == VERSION
            assert client.execute("block-export-del", {"id": "a"}) == {}
            client.execute("block-export-del", id="b")
            assert [event["data"]["id"] for event in client.events] == ["a", "b"]
            assert client.wait_event("BLOCK_EXPORT_DELETED")["data"] == {"id": "a"}
            with pytest.raises(QmpCommandError, match="Export 'none' is not found") as caught:
                client.execute("block-export-del", id="none")
            assert caught.value.error_class == "GenericError"
            with pytest.raises(QmpCommandError, match="Parameter 'node-name' is missing"):
                client.execute("blockdev-del")
            with pytest.raises(PeerError, match="no answer in time"):
                client.wait_event("SHUTDOWN", timeout=0.05)
            assert client.execute("quit") == {}
            assert client.wait_event("SHUTDOWN")["data"]["reason"] == "host-qmp-quit"
            with pytest.raises(PeerError, match=r"closed the connection|broke|cannot send"):
                client.execute("query-version")

    in_thread(scenario, path, pretty=pretty)


def test_client_without_a_monitor(path):
    with pytest.raises(PeerError, match=r"m\.sock: cannot connect: .*No such file"):
        QmpClient(path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with pytest.raises(PeerError, match="no answer in time"):
            QmpClient(address, timeout=0.05)


def test_client_of_something_else(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        async def whole():
            loop = asyncio.get_running_loop()
            for words in (b"220 mail\r\n", b'{"hello": 1}\r\n', b""):
                waiting = loop.run_in_executor(None, QmpClient, path)
                peer, _ = await loop.run_in_executor(None, listener.accept)
                peer.sendall(words)
                peer.shutdown(socket.SHUT_WR)
                with pytest.raises(PeerError, match=r"not QMP|no QMP greeting|closed"):
                    await waiting
                peer.close()

        run(whole)


def test_limits_are_stated():
    assert endpoints.BACKLOG == 1
    assert connection.READ_SIZE <= connection.MAX_UNSENT
