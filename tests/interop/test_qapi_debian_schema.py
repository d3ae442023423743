"""QEMU's own schema, from its Debian source package, beside its own front end and programs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from peers import background, peer, qemu_source

from nbexport.qapi import check_schema, introspect, load_schema, parse_release
from nbexport.qmp import QmpClient

pytestmark = pytest.mark.interop

ROOTS = (
    "qapi/qapi-schema.json",
    "storage-daemon/qapi/qapi-schema.json",
    "qga/qapi-schema.json",
)
RUNS = 5
# How long each takes to read and check a schema, without the start of Python and the imports.
THEIRS = """
import sys, time
sys.path.insert(0, sys.argv[1])
from qapi.schema import QAPISchema
begin = time.perf_counter()
QAPISchema(sys.argv[2])
print(time.perf_counter() - begin)
"""
OURS = """
import sys, time
from nbexport.qapi import load_schema, parse_release
begin = time.perf_counter()
load_schema(sys.argv[2], as_of=parse_release(sys.argv[1]))
print(time.perf_counter() - begin)
"""


@pytest.fixture(scope="module")
def source():
    return qemu_source()


@pytest.fixture(scope="module")
def release(source):
    return parse_release((source / "VERSION").read_text().strip())


@pytest.mark.parametrize("root", ROOTS)
def test_it_is_read_without_a_finding(source, release, root):
    if not (source / root).exists():
        # the daemon of later releases has the emulator's schema
        assert release >= (8, 0)
        return
    assert check_schema([str(source / root)], as_of=release) == []


def seconds(*words):
    done = subprocess.run(
        [sys.executable, "-c", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return float(done.stdout)


def test_it_is_read_in_half_the_time(source, release):
    root = source / ROOTS[0]
    version = ".".join(map(str, release))
    theirs, ours = [], []
    for _ in range(RUNS):
        theirs.append(seconds(THEIRS, source / "scripts", root))
        ours.append(seconds(OURS, version, root))
    ratio = statistics.median(ours) / statistics.median(theirs)
    assert ratio <= 0.5, f"{ratio:.2f} of the front end's time: {ours} against {theirs}"


@pytest.fixture(scope="module", params=["qemu-system-x86_64", "qemu-storage-daemon"])
def live(request):
    """The introspection of an installed program, the root of its schema, and its version."""
    program = peer(request.param)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "monitor.sock")
        if "storage" in request.param:
            chardev = f"socket,id=c,path={path},server=on,wait=off"
            options = ["--chardev", chardev, "--monitor", "chardev=c"]
            root = ROOTS[1]
        else:
            options = ["-M", "none", "-nodefaults", "-display", "none"]
            options += ["-qmp", f"unix:{path},server=on,wait=off"]
            root = ROOTS[0]
        with background(program, *options, ready=path), QmpClient(path) as client:
            version = client.greeting["version"]["qemu"]
            entries = client.execute("query-qmp-schema")
    return entries, root, (version["major"], version["minor"])


def test_introspection_is_that_of_the_program(source, release, live):
    """The list is the same, entry by entry, with the symbols that the build has.

    Which these are nobody tells. A symbol is taken for defined if that makes more entries equal
    than leaving it out; each decides over few of some thousand entries, so what is equal in the
    end is not what was fitted.
    """
    entries, root, version = live
    assert version == release[:2], "sources and programs are of different releases"
    everything = load_schema(str(source / root), as_of=release)
    expected = {json.dumps(entry, sort_keys=True) for entry in entries}

    def ours(symbols):
        schema = load_schema(str(source / root), as_of=release, symbols=symbols)
        return introspect(schema, release=release)

    def missed(symbols):
        everything.symbols = symbols
        found = introspect(everything, release=release)
        return len(expected ^ {json.dumps(entry, sort_keys=True) for entry in found})

    symbols = set(everything.all_symbols)
    best = missed(symbols)
    for symbol in sorted(everything.all_symbols):
        left = missed(symbols - {symbol})
        if left < best:
            symbols.remove(symbol)
            best = left
    assert len(everything.all_symbols) < len(entries) / 10
    found = ours(symbols)
    assert [entry["name"] for entry in found] == [entry["name"] for entry in entries]
    assert found == entries
