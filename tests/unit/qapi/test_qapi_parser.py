"""Schema text: what is read, and where each fault is reported."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.qapi.lexer import Lexer
from nbexport.qapi.parser import MAX_NESTING, parse_files, read_file
from nbexport.qapi.rules import Rules
from nbexport.qapi.source import Pragmas, QapiError, SourceInfo


def parse(text, **others):
    files = {"root.json": text, **{name.replace("_", "."): text for name, text in others.items()}}

    def read(path):
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory")
        return files[path]

    return parse_files("root.json", read)


def contents(text, **others):
    return [item.content for item in parse(text, **others)[0]]


def fault(text, **others):
    with pytest.raises(QapiError) as caught:
        parse(text, **others)
    return str(caught.value)


def test_values():
    text = "{ 'a': [ 'x', true, false, [], {} ], # comment\n 'b': '\\\\' }"
    assert contents(text) == [{"a": ["x", True, False, [], {}], "b": "\\"}]


def test_places():
    expressions, _ = parse("\n\n{ 'a': 'b' }\n{ 'c':\n 'd' }")
    assert [item.info.line for item in expressions] == [3, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "root.json:1:2: expected string or '}'"),
        ("{'a'}", "root.json:1:5: expected ':'"),
        ("{'a':}", "root.json:1:6: expected '{', '[', string, or boolean"),
        ("{'a':'b' 'c':'d'}", "root.json:1:10: expected ',' or '}'"),
        ("{'a':'b',}", "root.json:1:10: expected string"),
        ("{'a':['b' 'c']}", "root.json:1:11: expected ',' or ']'"),
        ("{'a':[,]}", "root.json:1:7: expected '{', '[', ']', string, or boolean"),
        ("{'a':'b','a':'c'}", "root.json:1:14: duplicate key 'a'"),
        ("['a']", "root.json:1: top-level expression must be an object"),
        ("\n{'a': b}", "root.json:2:7: stray 'b'"),
        ('{"a": 1}', "root.json:1:2: stray '\"'"),
        ("{'a\n'}", 'root.json:1:2: missing terminating "\'"'),
        ("{'a\\n'}", "root.json:1:2: unknown escape \\n"),
        ("{'\u00e9'}", "root.json:1:2: funny character in string"),
        ("##\n# text\n", "documentation comment must end with '##'"),
        ("## text\n##", "root.json:1:1: junk after '##' at start of documentation comment"),
        ("##\n## x", "root.json:2:1: junk after '##' at end of documentation comment"),
        ("##\n#x\n##", "root.json:2:1: missing space after #"),
        ("##\n# @x\n##", "root.json:2:1: line should end with ':'"),
        ("##\n# @:\n##", "root.json:2:1: name required after '@'"),
        ("##\n# @x:\n##\n", "documentation for 'x' is not followed by the definition"),
        ("##\n# @x:\n##\n##\n##\n", "documentation for 'x' is not followed by the definition"),
        ("##\n# text\n# @x:\n##", "'@x:' not allowed in free-form documentation"),
        ("##\n# text\n##\n{'enum':'E','data':[]}", "definition documentation required"),
        ("##\n# @x:\n# @a: b\n# @a: c\n##", "'a' parameter name duplicated"),
        ("##\n# @x:\n# @: b\n##", "invalid parameter name"),
        ("##\n# @x:\n# Since: 1\n# @a: b\n##", "description of '@a:' follows a section"),
        ("##\n# @x:\n# Since: 1\n# Features:\n##", "feature descriptions expected"),
        ("##\n# @x:\n# Since: 1\n# Since: 2\n##", "duplicated 'Since' section"),
        ("##\n# @x:\n# Note:\n##", "'Note:' is no section any more"),
        ("##\n# @x:\n# TODO:\n##", "text required after 'TODO:'"),
        ("{'include':'a','b':'c'}", "invalid 'include' directive"),
        ("{'include':[]}", "value of 'include' must be a string"),
        ("{'include':'no'}", "can't read include file 'no': No such file or directory"),
        ("{'include':'root.json'}", "inclusion loop for root.json"),
        ("{'pragma':{},'b':'c'}", "invalid 'pragma' directive"),
        ("{'pragma':[]}", "value of 'pragma' must be an object"),
        ("{'pragma':{'doc-required':'x'}}", "pragma 'doc-required' must be boolean"),
        ("{'pragma':{'member-name-exceptions':'x'}}", "must be a list of strings"),
        ("{'pragma':{'x':true}}", "unknown pragma 'x'"),
    ],
)
def test_faults(text, message):
    assert message in fault(text)


def test_fault_in_an_included_file_names_the_chain():
    text = fault("\n{'include':'a.json'}", a_json="{'include':'b.json'}", b_json="{x}")
    assert text == (
        "In file included from root.json:2:\nIn file included from a.json:1:\nb.json:1:2: stray 'x'"
    )


def test_a_longer_loop_is_found():
    message = fault("{'include':'a.json'}", a_json="{'include':'root.json'}")
    assert message.endswith("a.json:1: inclusion loop for root.json")


def test_a_file_is_included_once():
    items = contents(
        "{'include':'a.json'}{'include':'b.json'}",
        a_json="{'include':'b.json'}",
        b_json="{'x':'y'}",
    )
    assert items.count({"x": "y"}) == 1


def test_a_file_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(QapiError, match=r"can't read schema file '.*none': No such file"):
        parse_files(str(tmp_path / "none"))
    bad = tmp_path / "bad"
    bad.write_bytes(b"{ '\xff' }")
    with pytest.raises(QapiError, match="byte 3 is no UTF-8"):
        parse_files(str(bad))
    bad.write_bytes(b"{ 'include': 'sub/../x.json' }")
    (tmp_path / "sub").mkdir()
    (tmp_path / "x.json").write_text("{ 'a': 'b' }")
    assert parse_files(str(bad), read_file)[0][1].content == {"a": "b"}


def test_nesting_is_bounded():
    assert f"nesting is deeper than {MAX_NESTING}" in fault("{'a':" + "[" * 5000)


def test_documentation():
    _, docs = parse(
        "##\n# = Title\n#\n# Text.\n##\n"
        "##\n# @E:\n#\n# Over\n# view.\n#\n# @a: first (since 5.2)\n#\n# @b: second\n"
        "#     line (since 6.1; default: x)\n#\n# @c: third\n#\n# Trailing.\n#\n"
        "# Since: 4.0\n#\n# TODO: hm\n##\n{ 'enum': 'E', 'data': [ 'a', 'b', 'c' ] }\n"
    )
    free, doc = docs
    assert free.symbol is None
    assert free.body.text.startswith("= Title")
    assert (doc.symbol, doc.body.text, doc.since) == ("E", "Over\nview.", "4.0")
    assert {name: doc.member_since(name) for name in "abc"} == {"a": "5.2", "b": "6.1", "c": "4.0"}
    assert doc.members["b"].text == "second\nline (since 6.1; default: x)"
    assert [section.tag for section in doc.sections] == [None, "Since", "TODO"]
    assert doc.section("TODO").text == "hm"
    assert doc.section("Returns") is None


def test_a_heading_parted_a_free_comment():
    text = "##\n# one\n# = Two\n# text\n##\n"
    _, docs = parse_files("root.json", lambda _path: text, Rules((8, 2)))
    assert [doc.body.text for doc in docs] == ["one", "= Two\ntext"]
    assert [doc.body.text for doc in parse(text)[1]] == ["one\n= Two\ntext"]


def test_the_last_token_is_the_end():
    lexer = Lexer("{}", SourceInfo("f", 1, None, Pragmas()))
    kinds = []
    for _ in range(4):
        lexer.advance()
        kinds.append(lexer.kind)
    assert kinds == ["{", "}", "", ""]


def test_line_ends_of_all_kinds_count():
    for end in ("\n", "\r\n", "\r"):
        assert fault(end.join(("", "", "{ 'a' }"))).startswith("root.json:3:7: ")


PIECES = ["{", "}", "[", "]", ":", ",", "'a'", "'", "true", "false", "\n", "##", "#", " ", "@x:"]
PIECES += ["# @x:\n", "##\n", "'include'", "'pragma'", "\\", "\0", "\u00e9", "\t", "Since:", "= "]


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=30).map("".join)))
def test_any_text_is_read_or_refused(text):
    message = "root.json:"
    try:
        parse(text)
    except QapiError as error:
        message = str(error)
    assert message.startswith("root.json:")


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    def read(_path):
        return data.decode("utf-8")

    with contextlib.suppress(QapiError):
        parse_files("root.json", read)
