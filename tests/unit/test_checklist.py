"""Every statement of the list of what an NBD server has to do has a test that bears its number."""

import re
from pathlib import Path

LAST = 143
MISSING = {
    131: "the serve command runs until it is told to end",
    134: "how qemu-nbd takes its options; the serve command has its own",
    135: "the list that qemu-nbd prints; the list command has its own form",
    141: "command lines of qemu-nbd that backup programs use",
}
"""Statements about qemu-nbd's command line, which this package does not have."""


def test_every_statement_has_a_test_or_a_reason():
    tests = Path(__file__).parent.parent
    found = set()
    for path in tests.rglob("test_*.py"):
        for name in re.findall(r"def (test_\d\w*)", path.read_text()):
            found |= {int(number) for number in re.findall(r"(?<=_)(\d{3})(?=_)", name)}
    expected = set(range(1, LAST + 1)) - set(MISSING)
    assert sorted(expected - found) == []
    assert sorted(found & set(MISSING)) == []
