"""A schema from introspection, and back."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbexport.errors import CommandError
from nbexport.qapi import QapiError, introspect, known_releases, load_release, load_schema, validate
from nbexport.qapi.from_introspection import MAX_BRANCHING, from_introspection, is_introspection


def load(text, symbols=None):
    # by these rules a command's arguments can be conditional without a type of their own
    return load_schema("s.json", read=lambda _path: text, symbols=symbols, as_of=(7, 2))


def renumbered(entries):
    """The list with its numbers replaced by the order in which they first occur."""
    numbers = {}

    def new(name):
        if name.startswith("["):
            return f"[{new(name[1:-1])}]"
        return numbers.setdefault(name, f"#{len(numbers)}") if name.isdecimal() else name

    result = []
    for entry in entries:
        shown = dict(entry)
        if entry["meta-type"] not in ("command", "event"):
            shown["name"] = new(entry["name"])
        for key in ("arg-type", "ret-type", "element-type"):
            if key in shown:
                shown[key] = new(shown[key])
        for key in ("members", "variants"):
            if key in shown:
                shown[key] = [
                    {**part, "type": new(part["type"])} if "type" in part else part
                    for part in shown[key]
                ]
        if shown.get("features") == []:
            del shown["features"]
        result.append(shown)
    return sorted(result, key=lambda item: (item["meta-type"], item["name"]))


@pytest.mark.parametrize("release", known_releases())
@pytest.mark.parametrize("unmask", [False, True])
@pytest.mark.parametrize("form", [(5, 2), (7, 2)])
def test_every_interface_survives_the_way_back(release, unmask, form):
    once = introspect(load_release(release), release=form, unmask=unmask)
    again = introspect(from_introspection(once), release=form, unmask=unmask)
    assert renumbered(again) == renumbered(once)
    calls = [entry["name"] for entry in once if entry["meta-type"] in ("command", "event")]
    assert [entry["name"] for entry in again][: len(calls)] == calls


_NAMES = [f"Tt{number}" for number in range(6)]
_BUILTIN = ["str", "int", "uint32", "number", "bool", "any", "null"]


@st.composite
def schemas(draw):
    """Schema texts with structs, enums, a union and an alternate that refer to each other."""
    kinds = st.sampled_from([*_BUILTIN, *_NAMES, "Ee", "Uu", "Aa"])
    text = "{'enum':'Ee','data':['a',{'name':'b','if':'CONFIG_B','features':['deprecated']},'c']}"
    text += "{'struct':'Empty','data':{}}"

    def members(prefix):
        found = []
        for number in range(draw(st.integers(0, 4))):
            star = draw(st.sampled_from(["", "*"]))
            kind = draw(kinds)
            shown = f"['{kind}']" if draw(st.booleans()) else f"'{kind}'"
            extra = draw(st.sampled_from(["", ",'if':'CONFIG_A'", ",'features':['unstable']"]))
            found.append(f"'{star}{prefix}{number}':{{'type':{shown}{extra}}}")
        return "{" + ",".join(found) + "}"

    for number, name in enumerate(_NAMES):
        base = f",'base':'{draw(st.sampled_from(_NAMES[:number]))}'" if number > 3 else ""
        text += f"{{'struct':'{name}','data':{members(f'm{number}x')}{base}}}"
    branch = draw(st.sampled_from(["Tt0", "Empty"]))
    text += (
        "{'union':'Uu','base':{'kind':'Ee','*more':'Aa'},'discriminator':'kind',"
        f"'data':{{'a':'{branch}','c':'Tt1'}}}}"
    )
    text += "{'alternate':'Aa','data':{'one':'Tt2','many':['Tt3'],'text':'str'}}"
    for number in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(_NAMES))
        extra = draw(
            st.sampled_from(["", ",'if':'CONFIG_A'", ",'allow-oob':true", ",'features':['old']"])
        )
        text += f"{{'command':'cmd{number}','data':{members('a')},'returns':['{kind}']{extra}}}"
    text += "{'command':'boxed','boxed':true,'data':'Uu'}{'event':'EVENT','data':'Tt4'}"
    return text + "{'command':'nothing'}"


@settings(max_examples=60, deadline=None)
@given(schemas(), st.sets(st.sampled_from(["CONFIG_A", "CONFIG_B"])))
def test_any_schema_survives_the_way_back(text, symbols):
    schema = load(text, symbols)
    once = introspect(schema)
    again = introspect(from_introspection(once))
    # What only absent pieces reach is listed by the first and is not known to the second, so the
    # second is a fixed point, and both tell the same of all that a client can reach.
    assert reachable(again) == reachable(once)
    assert introspect(from_introspection(again)) == again


def reachable(entries):
    """What commands and events stand for, to any depth, recursion shown by its distance."""
    listed = {e["name"]: e for e in entries if e["meta-type"] not in ("command", "event")}
    table = {}

    def shape(name):
        # one level of structure per type, types named by the way on which they are met first
        if name in table:
            return table[name]
        table[name] = label = f"t{len(table)}"
        entry = {key: value for key, value in listed[name].items() if key != "name"}
        if not entry.get("features"):
            entry.pop("features", None)
        if "element-type" in entry:
            entry["element-type"] = shape(entry["element-type"])
        for key in ("members", "variants"):
            if key in entry:
                entry[key] = [
                    {**part, "type": shape(part["type"])} if "type" in part else part
                    for part in entry[key]
                ]
        shapes[label] = entry
        return label

    shapes = {}
    calls = []
    for entry in entries:
        if entry["meta-type"] in ("command", "event"):
            shown = {**entry, "arg-type": shape(entry["arg-type"])}
            if "ret-type" in entry:
                shown["ret-type"] = shape(entry["ret-type"])
            calls.append(shown)
    return calls, shapes


def test_types_are_named_after_their_use():
    schema = from_introspection(introspect(load_release("7.2")))
    command = schema.command("nbd-server-start")
    assert command.arg_type.name == "nbd-server-start-arg"
    addr = command.arg_type.members[0]
    assert (addr.name, addr.type.name) == ("addr", "nbd-server-start-arg-addr")
    assert addr.type.tag.name == "type"
    assert addr.type.branch("inet").name == "nbd-server-start-arg-addr-inet"
    assert schema.command("query-block-exports").ret_type.element.name == "query-block-exports-ret"


def test_names_that_are_no_numbers_are_kept():
    schema = from_introspection(introspect(load_release("7.2"), unmask=True))
    assert schema.command("block-export-add").arg_type.name == "BlockExportOptions"


def test_a_type_is_not_given_the_name_of_a_command():
    schema = from_introspection(
        introspect(load("{'command':'x','data':{'y':'int'}}{'command':'x-arg'}"))
    )
    assert schema.command("x").arg_type.name == "x-arg-2"
    assert schema.command("x-arg").arg_type is None


OLD = [
    {"name": "query-x", "meta-type": "command", "arg-type": "0", "ret-type": "[1]"},
    {"name": "GONE", "meta-type": "event", "arg-type": "0"},
    {"name": "0", "meta-type": "object", "members": []},
    {"name": "[1]", "meta-type": "array", "element-type": "1"},
    {
        "name": "1",
        "meta-type": "object",
        "members": [{"name": "kind", "type": "2"}, {"name": "n", "type": "int", "default": None}],
        "tag": "kind",
        "variants": [{"case": "a", "type": "3"}, {"case": "b", "type": "0"}],
    },
    {"name": "2", "meta-type": "enum", "values": ["a", "b"]},
    {"name": "3", "meta-type": "object", "members": [{"name": "data", "type": "str"}]},
    {"name": "int", "meta-type": "builtin", "json-type": "int"},
    {"name": "str", "meta-type": "builtin", "json-type": "string"},
]


def test_the_form_of_old_releases():
    schema = from_introspection(OLD)
    kind = schema.command("query-x").ret_type.element
    assert [member.name for member in kind.tag.type.members] == ["a", "b"]
    assert kind.members[1].optional
    assert schema.event("GONE").arg_type is None
    assert renumbered(introspect(schema, release=(2, 5))) == renumbered(OLD)


def test_an_enumeration_may_have_members_only():
    entries = copy.deepcopy(OLD)
    del entries[5]["values"]
    entries[5]["members"] = [{"name": "a"}, {"name": "b", "features": ["unstable"]}]
    kind = from_introspection(entries).command("query-x").ret_type.element.tag.type
    assert [[f.name for f in member.features] for member in kind.members] == [[], ["unstable"]]


def test_integers_have_no_width():
    schema = from_introspection(introspect(load("{'command':'x','data':{'y':'uint8'}}")))
    arg = schema.command("x").arg_type
    for value in (-(1 << 63), 300, (1 << 64) - 1):
        validate(schema, arg, {"y": value})
    for value in (1 << 64, 1.5, "1", True, None):
        with pytest.raises(
            CommandError, match=r"^Invalid parameter type for 'y', expected: integer"
        ):
            validate(schema, arg, {"y": value})


def test_device_add_takes_what_introspection_does_not_tell():
    text = "{'command':'device_add','data':{'driver':'str'}}{'command':'other','data':{'x':'str'}}"
    text = "{'pragma':{'command-name-exceptions':['device_add']}}" + text
    schema = from_introspection(introspect(load(text)))
    assert not schema.command("device_add").gen
    assert schema.command("other").gen


def damaged(index, **changes):
    entries = copy.deepcopy(OLD)
    for key, value in changes.items():
        name = key.replace("_", "-")
        if value is None:
            del entries[index][name]
        else:
            entries[index][name] = value
    return entries


@pytest.mark.parametrize(
    ("entries", "line", "message"),
    [
        ({}, 1, "expected a list of SchemaInfo"),
        ([], 1, "expected a list of SchemaInfo"),
        ([1], 1, "entry 1 is no object"),
        ([*OLD, {"meta-type": "enum"}], 10, "entry 10 has no name"),
        ([*OLD, {"name": "x", "meta-type": []}], 10, "entry 'x' has no known meta-type"),
        ([*OLD, OLD[0]], 10, "'query-x' is already defined"),
        ([*OLD, OLD[2]], 10, "'0' is already defined"),
        (damaged(0, arg_type=None), 1, "'arg-type' must be a string"),
        (damaged(0, arg_type="99"), 1, "unknown type '99'"),
        (damaged(0, arg_type="2"), 1, "'arg-type' is no object"),
        (damaged(0, allow_oob="yes"), 1, "'allow-oob' must be a boolean"),
        (damaged(0, features="x"), 1, "'features' must be an array of strings"),
        (damaged(3, element_type="[1]"), 4, "an array of itself"),
        (damaged(3, element_type="7"), 4, "unknown type '7'"),
        (damaged(4, members=None), 5, "'members' must be an array of objects"),
        (damaged(4, members=[{"name": "x"}]), 5, "'type' must be a string"),
        (damaged(4, tag=None), 5, "'tag' must be a string"),
        (damaged(4, tag="n"), 5, "tag 'n' is no member of an enum type"),
        (damaged(4, variants=[{"case": "a", "type": "2"}]), 5, "branch 'a' is no object"),
        (damaged(4, variants=[{"case": "a", "type": "1"}]), 5, "branches are nested deeper than"),
        (damaged(5, values=[1]), 6, "'values' must be an array of strings"),
        (damaged(7, name="int128"), 8, "unknown built-in type 'int128'"),
        (
            [*OLD, {"name": "9", "meta-type": "object", "members": [{"name": "x", "type": "77"}]}],
            10,
            "unknown type '77'",
        ),
    ],
)
def test_a_wrong_list_is_refused_by_the_entry(entries, line, message):
    with pytest.raises(QapiError) as caught:
        from_introspection(entries, name="x.json")
    assert caught.value.info.line == line
    assert message in caught.value.message
    assert str(caught.value).splitlines()[-1].startswith(f"x.json:{line}: ")


def test_arrays_are_nested_to_a_limit():
    entries = [{"name": "x", "meta-type": "command", "arg-type": "0", "ret-type": "a0"}, OLD[2]]
    count = 3000
    entries += [
        {"name": f"a{n}", "meta-type": "array", "element-type": f"a{n + 1}"} for n in range(count)
    ]
    entries.append({"name": f"a{count}", "meta-type": "array", "element-type": "0"})
    with pytest.raises(QapiError, match=f"arrays are nested deeper than {MAX_BRANCHING}"):
        from_introspection(entries)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.sampled_from(["0", "1", "int", "x", "enum"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "type", "case", "members", "tag", "variants", "meta-type"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(OLD) - 1), st.sampled_from(sorted({k for e in OLD for k in e})), _JSON)
def test_damage_anywhere_is_an_error_or_a_schema(index, key, value):
    entries = copy.deepcopy(OLD)
    entries[index][key] = value
    try:
        schema = from_introspection(entries)
    except QapiError:
        return
    assert introspect(from_introspection(introspect(schema))) == introspect(schema)


def test_what_an_introspection_looks_like():
    assert is_introspection(OLD)
    for value in (None, [], {}, [1], [{"name": "x"}], "x"):
        assert not is_introspection(value)
