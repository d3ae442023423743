"""Patches made of two sources, and reviews by name."""

from __future__ import annotations

import pytest

from nbexport.errors import SourceError, UsageError
from nbexport.review.patch import apply_series, make_patch, parse_series
from nbexport.review.run import Settings, find_source, review_change, review_sources

SETTINGS = Settings(release="5.2")
OLD = "{ 'include': 'a.json' }\n{ 'include': 'b.json' }\n{ 'command': 'stay' }"
NEW = "{ 'include': 'a.json' }\n{ 'include': 'c.json' }\n{ 'command': 'stay' }\n"


@pytest.fixture
def folders(tmp_path):
    for side, root, more in (("old", OLD, "b"), ("new", NEW, "c")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "schema.json").write_text(root)
        (tmp_path / side / "a.json").write_text("{ 'command': 'a' }\n")
        (tmp_path / side / f"{more}.json").write_text(f"{{ 'command': '{more}' }}")
        (tmp_path / side / "deprecated.rst").write_text(f"{side}\n")
    return str(tmp_path / "old"), str(tmp_path / "new")


def test_a_made_patch_leads_from_one_source_to_the_other(folders):
    old, new = folders
    text = make_patch(old, new)
    done = apply_series(parse_series(text.encode()), old)
    assert list(done.new.schema.entities) == list(
        apply_series(parse_series(make_patch(new, old).encode()), new).old.schema.entities
    )
    assert done.notes == ("old\n", "new\n")
    assert text.count("\\ No newline at end of file\n") == 3
    assert "a.json b/a.json" not in text
    assert "new file mode 100644\n--- /dev/null\n+++ b/c.json\n" in text
    assert "deleted file mode 100644\n--- a/b.json\n+++ /dev/null\n" in text


def test_releases_of_the_package_make_patches_too():
    done = apply_series(
        parse_series(make_patch("release:5.1", "release:5.2").encode()), "release:5.1"
    )
    assert done.new.schema.command("block-export-add") is not None


def test_where_nothing_differs_there_is_no_patch(folders):
    with pytest.raises(UsageError, match="no file of the schema differs"):
        make_patch(folders[0], folders[0])


def test_revisions_of_the_package_are_found_by_name(tmp_path, monkeypatch):
    assert find_source("multiple-bitmaps/v5").endswith("data/series/multiple-bitmaps/v5")
    assert find_source("release:5.2") == "release:5.2"
    assert find_source("multiple-bitmaps/v1") == "multiple-bitmaps/v1"
    with pytest.raises(SourceError, match="multiple-bitmaps/v1: no such file or folder"):
        review_sources("multiple-bitmaps/base", "multiple-bitmaps/v1")
    (tmp_path / "multiple-bitmaps" / "v5").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_source("multiple-bitmaps/v5") == "multiple-bitmaps/v5"


def test_a_change_is_reviewed_from_sources_or_from_a_file(tmp_path):
    names = "multiple-bitmaps/base", "multiple-bitmaps/v5"
    made = review_change(*names, settings=SETTINGS)
    path = tmp_path / "x.patch"
    path.write_text(make_patch(*map(find_source, names)))
    given = review_change(names[0], "", str(path), SETTINGS)
    pair = review_sources(*names, SETTINGS)
    assert pair.findings
    assert [item.fingerprint for item in pair.findings] == [
        item.fingerprint for item in made.findings
    ]
    assert given.findings == made.findings
    assert (pair.old, pair.new) == (made.old, made.new) == names
    assert pair.steps == ()
    assert len(made.steps) == 1


def test_files_in_other_folders_are_those_of_the_same_name(tmp_path, folders):
    """A schema that includes what lies above it, beside one whose files are in one folder."""
    new = tmp_path / "series" / "v2"
    new.mkdir(parents=True)
    (tmp_path / "series" / "common").mkdir()
    (new / "main.json").write_text("")
    root = OLD.replace("'a.json'", "'../common/a.json'").replace("b.json", "c.json")
    (new / "schema.json").write_text(root)
    (new / "c.json").write_text("{ 'include': '../common/a.json' }\n{ 'command': 'c' }\n")
    (tmp_path / "series" / "common" / "a.json").write_text("{ 'command': 'a' }\n")
    text = make_patch(folders[0], str(new))
    assert ".." not in text
    assert "a.json b/a.json" not in text
    done = apply_series(parse_series(text.encode()), folders[0])
    assert {"a", "c", "stay"} <= set(done.new.schema.entities)
    assert done.new.schema.command("b") is None


def test_what_lies_above_the_old_schema_cannot_be_patched(tmp_path, folders):
    old = tmp_path / "deep"
    old.mkdir()
    (old / "schema.json").write_text("{ 'include': '../up.json' }\n")
    (tmp_path / "up.json").write_text("{ 'command': 'up' }\n")
    with pytest.raises(UsageError, match=r"\.\./up\.json differs and lies above"):
        make_patch(str(old), folders[1])


def test_two_files_cannot_be_one(tmp_path, folders):
    new = tmp_path / "more"
    (new / "in").mkdir(parents=True)
    (tmp_path / "a.json").write_text("{ 'command': 'up' }\n")
    (new / "a.json").write_text("{ 'command': 'a' }\n")
    (new / "schema.json").write_text("{ 'include': '../a.json' }\n{ 'include': 'a.json' }\n")
    with pytest.raises(UsageError, match=r"would be called a\.json"):
        make_patch(folders[0], str(new))


def test_a_revision_is_mailed_against_a_release():
    found = review_change("release:5.1", "multiple-bitmaps/v5", settings=SETTINGS)
    rules = {finding.rule for finding in found.findings}
    assert {"leak-through-base", "doc-phantom-member", "replacement-not-shipped"} <= rules
    assert not any(finding.new and ".." in finding.new.file for finding in found.findings)
