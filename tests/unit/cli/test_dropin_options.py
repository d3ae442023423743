from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.cli.dropin import storage_daemon, system, system_options
from nbexport.cli.dropin.getopt import GetoptError
from nbexport.cli.dropin.hosting import Reporter, StopError
from nbexport.emulator import optionlist
from nbexport.errors import CommandError

VERDICTS = {"same", "differs", "refused"}


@pytest.mark.parametrize("options", [storage_daemon.OPTIONS, system_options.OPTIONS])
def test_each_option_says_how_it_compares(options):
    names = [option.name for option in options]
    assert len(set(names)) == len(names)
    for option in options:
        assert option.verdict in VERDICTS
        assert bool(option.note) == (option.verdict != "same"), option.name


def located(*words):
    return list(storage_daemon._Located(storage_daemon.OPTIONS, words).located())


def test_the_words_of_each_option_are_told():
    found = located("--blockdev", "a", "x", "--export=b", "-T", "c", "-Td", "--daemonize", "y")
    assert [tuple(word) for word in found] == [
        ("--blockdev a", "blockdev", "a"),
        ("x", "", "x"),
        ("--export=b", "export", "b"),
        ("-T c", "trace", "c"),
        ("-Td", "trace", "d"),
        ("--daemonize", "daemonize", ""),
        ("y", "", "y"),
    ]
    assert located("--monitor", "")[0].place == "--monitor "


def test_a_wrong_option_ends_the_reading_before_anything_is_acted_on():
    with pytest.raises(GetoptError):
        located("--blockdev", "a", "--bogus")


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(st.from_regex(r"[b-mo-z][a-z]{2,5}", fullmatch=True), WORDS), max_size=5))
def test_what_is_written_as_options_is_read_back(pairs):
    text = ",".join(f"{name}={value.replace(',', ',,')}" for name, value in pairs)
    assert optionlist.Group("any", None).parse(text) == dict(pairs)


@given(WORDS)
def test_any_text_is_read_or_refused(text):
    group = optionlist.chardevs()
    try:
        found = group.parse(text)
    except (CommandError, optionlist.HelpWantedError):
        return
    assert found.keys() <= optionlist.CHARDEV_NAMES | {"id"}


def test_names_alone_are_switches():
    told = []
    group = optionlist.Group("any", "kind", warn=told.append)
    assert group.parse("socket,server,nowait,path=a,,b") == {
        "kind": "socket", "server": "on", "wait": "off", "path": "a,b",
    }  # fmt: skip
    assert [line.splitlines()[1] for line in told] == [
        "Please use server=on instead",
        "Please use wait=off instead",
    ]


def test_an_id_is_unique_in_its_kind_and_well_formed():
    group = optionlist.Group("drive", None)
    group.parse("id=a")
    with pytest.raises(CommandError, match="Duplicate ID 'a' for drive"):
        group.parse("id=a")
    with pytest.raises(CommandError, match="expects an identifier"):
        group.parse("id=1")


@pytest.mark.parametrize("word", ["help", "?", "socket,help", "socket,?"])
def test_help_is_noticed(word):
    with pytest.raises(optionlist.HelpWantedError):
        optionlist.chardevs().parse(word)


def test_one_dash_or_two_and_values_that_look_like_options():
    words = ["-qmp", "-x", "--S", "disk.img", "-", "-blockdev", "a"]
    found = list(system._split(words, Reporter("p")))
    assert [tuple(word) for word in found] == [
        ("-qmp -x", "qmp", "-x"),
        ("--S", "S", ""),
        ("disk.img", "", "disk.img"),
        ("-", "", "-"),
        ("-blockdev a", "blockdev", "a"),
    ]


def test_the_first_wrong_word_is_told_before_anything_else(capsys):
    for words, text in (
        (["-qmp", "x", "-bogus"], "p: -bogus: invalid option\n"),
        (["-S", "-qmp"], "p: -qmp: requires an argument\n"),
    ):
        with pytest.raises(StopError):
            list(system._split(words, Reporter("p")))
        assert capsys.readouterr().err == text


def test_refused_options_have_no_place_in_the_help(capsys):
    system._print_help()
    shown = capsys.readouterr().out
    for option, dash in itertools.product(system_options.OPTIONS, ["  -"]):
        listed = f"{dash}{option.name} " in shown
        assert listed == (option.verdict != "refused"), option.name
