"""By which release's rules a source is read."""

from __future__ import annotations

import subprocess

import pytest

from nbexport.errors import UsageError
from nbexport.qapi import QapiError
from nbexport.sources import load
from nbexport.sources.load import release_of_tree

SIMPLE = """
{ 'struct': 'Ss', 'data': { 'a': { 'type': 'int', 'if': 'defined(A)' } } }
{ 'union': 'Uu', 'data': { 'one': 'Ss' } }
"""


@pytest.fixture
def tree(tmp_path):
    """A tree laid out as QEMU's."""
    (tmp_path / "qapi").mkdir()
    (tmp_path / "qapi" / "qapi-schema.json").write_text(SIMPLE)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("7.2.0\n", (7, 2, 0)),
        ("7.2.22", (7, 2, 22)),
        ("7.1.92", (7, 2)),
        ("7.2.50", (8, 0)),
        ("2.11.93", (2, 12)),
        ("2.12.50", (3, 0)),
        ("3.1.50", (4, 0)),
        ("3.0.90", (3, 1)),
        ("2.4.0", None),
        ("2.4.90", (2, 5)),
        ("seven", None),
        ("", None),
    ],
)
def test_versions(text, release):
    assert release_of_tree(text) == release


def test_a_file_alone_is_read_by_the_newest_rules(tree):
    with pytest.raises(QapiError, match="is not a valid identifier"):
        load(str(tree))


def test_the_version_of_the_tree_decides(tree):
    (tree / "VERSION").write_text("5.2.0\n")
    for source in (tree, tree / "qapi", tree / "qapi" / "qapi-schema.json"):
        found = load(str(source))
        assert found.release == (5, 2, 0)
        assert found.schema.find_type("Uu").simple
    (tree / "VERSION").write_text("6.1.50\n")
    with pytest.raises(QapiError):
        load(str(tree))


def test_what_is_asked_for_comes_first(tree):
    (tree / "VERSION").write_text("7.2.0\n")
    found = load(str(tree), as_of=(6, 1), defines=["A"])
    assert found.release == (6, 1)
    assert found.schema.symbols == {"A"}


def test_a_revision_has_its_own_version(tree):
    def git(*words):
        command = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@y", *words]
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    git("init", "-q")
    (tree / "VERSION").write_text("5.2.0\n")
    git("add", "-A")
    git("commit", "-qm", "old")
    (tree / "VERSION").write_text("8.0.0\n")
    git("commit", "-qam", "new")
    assert load(f"git:{tree}@HEAD^").release == (5, 2, 0)
    with pytest.raises(QapiError):
        load(f"git:{tree}@HEAD")
    assert load(f"git:{tree}@HEAD", as_of=(5, 2)).release == (5, 2)


def test_only_text_has_rules(tmp_path):
    saved = tmp_path / "saved.json"
    saved.write_text('[{"name": "a", "meta-type": "command", "arg-type": "0", "ret-type": "0"}]')
    for source in (str(saved), "qmp:localhost:1"):
        with pytest.raises(UsageError, match="no release's rules apply"):
            load(source, as_of=(7, 2))
    with pytest.raises(UsageError, match="by the newest rules"):
        load("release:7.2", as_of=(7, 2))
