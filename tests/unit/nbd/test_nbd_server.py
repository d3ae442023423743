"""The server on real sockets: who waits for whom, and what ends when."""

import asyncio
import contextlib
import errno
import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from nbd_talk import (
    CLOSED,
    DF,
    DISC,
    GO,
    LIST,
    READ,
    SET_META,
    STATUS,
    STRUCTURED,
    Talk,
    info,
    queries,
    request,
    serving,
)  # fmt: skip

from nbexport.bits import Extents
from nbexport.errors import FormatError, UsageError
from nbexport.nbd import Client, Export, MetaContext, NbdServer
from nbexport.nbd import connection as module

SIZE = 1 << 20
SECONDS = 10.0


def fill(offset, buffer):
    buffer[:] = bytes((offset + i) & 0xFF for i in range(len(buffer)))


def uniform(start, end):
    return Extents.uniform(start, end, 0)


BASE = MetaContext("base:allocation", 0, uniform)


def export(name="", *, read_into=fill, contexts=(BASE,), **options):
    return Export(name, SIZE, read_into, contexts=contexts, **options)


class Gate:
    """A disk that answers when it is let."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.reading = 0

    def read_into(self, offset, buffer):
        self.reading += 1
        self.entered.release()
        try:
            assert self.open.wait(SECONDS)
            fill(offset, buffer)
        finally:
            self.reading -= 1


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s")


def begin(path, name=b"", *, contexts=()):
    talk = Talk(path)
    talk.flags()
    talk.option(STRUCTURED)
    if contexts:
        talk.option(SET_META, queries(name, *contexts))
    assert talk.option(GO, info(name)).endswith(b"\0\0\0\1\0\0\0\0")
    return talk


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_slow_disk_holds_up_nobody_else(path):
    gate = Gate()
    with (
        serving(path, export("slow", read_into=gate.read_into), export("fast")),
        begin(path, b"slow") as slow,
        begin(path, b"fast") as fast,
    ):
        for _ in range(40):
            slow.send(request(READ, 0, 16))
        assert gate.entered.acquire(timeout=SECONDS)
        assert fast.request(READ, 3, 4)[-4:] == b"\3\4\5\6"
        assert gate.reading <= module.THREADS_PER_CLIENT
        gate.open.set()
        replies = [slow.take_reply() for _ in range(40)]
        assert all(reply.endswith(bytes(range(16))) for reply in replies)


def test_a_client_that_reads_nothing_holds_up_nobody_and_costs_little(path):
    started = []

    def count(offset, buffer):
        started.append(len(buffer))

    size = 8 << 20
    big = Export("", 4 * size, count)
    with serving(path, big), begin(path) as silent, begin(path) as other:
        # In one piece: who is not read from may have to wait before the next piece.
        silent.send(request(READ, 0, size, DF) * 100)
        until(lambda: len(started) >= 8)
        assert other.request(READ, 0, 3, DF)[-3:] == bytes(3)
        time.sleep(0.1)
        # 8 MiB each: no more than the connection's share of memory is read ahead.
        assert started.count(size) <= module.BYTES_MAX // size + 1


def test_each_request_is_answered_once_over_many_connections(path):
    with serving(path, export()), contextlib.ExitStack() as stack:
        talks = [stack.enter_context(begin(path)) for _ in range(16)]
        for talk in talks:
            talk.send(b"".join(request(READ, i, 2, cookie=1000 + i) for i in range(64)))
        for talk in talks:
            cookies = sorted(int.from_bytes(talk.take_reply()[8:16], "big") for _ in range(64))
            assert cookies == [1000 + i for i in range(64)]


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EIO, "broken"), 5), (OSError(errno.ENOSPC, "full"), 28),
        (OSError(errno.EROFS, "fixed"), 1), (OSError(errno.ENOENT, "gone"), 22),
        (FormatError("bad table"), 5), (ZeroDivisionError("a fault"), 5),
    ],
)  # fmt: skip
def test_a_failed_read_or_status_is_an_error_chunk_and_the_next_works(path, error, number, caplog):
    def read_into(offset, buffer):
        if offset:
            raise error

    def extents(start, end):
        if start:
            raise error
        return uniform(start, end)

    context = MetaContext("base:allocation", 0, extents)
    with serving(path, export(read_into=read_into, contexts=(BASE, context))):
        with begin(path, contexts=(b"base:allocation",)) as talk:
            text = b"reading from file failed"
            expected = number.to_bytes(4, "big") + len(text).to_bytes(2, "big") + text
            assert talk.request(READ, 512, 10).endswith(expected)
            assert talk.request(READ, 0, 10).endswith(bytes(10))
        with Talk(path) as simple:
            simple.flags()
            simple.option(GO, info(b""))
            simple.request(READ, 512, 10)
            assert simple.log[-1][4:8] == number.to_bytes(4, "big")
            assert simple.request(READ, 0, 10).endswith(bytes(10))
    failing = MetaContext("base:allocation", 0, extents)
    with (
        serving(path, export(contexts=(failing,))),
        begin(path, contexts=(b"base:allocation",)) as talk,
    ):
        text = b"can't get block status"
        expected = number.to_bytes(4, "big") + len(text).to_bytes(2, "big") + text
        assert talk.request(STATUS, 512, 10).endswith(expected)
        assert talk.request(STATUS, 0, 10).endswith(b"\0\0\0\x0a\0\0\0\0")
    assert caplog.records


def test_disconnect_answers_what_is_under_way_first(path):
    gate = Gate()
    with serving(path, export(read_into=gate.read_into)), begin(path) as talk:
        talk.send(request(READ, 5, 2) + request(DISC))
        assert gate.entered.acquire(timeout=SECONDS)
        gate.open.set()
        assert talk.take_reply().endswith(b"\5\6")
        assert talk.end() == CLOSED


def test_leaving_at_any_byte_leaves_no_trace(path, caplog):
    data = b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\7\0\0\0\6" + bytes(6) + request(READ, 0, 16)
    with serving(path, export()) as (server, _call):
        for length in range(len(data) + 1):
            with Talk(path) as talk:
                talk.send(data[:length])
        until(lambda: not server._connections)
        with begin(path) as talk:
            assert talk.request(READ, 1, 1)[-1:] == b"\1"
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]


def test_a_reset_at_any_byte_leaves_no_trace(caplog):
    data = b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\7\0\0\0\6" + bytes(6) + request(READ, 0, 16)
    rudely = struct.pack("ii", 1, 0)  # closing sends RST

    async def main():
        server = NbdServer()
        server.add(export())
        ((host, port),) = await server.listen_tcp("127.0.0.1", 0)

        def leave(length):
            with socket.create_connection((host, port), SECONDS) as client:
                client.sendall(data[:length])
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, rudely)

        try:
            for length in range(len(data) + 1):
                await asyncio.to_thread(leave, length)
            async with asyncio.timeout(SECONDS):
                while server._connections:
                    await asyncio.sleep(0.005)
            assert await asyncio.to_thread(read_one, server.uris()[0]) == b"\7\x08"
        finally:
            await server.close()

    asyncio.run(main())
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]


def read_one(uri):
    with Client.connect(uri) as client:
        return client.read(7, 2)


def test_block_status_counts_for_memory_as_reads_do(path):
    gate, size = Gate(), 1 << 32

    def extents(start, end):
        gate.read_into(0, bytearray(1))
        return uniform(start, end)

    contexts = tuple(MetaContext(f"x:{i}", i, extents) for i in range(32))
    disk = Export("", size, fill, contexts=contexts)
    with (
        serving(path, disk) as (server, _call),
        begin(path, contexts=[b"x:%d" % i for i in range(32)]) as talk,
    ):
        for _ in range(16):
            talk.send(request(STATUS, 0, size - 1))
        assert gate.entered.acquire(timeout=SECONDS)
        (connection,) = server._connections
        # A MiB for each context: two requests are all that fits.
        until(lambda: connection.transmission._bytes == 64 << 20)
        until(lambda: connection.transmission._requests == 2)
        gate.open.set()
        for _ in range(16):
            assert len(talk.take_reply()) == 32 * (20 + 4 + 8)
        until(lambda: connection.transmission._bytes == 0)


def test_a_client_that_leaves_while_it_is_answered(path):
    big = Export("", 64 << 20, lambda _offset, _buffer: None)
    with serving(path, big) as (server, _call):
        for _ in range(5):
            with begin(path) as talk:
                talk.send(request(READ, 0, 32 << 20, DF) * 3)
                talk._exactly(1)
        until(lambda: not server._connections)
        with begin(path) as talk:
            assert talk.request(READ, 1, 1, DF)[-1:] == b"\0"


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_the_handshake_has_a_time_limit(path, steps):
    with serving(path, export(), handshake_seconds=0.3):
        with Talk(path) as talk:
            if steps:
                talk.flags()
            if steps > 1:
                talk.option(LIST)
            started = time.monotonic()
            assert talk.end() == CLOSED
            assert time.monotonic() - started < SECONDS
        with begin(path) as talk:
            time.sleep(0.4)  # the limit is for the handshake only
            assert talk.request(READ, 1, 1)[-1:] == b"\1"


def test_who_comes_when_all_places_are_taken_waits(path):
    with (
        serving(path, export(), max_connections=2, handshake_seconds=0),
        Talk(path),
        Talk(path) as second,
        socket.socket(socket.AF_UNIX) as third,
    ):
        third.connect(path)
        third.settimeout(0.2)
        with pytest.raises(TimeoutError):
            third.recv(1)
        second.close()
        third.settimeout(SECONDS)
        assert third.recv(8) == b"NBDMAGIC"


def test_clients_are_counted_once_they_have_chosen(path):
    with serving(path, export("a"), export("b")) as (server, _call), Talk(path):
        assert server.clients_of("a") == 0
        with begin(path, b"a"), begin(path, b"a"):
            assert (server.clients_of("a"), server.clients_of("b")) == (2, 0)
        until(lambda: server.clients_of("a") == 0)


def test_a_closed_client_is_not_counted(path):
    with serving(path, export("a")) as (server, _call):
        for _ in range(20):
            with Client.connect(server.uris("a")[0]) as client:
                assert client.read(1, 1) == b"\1"
                assert server.clients_of("a") == 1
            assert server.clients_of("a") == 0


def test_hard_removal_cuts_its_clients_and_no_others(path):
    gate = Gate()
    slow = export("a", read_into=gate.read_into)
    with serving(path, slow, export("b")) as (server, call):
        with begin(path, b"a") as mine, begin(path, b"a") as busy, begin(path, b"b") as other:
            busy.send(request(READ, 0, 1))
            assert gate.entered.acquire(timeout=SECONDS)
            threading.Timer(0.2, gate.open.set).start()
            call(server.remove("a", hard=True))
            # The disk may be closed from here on.
            assert gate.reading == 0
            assert (mine.end(), busy.end()) == (CLOSED, CLOSED)
            assert other.request(READ, 1, 1)[-1:] == b"\1"
            assert list(server.exports) == ["b"]
        with Talk(path) as late:
            late.flags()
            assert b"export 'a' not present" in late.option(GO, info(b"a"))


def test_gentle_removal_waits_for_its_clients(path):
    with serving(path, export("a")) as (server, call):
        with begin(path, b"a") as talk:
            threading.Timer(0.2, talk.send, [request(DISC)]).start()
            call(server.remove("a"))
            assert talk.end() == CLOSED
        call(server.remove("a"))  # not there: nothing happens


def test_names_are_taken_once(path):
    with (
        serving(path, export("a")) as (server, _call),
        pytest.raises(UsageError, match="NBD server already has export named 'a'"),
    ):
        server.add(export("a"))


def test_closing_ends_clients_in_every_phase_in_time(path):
    gate = Gate()
    big = Export("big", 64 << 20, lambda _offset, _buffer: None)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        with serving(path, export(), export("slow", read_into=gate.read_into), big):
            silent = enter(Talk(path))
            halfway = enter(Talk(path))
            halfway.flags()
            halfway.send(b"IHAVE")
            idle = enter(begin(path))
            slow = enter(begin(path, b"slow"))
            slow.send(request(READ, 0, 1))
            assert gate.entered.acquire(timeout=SECONDS)
            threading.Timer(0.2, gate.open.set).start()
            stuck = enter(begin(path, b"big"))
            stuck.send(request(READ, 0, 32 << 20, DF))
            started = time.monotonic()
        assert time.monotonic() - started < SECONDS
        assert not Path(path).exists()
        for talk in (silent, halfway, idle):
            assert talk.end() == CLOSED
        assert slow.end().endswith(bytes(8) + b"\0" + CLOSED)  # what was under way is answered
        assert stuck.end().endswith(CLOSED)


@pytest.mark.parametrize(("address", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_tcp_on_a_free_port_and_its_uri(address, shown):
    if address == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6")

    async def main():
        server = NbdServer()
        server.add(export("a b"))
        try:
            (host, port), *others = await server.listen_tcp(address, 0)
            assert (host, others) == (address, [])
            assert server.uris("a b") == [f"nbd://{shown}:{port}/a%20b"]
            assert await asyncio.to_thread(read_one, server.uris("a b")[0]) == b"\7\x08"
            with pytest.raises(OSError, match="in use"):
                await server.listen_tcp(address, port)
        finally:
            await server.close()

    asyncio.run(main())


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def listen(path):
    with serving(path):
        pass


def test_a_socket_of_a_living_server_is_not_taken(path):
    with serving(path, export()):
        with pytest.raises(UsageError, match=f"{path}: .*(in use|listens)"):
            listen(path)
        with begin(path) as talk:
            assert talk.request(READ, 1, 1)[-1:] == b"\1"


def test_a_dead_socket_is_replaced_and_removed_at_the_end(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    listen(path)
    assert not Path(path).exists()


@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "link"])
def test_what_is_no_socket_is_never_removed(path, kind, tmp_path):
    if kind == "file":
        Path(path).write_text("precious")
    elif kind == "folder":
        Path(path).mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        Path(path).symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=f"{path}: exists and is (not a|no) socket"):
        listen(path)
    assert os.path.lexists(path)


def test_a_socket_that_took_our_place_is_not_removed(path):
    with serving(path), socket.socket(socket.AF_UNIX) as other:
        Path(path).rename(path + ".old")
        other.bind(path)
    assert Path(path).exists()


def test_a_path_that_is_too_long():
    with pytest.raises(UsageError, match="is too long"):
        listen("/tmp/" + "x" * 104)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        listen(tmp_path / "none" / "s")


def test_a_limit_of_one_client_holds_over_all_addresses(tmp_path):
    """A listener on which nobody calls must not use up the only place."""

    async def scenario():
        server = NbdServer(max_connections=1)
        server.add(export())
        for name in ("first", "second"):
            await server.listen_unix(str(tmp_path / name))
        try:
            for name in ("second", "first", "second"):
                uri = f"nbd+unix:///?socket={tmp_path / name}"
                await asyncio.to_thread(read_once, uri)
        finally:
            await server.close()

    def read_once(uri):
        with Client.connect(uri, timeout=SECONDS) as client:
            assert client.read(1, 3) == b"\x01\x02\x03"

    asyncio.run(scenario())


def test_who_has_just_left_is_not_counted(path):
    with serving(path, export("a")) as (server, call), begin(path, b"a"):
        for _ in range(50):
            begin(path, b"a").close()
            # asked before the server has had a turn to look at the end of the connection
            assert call(server.settle("a")) == 1


def test_who_asks_without_end_is_counted_soon(path):
    with serving(path, export("a")) as (server, call), begin(path, b"a") as talk:
        talk.send(b"\x25\x60\x95\x13")  # a request that is never finished
        began = time.monotonic()
        assert call(server.settle("a")) == 1
        assert time.monotonic() - began < SECONDS
