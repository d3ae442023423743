"""What is known of other projects' suites: the file, and what the README says of it."""

from pathlib import Path

import pytest

from nbexport.bench.suites import reasons, rows, suites
from nbexport.errors import FormatError

README = Path(__file__).parents[3] / "README.md"


def test_every_difference_has_its_reason():
    for suite in suites():
        assert sum(suite.theirs) == sum(suite.ours), suite.name
        moved = max(abs(one - other) for one, other in zip(suite.theirs, suite.ours, strict=True))
        assert len(suite.differences) >= moved, suite.name


def test_the_readme_has_the_same_numbers():
    text = README.read_text("utf-8")
    for name, what, theirs, ours in rows(suites()):
        assert f"| {name} | {what} | {theirs} | {ours} |" in text


def test_a_difference_is_a_row():
    found = [(test, why) for suite in suites() for test, why in suite.differences]
    assert [row[1:] for row in reasons(suites())] == found


@pytest.mark.parametrize("text", ["suite = 1", "[[suite]]\nname = 'a'", "other = 1", "\0"])
def test_a_file_that_is_no_table_is_refused(text, tmp_path):
    path = tmp_path / "suites.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(FormatError, match="no table of suites"):
        suites(path)
