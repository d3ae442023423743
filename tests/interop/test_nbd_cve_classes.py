"""Faults that servers and clients of NBD have had, by class: ours must have none of them.

After each test the same process serves a new client rightly, and holds no more than before.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import subprocess
import threading

import pytest
from beside import NBEXPORT, error_of, ours, statuses
from nbd_talk import (
    ABORT,
    CLOSED,
    EXPORT_NAME,
    GO,
    INFO,
    LIST,
    LIST_META,
    PEEK,
    READ,
    SET_META,
    STARTTLS,
    STATUS,
    STRUCTURED,
    WRITE,
    Talk,
    info,
    option,
    queries,
    request,
    string,
)  # fmt: skip
from peers import run
from watched import MEMORY_MARGIN, SIZE, MiB, Server, leave, make_image, unharmed

pytestmark = pytest.mark.interop

FLAGS = struct.pack(">I", 3)
EINVAL = 22
ALL_OPTIONS = (EXPORT_NAME, ABORT, LIST, PEEK, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META,
               11, 99)  # fmt: skip
WITH_NAMES = (INFO, GO, LIST_META, SET_META)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("image") / "disk.raw")


@pytest.fixture(scope="module")
def running(image, tmp_path_factory):
    path = tmp_path_factory.mktemp("server") / "s"
    with ours(image, path, "-f", "raw") as process:
        server = Server(process, path)
        server.check()
        yield server


@pytest.fixture
def server(running):
    with unharmed(running):
        yield running


CONVERSATION = (
    FLAGS + option(LIST) + option(STRUCTURED) + option(SET_META, queries(b"", b"base:allocation"))
    + option(GO, info(b"", 1, 3)) + request(READ, 0, 10)
)  # fmt: skip


@pytest.mark.parametrize("by_reset", [False, True], ids=["end", "reset"])
def test_cve_2017_9524_clients_leave_at_every_byte(server, by_reset):
    for cut in range(len(CONVERSATION) + 1):
        with contextlib.suppress(ConnectionError):
            talk = server.talk()
            talk.send(CONVERSATION[:cut])
            leave(talk, by_reset=by_reset)


def test_cve_2017_10664_clients_leave_in_the_middle_of_a_reply(server):
    def once():
        with server.talk() as talk:
            talk.flags()
            talk.option(GO, info(b""))
            talk.send(request(READ, 0, SIZE))
            talk._socket.recv(1)

    threads = [threading.Thread(target=once) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


@pytest.mark.parametrize("data", [b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4, bytes(400)])
def test_cve_2017_7539_garbage_before_and_with_and_instead_of_the_flags(server, data):
    for sent in (data, FLAGS[:2] + data, FLAGS + data, data + CONVERSATION):
        with server.talk() as talk:
            talk.send(sent)
            talk._socket.shutdown(socket.SHUT_WR)
            assert talk.end().endswith(CLOSED)


def test_cve_2017_15118_long_names(server):
    for length in (255, 256, 257, 1023, 1024, 3000, 4096, 4097, 100_000):
        for number in (EXPORT_NAME, *WITH_NAMES):
            name = b"n" * length
            with server.talk() as talk:
                talk.flags()
                talk.option(STRUCTURED)
                if number == EXPORT_NAME:
                    assert talk.export_name(name) == CLOSED
                    continue
                body = queries(name) if number in {LIST_META, SET_META} else info(name)
                assert talk.option(number, body)[12] & 0x80
                assert talk.option(LIST)[-8:] == struct.pack(">II", 1, 0)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 32 * MiB, 32 * MiB + 1])
def test_cve_2017_15119_lengths_that_are_promised_only(server, length):
    before = server.memory("VmHWM")
    for number in ALL_OPTIONS:
        with server.talk() as talk:
            talk.flags()
            talk.send(option(number, b"", length))
            talk._socket.shutdown(socket.SHUT_WR)
            talk.end()
    assert server.memory("VmHWM") < before + MEMORY_MARGIN


@pytest.mark.parametrize(
    "name", [b"n" * 4096, b"\xff\xfe" * 2048, b"a\nb\r\x1b[31m" * 10, b"%n%s" * 1000]
)
def test_cve_2020_10761_long_and_odd_names_in_errors(server, name):
    with server.talk() as talk:
        talk.flags()
        for number in (INFO, GO):
            reply = talk.option(number, info(name))
            text = reply[20:]
            assert len(text) < 900
            text.decode("utf-8")  # what the client called it comes back to the client alone
            assert b"\0" not in text
        talk.option(STRUCTURED)
        assert len(talk.option(SET_META, queries(name, b"base:"))) < 900
        assert talk.option(LIST)[-8:] == struct.pack(">II", 1, 0)


def test_cve_2024_7409_stopping_with_clients_in_every_state(image, tmp_path):
    path = tmp_path / "s"
    with ours(image, path, "-f", "raw") as process:
        server = Server(process, path)
        server.check()
        talks = [server.talk() for _ in range(200)]
        for number, talk in enumerate(talks):
            if number % 4:
                talk.flags()
            if number % 4 == 2:
                talk.send(option(GO, info(b""))[: number % 20])
            if number % 4 == 3:
                talk.option(GO, info(b""))
                talk.send(request(READ, 0, SIZE) if number % 8 == 3 else b"")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        for talk in talks:
            talk.send(b"late")
            talk.close()
    assert not path.exists()


STRANGE = ('json:{"driver":"null-co"}', "nbd:localhost:1", "FIFO", "/dev/zero", "../../etc/passwd")


@pytest.mark.parametrize("name", STRANGE)
def test_cve_2024_4467_an_image_names_what_it_should_not(tmp_path, name):
    """A data file is a path whatever it looks like; what is no regular file is refused."""
    import os

    image = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/d", image, "1M")
    if name == "FIFO":
        os.mkfifo(tmp_path / "FIFO")
        name = str(tmp_path / "FIFO")
    data = image.read_bytes()
    old = f"{tmp_path}/d".encode()
    new = name.encode()[: len(old)]
    assert old in data
    # the header extension's length, then the name
    at = data.index(old)
    changed = bytearray(data)
    changed[at - 4 : at] = struct.pack(">I", len(new))
    changed[at : at + len(old)] = new.ljust(len(old), b"\0")
    image.write_bytes(changed)
    done = subprocess.run(
        [*NBEXPORT, "serve", str(image), "-k", str(tmp_path / "s")],
        capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_export_name_2017_the_answer_has_its_length(server):
    for flags, length in ((1, 134), (3, 10)):
        with server.talk() as talk:
            talk.flags(flags)
            talk.send(option(EXPORT_NAME) + request(READ, 4096, 1))
            answer = talk._exactly(length + 17)
            assert answer[8 + 2 : length] == bytes(length - 10)
            assert answer[length : length + 4] == bytes.fromhex("67446698")
            assert answer[-1] == 0


# nbdkit


def test_cve_2019_14850_negotiating_opens_nothing(server):
    files = server.files
    talks = []
    for _ in range(50):
        talk = server.talk()
        talk.flags()
        talk.option(INFO, info(b""))
        talks.append(talk)
    assert server.files <= files + len(talks)
    for talk in talks:
        talk.close()


def test_cve_2019_14851_options_in_unusual_order(server):
    with server.talk() as talk:
        talk.flags()
        for number, body in (
            (INFO, info(b"")), (INFO, info(b"none")), (GO, info(b"none")), (INFO, info(b"", 1, 1)),
            (LIST, b""), (STRUCTURED, b""), (SET_META, queries(b"none", b"base:")),
            (INFO, info(b"")),
        ):  # fmt: skip
            talk.option(number, body)
        talk.option(GO, info(b"none"))
        talk.export_name(b"")
        assert talk.request(READ, 4096, 2).endswith(b"\0\1")


@pytest.mark.parametrize("offset", [0, 1, 511, 65535])
@pytest.mark.parametrize("length", [2**32 - 1, 2**32 - 2, 2**32 - 512, 2**31])
def test_cve_2025_47711_and_47712_the_longest_block_status(big, offset, length):
    with Talk(big) as talk:
        talk.flags()
        talk.option(STRUCTURED)
        talk.option(SET_META, queries(b"", b"base:allocation"))
        talk.option(GO, info(b""))
        ((_, extents),) = statuses(talk.request(STATUS, offset, length))
        assert sum(length for length, _ in extents) >= length
        assert talk.request(READ, offset, 1)


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    folder = tmp_path_factory.mktemp("big")
    with (folder / "disk.raw").open("wb") as file:
        file.truncate(8 << 30)
    with ours(folder / "disk.raw", folder / "s", "-f", "raw"):
        yield folder / "s"


# The reference implementation


@pytest.mark.parametrize("length", [32 * MiB, 32 * MiB + 1, 64 * MiB, 2**31, 2**32 - 1])
def test_cve_2005_3534_and_2011_0530_requests_longer_than_any_buffer(server, length):
    before = server.memory("VmHWM")
    with server.talk() as talk:
        talk.flags()
        talk.option(GO, info(b""))
        talk.send(request(READ, 0, length))
        assert error_of(talk.take_reply()) == EINVAL
        assert talk.request(READ, 4096, 1).endswith(b"\0")
        talk.send(request(WRITE, 0, length))
        talk._socket.shutdown(socket.SHUT_WR)
        talk.end()
    assert server.memory("VmHWM") < before + 64 * MiB


def test_cve_2011_1925_clients_leave_after_an_error(server):
    for number in (*WITH_NAMES, 99):
        for _ in range(10):
            with server.talk() as talk:
                talk.flags()
                talk.option(number, b"\xff" * 8)


def test_cve_2013_7441_a_missing_export_ends_one_connection_only(server):
    for _ in range(20):
        with server.talk() as talk:
            talk.flags()
            assert talk.export_name(b"none") == CLOSED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_cve_2015_0847_signals_in_the_middle_of_a_transfer(image, tmp_path, number):
    path = tmp_path / "s"
    with ours(image, path, "-f", "raw") as process, Talk(path) as talk:
        talk.flags()
        talk.option(GO, info(b""))
        for cookie in range(20):
            talk.send(request(READ, 0, MiB, cookie=cookie))
        for _ in range(50):
            if process.poll() is None:
                process.send_signal(number)
        assert process.wait(20) == 0


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x80000000, 1, 4])
def test_cve_2022_26495_and_26496_inner_lengths_that_wrap(server, length):
    with server.talk() as talk:
        talk.flags()
        talk.option(STRUCTURED)
        for number in WITH_NAMES:
            assert talk.option(number, struct.pack(">I", length))[12] & 0x80
            assert talk.option(LIST)[-8:] == struct.pack(">II", 1, 0)
            body = string(b"") + struct.pack(">II", 1, length)
            assert talk.option(number, body)[12] & 0x80 or number in {INFO, GO}
            assert talk.option(LIST)[-8:] == struct.pack(">II", 1, 0)


def test_after_every_refused_option_the_stream_is_in_step(server):
    bad = (
        (LIST, b"x"), (STRUCTURED, b"x"), (STARTTLS, b""), (STARTTLS, b"x"), (PEEK, b""),
        (99, b"x"), (INFO, b""), (GO, b""), (GO, info(b"none")), (GO, info(b"") + b"x"),
        (SET_META, b""),
        (LIST_META, string(b"") + b"\0\0\0\1"),
    )  # fmt: skip
    with server.talk() as talk:
        talk.flags()
        for number, body in bad:
            assert talk.option(number, body)[12] & 0x80
            assert talk.option(LIST)[-8:] == struct.pack(">II", 1, 0)
