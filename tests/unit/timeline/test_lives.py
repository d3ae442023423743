import pytest

from nbexport.errors import UsageError
from nbexport.timeline import Timeline, parse_element, release_snapshots
from nbexport.timeline.releases import between, deprecations, earliest_removal


@pytest.fixture(scope="module")
def timeline():
    return Timeline(release_snapshots())


@pytest.fixture(scope="module")
def everything(timeline):
    return {life.element: life for life in timeline.all()}


def test_a_command_that_was_to_go_and_is_still_there(timeline):
    life = timeline.of("nbd-server-add")
    assert (life.introduced, life.basis) == ("1.3", "documented")
    assert (life.deprecated, life.earliest, life.removed) == ("5.2", "6.1", None)
    assert (life.window, life.days) == (17, 1960)  # 2020-12-08 to 2026-04-21
    assert (life.replacement, life.replaced_since) == ("block-export-add", "5.2")
    assert life.verdict == "still there in 11.0, 14 releases after 6.1"
    assert [(change.release, change.text) for change in life.changes] == [
        ("2.12", "+ name: str, optional"),
        ("4.0", "+ bitmap: str, optional"),
        ("5.0", "+ description: str, optional"),
        ("5.2", "now deprecated"),
        ("7.1", "now allow-preconfig"),
    ]


def test_an_argument_is_deprecated_with_its_command(timeline):
    life = timeline.of("nbd-server-add.bitmap")
    assert (life.kind, life.introduced, life.deprecated) == ("argument", "4.0", "5.2")
    assert life.note == "deprecated with nbd-server-add"


def test_a_changed_type_is_a_change_and_no_new_member(timeline):
    life = timeline.of("block-export-add iothread")
    assert (life.introduced, life.basis) == ("5.2", "computed")
    assert [(c.release, c.text) for c in life.changes] == [("11.0", "str -> str or [str]")]


def test_a_type_that_only_got_another_name_did_not_change(timeline):
    assert timeline.of("nbd-server-start addr").changes == ()


@pytest.mark.parametrize(
    ("element", "deprecated", "flagged", "removed", "verdict"),
    [
        ("block-dirty-bitmap-add autoload", "2.12", None, "4.2",
         "removed in 4.2, 3 releases after 3.1"),
        ("query-block result dirty-bitmaps", "4.2", "5.0", "6.0",
         "removed in 6.0, 2 releases after 5.1"),
        ("qemu-img convert -n -o", "4.2", None, "5.1",
         "removed in 5.1, as early as the policy allows"),
        ("x-nbd-server-add-bitmap", None, None, "4.0", "an experiment, which no policy protects"),
        ("block-job-pause", "10.1", None, None,
         "still there in 11.0, the first that may remove it"),
        ("migrate detach", "10.1", None, None, "no longer listed in 11.0"),
        ("block-export-add", None, None, None, ""),
        ("RunState=preconfig", None, None, "6.0", "removed without a deprecation"),
    ],
)  # fmt: skip
def test_fates(timeline, element, deprecated, flagged, removed, verdict):
    life = timeline.of(element)
    assert (life.deprecated, life.flagged, life.removed) == (deprecated, flagged, removed)
    assert life.verdict == verdict


def test_a_default_that_changed_is_told_with_the_stable_releases(timeline):
    (life,) = [life for life in timeline.find("nbd-server-start") if life.kind == "behaviour"]
    assert life.introduced == "9.1"
    assert "max-connections is 100 by default" in life.element
    assert life.note == "in stable releases too: 7.2.14, 8.2.7, 9.0.3"


def test_an_older_view_knows_nothing_of_later_releases():
    life = Timeline(release_snapshots(last="6.0")).of("nbd-server-add")
    assert life.verdict == "may be removed from 6.1 on"
    assert (life.window, life.newest) == (2, "6.0")
    assert Timeline(release_snapshots(last="5.1")).of("nbd-server-add").deprecated is None


def test_another_policy_plans_another_release():
    life = Timeline(release_snapshots(), policy_window=4).of("nbd-server-add")
    assert life.earliest == "7.0"
    assert life.verdict == "still there in 11.0, 12 releases after 7.0"


def test_the_list_of_deprecations_agrees_with_the_schemas(timeline):
    """Where the package has the interface, what the list says can be seen in it."""
    seen = 0
    for entry in deprecations():
        life = timeline.of(entry.item)
        if life.last_seen is None:
            continue
        seen += 1
        assert life.removed == entry.removed, entry.item
        if entry.deprecated is not None and entry.flagged is not None:
            assert life.flagged == entry.flagged, entry.item
    assert seen > 15


def test_everything_is_told_once_and_whole(everything, timeline):
    newest = timeline.snapshots[-1].schema
    for call in [*newest.commands(), *newest.events()]:
        assert call.name in everything
    assert everything["x-nbd-server-add-bitmap"].removed == "4.0"
    assert everything["block-dirty-bitmap-add autoload"].removed == "4.2"
    assert everything["BlockExportType=fuse"].introduced == "6.0"
    assert "qemu-nbd --partition" in everything
    assert len(everything) > 1000
    for element, life in everything.items():
        if life.last_seen is not None and life.kind != "behaviour":
            assert str(parse_element(element)) == element


def test_an_unknown_element_is_told_with_names_alike(timeline):
    with pytest.raises(UsageError, match=r"no element 'nbd-server-ad' in 2\.5 to 11\.0 .did you m"):
        timeline.of("nbd-server-ad")
    with pytest.raises(UsageError, match=r"did you mean nbd-server-add bitmap"):
        timeline.of("nbd-server-add.bitmaps")
    with pytest.raises(UsageError, match="names no element"):
        timeline.of("a b c d")


def test_schemas_come_oldest_first():
    with pytest.raises(UsageError, match=r"5\.0 is older than 5\.1: oldest first, please"):
        Timeline(release_snapshots("5.0", "5.1")[::-1])


def test_releases_between_and_the_window():
    assert [entry.name for entry in between("5.2", "6.1")] == ["5.2", "6.0"]
    assert earliest_removal("5.2", window=1).name == "6.0"
    assert earliest_removal("5.2", window=99) is None
    with pytest.raises(UsageError, match="a window of 0 releases"):
        earliest_removal("5.2", window=0)


def test_json_has_days_and_nothing_empty(timeline):
    shown = timeline.of("nbd-server-add").as_json()
    assert shown["dates"] == {
        "introduced": "2012-12-03",
        "deprecated": "2020-12-08",
        "earliest": "2021-08-24",
    }
    assert "removed" not in shown
    assert shown["verdict"].startswith("still there")
