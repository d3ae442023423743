"""The file of releases: what it says, and how each fault of it is told."""

from __future__ import annotations

import datetime as dt

import pytest

from nbexport.errors import FormatError, UsageError
from nbexport.qapi import known_releases, load_release, parse_release
from nbexport.timeline.releases import (
    deprecations,
    earliest_removal,
    parse_releases,
    policy,
    release,
    releases,
)

GOOD = """
[[release]]
name = "2.9"
date = 2017-04-20
basis = "announced"

[[release]]
name = "2.10"
date = 2017-08-30
basis = "announced"

[[release]]
name = "2.10.1"
date = 2017-10-04
basis = "tagged"
behaviour = ["it has changed"]

[[release]]
name = "2.11"
date = 2017-12-13
basis = "announced"
note = "of no importance"

[policy]
began = "2.10"
announced = 2017-08-10
releases = 2
machine_types = { began = "2.11", deprecated_after = 9, removed_after = 18 }

[[deprecation]]
item = "ring"
kind = "command"
deprecated = "2.10"
removed = "2.11"
replacement = "knock"
"""


def test_a_release():
    found = release("5.2")
    assert (found.name, found.date, found.version) == ("5.2", dt.date(2020, 12, 8), (5, 2, 0))
    assert not found.is_stable
    assert release("5.2.0") is found
    stable = release("7.2.14")
    assert (stable.branch, stable.is_stable, str(stable)) == ("7.2", True, "7.2.14")
    assert stable.behaviour


def test_the_releases_are_in_order_and_complete():
    names = [entry.name for entry in releases() if not entry.is_stable]
    assert names[0] == "1.3"
    assert names[-1] == "11.1"
    minors = {2: 13, 3: 2} | dict.fromkeys(range(4, 11), 3) | {11: 2}
    expected = [f"{major}.{minor}" for major, count in minors.items() for minor in range(count)]
    assert names[5:] == expected
    assert set(known_releases()) <= set(names)
    assert {"7.2.9", "7.2.14", "8.2.1", "8.2.7", "9.0.3"} <= {e.name for e in releases()}


def test_the_policy():
    assert (policy().began, policy().releases) == ("2.10", 2)
    assert policy().announced == dt.date(2017, 8, 10)
    assert earliest_removal("5.2").name == "6.1"
    assert earliest_removal("4.0").name == "4.2"
    # what was deprecated before there was a policy counts from its beginning
    assert earliest_removal("2.6").name == earliest_removal("2.10").name == "2.12"
    assert earliest_removal("7.2.14").name == "8.1"
    assert earliest_removal("11.1") is None


def test_deprecations_are_those_of_the_schemas():
    """What introspection can tell of commands and arguments it tells as the file does."""
    checked = 0
    for entry in deprecations():
        command, _, member = entry.item.partition(" ")
        first = entry.flagged or entry.deprecated
        if entry.kind != "command" or member or first not in known_releases():
            continue
        entity = load_release(first).command(command)
        if entity is None:
            continue
        checked += 1
        assert entity.has_feature("deprecated"), entry.item
        if entry.removed in known_releases():
            assert load_release(entry.removed).command(command) is None
    assert checked >= 2


def test_nothing_was_removed_before_its_time():
    early = []
    for entry in deprecations():
        if entry.deprecated and entry.removed:
            due = earliest_removal(entry.deprecated)
            if due is None or parse_release(entry.removed) < due.version[:2]:
                early.append(entry.item)
    # each of these has its story in the file
    assert all(entry.note for entry in deprecations() if entry.item in early), early


def test_the_example_is_read():
    found = parse_releases(GOOD)
    assert [entry.name for entry in found.releases] == ["2.9", "2.10", "2.10.1", "2.11"]
    assert found.deprecations[0].replacement == "knock"
    assert found.earliest_removal("2.9") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[policy]", "[policy", "not TOML"),
        ("[[release]]", "[[releases]]", "the file: release is missing"),
        ('name = "2.9"\n', "", "release number 1: name is missing"),
        ('name = "2.9"', 'name = "two"', "release 'two': 'two' is no release"),
        ('name = "2.9"', 'name = "2.9.0"', "the main line has two numbers"),
        ('name = "2.9"', 'name = "2.12"', "release '2.10': stands behind 2.12, in no order"),
        ('name = "2.10.1"', 'name = "2.12.1"', "release '2.12.1': there is no 2.12 before it"),
        ("date = 2017-12-13", "date = 2017-01-01", "release '2.11': is not later than 2.10"),
        ("date = 2017-04-20", 'date = "2017"', "release '2.9': date is no date"),
        ('basis = "tagged"', 'basis = "guessed"', "basis 'guessed' is none of announced, tagged"),
        ('["it has changed"]', "[1]", "release '2.10.1': behaviour is no list of strings"),
        ('["it has changed"]', "[]", "release '2.10.1': behaviour is empty"),
        ("note =", "remark =", "release '2.11': unknown field remark"),
        ('began = "2.10"', 'began = "2.10.1"', "policy: began: no release of the main line"),
        ("releases = 2", "releases = 0", "policy: releases 0 is less than 1"),
        ("releases = 2", "releases = true", "policy: releases is no integer"),
        ("removed_after = 18", "removed_after = 9", "removed_after is not greater"),
        ('kind = "command"', 'kind = "thing"', "deprecation 'ring': kind 'thing' is none of"),
        ('deprecated = "2.10"\n', "", "has to have either deprecated or experimental"),
        ('removed = "2.11"', 'removed = "2.9"', "removed 2.9 is not later than 2.10"),
        ('removed = "2.11"', 'removed = "3.0"', "removed: no release of the main line"),
        ('replacement = "knock"', 'delisted = "2.11"', "has both removed and delisted"),
        ('replacement = "knock"', 'replacement = ""', "deprecation 'ring': replacement is empty"),
        (
            'replacement = "knock"',
            '[[deprecation]]\nitem = "ring"\nkind = "command"\ndeprecated = "2.10"',
            "deprecation 'ring': is there twice",
        ),
    ],
)
def test_faults_name_the_entry(old, new, message):
    assert old in GOOD
    with pytest.raises(FormatError) as caught:
        parse_releases(GOOD.replace(old, new))
    assert message in str(caught.value)
    assert "releases.toml" in str(caught.value)


def test_a_release_that_nobody_made():
    for text, message in (
        ("5.3", r"no release 5\.3: known are 1\.3 to 11\.1"),
        ("x", "no release"),
    ):
        with pytest.raises(UsageError, match=message):
            release(text)
