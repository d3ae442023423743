from pathlib import Path

import pytest

from nbexport.cli.dropin import comparison
from nbexport.errors import UsageError


def test_the_page_of_options_is_up_to_date():
    page = Path(comparison.__file__).with_name("OPTIONS.md")
    assert page.read_text() == comparison.page(), "python -m nbexport.cli.dropin.comparison"


@pytest.mark.parametrize("command", comparison.COMMANDS, ids=lambda each: each.name)
def test_every_option_has_a_verdict_and_a_reason_unless_it_is_the_same(command):
    told = comparison.rows(command)
    assert len(told) == len(command.options)
    assert len({word for word, _, _ in told}) == len(told)
    for word, verdict, note in told:
        assert note or verdict == comparison.SAME, word


def test_a_command_is_found_by_either_name():
    assert comparison.find("qemu-nbd") is comparison.find("nbexport-nbd")
    with pytest.raises(UsageError, match="unknown command 'qemu'"):
        comparison.find("qemu")


def test_the_readme_counts_the_options():
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    for name, _, *numbers in comparison.counts():
        line = next(line for line in readme.splitlines() if line.startswith(f"| `{name}` |"))
        assert [cell.strip() for cell in line.strip("|").split("|")][2:] == numbers
