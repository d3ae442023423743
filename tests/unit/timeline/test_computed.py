"""When pieces came: on small schemas, then on those of the releases."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbexport.errors import UsageError
from nbexport.qapi import introspect, load_release, load_schema
from nbexport.qapi.from_introspection import from_introspection
from nbexport.timeline import (
    Snapshot,
    check_tags,
    computed_since,
    parse_element,
    release_snapshots,
)
from nbexport.timeline.elements import find_element, pieces

PRAGMA = "{ 'pragma': { 'doc-required': false } }\n"


def snapshots(*texts, releases=None):
    """Return schemas of releases 1.0, 2.0 and so on from their texts."""
    found = []
    for number, text in enumerate(texts, 1):
        release = (releases[number - 1], 0) if releases else (number, 0)
        schema = load_schema("s.json", read=lambda _, text=text: PRAGMA + text)
        found.append(Snapshot(f"{release[0]}.0", schema, release))
    return found


def since(found, text):
    return str(computed_since(found)[parse_element(text)])


COMMAND = "{ 'command': 'go', 'data': 'Args', 'boxed': true }\n"


@pytest.mark.parametrize(
    ("texts", "dates"),
    [
        pytest.param(
            [
                "{ 'command': 'go', 'data': { 'a': 'str' } }",
                "{ 'command': 'go', 'data': { 'a': 'str', '*b': 'str' } }",
            ],
            {"go": "1.0 or before", "go a": "1.0 or before", "go b": "2.0"},
            id="a member is added",
        ),
        pytest.param(
            [
                "{ 'struct': 'Old', 'data': { 'a': 'str' } }{ 'command': 'go', 'data': 'Old' }",
                (
                    "{ 'struct': 'New', 'data': { 'a': 'str', 'b': 'int' } }"
                    "{ 'command': 'go', 'data': 'New' }"
                ),
            ],
            {"New": "1.0 or before", "New a": "1.0 or before", "New b": "2.0"},
            id="a type is renamed",
        ),
        pytest.param(
            [
                "{ 'command': 'go', 'data': { 'a': 'str' } }",
                "{ 'struct': 'Base', 'data': { 'a': 'str' } }"
                "{ 'struct': 'Args', 'base': 'Base', 'data': { 'b': 'str' } }" + COMMAND,
            ],
            {
                "Args": "1.0 or before",
                "Base": "1.0 or before",
                "Base a": "1.0 or before",
                "Args b": "2.0",
                "go a": "1.0 or before",
            },
            id="inline arguments become a type with a base",
        ),
        pytest.param(
            [
                "{ 'enum': 'Kind', 'data': [ 'x' ] }{ 'command': 'go', 'data': { 'k': 'Kind' } }",
                (
                    "{ 'enum': 'Sort', 'data': [ 'y', 'x' ] }"
                    "{ 'command': 'go', 'data': { 'k': 'Sort' } }"
                ),
            ],
            {"Sort=x": "1.0 or before", "Sort=y": "2.0"},
            id="an enumeration is renamed and grows",
        ),
        pytest.param(
            [
                (
                    "{ 'struct': 'One', 'data': { 'a': 'str' } }"
                    "{ 'command': 'go', 'data': { 'v': 'One' } }"
                ),
                (
                    "{ 'struct': 'Each', 'data': { 'a': 'str' } }"
                    "{ 'command': 'go', 'data': { 'v': [ 'Each' ] } }"
                ),
                (
                    "{ 'struct': 'Every', 'data': { 'a': 'str' } }"
                    "{ 'alternate': 'Some', 'data': { 'n': 'str', 'm': 'Every' } }"
                    "{ 'command': 'go', 'data': { 'v': [ 'Some' ] } }"
                ),
            ],
            {"Every": "1.0 or before", "Every a": "1.0 or before", "Some": "3.0"},
            id="a member becomes a list, then a list of choices",
        ),
        pytest.param(
            [
                "{ 'enum': 'Tag', 'data': [ 'p', 'q' ] }"
                "{ 'struct': 'Pa', 'data': { 'a': 'str' } }"
                "{ 'union': 'Args', 'base': { 't': 'Tag' }, 'discriminator': 't',"
                "  'data': { 'p': 'Pa' } }" + COMMAND,
                "{ 'enum': 'Tag', 'data': [ 'p', 'q' ] }"
                "{ 'struct': 'Pa', 'data': { 'b': 'str' } }"
                "{ 'struct': 'Qa', 'data': { 'c': 'str' } }"
                "{ 'union': 'Args', 'base': { 't': 'Tag', '*a': 'str' }, 'discriminator': 't',"
                "  'data': { 'p': 'Pa', 'q': 'Qa' } }" + COMMAND,
            ],
            {
                "Args a": "1.0 or before",
                "Pa b": "2.0",
                "Qa": "2.0",
                "Qa c": "2.0",
                "go a": "1.0 or before",
            },
            id="a member moves from a branch to all of them",
        ),
        pytest.param(
            [
                "{ 'command': 'go' }",
                "{ 'command': 'stay' }",
                "{ 'command': 'go' }",
            ],
            {"go": "3.0"},
            id="what was gone counts from its return",
        ),
        pytest.param(
            [
                "{ 'command': 'go', 'data': { 'a': 'str' } }",
                (
                    "{ 'command': 'go', 'features': [ 'deprecated' ],"
                    "  'data': { 'a': { 'type': 'str', 'features': [ 'unstable' ] } } }"
                ),
            ],
            {"go:deprecated": "2.0", "go a:unstable": "2.0", "go": "1.0 or before"},
            id="features have dates of their own",
        ),
        pytest.param(
            [
                (
                    "{ 'command': 'ask', 'returns': 'Res' }"
                    "{ 'struct': 'Res', 'data': { 'x': 'int' } }"
                ),
                (
                    "{ 'command': 'ask', 'returns': [ 'Res' ] }"
                    "{ 'struct': 'Res', 'data': { 'x': 'int', 'y': 'int' } }"
                ),
            ],
            {"ask result x": "1.0 or before", "ask result y": "2.0", "Res y": "2.0"},
            id="results",
        ),
    ],
)
def test_pieces_keep_their_date_through_refactoring(texts, dates):
    found = snapshots(*texts)
    assert {name: since(found, name) for name in dates} == dates


def test_a_gap_leaves_a_range_and_what_is_old_has_no_lower_end():
    found = snapshots(
        "{ 'command': 'go' }",
        "{ 'command': 'go', 'data': { '*a': 'str' } }",
        releases=[3, 7],
    )
    dates = computed_since(found)
    new, old = dates[parse_element("go a")], dates[parse_element("go")]
    assert [new.allows(text) for text in ("2.9", "3.0", "3.0.1", "5.1", "7.0", "7.0.3", "7.1")] == [
        *(False, False, True, True, True, True, False),
    ]
    assert [old.allows(text) for text in ("0.14", "3.0", "3.1", "soon")] == [
        *(True, True, False, False),
    ]
    unknown = Snapshot("a", found[0].schema), Snapshot("b", found[1].schema)
    assert computed_since(unknown)[parse_element("go a")].allows("1.0") is None


def test_no_schema_has_no_dates():
    with pytest.raises(UsageError, match="no schema to date anything by"):
        computed_since([])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.frozensets(st.sampled_from("abcdef"), min_size=1),  # the members
            st.frozensets(st.sampled_from("abcdef")),  # those that stand in a base
            st.booleans(),  # whether the types have other names than before
        ),
        min_size=1,
        max_size=6,
    )
)
def test_dates_do_not_depend_on_names_and_bases(history):
    texts = []
    suffix = 0
    for members, based, renamed in history:
        suffix += renamed
        own = ", ".join(f"'*{name}': 'str'" for name in sorted(members - based))
        base = ", ".join(f"'*{name}': 'str'" for name in sorted(members & based))
        texts.append(
            f"{{ 'struct': 'Base{suffix}', 'data': {{ {base} }} }}\n"
            f"{{ 'struct': 'Args{suffix}', 'base': 'Base{suffix}', 'data': {{ {own} }} }}\n"
            f"{{ 'command': 'go', 'data': 'Args{suffix}' }}\n"
        )
    found = snapshots(*texts)
    dates = computed_since(found)
    members, based, _ = history[-1]
    for name in members:
        first = len(history)
        while first > 1 and name in history[first - 2][0]:
            first -= 1
        owner = f"{'Base' if name in based else 'Args'}{suffix}"
        for text in (f"go {name}", f"{owner} {name}"):
            assert dates[parse_element(text)].first.name == f"{first}.0"


# -- the releases --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released():
    return release_snapshots()


@pytest.fixture(scope="module")
def dates(released):
    return computed_since(released)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nbd-server-add", "2.5 or before"),
        ("nbd-server-add name", "2.12"),
        ("nbd-server-add bitmap", "4.0"),
        ("nbd-server-add description", "5.0"),
        ("nbd-server-add:deprecated", "5.2"),
        ("block-export-add", "5.2"),
        ("BlockExportType=fuse", "6.0"),
        ("BlockExportType=vduse-blk", "7.1"),
        ("BlockExportIothreads", "11.0"),
        ("BlockDirtyBitmapOrStr", "4.1"),
        ("BlockExportRemoveMode", "2.12"),
        ("nbd-server-start handshake-max-seconds", "10.0"),
        ("block-dirty-bitmap-merge", "4.0"),
        ("query-block-exports result id", "5.2"),
    ],
)
def test_dates_of_the_family(dates, text, expected):
    assert str(dates[parse_element(text)]) == expected


def test_every_argument_counts_from_the_release_that_introspection_shows_it_in(released, dates):
    """The same question asked without the walk: which release has it first, in one run."""
    newest = released[-1].schema
    checked = 0
    for call in [*newest.commands(), *newest.events()]:
        for part in [parse_element(call.name), *pieces(newest, call.name)]:
            present = [find_element(snapshot.schema, part) is not None for snapshot in released]
            first = len(present) - present[::-1].index(False) if False in present else 0
            assert dates[part].first is released[first], part
            checked += 1
    assert checked > 300


def test_introspections_give_the_same_dates_of_what_is_on_the_wire(released, dates):
    seen = [
        Snapshot(s.name, from_introspection(introspect(s.schema, release=s.release)), s.release)
        for s in released[-8:]
    ]
    found = computed_since(seen)
    newest = released[-1].schema
    oldest = seen[0].name
    for call in newest.commands():
        for part in [parse_element(call.name), *pieces(newest, call.name)]:
            told = dates[part]
            told = str(told) if told.first.release > seen[0].release else f"{oldest} or before"
            assert str(found[part]) == told, part
    assert check_tags(seen) == []


def test_a_range_of_releases():
    assert [s.name for s in release_snapshots("5.1", "6.0.1")] == ["5.1", "5.2", "6.0"]
    assert release_snapshots("11.0")[0].schema is load_release("11.0")
    with pytest.raises(UsageError, match=r"no interface from 1\.0 to 2\.0: known are 2\.5 to 11"):
        release_snapshots("1.0", "2.0")
    with pytest.raises(UsageError, match="soon"):
        release_snapshots("soon")
