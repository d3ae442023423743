"""The whole of QEMU's schema against edited copies of itself: nothing missed, nothing made up."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
from introspection_diff import visible
from peers import qemu_source

from nbexport.qapi import QapiError, introspect, load_schema
from nbexport.review.compare import Kind
from nbexport.review.engine import Context, review_schemas
from nbexport.review.facts import differences

pytestmark = pytest.mark.interop

# a member of a struct, a union's base or inline arguments: star, name, type
MEMBER = re.compile(r"'(\*?)([a-z][a-z0-9-]+)': *'(str|int|bool|size|uint64|uint32)'")
LIMIT = 2.0  # seconds of the processor for a review of the whole


@pytest.fixture(scope="module")
def root():
    path = qemu_source() / "qapi" / "qapi-schema.json"
    assert path.is_file(), path
    return str(path)


def loaded(root, edited=None):
    """The schema, one of its files replaced; every part of it that is compiled in anywhere."""
    edited = edited or {}

    def read(path):
        return edited.get(path) or Path(path).read_text(encoding="utf-8")

    return load_schema(root, read=read, as_of=(7, 2))


@pytest.fixture(scope="module")
def old(root):
    return loaded(root)


def test_it_does_not_differ_from_itself(root, old):
    assert differences(old, loaded(root)) == []
    assert review_schemas(old, loaded(root)) == []


def edit(root, name, pattern, instead):
    path = str(Path(root).parent / name)
    text, count = re.subn(pattern, instead, Path(path).read_text(encoding="utf-8"), count=1)
    assert count == 1
    return loaded(root, {path: text})


@pytest.mark.parametrize(
    ("name", "pattern", "instead", "expected"),
    [
        pytest.param(
            "block-export.json",
            r"('data': \{ '\*name': 'str'), '\*description'",
            r"\1, '*maps': [ 'str' ], '*description'",
            {
                ("leak-through-base", "nbd-server-add.maps"),
                ("argument-added", "nbd-server-add.maps"),
            },
            id="a member of the common base",
        ),
        pytest.param(
            "block-export.json",
            r"('command': 'block-export-del',\s*'data': \{ 'id': 'str', )'\*mode'",
            r"\1'mode'",
            {("argument-became-required", "block-export-del.mode")},
            id="an argument that has to be sent",
        ),
        pytest.param(
            "block-export.json",
            r"('event': 'BLOCK_EXPORT_DELETED',\s*'data': \{ )'id': 'str'",
            r"\1'*id': 'str'",
            {("result-became-optional", "BLOCK_EXPORT_DELETED.id")},
            id="what an event may lack",
        ),
    ],
)
def test_a_change_is_found_in_the_whole(root, old, name, pattern, instead, expected):
    new = edit(root, name, pattern, instead)
    begin = time.process_time()
    result = review_schemas(old, new, Context(release="8.0", old_release="7.2"))
    took = time.process_time() - begin
    found = {(finding.rule, finding.element) for finding in result}
    assert expected <= found
    assert took < LIMIT


def test_a_value_of_a_common_enumeration_is_told_once(root, old):
    new = edit(root, "common.json", r"('enum': 'OnOffAuto',\s*'data': \[ *)", r"\1'maybe', ")
    (found,) = differences(old, new)
    assert (found.kind, found.direction) == (Kind.VALUE_ADDED, "sends")
    assert len(found.roots) > 1


def told(old, new):
    """What the review tells, as far as introspection shows it."""
    found = set()
    for item in differences(old, new):
        if item.kind in (Kind.FLAG_ADDED, Kind.FLAG_REMOVED) and item.name != "out-of-band":
            continue
        if item.was and item.now and {item.was, item.now} <= {"int", "size", "uint64", "uint32"}:
            continue
        found |= {(one, str(item.direction), str(item.kind), item.name) for one in item.roots}
    return found


def test_introspection_shows_the_same(root, old):
    files = sorted(Path(root).parent.glob("*.json"))
    chance = random.Random(72)
    before = introspect(old)
    seen = 0
    while seen < 4:
        path = chance.choice(files)
        text = path.read_text(encoding="utf-8")
        places = list(MEMBER.finditer(text))
        if not places:
            continue
        changed = text
        # from the end, so that the places stay
        for match in sorted(chance.sample(places, min(6, len(places))), key=lambda m: -m.start()):
            star, name, kind = match.groups()
            instead = chance.choice(
                [
                    f"'{'' if star else '*'}{name}': '{kind}'",
                    f"'{star}{name}': ['{kind}']",
                    f"'{star}{name}': '{'str' if kind != 'str' else 'int'}'",
                    f"'{star}{name}-too': '{kind}', '{star}{name}': '{kind}'",
                ]
            )
            changed = changed[: match.start()] + instead + changed[match.end() :]
        try:
            new = loaded(root, {str(path): changed})
        except QapiError:
            continue
        found = told(old, new)
        assert found == visible(before, introspect(new)), path.name
        seen += bool(found)
