"""``nbexport-storage-daemon`` in the place of qemu-storage-daemon: options, errors, sessions."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dropin_pair import folder_of_commands, run_both
from monitors import DAEMON, Monitor
from peers import TIME_LIMIT, background, listens, nbdinfo_map, peer, run

from nbexport.cli.dropin.storage_daemon import OPTIONS

pytestmark = pytest.mark.interop

NULL = "null-co,node-name=a"
UNIX = "addr.type=unix,addr.path=n.sock"

# Each ends before a monitor would be served: message and status are the program's.
ENDS = [
    # the command line itself
    ["--bogus"],
    ["-x"],
    ["--blockdev"],
    ["foo"],
    ["foo", "--blockdev", "foo"],
    ["--blockdev", "foo", "bar"],
    ["--blockdev", "foo", "--bogus"],
    ["--pidfile"],
    ["--daemonize=1"],
    ["--version=1"],
    ["--p"],
    ["--n"],
    ["--blockd", "driver=null-co"],
    ["--blockdev=foo"],
    ["--daemonize", "--blockdev", "foo"],
    ["--pidfile", "/nonexistent/x"],
    # --blockdev
    ["--blockdev", "foo"],
    ["--blockdev", "help"],
    ["--blockdev", "driver=file"],
    ["--blockdev", "driver=null-co"],
    ["--blockdev", "null-co,node-name=a,bogus=1"],
    ["--blockdev", "null-co,node-name=a,size=x"],
    ["--blockdev", "file,node-name=a,filename=/nonexistent"],
    ["--blockdev", "file,node-name=a,filename.x=1"],
    ["--blockdev", '{"driver":"null-co","node-name":"a"'],
    ["--blockdev", '{"driver":"null-co","node-name":"a","size":"x"}'],
    ["--blockdev", "{}"],
    ["--blockdev", NULL, "--blockdev", NULL],
    # --export
    ["--export", "nbd"],
    ["--export", "foo,id=a"],
    ["--export", "help"],
    ["--export", "nbd,id=a,node-name=a"],
    ["--export", "nbd,id=a,node-name=a,bitmap=x"],
    ["--blockdev", NULL, "--export", "nbd,id=a,node-name=a"],
    ["--blockdev", NULL, "--nbd-server", UNIX, "--export", "nbd,id=a,node-name=a,bitmaps.0=x"],
    ["--blockdev", NULL, "--nbd-server", UNIX, "--export", "nbd,id=a,node-name=a",
     "--export", "nbd,id=a,node-name=a"],
    # --nbd-server
    ["--nbd-server", "foo"],
    ["--nbd-server", "addr.type=unix"],
    ["--nbd-server", "addr.type=inet,addr.host=localhost"],
    ["--nbd-server", f"{UNIX},max-connections=x"],
    ["--nbd-server", f"{UNIX},tls-creds=x"],
    ["--nbd-server", UNIX, "--nbd-server", "addr.type=unix,addr.path=m.sock"],
    ["--nbd-server", "addr.type=unix,addr.path=/nonexistent/a"],
    ["--nbd-server", "addr.type=fd,addr.str=x"],
    ["--nbd-server", "addr.type=fd,addr.str=99"],
    ["--nbd-server", "addr.type=fd,addr.str=0"],
    ["--nbd-server", "addr.type=vsock,addr.cid=x,addr.port=1"],
    ["--nbd-server", '{"addr":{"type":"unix","path":"n.sock"},"bogus":1}'],
    ["--nbd-server", '{"addr":{"type":"unix","data":{"path":"n.sock"}}}'],
    # --chardev and --monitor
    ["--chardev", "null"],
    ["--chardev", "foo,id=x"],
    ["--chardev", "id=a"],
    ["--chardev", "fd,id=a"],
    ["--chardev", "null,,x,id=a"],
    ["--chardev", "null,id=1"],
    ["--chardev", "null,id=a,bogus=1"],
    ["--chardev", "null,id=a,reconnect=x"],
    ["--chardev", "null,id=a", "--chardev", "null,id=a"],
    ["--chardev", "stdio,id=a", "--chardev", "stdio,id=b"],
    ["--chardev", "socket,id=a"],
    ["--chardev", "socket,id=a,fd=x"],
    ["--chardev", "socket,id=a,fd=99"],
    ["--chardev", "socket,id=a,path=s.sock"],
    ["--chardev", "socket,id=a,path=s.sock,server=x"],
    ["--chardev", "socket,id=a,path=s.sock,wait=off"],
    ["--chardev", "socket,id=a,path=s.sock,server=on,reconnect=1"],
    ["--chardev", "socket,id=a,path=s.sock,host=y"],
    ["--chardev", "socket,id=a,path=/nonexistent/b,server=on"],
    ["--chardev", "socket,id=a,host=localhost"],
    ["--chardev", "socket,id=a,host=127.0.0.1,port=1"],
    ["--chardev", "socket,id=a,host=127.0.0.1,port=x,server=on,wait=off"],
    ["--monitor", "foo"],
    ["--monitor", ""],
    ["--monitor", "help"],
    ["--monitor", "foo,mode=x"],
    ["--monitor", "foo,bogus=1"],
    ["--chardev", "null,id=a", "--monitor", "a", "--monitor", "a"],
    ["--chardev", "null,id=a", "--monitor", "a,mode=readline"],
    ["--chardev", "null,id=a", "--monitor", "a,pretty"],
    ["--chardev", "null,id=a", "--monitor", "a,pretty=x"],
    # --object
    ["--object", "foo"],
    ["--object", ""],
    ["--object", "iothread"],
    ["--object", "iothread,id=1"],
    ["--object", "iothread,id=a,foo=b"],
    ["--object", "iothread,help"],
    ["--object", "secret,id=a"],
    ["--object", "secret,help"],
    ["--object", "tls-creds-x509,help"],
    ["--object", "authz-list,help"],
    ["--object", '{"qom-type":"secret","id":"a","data":"x"}', "--object", "secret,id=a,data=y"],
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("daemon")
    (folder / "theirs").mkdir()
    (folder / "ours").mkdir()
    return folder


@pytest.mark.parametrize("words", ENDS, ids=" ".join)
def test_a_command_line_that_ends_says_the_same(words, folders):
    theirs, ours = run_both(DAEMON, words, folders)
    assert ours == theirs


def test_the_sockets_of_a_command_line_that_failed_stay(folders):
    run_both(DAEMON, ["--nbd-server", UNIX, "--blockdev", "foo"], folders)
    left = [{path.name for path in (folders / who).iterdir()} for who in ("theirs", "ours")]
    assert left == [{"n.sock"}, {"n.sock"}]
    for who in ("theirs", "ours"):
        (folders / who / "n.sock").unlink()


def test_every_option_of_qemus_help_is_known():
    told = set(re.findall(r"--([a-z-]+)", run(DAEMON, "--help").stdout))
    assert told == {option.name for option in OPTIONS}


def test_the_version_is_in_qemus_form(folders):
    theirs, ours = run_both(DAEMON, ["--version"], folders)
    form = re.compile(r"qemu-storage-daemon version (\d+\.\d+\.\d+) \(.*\)\n")
    assert form.match(ours.out)[1] == form.match(theirs.out)[1]


def test_the_release_is_that_of_the_environment(monkeypatch, folders):
    monkeypatch.setenv("NBEXPORT_RELEASE", "9.2")
    assert run_both(DAEMON, ["--version"], folders)[1].out.startswith(
        "qemu-storage-daemon version 9.2.4 "
    )
    monkeypatch.setenv("NBEXPORT_RELEASE", "1.0")
    outcome = run_both(DAEMON, ["--version"], folders)[1]
    assert outcome.status == 1
    assert "unknown release '1.0'" in outcome.err


def talk(program, folder, words, *requests):
    """Send requests to a monitor on standard input; return what came, without times."""
    lines = [{"execute": "qmp_capabilities"}, *requests, {"execute": "quit"}]
    process = subprocess.Popen(
        [program, *words], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = process.communicate(
        b"".join(json.dumps(line).encode() + b"\n" for line in lines), TIME_LIMIT
    )
    told = [json.loads(line) for line in out.splitlines()]
    for each in told:
        each.pop("timestamp", None)
    assert told[0].pop("QMP")
    return told[1:], err, process.returncode


@pytest.fixture
def disk(tmp_path):
    run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk.qcow2", "4M")
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", tmp_path / "disk.qcow2")
    run("qemu-img", "bitmap", "--add", tmp_path / "disk.qcow2", "b0")
    run("qemu-io", "-f", "qcow2", "-c", "write 2M 64k", tmp_path / "disk.qcow2")
    return tmp_path / "disk.qcow2"


def programs(folder):
    return (peer(DAEMON), folder_of_commands(folder) / DAEMON)


def test_options_make_what_commands_would(tmp_path, disk):
    words = [
        "--blockdev", f"file,node-name=f,filename={disk},read-only=on",
        "--blockdev", "driver=qcow2,node-name=d,file=f,read-only=on",
        "--blockdev", '{"driver": "null-co", "node-name": "n", "size": 65536}',
        "--object", "iothread,id=t", "--object", "secret,id=s,data=x,,y",
        "--nbd-server", "addr.type=unix,addr.path=nbd.sock,max-connections=4",
        "--export", "nbd,id=e,node-name=d,name=disk,bitmaps.0=b0,description=a,,b",
        "--export", '{"type": "nbd", "id": "w", "node-name": "n", "writable": true}',
        "--chardev", "stdio,id=m", "--monitor", "m",
    ]  # fmt: skip
    requests = [
        {"execute": "query-block-exports"},
        {"execute": "query-named-block-nodes", "arguments": {"flat": True}},
        {"execute": "object-del", "arguments": {"id": "s"}},
        {"execute": "object-del", "arguments": {"id": "nobody"}},
        {
            "execute": "nbd-server-start",
            "arguments": {"addr": {"type": "fd", "data": {"str": "0"}}},
        },
        {"execute": "block-export-del", "arguments": {"id": "w"}},
    ]
    theirs, ours = (talk(each, tmp_path, words, *requests) for each in programs(tmp_path))
    assert ours == theirs


def test_clients_see_the_same_exports(tmp_path, disk):
    words = [
        "--blockdev", f"file,node-name=f,filename={disk}",
        "--blockdev", "qcow2,node-name=d,file=f",
        "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
        "--export", "nbd,id=e,node-name=d,name=disk,writable=on,bitmaps.0=b0",
    ]  # fmt: skip
    seen = []
    for program in programs(tmp_path):
        with background(program, *words, ready=tmp_path / "nbd.sock", cwd=tmp_path) as process:
            uri = f"nbd+unix:///disk?socket={tmp_path}/nbd.sock"
            told = json.loads(run("nbdinfo", "--json", uri).stdout)
            told["exports"][0].pop("uri")
            seen.append((told, nbdinfo_map(uri, "qemu:dirty-bitmap:b0")))
            process.terminate()
            assert process.wait(TIME_LIMIT) == 0
        (tmp_path / "nbd.sock").unlink(missing_ok=True)  # qemu leaves it
        assert "No errors" in run("qemu-img", "check", disk).stdout
    assert seen[0] == seen[1]


def test_monitors_on_sockets_of_every_kind(tmp_path):
    for program in programs(tmp_path):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "handed.sock"))
        listener.listen(1)
        back = socket.socket(socket.AF_UNIX)
        back.bind(str(tmp_path / "back.sock"))
        back.listen(1)
        ours, given = socket.socketpair()
        words = [
            "--chardev", "socket,id=a,path=qmp.sock,server=on,wait=off", "--monitor", "a",
            "--chardev", f"socket,id=b,fd={listener.fileno()},server=on,wait=off",
            "--monitor", "b,pretty=on",
            "--chardev", f"socket,id=c,fd={given.fileno()}", "--monitor", "c",
            "--chardev", "socket,id=d,path=back.sock,reconnect=1", "--monitor", "chardev=d",
        ]  # fmt: skip
        descriptors = (listener.fileno(), given.fileno())
        with (
            listener, back, ours,
            background(program, *words, ready=tmp_path / "qmp.sock", cwd=tmp_path,
                       pass_fds=descriptors) as process,
        ):  # fmt: skip
            given.close()
            ours.settimeout(TIME_LIMIT)
            assert ours.recv(1000).startswith(b'{"QMP": {"version"')
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(TIME_LIMIT)
                client.connect(str(tmp_path / "handed.sock"))
                lines = client.makefile("rb")
                assert [lines.readline().rstrip() for _ in range(2)] == [b"{", b'    "QMP": {']
            for _ in range(2):
                back.settimeout(TIME_LIMIT)
                peer_, _ = back.accept()
                with peer_:
                    peer_.settimeout(TIME_LIMIT)
                    assert peer_.recv(1000).startswith(b'{"QMP"')
            with Monitor(tmp_path) as monitor:
                assert monitor.execute("query-block-exports") == []
                monitor.quit()
            assert process.wait(TIME_LIMIT) == 0
        for name in ("handed.sock", "back.sock"):
            (tmp_path / name).unlink(missing_ok=True)


def test_a_device_that_waits_holds_everything_up(tmp_path):
    words = ["--chardev", "socket,id=a,path=qmp.sock,server=on", "--monitor", "a",
             "--pidfile", "pid"]  # fmt: skip
    told = []
    for program in programs(tmp_path):
        with background(program, *words, ready=tmp_path / "qmp.sock", cwd=tmp_path) as process:
            time.sleep(0.2)
            assert not (tmp_path / "pid").exists()
            with Monitor(tmp_path) as monitor:
                assert (tmp_path / "pid").read_text() == f"{process.pid}\n"
                monitor.quit()
            assert process.wait(TIME_LIMIT) == 0
            told.append(process.stderr.read())
        assert not (tmp_path / "pid").exists()
    assert told[0] == told[1]


def test_it_goes_into_the_background(tmp_path):
    words = ["--daemonize", "--pidfile", tmp_path / "pid", "--chardev",
             f"socket,id=a,path={tmp_path}/qmp.sock,server=on,wait=off",
             "--monitor", "a"]  # fmt: skip
    for program in programs(tmp_path):
        # The pipes end with the parent: the child has let go of them.
        done = subprocess.run(
            [program, *words], capture_output=True, timeout=TIME_LIMIT, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        pid = int((tmp_path / "pid").read_text())
        try:
            assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
            assert listens(pid, tmp_path / "qmp.sock")
        finally:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + TIME_LIMIT
        while (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not (tmp_path / "pid").exists()


def test_the_projects_own_sessions_pass_with_ours_in_the_path(tmp_path):
    path = f"{folder_of_commands(tmp_path)}{os.pathsep}{os.environ['PATH']}"
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider",
         here / "test_monitor_session.py",
         "-k", "bitmaps_change"],
        env={**os.environ, "PATH": path}, capture_output=True, text=True,
        timeout=4 * TIME_LIMIT, check=False, cwd=here.parent.parent,
    )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout
