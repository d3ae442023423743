"""The JSON dialect: reading, its limits, printing."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbexport.qmp import jsonstream, jsontext
from nbexport.qmp.jsonstream import JsonStream, Message
from nbexport.qmp.jsontext import encode, is_character


def read(*pieces):
    stream = JsonStream()
    found = []
    for piece in pieces:
        stream.feed(piece)
        while (message := stream.next()) is not None:
            found.append(message)
    assert stream.buffered == 0
    return found


def errors(*pieces):
    return [message.error for message in read(*pieces)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            b"{'a': [1, -2, 3.5, true, false, null, 'x', {}]}",
            {"a": [1, -2, 3.5, True, False, None, "x", {}]},
        ),
        (b'"\\u00e9\\ud83d\\ude00\\u0000\xc3\xa9"', "\u00e9\U0001f600\0\u00e9"),
        (b"'it\\'s \"x\"'", 'it\'s "x"'),
        (b"18446744073709551615 ", 2**64 - 1),
        (b"18446744073709551616 ", 2.0**64),
        (b"-9223372036854775809 ", -(2.0**63)),
        (b"1e5 ", 100000.0),
        (b"0 ", 0),
    ],
)
def test_values(text, value):
    (message,) = read(text)
    assert message == Message(value)
    assert type(message.value) is type(value)


def test_several_values_in_one_piece_and_one_value_in_several():
    assert [m.value for m in read(b"{}[]'a'1 2 ")] == [{}, [], "a", 1, 2]
    assert read(b"tr") == []
    assert [m.value for m in read(b"[tr", b"ue,1", b"2]")] == [[True, 12]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"a":01}', ["stray '01'", "expecting value"]),
        (b"[1}", ["expected separator in list"]),
        (b"[[}", ["expecting value"]),
        (b'{"a":1,"a":2}', ["duplicate key"]),
        (b"{1:2}", ["key is not a string in object"]),
        (b'{"a" 1}', ["missing : in object pair"]),
        (b'{"a":1 2}', ["expected separator in dict"]),
        (b"nope ", ["invalid keyword 'nope'"]),
        (b'"\\x"', ["invalid escape sequence in string"]),
        (b'"\\ud800"', ["\\ud800 is not a valid Unicode character"]),
        (b'"\xff', ["stray '\"\ufffd'"]),
        (b'"\xe9"', ["invalid UTF-8 sequence in string"]),
        (b"x\x00", ["invalid keyword 'x'", "stray ''"]),
        (b"}" * 3, ["expecting value"] * 3),
    ],
)
def test_errors(text, expected):
    assert errors(text) == [f"JSON parse error, {text}" for text in expected]


def test_a_message_goes_on_after_the_error_that_was_found_first():
    assert errors(b'{"a":nope,[],1:}') == ["JSON parse error, invalid keyword 'nope'"]


def test_recovery_skips_to_a_structural_or_control_character():
    assert errors(b"?? a 'b'\t1 {}") == ["JSON parse error, stray '?'", None]
    assert errors(b"?? 1\n2 ") == ["JSON parse error, stray '?'", None]


def test_nesting_limit():
    deepest = jsonstream.MAX_NESTING
    (message,) = read(b"[" * deepest + b"]" * deepest)
    assert message.error is None
    found = errors(b"[" * (deepest + 1) + b"]" * 2)
    assert (
        found == ["JSON nesting depth limit exceeded"] + ["JSON parse error, expecting value"] * 2
    )


def test_token_limits(monkeypatch):
    monkeypatch.setattr(jsonstream, "MAX_TOKEN_COUNT", 5)
    assert errors(b"[1,2]") == [None]
    assert errors(b"[1,2,3]")[0] == "JSON token count limit exceeded"
    monkeypatch.setattr(jsonstream, "MAX_TOKEN_SIZE", 10)
    assert errors(b"'1234567'") == [None]
    assert errors(b"'12345678'")[0] == "JSON token size limit exceeded"
    assert errors(b"'1234567890")[0] == "JSON token size limit exceeded"
    assert errors(b"1" * 11)[0] == "JSON token size limit exceeded"
    # what is left of the token is read as something new
    assert errors(b"'123456789abc ")[1:] == ["JSON parse error, invalid keyword 'bc'"]


def test_a_keyword_is_cut_in_the_text():
    (text,) = errors(b"a" * 5000 + b" ")
    assert len(text) == len("JSON parse error, ") + 1023


PIECES = [b"{", b"}", b"[", b"]", b":", b",", b'"a"', b"'", b'"', b"\\", b"\\u00", b"1", b"-", b"."]
PIECES += [b"e", b"0", b" ", b"\n", b"\t", b"true", b"\xff", b"\x00", b"\xc3\xa9", b"\xf0\x9f"]
INPUT = st.one_of(
    st.binary(max_size=80), st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join)
)


@given(INPUT, st.lists(st.integers(0, 80), max_size=8))
def test_any_split_gives_the_same(data, cuts):
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[low:high] for low, high in itertools.pairwise(bounds)]
    whole = read(data)
    assert read(*pieces) == whole
    assert read(*(bytes((byte,)) for byte in data)) == whole
    for message in whole:
        assert message.error is None or message.error.startswith("JSON ")


TEXT = st.text().filter(lambda text: all(is_character(ord(char)) for char in text))
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        TEXT,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_is_printed_is_read_again(value, pretty):
    text = encode(value, pretty=pretty)
    assert text.isascii()
    (message,) = read(text.encode() + b"\r\n")
    assert message.error is None
    assert message.value == value or (isinstance(value, float) and message.value == int(value))
    assert json.loads(text) == value


@given(VALUES)
def test_standard_json_is_read(value):
    (message,) = read(json.dumps(value).encode() + b"\n")
    assert message == Message(value)


def test_printing():
    assert encode({"return": {}, "id": [1.5, "\u00e9\0\x7f"]}) == (
        '{"return": {}, "id": [1.5, "\\u00E9\\u0000\\u007F"]}'
    )
    assert encode(1.0) == "1"
    assert encode(0.1) == "0.10000000000000001"
    assert encode("\ud800\ufffe") == '"\\uFFFD\\uFFFD"'
    assert encode(b"a\xff".decode("utf-8", "surrogateescape")) == '"a\\uFFFD"'
    assert encode([[], {"a": (1, 2)}], pretty=True).split("\r\n") == [
        "[",
        "    [",
        "    ],",
        "    {",
        '        "a": [',
        "            1,",
        "            2",
        "        ]",
        "    }",
        "]",
    ]
    with pytest.raises(TypeError, match="bytes is no JSON value"):
        encode({"a": b""})


def test_depth_is_no_problem():
    value = []
    for _ in range(5000):
        value = [value]
    assert encode(value) == "[" * 5001 + "]" * 5001


@settings(max_examples=20)
@given(st.integers(0, 3000))
def test_long_strings_in_pieces(length):
    data = b'"' + b"x" * length + b'"'
    (message,) = read(data[: length // 2], data[length // 2 :])
    assert message.value == "x" * length


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # lexical errors and limits have one text, and the next byte starts anew
        (b'{"a":01}', ["Invalid JSON syntax", "JSON parse error, expecting value"]),
        (b"+ {}", ["Invalid JSON syntax", {}]),
        (b'"\\q"', ["Invalid JSON syntax"]),
        (b'"\\u12x" [] ', ["Invalid JSON syntax"]),
        (b"[" * 1025, ["Invalid JSON syntax"]),
        # of several errors the last one, that of the outermost container
        (b'{"a": nope}', ["JSON parse error, Missing value in dict"]),
        (b"[nope]", ["JSON parse error, expecting value"]),
        (b"[1 2]", ["JSON parse error, expected separator in list"]),
        (b"[[1 2]]", ["JSON parse error, expecting value"]),
        (b'{"a" 1}', ["JSON parse error, missing : in object pair"]),
        (b'{"a":{"b" 1}}', ["JSON parse error, Missing value in dict"]),
        (b"{nope:1}", ["JSON parse error, key is not a string in object"]),
        (b"{1:1}", ["JSON parse error, key is not a string in object"]),
        (b'{"a":1 "b":2}', ["JSON parse error, expected separator in dict"]),
        (b"nope ", ["JSON parse error, invalid keyword 'nope'"]),
        (b"}", ["JSON parse error, expecting value"]),
        # what was accepted
        (b'{"a":1,"a":2}', [{"a": 2}]),
        (b'{"a":"x\ny\\u00e9"}', [{"a": "x\nyé"}]),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 5000])
def test_releases_before_3_1(text, expected, size):
    for release in ((2, 12, 1), (3, 0, 1)):
        stream = JsonStream(release)
        found = []
        for at in range(0, len(text), size):
            stream.feed(text[at : at + size])
            while (message := stream.next()) is not None:
                found.append(message.value if message.error is None else message.error)
        assert found == expected
    modern = JsonStream((3, 1, 0))
    modern.feed(text)
    message = modern.next()
    assert message is not None
    assert message.error != "Invalid JSON syntax"


def one_by_one(data):
    """Return the characters of a string's bytes, None if one is no character."""
    parts, position = [], 0
    while position < len(data):
        code, position = jsontext._sequence(data, position)
        if code < 0:
            return None
        parts.append(chr(code))
    return "".join(parts)


PIECES = [b"a", b"\xc3\xa9", b"\xc0\x80", b"\xc0", b"\x80", b"\xed\xa0\x80", b"\xef\xbf\xbe"]
PIECES += [b"\xef\xb7\x90", b"\xf0\x9f\x98\x80", b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"\xfd"]


@given(st.lists(st.sampled_from(PIECES) | st.binary(min_size=1, max_size=3), max_size=8))
def test_whole_strings_are_decoded_as_their_characters(pieces):
    body = bytes(byte for byte in b"".join(pieces) if byte not in b'\0"\\')
    text, error = jsontext.decode_string(b'"' + body + b'"')
    expected = one_by_one(body)
    if expected is None:
        assert error == "invalid UTF-8 sequence in string"
    else:
        assert (text, error) == (expected, None)


ESCAPED = [*PIECES, b"'", b"\\n", b"\\'", b'\\"', b"\\\\", b"\\/", b"\\u00e9", b"\\u0000"]
ESCAPED += [b"\\ud83d\\ude00", b"\\ud83d", b"\\ude00", b"\\ufffe", b"\\q", b"\\u12", b"\\u", b"12"]


@given(st.lists(st.sampled_from(ESCAPED), max_size=12), st.sampled_from([1, 2, 3, 16384]))
def test_pieces_are_decoded_as_one_by_one(pieces, size):
    token = b'"' + b"".join(pieces) + b'"'
    pattern = jsontext._PIECE.pattern.replace(b"16384", b"%d" % size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsontext, "_PIECE", re.compile(pattern, re.DOTALL))
        found = jsontext.decode_string(token)
    text, error = jsontext._carefully(token[1:])
    assert found == ((text, None) if error is None else ("", error))


@given(st.lists(st.sampled_from([*ESCAPED, b'"']), max_size=12))
def test_quotes_of_the_other_kind_are_ordinary(pieces):
    body = b"".join(piece for piece in pieces if piece != b"'")
    text, error = jsontext._carefully(body + b"'")
    found = jsontext.decode_string(b"'" + body + b"'")
    assert found == ((text, None) if error is None else ("", error))
