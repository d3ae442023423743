import pytest

from nbexport.bits import Extents
from nbexport.emulator import StepAnswer
from nbexport.errors import UsageError
from nbexport.plots import (
    Table,
    answer_table,
    availability_table,
    bitmap_table,
    comparison_table,
    history_table,
    map_table,
    window,
)
from nbexport.timeline.history import EffectiveMember, History

BITMAP = "qemu:dirty-bitmap:b0"


def test_columns_are_aligned_and_html_is_escaped():
    table = Table(("name", "n"), [("<b>", "1"), ("longer", "22")])
    assert str(table) == "name    n\n<b>     1\nlonger  22"
    assert "<td>&lt;b&gt;</td>" in table._repr_html_()


def test_bitmaps_are_listed_oldest_first_with_their_state():
    nodes = [
        {
            "node-name": "n",
            "dirty-bitmaps": [
                {"name": "new", "granularity": 4096, "count": 0, "busy": True},
                {"name": "old", "granularity": 65536, "count": 131072, "recording": True},
            ],
        }
    ]
    assert bitmap_table(nodes, "n").rows == [
        ("old", "64 KiB", "128 KiB", "recording"),
        ("new", "4 KiB", "0 B", "busy"),
    ]
    with pytest.raises(UsageError, match="'m'"):
        bitmap_table(nodes, "m")


def test_a_map_is_summed_up_in_words():
    maps = {"base:allocation": Extents.from_lengths([1024, 512], [0, 3])}
    assert map_table(maps).rows == [("base:allocation", "2", "1 KiB data, 512 B hole,zero")]


@pytest.mark.parametrize(
    ("lengths", "flags", "expected"),
    [
        ([100], [0], (0, 100)),
        ([100], [1], (0, 100)),
        ([10 << 20, 4096, 10 << 20], [0, 1, 0], ((10 << 20) + 2048 - (1 << 17), None)),
        ([4096, 10 << 20], [1, 0], (0, 1 << 18)),
        ([10 << 20, 4096], [0, 1], ((10 << 20) + 4096 - (1 << 18), (10 << 20) + 4096)),
    ],
)
def test_a_window_lies_around_the_first_change_and_inside_the_disk(lengths, flags, expected):
    start, end = window({BITMAP: Extents.from_lengths(lengths, flags)}, BITMAP)
    assert start == expected[0]
    assert end == (expected[1] if expected[1] is not None else start + (1 << 18))


def test_a_window_of_a_missing_context_is_refused():
    with pytest.raises(UsageError, match="no map of 'x'"):
        window({}, "x")


def test_releases_without_a_difference_share_a_column():
    member = EffectiveMember("name", "str", optional=True)
    dated = EffectiveMember("name", "str", optional=True, features=("deprecated",))
    told = History(
        "call",
        ("1.0", "1.1", "2.0", "3.0"),
        (None, None, (), ("deprecated",)),
        {"name": (None, None, member, dated), "new": (None, None, None, member)},
    )
    table = history_table(told)
    assert table.header == ("", "1.0 to 1.1", "2.0", "3.0")
    assert table.rows == [
        ("call", "absent", "present", "deprecated"),
        ("name", "", "str?", "str?, deprecated"),
        ("new", "", "-", "str?"),
    ]


def test_availability_joins_neighbours_that_are_alike():
    found = {"old": ("yes", "yes", "deprecated"), "new": ("", "", "yes")}
    table = availability_table(found, ["5.0", "5.1", "5.2"])
    assert list(table.header) == ["", "5.0 to 5.1", "5.2"]
    assert [tuple(row) for row in table.rows] == [
        ("old", "yes", "deprecated"),
        ("new", "-", "yes"),
    ]


def answer(result, *, before=(), after=()):
    events = [tuple({"event": name, "data": {"id": "e"}} for name in some)
              for some in (before, after)]  # fmt: skip
    return StepAnswer("some-command", result, *events)


REFUSED = {"error": {"class": "GenericError", "desc": "No <such> thing"}}
UNKNOWN = {"error": {"class": "CommandNotFound", "desc": "Not found"}}


def test_answers_are_told_with_their_events():
    table = answer_table(
        {
            "one": answer({"return": {}}, before=["GONE"], after=["SEEN"]),
            "two": answer({"return": [1, {"a": "b"}]}),
            "three": answer(REFUSED),
            "four": answer(UNKNOWN),
        }
    )
    assert [row[2:] for row in table.rows] == [
        ("\N{CHECK MARK}", 'GONE {"id": "e"} before the reply; SEEN {"id": "e"} after the reply'),
        ('[1, {"a": "b"}]', ""),
        ("No <such> thing", ""),
        ("CommandNotFound: Not found", ""),
    ]
    assert "No &lt;such&gt; thing" in table._repr_html_()


def test_monitors_that_answer_alike_share_a_column():
    done, late = answer({"return": {}}), answer({"return": {}}, after=["GONE"])
    table = comparison_table(
        {"1.0": {"x": answer(UNKNOWN)}, "1.1": {"x": done}, "1.2": {"x": done}, "1.3": {"x": late}}
    )
    assert list(table.header) == ["", "1.0", "1.1 to 1.2", "1.3"]
    tick = "\N{CHECK MARK}"
    assert table.rows == [("x", "CommandNotFound: Not found", tick, f"{tick}, GONE")]
    assert comparison_table({}).rows == []
