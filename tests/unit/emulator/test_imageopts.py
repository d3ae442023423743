"""Images named by options: what is read of the text, guessed, and refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.emulator.graph import Graph
from nbexport.emulator.image_types import Kind
from nbexport.emulator.imageopts import ImageOpener, nested, parse_json_name, split_options
from nbexport.emulator.release import Release
from nbexport.errors import CommandError

QCOW2 = b"QFI\xfb\0\0\0\3"


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Give what opens images in a folder, and what it warned of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.raw").write_bytes(bytes(1 << 20))
    graph, warnings = Graph(), []
    opener = ImageOpener(Release.parse("7.2"), graph, None, warnings.append)

    def open_(name, writable=False, **arguments):
        text = name if isinstance(name, str) else None
        options = {} if text is not None else name
        return opener.open(text, options, writable=writable, **arguments)

    open_.warnings = warnings
    yield open_
    for node in reversed(graph.nodes.values()):
        node.close()


# The text


@pytest.mark.parametrize(
    ("text", "expected", "warned"),
    [
        ("", {}, 0),
        ("x", {"file": "x"}, 0),
        ("x,,y,a=1", {"file": "x,y", "a": "1"}, 0),
        ("a=1,b=2,a=3", {"b": "2", "a": "3"}, 0),
        ("a=1,id=x", {"a": "1"}, 0),
        ("a=b=c,,d", {"a": "b=c,d"}, 0),
        ("a=1,flag,noother", {"a": "1", "flag": "on", "other": "off"}, 2),
        ("a=1,help", {"a": "1", "help": "on"}, 0),
    ],
)
def test_options_are_split_as_qemu_does(text, expected, warned):
    warnings = []
    found = split_options(text, warnings.append)
    assert found == expected
    assert list(found) == list(expected)
    assert len(warnings) == warned


@given(st.dictionaries(st.from_regex(r"[a-h]{1,4}", fullmatch=True), st.text(max_size=6)))
def test_what_is_joined_is_split_again(options):
    text = ",".join(f"{name}={value.replace(',', ',,')}" for name, value in options.items())
    assert split_options(text, lambda _text: None) == options


@given(st.text(max_size=40))
def test_any_text_is_split(text):
    assert all(isinstance(each, str) for each in split_options(text, lambda _text: None).values())


def test_dots_make_objects_in_objects():
    flat = {"driver": "raw", "file.driver": "file", "file": {"filename": "x"}, "a.b.c": 1}
    assert nested(flat) == {
        "driver": "raw",
        "file": {"driver": "file", "filename": "x"},
        "a": {"b": {"c": 1}},
    }
    for wrong in ({"file": "x", "file.driver": "file"}, {"file.driver": "file", "file": "x"}):
        with pytest.raises(CommandError, match=r"^Cannot reference an existing block device with"):
            nested(wrong)


@pytest.mark.parametrize("text", ["json:", "json:5", "json:[]", "json:{", "json:{} {}"])
def test_json_that_is_no_object_is_refused(text):
    with pytest.raises(CommandError, match=r"^(Could not parse the JSON options: |Invalid JSON)"):
        parse_json_name(text)


@given(st.text(max_size=20))
def test_any_json_is_read_or_refused(text):
    with contextlib.suppress(CommandError):
        assert isinstance(parse_json_name(f"json:{text}"), dict)


# Values


@pytest.mark.parametrize(
    ("kind", "given_", "expected"),
    [
        (Kind.BOOL, "yes", True), (Kind.BOOL, False, False), (Kind.BOOL, "1", None),
        (Kind.SIZE, "1k", 1024), (Kind.SIZE, 512, 512), (Kind.SIZE, "-1", None),
        (Kind.NUMBER, "0x10", 16), (Kind.NUMBER, "x", None), (Kind.TEXT, 5, "5"),
    ],
)  # fmt: skip
def test_values_are_read_as_text_or_as_json(kind, given_, expected):
    if expected is None:
        with pytest.raises(CommandError, match=r"^Parameter 'p' expects "):
            kind.read("p", given_)
    else:
        assert kind.read("p", given_) == expected


# Opening


def test_a_raw_image_is_guessed_and_warned_of(opened):
    node = opened("r.raw", writable=True)
    assert (node.block.driver, node.read_only, node.block.request_alignment) == ("raw", False, 512)
    assert len(opened.warnings) == 1
    assert opened.warnings[0].startswith("WARNING: Image format was not specified for 'r.raw'")


def test_who_only_reads_is_not_warned(opened):
    assert opened("r.raw").read_only
    assert opened.warnings == []


def test_a_format_that_is_given_is_not_guessed(opened, tmp_path):
    (tmp_path / "q").write_bytes(QCOW2 + bytes(504))
    assert opened({"driver": "raw", "file.filename": "q"}, writable=True).block.size == 512
    assert opened.warnings == []


def test_a_window_has_its_numbers_in_any_notation(opened):
    name = """json:{"driver":"raw","offset":"4k","size":1024,"file":{"filename":"r.raw"}}"""
    node = opened(name)
    assert (node.block.offset, node.block.size) == (4096, 1024)


def test_cache_reaches_the_file(opened):
    with pytest.raises(CommandError, match=r"^aio=native was specified, but it requires cache.dir"):
        opened({"driver": "raw", "file.filename": "r.raw"}, aio="native")
    direct = {"driver": "raw", "file.filename": "r.raw", "cache.direct": "on"}
    assert opened(direct, aio="native").block.driver == "raw"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nope", "Could not open 'nope': No such file or directory"),
        ("", "The 'file' block driver requires a file name"),
        ("foo:x", "Unknown protocol 'foo'"),
        ({"driver": "zz"}, "Unknown driver 'zz'"),
        ({"driver": "vmdk", "file.filename": "r.raw"}, "Driver 'vmdk' is not supported"),
        ({"driver": "raw"}, 'A block device must be specified for "file"'),
        ({}, "Must specify either driver or file"),
        ({"file": "gone"}, "Cannot find device='gone' nor node-name='gone'"),
        ({"driver": "null-co", "x.y": 1},
         "Block protocol 'null-co' doesn't support the option 'x.y'"),
        ({"driver": "raw", "file.filename": "r.raw", "x": 1},
         "Block format 'raw' does not support the option 'x'"),
        ({"driver": "nbd", "export": "x"}, "NBD server address missing"),
        ({"driver": "nbd", "path": "/x", "host": "y"},
         "path and host may not be used at the same time"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_is_refused_in_qemus_words(name, text, opened):
    with pytest.raises(CommandError) as caught:
        opened(name)
    assert str(caught.value) == text


def test_read_only_options_go_before_the_users_wish(opened):
    with pytest.raises(CommandError, match=r"^Block node is read-only$"):
        opened({"driver": "raw", "file.filename": "r.raw", "read-only": "on"}, writable=True)


def test_an_image_inside_images_without_end_is_refused(opened):
    options = {"driver": "raw", "file": {"filename": "r.raw"}}
    for _ in range(300):
        options = {"driver": "raw", "file": options}
    with pytest.raises(CommandError, match="nested too deeply"):
        opened(options)
