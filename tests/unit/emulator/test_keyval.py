"""Options of command lines: key=value pairs, dotted keys, JSON, and strings that become numbers."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport import qapi
from nbexport.emulator import keyval, numbers
from nbexport.errors import CommandError

RELEASE = (7, 2, 22)


@pytest.fixture(scope="module")
def schema():
    return qapi.load_release("7.2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1,", {"a": "1"}),
        ("a=", {"a": ""}),
        ("a=x,,y,b==", {"a": "x,y", "b": "="}),
        ("a=,,", {"a": ","}),
        ("a=1,a=2", {"a": "2"}),
        ("a.b.c=1,a.b.d=2", {"a": {"b": {"c": "1", "d": "2"}}}),
        ("a.1=y,a.0=x", {"a": ["x", "y"]}),
        ("a.0.b=1,a.1.b=2", {"a": [{"b": "1"}, {"b": "2"}]}),
        ("a.00=x", {"a": ["x"]}),
        ("__org.example_a=1", {"__org.example_a": "1"}),
        ("raw,file.driver=f", {"driver": "raw", "file": {"driver": "f"}}),
        ("driver=raw", {"driver": "raw"}),
    ],
)
def test_pairs_become_an_object(text, expected):
    assert keyval.parse(text, "driver") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=x", "Invalid parameter ''"),
        (",", "Invalid parameter ''"),
        (".a=1", "Invalid parameter '.a'"),
        ("a..b=1", "Invalid parameter 'a..b'"),
        ("a.=1", "Invalid parameter 'a.'"),
        ("1=2", "Invalid parameter '1'"),
        ("a.1x=2", "Invalid parameter 'a.1x'"),
        ("ä=2", "Invalid parameter 'ä'"),
        ("a=1,b", "Expected '=' after parameter 'b'"),
        ("a=1,a.b=2", "Parameters 'a.*' used inconsistently"),
        ("a.b=1,a=2", "Parameters 'a.*' used inconsistently"),
        ("a.b=1,a.b.c.%=2", "Parameters 'a.b.*' used inconsistently"),
        ("a.0=1,a.b=2", "Parameters 'a.*' used inconsistently"),
        ("a.1=1", "Parameter 'a.0' missing"),
        ("a.b.0=1,a.b.2=1", "Parameter 'a.b.1' missing"),
        ("a.99999999999=1", "Parameter 'a.0' missing"),
        ("a=1,help", "Help is not available for this option"),
        ("?", "Help is not available for this option"),
        ("a" * 128 + "=1", f"Parameter '{'a' * 128}' is too long"),
        ("x." + "a" * 128 + "=1", f"Parameter fragment '{'a' * 128}' is too long"),
    ],
)
def test_bad_pairs_are_refused_in_qemus_words(text, message):
    with pytest.raises(CommandError) as caught:
        keyval.parse(text)
    assert str(caught.value) == message


def test_help_is_given_where_there_is_some():
    with pytest.raises(keyval.HelpWanted) as caught:
        keyval.parse("secret,help,data=x", "qom-type", helps=True)
    assert caught.value.options == {"qom-type": "secret", "data": "x"}


names = st.from_regex(r"[a-z][a-z0-9_-]{0,8}\Z", fullmatch=True).filter(lambda n: n != "help")
trees = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
    lambda inner: st.one_of(
        st.dictionaries(names, inner, min_size=1, max_size=4),
        st.lists(inner, min_size=1, max_size=4),
    ),
    max_leaves=12,
)


def pairs(tree, path=""):
    if isinstance(tree, str):
        yield f"{path}={tree.replace(',', ',,')}"
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from pairs(value, f"{path}.{key}" if path else f"{key}")


@given(st.dictionaries(names, trees, max_size=4), st.randoms(use_true_random=False))
def test_what_is_written_is_read_whatever_the_order(tree, random):
    written = list(pairs(tree))
    random.shuffle(written)
    assert keyval.parse(",".join(written)) == tree


@given(st.text(max_size=30))
def test_any_text_is_an_object_or_refused(text):
    with contextlib.suppress(CommandError):
        assert isinstance(keyval.parse(text, "driver"), dict)


# values


def options(schema, text, **arguments):
    kind = schema.find_type("BlockdevOptions")
    return keyval.read(schema, kind, text, "driver", release=RELEASE, **arguments)


def test_strings_become_what_the_schema_says(schema):
    read = options(
        schema,
        "raw,offset=0x200,size=010,read-only=on,cache.direct=no,detect-zeroes=unmap,"
        "file.driver=null-co,file.latency-ns=-1,file.read-zeroes=yes",
    )
    assert read == {
        "driver": "raw",
        "offset": 512,
        "size": 8,
        "read-only": True,
        "cache": {"direct": False},
        "detect-zeroes": "unmap",
        "file": {"driver": "null-co", "latency-ns": (1 << 64) - 1, "read-zeroes": True},
    }


def test_an_alternate_takes_a_string_or_an_object(schema):
    assert options(schema, "raw,file=a")["file"] == "a"
    assert options(schema, "raw,file.driver=null-co")["file"] == {"driver": "null-co"}


def test_json_is_read_where_a_brace_opens(schema):
    assert options(schema, "{'driver': 'null-co', 'size': 5}") == {"driver": "null-co", "size": 5}
    with pytest.raises(CommandError, match=r"^Invalid parameter type for 'size', expected: int"):
        options(schema, '{"driver": "null-co", "size": "5"}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("null-co,size=1x", "Parameter 'size' expects integer"),
        ("null-co,size=", "Parameter 'size' expects integer"),
        ("null-co,latency-ns=99999999999999999999", "Parameter 'latency-ns' expects integer"),
        ("null-co,cache.direct=maybe", "Parameter 'cache.direct' expects 'on' or 'off'"),
        ("null-co,cache=1", "Invalid parameter type for 'cache', expected: object"),
        ("null-co,cache.0=1", "Invalid parameter type for 'cache', expected: object"),
        ("null-co,node-name.x=1", "Parameters 'node-name.*' are unexpected"),
        ("null-co,foo=1", "Parameter 'foo' is unexpected"),
        ("xyz", "Parameter 'driver' does not accept value 'xyz'"),
        ("driver.x=1", "Parameters 'driver.*' are unexpected"),
        ("", "Parameter 'driver' is missing"),
        ("nbd,server.type=inet,server.host=x", "Parameter 'server.port' is missing"),
        ("raw,file.driver=null-co,file.force-share=k",
         "Parameter 'file.force-share' expects 'on' or 'off'"),
        ("{", "JSON parse error, premature EOI"),
        ('{"a', "JSON parse error, stray '\"a'"),
        ('{"driver":tru', "JSON parse error, invalid keyword 'tru'"),
        ('{"driver":"null-co"} x', "Expecting at most one JSON value"),
        ('{"driver":"null-co"} {', "Expecting at most one JSON value"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_qemus_words(schema, text, message):
    with pytest.raises(CommandError) as caught:
        options(schema, text)
    assert str(caught.value) == message


def test_elements_are_named_by_their_number(schema):
    kind = schema.find_type("ObjectOptions")
    with pytest.raises(CommandError, match=r"^Parameter 'rules\.0\.policy' is missing$"):
        keyval.read(schema, kind, "authz-list,id=a,rules.0.match=x", "qom-type")


# numbers


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.sampled_from(["d", "#o", "#x"]))
def test_numbers_are_read_in_the_notations_of_c(value, notation):
    text = format(abs(value), notation).replace("0o", "0")
    text = f"-{text}" if value < 0 else text
    assert numbers.parse_int64(text) == value
    assert numbers.parse_uint64(text) == value % (1 << 64)


@pytest.mark.parametrize("text", ["", "x", "1x", "1 ", "08", "0x", "1.0", "--1", "1" * 5000])
def test_what_is_no_number_is_none(text):
    assert numbers.parse_int64(text) is None
    assert numbers.parse_uint64(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("512", 512), ("1k", 1024), ("1.5M", 1572864), ("0x200", 512), ("2T", 2 << 40),
        ("1b", 1), ("8E", 8 << 60), ("1.k", 1024),
        ("16E", None), ("1.5", None), ("1.5b", None), ("-1", None), ("k", None), ("1kk", None),
        ("1e3", None), ("", None),
    ],
)  # fmt: skip
def test_sizes_have_suffixes(text, value):
    assert numbers.parse_size(text) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_with_a_fraction(value):
    assert numbers.parse_number(repr(value)) == value
    assert numbers.parse_number(value.hex()) == value


@pytest.mark.parametrize("text", ["inf", "nan", "1e999", "", "1x", "0x", "."])
def test_what_is_not_finite_is_none(text):
    assert numbers.parse_number(text) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=8,
    )
)
def test_a_whole_json_text_is_one_value(value):
    assert keyval.jsonstream.parse(json.dumps(value)) == value
