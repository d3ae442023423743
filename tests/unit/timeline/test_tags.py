import shutil

import pytest

from nbexport.qapi import load_schema
from nbexport.resources import data_path
from nbexport.timeline import Snapshot, check_tags, release_snapshots

ENUM = """
##
# @Kind:
#
# A kind.
#
# @a: one
#
# @b: two{remark}
#
# Since: {since}
##
{{ 'enum': 'Kind', 'data': [ {values} ] }}
"""


def enum(values, *, since="1.0", remark="", name="Kind"):
    text = ENUM.format(values=values, since=since, remark=remark).replace("Kind", name)
    return text if "'b'" in values else text.replace(f"# @b: two{remark}\n#\n", "")


def command(name="Kind", since="1.0"):
    return f"""
##
# @go:
#
# It goes.
#
# @kind: where
#
# Since: {since}
##
{{ 'command': 'go', 'data': {{ 'kind': '{name}' }} }}
"""


def differences(*texts, start=1):
    found = []
    for number, text in enumerate(texts, start):
        schema = load_schema("s.json", read=lambda _, text=text: text)
        found.append(Snapshot(f"{number}.0", schema, (number, 0)))
    return [(str(d.element), d.problem, d.told, str(d.since)) for d in check_tags(found)]


def test_tags_that_are_right_are_not_told():
    assert (
        differences(enum("'a'"), enum("'a', 'b'", remark=" (since 2.0)") + command(since="2.0"))
        == []
    )


def test_a_member_that_joins_an_older_definition_needs_a_remark():
    assert differences(enum("'a'"), enum("'a', 'b'")) == [("Kind=b", "unmarked", "1.0", "2.0")]


def test_a_remark_that_names_too_early_or_too_late_a_release():
    before, none = enum("'a'"), ""
    late = enum("'a', 'b'", remark=" (since 3.0)")
    assert differences(before, late, late) == [("Kind=b", "too-late", "3.0", "2.0")]
    early = enum("'a', 'b'", remark=" (since 2.0)")
    assert differences(before, before, early) == [("Kind=b", "too-early", "2.0", "3.0")]
    assert differences(none, command("str", since="1.0")) == [("go", "too-early", "1.0", "2.0")]


def test_what_came_with_a_wrong_definition_is_not_told_again():
    assert differences("", enum("'a', 'b'")) == [("Kind", "too-early", "1.0", "2.0")]


def test_a_definition_without_a_release():
    text = enum("'a'").replace("#\n# Since: 1.0\n", "")
    assert differences("", text) == [("Kind", "missing", "", "2.0")]


def test_a_younger_name_may_say_so_or_keep_the_older_day():
    old = enum("'a'", name="Sort") + command("Sort")
    for since in ("1.0", "2.0"):
        new = enum("'a'", name="Kind", since=since) + command("Kind")
        assert differences(old, new) == []
    new = enum("'a'", name="Kind", since="3.0") + command("Kind")
    assert differences(old, new) == [("Kind", "too-late", "3.0", "1.0 or before")]


def test_what_the_oldest_schema_has_may_be_older():
    assert differences(enum("'a'", since="0.14"), enum("'a'", since="0.14"), start=5) == []


def test_a_stable_release_of_the_branch_before_is_possible():
    found = differences(enum("'a'"), enum("'a', 'b'", remark=" (since 1.0.2)"))
    assert found == []


def test_the_list_of_threads_would_be_told_if_it_said_10_1(tmp_path):
    shutil.copytree(data_path("interface", "11.0"), tmp_path / "11.0")
    path = tmp_path / "11.0" / "block-export.json"
    text = path.read_text()
    definition = text.index("# @BlockExportIothreads:")
    assert "# Since: 11.0" in text[definition:]
    path.write_text(text[:definition] + text[definition:].replace("Since: 11.0", "Since: 10.1", 1))
    wrong = Snapshot("11.0", load_schema(str(path.with_name("schema.json"))), (11, 0))
    found = {str(d.element): d for d in check_tags([*release_snapshots("10.0", "10.2"), wrong])}
    told = found["BlockExportIothreads"]
    assert (told.problem, told.told, str(told.since)) == ("too-early", "10.1", "11.0")
    assert told.place.startswith(f"{path}:")
    assert "says 10.1, computed 11.0: the release that is named does not have it" in str(told)


@pytest.mark.parametrize("element", ["nbd-server-add", "block-export-add", "BlockExportOptionsNbd"])
def test_the_tags_of_the_exports_are_right(element):
    assert element not in {d.element.owner for d in check_tags(release_snapshots())}


@pytest.mark.parametrize(
    ("remark", "told"),
    [
        (" (since 3.0)", "3.0"),
        (" (Since: 3.0.1)", "3.0.1"),
        (" (default: false; since 3.0)", "3.0"),
        (" (default on, since 3.0; not for all)", "3.0"),
        (" (since 3.0; needed since 4.0)", "3.0"),
        (" (none (never); since 3.0)", None),
        (" (lists since 3.0)", None),
        (". Supported since 3.0.", None),
    ],
)
def test_remarks_in_brackets_stand_behind_other_words_too(remark, told):
    schema = load_schema("s.json", read=lambda _: enum("'a', 'b'", remark=remark))
    assert schema.entities["Kind"].doc.members["b"].since == told


def test_a_remark_may_be_all_that_is_said():
    text = enum("'a', 'b'").replace("# @b: two", "# @b: Since 2.7.")
    schema = load_schema("s.json", read=lambda _: text)
    assert schema.entities["Kind"].doc.members["b"].since == "2.7"
