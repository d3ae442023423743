"""The whole of QEMU's schema, and what an installed QEMU says of itself, dated and planned for."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from peers import background, peer, qemu_source

from nbexport.cli.main import cli
from nbexport.qapi import known_releases
from nbexport.qmp import QmpClient, QmpCommandError
from nbexport.sources import load
from nbexport.timeline import Snapshot, check_tags, computed_since
from nbexport.timeline.migration import plan
from nbexport.timeline.sketch import sketch

pytestmark = pytest.mark.interop

ROOT = "qapi/qapi-schema.json"


@pytest.fixture(scope="module")
def whole():
    source = qemu_source()
    loaded = load(str(source / ROOT))
    return Snapshot(".".join(map(str, loaded.release)), loaded.schema, loaded.release)


@pytest.fixture(scope="module")
def older(whole, tmp_path_factory):
    """Return a tree of the release before, without some pieces, and with older names of types."""
    folder = tmp_path_factory.mktemp("older")
    shutil.copytree(qemu_source() / "qapi", folder / "qapi")
    major, minor, *_ = whole.release
    (folder / "VERSION").write_text(f"{major}.{minor - 1}.0\n" if minor else f"{major - 1}.2.0\n")
    path = folder / "qapi" / "block-export.json"
    text = path.read_text()
    for old, new in (
        ("            '*allocation-depth': 'bool' } }", "            } }"),
        ("'*bitmaps': ['BlockDirtyBitmapOrStr'],\n", "'*bitmaps': ['BlockDirtyBitmapOrStr']\n"),
        ("# @allocation-depth:", "# Also allocation depth:"),
        ("BlockExportOptionsNbd'", "BlockExportNbd'"),
        ("BlockExportOptionsNbd:", "BlockExportNbd:"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    loaded = load(str(folder / ROOT))
    return folder, Snapshot("older", loaded.schema, loaded.release)


def test_every_piece_of_the_whole_schema_is_dated_in_a_second(whole, older):
    begin = time.perf_counter()
    dates = computed_since([older[1], whole])
    assert time.perf_counter() - begin < 2
    assert len(dates) > 4000
    new = {str(element) for element, since in dates.items() if since.exact}
    # The renamed type and all that it holds keep their date.
    assert new == {"block-export-add allocation-depth", "BlockExportOptionsNbd allocation-depth"}


def test_the_written_release_of_what_came_later_is_wrong(whole, older):
    told = {str(d.element): d for d in check_tags([older[1], whole]) if d.problem != "missing"}
    found = told.pop("BlockExportOptionsNbd allocation-depth")
    assert (found.problem, found.told) == ("too-early", "5.2")
    # The older tree has all the rest already, what came with the release itself included.
    release = ".".join(map(str, whole.release[:2]))
    assert {(d.problem, d.told) for d in told.values()} == {("too-late", release)}


def test_the_command_line_tells_the_same(whole, older):
    words = ["timeline", "--source", str(older[0]), "--source", str(qemu_source())]
    result = CliRunner().invoke(cli, [*words, "--tags", "BlockExportOptionsNbd"])
    assert result.exit_code == 1
    assert "BlockExportOptionsNbd allocation-depth: says 5.2, computed " in result.output
    result = CliRunner().invoke(cli, [*words, "--format", "json"])
    assert len(json.loads(result.stdout)["elements"]) > 4000


@pytest.fixture(scope="module", params=["qemu-system-x86_64", "qemu-storage-daemon"])
def live(request):
    """A monitor of an installed program, for the length of the module's tests with it."""
    program = peer(request.param)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "monitor.sock")
        if "storage" in request.param:
            chardev = f"socket,id=c,path={path},server=on,wait=off"
            options = ["--chardev", chardev, "--monitor", "chardev=c"]
        else:
            options = ["-M", "none", "-nodefaults", "-display", "none"]
            options += ["-qmp", f"unix:{path},server=on,wait=off"]
        with background(program, *options, ready=path):
            yield path


def test_nothing_that_a_program_says_of_itself_is_newer_than_its_source(whole, live):
    loaded = load(f"qmp:{live}")
    if loaded.release[:2] != whole.release[:2]:
        pytest.skip(f"the source is of {whole.name}, the program of another release")
    dates = computed_since([whole, Snapshot("program", loaded.schema, loaded.release)])
    calls = [call.name for call in [*loaded.schema.commands(), *loaded.schema.events()]]
    of_calls = {e: since for e, since in dates.items() if e.owner in calls}
    assert len(of_calls) > 300
    # On the wire by way of its stable releases alone.
    assert {str(element) for element, since in of_calls.items() if since.exact} == set()


def test_a_program_takes_the_call_that_the_generated_code_makes(live):
    names: dict[str, object] = {}
    for no_deprecated in (False, True):
        made = plan("nbd-server-add", "4.0", known_releases()[-1], no_deprecated=no_deprecated,
                    arguments=["bitmap"])  # fmt: skip
        exec(compile(sketch(made), "made", "exec"), names)
        with QmpClient(live) as client:
            schema = client.execute("query-qmp-schema")
            function = names["nbd_server_add"]
            call = function(schema, device="nothing", bitmap="b0", name="e0")
            assert (call["execute"] == "block-export-add") == no_deprecated
            # Its form is right: what it complains of is the node that is not there.
            with pytest.raises(QmpCommandError) as caught:
                client.execute(call["execute"], call["arguments"])
            assert "nothing" in caught.value.desc


def test_the_code_runs_without_the_package(live, tmp_path):
    path = tmp_path / "made.py"
    path.write_text(sketch(plan("nbd-server-add", "5.0", "7.2", no_deprecated=True)))
    with QmpClient(live) as client:
        (tmp_path / "schema.json").write_text(json.dumps(client.execute("query-qmp-schema")))
    code = (
        "import json, made; schema = json.load(open('schema.json')); "
        "print(json.dumps(made.nbd_server_add(schema, device='d', bitmap='b')))"
    )
    done = subprocess.run(
        [shutil.which("python3"), "-I", "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["execute"] == "block-export-add"
