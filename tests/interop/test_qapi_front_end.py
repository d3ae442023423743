"""Verdict and line of every fault, beside those of QEMU's own front end."""

from __future__ import annotations

import random
import re

import pytest
from golden_qapi import CASES, CORPUS
from peers import qemu_source
from qemu_front_end import FrontEnd, Verdict

from nbexport.qapi import QapiError, load_schema, parse_release
from nbexport.resources import data_path

pytestmark = pytest.mark.interop

MUTANTS = 600
SEED = 7
TOKEN = re.compile(r"'(?:[^'\\\n]|\\.)*'|[{}\[\]:,]|#[^\n]*|\w+|\n|[^\S\n]+|.")
PIECES = (
    *("'a'", "'Foo'", "'str'", "'*x'", "'X'", "'x_y'", "'if'", "'features'", "'data'", "'all'"),
    *("true", "false", "{}", "[]", "[ 'int' ]", "{ 'not': 'A' }", "'boxed': true,", "\t", "\n\n"),
    *("#", "##\n", "#\n", "# @foo: x\n", "# @a-b:\n", "# Since: 1\n", "#  x\n", "# Features:\n"),
    *("# Returns: y\n", "# = H\n", "# Note: x\n", "# text\n", "#bad\n", "# TODO: x\n"),
    *("# Errors: z\n", "#     deep\n"),
)
# Where the front end falls over, or takes what it should not; each with the reason.
DIFFERENT = {
    # since 9.0 it breaks off at an excused member that ends the comment
    "pragma-documentation-exceptions": "crashed",
}


@pytest.fixture(scope="module")
def source():
    return qemu_source()


@pytest.fixture(scope="module")
def release(source):
    return parse_release((source / "VERSION").read_text().strip())


@pytest.fixture(scope="module")
def front_end(source):
    judge = FrontEnd(source)
    yield judge
    judge.close()


def ours(path, release):
    try:
        load_schema(str(path), as_of=release)
    except QapiError as error:
        info = error.info
        place = (info.path, info.line) if info else (None, None)
        return Verdict("rejected", *place, error.message)
    return Verdict("accepted")


def compare(path, theirs, mine):
    if theirs.verdict == "crashed":
        assert mine.verdict == "rejected", f"{path}: {theirs}"
    else:
        assert mine[:3] == theirs[:3], f"{path}: {theirs.message!r} there, {mine.message!r} here"


@pytest.mark.parametrize("case", CASES)
def test_case(front_end, release, case):
    path = CORPUS / f"{case}.json"
    theirs = front_end.judge(path)
    if DIFFERENT.get(case) == theirs.verdict == "crashed":
        return
    compare(path, theirs, ours(path, release))


def mutated(text, chance):
    """The text with one or two tokens or lines gone, doubled, exchanged, replaced or put in."""
    for _ in range(chance.choice((1, 1, 1, 2))):
        parts = TOKEN.findall(text) if chance.random() < 0.5 else text.splitlines(keepends=True)
        places = [index for index, part in enumerate(parts) if part.strip()]
        if not places:
            return text
        one, other = chance.choice(places), chance.choice(places)
        change = chance.randrange(6)
        if change == 0:
            del parts[one]
        elif change == 1:
            parts.insert(one, parts[one])
        elif change == 2:
            parts[one], parts[other] = parts[other], parts[one]
        elif change == 3:
            parts[one] = parts[other]
        elif change == 4:
            parts.insert(one, chance.choice(PIECES))
        else:
            part, at = parts[one], chance.randrange(len(parts[one]))
            new = chance.choice(("", part[at] * 2, "-", "_", "A", "@", ":", " ", "#"))
            parts[one] = part[:at] + new + part[at + 1 :]
        text = "".join(parts)
    return text


def test_mutations(front_end, release, tmp_path):
    chance = random.Random(SEED)
    files = [CORPUS / f"{case}.json" for case in CASES]
    # a file of the package's data is long, and has much that can go wrong
    files += list(data_path("interface", "7.2").glob("*.json")) * 8
    texts = [path.read_text() for path in files]
    path = tmp_path / "mutant.json"
    seen = set()
    for _ in range(MUTANTS):
        path.write_text(mutated(chance.choice(texts), chance))
        theirs = front_end.judge(path)
        compare(path, theirs, ours(path, release))
        seen.add(theirs.verdict)
    assert {"accepted", "rejected"} <= seen
