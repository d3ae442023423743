"""The same session against the emulated monitor and against QEMU, over three kinds of client.

The transcripts are compared byte for byte after masking what cannot be equal: time, version, the
digits of generated node names.
"""

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys

import pytest
from peers import TIME_LIMIT, background, nbdinfo_map, peer, run

pytestmark = pytest.mark.interop

QCOW2 = {"driver": "qcow2", "file": {"driver": "file", "filename": "two-bitmaps.qcow2"}}
UNIX = {"type": "unix", "data": {"path": "nbd.sock"}}
LIST_BITMAPS = {"bitmaps": ["weekly", "daily"], "allocation-depth": True}


def nbd_export(name, /, **more):
    return {"type": "nbd", "id": name, "node-name": "n0", **more}


# One story with its mistakes: every command of the family, refused and accepted.
SESSION = [
    ("query-block-exports", {}),
    ("query-named-block-nodes", {}),
    ("no-such-command", {}),
    ("block-export-add", nbd_export("e0")),
    ("blockdev-add", {**QCOW2, "read-only": True}),
    ("blockdev-add", {**QCOW2, "node-name": "1bad"}),
    ("blockdev-add", {**QCOW2, "node-name": "n" * 32, "read-only": True}),
    ("blockdev-add", {"driver": "file", "node-name": "x", "filename": "none"}),
    ("blockdev-add", {"driver": "file", "node-name": "x", "filename": "."}),
    ("blockdev-add", {"driver": "raw", "node-name": "x", "file": "none"}),
    ("blockdev-add", {"driver": "raw", "node-name": "x", "file": {"driver": "file"}}),
    ("blockdev-add", {"driver": "qcow2", "node-name": "x", "file": {"driver": "file",
                      "filename": "text"}}),
    ("blockdev-add", {**QCOW2, "node-name": "n0", "read-only": True}),
    ("blockdev-add", {**QCOW2, "node-name": "n0", "read-only": True}),
    ("query-named-block-nodes", {}),
    ("query-named-block-nodes", {"flat": True}),
    ("block-export-add", nbd_export("e0")),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "no/folder.sock"}}}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {}}}),
    ("nbd-server-start", {"addr": UNIX, "tls-creds": "none"}),
    ("nbd-server-start", {"addr": UNIX, "max-connections": -1}),
    ("nbd-server-start", {"addr": UNIX, "max-connections": 5}),
    ("nbd-server-start", {"addr": UNIX}),
    ("block-export-add", nbd_export("1bad")),
    ("block-export-add", nbd_export("e0", bitmap="weekly")),
    ("block-export-add", nbd_export("e0", bitmaps="weekly")),
    ("block-export-add", nbd_export("e0", bitmaps=["weekly", 1])),
    ("block-export-add", nbd_export("e0", bitmaps=["weekly", "none"])),
    ("block-export-add", nbd_export("e0", bitmaps=[{"node": "n0", "name": "none"}])),
    ("block-export-add", nbd_export("e0", bitmaps=[{"node": "none", "name": "weekly"}])),
    ("block-export-add", nbd_export("e0", writable=True)),
    ("block-export-add", nbd_export("e0", iothread="none")),
    ("block-export-add", nbd_export("e0", name="n" * 4097)),
    ("block-export-add", nbd_export("e0", description="d" * 4097)),
    ("block-export-add", {**nbd_export("e0"), "type": "bogus"}),
    ("block-export-add", {**nbd_export("e0"), "node-name": "none"}),
    ("block-export-add", nbd_export("e0", **LIST_BITMAPS)),
    ("block-export-add", nbd_export("e0", name="other")),
    ("block-export-add", nbd_export("e1")),
    ("block-export-add", nbd_export("e1", name="second", bitmaps=["daily"])),
    ("block-export-add", nbd_export("e1", name="second", description="a second one")),
    ("query-block-exports", {}),
    ("query-named-block-nodes", {"flat": True}),
    ("blockdev-del", {"node-name": "n0"}),
    ("blockdev-del", {"node-name": "none"}),
    ("block-dirty-bitmap-remove", {"node": "n0", "name": "weekly"}),
    ("block-dirty-bitmap-add", {"node": "n0", "name": ""}),
    ("block-dirty-bitmap-add", {"node": "none", "name": "t"}),
    ("block-dirty-bitmap-add", {"node": "n0", "name": "t", "granularity": 3}),
    ("block-dirty-bitmap-add", {"node": "n0", "name": "t", "granularity": 256}),
    ("block-dirty-bitmap-add", {"node": "n0", "name": "t"}),
    ("block-dirty-bitmap-add", {"node": "n0", "name": "t"}),
    ("block-dirty-bitmap-add", {"node": "n0", "name": "x" * 1024}),
    ("block-dirty-bitmap-add", {"node": "n0", "name": "off", "disabled": True,
                                "granularity": 1 << 20}),
    ("block-export-add", nbd_export("e2", name="third", bitmaps=[{"node": "n0", "name": "off"}])),
    ("query-named-block-nodes", {"flat": True}),
    ("block-export-del", {"id": "none"}),
    ("block-export-del", {"id": "e2", "mode": "soft"}),
    ("block-export-del", {"id": "e2"}),
    ("block-dirty-bitmap-remove", {"node": "n0", "name": "t"}),
    ("block-dirty-bitmap-remove", {"node": "n0", "name": "t"}),
    ("block-dirty-bitmap-remove", {"node": "none", "name": "t"}),
    ("block-export-del", {"id": "e1", "mode": "hard"}),
    ("nbd-server-stop", {}),
    ("nbd-server-stop", {}),
    ("query-block-exports", {}),
    ("block-dirty-bitmap-remove", {"node": "n0", "name": "weekly"}),
    ("blockdev-add", {"driver": "raw", "node-name": "r0", "read-only": True, "offset": 4096,
                      "size": 8192, "file": {"driver": "file", "filename": "text",
                                             "node-name": "f0"}}),
    ("blockdev-add", {"driver": "raw", "node-name": "r1", "read-only": True, "offset": 1 << 40,
                      "file": "f0"}),
    ("blockdev-add", {"driver": "raw", "node-name": "r1", "read-only": True, "size": 5,
                      "file": "f0"}),
    ("blockdev-add", {"driver": "raw", "node-name": "r1", "read-only": True, "offset": 512,
                      "size": 1 << 40, "file": "f0"}),
    ("blockdev-add", {**QCOW2, "node-name": "n1", "read-only": True, "backing": None}),
    ("blockdev-add", {**QCOW2, "node-name": "n2", "read-only": True, "backing": "n0"}),
    ("blockdev-add", {**QCOW2, "node-name": "n3", "read-only": True, "backing": "none"}),
    ("query-named-block-nodes", {"flat": True}),
    ("query-named-block-nodes", {}),
    ("block-dirty-bitmap-add", {"node": "r0", "name": "p", "persistent": True}),
    ("block-dirty-bitmap-add", {"node": "n0", "name": "p", "persistent": True,
                                "granularity": 1 << 20}),
    ("blockdev-del", {"node-name": "f0"}),
    ("blockdev-del", {"node-name": "n0"}),
    ("blockdev-del", {"node-name": "r0"}),
    ("blockdev-del", {"node-name": "n2"}),
    ("blockdev-del", {"node-name": "n0"}),
    ("query-named-block-nodes", {"flat": True}),
    # What is still exported when the process quits is told before the last reply.
    ("blockdev-add", {**QCOW2, "node-name": "n0", "read-only": True}),
    ("nbd-server-start", {"addr": UNIX}),
    ("block-export-add", nbd_export("e0", bitmaps=["weekly"])),
    ("block-export-add", nbd_export("e1", name="second")),
    ("block-export-add", nbd_export("e2", name="third")),
]  # fmt: skip

# The deprecated commands.
OLD_COMMANDS = [
    ("nbd-server-add", {"device": "n0"}),
    ("blockdev-add", {**QCOW2, "node-name": "n0", "read-only": True}),
    ("nbd-server-add", {"device": "n0"}),
    ("nbd-server-start", {"addr": UNIX}),
    ("nbd-server-add", {"device": "n0", "bitmaps": ["weekly"]}),
    ("nbd-server-add", {"device": "none"}),
    ("nbd-server-add", {"device": "n0", "name": "a b"}),
    ("nbd-server-add", {"device": "n0", "bitmap": "none"}),
    ("nbd-server-add", {"device": "n0", "bitmap": "weekly", "writable": True}),
    ("nbd-server-add", {"device": "n0", "bitmap": "weekly"}),
    ("nbd-server-add", {"device": "n0", "name": "again", "bitmap": "weekly"}),
    ("nbd-server-add", {"device": "n0", "name": "again", "description": "text"}),
    ("block-export-add", nbd_export("e0", name="again")),
    ("query-block-exports", {}),
    ("nbd-server-remove", {"name": "none"}),
    ("nbd-server-remove", {"name": "again"}),
    ("nbd-server-remove", {"name": "n0", "mode": "hard"}),
    ("nbd-server-stop", {}),
]

RAW = {"driver": "raw", "file": {"driver": "file", "filename": "text"}, "read-only": True}


def bitmap(name, node="n0", **more):
    return {"node": node, "name": name, **more}


def merge(target, *sources):
    return {"node": "n0", "target": target, "bitmaps": list(sources)}


def look(*names):
    """Ask for digests, and how the bitmaps are listed."""
    asked = [("x-debug-block-dirty-bitmap-sha256", bitmap(name)) for name in names]
    return [*asked, ("query-named-block-nodes", {"flat": True})]


# Bitmaps of a read-only image: those in it cannot change, new ones can.
BITMAPS = [
    ("blockdev-add", {**QCOW2, "node-name": "n0", "read-only": True}),
    ("blockdev-add", {**RAW, "node-name": "r0"}),
    ("block-dirty-bitmap-add", bitmap("t", granularity=512)),
    ("block-dirty-bitmap-add", bitmap("u", granularity=1 << 20, disabled=True)),
    ("block-dirty-bitmap-add", bitmap("r", node="r0")),
    ("block-dirty-bitmap-clear", bitmap("weekly")),
    ("block-dirty-bitmap-clear", bitmap("none")),
    ("block-dirty-bitmap-clear", bitmap("t", node="none")),
    ("block-dirty-bitmap-clear", bitmap("")),
    ("block-dirty-bitmap-disable", bitmap("weekly")),
    ("block-dirty-bitmap-enable", bitmap("weekly")),
    ("block-dirty-bitmap-disable", bitmap("t")),
    ("block-dirty-bitmap-disable", bitmap("t")),
    ("block-dirty-bitmap-enable", bitmap("none")),
    *look("weekly", "daily", "t", "u", "none"),
    ("x-debug-block-dirty-bitmap-sha256", bitmap("r", node="r0")),
    ("block-dirty-bitmap-merge", merge("weekly", "t")),
    ("block-dirty-bitmap-merge", merge("none", "t")),
    ("block-dirty-bitmap-merge", merge("t", "weekly", "none")),
    ("block-dirty-bitmap-merge", merge("t", "weekly", {"node": "r0", "name": "none"})),
    ("block-dirty-bitmap-merge", merge("t", "weekly", {"node": "r1", "name": "none"})),
    ("block-dirty-bitmap-merge", merge("t", "weekly", {"node": "r0", "name": "r"})),
    ("block-dirty-bitmap-merge", merge("t", 1)),
    *look("t"),
    ("block-dirty-bitmap-merge", merge("t", "weekly", {"node": "n0", "name": "daily"})),
    ("block-dirty-bitmap-merge", merge("u", "t")),
    *look("t", "u"),
    ("nbd-server-start", {"addr": UNIX}),
    ("block-export-add", nbd_export("e0", bitmaps=["t"])),
    ("block-dirty-bitmap-clear", bitmap("t")),
    ("block-dirty-bitmap-enable", bitmap("t")),
    ("block-dirty-bitmap-merge", merge("t", "u")),
    ("block-dirty-bitmap-merge", merge("u", "t")),
    ("block-dirty-bitmap-remove", bitmap("t")),
    ("block-export-del", {"id": "e0"}),
    ("block-dirty-bitmap-clear", bitmap("t")),
    *look("t", "u"),
    ("block-dirty-bitmap-remove", bitmap("t")),
]


def act(*actions, **more):
    made = [{"type": kind, "data": data} for kind, data in actions]
    return ("transaction", {"actions": made, **more})


GROUPED = {"properties": {"completion-mode": "grouped"}}
ABORT = ("abort", {})
_B = "block-dirty-bitmap-"

# All or nothing.
TRANSACTIONS = [
    ("blockdev-add", {**QCOW2, "node-name": "n0", "read-only": True}),
    ("transaction", {}),
    ("transaction", {"actions": [{"type": "bogus", "data": {}}]}),
    ("transaction", {"actions": [{"type": "abort"}]}),
    act(),
    act(ABORT),
    act((_B + "add", bitmap("a", granularity=4096)), (_B + "add", bitmap("b"))),
    *look("a", "b"),
    act((_B + "add", bitmap("c")), (_B + "add", bitmap("a"))),
    act((_B + "add", bitmap("c")), ABORT),
    *look("a", "b"),
    act((_B + "merge", merge("a", "weekly")), (_B + "disable", bitmap("b")), ABORT),
    *look("a", "b"),
    act((_B + "merge", merge("a", "weekly")), (_B + "disable", bitmap("b"))),
    *look("a", "b"),
    act((_B + "clear", bitmap("a")), (_B + "enable", bitmap("b")), (_B + "merge",
        merge("b", "none"))),
    *look("a", "b"),
    act((_B + "remove", bitmap("a")), (_B + "add", bitmap("a"))),
    act((_B + "remove", bitmap("a")), (_B + "clear", bitmap("a"))),
    act((_B + "remove", bitmap("weekly"))),
    act((_B + "clear", bitmap("none"))),
    act((_B + "disable", bitmap("t", node="none"))),
    *look("a", "b"),
    act(**GROUPED),
    act((_B + "add", bitmap("c")), **GROUPED),
    act(ABORT, **GROUPED),
    act((_B + "add", bitmap("c")), (_B + "merge", merge("c", "weekly", "daily")),
        (_B + "remove", bitmap("a")), properties={"completion-mode": "individual"}),
    *look("a", "b", "c"),
    act((_B + "clear", bitmap("c")), properties={"completion-mode": "both"}),
    act((_B + "clear", bitmap("c", granularity=1))),
]  # fmt: skip

DAEMON = "qemu-storage-daemon"
SYSTEM = "qemu-system-x86_64"
CHARDEV = "socket,id=m,path=qmp.sock,server=on,wait=off"


def command_of(program):
    if program == DAEMON:
        return [peer(DAEMON), "--chardev", CHARDEV, "--monitor", "chardev=m"]
    if program == SYSTEM:
        nothing = ["-M", "none", "-nodefaults", "-display", "none"]
        return [peer(SYSTEM), *nothing, "-chardev", CHARDEV, "-mon", "chardev=m,mode=control"]
    ours = [sys.executable, "-m", "nbexport", "qmp", "--release", "7.2", "--socket", "qmp.sock"]
    return [*ours, "--program", program.removeprefix("nbexport/")] if "/" in program else ours


@contextlib.contextmanager
def monitor(program, folder, two_bitmaps):
    folder.mkdir()
    for name in ("two-bitmaps.qcow2", "two-bitmaps.base.qcow2"):
        shutil.copy(two_bitmaps.parent / name, folder)
    (folder / "text").write_bytes(b"not an image\n" * 2000)
    with background(*command_of(program), ready=folder / "qmp.sock", cwd=folder,
                    stdout=subprocess.DEVNULL) as process:  # fmt: skip
        yield process


def mask(text):
    text = re.sub(r'"seconds": \d+, "microseconds": \d+', '"seconds": T, "microseconds": T', text)
    text = re.sub(r'"package": "[^"]*"', '"package": "P"', text)
    text = re.sub(r"#block(\d+)\d\d", r"#block\1NN", text)
    return re.sub(r'"actual-size": \d+', '"actual-size": A', text)


def without_shutdown(transcript):
    """Drop the event that the storage daemon does not have."""
    return [line for line in transcript if '"event": "SHUTDOWN"' not in line]


def over_plain_socket(folder, session):
    """Send one command a line, wait for its reply; return every line that came."""
    lines = []
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(TIME_LIMIT)
        link.connect(str(folder / "qmp.sock"))
        stream = link.makefile("rwb")
        lines.append(stream.readline())
        for number, (command, arguments) in enumerate(
            [("qmp_capabilities", {}), *session, ("quit", {})]
        ):
            request = {"execute": command, "arguments": arguments, "id": number}
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            while True:
                lines.append(stream.readline())
                assert lines[-1].endswith(b"\r\n"), lines[-1]
                if b'"event"' not in lines[-1]:
                    break
    return [mask(line.decode("ascii")) for line in lines]


def single_quoted(value):
    """JSON as QEMU's dialect also takes it: strings in single quotes, no blanks at the end."""
    return json.dumps(value).replace("'", "\\'").replace('"', "'")


def over_socat(folder, session):
    """Send everything at once, in single quotes and without a newline."""
    requests = [("qmp_capabilities", {}), *session, ("quit", {})]
    sent = "".join(single_quoted({"execute": c, "arguments": a}) for c, a in requests)
    done = subprocess.run(
        [peer("socat"), "-t", "20", "-", "UNIX-CONNECT:qmp.sock"],
        input=sent.encode(), capture_output=True, timeout=TIME_LIMIT, cwd=folder, check=True,
    )  # fmt: skip
    return [mask(line) for line in done.stdout.decode("ascii").splitlines(keepends=True)]


def over_qemu_qmp(folder, session):
    """Drive the session with QEMU's own library; return replies and events as it tells them."""
    from qemu.qmp import QMPClient
    from qemu.qmp.qmp_client import ExecuteError

    async def drive():
        client = QMPClient("test")
        told = []
        await client.connect(str(folder / "qmp.sock"))
        for command, arguments in session:
            try:
                told.append(await client.execute(command, arguments))
            except ExecuteError as error:
                told.append(str(error))
            while not client.events.empty():
                told.append(dict(await client.events.get()))
        with contextlib.suppress(Exception):
            await client.execute("quit")
        with contextlib.suppress(Exception):
            await client.disconnect()
        return told

    told = asyncio.run(asyncio.wait_for(drive(), TIME_LIMIT))
    return [mask(json.dumps(item)) for item in told]


@pytest.mark.filterwarnings("ignore:There is no current event loop:DeprecationWarning")
@pytest.mark.parametrize("drive", [over_plain_socket, over_socat, over_qemu_qmp])
@pytest.mark.parametrize("program", ["nbexport", f"nbexport/{DAEMON}"])
def test_the_session_is_that_of_the_storage_daemon(drive, program, two_bitmaps, tmp_path):
    transcripts = []
    for index, who in enumerate((DAEMON, program)):
        folder = tmp_path / str(index)
        with monitor(who, folder, two_bitmaps) as process:
            transcripts.append(drive(folder, OLD_COMMANDS + SESSION))
            assert process.wait(10) == 0
        assert not (folder / "qmp.sock").exists()
    theirs, ours = transcripts
    if program == "nbexport":
        ours = without_shutdown(ours)
    assert ours == theirs
    assert len(theirs) >= len(OLD_COMMANDS + SESSION)


@pytest.mark.parametrize("program", [DAEMON, SYSTEM])
def test_bitmaps_change_as_they_do_in_qemu(program, two_bitmaps, tmp_path):
    transcripts = []
    for index, who in enumerate((program, f"nbexport/{program.removesuffix('-x86_64')}")):
        with monitor(who, tmp_path / str(index), two_bitmaps) as process:
            transcripts.append(over_plain_socket(tmp_path / str(index), BITMAPS))
            assert process.wait(10) == 0
    assert transcripts[1] == transcripts[0]


@pytest.mark.parametrize(
    ("drive", "session"),
    [
        (over_plain_socket, OLD_COMMANDS + SESSION),
        (over_socat, OLD_COMMANDS + SESSION),
        (over_plain_socket, TRANSACTIONS),
    ],
    ids=["socket", "socat", "transactions"],
)
def test_the_session_is_that_of_the_system_emulator(drive, session, two_bitmaps, tmp_path):
    transcripts = []
    for index, who in enumerate((SYSTEM, "nbexport")):
        with monitor(who, tmp_path / str(index), two_bitmaps) as process:
            transcripts.append(drive(tmp_path / str(index), session))
            assert process.wait(10) == 0
    assert transcripts[1] == transcripts[0]
    assert '"event": "SHUTDOWN"' in "".join(transcripts[0])


def test_an_export_made_by_the_monitor_serves_what_qemu_serves(two_bitmaps, tmp_path):
    steps = [
        ("qmp_capabilities", {}),
        ("blockdev-add", {**QCOW2, "node-name": "n0", "read-only": True}),
        ("nbd-server-start", {"addr": UNIX}),
        ("block-export-add", nbd_export("e0", **LIST_BITMAPS)),
    ]
    contexts = ["base:allocation", "qemu:allocation-depth"]
    contexts += [f"qemu:dirty-bitmap:{name}" for name in LIST_BITMAPS["bitmaps"]]
    maps = []
    for index, who in enumerate((DAEMON, "nbexport")):
        folder = tmp_path / str(index)
        with monitor(who, folder, two_bitmaps), socket.socket(socket.AF_UNIX) as link:
            link.settimeout(TIME_LIMIT)
            link.connect(str(folder / "qmp.sock"))
            stream = link.makefile("rwb")
            stream.readline()
            for command, arguments in steps:
                request = {"execute": command, "arguments": arguments}
                stream.write(json.dumps(request).encode())
                stream.flush()
                assert stream.readline() == b'{"return": {}}\r\n'
            uri = f"nbd+unix:///n0?socket={folder}/nbd.sock"
            maps.append([nbdinfo_map(uri, context) for context in contexts])
            listed = json.loads(run("nbdinfo", "--json", uri).stdout)["exports"][0]["contexts"]
            assert listed == contexts
            stream.close()
    assert maps[0] == maps[1]
