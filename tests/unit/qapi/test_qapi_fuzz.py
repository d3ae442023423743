"""Whatever the input, the parser ends in a schema or in an error of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbexport.qapi import QapiError, load_schema
from nbexport.resources import data_path

TOKENS = st.sampled_from(
    [
        *("{", "}", "[", "]", ":", ",", "'a'", "'str'", "'Foo'", "'enum'", "'struct'", "'union'"),
        *("'alternate'", "'command'", "'event'", "'data'", "'base'", "'if'", "'features'"),
        *("'type'", "'name'", "'not'", "'all'", "'discriminator'", "'returns'", "'include'"),
        *("'pragma'", "'doc-required'", "true", "false", "null", "\n", "'", "\\", "\0", "\u00e9"),
        *("##\n", "#\n", "# @Foo:\n", "# @a: b\n", "# Since: 1\n", "# Features:\n", "#x\n"),
    ]
)
RULES = st.sampled_from([None, (2, 5), (3, 1), (5, 1), (6, 1), (7, 2), (8, 2), (9, 0)])
FILES = [path.read_text() for path in sorted(data_path("interface", "7.2").glob("*.json"))]


def judged(text, rules=None):
    """Read a text; anything but an error of the language gets out."""
    message = "read"
    try:
        load_schema("s.json", read=lambda _path: text, as_of=rules)
    except QapiError as error:
        message = str(error)
    assert message


@given(st.text(max_size=200), RULES)
def test_any_text(text, rules):
    judged(text, rules)


@given(st.binary(max_size=200))
def test_any_bytes(data):
    judged(data.decode("utf-8", "surrogateescape"))


@given(st.lists(TOKENS, max_size=60).map(" ".join), RULES)
@settings(max_examples=300)
def test_any_tokens(text, rules):
    judged(text, rules)


@given(st.data())
def test_any_damage(data):
    lines = data.draw(st.sampled_from(FILES)).splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 4))):
        one, other = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        lines[one] = data.draw(st.sampled_from(["", lines[other], lines[one] * 2, lines[one][1:]]))
    judged("".join(lines), data.draw(RULES))


# Each input is a Python expression, so that it is made where the memory is bounded.
LARGE = {
    "arrays": "\"{'a':\" + '[' * 10_000",
    "objects": "\"{'a':\" * 10_000",
    "conditions": "\"{'event':'EV','if':\" + \"{'not':\" * 10_000 + \"'A'\" + '}' * 10_001",
    "a chain of bases": (
        "''.join(\"{'struct':'S%dx','data':{},'base':'S%dx'}\\n\" % (n, n + 1)"
        " for n in range(10_000)) + \"{'struct':'S10000x','data':{}}\""
    ),
    "a chain of bases, backwards": (
        "\"{'struct':'S0x','data':{}}\" + ''.join(\"{'struct':'S%dx','data':{'a%d':'int'},"
        "'base':'S%dx'}\\n\" % (n + 1, n, n) for n in range(10_000))"
    ),
    "many definitions": (
        "''.join('##\\n# @S%dx:\\n# %s\\n#\\n# @a: b\\n##\\n' % (n, 'words ' * 80)"
        " + \"{'struct':'S%dx','data':{'a':'int'}}\\n\" % n for n in range(18_000))"
    ),
    "a long enumeration": (
        "\"{'enum':'Ee','data':[\" + ','.join(\"'%s-%d'\" % ('v' * 30, n)"
        " for n in range(250_000)) + ']}'"
    ),
    "a long comment": "'##\\n# @EV:\\n' + '#\\n# words\\n' * 1_000_000 + \"##\\n{'event':'EV'}\"",
    "a long string": "\"{'event':'\" + 'E' * 10_000_000 + \"'}\"",
    "a long blank": "'\\n' * 10_000_000 + '{'",
    "more than is taken": "' ' * 20_000_000",
}
BOUNDED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from nbexport.qapi import QapiError, load_schema
text = eval(sys.argv[1])
try:
    load_schema("s.json", read=lambda path: text)
    print("read")
except QapiError as error:
    print(str(error)[-200:])
"""
ENDS = {
    "arrays": "s.json:1:486: nesting is deeper than 480",
    "objects": "nesting is deeper than 480",
    "conditions": "nesting is deeper than 480",
    "a chain of bases": "objects are deeper than 1000",
    "a chain of bases, backwards": "objects are deeper than 1000",
    "many definitions": "read",
    "a long enumeration": "read",
    "a long comment": "read",
    "a long string": "read",
    "a long blank": "s.json:10000001:2: expected string or '}'",
    "more than is taken": "schema file is larger than 16777216 characters",
}


@pytest.mark.parametrize("what", LARGE)
def test_large_inputs_end_within_a_gibibyte(what):
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, LARGE[what]],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert ENDS[what] in done.stdout


def test_a_long_chain_of_includes_ends():
    def read(path):
        number = 0 if path == "s.json" else int(path.removesuffix(".json"))
        return f"{{ 'include': '{number + 1}.json' }}"

    with pytest.raises(QapiError, match="include files are nested too deeply"):
        load_schema("s.json", read=read)


def test_many_objects_with_a_large_base_end():
    members = ",".join(f"'m{number}':'int'" for number in range(3000))
    users = "".join(
        f"{{'struct':'U{number}x','base':'Base','data':{{}}}}\n" for number in range(3000)
    )
    text = f"{{'struct':'Base','data':{{{members}}}}}\n{users}"
    with pytest.raises(QapiError, match="objects have more than 4000000 members in all") as caught:
        load_schema("s.json", read=lambda _path: text)
    assert caught.value.info.line > 1000
