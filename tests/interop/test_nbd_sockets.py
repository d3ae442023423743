"""Where `nbexport serve` listens: several addresses, sockets from outside, one client alone."""

import contextlib
import os
import signal
import socket
import subprocess
import time

import pytest
from activation import SECONDS, ending, listeners, started
from beside import NBEXPORT
from nbd_talk import CLOSED, DF, GO, READ, STRUCTURED, Talk, info, option, request
from peers import background, run

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "disk.raw"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def test_several_addresses_at_one_port(image):
    hosts = ["127.0.0.1", "127.0.0.2"] + (["::1"] if has_ipv6() else [])
    words = [word for host in hosts for word in ("--bind", host)]
    with background(
        *NBEXPORT, "serve", image, "-f", "raw", *words, "--port", "0", stdout=subprocess.PIPE
    ) as process:
        uris = [process.stdout.readline().decode().strip() for _ in hosts]
        assert len({uri.rpartition(":")[2] for uri in uris}) == 1
        for uri in uris:
            assert run("nbdinfo", "--size", uri).stdout.strip() == str(1 << 20)


def test_variables_for_another_process_are_not_ours(image, tmp_path):
    path = tmp_path / "s"
    environment = {**os.environ, "LISTEN_PID": "1", "LISTEN_FDS": "1"}
    with background(
        *NBEXPORT, "serve", image, "-f", "raw", "-k", path, ready=path, env=environment,
        stdout=subprocess.DEVNULL,
    ):  # fmt: skip
        assert run("nbdinfo", "--size", f"nbd+unix:///?socket={path}").stdout.strip() == "1048576"


def test_an_inherited_socket_that_listens(image, tmp_path):
    with listeners(tmp_path, 1) as (listener,):
        argv = [*NBEXPORT, "serve", image, "-f", "raw", "--fd", "3"]
        with ending(started(argv, [listener])) as process:
            uri = f"nbd+unix:///?socket={tmp_path}/s0"
            assert run("nbdinfo", "--size", uri).stdout.strip() == "1048576"
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
            assert process.stdout.read() == ""


def test_an_inherited_client_is_served_alone(image):
    mine, its = socket.socketpair()
    with mine:
        with its:
            argv = [*NBEXPORT, "serve", image, "-f", "raw", "--fd", "3"]
            process = started(argv, [its])
        with ending(process):
            mine.settimeout(SECONDS)
            assert mine.recv(18, socket.MSG_WAITALL)[:8] == b"NBDMAGIC"
            mine.sendall(b"\0\0\0\3" + option(GO, info(b"")) + request(READ, 3, 2))
            taken = b""
            while not taken.endswith(b"\3\4"):
                taken += mine.recv(4096)
            mine.close()
            assert process.wait(SECONDS) == 0


@pytest.mark.parametrize(
    ("kind", "text"),
    [("file", "is not a socket"), ("datagram", "is not a stream socket"), ("none", "not a socket")],
)
def test_a_descriptor_of_another_kind(image, kind, text):
    with contextlib.ExitStack() as stack:
        if kind == "file":
            given = [stack.enter_context(image.open("rb"))]
        elif kind == "datagram":
            given = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))]
        else:
            given = []
        number = "3" if given else "77"
        process = started([*NBEXPORT, "serve", str(image), "-f", "raw", "--fd", number], given)
        with ending(process):
            assert process.wait(SECONDS) == 1
            assert text in process.stderr.read()


def test_sigterm_ends_clients_in_every_phase_and_removes_the_socket(image, tmp_path):
    path = tmp_path / "s"
    with (
        background(
            *NBEXPORT, "serve", image, "-f", "raw", "-k", path, ready=path,
            stdout=subprocess.DEVNULL,
        ) as process,
        Talk(path) as talk,
        Talk(path) as silent,
    ):  # fmt: skip
        talk.flags()
        talk.option(STRUCTURED)
        talk.option(GO, info(b""))
        assert talk.request(READ, 0, 1 << 20, DF)[28:] == image.read_bytes()
        started_at = time.monotonic()
        for _ in range(20):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGHUP)
        assert process.wait(SECONDS) == 0
        assert time.monotonic() - started_at < 5
        assert (talk.end(), silent.end()) == (CLOSED, CLOSED)
    assert not path.exists()
