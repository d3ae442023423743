import pytest

from nbexport import qapi
from nbexport.errors import UsageError
from nbexport.timeline.history import availability, effective_members, history


def test_members_are_flattened_in_the_order_of_the_schema():
    members = effective_members(qapi.load_release("5.2"), "nbd-server-add")
    assert [(m.name, str(m)) for m in members] == [
        ("name", "str?"),
        ("description", "str?"),
        ("device", "str"),
        ("writable", "bool?"),
        ("bitmap", "str?"),
    ]


def test_members_of_a_branch_carry_its_tag():
    members = effective_members(qapi.load_release("5.2"), "block-export-add")
    titles = [member.title for member in members]
    assert titles.index("type") < titles.index("bitmaps (type=nbd)")
    assert "addr (type=vhost-user-blk)" in titles


def test_a_changed_type_is_one_member_with_two_forms():
    told = history("block-export-add", ["5.2", "7.2"])
    old, new = told.members["bitmaps (type=nbd)"]
    assert (str(old), str(new)) == ("[str]?", "[str or BlockDirtyBitmap]?")
    assert told.states == ((), ())


def test_a_command_without_arguments_and_one_that_is_deprecated():
    assert history("nbd-server-stop", ["7.2"]).members == {}
    assert history("nbd-server-add", ["5.2"]).states == (("deprecated",),)


def test_what_does_not_exist_or_has_no_members_is_refused():
    with pytest.raises(UsageError, match=r"no element 'none' in releases 5\.2, 7\.2"):
        history("none", ["5.2", "7.2"])
    with pytest.raises(UsageError, match="has no members"):
        effective_members(qapi.load_release("7.2"), "BlockExportType")
    assert effective_members(qapi.load_release("7.2"), "none") is None


def test_what_releases_have_of_a_command_or_an_argument():
    releases = ["2.9", "3.1", "4.0", "5.2", "11.0"]
    assert availability("x-nbd-server-add-bitmap", releases) == ("", "yes", "", "", "")
    assert availability("nbd-server-add bitmap", releases) == (
        *("", "", "yes", "deprecated", "deprecated"),
    )
    assert availability("block-export-add bitmaps", releases) == ("", "", "", "yes", "yes")
    assert availability("block-export-add none", ["5.2"]) == ("",)
