"""Where `nbexport serve` listens: several addresses, sockets from outside, one client alone."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from nbd_talk import CLOSED, DF, GO, READ, STRUCTURED, Talk, info, option, request
from peers import background, run

pytestmark = pytest.mark.interop

NBEXPORT = (sys.executable, "-m", "nbexport")
SECONDS = 20


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


def activation(*words):
    """Return a command that becomes `nbexport` with LISTEN_PID set to its own number."""
    code = (
        "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid());"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", code, *NBEXPORT, *map(str, words)]


def started(argv, sockets, **environment):
    """Start a program with sockets from descriptor 3 on."""

    def place():
        high = [os.dup2(each.fileno(), 100 + n) for n, each in enumerate(sockets)]
        for number, fd in enumerate(high):
            os.dup2(fd, 3 + number)

    return subprocess.Popen(
        argv,
        preexec_fn=place,  # noqa: PLW1509 - no threads run in this process
        close_fds=False, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@contextlib.contextmanager
def ending(process):
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


@contextlib.contextmanager
def listeners(folder, count):
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(count):
            each = stack.enter_context(socket.socket(socket.AF_UNIX))
            each.bind(str(folder / f"s{number}"))
            each.listen()
            made.append(each)
        yield made


def test_133_sockets_of_a_service_manager(image, tmp_path):
    with listeners(tmp_path, 2) as made:
        argv = activation("serve", image, "-f", "raw")
        with ending(started(argv, made, LISTEN_FDS="2")) as process:
            for number in range(2):
                uri = f"nbd+unix:///?socket={tmp_path}/s{number}"
                assert run("nbdinfo", "--size", uri).stdout.strip() == str(1 << 20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
    assert (tmp_path / "s0").exists()  # it is not ours


def test_133_nbdinfo_starts_us(image):
    words = [*NBEXPORT, "serve", "-f", "raw", str(image)]
    done = run("nbdinfo", "--size", "--", "[", *words, "]")
    assert done.stdout.strip() == str(1 << 20)


def test_133_nbdcopy_starts_us(image, tmp_path):
    words = [*NBEXPORT, "serve", "-f", "raw", str(image)]
    run("nbdcopy", "--", "[", *words, "]", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == image.read_bytes()


@pytest.mark.parametrize(
    ("words", "count", "code", "text"),
    [
        (["--socket", "x"], "1", 2, "--socket can't be set when using socket activation"),
        (["--port", "1"], "1", 2, "--port can't be set when using socket activation"),
        ([], "many", 1, "LISTEN_FDS: not a number of sockets up to 64: many"),
        ([], "65", 1, "LISTEN_FDS: not a number of sockets up to 64: 65"),
    ],
)
def test_133_what_does_not_go_with_activation(image, tmp_path, words, count, code, text):
    with listeners(tmp_path, 1) as made:
        argv = activation("serve", image, "-f", "raw", *words)
        process = started(argv, made, LISTEN_FDS=count)
        with ending(process):
            assert process.wait(SECONDS) == code
            assert text in process.stderr.read()


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


def test_132_one_client_at_a_time_and_the_flag_that_says_so(image, tmp_path):
    path = tmp_path / "s"
    with background(
        *NBEXPORT, "serve", image, "-f", "raw", "-k", path, "--shared", "1", ready=path,
        stdout=subprocess.DEVNULL,
    ):  # fmt: skip
        uri = f"nbd+unix:///?socket={path}"
        assert run("nbdinfo", "--can", "multi-conn", uri, check=False).returncode == 2
        with Talk(path) as first, socket.socket(socket.AF_UNIX) as second:
            first.flags()
            first.option(GO, info(b""))
            second.connect(str(path))
            second.settimeout(0.3)
            with pytest.raises(TimeoutError):
                second.recv(1)
            first.close()
            second.settimeout(SECONDS)
            assert second.recv(8) == b"NBDMAGIC"


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
