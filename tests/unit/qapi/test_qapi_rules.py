"""What was right in one release and wrong in another."""

from __future__ import annotations

import pytest

from nbexport.errors import UsageError
from nbexport.qapi import QapiError, check_schema, introspect, load_schema
from nbexport.qapi.conditions import from_c


def load(text, release):
    return load_schema("s.json", read=lambda _path: text, as_of=release)


def verdict(text, release):
    """The line of the first error, None if there is none."""
    try:
        load(text, release)
    except QapiError as error:
        return error.info.line if error.info else 0
    return None


ENUM = "{'enum':'Ee','data':['a','b']}"
STRUCT = "{'struct':'Ss','data':{'x':'int'}}"
UNION = ENUM + STRUCT + "{'union':'Uu','base':{'k':'Ee'},'discriminator':'k','data':{'a':'Ss'}}"


def doc(*lines):
    return "##\n# @Ss:\n" + "".join(f"#{line}\n" for line in lines) + "##\n" + STRUCT


# text, the releases around a change, the line of the error in the older and in the newer one
CHANGES = {
    "a union without discriminator": (
        STRUCT + "{'union':'Uu','data':{'a':'Ss'}}",
        *((6, 1), (6, 2), None, 1),
    ),
    "a condition in C": ("{'event':'EV','if':'defined(A)'}", (6, 1), (6, 2), None, 1),
    "a list of conditions": ("{'event':'EV','if':['A','B']}", (6, 1), (6, 2), None, 1),
    "a condition as an object": ("{'event':'EV','if':{'not':'A'}}", (6, 1), (6, 2), 1, None),
    "any condition": ("{'event':'EV','if':'A'}", (2, 12), (3, 0), 1, None),
    "the condition of a member": (
        "{'struct':'Ss','data':{'a':{'type':'int','if':'A'}}}",
        *((3, 1), (4, 0), 1, None),
    ),
    "features of a struct": ("{'struct':'Ss','data':{},'features':['f']}", (4, 0), (4, 1), 1, None),
    "features of a command": ("{'command':'a','features':['f']}", (4, 1), (4, 2), 1, None),
    "features of an event": ("{'event':'EV','features':['f']}", (4, 2), (5, 0), 1, None),
    "features of a value": (
        "{'enum':'Ee','data':[{'name':'a','features':['f']}]}",
        *((6, 1), (6, 2), 1, None),
    ),
    "a coroutine": ("{'command':'a','coroutine':true}", (5, 1), (5, 2), 1, None),
    "out of band": ("{'command':'a','allow-oob':true}", (2, 11), (2, 12), 1, None),
    "before the machine": ("{'command':'a','allow-preconfig':true}", (2, 12), (3, 0), 1, None),
    "boxed": (STRUCT + "{'event':'EV','data':'Ss','boxed':true}", (2, 6), (2, 7), 1, None),
    "a pragma": ("{'pragma':{'doc-required':false}}", (2, 8), (2, 9), 1, None),
    "the older names of pragmas": ("{'pragma':{'returns-whitelist':[]}}", (5, 2), (6, 0), None, 1),
    "the newer names of pragmas": (
        "{'pragma':{'command-returns-exceptions':[]}}",
        *((5, 2), (6, 0), 1, None),
    ),
    "excused documentation": (
        "{'pragma':{'documentation-exceptions':[]}}",
        *((8, 2), (9, 0), 1, None),
    ),
    "a command with underscores": ("{'command':'a_b'}", (5, 2), (6, 0), None, 1),
    "a type in lower case": ("{'struct':'ss','data':{}}", (5, 2), (6, 0), None, 1),
    "a type that ends with Kind": ("{'struct':'SsKind','data':{}}", (6, 1), (6, 2), 1, None),
    "null": ("{'event':'EV','data':null}", (4, 1), (4, 2), None, 1),
    "an array in an alternate": (
        "{'alternate':'Aa','data':{'a':['int'],'b':'int'}}",
        *((7, 0), (7, 1), 1, None),
    ),
    "a union in a union": (
        UNION + "{'union':'Vv','base':{'m':'Ee'},'discriminator':'m','data':{'a':'Uu'}}",
        *((8, 0), (8, 1), 1, None),
    ),
    "a conditional argument": (
        "{'event':'EV','data':{'a':{'type':'int','if':'A'}}}",
        *((8, 0), (8, 1), None, 1),
    ),
    "unstable types": (
        "{'struct':'Ss','data':{},'features':['unstable']}",
        *((6, 1), (6, 2), None, 1),
    ),
    "documentation without meaning": ("##\n#x\n##\n" + ENUM, (2, 8), (2, 9), None, 2),
    "text left of its column": (doc(" @x: one", "   two"), (5, 1), (5, 2), None, 4),
    "text in a column of its own": (doc(" @x: one", "   two"), (8, 0), (8, 1), 4, None),
    "an undocumented member": (doc(""), (8, 2), (9, 0), None, 5),
    "errors": (
        "##\n# @a:\n#\n# Errors:\n#     none\n##\n{'command':'a'}",
        *((9, 0), (9, 1), None, None),
    ),
    "results that are none": (
        "##\n# @a:\n# Returns: x\n##\n{'command':'a'}",
        (8, 2),
        (9, 0),
        None,
        3,
    ),
    "a section after another": (
        doc(" @x: y", "", " Features:", " @f: g"),
        *((8, 2), (9, 0), 1, 6),
    ),
    "a note in the old way": (doc(" @x: y", "", " Note: z"), (9, 0), (9, 1), None, 5),
    "an example in the old way": (doc(" @x: y", "", " Example: z"), (9, 0), (9, 1), None, 5),
    "a heading in the middle": ("##\n# x\n# = y\n##\n", (10, 0), (10, 1), 3, None),
    "a heading in a definition": (doc(" @x: y", "", " = z"), (10, 0), (10, 1), 5, None),
    "too many features": (
        f"{{'event':'EV','features':{[f'f{number}' for number in range(63)]}}}",
        *((9, 2), (10, 0), None, 1),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changes(what):
    text, before, after, old, new = CHANGES[what]
    assert (verdict(text, before), verdict(text, after)) == (old, new)


def test_no_release_is_the_newest():
    text, _, _, old, new = CHANGES["a union without discriminator"]
    assert verdict(text, None) == new != old


def test_the_language_has_a_beginning():
    with pytest.raises(UsageError, match=r"before 2\.5 is not known"):
        load(ENUM, (2, 4))


def test_a_simple_union_is_a_tag_and_wrapped_values():
    schema = load(STRUCT + "{'union':'Uu','data':{'one':'Ss','many':['int']}}", (5, 2))
    union = schema.find_type("Uu")
    assert [member.name for member in union.members] == ["type"]
    assert [value.name for value in union.tag.type.members] == ["one", "many"]
    assert [variant.type.members[0].type.name for variant in union.variants] == ["Ss", "intList"]


def test_introspection_of_a_simple_union():
    text = STRUCT + "{'union':'Uu','data':{'one':'Ss'}}{'command':'a','data':'Uu','boxed':true}"
    entries = {entry["name"]: entry for entry in introspect(load(text, (5, 2)), unmask=True)}
    assert entries["Uu"]["tag"] == "type"
    assert entries["Uu"]["variants"] == [{"case": "one", "type": "q_obj_Ss-wrapper"}]
    assert entries["q_obj_Ss-wrapper"]["members"] == [{"name": "data", "type": "Ss"}]
    assert entries["UuKind"]["meta-type"] == "enum"


def test_a_branch_can_be_a_union():
    text, _, release, _, _ = CHANGES["a union in a union"]
    assert load(text, release).find_type("Vv").branch("a").branch("a").members[0].name == "x"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("defined(A)", "A"),
        (" defined A ", "A"),
        ("!defined(A)", {"not": "A"}),
        ("defined(A) && defined(B)", {"all": ["A", "B"]}),
        (
            "defined(A) && (defined(B) || !defined(C)) && defined(D)",
            {"all": ["A", {"any": ["B", {"not": "C"}]}, "D"]},
        ),
        ("defined(A) || defined(B) && defined(C)", {"any": ["A", {"all": ["B", "C"]}]}),
        ("!(defined(A))", {"not": "A"}),
        ("!!defined(A)", {"not": {"not": "A"}}),
        *[
            (text, text)
            for text in (
                *("A", "A > 1", "defined(A", "defined()", "defined(defined)", "()", "&&"),
                *("defined(A) defined(B)", "!" * 100 + "defined(A)", "(" * 5000, "é"),
            )
        ],
    ],
)
def test_conditions_in_c(text, found):
    assert from_c(text) == found


def test_old_conditions_hold_as_new_ones():
    text = "{'event':'EV','if':['defined(A)','!defined(B)']}"
    for symbols, there in (({"A"}, True), ({"A", "B"}, False), (set(), False)):
        schema = load_schema("s", read=lambda _: text, as_of=(5, 2), symbols=symbols)
        assert (schema.event("EV") is not None) is there


def test_each_file_gives_its_first_error(tmp_path):
    texts = {"good": ENUM, "bad": "\n{'enum':'Ee'}\n{'enum':'Ff'}", "old": STRUCT + "{'a':null}"}
    paths = []
    for name, text in texts.items():
        path = tmp_path / f"{name}.json"
        path.write_text(text)
        paths.append(str(path))
    errors = check_schema([*paths, str(tmp_path / "none.json")])
    assert [error.message.split("'")[0] for error in errors] == [
        *("enum misses key ", "stray ", "can"),
    ]
    assert errors[0].info.path == paths[1]
    assert errors[0].info.line == 2
    assert check_schema(paths[:1]) == []
    assert "exactly one key" in check_schema(paths[2:], as_of=(4, 1))[0].message
