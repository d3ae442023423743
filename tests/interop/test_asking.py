"""nbexport info, list and map, beside nbdinfo."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from peers import background, peer, qemu_nbd, run

from nbexport.cli.main import cli

pytestmark = pytest.mark.interop

SIZE = 64 << 20


def invoke(*words, status=0):
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    run("qemu-img", "bitmap", "--add", path, "b0")
    lines = ["write -P 65 0 3M", "write -z 20M 2M", "write -P 4 30M 100k"]
    run("qemu-io", "-f", "qcow2", *(word for line in lines for word in ("-c", line)), path)
    return path


@pytest.fixture(scope="module", params=["nbexport", "qemu-nbd"])
def uri(request, image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    options = ("-A", "-B", "b0", "-D", "a disk", "-x", "a b")
    if request.param == "qemu-nbd":
        with qemu_nbd(image, folder, *options, "-e", "0") as where:
            yield where.replace("///", "///a%20b") if "a%20b" not in where else where
        return
    path = folder / "ours.sock"
    command = (sys.executable, "-m", "nbexport", "serve", image, "-k", path, *options)
    with background(*command, ready=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield f"nbd+unix:///a%20b?socket={path}"


def test_info_says_what_nbdinfo_says(uri):
    theirs = json.loads(run("nbdinfo", "--json", uri).stdout)
    ours = json.loads(invoke("info", uri, "--json"))
    assert ours.pop("extended") is False  # younger than the nbdinfo of some distributions
    theirs.pop("extended", None)
    assert ours == theirs
    assert ours["exports"][0]["content"].startswith("ASCII text")


def test_so_does_the_text(uri):
    assert invoke("info", uri) == run("nbdinfo", uri).stdout
    assert (
        invoke("info", uri, "--list", "--content")
        == run("nbdinfo", "--list", "--content", uri).stdout
    )
    assert invoke("info", uri, "--no-content") == run("nbdinfo", "--no-content", uri).stdout
    assert invoke("info", uri, "--size") == run("nbdinfo", "--size", uri).stdout


def test_all_exports(uri):
    theirs = json.loads(run("nbdinfo", "--list", "--json", uri).stdout)
    ours = json.loads(invoke("info", uri, "--list", "--json"))
    del ours["extended"]
    theirs.pop("extended", None)
    assert ours == theirs
    assert json.loads(invoke("list", uri, "--json"))["exports"] == theirs["exports"]
    assert invoke("list", uri) == '       64M  "a b"  a disk\n'


@pytest.mark.parametrize(
    "context", ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"]
)
def test_maps_and_their_totals(uri, context):
    theirs = json.loads(run("nbdinfo", f"--map={context}", "--json", uri).stdout)
    ours = json.loads(invoke("map", uri, "-c", context, "--json"))
    assert ours["contexts"] == {context: theirs}
    theirs = run("nbdinfo", f"--map={context}", "--totals", uri).stdout
    assert invoke("map", uri, "-c", context, "--totals") == f"{context}\n{theirs}"
    theirs = json.loads(run("nbdinfo", f"--map={context}", "--totals", "--json", uri).stdout)
    ours = json.loads(invoke("map", uri, "-c", context, "--totals", "--json"))["contexts"][context]
    for row in ours:
        row["percent"] = float(f"{row['percent']:g}")  # six digits, as nbdinfo prints
    assert ours == theirs


def test_sizes_are_shown_with_the_largest_unit_that_divides_them(tmp_path):
    for size in (0, 1, 1000, 1024, 1536 << 10, 3 << 40, (10 << 30) + 512):
        path = tmp_path / f"kit-{size}.sock"
        command = [peer("nbdkit"), "-f", "-U", path, "null", str(size)]
        with background(*command, ready=path, stderr=subprocess.DEVNULL):
            where = f"nbd+unix:///?socket={path}"
            assert invoke("info", where) == run("nbdinfo", where).stdout


def test_without_the_program_that_knows_contents(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert "content" not in json.loads(invoke("info", uri, "--json"))["exports"][0]


def test_an_export_without_contexts(tmp_path):
    path = tmp_path / "kit.sock"
    command = [peer("nbdkit"), "-f", "-U", path, "--no-sr", "null", "1M"]
    with background(*command, ready=path, stderr=subprocess.DEVNULL):
        where = f"nbd+unix:///?socket={path}"
        assert invoke("info", where) == run("nbdinfo", where).stdout
        done = CliRunner().invoke(cli, ["map", where])
    assert done.exit_code == 1
    assert "offers no metadata context" in str(done.exception)
