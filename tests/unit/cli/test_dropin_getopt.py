"""Command lines read as getopt_long reads them, and the table of options."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.cli.dropin import nbd
from nbexport.cli.dropin.getopt import GetoptError, Option, Parser
from nbexport.cli.dropin.nbd_options import OPTIONS
from nbexport.cli.dropin.stop import StopError
from nbexport.cli.dropin.writers import WriteThrough, ZeroDetector

SOME = (
    Option("read-only", "r"), Option("read", ""), Option("bitmap", "B", "NAME"),
    Option("bind", "b", "ADDRESS"), Option("tls-creds", "", "ID"),
)  # fmt: skip


def parse(*words, options=SOME):
    parser = Parser(options, words)
    return list(parser), parser.operands


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "-r", "b"], ([("read-only", "")], ["a", "b"])),
        (["-rB", "x"], ([("read-only", ""), ("bitmap", "x")], [])),
        (["-rBx", "-Br"], ([("read-only", ""), ("bitmap", "x"), ("bitmap", "r")], [])),
        (["--bitmap=a=b", "--bit", "c"], ([("bitmap", "a=b"), ("bitmap", "c")], [])),
        (["--read", "--read-"], ([("read", ""), ("read-only", "")], [])),
        (["-B", "--", "--", "-r"], ([("bitmap", "--")], ["-r"])),
        (["-", "--tls=", "x"], ([("tls-creds", "")], ["-", "x"])),
    ],
)
def test_options_and_operands_come_in_any_order(words, expected):
    assert parse(*words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--x=1"], "unrecognized option '--x=1'"),
        (["--bi=1"], "option '--bi=1' is ambiguous; possibilities: '--bitmap' '--bind'"),
        (["--read=1"], "option '--read' doesn't allow an argument"),
        (["--tls"], "option '--tls-creds' requires an argument"),
        (["-rx"], "invalid option -- 'x'"),
        (["-rb"], "option requires an argument -- 'b'"),
    ],
)
def test_errors_have_glibcs_words(words, message):
    with pytest.raises(GetoptError) as caught:
        parse(*words)
    assert str(caught.value) == message


@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_words_are_read_or_refused(words):
    with contextlib.suppress(GetoptError):
        options, operands = parse(*words, options=OPTIONS)
        assert len(options) + len(operands) <= sum(map(len, words)) + len(words)


@given(st.permutations(["-r", "--bitmap=x", "file", "-bhost"]))
def test_the_order_of_words_does_not_matter_but_to_the_order_of_options(words):
    options, operands = parse(*words)
    assert sorted(options) == [("bind", "host"), ("bitmap", "x"), ("read-only", "")]
    assert operands == ["file"]


# The table


def test_every_option_is_there_once_and_its_verdict_explained():
    names = [option.name for option in OPTIONS]
    letters = [option.short for option in OPTIONS if option.short]
    assert len(set(names)) == len(names)
    assert len(set(letters)) == len(letters)
    for option in OPTIONS:
        assert option.verdict in {"same", "differs", "refused"}
        assert option.note or option.verdict == "same"


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_of_the_table_is_taken(option, capsys):
    values = {
        "aio": "threads", "cache": "none", "detect-zeroes": "on", "discard": "unmap",
        "handshake-limit": "3", "object": "secret,id=a,data=x", "offset": "512", "shared": "2",
        "socket": "/s", "trace": "x",
    }  # fmt: skip
    wanted, fresh = nbd.Wanted("qemu-nbd"), nbd.Wanted("qemu-nbd")
    value = values.get(option.name, "v") if option.value else ""
    if option.name in {"help", "version"}:
        with pytest.raises(SystemExit, match="0"):
            wanted.take(option.name, value)
        assert capsys.readouterr().out
        return
    wanted.take(option.name, value)
    assert vars(wanted) != vars(fresh) or option.name == "trace"


def test_bitmaps_are_in_the_other_order():
    wanted = nbd.Wanted("qemu-nbd")
    for name in "abc":
        wanted.take("bitmap", name)
    assert wanted.bitmaps == ["c", "b", "a"]


def test_the_help_has_a_line_for_each_option():
    text = nbd.usage("/x/qemu-nbd")
    assert text.startswith("Usage: /x/qemu-nbd [OPTIONS] FILE\n")
    for option in OPTIONS:
        assert text.count(f"--{option.name}{'=' if option.value else ' '}") >= 1
    assert max(map(len, text.splitlines())) <= 130


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 0),
        ({"LISTEN_FDS": "1"}, 0),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, 0),
        ({"LISTEN_PID": "SELF", "LISTEN_FDS": "2"}, 2),
        ({"LISTEN_PID": "SELF", "LISTEN_FDS": "x"}, 0),
        ({"LISTEN_PID": "SELF", "LISTEN_FDS": "-1"}, 0),
    ],
)
def test_sockets_are_handed_over_to_the_process_that_is_meant(variables, count, monkeypatch):
    import os

    for name in ("LISTEN_PID", "LISTEN_FDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == "SELF" else value)
    assert nbd.sockets_handed_over() == count
    if count:
        assert "LISTEN_FDS" not in os.environ


def test_a_program_that_the_path_finds_was_called_by_its_name(monkeypatch, tmp_path):
    command = tmp_path / "qemu-nbd"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nbd.called_as([str(command)]) == "qemu-nbd"
    assert nbd.called_as(["/elsewhere/qemu-nbd"]) == "/elsewhere/qemu-nbd"


def test_the_first_mistake_is_told():
    wanted = nbd.Wanted("qemu-nbd")
    wanted.lists = wanted.fork = True
    wanted.operands = ["x"]
    with pytest.raises(StopError, match="file name"):
        nbd.check(wanted, 0)
    wanted.operands = []
    with pytest.raises(StopError, match="forking"):
        nbd.check(wanted, 0)


class Recorder:
    """Notes what is asked of a disk."""

    def __init__(self):
        self.asked = []

    def write_from(self, offset, data):
        self.asked.append(("write", offset, bytes(data)))

    def write_zeroes(self, offset, length, *, unmap=True, no_fallback=False):
        self.asked.append(("zero", offset, length, unmap))

    def flush(self):
        self.asked.append(("flush",))


@pytest.mark.parametrize("unmap", [False, True])
def test_zeroes_are_found_if_all_of_a_write_is_zeroes(unmap):
    disk = Recorder()
    writer = ZeroDetector(disk, unmap=unmap)
    writer.write_from(512, memoryview(bytes(512)))
    writer.write_from(1024, memoryview(bytes(511) + b"x"))
    writer.write_from(0, memoryview(b""))
    assert disk.asked == [
        ("zero", 512, 512, unmap), ("write", 1024, bytes(511) + b"x"), ("write", 0, b""),
    ]  # fmt: skip


def test_ends_of_zeroes_that_are_not_aligned_are_written():
    disk = Recorder()
    writer = ZeroDetector(disk, unmap=True, alignment=512)
    writer.write_from(500, memoryview(bytes(600)))
    writer.write_from(600, memoryview(bytes(5)))
    assert disk.asked == [
        ("write", 500, bytes(12)), ("zero", 512, 512, True), ("write", 1024, bytes(76)),
        ("write", 600, bytes(5)),
    ]  # fmt: skip


def test_a_write_through_is_flushed():
    disk = Recorder()
    writer = WriteThrough(disk)
    writer.write_from(0, memoryview(b"x"))
    writer.write_zeroes(0, 1, unmap=False)
    assert [each[0] for each in disk.asked] == ["write", "flush", "zero", "flush"]
