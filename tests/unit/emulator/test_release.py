import pytest

from nbexport.emulator import Release
from nbexport.errors import UsageError


@pytest.mark.parametrize(
    ("text", "version"),
    [("5.2", (5, 2, 0)), ("5.2.0", (5, 2, 0)), ("7.2", (7, 2, 22)), ("7.2.14", (7, 2, 14))],
)
def test_a_release_is_named_by_its_number(text, version):
    assert Release.parse(text).version == version


@pytest.mark.parametrize(
    "text", ["", "7", "7.2.", "7.2.23", "7.2.1.1", "2.11", "5.2.1", "x", "-1.2", "11.9"]
)
def test_other_releases_are_refused_and_the_known_ones_listed(text):
    with pytest.raises(UsageError, match=r"known: 2\.12, 3\.0, |its branch ends with"):
        Release.parse(text)


@pytest.mark.parametrize(
    ("text", "limit", "seconds", "event_first", "by_limit"),
    [
        ("5.2", 0, 0.0, False, False),
        ("7.2.0", 0, 0.0, False, True),
        ("7.2.8", 0, 0.0, False, True),
        ("7.2.9", 0, 0.0, True, True),
        ("7.2.13", 0, 0.0, True, True),
        ("7.2.14", 100, 10.0, True, True),
        ("7.2", 100, 10.0, True, True),
    ],
)
def test_behaviour_follows_the_release(text, limit, seconds, event_first, by_limit):
    release = Release.parse(text)
    assert release.max_connections == limit
    assert release.handshake_seconds == seconds
    assert release.deletes_before_reply is event_first
    assert release.multi_conn_by_limit is by_limit


def test_a_fix_of_a_stable_branch_is_not_in_the_next_main_release():
    # 8.0.0 came after 7.2.0, but before the fixes that 7.2.9 and 7.2.14 carry.
    later = Release((8, 0, 0))
    assert not later.deletes_before_reply
    assert later.max_connections == 0
    assert Release((9, 1, 0)).max_connections == 100
    assert Release((9, 0, 2)).max_connections == 0
    assert Release((9, 0, 3)).max_connections == 100
