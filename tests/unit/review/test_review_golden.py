"""Each rule, by an example that it finds and one that it does not find.

NBEXPORT_UPDATE_GOLDEN=1 writes what differs anew, and fails the run that does so.
"""

from __future__ import annotations

import os

import pytest
from golden_review import CASES, CORPUS, example, files, review_of

from nbexport.review.rules import RULES

UPDATE = "NBEXPORT_UPDATE_GOLDEN"


@pytest.mark.parametrize(("rule", "kind"), CASES)
def test_case(rule, kind):
    folder = CORPUS / rule / kind
    texts = files(rule, kind)
    kept = {name: _read(folder / name) for name in texts}
    if os.environ.get(UPDATE) and kept != texts:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
        pytest.fail(f"{rule}/{kind} is written anew: look at it, then run without {UPDATE}")
    assert kept == texts


def _read(path):
    return path.read_text() if path.exists() else None


@pytest.mark.parametrize("rule", RULES)
def test_a_positive_case_shows_the_rule_and_nothing_else(rule):
    found = [finding.rule for finding in review_of(RULES[rule].positive)]
    assert found.count(rule) == 1
    assert set(found) <= {rule, *RULES[rule].companions}


@pytest.mark.parametrize("rule", RULES)
def test_a_negative_case_does_not_show_the_rule(rule):
    case = example(rule, "negative")
    assert rule not in {finding.rule for finding in review_of(case)}
    assert case.old != case.new


def test_nothing_is_left_over():
    assert {path.name for path in CORPUS.iterdir()} == set(RULES)
    for rule in RULES:
        assert {path.name for path in (CORPUS / rule).iterdir()} == {"positive", "negative"}


def test_an_update_fails_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv(UPDATE, "1")
    monkeypatch.setitem(test_case.__globals__, "CORPUS", tmp_path)
    with pytest.raises(pytest.fail.Exception, match="written anew"):
        test_case("argument-removed", "positive")
    assert (tmp_path / "argument-removed" / "positive" / "expected.json").exists()
    test_case("argument-removed", "positive")
