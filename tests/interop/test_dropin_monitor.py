"""``nbexport-monitor`` in the place of the system emulator: options, errors, disks, sessions."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from dropin_pair import folder_of_commands, run_both, run_ours
from monitors import SYSTEM, Monitor
from peers import TIME_LIMIT, background, nbdinfo_map, peer, run

from nbexport.cli.dropin.system_options import BY_NAME

pytestmark = pytest.mark.interop

NONE = ["-M", "none", "-nodefaults", "-display", "none"]
RAW = "if=none,id=a,file=r.raw,format=raw"
QCOW2 = "if=none,id=a,file=e.qcow2,format=qcow2"

# Each ends before a monitor would be served: message and status are the program's.
ENDS = [
    ["-bogus"],
    ["--bogus"],
    ["-daemonize=1"],
    ["-pidfile"],
    ["-pidfile", "/nonexistent/a"],
    ["-uuid", "foo"],
    ["-name", "foo,bar=1"],
    ["-sandbox", "foo"],
    ["-accel", "foo"],
    ["-display", "foo"],
    ["-compat", "foo"],
    ["-compat", "deprecated-input=foo"],
    # -qmp
    ["-qmp"],
    ["-qmp", "foo"],
    ["-qmp", "foo:bar"],
    ["-qmp", "none"],
    ["-qmp", "tcp:127.0.0.1"],
    ["-qmp", "tcp:127.0.0.1:1"],
    ["-qmp", "chardev:foo"],
    ["-qmp", "unix:nobody.sock"],
    ["-qmp", "unix:/nonexistent/x,server=on,wait=off"],
    ["-qmp", "stdio", "-qmp", "stdio"],
    ["-daemonize", "-qmp", "stdio"],
    # -chardev and -mon
    ["-chardev", "null"],
    ["-chardev", "foo,id=a"],
    ["-chardev", "null,id=1"],
    ["-chardev", "null,id=a", "-chardev", "null,id=a"],
    ["-chardev", "socket,id=a"],
    ["-chardev", "socket,id=a,fd=x"],
    ["-chardev", "socket,id=a,path=/nonexistent"],
    ["-chardev", "socket,id=a,path=/x,bogus=1"],
    ["-chardev", "socket,id=a,host=localhost"],
    ["-mon", ""],
    ["-mon", "foo"],
    ["-mon", "chardev=foo,mode=control"],
    ["-mon", "mode=x,chardev=a"],
    ["-mon", "bogus=x"],
    ["-chardev", "null,id=a", "-mon", "a,control"],
    ["-chardev", "null,id=a", "-mon", "chardev=a,mode=control,pretty=x"],
    ["-chardev", "null,id=a", "-mon", "a,mode=control", "-mon", "a,mode=control"],
    # -object and -blockdev
    ["-object", "foo"],
    ["-object", "iothread"],
    ["-object", "iothread,id=1"],
    ["-object", "secret,id=a,data=x", "-object", "secret,id=a,data=x"],
    ["-blockdev", "foo"],
    ["-blockdev", "driver=null-co"],
    ["-blockdev", "driver=null-co,node-name=a,size=x"],
    # -drive
    ["-drive", "foo"],
    ["-drive", "if=bogus,id=a,file=e.qcow2"],
    ["-drive", "if=none,id=a,file=/nonexistent"],
    ["-drive", "if=none,id=1,file=e.qcow2,format=qcow2"],
    ["-drive", "if=none,id=a,file=e.qcow2,format=nope"],
    ["-drive", "if=none,id=a,file=r.raw,format=qcow2"],
    ["-drive", "if=none,id=a,file=,format=raw"],
    ["-drive", "if=none,id=a,file=json:x"],
    ["-drive", "if=none,id=a,driver=raw"],
    ["-drive", "if=none,id=a,driver=nbd"],
    ["-drive", "if=none,id=a,driver=null-co,bogus=1"],
    ["-drive", "if=virtio,id=a,file=r.raw,format=raw"],
    ["-drive", "if=ide,id=a,file=r.raw,format=raw"],
    ["-drive", f"{QCOW2},bogus=1"],
    ["-drive", f"{QCOW2},readonly=x"],
    ["-drive", f"{QCOW2},cache=x"],
    ["-drive", f"{QCOW2},node-name=1"],
    ["-drive", f"{RAW},werror=foo"],
    ["-drive", f"{RAW},aio=foo"],
    ["-drive", f"{RAW},discard=foo"],
    ["-drive", f"{RAW},detect-zeroes=foo"],
    ["-drive", f"{RAW},media=foo"],
    ["-drive", f"{RAW},index=foo"],
    ["-drive", f"{RAW},file.bogus=on"],
    ["-drive", QCOW2, "-drive", "if=none,id=a,file=e.qcow2"],
    ["-drive", QCOW2, "-drive", "if=none,id=b,file=e.qcow2,format=qcow2"],
    ["-drive", f"{RAW},node-name=n", "-drive", "if=none,id=b,driver=null-co,node-name=n"],
    ["-blockdev", "null-co,node-name=zz", "-drive", "if=none,id=zz,driver=null-co"],
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("system")
    for name in ("theirs", "ours"):
        (folder / name).mkdir()
        run("qemu-img", "create", "-q", "-f", "qcow2", folder / name / "e.qcow2", "1M")
        run("qemu-img", "create", "-q", "-f", "raw", folder / name / "r.raw", "1M")
    return folder


@pytest.mark.parametrize("words", ENDS, ids=" ".join)
def test_a_command_line_that_ends_says_the_same(words, folders):
    theirs, ours = run_both(SYSTEM, [*NONE, *words], folders)
    assert ours == theirs


@pytest.mark.parametrize(
    "words",
    [["-vnc", ":0"], ["-incoming", "defer"], ["-display", "gtk"], ["-sd", "x"],
     ["-drive", f"{QCOW2},copy-on-read=on"], ["-chardev", "pty,id=a"], ["-serial", "pty"]],
    ids=" ".join,
)  # fmt: skip
def test_what_is_not_emulated_is_refused_by_name(words, folders):
    ours = run_ours(SYSTEM, [*NONE, *words], folders)
    assert ours.status == 1
    assert "not supported by this emulator" in ours.err
    assert words[0] in ours.err


def test_every_option_of_qemus_help_is_known():
    told = set(re.findall(r"^-{1,2}([A-Za-z][\w-]*)", run(SYSTEM, "-help").stdout, re.MULTILINE))
    assert len(told) > 100
    assert told <= BY_NAME.keys(), sorted(told - BY_NAME.keys())


def test_the_version_is_in_qemus_form(folders):
    theirs, ours = run_both(SYSTEM, ["--version"], folders)
    form = re.compile(r"QEMU emulator version (\d+\.\d+\.\d+) \(.*\)\n")
    assert form.match(ours.out)[1] == form.match(theirs.out)[1]


def programs(folder):
    return (peer(SYSTEM), folder_of_commands(folder) / SYSTEM)


def masked(text):
    return re.sub(r'#block\d+|"(?:micro)?seconds": \d+', "-", text)


def talk(program, folder, words, *requests, machine=(*NONE, "-qmp", "stdio")):
    """Send requests to a monitor on standard input, in order of the replies; what came."""
    process = subprocess.Popen(
        [program, *machine, *words], cwd=folder, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    lines = [{"execute": "qmp_capabilities"}, *requests, {"execute": "quit"}]
    out, err = process.communicate(
        b"".join(json.dumps(line).encode() + b"\n" for line in lines), TIME_LIMIT
    )
    # Greetings differ in the name of the package.
    _, *told = masked(out.decode()).splitlines()
    noise = re.compile(r"qemu: module \S+ not found.*\n")
    return told, noise.sub("", err.decode()), process.returncode


def command(name, /, **arguments):
    words = {key.replace("_", "-"): value for key, value in arguments.items()}
    return {"execute": name, "arguments": words}


@pytest.mark.parametrize(
    "words",
    [
        ["-drive", QCOW2],
        ["-S", "-drive", f"{RAW},readonly=on,node-name=n,cache=none,discard=unmap"],
        ["-drive", "if=none,id=a", "-drive", "if=none,file=r.raw,format=raw"],
        ["-drive", f"{RAW},cache=unsafe,aio=threads,werror=stop,rerror=report,detect-zeroes=on"],
        ["-drive", "if=none,id=a,media=cdrom,file=r.raw,format=raw"],
        ["-drive", "if=none,id=a,file=r.raw"],
        ["-drive", "if=none,id=a,driver=qcow2,file.filename=e.qcow2,file.node-name=f"],
        ["-drive", "if=none,id=a,file=null-co://,format=raw"],
        ["-blockdev", "null-co,node-name=x,size=1048576", "-drive", QCOW2],
        ["-object", "secret,id=s,data=x", "-compat", "deprecated-input=reject"],
        ["-name", "guest=x,debug-threads=on", "-uuid", "8a7b1f3e-0000-0000-0000-000000000001",
         "-boot", "strict=on", "-no-reboot", "-no-user-config", "-nographic", "-S"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_disks_are_listed_as_qemu_lists_them(words, folders):
    requests = [
        command("query-status"),
        command("query-block"),
        command("query-named-block-nodes", flat=True),
    ]
    found = [
        talk(program, folders / where, words, *requests)
        for where, program in zip(("theirs", "ours"), programs(folders), strict=True)
    ]
    assert found[1] == found[0]


@pytest.mark.parametrize(
    "words",
    [
        ["-drive", f"{QCOW2},snapshot=on"],
        ["-snapshot", "-drive", f"{QCOW2},node-name=n", "-drive", "if=none,id=empty"],
        ["-snapshot", "-drive", f"{QCOW2},snapshot=off,readonly=on"],
        ["-drive", f"{RAW},snapshot=on,readonly=on,discard=unmap,cache=none"],
        ["-drive", f"{RAW},snapshot=on,cache=writethrough,bps=1000000"],
        ["-snapshot", "-drive", "if=none,id=a,file=none.qcow2"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_written_to_a_temporary_file_is_gone(words, folders):
    """The overlay is told of as QEMU tells; the image stays as it was."""
    write = command("human-monitor-command", command_line='qemu-io a "write -P 7 0 64k"')
    read = command("human-monitor-command", command_line='qemu-io a "read -P 7 0 64k"')
    listed = command("query-named-block-nodes", flat=True)
    found = []
    for where, program in zip(("theirs", "ours"), programs(folders), strict=True):
        before = [(folders / where / name).read_bytes() for name in ("e.qcow2", "r.raw")]
        lines = [] if "none.qcow2" in words[-1] else [command("query-block"), listed, write, read]
        told, err, status = run_monitor(program, folders / where, words, *lines)
        after = [(folders / where / name).read_bytes() for name in ("e.qcow2", "r.raw")]
        assert after == before
        found.append((told, err, status))
    assert found[1] == found[0]
    assert not list(folders.rglob("vl.*"))


def run_monitor(program, folder, words, *requests):
    """As `talk`, without what differs by nature: names of files, rates, the host's storage."""
    process = subprocess.run(
        [program, *NONE, "-qmp", "stdio", *words], cwd=folder, capture_output=True, text=True,
        timeout=TIME_LIMIT, check=False,
        input="".join(json.dumps(line) + "\n" for line in (
            command("qmp_capabilities"), *requests, command("quit"))),
    )  # fmt: skip
    noise = r'#block\d+|"(?:micro)?seconds": \d+|"actual-size": \d+|vl\.\w+|"virtual-size": \d+'
    told = re.sub(noise, "-", process.stdout)
    told = re.sub(r"(\d+ KiB, 1 ops; ).*", r"\1", told)
    err = re.sub(r"^\S*(qemu-system-x86_64)", r"\1", process.stderr)
    return [line for line in told.splitlines() if '"QMP"' not in line], err, process.returncode


def test_a_disk_of_the_default_machine_has_a_device_that_denies_writes(folders):
    words = ["-nodefaults", "-display", "none", "-qmp", "stdio",
             "-drive", "if=virtio,id=a,file=e.qcow2,format=qcow2",
             "-drive", "if=virtio,id=b,file=r.raw,format=raw,readonly=on"]  # fmt: skip
    unix = {"type": "unix", "data": {"path": "nbd.sock"}}
    requests = [
        command("query-block"),
        command("nbd-server-start", addr=unix),
        command("nbd-server-add", device="a", writable=True),
        command("nbd-server-add", device="a"),
    ]
    found = [
        talk(program, folders / where, words, *requests, machine=())
        for where, program in zip(("theirs", "ours"), programs(folders), strict=True)
    ]
    assert found[1] == found[0]


def test_commands_find_a_disk_by_its_device_name(folders):
    words = ["-S", "-drive", f"{QCOW2},node-name=n", "-drive", "if=none,id=empty"]
    unix = {"type": "unix", "data": {"path": "nbd.sock"}}
    requests = [
        command("block-dirty-bitmap-add", node="a", name="b", disabled=True),
        command("block-dirty-bitmap-add", node="n", name="c"),
        command("block-dirty-bitmap-merge", node="a", target="c", bitmaps=["b"]),
        command("nbd-server-start", addr=unix),
        command("nbd-server-add", device="a", bitmap="b"),
        command("nbd-server-add", device="a", name="w", writable=True),
        command("nbd-server-add", device="empty"),
        command("nbd-server-add", device="nobody"),
        command("block-export-add", type="nbd", id="z", node_name="a"),
        command("block-dirty-bitmap-add", node="empty", name="b"),
        command("blockdev-add", driver="null-co", node_name="a"),
        command("blockdev-add", driver="null-co", node_name="t", size=1 << 20),
        command("query-block-exports"),
        command("nbd-server-remove", name="w"),
        command("blockdev-del", node_name="n"),
        command("blockdev-backup", device="a", target="t", sync="none", auto_dismiss=False),
        command("query-block-jobs"),
        command("query-block"),
        command("job-cancel", id="a"),
        command("stop"),
        command("query-status"),
        command("cont"),
        command("query-status"),
    ]
    found = []
    for where, program in zip(("theirs", "ours"), programs(folders), strict=True):
        told, err, status = talk(program, folders / where, words, *requests)
        # QEMU warns of what it does not know of the target.
        kept = [line for line in err.splitlines() if not line.startswith("warning: The target")]
        # When a job that is cancelled ends depends on the time.
        ordered = [line for line in told if "JOB" not in line]
        found.append((ordered, kept, status))
    assert found[1] == found[0]


def test_a_disk_is_served_with_its_bitmap(tmp_path):
    run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "d.qcow2", "4M")
    words = [*NONE, "-drive", "if=none,id=a,file=d.qcow2,format=qcow2",
             "-qmp", "unix:qmp.sock,server=on,wait=off"]  # fmt: skip
    seen = []
    for program in programs(tmp_path):
        with background(program, *words, ready=tmp_path / "qmp.sock", cwd=tmp_path) as process:
            with Monitor(tmp_path) as monitor:
                monitor.execute("block-dirty-bitmap-add", node="a", name="b", persistent=True)
                unix = {"type": "unix", "data": {"path": "nbd.sock"}}
                monitor.execute("nbd-server-start", addr=unix)
                monitor.execute("nbd-server-add", device="a", writable=True, bitmap="b")
                uri = f"nbd+unix:///a?socket={tmp_path}/nbd.sock"
                run("qemu-io", "-f", "raw", "-c", "write 1M 64k", uri)
                seen.append(nbdinfo_map(uri, "qemu:dirty-bitmap:b"))
                monitor.execute("nbd-server-stop")
                monitor.execute("block-dirty-bitmap-remove", node="a", name="b")
                monitor.quit()
            assert process.wait(TIME_LIMIT) == 0
    assert seen[0] == seen[1]
    assert sum(part["length"] for part in seen[1] if part["type"]) == 64 << 10


def test_a_signal_ends_it_and_the_monitor_hears_of_it(tmp_path):
    found = []
    for program in programs(tmp_path):
        words = [*NONE, "-qmp", "unix:qmp.sock,server=on,wait=off", "-pidfile", "pid"]
        with background(program, *words, ready=tmp_path / "qmp.sock", cwd=tmp_path) as process:
            with Monitor(tmp_path) as monitor:
                assert (tmp_path / "pid").read_text() == f"{process.pid}\n"
                process.send_signal(signal.SIGTERM)
                told = monitor.take()
            status = process.wait(TIME_LIMIT)
            err = re.sub(r"qemu: module .*\n", "", process.stderr.read().decode())
            found.append((told, status, err, (tmp_path / "pid").exists()))
    assert found[1] == found[0]
    assert f"from pid {os.getpid()} (" in found[1][2]


def test_a_signal_ends_it_though_nobody_reads_of_it_any_more(tmp_path):
    for program in programs(tmp_path):
        process = subprocess.Popen(
            [program, *NONE, "-qmp", "stdio"], cwd=tmp_path, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with process:
            while b'"QMP"' not in process.stdout.readline():
                pass
            process.stdout.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIME_LIMIT) == 0


def test_a_driver_of_tests_finds_its_other_side(tmp_path):
    # As the module of QEMU's own tests starts a machine: connected sockets, and -qtest.

    ours, given = socket.socketpair()
    test, other = socket.socketpair()
    program = folder_of_commands(tmp_path) / SYSTEM
    words = ["-display", "none", "-vga", "none", "-nodefaults", "-accel", "qtest",
             "-chardev", f"socket,id=mon,fd={given.fileno()}", "-mon", "chardev=mon,mode=control",
             "-chardev", f"socket,id=qtest,fd={other.fileno()}",
             "-qtest", "chardev:qtest"]  # fmt: skip
    descriptors = (given.fileno(), other.fileno())
    with ours, test, background(program, *words, pass_fds=descriptors) as process:
        given.close()
        other.close()
        for each in (ours, test):
            each.settimeout(TIME_LIMIT)
        test.sendall(b"clock_step 5\n")
        assert test.recv(100) == b"FAIL Unknown command 'clock_step'\n"
        stream = ours.makefile("rwb")
        assert b'"QMP"' in stream.readline()
        stream.write(b'{"execute": "qmp_capabilities"}{"execute": "quit"}')
        stream.flush()
        assert json.loads(stream.readline()) == {"return": {}}
        assert process.wait(TIME_LIMIT) == 0


def test_the_projects_own_backup_passes_with_ours_in_the_path(tmp_path):
    path = f"{folder_of_commands(tmp_path)}{os.pathsep}{os.environ['PATH']}"
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider",
         here / "test_pull_backup.py", "-k", "one_consumer"],
        env={**os.environ, "PATH": path}, capture_output=True, text=True,
        timeout=4 * TIME_LIMIT, check=False, cwd=here.parent.parent,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout
