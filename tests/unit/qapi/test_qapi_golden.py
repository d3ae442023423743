"""The corpus: one small schema for each rule, and what comes of it.

NBEXPORT_UPDATE_GOLDEN=1 writes what differs anew, and fails the run that does so.
"""

from __future__ import annotations

import os

import pytest
from golden_qapi import CASES, CORPUS, result

UPDATE = "NBEXPORT_UPDATE_GOLDEN"


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    kind, text = result(case)
    path = CORPUS / f"{case}.{kind}"
    other = CORPUS / f"{case}.{'err' if kind == 'out' else 'out'}"
    kept = path.read_text() if path.exists() else None
    if os.environ.get(UPDATE) and (kept != text or other.exists()):
        path.write_text(text)
        other.unlink(missing_ok=True)
        pytest.fail(f"{path.name} is written anew: look at it, then run without {UPDATE}")
    assert not other.exists(), f"{other.name} is of another time"
    assert kept == text


def test_nothing_is_left_over():
    kept = {path.stem for path in CORPUS.iterdir() if path.suffix in (".out", ".err")}
    assert kept <= set(CASES)


def test_both_kinds_are_there():
    rejected = len(list(CORPUS.glob("*.err")))
    assert len(CASES) >= 150
    assert rejected >= 100
    assert len(CASES) - rejected >= 60


def test_an_update_fails_the_run(tmp_path, monkeypatch):
    case = CASES[0]
    (tmp_path / f"{case}.json").write_text((CORPUS / f"{case}.json").read_text())
    (tmp_path / f"{case}.out").write_text("old")
    monkeypatch.setenv(UPDATE, "1")
    monkeypatch.setitem(test_case.__globals__, "CORPUS", tmp_path)
    with pytest.raises(pytest.fail.Exception, match="written anew"):
        test_case(case)
    assert not (tmp_path / f"{case}.out").exists()
    assert (tmp_path / f"{case}.err").exists()
