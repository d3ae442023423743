"""What a release does differently, and what the emulator cannot do, without any peer."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nbexport import nbd
from nbexport.block import open_image
from nbexport.emulator import Machine, MonitorAddress, Release, launch
from nbexport.errors import CommandError, PeerError, UsageError
from nbexport.qapi import validate
from nbexport.qmp import QmpClient


def open_files(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


DISK = {"driver": "qcow2", "node-name": "n0", "read-only": True}


@pytest.fixture
def disk(two_bitmaps_copy):
    return {**DISK, "file": {"driver": "file", "filename": str(two_bitmaps_copy)}}


EACH_RELEASE = pytest.mark.qmp_releases("5.2", "7.2.0", "7.2")


def start(machine, disk):
    machine.qmp.execute("blockdev-add", disk)
    address = {"type": "unix", "data": {"path": str(machine.nbd_socket)}}
    machine.qmp.execute("nbd-server-start", {"addr": address})


def export(name, **more):
    return {"type": "nbd", "id": name, "node-name": "n0", "name": name, **more}


@EACH_RELEASE
def test_the_greeting_tells_the_release(qmp_emulator):
    expected = {"5.2": "5.2.0", "7.2.0": "7.2.0", "7.2": "7.2.22"}[qmp_emulator.release]
    assert qmp_emulator.version == expected
    assert qmp_emulator.qmp.execute("query-version")["package"] == "nbexport"


@EACH_RELEASE
def test_the_event_comes_before_or_after_the_reply(qmp_emulator, disk):
    start(qmp_emulator, disk)
    qmp_emulator.qmp.execute("block-export-add", export("e", bitmaps=["weekly"]))
    qmp_emulator.qmp.execute("block-export-del", {"id": "e"})
    before = [event["data"] for event in qmp_emulator.qmp.events]
    assert before == ([{"id": "e"}] if qmp_emulator.release == "7.2" else [])
    assert qmp_emulator.qmp.wait_event("BLOCK_EXPORT_DELETED")["data"] == {"id": "e"}
    assert qmp_emulator.qmp.execute("query-block-exports") == []


@EACH_RELEASE
def test_a_bitmap_by_node_and_name_needs_7_1(qmp_emulator, disk):
    start(qmp_emulator, disk)
    by_node = export("e", bitmaps=[{"node": "n0", "name": "daily"}])
    reply = qmp_emulator.ask("block-export-add", by_node)
    if qmp_emulator.release == "5.2":
        desc = "Invalid parameter type for 'bitmaps[0]', expected: string"
        assert reply["error"]["desc"] == desc
    else:
        assert reply == {"return": {}}


@EACH_RELEASE
def test_a_wrong_enum_value_is_told_in_the_words_of_the_release(qmp_emulator):
    reply = qmp_emulator.ask("block-export-add", {**export("e"), "type": "bogus"})
    old = "Invalid parameter 'bogus'"
    new = "Parameter 'type' does not accept value 'bogus'"
    assert reply["error"]["desc"] == (old if qmp_emulator.release == "5.2" else new)


@EACH_RELEASE
def test_descriptions_of_nodes_fit_the_schema_of_the_release(qmp_emulator, disk):
    qmp_emulator.qmp.execute("blockdev-add", disk)
    schema = schema_of(qmp_emulator.release)
    returned = schema.command("query-named-block-nodes").ret_type
    nodes = qmp_emulator.qmp.execute("query-named-block-nodes")
    validate(schema, returned, nodes)
    top = next(node for node in nodes if node["node-name"] == "n0")
    assert ("encryption_key_missing" in top) is (qmp_emulator.release == "5.2")
    states = {bitmap.get("status") for bitmap in top["dirty-bitmaps"]}
    assert states == ({"active"} if qmp_emulator.release == "5.2" else {None})


def schema_of(release):
    async def make():
        return Machine(Release.parse(release)).schema

    return asyncio.run(make())


def test_an_unknown_program_is_refused():
    async def make():
        Machine(Release.parse("7.2"), program="qemu-img")

    with pytest.raises(UsageError, match="unknown program 'qemu-img'"):
        asyncio.run(make())


# What QEMU does and this emulator does not: each is an error that names it, and leaves no trace.


def refusal(machine, command, arguments):
    reply = machine.ask(command, arguments)
    assert set(reply) == {"error"}, reply
    return reply["error"]["desc"]


@pytest.fixture
def newest():
    with launch("emulated", "7.2") as target:
        yield target


def test_an_image_on_another_layer_is_written(newest, disk, two_bitmaps_copy):
    layered = {"driver": "raw", "node-name": "r", "file": disk["file"]}
    start(newest, {**disk, "read-only": False, "file": layered})
    newest.qmp.execute("block-export-add", export("e", writable=True))
    stored = {"node": "n0", "name": "new", "persistent": True}
    newest.qmp.execute("block-dirty-bitmap-add", stored)
    with nbd.Client.connect(newest.nbd_uri("e")) as client:
        client.write(0, b"x" * 512)
    newest.qmp.execute("block-export-del", {"id": "e", "mode": "hard"})
    newest.qmp.execute("nbd-server-stop")
    newest.qmp.execute("blockdev-del", {"node-name": "n0"})
    with open_image(two_bitmaps_copy) as image:
        assert image.read(0, 513)[:512] == b"x" * 512
        assert image.bitmaps["new"].bitmap.count == 4096


def test_an_enabled_bitmap_of_a_writable_node_is_not_exported_read_only(newest, disk):
    start(newest, {**disk, "read-only": False})
    text = refusal(newest, "block-export-add", export("e", bitmaps=["weekly"]))
    assert text == "Enabled bitmap 'weekly' incompatible with readonly export"
    by_node = [{"node": "n0", "name": "weekly"}]
    newest.qmp.execute("block-export-add", export("e", bitmaps=by_node))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ({"type": "vsock", "data": {"cid": "x", "port": "2"}}, "Failed to parse cid 'x'"),
        ({"type": "fd", "data": {"str": "7"}}, "File descriptor named '7'"),
        ({"type": "unix", "data": {"path": "x" * 108, "abstract": True}}, "is too long"),
        ({"type": "inet", "data": {"host": "127.0.0.1", "port": "x"}}, "127.0.0.1:x"),
    ],
)
def test_addresses_that_are_not_listened_on(newest, address, message):
    assert message in refusal(newest, "nbd-server-start", {"addr": address})
    assert refusal(newest, "nbd-server-stop", {}) == "NBD server not running"


def test_a_tcp_address_is_listened_on(newest, disk):
    from nbexport.nbd import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    newest.qmp.execute("blockdev-add", disk)
    data = {"host": "127.0.0.1", "port": str(port)}
    newest.qmp.execute("nbd-server-start", {"addr": {"type": "inet", "data": data}})
    newest.qmp.execute("block-export-add", export("e", bitmaps=["daily"]))
    with Client.connect(f"nbd://127.0.0.1:{port}/e") as client:
        assert client.map()["qemu:dirty-bitmap:daily"].total(1) == 2134016
        text = refusal(newest, "block-export-del", {"id": "e"})
        assert text == "export 'e' still in use"
        newest.qmp.execute("block-export-del", {"id": "e", "mode": "hard"})
        assert newest.qmp.wait_event("BLOCK_EXPORT_DELETED")["data"] == {"id": "e"}


@pytest.mark.parametrize("option", ["data-file", "encrypt"])
def test_options_that_would_change_what_is_read_are_refused(newest, disk, option):
    values = {"data-file": "x", "encrypt": {"format": "aes", "key-secret": "k"}}
    text = refusal(newest, "blockdev-add", {**disk, option: values[option]})
    assert text == f"Option '{option}' is not supported by this emulator"
    assert newest.qmp.execute("query-named-block-nodes") == []


def test_a_failed_blockdev_add_leaves_no_node_and_no_open_file(newest, disk, tmp_path):
    (tmp_path / "text").write_bytes(b"x" * 4096)
    pid = newest._process.pid
    before = open_files(pid)
    inner = {"driver": "file", "filename": str(tmp_path / "text")}
    deep = {"driver": "qcow2", "node-name": "top", "file": {"driver": "raw", "file": inner}}
    assert refusal(newest, "blockdev-add", deep) == "Image is not in qcow2 format"
    missing = {**disk, "backing": {"driver": "file", "filename": "none"}}
    assert "Could not open backing file" in refusal(newest, "blockdev-add", missing)
    assert newest.qmp.execute("query-named-block-nodes") == []
    assert open_files(pid) == before


def test_deleting_a_node_closes_its_files(newest, disk):
    pid = newest._process.pid
    before = open_files(pid)
    for _ in range(3):
        newest.qmp.execute("blockdev-add", disk)
        assert open_files(pid) == before + 2
        newest.qmp.execute("blockdev-del", {"node-name": "n0"})
    assert open_files(pid) == before


# The process around it


def test_a_monitor_on_standard_input_and_output():
    done = subprocess.run(
        [sys.executable, "-m", "nbexport", "qmp", "--stdio"],
        input=b'{"execute":"qmp_capabilities"}{"execute":"query-block-exports"}',
        capture_output=True, timeout=30, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[1:] == [{"return": {}}, {"return": []}]
    assert done.stderr == b""


def test_a_monitor_on_tcp_says_where_it_listens():
    words = [sys.executable, "-m", "nbexport", "qmp", "--tcp", "127.0.0.1:0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        host, port = process.stdout.readline().strip().rsplit(":", 1)
        with QmpClient((host, int(port))) as client:
            client.execute("quit")
        assert process.wait(10) == 0


def test_an_occupied_monitor_path_is_refused(newest):
    path = newest.folder / "monitor.sock"
    words = [sys.executable, "-m", "nbexport", "qmp", "--socket", path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr
    assert newest.qmp.execute("query-block-exports") == []


def test_closing_a_target_ends_its_process_and_removes_its_folder():
    target = launch("emulated", "7.2")
    process = target._process
    target.close()
    target.close()
    assert process.returncode == 0
    assert not target.folder.exists()


@pytest.mark.parametrize(
    ("name", "release", "message"),
    [("nobody", "7.2", "unknown target"), ("emulated", "1.0", "unknown release '1.0'")],
)
def test_a_target_that_cannot_start_leaves_nothing(name, release, message, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(Exception, match=message):
        launch(name, release)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qemu-system", r"qemu-system-x86_64 is not installed \(Debian package qemu-system-x86\)"),
        ("qemu-storage-daemon", "is not installed .*qemu-system-common"),
    ],
)
def test_a_target_whose_program_is_missing_names_it(name, message, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UsageError, match=message):
        launch(name, "7.2")


def test_options_of_a_target_are_words_of_its_command_line():
    with launch("emulated", "6.0", ["--compat", "deprecated-input=reject"]) as target:
        refused = target.ask("nbd-server-remove", {"name": "x"})["error"]
        assert refused["class"] == "CommandNotFound"
        assert "disabled by policy" in refused["desc"]
    with pytest.raises(PeerError, match=r"(?s)did not start: .*No such option.*--no-such"):
        launch("emulated", "6.0", ["--no-such"])


def test_a_monitor_has_one_address():
    with pytest.raises(UsageError, match="exactly one"):
        MonitorAddress()
    with pytest.raises(UsageError, match="exactly one"):
        MonitorAddress("path", stdio=True)


def test_an_image_in_a_backing_chain_can_be_referred_to(newest, two_bitmaps, tmp_path):
    for name in ("two-bitmaps.qcow2", "two-bitmaps.base.qcow2"):
        shutil.copy(two_bitmaps.parent / name, tmp_path)
    base = {"driver": "file", "filename": str(tmp_path / "two-bitmaps.base.qcow2")}
    newest.qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "base", "file": base})
    top = {"driver": "file", "filename": str(tmp_path / "two-bitmaps.qcow2")}
    newest.qmp.execute("blockdev-add", {**DISK, "file": top, "backing": "base"})
    names = [node["node-name"] for node in newest.qmp.execute("query-named-block-nodes")]
    assert [name for name in names if not name.startswith("#")] == ["n0", "base"]
    text = refusal(newest, "blockdev-del", {"node-name": "base"})
    assert text == "Node 'base' is busy: node is used as backing hd of 'n0'"


def test_commands_refuse_what_the_graph_does_not_have():
    from nbexport.emulator.graph import Graph

    with pytest.raises(CommandError, match="Cannot find device='x' nor node-name='x'"):
        Graph().find("x")
