"""Patches applied in memory, beside what `git apply` makes of the same ones."""

from __future__ import annotations

import difflib
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbexport.review.patch.apply import Line, apply_hunks, split_lines
from nbexport.review.patch.diff import parse_diff
from nbexport.review.patch.errors import PatchError

pytestmark = pytest.mark.interop

# Few different lines, so that hunks find more than one place where they could go.
LINES = st.lists(st.sampled_from(["a", "b", "c", "", " x", "- y", "+ z", "\\"]), max_size=24)
EDITS = st.lists(
    st.tuples(st.integers(0, 24), st.integers(0, 3), st.lists(st.sampled_from("abn"), max_size=3)),
    max_size=3,
)


@pytest.fixture(scope="module", autouse=True)
def git():
    if shutil.which("git") is None:
        pytest.skip("git is not installed")


def edited(lines, edits):
    lines = list(lines)
    for at, count, fresh in edits:
        at = min(at, len(lines))
        lines[at : at + count] = fresh
    return lines


def text_of(lines, *, newline=True):
    return "\n".join(lines) + ("\n" if newline and lines else "")


def diff_of(old, new, context):
    """Write a diff as GNU diff does, the missing end of a last line marked."""
    pieces = difflib.unified_diff(
        split_lines(old), split_lines(new), "a/s.json", "b/s.json", n=context
    )
    missing = "\n\\ No newline at end of file\n"
    return "".join(piece if piece.endswith("\n") else piece + missing for piece in pieces)


def by_git(text, patch, *options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.json")
        path.write_text(text, newline="")
        Path(folder, "p").write_text(patch, newline="")
        done = subprocess.run(
            ["git", "apply", *options, "p"],
            cwd=folder,
            capture_output=True,
            timeout=30,
            check=False,
            env={"PATH": "/usr/bin:/bin", "GIT_CEILING_DIRECTORIES": folder, "LC_ALL": "C"},
        )
        return path.read_bytes().decode() if done.returncode == 0 else None


def by_us(text, patch, context=None):
    (found,) = parse_diff(patch.split("\n")[:-1])
    lines = [Line(line) for line in split_lines(text)]
    try:
        done = apply_hunks(lines, found, context=context)
    except PatchError:
        return None
    return "".join(line.text for line in done.lines)


@settings(max_examples=250)
@given(LINES, EDITS, EDITS, st.integers(0, 3), st.booleans(), st.booleans())
def test_a_patch_ends_as_with_git_where_the_base_has_moved_on(
    lines, edits, drift, context, old_newline, new_newline
):
    old = text_of(lines, newline=old_newline)
    new = text_of(edited(lines, edits), newline=new_newline)
    patch = diff_of(old, new, context)
    # git compares bytes: a last line without its end fits the beginning of another line, too, and
    # what it writes then is damaged; here such a line fits the end of a file only
    moved = lines if "\n\\ No newline" in patch else edited(lines, drift)
    base = text_of(moved, newline=old_newline)
    if patch and base:
        assert by_us(base, patch) == by_git(base, patch)


@settings(max_examples=150)
@given(LINES, EDITS, EDITS, st.integers(0, 2))
def test_less_context_is_enough_where_git_is_told_so_too(lines, edits, drift, context):
    old, new = text_of(lines), text_of(edited(lines, edits))
    patch = diff_of(old, new, 3)
    base = text_of(edited(lines, drift))
    if patch and base:
        assert by_us(base, patch, context) == by_git(base, patch, f"-C{context}")
