import datetime as dt
from dataclasses import replace

import numpy as np
import pytest

from nbexport.errors import UsageError
from nbexport.plots import draw_timeline, lifecycle_table, mapping_table, plan_table, tag_table
from nbexport.plots.timetables import dated, introduced_text, window_text
from nbexport.timeline import Timeline, check_tags, release_snapshots
from nbexport.timeline.lifecycle import Lifecycle
from nbexport.timeline.mapping import chain
from nbexport.timeline.migration import plan

ELEMENTS = ["nbd-server-add", "query-events", "x-nbd-server-add-bitmap", "block-export-add"]


@pytest.fixture(scope="module")
def timeline():
    return Timeline(release_snapshots("2.12"))


@pytest.fixture(scope="module")
def lives(timeline):
    return [timeline.of(element) for element in ELEMENTS]


def bars(plot, row):
    """Return the bars of a lane as (first day, day behind the last, colour), left to right."""
    axes = plot.figure.axes[0]
    found = []
    for patch in axes.patches:
        x, y, width, height = patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()
        if y <= row <= y + height and height == pytest.approx(0.26):
            days = [dt.date.fromordinal(round(end)) for end in (x, x + width)]
            found.append((*days, patch.get_facecolor()[:3]))
    return sorted(found, key=lambda bar: bar[0])


def test_a_bar_changes_where_the_element_was_deprecated_and_where_it_could_go(lives):
    use, window, beyond = bars(draw_timeline(lives, first="4.0"), 0)
    assert use[:2] == (dt.date(2019, 4, 23), dt.date(2020, 12, 8))
    assert window[:2] == (dt.date(2020, 12, 8), dt.date(2021, 8, 24))
    assert beyond[:2] == (dt.date(2021, 8, 24), dt.date(2026, 4, 21))
    assert len({use[2], window[2], beyond[2]}) == 3


def test_what_is_not_deprecated_is_one_bar_and_what_is_unknown_is_paler(lives):
    plot = draw_timeline(lives)
    assert [bar[:2] for bar in bars(plot, 3)] == [(dt.date(2020, 12, 8), dt.date(2026, 4, 21))]
    assert [bar[:2] for bar in bars(plot, 2)] == [(dt.date(2018, 8, 14), dt.date(2019, 4, 23))]
    pale, *_ = bars(plot, 1)
    assert pale[1] == dt.date(2019, 4, 23)
    assert pale[2] not in {bar[2] for row in (0, 3) for bar in bars(plot, row)}


def test_what_is_older_than_every_known_release_is_drawn_from_the_beginning(timeline):
    old = timeline.of("query-block")
    assert old.introduced == "0.14"
    plot = draw_timeline([timeline.of("nbd-server-add"), old])
    assert [bar[1] for bar in bars(plot, 1)] == [dt.date(2026, 4, 21)]
    assert "query-block: introduced 0.14" in plot.alt
    with pytest.raises(UsageError, match="no element with a known release"):
        draw_timeline([replace(old, introduced="git:.@main", experimental=None)])


def test_the_colours_are_told_apart_without_colour(lives):
    """In grey print the parts of a bar differ in lightness, or one of them is hatched."""
    plot = draw_timeline(lives)
    parts = [p for p in plot.figure.axes[0].patches if p.get_height() == pytest.approx(0.26)]
    looks = {(round(float(np.dot(p.get_facecolor()[:3], (0.3, 0.59, 0.11))), 1), p.get_hatch())
             for p in parts if p.get_y() < 0.5}  # fmt: skip
    assert len(looks) == 3


def test_the_alternative_text_says_what_the_figure_shows(lives):
    alt = draw_timeline(lives, title="Lives").alt
    assert alt.startswith("Lives, 2017-07-10 to 2026-04-21. ")
    for sentence in (
        (
            "nbd-server-add: introduced 1.3, deprecated 5.2, removal planned for 6.1, "
            "still there in 11.0, deprecated for 17 releases, 1960 days so far."
        ),
        (
            "query-events: introduced earlier, deprecated 4.0, removal planned for 4.2, removed in "
            "6.0, deprecated for 6 releases, 737 days."
        ),
        "x-nbd-server-add-bitmap: introduced 3.0, an experiment, removed in 4.0.",
        "block-export-add: introduced 5.2, still there in 11.0.",
    ):
        assert sentence in alt


def test_the_figure_is_narrow_and_its_text_large_enough(lives):
    plot = draw_timeline(lives, title="Lives")
    width, height = plot.figure.get_size_inches()
    assert width <= 7.2
    assert height < 7
    axes = plot.figure.axes[0]
    sizes = [text.get_fontsize() for text in axes.texts]
    assert min(sizes) >= 8.5
    plot.figure.draw_without_rendering()
    left, right = axes.get_window_extent().x0, axes.get_window_extent().x1
    for text in axes.texts:
        box = text.get_window_extent()
        assert box.x0 >= left - 12
        assert box.x1 <= right + 12
    assert plot.png().startswith(b"\x89PNG")


def test_names_and_fates_do_not_run_into_each_other(timeline):
    long = "query-block result inserted.dirty-bitmaps.status"
    lives = [timeline.of(long), timeline.of("query-block result dirty-bitmaps")]
    plot = draw_timeline([*lives, replace(lives[0], element="x" * 90)])
    plot.figure.draw_without_rendering()
    texts = [text for text in plot.figure.axes[0].texts if text.get_fontsize() > 8.5]
    boxes = [text.get_window_extent() for text in texts]
    for number, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[number + 1 :])


def test_nothing_to_draw_is_told(lives):
    with pytest.raises(UsageError, match="no element with a known release"):
        draw_timeline([])
    with pytest.raises(UsageError, match="no element with a known release"):
        draw_timeline([Lifecycle("a", "command", "some-branch", newest="other")])
    with pytest.raises(UsageError, match="less than a year"):
        draw_timeline(lives, first="10.2")
    with pytest.raises(UsageError, match=r"no release 5\.3"):
        draw_timeline(lives, first="5.3")


# -- tables --------------------------------------------------------------------------------------


def test_lives_as_a_table(lives):
    table = lifecycle_table(lives)
    assert table.header[:5] == ("element", "kind", "introduced", "deprecated", "removed")
    assert [row[0] for row in table.rows] == ELEMENTS
    assert table.rows[0][5:8] == ("6.1", "17 releases, 1960 days so far", "block-export-add")
    assert table.rows[2][3:5] == ("experimental 3.0", "4.0")


def test_words_of_a_life():
    life = Lifecycle("a", "command", "5.2", "at-latest", deprecated="6.0", newest="6.0", window=1)
    assert introduced_text(life) == "5.2 or before"
    assert introduced_text(replace(life, introduced=None)) == "-"
    assert window_text(life) == "1 release so far"
    assert window_text(replace(life, removed="6.1", days=117)) == "1 release, 117 days"
    assert window_text(replace(life, window=None)) == "-"
    assert (dated("5.2"), dated("some-branch"), dated(None)) == (
        "5.2 (2020-12-08)",
        "some-branch",
        "-",
    )


def test_a_plan_and_a_mapping_as_tables():
    table = plan_table(plan("nbd-server-add", "5.1", "5.2", no_deprecated=True))
    assert table.rows == [
        ("5.1", "2020-08-11", "clean", "-", "nbd-server-add", ""),
        ("5.2", "2020-12-08", "deprecated", "clean", "block-export-add", "switch"),
    ]
    rows = mapping_table(chain("nbd-server-add")[0]).rows
    assert ("bitmap: X", "bitmaps: [X]", "") in rows
    assert ("-", 'type: "nbd"', "") in rows
    assert mapping_table(chain("x-blockdev-reopen")[0]).rows == [
        ("all arguments: X", "options: [X]", "")
    ]
    (gone,) = [
        row for row in mapping_table(chain("x-nbd-server-add-bitmap")[0]).rows if row[1] == "-"
    ]
    assert gone[0] == "bitmap-export-name"


def test_wrong_tags_as_a_table():
    rows = tag_table(check_tags(release_snapshots("10.0"))).rows
    assert ("ShutdownCause", "-", "10.0 or before", "no release is named") in rows
