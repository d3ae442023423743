"""The pytest plugin, seen from the test suites of others."""

import subprocess
import sys
import textwrap

import pytest

from nbexport import pytest_plugin
from nbexport.emulator.branches import known_releases
from nbexport.pytest_plugin import DEFAULT_RELEASES

pytest_plugins = ["pytester"]

TESTS = """
    import pytest

    def test_default(qmp_emulator): pass

    @pytest.mark.qmp_releases("5.1", "5.2", "5.1", "7.2.14")
    def test_marked(qmp_emulator): pass
"""


@pytest.fixture
def suite(pytester):
    """Make a suite of the tests given; run it or only list what it has."""
    words = ["-p", "no:nb_regression", "-p", "no:cacheprovider", "-p", "no:xdist", "-q"]

    def run(*options, tests=TESTS, ini=""):
        pytester.makeini(f"[pytest]\naddopts = --strict-markers\n{ini}")
        pytester.makepyfile(tests)
        return pytester.runpytest_inprocess(*words, *options)

    return run


def listed(done):
    """Return for each test the releases that it would run with."""
    found = {"test_default": [], "test_marked": []}
    for line in done.outlines:
        if "::" in line:
            test, release = line.rstrip("]").split("::")[1].split("[")
            found[test].append(release)
    return found["test_default"], found["test_marked"]


MARKED = ["5.1", "5.2", "7.2.14"]


@pytest.mark.parametrize(
    ("options", "ini", "default", "marked"),
    [
        ([], "", list(DEFAULT_RELEASES), MARKED),
        ([], "qmp_releases = 4.0 11.0", ["4.0", "11.0"], MARKED),
        (["--qmp-releases=5.2,6.0"], "qmp_releases = 4.0", ["5.2", "6.0"], ["5.2"]),
        (["--qmp-releases", "all"], "", known_releases(), ["5.1", "5.2"]),
        ([], "qmp_releases = all", known_releases(), MARKED),
    ],
    ids=["nothing", "setting", "command-line", "all", "all-by-setting"],
)
def test_which_releases_a_test_runs_with(suite, options, ini, default, marked):
    done = suite("--collect-only", *options, ini=ini)
    assert listed(done) == (default, marked)


def test_a_test_none_of_whose_releases_is_asked_for_is_skipped(suite):
    done = suite("--qmp-releases=7.0", "-k", "marked")
    done.assert_outcomes(skipped=1, deselected=1)


@pytest.mark.parametrize(
    ("options", "ini", "tests", "message"),
    [
        (["--qmp-releases=5.2,0.9"], "", None, "*--qmp-releases: unknown release '0.9' (known: *"),
        ([], "qmp_releases = new", None, "*the setting qmp_releases: unknown release 'new'*"),
        (
            [],
            "",
            "import pytest\n@pytest.mark.qmp_releases('7.2.99')\ndef test_it(qmp_emulator): pass",
            "*marker qmp_releases of *::test_it: unknown release '7.2.99'*",
        ),
    ],
    ids=["command-line", "setting", "marker"],
)
def test_an_unknown_release_is_an_error_that_says_where(suite, options, ini, tests, message):
    done = suite(*options, ini=ini, **({"tests": tests} if tests else {}))
    assert done.ret != 0
    done.stdout.fnmatch_lines([message])
    done.stdout.no_fnmatch_line("*Traceback*")
    done.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_the_fixture_is_a_process_of_the_release_that_serves(suite, two_bitmaps):
    body = f"""
        import pytest
        from nbexport.nbd import list_exports

        @pytest.mark.qmp_releases("5.1", "5.2")
        def test_it(qmp_emulator):
            assert qmp_emulator.version.startswith(qmp_emulator.release)
            file = {{"driver": "file", "filename": {str(two_bitmaps)!r}}}
            node = {{"driver": "qcow2", "node-name": "d", "read-only": True, "file": file}}
            assert qmp_emulator.ask("blockdev-add", node) == {{"return": {{}}}}
            address = {{"type": "unix", "data": {{"path": str(qmp_emulator.nbd_socket)}}}}
            qmp_emulator.qmp.execute("nbd-server-start", addr=address)
            export = {{"type": "nbd", "id": "e", "node-name": "d", "bitmaps": ["daily"]}}
            answer = qmp_emulator.ask("block-export-add", export)
            if qmp_emulator.release == "5.1":
                assert answer["error"]["class"] == "CommandNotFound"
                qmp_emulator.qmp.execute("nbd-server-add", device="d", bitmap="daily")
            (found,) = list_exports(qmp_emulator.nbd_uri())
            assert "qemu:dirty-bitmap:daily" in found.contexts

        @pytest.mark.qmp_releases("7.2")
        @pytest.mark.qmp_options("--program", "qemu-storage-daemon")
        def test_options_reach_the_process(qmp_emulator):
            assert "SHUTDOWN" not in str(qmp_emulator.ask("quit"))
            assert not qmp_emulator.qmp.events
    """
    suite(tests=body).assert_outcomes(passed=3)


APPLICATION = """
from nbexport.qmp import QmpClient

def my_application(path):
    with QmpClient(path) as monitor:
        known = {each["name"] for each in monitor.execute("query-commands")}
        if "block-export-add" in known:
            monitor.execute("block-export-add", type="nbd", id="e", node_name="disk")
        else:
            monitor.execute("nbd-server-add", device="disk")
"""


def test_the_example_of_the_documentation_runs(suite):
    example = pytest_plugin.__doc__.split("::\n\n")[1].split("\n\nWhich")[0]
    done = suite("--qmp-releases=5.1,5.2", tests=APPLICATION + textwrap.dedent(example))
    done.assert_outcomes(passed=2)


def test_no_process_and_no_folder_stays(suite, tmp_path, monkeypatch):
    body = f"""
        import pytest

        @pytest.mark.qmp_releases("7.2")
        def test_it(qmp_emulator):
            with open({str(tmp_path / "pid")!r}, "w") as file:
                print(qmp_emulator._process.pid, qmp_emulator.folder, file=file)
            assert False
    """
    suite(tests=body).assert_outcomes(failed=1)
    pid, folder = (tmp_path / "pid").read_text().split()
    assert not (tmp_path / folder).exists()
    assert subprocess.run(["kill", "-0", pid], capture_output=True, check=False).returncode


def test_loading_the_plugin_imports_nothing_of_the_emulator():
    code = (
        "import sys, nbexport.pytest_plugin;"
        "print(sorted({m for m in sys.modules if m.startswith('nbexport.')}"
        " | {'numpy', 'click'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['nbexport.pytest_plugin']\n"
