"""The registry of rules, and what single rules see beyond their examples."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from golden_review import schema

from nbexport.qapi import known_releases
from nbexport.review.engine import Context, PackageHistory, Schemas, review, review_schemas
from nbexport.review.finding import Direction, Finding, Level
from nbexport.review.rules import RULES, Rule, Taxonomy
from nbexport.review.rules.registry import register
from nbexport.sources.load import load


def found(old, new, **context):
    """The findings by rule and element."""
    result = review_schemas(schema(old), schema(new), Context(**context))
    return {(finding.rule, finding.element): finding for finding in result}


# -- the registry -----------------------------------------------------------------------------


def test_rules_are_there():
    assert len(RULES) >= 50
    assert {"leak-through-base", "since-wrong", "doc-phantom-member"} <= set(RULES)


def test_what_can_come_can_go():
    """A rule about a change has one about the reverse, or says why not."""
    for rule in RULES.values():
        assert bool(rule.opposite) != bool(rule.alone), rule.id
        if rule.opposite:
            other = RULES[rule.opposite]
            assert other.opposite, rule.id
            # and back, to the rule itself or to a sister that is about the same
            assert RULES[other.opposite].taxonomy.what == rule.taxonomy.what
            assert other.taxonomy.direction is rule.taxonomy.direction


def test_what_is_sent_is_received():
    """A rule about one direction has one about the other, or says why not."""
    for rule in RULES.values():
        direction = rule.taxonomy.direction
        if direction is Direction.NONE:
            assert not rule.other_way
            continue
        assert bool(rule.other_way) != bool(rule.one_way), rule.id
        if rule.other_way:
            other = RULES[rule.other_way]
            assert {direction, other.taxonomy.direction} == {Direction.SENDS, Direction.RECEIVES}


def test_companions_exist():
    for rule in RULES.values():
        assert set(rule.companions) <= set(RULES) - {rule.id}


def test_texts_are_sentences():
    for rule in RULES.values():
        for text in (rule.reason, rule.fix):
            assert re.fullmatch(r"[A-Z].*\.", text), rule.id
            assert ". " not in text, rule.id
        assert str(rule.taxonomy).startswith(rule.taxonomy.what)


def test_a_rule_has_to_be_whole():
    rule = RULES["command-added"]
    with pytest.raises(ValueError, match="there already"):
        register(rule)
    parts = (Level.INFO, Taxonomy("x", Direction.NONE, "y"), "Why.", "How.")
    rest = (rule.positive, rule.negative, rule.check)
    with pytest.raises(ValueError, match="kebab-case"):
        register(Rule("NotKebab", *parts, *rest, alone="so"))
    with pytest.raises(ValueError, match="opposite"):
        register(Rule("no-opposite", *parts, *rest))
    sends = (Level.INFO, Taxonomy("x", Direction.SENDS, "y"), "Why.", "How.")
    with pytest.raises(ValueError, match="direction"):
        register(Rule("one-direction", *sends, *rest, alone="so"))
    assert not {"NotKebab", "no-opposite", "one-direction"} & set(RULES)


# -- findings -----------------------------------------------------------------------------------


def test_a_fingerprint_outlives_lines_and_words():
    one = Finding("a-rule", Level.INFO, "message", "go.a", (), None, None, "advice")
    same = Finding("a-rule", Level.RISKY, "other", "go.a", ("go",), None, None, "other")
    assert one.fingerprint == same.fingerprint
    assert re.fullmatch("[0-9a-f]{16}", one.fingerprint)
    others = [
        Finding("b-rule", Level.INFO, "message", "go.a", (), None, None, "advice"),
        Finding("a-rule", Level.INFO, "message", "go.b", (), None, None, "advice"),
        Finding("a-rule", Level.INFO, "m", "go.a", (), None, None, "", Direction.SENDS),
    ]
    assert len({finding.fingerprint for finding in (one, *others)}) == 4


def test_levels_are_ordered_and_named():
    assert Level.INFO < Level.NOTICE < Level.RISKY < Level.BREAKING
    assert [str(level) for level in Level] == ["info", "notice", "risky", "breaking"]


def test_findings_come_heaviest_first_and_the_same_each_time():
    old, new = load("release:5.1"), load("release:5.2")
    first, second = review(old, new), review(load("release:5.1"), load("release:5.2"))
    assert first == second
    levels = [finding.level for finding in first]
    assert levels == sorted(levels, reverse=True)
    prints = [finding.fingerprint for finding in first]
    assert len(set(prints)) == len(prints)


def test_a_release_against_itself_is_clean():
    assert review(load("release:7.2"), load("release:7.2")) == []


# What the documentation of releases says, and their schemas do not: QEMU's own says so as well.
MISDATED = {("2.9", "blockdev-add"), ("2.10", "blockdev-add[driver=qcow2].backing")}


def test_every_step_of_history_can_be_reviewed():
    wrong = set()
    phantoms = []
    for before, after in pairwise(known_releases()):
        old, new = load(f"release:{before}"), load(f"release:{after}")
        result = review(old, new, Context(history=PackageHistory()))
        assert all(finding.rule in RULES and finding.element for finding in result)
        wrong |= {(after, f.element) for f in result if f.rule == "since-wrong"}
        phantoms += [finding for finding in result if finding.rule == "doc-phantom-member"]
    assert wrong == MISDATED
    assert phantoms == []


# -- deprecation --------------------------------------------------------------------------------

DEPRECATED = ", 'features': ['deprecated']"
SHARED = (
    "{ 'struct': 'Options', 'data': { 'name': 'str'%s } }"
    "{ 'struct': 'OldOptions', 'base': 'Options', 'data': {} }"
    "{ 'command': 'add-map', 'data': 'OldOptions', 'boxed': true" + DEPRECATED + "}"
    "{ 'command': 'put-map', 'data': 'OldOptions', 'boxed': true" + DEPRECATED + "}"
    "{ 'command': 'map-add', 'data': 'Options', 'boxed': true }"
)


def test_a_leak_names_each_deprecated_command():
    result = found(SHARED % "", SHARED % ", '*maps': ['str']")
    assert ("leak-through-base", "add-map.maps") in result
    assert ("leak-through-base", "put-map.maps") in result
    assert ("argument-added", "map-add.maps") in result
    assert [key for key in result if key[0] == "argument-added"] == [
        ("argument-added", "map-add.maps")
    ]


def test_what_a_new_command_shares_leaks_as_well():
    alone = SHARED[: SHARED.index("{ 'command': 'map-add'")]
    result = found(alone % "", SHARED % ", '*maps': ['str']")
    assert "map-add" in result["leak-through-base", "add-map.maps"].message


OLD = "{ 'command': 'add-map'%s }{ 'command': 'go' }"
GONE = "{ 'command': 'go' }"


def test_a_deprecation_in_the_list_counts():
    old = OLD % ""
    assert ("removed-without-deprecation", "add-map") in found(old, GONE)
    listed = {"old_deprecation_notes": "add-map (since 5.2)\n----\n\nUse map-add.\n"}
    assert ("removed-without-deprecation", "add-map") not in found(old, GONE, **listed)
    early = found(old, GONE, release="6.0", **listed)
    assert "since 5.2" in early["removed-before-two-releases", "add-map"].message
    assert ("removed-before-two-releases", "add-map") not in found(
        old, GONE, release="6.1", **listed
    )


def test_the_window_is_counted_in_releases():
    history = Schemas({"5.1": schema(OLD % ""), "5.2": schema(OLD % DEPRECATED)})
    old = OLD % DEPRECATED
    for release, window, early in [("6.0", 1, False), ("6.1", 2, False), ("6.1", 3, True)]:
        result = found(old, GONE, release=release, window=window, history=history)
        assert (("removed-before-two-releases", "add-map") in result) is early


def test_experiments_may_go():
    unstable = OLD % ", 'features': ['unstable']"
    assert ("removed-without-deprecation", "add-map") not in found(unstable, GONE)
    prefixed = unstable.replace("add-map", "x-add-map").replace("'unstable'", "'fast'")
    assert ("removed-without-deprecation", "x-add-map") not in found(prefixed, GONE)


def test_an_experiment_that_loses_its_prefix_is_stable():
    old = "{ 'command': 'x-merge', 'data': { '*x-fast': 'bool' } }"
    new = "{ 'command': 'merge', 'data': { '*fast': 'bool' } }"
    assert ("unstable-became-stable", "merge") in found(old, new)
    assert ("stable-became-unstable", "merge") in found(new, old)
    old = old.replace("x-merge", "merge")
    assert ("unstable-became-stable", "merge.fast") in found(old, new)
    assert ("frozen-interface-changed", "merge.x-fast") not in found(old, new)


def test_a_member_that_is_renamed_after_release():
    old = "{ 'command': 'map-add', 'data': { '*bitmap': 'str' } }"
    result = found(old, old.replace("bitmap", "bitmaps"))
    assert "'bitmaps'" in result["frozen-interface-changed", "map-add.bitmap"].message
    assert ("frozen-interface-changed", "map-add.bitmap") not in found(
        old, old.replace("bitmap", "size")
    )


def test_the_releases_dates_count_where_documentation_is_wrong():
    """A list of threads was documented for the release before the one that shipped it."""
    text = load("release:11.0").schema
    files = {}

    def read(path):
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - as the reader of schemas does
            files[path] = file.read().replace("# Since: 11.0", "# Since: 10.1")
        return files[path]

    from nbexport.qapi import load_schema

    new = load_schema(text.root, read=read)
    old = load("release:10.2").schema
    context = Context(release="11.0", old_release="10.2", history=PackageHistory())
    result = [f for f in review_schemas(old, new, context) if f.rule == "since-wrong"]
    assert [finding.element for finding in result] == ["block-export-add.iothread"]
    assert "10.1" in result[0].message
    assert "11.0" in result[0].message
    right = review_schemas(old, text, context)
    assert not [f for f in right if f.rule == "since-wrong"]


GO_SINCE = (
    "##\n# @go:\n#\n# @n: how many (since %s)\n#\n# Since: 2.5\n##\n"
    "{ 'command': 'go', 'data': { '*n': 'int' } }\n"
)
SHIPPED = {"2.5": schema("{ 'command': 'go' }\n"), "5.1": schema(GO_SINCE % "5.1")}


@pytest.mark.parametrize(
    ("told", "then", "audit", "wrong"),
    [
        ("5.1", "5.0", False, True),
        ("5.1", "5.2", False, True),
        ("5.2", "5.1", False, False),
        ("5.2", "5.2", False, False),
        ("5.2", "5.2", True, True),
        ("5.1", "5.1", True, False),
        # history begins later
        ("5.1", "2.4", False, False),
    ],
)
def test_what_is_dated_anew_is_held_against_history(told, then, audit, wrong):
    history = Schemas(SHIPPED | {"5.0": SHIPPED["2.5"]})
    result = found(GO_SINCE % told, GO_SINCE % then, release="6.0", history=history, audit=audit)
    assert (("since-wrong", "go.n") in result) is wrong


def test_only_chosen_rules_run():
    old, new = schema(OLD % ""), schema(GONE)
    result = review_schemas(old, new, rules=["command-removed"])
    assert [finding.rule for finding in result] == ["command-removed"]


# -- experiments --------------------------------------------------------------------------------

GO = "{ 'command': 'go' }\n"


def test_a_name_that_says_experiment_is_no_promise():
    """Before 6.2 the prefix alone told; the feature that came then takes nothing back."""
    old = "{ 'command': 'x-go', 'data': { '*n': 'int' } }\n"
    new = old.replace(" }\n", ", 'features': ['unstable'] }\n")
    result = found(old, new)
    assert {rule for rule, _ in result} == {"feature-added"}
    assert str(found(GO, GO.replace(" }", ", 'features': ['unstable'] }")).popitem()[0][0]) == (
        "stable-became-unstable"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (GO + "{ 'command': 'x-go' }\n", GO),
        ("{ 'command': 'x-go', 'data': { '*n': 'int' } }\n", "{ 'command': 'x-go' }\n"),
        (GO + "{ 'command': 'try', 'features': ['unstable'] }\n", GO),
        (
            "{ 'command': 'go', 'data': { '*n': { 'type': 'int', 'features': ['unstable'] } } }\n",
            GO,
        ),
    ],
)
def test_an_experiment_may_go(old, new):
    result = found(old, new)
    assert {str(finding.level) for finding in result.values()} == {"notice"}
    assert "experiment" in next(iter(result.values())).message


def test_what_stable_commands_share_with_experiments_is_protected():
    kind = "{ 'struct': 'Map', 'data': { '*n': 'int' } }\n"
    calls = "{ 'command': 'go', 'data': 'Map' }\n{ 'command': 'x-go', 'data': 'Map' }\n"
    result = found(kind + calls, kind.replace("'*n': 'int'", "") + calls)
    assert str(result["argument-removed", "go.n"].level) == "breaking"


def test_arguments_that_were_not_checked_are_not_new():
    """object-add took the properties of objects before the schema listed them (6.0)."""
    old = "{ 'command': 'go', 'data': { 'kind': 'str' }, 'gen': false }\n"
    doc = "##\n# @go:\n#\n# @kind: what\n#\n# @size: how much (since 2.0)\n#\n# Since: 2.0\n##\n"
    new = doc + "{ 'command': 'go', 'data': { 'kind': 'str', 'size': 'int' } }\n"
    result = found(old, new, release="6.0", history=Schemas({"5.2": schema(old)}))
    assert {rule for rule, _ in result} == {"argument-added-required", "arguments-checked"}
    added = result["argument-added-required", "go.size"]
    assert str(added.level) == "info"
    assert "does not list" in added.message


def test_a_common_name_makes_no_list_likely():
    lists = "{ 'command': 'add', 'data': { 'names': ['str'], 'bitmaps': ['str'] } }\n"
    new = "{ 'command': 'go', 'data': { '*name': 'str', '*bitmap': 'str' } }\n"
    likely = [what for rule, what in found(lists, lists + new) if rule.startswith("scalar")]
    assert likely == ["go.bitmap"]


# -- patches of a series ------------------------------------------------------------------------

STEPS = [
    "{ 'command': 'go', 'data': { '*mode': 'str' }" + f"{DEPRECATED} }}\n",
    "{ 'command': 'go', 'data': { '*mode': 'str', '*compress': 'bool' }" + f"{DEPRECATED} }}\n",
    "{ 'command': 'go', 'data': { '*mode': 'str', '*compression': 'bool' }" + f"{DEPRECATED} }}\n",
    "{ 'command': 'go', 'data': { '*compression': 'bool' }" + f"{DEPRECATED} }}\n",
    "{ 'command': 'go', 'data': { '*mode': 'str', '*compression': 'bool' }" + f"{DEPRECATED} }}\n",
]


def step(number):
    result = found(STEPS[number - 1], STEPS[number], base=schema(STEPS[0]))
    return {key: str(finding.level) for key, finding in result.items()}


def test_what_a_series_brings_it_may_call_otherwise():
    assert step(1)["deprecated-gained-member", "go.compress"] == "risky"
    assert step(2) == {
        ("argument-removed", "go.compress"): "info",
        ("argument-added", "go.compression"): "info",
        ("deprecated-gained-member", "go.compression"): "risky",
    }
    # by itself the same change is one to a released interface
    assert ("frozen-interface-changed", "go.compress") in found(STEPS[1], STEPS[2])


def test_what_a_series_takes_back_is_no_addition():
    assert step(3) == {("argument-removed", "go.mode"): "breaking"}
    assert step(4) == {("argument-added", "go.mode"): "info"}


def test_a_member_that_is_dated_to_the_release_in_the_making_is_not_settled():
    doc = "##\n# @go:\n#\n# @size: how much (since %s)\n#\n# Since: 2.0\n##\n"
    old = doc + "{ 'command': 'go', 'data': { '*size': 'int' } }\n"
    new = "##\n# @go:\n#\n# Since: 2.0\n##\n{ 'command': 'go' }\n"
    for since, level in (("9.2", "info"), ("9.1", "breaking")):
        result = found(old % since, new, release="9.2")
        assert str(result["argument-removed", "go.size"].level) == level
        assert (("removed-without-deprecation", "go.size") in result) is (level == "breaking")
