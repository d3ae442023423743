"""The monitor for humans: its words, its keys, and how lines are told."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.emulator import Release
from nbexport.emulator.hmp import Monitor, Screen, run, show
from nbexport.emulator.hmp.monitor import LINE_MAX
from nbexport.emulator.hmp.words import ComplaintError, Word, read
from nbexport.emulator.machine import Machine
from nbexport.errors import UsageError

WORDS = (
    Word("all", "flag", letter="a"),
    Word("device", "block"),
    Word("size", "size", optional=True),
    Word("rest", "rest", optional=True),
)


def typed(keys, monitor=None):
    monitor = monitor or Monitor("7.2.0")
    lines = [line for line in map(monitor.type, keys) if line is not None]
    return lines, monitor.take_drawing()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x", {"device": "x"}),
        ("  -a  x ", {"all": True, "device": "x"}),
        ('"a b\\"c" 5', {"device": 'a b"c', "size": 5 << 20}),
        ("x 5k and more", {"device": "x", "size": 5 << 10, "rest": "and more"}),
    ],
)
def test_words_become_arguments(text, found):
    assert read(text, WORDS, lambda _: None) == found


@pytest.mark.parametrize(
    ("text", "complaint", "printed"),
    [
        ("", "block device name expected", ""),
        ("-b x", "unsupported option -b", ""),
        ('"x', "block device name expected", "unterminated string\n"),
        ('"\\q"', "block device name expected", "unsupported escape code: '\\q'\n"),
        ("x 5q", "invalid size", ""),
    ],
)
def test_words_that_do_not_fit_are_complained_of(text, complaint, printed):
    said = []
    with pytest.raises(ComplaintError, match=f"^{complaint}$"):
        read(text, WORDS, said.append)
    assert "".join(said) == printed
    with pytest.raises(ComplaintError, match=r"^extraneous characters at the end of line$"):
        read("x y", WORDS[:2], said.append)


@pytest.mark.parametrize("known", [True, False])
def test_a_command_is_there_when_the_one_that_it_stands_for_is(known):
    removed = () if known else ("nbd-server-remove",)
    machine = Machine(Release.parse("7.2"), removed=removed)

    def answer(line):
        screen = Screen()
        asyncio.run(run(machine, line, screen))
        return screen.text

    unknown = "unknown command: 'nbd_server_remove'\r\n"
    assert (answer("nbd_server_remove x") != unknown) == known
    assert (answer("help nbd_server_remove") != unknown) == known
    assert ("nbd_server_remove" in answer("help")) == known
    assert answer("info") == answer("help info")
    assert answer("help info status").startswith("info status")


def test_a_line_is_drawn_anew_with_each_key():
    lines, drawn = typed(b"ab\r")
    assert lines == ["ab"]
    assert drawn == b"a\x1b[K" + b"\x1b[Dab\x1b[K" + b"\r\n"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (b"ac\x1b[Db\n", "abc"), (b"bc\x01a\x05d\n", "abcd"), (b"abx\x7f\x08b\n", "ab"),
        (b"a b  \x17c\n", "a c"), (b"xa\x1b[1~\x1b[3~\x1b[4~b\n", "ab"),
        (b"a\x1bOHb\x1bOFc\n", "bac"),
        (b"\x1bxa\x00\tb\n", "ab"), (b"ab\x01\x04\n", "b"), (b"\xc3\xa4\n", "ä"), (b"\xff\n", "�"),
    ],
)  # fmt: skip
def test_keys_change_the_line(keys, line):
    assert typed(keys)[0] == [line]


def test_earlier_lines_come_back():
    monitor = Monitor("7.2.0")
    assert typed(b"one\ntwo\none\n\x1b[A\x1b[A\n", monitor)[0] == ["one", "two", "one", "two"]
    assert typed(b"\x1b[A\x1b[A\x1b[A\x1b[A\x1b[B\x1b[B\x1b[B\n\x1b[A\n", monitor)[0] == ["", "two"]


@given(st.binary(max_size=60), st.integers(1, 5))
def test_what_is_drawn_does_not_depend_on_how_it_comes(keys, size):
    whole, once = Monitor("1"), Monitor("1")
    expected = typed(keys, whole)
    found = [typed(keys[at : at + size], once) for at in range(0, len(keys), size)]
    lines = [line for some, _ in found for line in some]
    drawn = b"".join(drawing for _, drawing in found)
    assert (lines, drawn) == expected


def test_a_line_has_an_end():
    lines, _ = typed(b"x" * (LINE_MAX + 9) + b"\n")
    assert len(lines[0]) == LINE_MAX
    with pytest.raises(UsageError):
        Monitor("")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.977 KiB"), (4096, "4 KiB"), (197120, "192 KiB"),
     (1 << 20, "1 MiB"), (1500 << 20, "1.46 GiB")],
)  # fmt: skip
def test_sizes_have_three_digits(value, text):
    assert show.size(value) == text


def test_jobs_are_told_by_what_they_do():
    job = {"device": "j", "offset": 1, "len": 2, "speed": 3, "type": "backup"}
    done = "j: Completed 1 of 2 bytes, speed limit 3 bytes/s\n"
    assert show.jobs([]) == "No active jobs\n"
    assert show.jobs([job]) == f"Type backup, device {done}"
    assert show.jobs([{**job, "type": "stream"}]) == f"Streaming device {done}"
