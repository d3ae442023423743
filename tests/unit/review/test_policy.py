"""The policy file: what it sets, what it lets pass, and what is wrong with it."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.review.finding import Direction, Finding, Level, Place
from nbexport.review.policy import (
    EXPIRED,
    Policy,
    PolicyError,
    find_policy,
    parse_policy,
    read_policy,
)

RULES = ("argument-removed", "argument-added", "leak-through-base", "since-missing", EXPIRED)
TODAY = dt.date(2027, 1, 15)


def finding(rule="argument-removed", element="export-add.map", level=Level.BREAKING):
    path = ("export-add", "Options", "base Common", "map")
    return Finding(rule, level, "m", element, path, None, Place("x", 1), "a", Direction.SENDS)


def policy(text):
    return parse_policy(text, "nbexport.toml", RULES)


FULL = """\
[review]
release = "5.2"
deprecation-window = 3
fail-on = "notice"

[review.levels]
since-missing = "info"
argument-added = "off"

[[review.ignore]]
rule = "argument-*"
element = "x-*"
reason = "experimental"
expires = 2027-01-15

[[review.ignore]]
rule = "leak-through-base"
path = "base Common"
reason = "agreed"
expires = 2026-12-31

[[review.approve]]
fingerprint = "0123456789abcdef"
reason = "once"
"""


def test_a_whole_file_is_read():
    found = policy(FULL)
    assert (found.release, found.window, found.fail_on) == ("5.2", 3, Level.NOTICE)
    assert found.levels == {"since-missing": Level.INFO, "argument-added": None}
    assert [entry.line for entry in found.entries] == [10, 16, 22]
    assert found.entries[0].expires == dt.date(2027, 1, 15)
    assert policy("") == Policy("nbexport.toml")


def test_levels_are_set_and_rules_switched_off():
    kept, ignored = policy(FULL).judge(
        [finding("since-missing"), finding("argument-added"), finding()], TODAY
    )
    assert [(item.rule, item.level) for item in kept] == [
        ("since-missing", Level.INFO),
        ("argument-removed", Level.BREAKING),
    ]
    assert ignored == []


def test_an_ignore_counts_through_its_last_day():
    found = finding(element="x-export-add.map")
    for day, passes in ((15, True), (16, False)):
        kept, ignored = policy(FULL).judge([found], dt.date(2027, 1, day))
        assert (len(kept), len(ignored)) == ((0, 1) if passes else (1, 0))
    assert policy(FULL).judge([found], TODAY)[1][0].reason == "experimental"


def test_an_expired_entry_is_a_finding_at_its_line():
    (found,) = policy(FULL).expired(TODAY)
    assert (found.rule, found.level, found.new) == (
        EXPIRED,
        Level.NOTICE,
        Place("nbexport.toml", 16),
    )
    assert "leak-through-base" in found.message
    assert "2026-12-31" in found.message
    assert policy(FULL).expired(dt.date(2026, 1, 1)) == []
    off = FULL.replace('since-missing = "info"', f'{EXPIRED} = "off"')
    assert policy(off).expired(TODAY) == []


def test_a_path_is_matched_step_by_step():
    text = FULL.replace("2026-12-31", "2027-12-31")
    leak = finding("leak-through-base")
    assert policy(text).judge([leak], TODAY)[0] == []
    assert policy(text.replace("base Common", "Common")).judge([leak], TODAY)[0] == [leak]


def test_a_fingerprint_approves_one_finding_however_it_is_worded():
    first, second = finding(), finding(element="export-add.other")
    text = FULL.replace("0123456789abcdef", first.fingerprint)
    kept, ignored = policy(text).judge([first, second], TODAY)
    assert kept == [second]
    assert [(item.finding, item.expires) for item in ignored] == [(first, None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[reviews]\n", "nbexport.toml:1: reviews: unknown key 'reviews' (did you mean 'review'?)"),
        ("[review]\n\nrelase = '1'", "nbexport.toml:3: review.relase: unknown key 'relase' (did"),
        ("[review]\nrelease = 5.2", "nbexport.toml:2: review.release: a text is expected"),
        ("[review]\nrelease = 'x'", "nbexport.toml:2: review.release: "),
        ("[review]\ndeprecation-window = 0", "nbexport.toml:2: review.deprecation-window: a num"),
        ("[review]\ndeprecation-window = true", "review.deprecation-window: a number of releases"),
        ("[review]\nfail-on = 'bad'", "no level 'bad' (there are info, notice, risky, breaking)"),
        ("[review]\nlevels = 1", "nbexport.toml:2: review.levels: a table [review.levels] is"),
        (
            "[review.levels]\nleak-trough-base = 'info'",
            "review.levels.leak-trough-base: no rule 'leak-trough-base' (did you mean",
        ),
        ("[review.levels]\nsince-missing = 'no'", "breaking or off)"),
        ("[review]\nignore = 1", "nbexport.toml:2: review.ignore: tables [[review.ignore]] are"),
        (
            "[[review.ignore]]\nrule = 'since-missing'\nreason = 'x'\n",
            "nbexport.toml:1: review.ignore[0]: 'expires' is missing",
        ),
        (
            FULL + "\n[[review.ignore]]\nrule = 'since-missing'\nexpires = 2027-01-01\n",
            "nbexport.toml:26: review.ignore[2]: 'reason' is missing",
        ),
        (
            FULL.replace("expires = 2026-12-31", "expires = '2026-12-31'"),
            "nbexport.toml:20: review.ignore[1].expires: a day such as 2027-04-30 is expected",
        ),
        (FULL.replace("2026-12-31", "2026-12-31T00:00:00"), "review.ignore[1].expires: a day"),
        (
            FULL.replace('"argument-*"', '"command-*"'),
            "nbexport.toml:11: review.ignore[0].rule: no",
        ),
        (
            FULL.replace('"experimental"', '" "'),
            "nbexport.toml:13: review.ignore[0].reason: a text",
        ),
        (FULL.replace("0123456789abcdef", "0123"), "nbexport.toml:23: review.approve[0].fingerpr"),
        (FULL + 'element = "x"', "nbexport.toml:25: review.approve[0].element: unknown key"),
        ("[review\n", "nbexport.toml:1:8: "),
        ("[review]\nrelease = '5.2'\nrelease = '6.0'", "nbexport.toml:3:"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_key(text, message):
    with pytest.raises(PolicyError) as caught:
        policy(text)
    assert message in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_is_a_policy_or_a_clear_error(text):
    for given_ in (text, "[review]\n" + text, "[[review.ignore]]\n" + text):
        try:
            policy(given_)
        except PolicyError as error:
            assert str(error).startswith("nbexport.toml")  # noqa: PT017 - either is right


def test_the_nearest_file_above_counts(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "nbexport.toml").touch()
    assert find_policy(inner) == tmp_path / "nbexport.toml"
    (tmp_path / "a" / "nbexport.toml").touch()
    assert find_policy(inner) == tmp_path / "a" / "nbexport.toml"


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(PolicyError, match=r"none\.toml: No such file"):
        read_policy(str(tmp_path / "none.toml"), RULES)
    path = tmp_path / "nbexport.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(PolicyError, match="byte 0 is no UTF-8"):
        read_policy(str(path), RULES)
