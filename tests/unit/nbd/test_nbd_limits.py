"""What a client can cost: time, memory, places; and what closing waits for."""

import asyncio
import contextlib
import socket
import struct
import threading
import time

import pytest
from nbd_talk import (
    CLOSED,
    DF,
    FLUSH,
    FUA,
    GO,
    LIST,
    READ,
    SET_META,
    STATUS,
    STRUCTURED,
    TRIM,
    WRITE,
    ZEROES,
    Talk,
    info,
    option,
    queries,
    request,
    serving,
)  # fmt: skip

from nbexport.bits import Bitmap, Extents
from nbexport.nbd import Client, Export, MetaContext, NbdServer, server
from nbexport.nbd import connection as module

SECONDS = 10.0
SIZE = 64 << 20


class Disk:
    """A disk in memory that notes what is done to it, and does it when it is let."""

    def __init__(self):
        self.bytes = bytearray(SIZE)
        self.done = []
        self.open = threading.Event()
        self.open.set()
        self.lock = threading.Lock()

    def _note(self, *what):
        assert self.open.wait(SECONDS)
        with self.lock:
            self.done.append(what)

    def read_into(self, offset, buffer):
        self._note("read", offset, len(buffer))
        buffer[:] = self.bytes[offset : offset + len(buffer)]

    def write_from(self, offset, data):
        self._note("write", offset, bytes(data[:8]), len(data))
        self.bytes[offset : offset + len(data)] = data

    def write_zeroes(self, offset, length, *, unmap=True, no_fallback=False):
        self._note("zeroes", offset, length, unmap, no_fallback)

    def discard(self, offset, length):
        self._note("discard", offset, length)

    def flush(self):
        self._note("flush")

    def export(self, **options):
        return Export("", SIZE, self.read_into, writer=self, **options)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s")


def begin(path):
    talk = Talk(path)
    talk.flags()
    talk.option(STRUCTURED)
    assert talk.option(GO, info(b"")).endswith(b"\0\0\0\1\0\0\0\0")
    return talk


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# What reaches the disk


@pytest.mark.parametrize("unmap", [True, False])
def test_each_command_does_to_the_disk_what_it_says(path, unmap):
    disk = Disk()
    with serving(path, disk.export(unmap=unmap)), begin(path) as talk:
        talk.request(WRITE, 5, 3, payload=b"abc")
        talk.request(WRITE, 5, 3, FUA, payload=b"def")
        talk.request(ZEROES, 0, 512)
        talk.request(ZEROES, 0, 512, 2)
        talk.request(ZEROES, 0, 512, 16 | FUA)
        talk.request(TRIM, 0, 512)
        talk.request(TRIM, 0, 512, FUA)
        talk.request(FLUSH)
        talk.request(READ, 5, 3, DF)
        talk.request(READ, 5, 3, DF | FUA)
    assert disk.bytes[5:8] == b"def"
    discard = [("discard", 0, 512)] if unmap else []
    assert disk.done == [
        ("write", 5, b"abc", 3),
        ("write", 5, b"def", 3), ("flush",),
        ("zeroes", 0, 512, unmap, False),
        ("zeroes", 0, 512, False, False),
        ("zeroes", 0, 512, unmap, True), ("flush",),
        *discard, *discard, ("flush",),
        ("flush",),
        ("read", 5, 3), ("flush",), ("read", 5, 3),
    ]  # fmt: skip


def test_a_refused_command_does_not_reach_the_disk(path):
    disk = Disk()
    with serving(path, Export("", SIZE, disk.read_into)), begin(path) as talk:
        talk.request(WRITE, 0, 4, payload=b"abcd")
        talk.request(ZEROES, 0, 4)
        talk.request(TRIM, 0, 4)
        talk.request(FLUSH, 0, 0, FUA)
    assert disk.done == []


@pytest.mark.parametrize("cut", [0, 1, 27, 28, 29, 1000, 4123])
def test_a_write_that_is_cut_short_is_not_done(path, cut):
    disk = Disk()
    with serving(path, disk.export()) as (running, _call):
        with begin(path) as talk:
            talk.send((request(WRITE, 0, 4096) + b"x" * 4096)[:cut])
        until(lambda: not running._connections)
        with begin(path) as talk:
            assert talk.request(READ, 0, 4, DF)[-4:] == bytes(4)
    assert [what for what in disk.done if what[0] == "write"] == []


def test_long_writes_wait_for_each_other_not_in_memory(path):
    disk, length = Disk(), 32 << 20
    disk.open.clear()
    with serving(path, disk.export()) as (running, _call), begin(path) as talk:

        def send():
            for _ in range(5):
                talk.send(request(WRITE, 0, length) + bytes(length))

        sender = threading.Thread(target=send)
        sender.start()
        (connection,) = running._connections
        until(lambda: connection.transmission is not None)
        until(lambda: connection.transmission._bytes == module.BYTES_MAX)
        time.sleep(0.2)
        transmission = connection.transmission
        assert transmission._bytes <= module.BYTES_MAX
        assert len(transmission._engine._input) <= length + module.MiB
        disk.open.set()
        assert all(talk.take_reply()[4:8] == bytes(4) for _ in range(5))
        sender.join(SECONDS)
    assert disk.done == [("write", 0, bytes(8), length)] * 5


# Out of order, and together


def test_a_slow_request_does_not_hold_up_the_next_ones(path):
    gate = threading.Event()

    def read_into(offset, buffer):
        if offset == 0:
            assert gate.wait(SECONDS)
        buffer[:] = bytes([offset // 4096 % 256]) * len(buffer)

    with serving(path, Export("", SIZE, read_into)), begin(path) as talk:
        talk.send(b"".join(request(READ, n * 4096, 1, DF, cookie=n) for n in range(20)))
        first = [int.from_bytes(talk.take_reply()[8:16], "big") for _ in range(19)]
        assert sorted(first) == list(range(1, 20))
        gate.set()
        assert int.from_bytes(talk.take_reply()[8:16], "big") == 0


def test_a_map_in_memory_is_told_while_the_disk_hangs(path):
    disk, bitmap = Disk(), Bitmap(SIZE, 65536)
    bitmap.set(65536, 65536)
    context = MetaContext("x:b", 2, bitmap.extents, source=lambda: bitmap)
    with serving(path, disk.export(contexts=(context,))), Talk(path) as talk:
        talk.flags()
        talk.option(STRUCTURED)
        talk.option(SET_META, queries(b"", b"x:b"))
        talk.option(GO, info(b""))
        disk.open.clear()
        talk.send(b"".join(request(READ, 0, 1, DF, cookie=n) for n in range(30)))
        talk.send(b"".join(request(STATUS, 0, 65536 * 4, 0, cookie=99) for _ in range(300)))
        for _ in range(300):
            reply = talk.take_reply()
            assert reply[8:16] == (99).to_bytes(8, "big")
            assert struct.unpack(">7I", reply[20:]) == (2, 65536, 0, 65536, 1, 131072, 0)
        disk.open.set()
        cookies = {int.from_bytes(talk.take_reply()[8:16], "big") for _ in range(30)}
        assert cookies == set(range(30))


@pytest.mark.parametrize("quick", [True, False])
def test_a_read_that_need_not_wait_does_not(path, quick):
    """What is not at hand goes to a thread; both give the same bytes, in chunks of the same map."""
    disk = Disk()
    disk.bytes[8192:12288] = b"d" * 4096

    def read_now(offset, buffer):
        if quick:
            buffer[:] = disk.bytes[offset : offset + len(buffer)]
        return quick

    allocation = Extents([0, 8192, 12288, SIZE], [3, 0, 3])
    base = MetaContext("base:allocation", 0, allocation.clip, lambda: 1)
    export = disk.export(contexts=(base,), allocation=allocation.clip, read_now=read_now)
    with serving(path, export), begin(path) as talk:
        replies = [talk.request(READ, 4096, 16384) for _ in range(4)]
        assert len(set(replies)) == 1
        assert replies[0].count(b"d" * 4096) == 1
        assert len(replies[0]) == 2 * (20 + 12) + 28 + 4096
        assert talk.request(READ, 8190, 4, DF)[-4:] == b"\0\0dd"
    assert len(disk.done) == (2 if quick else 5)  # the map is kept from the second question on


def test_many_small_requests_are_answered_by_few_sends(path, monkeypatch):
    sends = []
    original = module.Stream._send

    async def count(self, pieces):
        sends.append(1)
        await original(self, pieces)

    monkeypatch.setattr(module.Stream, "_send", count)
    disk = Disk()
    with serving(path, disk.export()), begin(path) as talk:
        sends.clear()
        for _ in range(10):
            talk.send(b"".join(request(READ, n, 16, DF) for n in range(64)))
            for _ in range(64):
                talk.take_reply()
    assert len(sends) <= 640 // 4


# Time


def test_a_client_that_does_not_read_is_left_after_a_while(path):
    disk = Disk()
    with (
        serving(path, disk.export(), write_seconds=0.3) as (running, _call),
        begin(path) as silent,
        begin(path) as other,
    ):
        silent.send(request(READ, 0, 32 << 20, DF))
        until(lambda: len(running._connections) == 1)
        assert other.request(READ, 0, 1, DF)[-1:] == b"\0"
        assert silent.end().endswith(CLOSED)


def test_a_client_that_reads_slowly_is_not(path):
    disk = Disk()
    with serving(path, disk.export(), write_seconds=0.5), begin(path) as talk:
        talk.send(request(READ, 0, 4 << 20, DF))
        taken = 0
        while taken < (4 << 20) + 28:
            taken += len(talk._socket.recv(1 << 19))
            time.sleep(0.05)


def test_015_017_hundreds_of_silent_clients_do_not_delay_one_that_works(path):
    disk = Disk()
    with (
        serving(path, disk.export(), max_connections=0, handshake_seconds=2.0) as (running, _call),
        contextlib.ExitStack() as stack,
    ):
        for number in range(300):
            talk = stack.enter_context(Talk(path))
            talk.send((b"\0\0\0\3" + option(LIST) + option(GO, info(b"nobody")))[: number % 50])
        started = time.monotonic()
        with begin(path) as talk:
            assert talk.request(READ, 0, 1, DF)[-1:] == b"\0"
        assert time.monotonic() - started < 1.5
        until(lambda: not running._connections)


# The end


def test_closing_answers_what_is_under_way(path):
    disk = Disk()
    with contextlib.ExitStack() as stack:
        with serving(path, disk.export()) as (running, _call):
            talk = stack.enter_context(begin(path))
            disk.open.clear()
            for number in range(3):
                talk.send(request(WRITE, number, 1, cookie=number) + b"x")
            (connection,) = running._connections
            until(lambda: connection.transmission and connection.transmission._requests == 3)
            threading.Timer(0.3, disk.open.set).start()
        cookies = {talk.take_reply()[8:16] for _ in range(3)}
        assert len(cookies) == 3
        assert talk.end() == CLOSED
    assert disk.bytes[:3] == b"xxx"


def test_a_disk_that_hangs_does_not_hold_up_closing_for_ever(path, monkeypatch):
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(server, "CLOSE_SECONDS", 0.3)
    monkeypatch.setattr(module, "JOB_SECONDS", 0.2)
    disk = Disk()
    with contextlib.ExitStack() as stack:
        with serving(path, disk.export()):
            talk = stack.enter_context(begin(path))
            disk.open.clear()
            talk.send(request(READ, 0, 1))
            time.sleep(0.1)
            started = time.monotonic()
        assert time.monotonic() - started < 2
        assert talk.end() == CLOSED
        disk.open.set()


def test_an_export_that_comes_back_is_another_one(path):
    """Its name is free at once; who had chosen the old one keeps it until it leaves."""
    old, new = Disk(), Disk()
    new.bytes[:3] = b"new"
    with serving(path, old.export()) as (running, call), begin(path) as talk:
        removal = threading.Thread(target=lambda: call(running.remove("")))
        removal.start()
        until(lambda: not running.exports)
        running.add(new.export())
        with begin(path) as other:
            assert other.request(READ, 0, 3, DF)[-3:] == b"new"
        assert talk.request(READ, 0, 3, DF)[-3:] == bytes(3)
        assert removal.is_alive()
        talk.close()
        removal.join(SECONDS)
        assert not removal.is_alive()


# Sockets that others made


def test_a_socket_that_listens_already(tmp_path):
    async def main():
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        running = NbdServer()
        running.add(Disk().export())
        running.listen_on(listener)
        try:
            (uri,) = running.uris()
            assert await asyncio.to_thread(read, uri) == bytes(3)
        finally:
            await running.close()

    def read(uri):
        with Client.connect(uri, timeout=SECONDS) as client:
            return client.read(0, 3)

    asyncio.run(main())


def test_one_client_that_is_connected_already():
    async def main():
        mine, its = socket.socketpair()
        running = NbdServer(max_connections=1)
        running.add(Disk().export())
        work = asyncio.ensure_future(running.serve_client(its))

        def talk():
            mine.settimeout(SECONDS)
            greeting = mine.recv(18, socket.MSG_WAITALL)
            mine.sendall(b"\0\0\0\3" + option(2))
            return greeting[:8], mine.recv(20, socket.MSG_WAITALL)[-8:], mine.recv(1)

        try:
            assert await asyncio.to_thread(talk) == (b"NBDMAGIC", b"\0\0\0\1\0\0\0\0", b"")
            await asyncio.wait_for(work, SECONDS)
        finally:
            mine.close()
            await running.close()

    asyncio.run(main())
