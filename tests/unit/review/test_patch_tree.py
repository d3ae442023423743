"""Patches on top of a schema: which file is meant, what it becomes, and the steps of a series."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbexport.errors import SourceError, UsageError
from nbexport.review.patch import PatchError, apply_series, parse_series
from nbexport.sources.text import TextSource

ROOT = "{ 'include': 'exports.json' }\n{ 'command': 'quit' }\n"
EXPORTS = """\
{ 'struct': 'Options',
  'data': { 'name': 'str',
            '*map': 'str' } }
{ 'command': 'export-add', 'data': 'Options', 'boxed': true }
{ 'command': 'export-del', 'data': { 'name': 'str' } }
"""
LISTED = EXPORTS.replace("'*map': 'str'", "'*maps': ['str']")


@pytest.fixture
def flat(tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    (folder / "schema.json").write_text(ROOT)
    (folder / "exports.json").write_text(EXPORTS)
    return folder


@pytest.fixture
def qemu(tmp_path):
    folder = tmp_path / "qemu"
    (folder / "qapi").mkdir(parents=True)
    (folder / "docs" / "about").mkdir(parents=True)
    (folder / "qapi" / "qapi-schema.json").write_text(ROOT)
    (folder / "qapi" / "exports.json").write_text(EXPORTS)
    (folder / "docs" / "about" / "deprecated.rst").write_text("Deprecated\n==========\n")
    (folder / "VERSION").write_text("5.1.50\n")
    (folder / "exports.c").write_text("int a;\n")
    return folder


def diff(old, new, old_name, new_name=None, *, git=True):
    new_name = new_name or old_name
    names = (f"a/{old_name}", f"b/{new_name}") if git else (old_name, new_name)
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        names[0] if old else "/dev/null",
        names[1] if new else "/dev/null",
    )
    mode = "" if old and new else f"{'deleted' if old else 'new'} file mode 100644\n"
    head = f"diff --git a/{old_name} b/{new_name}\n{mode}" if git else ""
    return head + "".join(lines)


def series(*texts):
    mails = [
        f"From: a@example.org\nSubject: [PATCH {n}/{len(texts)}] p{n}\n\n{text}"
        for n, text in enumerate(texts, 1)
    ]
    separator = "From 0 Mon Sep 17 00:00:00 2001\n"
    data = separator + separator.join(f"{mail}\n" for mail in mails) if len(texts) > 1 else mails[0]
    return parse_series(data.encode(), name="p")


def members(loaded, name="Options"):
    return [member.name for member in loaded.schema.members(loaded.schema.entities[name])]


@pytest.mark.parametrize(
    "name", ["exports.json", "qapi/exports.json", "data/interface/5.1/exports.json"]
)
def test_a_flat_base_has_the_files_of_deeper_trees(flat, name):
    done = apply_series(series(diff(EXPORTS, LISTED, name)), str(flat))
    assert members(done.old) == ["name", "map"]
    assert members(done.new) == ["name", "maps"]
    assert done.steps[0].applying.files == {"exports.json": name}


@pytest.mark.parametrize("name", ["qapi/exports.json", "exports.json"])
def test_a_deep_base_has_the_files_of_a_patch_made_within(qemu, name):
    done = apply_series(series(diff(EXPORTS, LISTED, name)), str(qemu))
    assert members(done.new) == ["name", "maps"]
    assert list(done.steps[0].applying.files) == ["qapi/exports.json"]
    assert done.new.release == (5, 2)


def test_the_root_file_may_be_named_as_base(qemu, monkeypatch):
    source = TextSource(str(qemu / "qapi" / "qapi-schema.json"))
    assert (source.root, source.has_file("exports.c")) == ("qapi/qapi-schema.json", True)
    monkeypatch.chdir(qemu / "qapi")
    source = TextSource("qapi-schema.json")
    assert (source.root, source.has_file("exports.c")) == ("qapi/qapi-schema.json", True)
    assert TextSource(".").release == (5, 2)


def test_a_diff_of_two_folders_is_one_of_their_common_files(flat):
    text = diff(EXPORTS, LISTED, "series/v3/exports.json", "series/v5/exports.json")
    done = apply_series(series(text), str(flat))
    assert members(done.new) == ["name", "maps"]


def test_a_plain_diff_without_prefixes_is_understood(qemu):
    text = diff(EXPORTS, LISTED, "qapi/exports.json", git=False)
    assert members(apply_series(series(text), str(qemu)).new) == ["name", "maps"]
    with pytest.raises(PatchError, match="-p3 leaves nothing of its name"):
        apply_series(series(text), str(qemu), strip=3)


def test_new_and_deleted_files_count(flat):
    text = diff(ROOT, ROOT.replace("exports", "more"), "qapi/schema.json")
    text += diff("", EXPORTS.replace("export-", "more-"), "qapi/more.json")
    text += diff(EXPORTS, "", "qapi/exports.json")
    done = apply_series(series(text), str(flat))
    assert done.new.schema.command("more-add") is not None
    assert done.new.schema.command("export-add") is None
    assert (flat / "exports.json").read_text() == EXPORTS


def test_a_renamed_file_keeps_its_text(flat):
    text = diff(ROOT, ROOT.replace("exports", "more"), "schema.json")
    text += "diff --git a/exports.json b/more.json\nsimilarity index 80%\n"
    text += "rename from exports.json\nrename to more.json\n"
    text += "".join(diff(EXPORTS, LISTED, "x.json").partition("--- ")[1:])
    done = apply_series(series(text), str(flat))
    assert members(done.new) == ["name", "maps"]
    place = done.new.schema.entities["Options"].info
    assert (place.path, place.line) == ("more.json", 1)
    assert set(done.origins) == {("more.json", 3), ("schema.json", 1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (diff("x\n", "y\n", "qapi/none.json"), r"p:1: qapi/none\.json: no such file in "),
        (diff("x\n", "y\n", "none/none.json"), r"none/none\.json: no such file in "),
        (diff("", "y\n", "exports.json"), r"exports\.json: it is to be created, but is in "),
        (
            diff(EXPORTS, "", "exports.json")
            .replace("-1,5", "-1,4")
            .replace("-{ 'command': 'export-del', 'data': { 'name': 'str' } }\n", ""),
            r"exports\.json: hunk 1 of 1 .* belongs to the end of the file",
        ),
        (diff(EXPORTS, LISTED, "../exports.json"), r"\.\./exports\.json: invalid path"),
        (
            diff(EXPORTS, EXPORTS.replace("'Options',\n", "'Option',\n"), "exports.json"),
            r"p: what it leaves is no schema: (?s:.*)exports\.json:4: command's 'data' uses",
        ),
        (
            "diff --git a/exports.json b/exports.json\nBinary files a/x and b/x differ\n",
            r"exports\.json: a binary difference",
        ),
    ],
)
def test_what_does_not_apply_is_named(flat, text, message):
    with pytest.raises(PatchError, match=message):
        apply_series(series(text), str(flat))


def test_what_is_no_schema_is_skipped_and_named(qemu):
    text = diff("int a;\n", "int b;\n", "exports.c") + diff(EXPORTS, LISTED, "qapi/exports.json")
    text += diff("x\n", "y\n", "tests/qapi-schema/none.json")
    (step,) = apply_series(series(text), str(qemu)).steps
    assert step.applying.skipped == ["exports.c", "tests/qapi-schema/none.json"]


def test_a_patch_without_schema_files_changes_nothing(qemu):
    (step,) = apply_series(series(diff("int a;\n", "int b;\n", "exports.c")), str(qemu)).steps
    assert step.old is step.new


def test_the_list_of_deprecations_is_patched_too(qemu):
    old = "Deprecated\n==========\n"
    text = diff(old, old + "\nexport-add\n", "docs/about/deprecated.rst")
    done = apply_series(series(text), str(qemu))
    assert done.notes == (old, old + "\nexport-add\n")


def test_each_patch_of_a_series_is_a_step(flat):
    both = LISTED.replace("export-del", "export-remove")
    done = apply_series(
        series(diff(EXPORTS, LISTED, "exports.json"), diff(LISTED, both, "exports.json")),
        str(flat),
    )
    first, second = done.steps
    assert members(first.new) == ["name", "maps"]
    assert second.old is first.new
    assert second.new.schema.command("export-remove") is not None
    assert {number for number, _ in done.origins.values()} == {0, 1}
    assert set(done.removed) == {("exports.json", 3), ("exports.json", 5)}
    assert done.removed["exports.json", 5][0] == 1


def test_an_error_in_a_series_names_the_patch(flat):
    text = diff(EXPORTS, LISTED, "exports.json")
    with pytest.raises(PatchError, match=r"p \(2/2 p2\):\d+: exports\.json: hunk 1 of 1"):
        apply_series(series(text, text), str(flat))


def test_lines_shown_are_told_for_both_sides(flat):
    (step,) = apply_series(series(diff(EXPORTS, LISTED, "exports.json")), str(flat)).steps
    lines = step.patch.lines
    shown, is_added = step.applying.places.new["exports.json", 3]
    assert (lines[shown], is_added) == ("+            '*maps': ['str'] } }", True)
    shown, is_removed = step.applying.places.old["exports.json", 3]
    assert (lines[shown], is_removed) == ("-            '*map': 'str' } }", True)
    shown, is_added = step.applying.places.new["exports.json", 4]
    assert (lines[shown][0], is_added) == (" ", False)


def test_a_hunk_that_moved_is_told(flat):
    text = diff(EXPORTS, LISTED, "exports.json").replace("@@ -1,5 +1,5 @@", "@@ -3,5 +3,5 @@")
    (step,) = apply_series(series(text), str(flat)).steps
    assert step.applying.notes == ["exports.json: hunk 1 applies -2 lines away"]


def test_sources_without_text_are_refused(tmp_path):
    with pytest.raises(UsageError, match="a monitor has no text"):
        TextSource("qmp:/tmp/none")
    answer = tmp_path / "answer.json"
    answer.write_text('[{"name": "a", "meta-type": "builtin"}]')
    with pytest.raises(UsageError, match="an introspection has no text"):
        TextSource(str(answer))
    with pytest.raises(SourceError, match="no such file or folder"):
        TextSource(str(tmp_path / "none"))
    with pytest.raises(SourceError, match=r"no schema\.json or"):
        TextSource(str(tmp_path))


def test_a_release_of_the_package_is_a_base():
    source = TextSource("release:5.1")
    assert (source.kind, source.root, source.interface) == ("release", "schema.json", (5, 1))


PATCH = (
    diff(EXPORTS, LISTED, "qapi/exports.json")
    + diff(ROOT, ROOT + "{ 'include': 'more.json' }\n", "qapi/schema.json")
    + diff("", "{ 'command': 'more' }\n", "qapi/more.json")
).split("\n")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(PATCH) - 1),
            st.sampled_from(["drop", "twice", "swap", "edit"]),
            st.text("+-@ /ab01,{}'", max_size=12),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_damaged_patch_applies_or_is_refused_and_leaves_the_base(flat, damages):
    lines = list(PATCH)
    for at, how, text in damages:
        at = min(at, len(lines) - 1)
        if how == "drop":
            del lines[at]
        elif how == "twice":
            lines.insert(at, lines[at])
        elif how == "swap":
            lines[at], lines[at - 1] = lines[at - 1], lines[at]
        else:
            lines[at] = text
        if not lines:
            return
    try:
        done = apply_series(parse_series("\n".join(lines).encode(), name="p"), str(flat))
    except PatchError as error:
        assert str(error).startswith("p")  # noqa: PT017 - either is right
    else:
        assert done.old.schema.command("export-add") is not None
    assert (flat / "exports.json").read_text() == EXPORTS
