"""Findings of reviews as tables and as a figure."""

from __future__ import annotations

import re

import pytest

from nbexport.errors import UsageError
from nbexport.plots import draw_revisions, findings_table, revisions_table
from nbexport.review.run import Settings, review_sources


@pytest.fixture(scope="module")
def reviews():
    settings = Settings(release="5.2")
    return {
        name: review_sources("multiple-bitmaps/base", f"multiple-bitmaps/{name}", settings)
        for name in ("v5", "v6")
    }


def test_a_table_has_the_findings_of_a_level_and_above(reviews):
    found = reviews["v5"].findings
    assert {row[0] for row in findings_table(found).rows} == {"risky", "notice"}
    assert {row[0] for row in findings_table(found, least="risky").rows} == {"risky"}
    assert len(findings_table(found, least="info").rows) == len(found)
    assert re.fullmatch(r"block-export\.json:\d+", findings_table(found).rows[0][2])
    with pytest.raises(UsageError, match="no level 'bad': info, notice, risky, breaking"):
        findings_table(found, least="bad")


def test_revisions_stand_beside_each_other(reviews):
    table = revisions_table(reviews)
    assert list(table.header) == ["rule", "element", "v5", "v6"]
    rows = {tuple(row[:2]): tuple(row[2:]) for row in table.rows}
    assert rows["leak-through-base", "nbd-server-add.bitmaps"] == ("risky", "-")
    assert rows["replacement-not-shipped", "nbd-server-add"] == ("risky", "risky")


def test_the_figure_has_a_field_for_each_finding_of_each_revision(reviews):
    plot = draw_revisions(reviews, title="Revisions")
    (axes,) = plot.figure.axes
    table = revisions_table(reviews)
    filled = [
        (int(patch.get_x()), int(patch.get_y()))
        for patch in axes.patches
        if patch.get_facecolor()[:3] != (1, 1, 1)
    ]
    expected = [
        (column, line)
        for line, row in enumerate(table.rows)
        for column, cell in enumerate(row[2:])
        if cell != "-"
    ]
    assert filled == expected
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{row[0]}\n{row[1]}" for row in table.rows]
    assert plot.png().startswith(b"\x89PNG")


def test_the_figure_is_told_in_words(reviews):
    alt = draw_revisions(reviews, title="Revisions").alt
    counts = [sum(row[2 + n] != "-" for row in revisions_table(reviews).rows) for n in (0, 1)]
    assert alt.startswith(f"Revisions. v5: {counts[0]} findings; v6: {counts[1]} findings.")
    rid = alt.partition("Not in v6: ")[2]
    assert "leak-through-base" in rid
    # of what the last one has as well it is not rid
    assert "replacement-not-shipped" not in rid


def test_what_has_no_findings_is_drawn_as_well():
    review = review_sources("release:7.2", "release:7.2")
    plot = draw_revisions({"same": review})
    assert plot.alt == "Findings by revision. same: 0 findings."
    assert plot.png()
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_revisions({})
