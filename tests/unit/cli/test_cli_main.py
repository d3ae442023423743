import subprocess
import sys

import pytest
from click.testing import CliRunner

import nbexport
from nbexport.cli.main import cli


def run(*words):
    return CliRunner().invoke(cli, words)


def test_the_help_lists_every_command_with_a_sentence():
    text = run("--help").output
    for command in ("map", "qmp", "run", "serve", "site"):
        assert f"\n  {command} " in text


@pytest.mark.parametrize("command", ["map", "qmp", "run", "serve", "site"])
def test_each_command_explains_itself(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: cli {command}")
    assert len(result.output.splitlines()) > 12
    # Examples keep their lines.
    assert command == "site" or f"\n    nbexport {command} " in result.output
    assert "\\b" not in result.output


def test_the_version():
    assert run("--version").output == f"nbexport {nbexport.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["serve"], "Missing argument 'IMAGE'"),
        (["serve", "x", "--socket", "s", "--port", "1"], "--socket does not go with"),
        (["serve", "x", "--port", "65536"], "65536 is not in the range"),
        (["qmp"], "give at least one of --socket, --tcp and --stdio"),
        (["qmp", "--stdio", "--compat", "a=1"], "--compat a=1: Parameter 'a' is unexpected"),
        (["qmp", "--stdio", "-r", "5.2", "--compat", ""], "--compat : invalid option"),
        (
            ["qmp", "--stdio", "--program", "qemu-storage-daemon", "--compat", ""],
            "qemu-storage-daemon has no --compat",
        ),
        (["qmp", "--stdio", "--pretend", "nbd-server-add"], "is not removed=NAME"),
        (["qmp", "replay", "f", "--rename", "x"], "'x' is not OLD=NEW"),
        (["qmp", "--tcp", "localhost"], "'localhost' is not HOST:PORT"),
        (["qmp", "--tcp", "localhost:65536"], "is not HOST:PORT"),
        (["map", "nbd://localhost", "--timeout", "0"], "is not in the range"),
        (["run", "x", "-p", "name"], "requires 2 arguments"),
    ],
)
def test_wrong_usage_ends_with_status_2(words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["map", "http://localhost/"], "not an NBD URI"),
        (["map", "nbds+vsock://1/"], "vsock is not supported"),
        (["qmp", "--release", "1.0", "--stdio"], "unknown release '1.0' (known: 2.12, 3.0, "),
        (["run", "none.ipynb"], "none.ipynb: No such file or directory"),
        (["site", "none.ipynb"], "none.ipynb: No such file or directory"),
        (["serve", "json:{}", "--port", "0"], "'json:' file names are not supported"),
    ],
)
def test_bad_input_ends_with_status_1_and_one_line(words, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "nbexport", *words],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("nbexport: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
