"""Schemas of running monitors: QEMU's and ours, and answers of theirs that were saved."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from peers import background, peer

from nbexport.cli.main import cli
from nbexport.qapi import introspect
from nbexport.qmp import QmpClient
from nbexport.sources import describe, load

pytestmark = pytest.mark.interop


@contextlib.contextmanager
def monitor(program):
    """A monitor of a program; gives the path of its socket."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "monitor.sock")
        if program == "qemu-storage-daemon":
            chardev = f"socket,id=c,path={path},server=on,wait=off"
            command = [peer(program), "--chardev", chardev, "--monitor", "chardev=c"]
        elif program == "nbexport":
            command = [sys.executable, "-m", "nbexport", "qmp", "-r", "7.2", "-s", str(path)]
        else:
            command = [peer(program), "-M", "none", "-nodefaults", "-display", "none"]
            command += ["-qmp", f"unix:{path},server=on,wait=off"]
        kwargs = {"stdout": -3} if program == "nbexport" else {}  # it prints its address
        with background(*command, ready=path, **kwargs):
            yield path


@pytest.fixture(scope="module", params=["qemu-storage-daemon", "qemu-system-x86_64", "nbexport"])
def live(request):
    """A monitor's socket and its own answers."""
    with monitor(request.param) as path:
        with QmpClient(path) as client:
            answers = [
                {"QMP": client.greeting},
                {"return": client.execute("query-version")},
                {"return": client.execute("query-commands")},
                {"return": client.execute("query-qmp-schema")},
            ]
        yield path, answers


def test_a_monitor_is_a_source(live):
    path, answers = live
    loaded = load(f"qmp:{path}")
    assert loaded.kind == "monitor"
    assert loaded.release[:2] == (7, 2)
    commands = {command["name"] for command in answers[2]["return"]}
    known = {command.name for command in loaded.schema.commands()}
    # our monitor's interface may describe more than it answers
    assert commands <= known
    assert "block-export-add" in known


def shapes(entries):
    """Commands and events with what their types stand for, to the first recursion."""
    listed = {e["name"]: e for e in entries if e["meta-type"] not in ("command", "event")}
    known = {}

    def shape(name):
        if name in known:
            return known[name]
        known[name] = f"#{len(known)}"
        entry = {k: v for k, v in listed[name].items() if k != "name"}
        if "element-type" in entry:
            entry["element-type"] = shape(entry["element-type"])
        for key in ("members", "variants"):
            if key in entry:
                entry[key] = [
                    {**part, "type": shape(part["type"])} if "type" in part else part
                    for part in entry[key]
                ]
        return [known[name], entry]

    found = []
    for entry in entries:
        if entry["meta-type"] in ("command", "event"):
            shown = {**entry, "arg-type": shape(entry["arg-type"])}
            if "ret-type" in entry:
                shown["ret-type"] = shape(entry["ret-type"])
            found.append(shown)
    return found


def test_the_whole_introspection_survives_the_way_through_a_schema(live):
    path, answers = live
    theirs = answers[3]["return"]
    ours = introspect(load(f"qmp:{path}").schema, release=(7, 2))
    assert shapes(ours) == shapes(theirs)
    # every type is reached by something, but for those of conditional pieces that are absent
    assert len(theirs) - 5 <= len(ours) <= len(theirs)


def test_a_recording_is_the_same_source(live, tmp_path):
    path, answers = live
    recording = tmp_path / "monitor.replies"
    recording.write_text("\n\n".join(json.dumps(answer, indent=2) for answer in answers))
    saved, asked = load(str(recording)), load(f"qmp:{path}")
    assert (saved.kind, saved.release) == ("introspection", asked.release)
    assert introspect(saved.schema) == introspect(asked.schema)


def test_every_name_of_a_monitor_can_be_described(live):
    path, _ = live
    schema = load(f"qmp:{path}").schema
    parts = sum(len(describe(schema, name).parts) for name in schema.entities)
    assert parts > 100


def test_commands_take_a_monitor_as_a_source(live):
    path, answers = live
    shown = CliRunner().invoke(cli, ["qapi", "show", f"qmp:{path}", "nbd-server-add", "--json"])
    found = json.loads(shown.output)
    assert found["features"] == {"deprecated": ""}
    # the order is that of the schema: members of the base first
    assert [part["name"] for part in found["parts"]] == [
        "name",
        "description",
        "device",
        "writable",
        "bitmap",
    ]
    printed = CliRunner().invoke(cli, ["qapi", "introspect", f"qmp:{path}"])
    assert shapes(json.loads(printed.output)) == shapes(answers[3]["return"])


def test_a_monitor_that_has_no_introspection_says_so():
    program = peer("qemu-storage-daemon")
    with tempfile.TemporaryDirectory() as folder:
        nbd = Path(folder, "nbd.sock")
        # an NBD server is no monitor: it greets with other words
        options = ["--blockdev", "null-co,node-name=n,read-zeroes=on"]
        options += ["--nbd-server", f"addr.type=unix,addr.path={nbd}"]
        with background(program, *options, ready=nbd):
            result = CliRunner().invoke(cli, ["qapi", "introspect", f"qmp:{nbd}"])
    assert result.exit_code == 1
    assert str(result.exception).startswith(f"qmp:{nbd}: not QMP: ")
