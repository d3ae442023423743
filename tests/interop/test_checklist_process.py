"""The process around the server, statement by statement; the monitor is the emulator's."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time

import pytest
from activation import SECONDS, activation, ending, listeners, started
from beside import BITMAP, NBEXPORT, begin, error_of, ours, theirs, uri
from monitors import DAEMON, OURS, monitor, qcow2, unix
from nbd_talk import CLOSED, DF, READ, STATUS, Talk, request
from peers import peer, run

pytestmark = pytest.mark.interop

DELETED = "BLOCK_EXPORT_DELETED"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "disk.raw"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


@pytest.fixture(scope="module")
def images(two_bitmaps):
    return two_bitmaps, two_bitmaps.parent / "two-bitmaps.base.qcow2"


def nbexport(*words):
    return subprocess.run(
        [*NBEXPORT, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )


# The command


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["IMAGE", "-B", "none"], "Bitmap 'none' is not found"),
        (["IMAGE", "-B", "daily", "-B", "none"], "Bitmap 'none' is not found"),
        (["IMAGE", "-f", "qcow3"], "Unknown driver 'qcow3'"),
        (["none.qcow2"], "Could not open 'none.qcow2': No such file or directory"),
        (["IMAGE", "-k", "/none/s"], "/none/s: No such file or directory"),
    ],
)
def test_129_bad_input_ends_with_1_a_message_and_no_socket(words, text, two_bitmaps, tmp_path):
    """As qemu-nbd: nothing is printed but the reason, and nobody can connect."""
    path = tmp_path / "s"
    words = [str(two_bitmaps) if word == "IMAGE" else word for word in words]
    words += [] if "-k" in words else ["-k", str(path)]
    done = nbexport("serve", *words)
    its = run("qemu-nbd", "-r", "-t", *words, check=False)
    assert (done.returncode, its.returncode) == (1, 1)
    for told in (done, its):
        assert text in told.stderr
        assert told.stdout == ""
    assert done.stderr.startswith("nbexport: ")
    assert done.stderr.count("\n") == 1
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError, match="Errno"):
        client.connect(str(path))


def test_129_wrong_usage_ends_with_2(image, tmp_path):
    """Where qemu-nbd says 1 to everything, wrong words are told apart from bad input."""
    path = tmp_path / "s"
    for words in (["--bogus"], ["-e", "-1"], ["--discard", "x"]):
        done = nbexport("serve", image, "-k", path, *words)
        its = run("qemu-nbd", "-r", "-t", "-k", path, *words, image, check=False)
        assert (done.returncode, its.returncode) == (2, 1)
        assert words[0].lstrip("-") in done.stderr
        assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_130_a_signal_ends_it_and_removes_the_socket(image, tmp_path, number):
    """Status 0, nothing on standard error, and no file left; qemu-nbd does the same on SIGTERM."""
    path = tmp_path / "s"
    process = subprocess.Popen(
        [*NBEXPORT, "serve", str(image), "-f", "raw", "-k", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with ending(process):
        assert process.stdout.readline().strip() == uri(path)
        assert run("nbdinfo", "--size", uri(path)).stdout.strip() == str(1 << 20)
        process.send_signal(number)
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == ""
    assert not path.exists()
    with theirs(image, path, "-r", "-f", "raw") as process:
        # Right after it listens QEMU may lose a signal: see it serve first.
        assert run("nbdinfo", "--size", uri(path)).stdout.strip() == str(1 << 20)
        process.terminate()
        assert process.wait(SECONDS) == 0
    assert not path.exists()


@pytest.mark.parametrize("server", [ours, theirs])
def test_130_the_socket_of_a_dead_server_is_replaced(server, image, tmp_path):
    """Both take the place of a file that nobody listens on."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with server(image, path, "-f", "raw"):
        assert run("nbdinfo", "--size", uri(path)).stdout.strip() == str(1 << 20)


def test_132_a_client_more_than_the_limit_waits(image, tmp_path):
    """It gets no greeting before another has gone; with one client nobody is promised more."""
    for server in (theirs, ours):
        path = tmp_path / "s"
        with server(image, path, "-f", "raw", "-e", "1"):
            many = run("nbdinfo", "--can", "multi-conn", uri(path), check=False)
            assert many.returncode == 2
            with Talk(path) as first, socket.socket(socket.AF_UNIX) as second:
                begin(first)
                second.connect(str(path))
                second.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    second.recv(1)
                assert first.request(READ, 5, 2, DF)[-2:] == b"\5\6"
                first.close()
                second.settimeout(SECONDS)
                assert second.recv(8) == b"NBDMAGIC"


def test_132_several_clients_see_one_disk_where_they_are_allowed(image, tmp_path):
    """With a limit of 3: three at once, the promise, and a fourth that waits."""
    for server in (theirs, ours):
        path = tmp_path / "s"
        with (
            server(image, path, "-r", "-f", "raw", "-e", "3")
            if server is theirs
            else server(image, path, "-f", "raw", "-e", "3")
        ):
            assert run("nbdinfo", "--can", "multi-conn", uri(path)).returncode == 0
            talks = [Talk(path) for _ in range(3)]
            try:
                for talk in talks:
                    begin(talk)
                with socket.socket(socket.AF_UNIX) as fourth:
                    fourth.connect(str(path))
                    for talk in talks:
                        assert talk.request(READ, 5, 2, DF)[-2:] == b"\5\6"
                    talks[1].close()
                    fourth.settimeout(SECONDS)
                    assert fourth.recv(8) == b"NBDMAGIC"
            finally:
                for talk in talks:
                    talk.close()


# Sockets of a service manager


def test_133_sockets_of_a_service_manager(image, tmp_path):
    """Several sockets from descriptor 3 on are served, and their files stay."""
    with listeners(tmp_path, 2) as made:
        argv = activation("serve", image, "-f", "raw")
        with ending(started(argv, made, LISTEN_FDS="2")) as process:
            for number in range(2):
                size = run("nbdinfo", "--size", uri(tmp_path / f"s{number}")).stdout
                assert size.strip() == str(1 << 20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
    assert (tmp_path / "s0").exists()  # it is not ours


def test_133_nbdinfo_starts_either(image):
    """nbdinfo says the same of a server that it starts itself."""
    told = []
    for words in ((*NBEXPORT, "serve"), (peer("qemu-nbd"), "-r", "-e", "0")):
        done = run("nbdinfo", "--json", "--", "[", *words, "-f", "raw", str(image), "]")
        told.append(json.loads(done.stdout))
    assert told[0] == told[1]


def test_133_nbdcopy_starts_us(image, tmp_path):
    """The whole disk through a server that lives as long as the copy."""
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
    """An address of our own, or a number of sockets that cannot be, is refused at the start."""
    with listeners(tmp_path, 1) as made:
        argv = activation("serve", image, "-f", "raw", *words)
        process = started(argv, made, LISTEN_FDS=count)
        with ending(process):
            assert process.wait(SECONDS) == code
            assert text in process.stderr.read()


# The monitor


def serving(client, *names, **more):
    """Have a monitor's process serve the demonstration image under these names."""
    client.execute("blockdev-add", node_name="n0", **qcow2("two-bitmaps.qcow2"))
    assert client.execute("nbd-server-start", addr=unix()) == {}
    for name in names:
        added = client.execute("block-export-add", type="nbd", id=name, node_name="n0",
                               name=name, **more)  # fmt: skip
        assert added == {}
    return client.folder / "nbd.sock"


def test_136_stopping_the_server_does_not_wait_for_its_clients(images, tmp_path):
    """Idle, half-way through the handshake, reading or not taking replies: all are cut at once.

    QEMU 7.2's storage daemon waits for the first two for ever.
    """
    with monitor(OURS, tmp_path / "o", *images) as client:
        path = serving(client, "a")
        with (
            Talk(path) as silent, Talk(path) as half, Talk(path) as idle, Talk(path) as greedy,
            Talk(path) as busy,
        ):  # fmt: skip
            half.flags()
            half.send(b"IHAVEOPT\0\0")
            for talk in (idle, greedy, busy):
                begin(talk, export=b"a")
            greedy.send(request(READ, 0, 32 << 20, DF) * 8)
            answered = threading.Event()

            def read():
                while not busy.request(READ, 0, 1 << 20, DF).endswith(CLOSED):
                    answered.set()

            thread = threading.Thread(target=read)
            thread.start()
            assert answered.wait(SECONDS), busy.log[-1][:100]
            since = time.monotonic()
            assert client.execute("nbd-server-stop") == {}
            assert time.monotonic() - since < 10
            thread.join(SECONDS)
            assert not thread.is_alive()
            for talk in (silent, half, idle, greedy):
                assert talk.end().endswith(CLOSED)
        assert not path.exists()
        assert client.execute("query-block-exports") == []
        assert client.events(DELETED) == [{"id": "a"}]
        # The next server is a new one.
        assert client.execute("nbd-server-start", addr=unix()) == {}


def test_136_the_storage_daemon_cuts_clients_in_transmission_too(images, tmp_path):
    """Where QEMU does return, the client sees the same end, and the monitor the same replies."""
    logs = []
    for program in (DAEMON, OURS):
        with monitor(program, tmp_path / program, *images) as client:
            path = serving(client, "a")
            with Talk(path) as talk:
                begin(talk, export=b"a")
                assert error_of(talk.request(READ, 0, 1 << 20, DF)) == 0
                assert client.execute("nbd-server-stop") == {}
                assert talk.end() == CLOSED
            client.execute("nbd-server-stop")
            client.quit()
            logs.append(client.log)
    assert logs[0] == logs[1]


def test_137_each_export_is_told_to_be_gone_once(images, tmp_path):
    """Whether it is deleted, removed by force, stopped with the server or ends with the process."""
    logs = []
    for program in (DAEMON, OURS):
        with monitor(program, tmp_path / program, *images) as client:
            path = serving(client, "a", "b", "c", "d", "e")
            assert client.execute("block-export-del", id="a") == {}
            client.wait_for(DELETED, 1)
            assert "not found" in client.execute("block-export-del", id="a")
            with Talk(path) as talk:
                begin(talk, export=b"b")
                assert "still in use" in client.execute("block-export-del", id="b")
                assert client.execute("block-export-del", id="b", mode="hard") == {}
                assert talk.end() == CLOSED
            client.wait_for(DELETED, 2)
            assert client.execute("nbd-server-remove", name="c") == {}
            client.wait_for(DELETED, 3)
            assert client.execute("nbd-server-stop") == {}
            client.wait_for(DELETED, 5)
            assert client.execute("query-block-exports") == []
            assert client.execute("nbd-server-start", addr=unix()) == {}
            client.execute("block-export-add", type="nbd", id="f", node_name="n0", name="f")
            client.quit()
            assert sorted(data["id"] for data in client.events(DELETED)) == list("abcdef")
            logs.append(client.log)
    assert logs[0] == logs[1]


BUSY = "is currently in use by another operation and cannot be used"


def change(client, name):
    """Have every command that changes a bitmap try to; return what it said."""
    target = {"node": "n0", "name": name}
    told = [client.execute(f"block-dirty-bitmap-{what}", **target)
            for what in ("clear", "disable", "enable")]  # fmt: skip
    told.append(client.execute("block-dirty-bitmap-merge", node="n0", target=name,
                               bitmaps=["other"]))  # fmt: skip
    actions = [{"type": "block-dirty-bitmap-clear", "data": {"node": "n0", "name": each}}
               for each in ("other", name)]  # fmt: skip
    told.append(client.execute("transaction", actions=actions))
    told.append(client.execute("block-dirty-bitmap-remove", **target))
    return told


@pytest.mark.parametrize("release", ["5.2", "7.2", "10.0"])
def test_138_an_exported_bitmap_is_busy_until_its_export_is_gone(images, tmp_path, release):
    """No other command gets it, no other export; then it is free again, as in QEMU."""
    logs = []
    for program in (DAEMON, OURS) if release == "7.2" else (OURS,):
        with monitor(program, tmp_path / program, *images, release=release) as client:
            client.execute("blockdev-add", node_name="n0", **qcow2("two-bitmaps.qcow2"))
            for name in ("one", "two", "other"):
                # Those of the image are read-only as long as the node is.
                assert client.execute("block-dirty-bitmap-add", node="n0", name=name) == {}
            path = serving(client, "a", bitmaps=["one", "two"])
            assert change(client, "one") == [f"Bitmap 'one' {BUSY}"] * 6
            added = {"type": "nbd", "node_name": "n0", "bitmaps": ["two"]}
            told = client.execute("block-export-add", id="b", name="b", **added)
            assert told == f"Bitmap 'two' {BUSY}"
            assert [each["id"] for each in client.execute("query-block-exports")] == ["a"]
            (node,) = [each for each in client.execute("query-named-block-nodes", flat=True)
                       if each["node-name"] == "n0"]  # fmt: skip
            client.log.pop()  # versions and sizes of files
            found = {each["name"] for each in node["dirty-bitmaps"] if each["busy"]}
            assert found == {"one", "two"}
            assert client.execute("block-export-del", id="a") == {}
            client.wait_for(DELETED, 1)
            assert change(client, "one") == [{}] * 6
            assert client.execute("block-export-add", id="b", name="b", **added) == {}
            added["bitmaps"] = ["one"]
            told = client.execute("block-export-add", id="c", name="c", **added)
            assert told == "Bitmap 'one' is not found"
            with Talk(path) as talk:
                begin(talk, f"{BITMAP}two", export=b"b")
                assert error_of(talk.request(STATUS, 0, 512)) == 0
            logs.append(client.log)
    assert logs[0] == logs[-1]
