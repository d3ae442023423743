"""The interfaces that travel with the package, their introspection, and values checked by them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.errors import CommandError, UsageError
from nbexport.qapi import (
    arrange,
    interface_of,
    introspect,
    known_releases,
    load_release,
    load_schema,
    validate,
)
from nbexport.resources import data_path

UNIX = {"type": "unix", "data": {"path": "/s"}}
NBD = {"type": "nbd", "id": "e", "node-name": "n"}


def complaint(command, arguments, release="7.2"):
    schema = load_release(release)
    numbers = tuple(int(part) for part in release.split("."))
    with pytest.raises(CommandError) as caught:
        validate(schema, schema.command(command).arg_type, arguments, release=numbers)
    assert caught.value.error_class == "GenericError"
    return caught.value.desc


def accepts(command, arguments, release="7.2"):
    schema = load_release(release)
    before = json.dumps(arguments)
    validate(schema, schema.command(command).arg_type, arguments)
    assert json.dumps(arguments) == before


def test_releases():
    assert {"5.2", "7.2"} <= set(known_releases())
    assert interface_of("5.2") == interface_of("5.2.0") == "5.2"
    assert interface_of("7.2") == interface_of("7.2.22") == "7.2"
    assert interface_of("8.2.2") == "8.2"
    with pytest.raises(UsageError, match=r"no interface of release 2\.4: known are 2\.5, 2\.6"):
        load_release("2.4")
    with pytest.raises(UsageError, match="'seven' is no release"):
        load_release("seven")
    assert load_release("7.2") is load_release("7.2.9")


@pytest.mark.parametrize("release", known_releases())
def test_every_file_is_included_licensed_and_ours(release):
    folder = data_path("interface", release)
    read = set()

    def note(path):
        read.add(path)
        return Path(path).read_text(encoding="utf-8")

    schema = load_schema(str(folder / "schema.json"), read=note)
    assert {str(path) for path in folder.glob("*.json")} == read
    for path in folder.glob("*.json"):
        assert path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")
    # whatever is defined is reached by a command or event
    reached = {entry["name"] for entry in introspect(schema, unmask=True)}
    named = {kind.name for kind in schema.types() if kind.info and not kind.implicit}
    bases = {kind.base_name for kind in schema.types() if getattr(kind, "base_name", None)}
    assert named - reached - bases == set()


def test_what_changed_between_the_releases():
    old, new = load_release("5.2"), load_release("7.2")
    kept = [c.name for c in old.commands() if c.name != "x-blockdev-reopen"]
    assert kept == [c.name for c in new.commands() if c.name != "blockdev-reopen"]
    assert old.find_type("BlockExportOptionsFuse") is None
    values = [[m.name for m in s.find_type("BlockExportType").members] for s in (old, new)]
    assert values == [["nbd", "vhost-user-blk"], ["nbd", "vhost-user-blk", "fuse", "vduse-blk"]]
    for schema in (old, new):
        assert schema.command("nbd-server-add").has_feature("deprecated")
        assert not schema.command("block-export-add").has_feature("deprecated")


def test_introspection_of_a_build_without_a_feature():
    everything = load_release("7.2")
    small = load_release("7.2", symbols=everything.all_symbols - {"CONFIG_FUSE"})
    names = [{entry["name"] for entry in introspect(schema)} for schema in (everything, small)]
    assert names[1] < names[0]
    kind = next(
        entry for entry in introspect(small, unmask=True) if entry["name"] == "BlockExportType"
    )
    assert kind["values"] == ["nbd", "vhost-user-blk", "vduse-blk"]
    assert [member["name"] for member in kind["members"]] == kind["values"]
    with pytest.raises(CommandError, match="Parameter 'type' does not accept value 'fuse'"):
        validate(small, small.command("block-export-add").arg_type, {"type": "fuse"})


def test_introspection_before_enumerations_had_members():
    entries = introspect(load_release("5.2"), release=(5, 2))
    enums = [entry for entry in entries if entry["meta-type"] == "enum"]
    assert enums
    assert all("members" not in entry for entry in enums)


def test_introspection_hides_names_and_is_closed():
    entries = introspect(load_release("7.2"))
    names = {entry["name"] for entry in entries}
    assert len(names) == len(entries)
    for entry in entries:
        assert entry["name"].isdigit() == (entry["meta-type"] in ("object", "enum", "alternate"))
        used = [entry.get(key) for key in ("arg-type", "ret-type", "element-type")]
        used += [part["type"] for part in entry.get("variants", [])]
        used += [part["type"] for part in entry.get("members", []) if "type" in part]
        assert {name for name in used if name} <= names
    # every entry is itself a value of the type that describes entries
    schema = load_release("7.2")
    for entry in entries:
        validate(schema, schema.find_type("SchemaInfo"), entry)
        assert arrange(schema, schema.find_type("SchemaInfo"), entry) == entry


@pytest.mark.parametrize(
    ("command", "arguments", "desc"),
    [
        ("block-export-add", {}, "Parameter 'type' is missing"),
        ("block-export-add", [], "Invalid parameter type for '<anonymous>', expected: object"),
        ("block-export-add", {**NBD, "id": 1}, "Invalid parameter type for 'id', expected: string"),
        ("block-export-add", {**NBD, "x": 1}, "Parameter 'x' is unexpected"),
        (
            "block-export-add",
            {**NBD, "bitmaps": [1]},
            "Invalid parameter type for 'null', expected: BlockDirtyBitmapOrStr",
        ),
        (
            "block-export-add",
            {**NBD, "bitmaps": ["a", {"node": "n"}]},
            "Parameter 'bitmaps[1].name' is missing",
        ),
        ("qmp_capabilities", {"enable": ["x"]}, "Parameter 'null' does not accept value 'x'"),
        (
            "nbd-server-start",
            {"addr": {"type": "unix", "data": {}}},
            "Parameter 'addr.data.path' is missing",
        ),
        (
            "nbd-server-start",
            {"addr": UNIX, "max-connections": 1 << 32},
            "Parameter 'max-connections' expects uint32_t",
        ),
        (
            "nbd-server-start",
            {"addr": UNIX, "max-connections": "1"},
            "Parameter 'max-connections' expects uint64",
        ),
        ("quit", {"now": True}, "Parameter 'now' is unexpected"),
    ],
)
def test_complaints(command, arguments, desc):
    assert complaint(command, arguments) == desc


def test_complaints_of_older_releases():
    assert complaint("block-export-add", {"type": "x"}, "5.2") == "Invalid parameter 'x'"
    assert (
        complaint("block-export-add", {**NBD, "bitmaps": [{}]}, "5.2")
        == "Invalid parameter type for 'bitmaps[0]', expected: string"
    )
    schema = load_release("5.2")
    with pytest.raises(CommandError, match="QMP input object member 'x' is unexpected"):
        validate(schema, None, {"x": 1}, release=(2, 5))


def test_what_is_accepted():
    accepts("block-export-add", {**NBD, "bitmaps": ["a", {"node": "n", "name": "b"}]})
    accepts("block-export-add", {**NBD, "bitmaps": ["a"]}, "5.2")
    accepts("nbd-server-start", {"addr": UNIX, "max-connections": 0})
    accepts("qmp_capabilities", {})
    accepts("quit", {})
    deep = {"driver": "file", "filename": "f"}
    for _ in range(1000):
        deep = {"driver": "raw", "file": deep}
    accepts_deep(deep)


def accepts_deep(arguments):
    schema = load_release("7.2")
    kind = schema.command("blockdev-add").arg_type
    validate(schema, kind, arguments)
    copy = arrange(schema, kind, arguments)
    while "file" in arguments:
        assert copy["driver"] == arguments["driver"]
        arguments, copy = arguments["file"], copy["file"]
    arguments["filename"] = 1
    with pytest.raises(CommandError, match=r"Invalid parameter type for '(file\.){1}"):
        validate(schema, kind, {"driver": "raw", "file": arguments})


LIMITS = """
{'command':'c','data':{'*a':'int8','*b':'int16','*c':'int32','*d':'int64','*e':'uint8',
 '*f':'uint16','*g':'uint64','*h':'number','*i':'any','*j':'null','*k':'bool','*l':['int'],
 '*m':'Num'}}
{'alternate':'Num','data':{'n':'int','b':'bool'}}
"""


@pytest.mark.parametrize(
    ("name", "good", "bad", "desc"),
    [
        ("a", [-128, 127], [-129, 128], "Parameter 'a' expects int8_t"),
        ("b", [-32768], [32768], "Parameter 'b' expects int16_t"),
        ("c", [2**31 - 1], [2**31], "Parameter 'c' expects int32_t"),
        ("d", [-(2**63)], [2**63, 1.0, True, "1"], "Invalid parameter type for 'd', expected: int"),
        ("e", [255, 1 - 2**63 + 2**63], [256, -1], "Parameter 'e' expects uint8_t"),
        ("f", [65535], [65536], "Parameter 'f' expects uint16_t"),
        ("g", [2**64 - 1, -1], [1.5, None, True], "Parameter 'g' expects uint64"),
        ("h", [1, 1.5], ["1", False], "Invalid parameter type for 'h', expected: number"),
        ("i", [None, [], {"x": {}}], [], ""),
        ("j", [None], [0], "Invalid parameter type for 'j', expected: null"),
        ("k", [True], [1], "Invalid parameter type for 'k', expected: boolean"),
        ("l", [[], [1]], [{}, 1], "Invalid parameter type for 'l', expected: array"),
        ("l", [], [[1, 1.5]], "Invalid parameter type for 'l[1]', expected: integer"),
        ("m", [1, True], ["x", None], "Invalid parameter type for 'm', expected: Num"),
        ("m", [], [1.5], "Invalid parameter type for 'm', expected: integer"),
    ],
)
def test_builtin_types(name, good, bad, desc):
    schema = load_schema("s.json", read=lambda _path: LIMITS)
    kind = schema.command("c").arg_type
    for value in good:
        validate(schema, kind, {name: value})
    for value in bad:
        with pytest.raises(CommandError) as caught:
            validate(schema, kind, {name: value})
        assert caught.value.desc.startswith(desc)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False),
        st.sampled_from(["nbd", "unix", "raw", "file", "qcow2", "", "\0", "\u00e9"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "id", "node-name", "addr", "data", "driver", "file", "x"]),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=15,
)


@given(JSON, st.sampled_from(["block-export-add", "blockdev-add", "nbd-server-start", "quit"]))
def test_any_value_fits_or_is_refused(value, command):
    schema = load_release("7.2")
    kind = schema.command(command).arg_type
    with contextlib.suppress(CommandError):
        validate(schema, kind, value)
    assert arrange(schema, kind, value) == value
