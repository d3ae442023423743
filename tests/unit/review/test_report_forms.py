"""The report as text, JSON, Markdown, annotations and JUnit's XML."""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from reviews import SEPARATOR, diff, mail, reviewed

from nbexport.review.finding import Direction, Finding, Level, Place
from nbexport.review.policy import Ignored, parse_policy
from nbexport.review.report import (
    Review,
    as_github,
    as_json,
    as_junit,
    as_markdown,
    as_text,
    json_schema,
)
from nbexport.review.report.markdown import escaped
from nbexport.review.run import rule_ids

LEAK = Finding(
    "leak-through-base",
    Level.RISKY,
    "'maps' leaks into add*old, which is deprecated",
    "add-old.maps",
    ("add-old", "Old", "base Common", "maps"),
    None,
    Place("qapi/x,y.json", 7, "struct 'Common'"),
    "Split it 100%.",
    Direction.SENDS,
    ("add-older",),
)
GONE = replace(
    LEAK,
    rule="command-removed",
    level=Level.BREAKING,
    message="the command \x01go is gone",
    element="go",
    path=("go",),
    old=Place("x.json", 3),
    new=None,
    also=(),
)
NEWS = replace(LEAK, rule="argument-added", level=Level.INFO, advice="Nothing to mend.")
REVIEW = Review(
    "old",
    "new",
    (GONE, LEAK, NEWS),
    (Ignored(LEAK, "agreed | on", dt.date(2027, 1, 1)),),
    Level.RISKY,
    "5.2",
    notes=("a note",),
    rules=("leak-through-base", "command-removed", "since-missing"),
)
CLEAN = Review("old", "new", ())


@pytest.fixture(scope="module")
def series():
    text = SEPARATOR + mail(diff("base", "v5"), "1/2") + SEPARATOR + mail(diff("v5", "v6"), "2/2")
    return reviewed(text)


# -- text -----------------------------------------------------------------------------------------


def test_text_opens_with_place_and_level_and_ends_with_a_count():
    lines = as_text(REVIEW).splitlines()
    assert lines[0] == "x.json:3: breaking: the command \ufffdgo is gone [command-removed]"
    assert lines[4].startswith("qapi/x,y.json:7: risky: 'maps' leaks into add*old")
    assert lines[5:8] == [
        "  path: add-old -> Old -> base Common -> maps",
        "  also: add-older",
        "  fix: Split it 100%.",
    ]
    assert lines[-3] == "note: a note"
    assert lines[-2].startswith("let pass until 2027-01-01: 'maps' leaks")
    assert lines[-1] == (
        "old -> new for release 5.2: 3 findings (1 breaking, 1 risky, 1 info); 1 let pass"
    )
    assert as_text(CLEAN) == "old -> new: no findings\n"


def test_colour_sets_levels_off_and_changes_no_word():
    coloured = as_text(REVIEW, colour=True)
    assert "\033[1;31mbreaking\033[0m" in coloured
    assert re.sub(r"\033\[[\d;]*m", "", coloured) == as_text(REVIEW)


def test_a_series_is_told_patch_by_patch(series):
    lines = as_text(series).splitlines()
    titles = [line for line in lines if re.match(r"\d/2 nbd: ", line)]
    assert [line[:3] for line in titles] == ["1/2", "2/2"]
    assert "  the series as a whole does not do this" in lines
    assert not any("leak" in line for line in lines[lines.index(titles[1]) :])


def test_what_stays_is_told_of_the_patch_that_brought_it(series):
    first, second = ({finding.rule for finding in step.findings} for step in series.steps)
    whole = {finding.rule for finding in series.findings}
    assert "replacement-not-shipped" in first & whole
    assert "replacement-not-shipped" not in second
    assert not any(item.rule == "replacement-not-shipped" for item in series.whole_only)


# -- JSON -----------------------------------------------------------------------------------------


def validator():
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_json_is_what_its_schema_says(series):
    for review in (REVIEW, CLEAN, series, reviewed(diff("base", "v5"))):
        validator().validate(json.loads(as_json(review)))


def test_the_schema_refuses_what_is_no_report():
    good = json.loads(as_json(REVIEW))
    for path, value in (
        (("findings", 0, "level"), "bad"),
        (("findings", 0, "fingerprint"), "x"),
        (("findings", 0, "other"), 1),
        (("findings", 1, "new", "line"), 0),
        (("counts", "risky"), -1),
        (("form",), 2),
        (("more",), 1),
        (("ignored", 0, "expires"), "soon"),
    ):
        bad = json.loads(json.dumps(good))
        place = bad
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        assert not validator().is_valid(bad), path


def test_json_has_everything_of_a_finding(series):
    report = json.loads(as_json(REVIEW))
    assert report["findings"][1] == {
        "rule": "leak-through-base",
        "level": "risky",
        "message": LEAK.message,
        "element": "add-old.maps",
        "direction": "sends",
        "path": ["add-old", "Old", "base Common", "maps"],
        "also": ["add-older"],
        "old": None,
        "new": {"file": "qapi/x,y.json", "line": 7, "context": "struct 'Common'"},
        "advice": "Split it 100%.",
        "fingerprint": LEAK.fingerprint,
    }
    assert (report["failed"], report["counts"]["risky"]) == (True, 1)
    patches = json.loads(as_json(series))["patches"]
    assert [patch["message_id"] for patch in patches] == ["<5-1@example.org>", "<5-2@example.org>"]
    passing = [item["rule"] for item in patches[0]["findings"] if item["only_here"]]
    assert "leak-through-base" in passing


# -- Markdown -------------------------------------------------------------------------------------


def test_markdown_has_an_item_for_each_finding(series):
    text = as_markdown(REVIEW)
    assert "- **risky** `leak-through-base`: `maps` leaks into add\\*old" in text
    assert "(`qapi/x,y.json:7`)" in text
    assert "`add-old` → `Old` → `base Common` → `maps`" in text
    assert "agreed \\| on, until 2027-01-01" in text
    assert "no findings" in as_markdown(CLEAN)
    assert as_markdown(series).count("\n## ") == 3


def test_nothing_in_markdown_text_is_markup():
    assert escaped("a*b_c 'x-y' <z>") == "a\\*b\\_c `x-y` \\<z\\>"


# -- annotations ----------------------------------------------------------------------------------


def test_annotations_are_escaped_and_leave_news_out():
    gone, leak = as_github(REVIEW).splitlines()
    assert gone == (
        "::error file=x.json,line=3,title=command-removed::the command \x01go is gone%0A"
        "Split it 100%25."
    )
    assert leak == (
        "::warning file=qapi/x%2Cy.json,line=7,title=leak-through-base::'maps' leaks into "
        "add*old, which is deprecated%0Aadd-old -> Old -> base Common -> maps%0ASplit it 100%25."
    )


def test_annotations_name_files_as_the_patch_does():
    text = as_github(reviewed(diff("base", "v5")))
    assert "::warning file=qapi/block-export.json,line=56," in text


def test_annotations_name_files_from_the_folder_of_the_workflow(tmp_path, monkeypatch):
    finding = replace(LEAK, new=Place(str(tmp_path / "qapi" / "x.json"), 1))
    review = replace(CLEAN, findings=(finding,))
    assert f"file={tmp_path}/qapi/x.json," in as_github(review)
    monkeypatch.chdir(tmp_path)
    assert "file=qapi/x.json," in as_github(review)


# -- JUnit ----------------------------------------------------------------------------------------


def test_junit_fails_what_is_heavy_enough_and_passes_the_rest():
    root = ET.fromstring(as_junit(REVIEW))
    (suite,) = root
    assert (root.get("tests"), root.get("failures")) == ("4", "2")
    cases = {case.get("name"): case for case in suite}
    assert list(cases) == [
        "since-missing",
        "command-removed: go",
        "leak-through-base: add-old.maps",
        "argument-added: add-old.maps",
    ]
    failure = cases["leak-through-base: add-old.maps"].find("failure")
    assert failure.get("type") == "risky"
    assert failure.text.startswith("qapi/x,y.json:7\nadd-old -> Old")
    assert cases["argument-added: add-old.maps"].find("failure") is None
    assert cases["command-removed: go"].find("failure").get("message").count("\ufffd") == 1


def test_junit_has_a_suite_for_each_patch_and_for_the_whole(series):
    root = ET.fromstring(as_junit(series))
    assert [suite.get("name")[:3] for suite in root][:2] == ["1/2", "2/2"]
    assert len(root) == 3
    assert int(root.get("failures")) == len(root.findall(".//failure"))


# -- policy ---------------------------------------------------------------------------------------


def test_the_policy_acts_on_each_patch_and_on_the_whole():
    text = SEPARATOR + mail(diff("base", "v4"), "1/2") + SEPARATOR + mail(diff("v4", "v5"), "2/2")
    policy = parse_policy(
        """
        [review.levels]
        argument-added = "off"
        doc-phantom-member = "breaking"
        [[review.ignore]]
        rule = "leak-through-base"
        element = "nbd-server-add.*"
        reason = "agreed"
        expires = 2027-01-01
        [[review.ignore]]
        rule = "replacement-not-shipped"
        reason = "late"
        expires = 2020-01-01
        """,
        "nbexport.toml",
        rule_ids(),
    )
    review = reviewed(text, policy=policy, today=dt.date(2026, 1, 1))
    rules = {finding.rule for finding in review.findings}
    assert "leak-through-base" not in rules
    assert "argument-added" not in rules
    assert {"policy-entry-expired", "replacement-not-shipped"} <= rules
    phantom = next(item for item in review.findings if item.rule == "doc-phantom-member")
    assert phantom.level == Level.BREAKING
    assert {item.finding.rule for item in review.ignored} == {"leak-through-base"}
    assert {item.finding.rule for item in review.steps[0].ignored} == {"leak-through-base"}
    assert "leak-through-base" not in {item.rule for item in review.steps[0].findings}
