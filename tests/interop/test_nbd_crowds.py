"""A thousand clients that get nowhere, and clients that are killed while they write."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import statistics
import struct
import subprocess
import time

import pytest
import tls_files
from beside import QUIET, ours, uri
from nbd_talk import GO, READ, SET_META, STARTTLS, WRITE, Talk, info, option, queries, request
from peers import peer, run
from watched import MEMORY_MARGIN, PATTERN, SIZE, MiB, Server, leave, make_image, unharmed

pytestmark = pytest.mark.interop

CROWD = 1000
LIMIT_S = 4.0
FLAGS = struct.pack(">I", 3)
CHOSEN = FLAGS + option(GO, info(b""))

IN_THE_HANDSHAKE = {
    "silent": b"",
    "half the flags": FLAGS[:2],
    "half an option's header": FLAGS + option(GO, info(b""))[:9],
    "half an option's body": FLAGS + option(SET_META, queries(b"", b"base:allocation"))[:-7],
    "a long option": FLAGS + option(99, b"", 32 * MiB) + bytes(1000),
    "waiting for TLS": FLAGS + option(STARTTLS),
}
BEHIND_IT = {
    "half a request": CHOSEN + request(READ, 0, 10)[:13],
    "half a payload": CHOSEN + request(WRITE, 6 * MiB, MiB) + bytes(1000),
    "unread replies": CHOSEN + request(READ, 0, MiB // 8) * 16,
}


@pytest.fixture(scope="module", autouse=True)
def many_files():
    """Let this process and its children have as many sockets as a crowd needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CROWD + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.fail(f"this machine allows {hard} open files, the test needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crowd")
    image = make_image(folder / "disk.raw")
    (folder / "tls").mkdir()
    folders = tls_files.make(folder / "tls")
    words = ("-f", "raw", "--writable", "--handshake-limit", str(LIMIT_S))
    tls = ("--tls-creds", str(folders.server), "--tls", "optional", "--no-tls-verify-peer")
    with ours(image, folder / "s", *words, *tls) as process:
        server = Server(process, folder / "s")
        server.check()
        yield server


def conversation(server):
    """Return how long a client needs that works."""
    begun = time.perf_counter()
    server.check()
    return time.perf_counter() - begun


def typical(server):
    return statistics.median(conversation(server) for _ in range(15))


def gather(server, sent):
    crowd = []
    for _ in range(CROWD):
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(20)
        link.connect(os.fspath(server.path))
        link.sendall(sent)
        crowd.append(link)
    return crowd


def wait_for_end(crowd):
    """Wait until the server has closed every connection; return how many it has not."""
    waiting = {link.fileno(): link for link in crowd}
    poll = select.poll()
    for number in waiting:
        poll.register(number, select.POLLIN)
    until = time.monotonic() + 10 * LIMIT_S
    while waiting and time.monotonic() < until:
        for number, _ in poll.poll(1000):
            try:
                came = waiting[number].recv(65536)
            except ConnectionError:
                came = b""
            if not came:
                poll.unregister(number)
                del waiting[number]
    return len(waiting)


@pytest.mark.parametrize("sent", IN_THE_HANDSHAKE.values(), ids=IN_THE_HANDSHAKE)
def test_a_crowd_in_the_handshake_delays_nobody_and_is_gone_in_time(running, sent):
    with unharmed(running) as server:
        alone = typical(server)
        crowd = gather(server, sent)
        try:
            assert typical(server) < 20 * alone + 0.5
            assert wait_for_end(crowd) == 0
        finally:
            for link in crowd:
                link.close()


@pytest.mark.parametrize("sent", BEHIND_IT.values(), ids=BEHIND_IT)
def test_a_crowd_that_has_chosen_delays_nobody(running, sent):
    """Nothing limits how long such a client may take, as with QEMU; what it holds is bounded."""
    with unharmed(running) as server:
        alone, before = typical(server), server.memory()
        crowd = gather(server, sent)
        try:
            assert typical(server) < 20 * alone + 0.5
            held = server.memory() - before
        finally:
            for link in crowd:
                link.close()
    # The replies that leave together, a quarter of a MiB, and not all 2 MiB that were asked for.
    assert held < CROWD * (MiB // 2) + MEMORY_MARGIN


# Clients that are killed while they write

OFFSET, LENGTH = 4 * MiB, 8192


def content(path, offset, length):
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


@pytest.mark.parametrize("by_reset", [False, True], ids=["end", "reset"])
def test_a_write_that_is_cut_anywhere_is_done_wholly_or_not(running, by_reset):
    image = running.path.parent / "disk.raw"
    old, new = content(image, OFFSET, LENGTH), os.urandom(LENGTH)
    head = request(WRITE, OFFSET, LENGTH)
    cuts = [*range(len(head) + 1), *(len(head) + n for n in (1, 511, 512, 4095, 4096, LENGTH - 1))]
    with unharmed(running) as server:
        for cut in cuts:
            talk = server.talk()
            talk.flags()
            talk.option(GO, info(b""))
            talk.send((head + new)[:cut])
            leave(talk, by_reset=by_reset)
            server.check()
            assert content(image, OFFSET, LENGTH) == old
        with server.talk() as talk:
            talk.flags()
            talk.option(GO, info(b""))
            talk.send(head + new)
            talk.take_reply()
        assert content(image, OFFSET, LENGTH) == new


def test_a_write_that_came_whole_is_done_though_its_client_has_gone(running):
    image = running.path.parent / "disk.raw"
    new = os.urandom(LENGTH)
    with unharmed(running) as server:
        talk = server.talk()
        talk.flags()
        talk.option(GO, info(b""))
        talk.send(request(WRITE, OFFSET, LENGTH) + new)
        talk.close()
        until = time.monotonic() + 20
        while content(image, OFFSET, LENGTH) != new and time.monotonic() < until:
            time.sleep(0.02)
        assert content(image, OFFSET, LENGTH) == new


def test_a_program_that_is_killed_while_it_copies(running, tmp_path):
    """Each block is the old one or the new one, and the copy can be made again."""
    image, source = running.path.parent / "disk.raw", tmp_path / "source.raw"
    source.write_bytes(PATTERN * (MiB // 256) + os.urandom(SIZE - MiB))
    with unharmed(running) as server:
        for delay in (0.0, 0.005, 0.01, 0.02, 0.05):
            before = image.read_bytes()
            command = [peer("nbdcopy"), "--request-size=4096", str(source), uri(server.path)]
            copying = subprocess.Popen(command, **QUIET)
            time.sleep(delay)
            copying.send_signal(signal.SIGKILL)
            copying.wait()
            server.check()
            after, wanted = image.read_bytes(), source.read_bytes()
            for at in range(0, SIZE, 4096):
                block = after[at : at + 4096]
                assert block in (before[at : at + 4096], wanted[at : at + 4096])
        run("nbdcopy", source, uri(server.path))
        assert image.read_bytes() == source.read_bytes()


def test_a_connection_can_be_made_after_all_that(running):
    with Talk(running.path) as talk:
        talk.flags()
        talk.option(GO, info(b""))
        assert len(talk.request(READ, 0, 10)) == 26
