"""The pages about the rules."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from nbexport.cli.main import cli
from nbexport.review.report.rules import page
from nbexport.review.rules import RULES


def run(*words):
    return CliRunner().invoke(cli, ["review", "rules", *words])


def test_the_page_of_documentation_is_that_of_the_registry(root):
    stored = (root / "nbexport" / "review" / "RULES.md").read_text()
    assert stored == page(RULES.values()), (
        "renew it: nbexport review rules --format markdown > nbexport/review/RULES.md"
    )
    assert run("--format", "markdown").output == stored


def test_the_list_has_every_rule_and_its_level():
    lines = run().output.splitlines()
    for rule in RULES.values():
        assert any(line.split()[:2] == [rule.id, str(rule.level)] for line in lines)
    assert lines[-1].startswith("policy-entry-expired")


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_explained_with_both_examples(name):
    text = run(name).output
    rule = RULES[name]
    words = " ".join(text.split())
    assert words.startswith(f"{name} ({rule.level}): ")
    assert " ".join(rule.reason.split()) in words
    assert " ".join(rule.fix.split()) in words
    # every line of both examples is shown
    for example in (rule.positive, rule.negative):
        for line in (*example.old.split("\n"), *example.new.split("\n")):
            assert line.strip() in text


def test_rules_are_given_as_json():
    (found,) = json.loads(run("leak-through-base", "--format", "json").output)
    assert found["id"] == "leak-through-base"
    assert found["positive"]["new"]
    assert len(json.loads(run("--format", "json").output)) == len(RULES)


def test_an_unknown_rule_is_usage_and_alike_ones_are_told():
    result = run("leak-trough-base")
    assert result.exit_code == 2
    assert "no rule 'leak-trough-base' (did you mean leak-through-base" in result.output
