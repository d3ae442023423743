"""A schema, its text, and the schema again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from golden_qapi import CASES, CORPUS, as_of, definitions
from hypothesis import given, settings

from nbexport.qapi import QapiError, introspect, known_releases, load_release, load_schema
from nbexport.qapi.dump import dump, dump_entity

sys.path.insert(0, str(Path(__file__).parent))
from schema_texts import schema_texts

READABLE = [case for case in CASES if (CORPUS / f"{case}.out").exists()]


def read(text, rules=None):
    return load_schema("s.json", read=lambda _path: text, as_of=rules)


def assert_round_trip(schema, rules=None):
    text = dump(schema)
    again = read(text, rules)
    assert list(definitions(again)) == list(definitions(schema))
    assert dump(again) == text
    assert numbered(again) == numbered(schema)


def numbered(schema):
    """The introspection by name, since several files' order is not that of one file."""
    return sorted(
        introspect(schema, unmask=True), key=lambda info: (info["meta-type"], info["name"])
    )


@pytest.mark.parametrize("case", READABLE)
def test_cases(case):
    rules = as_of(case)
    assert_round_trip(load_schema(str(CORPUS / f"{case}.json"), as_of=rules), rules)


@pytest.mark.parametrize("release", known_releases())
def test_interfaces(release):
    assert_round_trip(load_release(release))


@given(schema_texts())
@settings(max_examples=150, deadline=None)
def test_any_schema(text):
    assert_round_trip(read(text))


@given(schema_texts(conditional=True))
@settings(max_examples=40, deadline=None)
def test_any_schema_by_older_rules(text):
    schema = read(text.replace("# Errors:", "# Returns:"), (8, 0))
    assert_round_trip(schema, (8, 0))


def test_the_text_is_that_of_a_reader():
    text = dump_entity(load_release("7.2"), load_release("7.2").command("nbd-server-remove"))
    assert text.startswith("##\n# @nbd-server-remove:\n#\n")
    assert text.endswith("'features': [ 'deprecated' ] }\n")
    assert max(map(len, dump(load_release("7.2")).split("\n"))) <= 100


def test_only_what_a_release_has_is_written():
    schema = read("{'union':'Uu','data':{'one':'str'}}{'event':'EV','if':'defined(A)'}", (6, 1))
    text = dump(schema)
    assert "'if': 'defined(A)'" in text
    assert "{ 'union': 'Uu', 'data': { 'one': 'str' } }" in text
    with pytest.raises(QapiError):
        read(text)


@pytest.mark.parametrize(
    "condition",
    [
        "'defined(A) && !defined(B)'",
        "['defined(A)', 'defined(B) || X > 1']",
        "['X > 1 || Y', '!defined(A)', 'defined(A) && defined(B)']",
    ],
)
def test_conditions_in_c_keep_their_meaning(condition):
    assert_round_trip(read(f"{{'event': 'EV', 'if': {condition}}}", (5, 0)), (5, 0))


def test_free_texts_stay_where_they_are_between_documented_definitions():
    one, two = (f"##\n# @{n}:\n#\n# Words.\n##\n{{ 'event': '{n}' }}\n" for n in "AB")
    text = "\n".join([one, "##\n# Free.\n##\n", two, "##\n# Behind.\n##\n"])
    assert dump(read(text)) == text


def test_a_free_text_never_becomes_the_comment_of_a_definition():
    schema = read("{'event': 'A'}\n##\n# Free.\n##\n")
    assert_round_trip(schema)
    assert [doc.symbol for doc in schema.docs] == [None]
