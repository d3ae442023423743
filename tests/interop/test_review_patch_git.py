"""Patches applied in memory, beside what `git apply` makes of the same ones."""

from __future__ import annotations

import difflib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import peer
from reviews import SERIES

from nbexport.cli.main import cli
from nbexport.review.patch import apply_series, parse_series
from nbexport.review.patch.apply import Line, apply_hunks, split_lines
from nbexport.review.patch.diff import parse_diff
from nbexport.review.patch.errors import PatchError
from nbexport.review.patch.tree import Tree

pytestmark = pytest.mark.interop

# Few different lines, so that hunks find more than one place where they could go.
LINES = st.lists(st.sampled_from(["a", "b", "c", "", " x", "- y", "+ z", "\\"]), max_size=24)
EDITS = st.lists(
    st.tuples(st.integers(0, 24), st.integers(0, 3), st.lists(st.sampled_from("abn"), max_size=3)),
    max_size=3,
)


@pytest.fixture(scope="module", autouse=True)
def git():
    peer("git")


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


# -- trees ----------------------------------------------------------------------------------------

NAMES = ["schema.json", "a.json", "b.json", "sub/a.json", "sub/c.json", "sub/deep/d e.json"]
TEXTS = st.sampled_from(
    [
        "".join(f"{word} {n}\n" for n in range(8)) + end
        for word in ("one", "two")
        for end in ("", "tail\n", "tail", "more\n" * 3)
    ]
)
TREES = st.dictionaries(st.sampled_from(NAMES[1:]), TEXTS)


class Files:
    """A base that is a dictionary."""

    name = "base"
    root = "schema.json"

    def __init__(self, files):
        self.files = files

    def has_file(self, path):
        return path in self.files

    def read(self, path):
        return self.files[path]


def difference(before, after):
    """What git says of two trees, renames and copies found."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder, "init", "--quiet")
        trees = []
        for files in (before, after):
            for path in [*folder.glob("*.json"), *folder.glob("sub/**/*.json")]:
                path.unlink()
            for path, text in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text)
            run(folder, "add", "--all")
            trees.append(run(folder, "write-tree").strip())
        return run(folder, "diff", "-M50%", "-C", "--find-copies-harder", "-B", *trees)


@settings(max_examples=40)
@given(TREES, TREES, TEXTS, TEXTS)
def test_a_difference_of_trees_leads_from_one_to_the_other(before, after, root, new_root):
    before, after = {"schema.json": root, **before}, {"schema.json": new_root, **after}
    text = difference(before, after)
    if not text:
        return
    (patch,) = parse_series(text.encode()).patches
    tree = Tree(Files(before))
    tree.apply(patch, 0)
    found = {path: tree.read(path) for path in NAMES if tree.has_file(path)}
    assert found == after


# -- a repository ---------------------------------------------------------------------------------


def run(folder, *words):
    done = subprocess.run(
        [
            "git",
            "-c",
            "user.name=A Contributor",
            "-c",
            "user.email=contributor@example.org",
            *words,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C"},
    )
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A tree laid out like QEMU's whose commits are the revisions, v3 to v6 on top of the base."""
    folder = tmp_path_factory.mktemp("repository")
    run(folder, "init", "--quiet", "--initial-branch=main")
    for revision in ("base", "v3", "v4", "v5", "v6"):
        for name, place in (("block-export.json", "qapi"), ("deprecated.rst", "docs/about")):
            (folder / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(SERIES / revision / name, folder / place / name)
        text = (SERIES / revision / "schema.json").read_text()
        (folder / "qapi" / "qapi-schema.json").write_text(text)
        shutil.copytree(SERIES / "common", folder / "common", dirs_exist_ok=True)
        (folder / "blockdev.c").write_text(f"/* {revision} */\n")
        run(folder, "add", "--all")
        run(folder, "commit", "--quiet", "--message", f"nbd: revision {revision}: Größe")
        run(folder, "tag", revision)
    return folder


@pytest.mark.parametrize(
    "options", [(), ("--attach",), ("-M", "--patience", "-U8"), ("--no-prefix",)]
)
def test_a_series_of_format_patch_leads_to_the_last_commit(repository, options):
    box = run(repository, "format-patch", "--stdout", "--cover-letter", "-v2", *options, "base..v6")
    series = parse_series(box.encode(), name="series")
    assert [patch.number for patch in series.patches] == [1, 2, 3, 4]
    assert series.cover is not None
    assert series.patches[0].title == "nbd: revision v3: Größe"
    done = apply_series(series, f"git:{repository}@base")
    for step, revision in zip(done.steps, ("v3", "v4", "v5", "v6"), strict=True):
        assert step.applying.skipped == ["blockdev.c"]
        expected = run(repository, "show", f"{revision}:qapi/block-export.json")
        at = step.new.schema.entities["block-export-add"].info
        assert at.path == "qapi/block-export.json"
        start = expected.split("\n").index("{ 'command': 'block-export-add',") + 1
        assert at.line == start
        assert step.notes[1] == run(repository, "show", f"{revision}:docs/about/deprecated.rst")


def test_git_diff_is_reviewed_as_the_commits_are(repository):
    patch = run(repository, "diff", "base", "v5")
    words = ["review", "--no-config", "--release", "5.2", "--format", "json"]
    two = CliRunner().invoke(cli, [*words, f"git:{repository}@base", f"git:{repository}@v5"])
    one = CliRunner().invoke(cli, [*words, "--patch", "-", f"git:{repository}@base"], input=patch)
    assert (two.exit_code, one.exit_code) == (1, 1)
    findings = [
        {(item["rule"], item["element"]) for item in json.loads(result.output)["findings"]}
        for result in (two, one)
    ]
    assert findings[0] == findings[1]
    assert ("leak-through-base", "nbd-server-add.bitmaps") in findings[0]
