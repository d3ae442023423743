"""The series that made several bitmaps of one: what a review of its revisions finds."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nbexport.resources import data_path
from nbexport.review.engine import Context, PackageHistory, review
from nbexport.review.facts import differences
from nbexport.sources.load import load

SERIES = data_path("series", "multiple-bitmaps")
REVISIONS = ("v3", "v4", "v5", "v6")


def revision(name):
    return load(str(SERIES / name))


def reviewed(old, new, **more):
    found = review(load(old), revision(new), Context(release="5.2", **more))
    return {(finding.rule, finding.element): finding for finding in found}


@pytest.fixture(scope="module")
def v5():
    return reviewed("release:5.1", "v5")


def test_v5_leaks_into_the_deprecated_command(v5):
    leak = v5["leak-through-base", "nbd-server-add.bitmaps"]
    assert leak.path == (
        "nbd-server-add",
        "NbdServerAddOptions",
        "base BlockExportOptionsNbd",
        "bitmaps",
    )
    assert "block-export-add" in leak.message
    assert text_at(leak.new).strip() == "'*bitmaps': [ 'str' ], '*allocation-depth': 'bool' } }"
    assert ("leak-through-base", "nbd-server-add.allocation-depth") in v5


def test_v5_makes_the_deprecated_command_grow(v5):
    assert ("deprecated-gained-member", "nbd-server-add.bitmaps") in v5


def test_v5_tells_of_an_exclusion_that_nobody_can_meet(v5):
    phantom = v5["doc-phantom-member", "nbd-server-add.bitmaps"]
    assert "never had" in phantom.message
    assert "@bitmaps" in text_at(phantom.new)


def test_v5_deprecates_before_the_replacement_ships(v5):
    assert ("replacement-not-shipped", "nbd-server-add") in v5
    assert ("replacement-not-shipped", "nbd-server-remove") in v5


def text_at(place):
    return Path(place.file).read_text().splitlines()[place.line - 1]


def test_v6_has_none_of_these_but_the_last():
    rules = {rule for rule, _ in reviewed("release:5.1", "v6")}
    assert not rules & {"leak-through-base", "deprecated-gained-member", "doc-phantom-member"}
    assert "replacement-not-shipped" in rules


@pytest.mark.parametrize("name", ["v3", "v4", "v5"])
def test_the_early_revisions_leak(name):
    found = reviewed("release:5.1", name)
    depth = "alloc" if name == "v3" else "allocation-depth"
    for member in ("bitmaps", depth):
        assert ("leak-through-base", f"nbd-server-add.{member}") in found


def test_the_tree_before_the_series_already_shows_what_will_be_wanted():
    found = reviewed("release:5.1", "base")
    assert ("scalar-where-list-likely", "block-export-add.bitmap") in found


def test_what_no_release_has_may_change():
    """A new command's member turns into a list while the release is made."""
    found = reviewed(str(SERIES / "base"), "v6")
    assert str(found["argument-removed", "block-export-add[type=nbd].bitmap"].level) == "info"
    assert not any(str(finding.level) == "breaking" for finding in found.values())


def test_a_deprecation_of_the_same_cycle_counts_with_history():
    # the old schema deprecates it already, but no release does
    found = reviewed(str(SERIES / "base"), "v5", history=PackageHistory())
    assert ("replacement-not-shipped", "nbd-server-add") in found
    assert ("leak-through-base", "nbd-server-add.bitmaps") in found
    without = reviewed(str(SERIES / "base"), "v5")
    assert ("replacement-not-shipped", "nbd-server-add") not in without


@pytest.mark.parametrize(("name", "missing"), [("v4", True), ("v5", False), ("v6", False)])
def test_the_note_has_to_tell_of_the_changed_argument(name, missing):
    notes = (SERIES / name / "deprecated.rst").read_text()
    found = reviewed("release:5.1", name, deprecation_notes=notes)
    assert (("migration-note-lacks-rename", "nbd-server-add.bitmap") in found) is missing


def test_the_last_revision_is_what_shipped():
    assert differences(revision("v6").schema, load("release:5.2").schema) == []


def test_the_last_steps_are_documentation_only():
    assert differences(revision("v4").schema, revision("v5").schema) == []


@pytest.mark.parametrize("name", REVISIONS)
def test_only_the_patched_files_differ(name):
    done = subprocess.run(
        ["git", "diff", "--no-index", "--name-only", "base", name],
        cwd=SERIES,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    changed = {line.rpartition("/")[2] for line in done.stdout.split()}
    notes = {"deprecated.rst"} if name in ("v5", "v6") else set()
    assert changed == {"block-export.json"} | notes


def test_what_a_change_leaves_as_it_was_is_found_by_an_audit_only():
    same = load("release:5.2"), load("release:5.2")
    context = Context(release="5.2", history=PackageHistory())
    assert review(*same, context) == []
    rules = {(one.rule, one.element) for one in review(*same, replace(context, audit=True))}
    assert ("replacement-not-shipped", "nbd-server-add") in rules


def test_a_note_that_changes_is_reviewed_with_what_it_is_about():
    texts = [(SERIES / name / "deprecated.rst").read_text() for name in ("v4", "v5")]
    same = load(str(SERIES / "v5"))
    for old, new in (texts, texts[::-1], texts[:1] * 2):
        notes = {"old_deprecation_notes": old, "deprecation_notes": new}
        found = review(same, same, Context(release="5.2", history=PackageHistory(), **notes))
        lacking = {one.element for one in found if one.rule == "migration-note-lacks-rename"}
        if old == new:
            assert found == []
        else:
            assert "nbd-server-remove.name" in lacking
            assert ("nbd-server-add.bitmap" in lacking) is (new == texts[0])
