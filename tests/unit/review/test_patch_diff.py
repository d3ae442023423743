"""Unified diffs: headers, names, hunks, and what is wrong with them."""

from __future__ import annotations

import pytest

from nbexport.review.patch.apply import Line, apply_hunks, split_lines
from nbexport.review.patch.diff import parse_diff, strip
from nbexport.review.patch.errors import PatchError

HUNK = "@@ -1,2 +1,3 @@\n a\n+b\n c\n"
GIT = "diff --git a/x.json b/x.json\nindex 1..2 100644\n--- a/x.json\n+++ b/x.json\n" + HUNK


def parsed(text):
    return parse_diff(text.split("\n"), name="p")


def applied(base, text, **options):
    (found,) = parsed(text)
    return apply_hunks([Line(line) for line in split_lines(base)], found, name="p", **options)


def text_of(done):
    return "".join(line.text for line in done.lines)


def test_a_diff_of_git_has_names_and_hunks():
    (found,) = parsed(GIT)
    assert (found.old, found.new, found.git) == ("a/x.json", "b/x.json", True)
    assert [(line.sign, line.text, line.place) for line in found.hunks[0].lines] == [
        (" ", "a\n", 5),
        ("+", "b\n", 6),
        (" ", "c\n", 7),
    ]
    assert found.shown == "x.json"


def test_prose_around_a_diff_is_skipped():
    text = f"Subject line\n\n--- a rule of dashes\n---\n{GIT}-- \n2.39.5\n"
    (found,) = parsed(text)
    assert found.place == 4
    assert len(found.hunks) == 1


def test_a_plain_diff_has_times_behind_names():
    text = f"--- a/x.json\t2020-10-26 10:00:00\n+++ b/x.json\t2020-10-26 11:00:00\n{HUNK}"
    (found,) = parsed(text)
    assert (found.old, found.new, found.git) == ("a/x.json", "b/x.json", False)


@pytest.mark.parametrize(
    ("head", "old", "new"),
    [
        ("--- /dev/null\n+++ b/x.json\n@@ -0,0 +1 @@\n+a\n", None, "b/x.json"),
        ("--- a/x.json\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "a/x.json", None),
        (
            "--- a/x.json\t1970-01-01 01:00:00.000000000 +0100\n+++ b/x.json\n@@ -0,0 +1 @@\n+a\n",
            None,
            "b/x.json",
        ),
        (
            "diff --git a/x y.json b/x y.json\nnew file mode 100644\nindex 000..e69\n",
            None,
            "b/x y.json",
        ),
        (
            "diff --git a/x.json b/x.json\ndeleted file mode 100644\nindex e69..000\n",
            "a/x.json",
            None,
        ),
    ],
)
def test_new_and_deleted_files_lack_a_side(head, old, new):
    (found,) = parsed(head)
    assert (found.old, found.new) == (old, new)


def test_a_rename_has_names_without_prefix():
    text = "diff --git a/x.json b/y.json\nsimilarity index 100%\nrename from x.json\n"
    (found,) = parsed(text + "rename to y.json\n")
    assert (found.old, found.new, found.renamed, found.bare) == ("x.json", "y.json", True, True)
    with pytest.raises(PatchError, match=r"^p:1: a rename or copy that names one side only$"):
        parsed(text)


def test_names_may_be_quoted_as_in_c():
    text = 'diff --git "a/\\303\\244\\t.json" "b/\\303\\244\\t.json"\nold mode 100644\n'
    (found,) = parsed(text)
    assert found.new == "b/ä\t.json"


def test_leading_folders_are_left_out():
    assert strip("a/qapi//x.json", 1) == "qapi/x.json"
    assert strip("a/x.json", 2) is None


def test_blank_lines_in_a_hunk_are_context():
    (found,) = parsed("--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n")
    assert [line.text for line in found.hunks[0].old] == ["a\n", "\n", "b\n"]


def test_the_missing_end_of_the_last_line_is_kept():
    text = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n"
    assert text_of(applied("a", text)) == "b\n"
    with pytest.raises(PatchError, match=r"line 1 is 'a', expected is 'a' without an end of line"):
        applied("a\n", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "--- a/x.json\n+++ b/x.json\n@@ -1,3 +1,3 @@\n a\n",
            r"x\.json: hunk 1 is cut: 1 old and 1 new lines are missing at the end of the patch",
        ),
        (
            "--- a/x.json\n+++ b/x.json\n@@ -1,3 +1,3 @@\n a\nwrapped\n b\n",
            r"p:5: x\.json: hunk 1 is damaged: a line begins with 'w' .*wrapped by a mail program",
        ),
        ("--- a/x.json\n+++ b/x.json\n@@ -1 +1,2 @@\n-a\n-b\n+c\n", "more lines than its header"),
        ("@@ -1 +1 @@\n-a\n+b\n", "p:1: a hunk without a header that names its file"),
        ("diff --cc x.json\n@@@ -1 -1 +1 @@@\n", "p:1: a combined diff of a merge"),
        ("--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n", "a header that names no file"),
        (f"--- a/x\n+++ b/x\n@@ -{'1' * 10} +1 @@\n-a\n+b\n", "9 digits at most"),
    ],
)
def test_a_damaged_patch_is_refused_with_its_line(text, message):
    with pytest.raises(PatchError, match=message):
        parsed(text)


def test_a_hunk_applies_where_the_file_has_moved_on():
    later = GIT.replace("@@ -1,2 +1,3 @@", "@@ -2,2 +2,3 @@")
    done = applied("0\n0\n0\na\nc\n", later)
    assert text_of(done) == "0\n0\n0\na\nb\nc\n"
    assert done.offsets == [2]
    assert done.new[5] == (6, True)
    assert done.old[4] == (5, False)


def test_a_hunk_from_the_first_line_stays_there_as_with_git():
    with pytest.raises(PatchError, match="line 1 is '0', expected is 'a'"):
        applied("0\na\nc\n", GIT)


def test_the_place_after_wins_over_one_as_far_before():
    text = "--- a/x\n+++ b/x\n@@ -4,3 +4,3 @@\n a\n-b\n+B\n c\n"
    assert text_of(applied("a\nb\nc\n-\n-\n-\na\nb\nc\n", text)).endswith("a\nB\nc\n")


def test_removed_lines_are_told_with_what_they_were():
    text = "--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n a\n-b\n"
    done = applied("a\nb\n", text)
    assert [(line.text, place) for line, place in done.removed] == [("b\n", 4)]
    assert done.old[2] == (4, True)


def test_what_does_not_apply_names_hunk_and_line():
    with pytest.raises(
        PatchError,
        match=r"^p:8: x\.json: hunk 1 of 1 \(@@ -1,2 \+1,3 @@\) does not apply: line 2 is 'C', "
        r"expected is 'c'$",
    ):
        applied("a\nC\n", GIT)
    with pytest.raises(PatchError, match="the file ends at line 1, expected is 'c'"):
        applied("a\n", GIT)


def test_fuzz_is_only_allowed_on_demand():
    text = "--- a/x\n+++ b/x\n@@ -2,3 +2,3 @@\n a\n-b\n+B\n c\n"
    base = "0\na\nb\nC\n"
    with pytest.raises(PatchError, match="line 4 is 'C', expected is 'c'"):
        applied(base, text)
    assert text_of(applied(base, text, context=0)) == "0\na\nB\nC\n"
