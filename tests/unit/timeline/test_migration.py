import itertools
from functools import cache

import pytest

from nbexport.errors import FormatError, UsageError
from nbexport.qapi import introspect, known_releases, load_release, parse_release
from nbexport.qapi.findings import ERROR, validate_command
from nbexport.timeline import effective_members
from nbexport.timeline.mapping import chain, migrations, parse_migrations
from nbexport.timeline.migration import plan
from nbexport.timeline.sketch import parameter_name, sketch

ITEMS = [step.item for step in migrations()]
RELEASES = known_releases()


@cache
def members(release, command):
    """Return a command's arguments by name, None where there is no such command."""
    found = effective_members(load_release(release), command)
    return None if found is None else {member.name: member for member in found}


# -- the data, against the schemas ---------------------------------------------------------------


@pytest.mark.parametrize("step", migrations(), ids=lambda step: step.item)
def test_every_name_of_a_mapping_is_in_the_interfaces(step):
    olds = {r: found for r in RELEASES if (found := members(r, step.command)) is not None}
    news = {r: found for r in RELEASES if (found := members(r, step.to)) is not None}
    assert olds
    assert news
    if step.whole is not None:
        assert all(found[step.whole.to].type.startswith("[") for found in news.values())
        return
    # From the release on that has what the step leads to.
    moved = {a.to for a in step.arguments if a.to} | {new.name for new in step.new}
    complete = {r: found for r, found in news.items() if moved <= found.keys()}
    assert complete
    kept = step.command == step.to
    listed = {argument.old for argument in step.arguments}
    for release, found in olds.items():
        if not kept or release not in complete:
            assert found.keys() <= listed, release
    assert listed <= set().union(*olds.values())
    for found in complete.values():
        required = {
            name for name, member in found.items() if not (member.optional or member.branch)
        }
        assert required <= moved
    for argument in step.arguments:
        for old, new in itertools.product(olds.values(), complete.values()):
            if argument.old in old and argument.to:
                was, now = old[argument.old].type, new[argument.to].type
                assert argument.convert(0) == ([0] if argument.form == "list" else 0)
                assert now.startswith(f"[{was}") if argument.form == "list" else now == was


# -- plans ---------------------------------------------------------------------------------------


def test_no_release_has_both_commands_clean():
    found = plan("nbd-server-add", "5.0", "6.1", no_deprecated=True)
    assert [
        (row.release, [s.state for s in row.states], row.choice.title) for row in found.rows
    ] == [
        ("5.0", ["clean", "absent"], "nbd-server-add"),
        ("5.1", ["clean", "absent"], "nbd-server-add"),
        ("5.2", ["deprecated", "clean"], "block-export-add"),
        ("6.0", ["deprecated", "clean"], "block-export-add"),
        ("6.1", ["deprecated", "clean"], "block-export-add"),
    ]
    assert [row.release for row in found.switches] == ["5.2"]
    assert found.both_clean == ()
    assert found.both_work == ("5.2", "6.0", "6.1")
    assert found.gaps == ()
    assert "In no release from 5.0 to 6.1 are two of them clean" in found.sentences()[-1]


def test_the_old_call_is_kept_while_it_works_where_deprecated_ones_are_allowed():
    found = plan("nbd-server-add", "5.0", "11.0")
    assert found.switches == ()
    does, frowned, *_ = found.sentences()
    assert does == "nbd-server-add does all releases from 5.0 to 11.0."
    assert frowned == "That is no clean call in 5.2 to 11.0."


def test_an_argument_that_is_used_decides_which_releases_will_do():
    found = plan("nbd-server-add", "3.1", "5.2", arguments=["bitmap"])
    assert found.gaps == ("3.1",)
    assert str(found.rows[0].states[0]) == "absent: no argument bitmap"
    assert found.ways[1].needs == ("type", "id", "node-name", "bitmaps")


def test_a_replacement_that_was_replaced_is_followed():
    found = plan("x-nbd-server-add-bitmap", "3.0", "5.2", no_deprecated=True)
    assert [step.to for step in found.steps] == ["nbd-server-add", "block-export-add"]
    assert [row.release for row in found.switches] == ["4.0", "5.2"]
    assert found.gaps == ("3.0", "3.1")


def test_an_argument_without_a_counterpart_is_told():
    found = plan("x-nbd-server-add-bitmap", "3.0", "4.0", arguments=["bitmap-export-name"])
    assert "bitmap-export-name has no counterpart: the metadata context" in " ".join(
        found.sentences()
    )


def test_old_and_new_job_commands_are_clean_together_for_years():
    found = plan("block-job-pause", "9.0", "10.1", no_deprecated=True)
    assert found.both_clean == ("9.0", "9.1", "9.2", "10.0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nbd-server-ad", "5.0", "6.1"), "no migration of 'nbd-server-ad' .did you mean nbd-serv"),
        (("nbd-server-add", "6.1", "5.0"), r"release 5\.0 is older than 6\.1"),
        (("nbd-server-add", "5.0", "11.1"), r"of 11\.1 has not been looked at: 11\.0 is newest"),
        (("nbd-server-add", "1.3", "2.4"), r"no interface from 1\.3 to 2\.4"),
        (("zzz", "5.0", "6.1"), "known are nbd-server-add, "),
    ],
)
def test_what_cannot_be_planned_is_told(words, message):
    with pytest.raises(UsageError, match=message):
        plan(*words)


def test_an_argument_that_never_was_is_told():
    with pytest.raises(UsageError, match="nbd-server-add has no argument 'bitmaps'"):
        plan("nbd-server-add", "5.0", "6.1", arguments=["bitmaps"])
    with pytest.raises(UsageError, match="all arguments of x-blockdev-reopen move together"):
        plan("x-blockdev-reopen", "4.0", "6.1", arguments=["driver"])


# -- the generated code --------------------------------------------------------------------------

VALUES = {"str": "b0", "bool": True, "uint32": 65536, "safe|hard": "hard"}


@pytest.fixture(scope="module")
def introspections():
    return {
        release: introspect(load_release(release), release=parse_release(release))
        for release in RELEASES
    }


def run_sketch(made):
    names = {}
    exec(compile(sketch(made), made.item, "exec"), names)
    (function,) = (value for name, value in names.items() if callable(value) and name[0] != "_")
    return function


def argument_sets(step):
    """Give calls of the old command: the required arguments, then with each optional one, all."""
    if step.whole is not None:
        yield {"driver": "null-co", "node-name": "n0"}
        return
    known = {}
    for release in RELEASES:
        known.update(members(release, step.command) or {})
    required = {n for n in known if not known[n].optional or n == step.argument}
    optional = [a.old for a in step.arguments if a.old not in required]
    for more in [(), *((name,) for name in optional), tuple(optional)]:
        yield {name: VALUES[known[name].type] for name in (*required, *more)}


@pytest.mark.parametrize("no_deprecated", [False, True])
@pytest.mark.parametrize("item", ITEMS)
def test_the_code_makes_the_call_of_the_plan_and_each_release_takes_it(
    item, no_deprecated, introspections
):
    steps = chain(item)
    whole = steps[0].whole is not None
    calls = 0
    for arguments in argument_sets(steps[0]):
        used = () if whole else tuple(arguments)
        made = plan(item, RELEASES[0], RELEASES[-1], no_deprecated=no_deprecated, arguments=used)
        asked = {new.name: "n0" for step in steps for new in step.new if new.asked}
        given = (
            {"arguments": arguments}
            if whole
            else {parameter_name(k): v for k, v in (arguments | asked).items()}
        )
        function = run_sketch(made)
        for row in made.rows:
            if row.choice is None:
                with pytest.raises(LookupError, match="no way to do it"):
                    function(introspections[row.release], **given)
                continue
            command = function(introspections[row.release], **given)
            calls += 1
            expected = arguments
            for step in steps[: made.ways.index(row.choice)]:
                expected = step.convert(expected, **asked)
            assert command == {"execute": row.choice.command, "arguments": expected}
            findings = validate_command(
                load_release(row.release), command, release=parse_release(row.release)
            )
            levels = {finding.level for finding in findings}
            assert not levels if no_deprecated else ERROR not in levels
    assert calls


def test_the_id_of_an_export_can_be_chosen(introspections):
    function = run_sketch(plan("nbd-server-add", "5.0", "6.1", no_deprecated=True))
    given = {"device": "/disk 1", "id_": "libvirt-nbd-1"}
    assert function(introspections["6.1"], **given)["arguments"]["id"] == "libvirt-nbd-1"
    assert function(introspections["5.0"], **given)["arguments"] == {"device": "/disk 1"}


def test_code_that_allows_deprecated_calls_keeps_the_old_one(introspections):
    function = run_sketch(plan("nbd-server-add", "5.0", "6.1"))
    assert function(introspections["11.0"], device="d")["execute"] == "nbd-server-add"
    without = [e for e in introspections["11.0"] if e["name"] != "nbd-server-add"]
    assert function(without, device="d")["execute"] == "block-export-add"


# -- converting ----------------------------------------------------------------------------------


def test_arguments_are_converted_and_what_is_missing_is_told():
    (step,) = chain("nbd-server-add")
    assert step.convert({"device": "disk", "bitmap": "b0", "writable": False}) == {
        "type": "nbd",
        "id": "disk",
        "node-name": "disk",
        "writable": False,
        "bitmaps": ["b0"],
    }
    with pytest.raises(UsageError, match="nbd-server-add has no argument 'bitmaps'"):
        step.convert({"device": "disk", "bitmaps": ["b0"]})
    with pytest.raises(
        UsageError, match="block-export-add needs 'id': give it, or one of name, dev"
    ):
        step.convert({})
    older = chain("x-nbd-server-add-bitmap")[0]
    with pytest.raises(UsageError, match="nbd-server-add needs 'device': the device or node"):
        older.convert({"name": "e", "bitmap": "b0"})


ENTRY = """
[[migration]]
item = "old"
to = "new"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "m.toml: not TOML"),
        ("x = 1", "expected a list 'migration' and nothing else"),
        ("[[migration]]\nto = 'new'", "migration number 1: item is missing"),
        ("[[migration]]\nitem = 'a b c'\nto = 'new'", "migration a b c: 'a b c' names no element"),
        (ENTRY, "migration old: has to have either arguments or whole"),
        (ENTRY + "why = 1", "migration old: the entry: unknown field why"),
        (ENTRY + "[migration.arguments]\na = 1", "migration old: arguments.a is no table"),
        (ENTRY + "[migration.arguments]\na = {as = 'x'}", "as 'x' is none of same, list"),
        (
            ENTRY + "[migration.arguments]\na = {to = 'a'}\n[migration.new]\nb = {}",
            "new.b: has to have one of value, of and asked",
        ),
        (
            ENTRY + "[migration.arguments]\na = {to = 'a'}\n[migration.new]\nb = {of = ['c']}",
            "new.b: of names no old argument",
        ),
        ((ENTRY + "[migration.arguments]\na = {to = 'a'}\n") * 2, "migration old: is there twice"),
    ],
)
def test_a_wrong_file_is_told_with_the_entry(text, message):
    with pytest.raises(FormatError) as caught:
        parse_migrations(text, path="m.toml")
    assert message in str(caught.value)
