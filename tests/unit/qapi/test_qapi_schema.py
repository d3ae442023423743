"""The rules of the language, one small schema each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.errors import UsageError
from nbexport.qapi import QapiError, load_schema, parse_release
from nbexport.qapi.model import Condition


def load(text, symbols=None):
    return load_schema("s.json", read=lambda _path: text, symbols=symbols)


def fault(text):
    with pytest.raises(QapiError) as caught:
        load(text)
    return str(caught.value)


ENUM = "{'enum':'Ee','data':['a','b']}"
STRUCT = "{'struct':'Ss','data':{'x':'int'}}"

PLAIN = "##\n# @Ee:\n# @a: y\n# @b: z\n"

FAULTS = [
    ("{'x':'y'}", "expression must have exactly one key 'enum', 'struct', 'union', 'alternate',"),
    ("{'enum':[]}", "'enum' requires a string name"),
    ("{'enum':'e','data':[]}", "name of enum must use CamelCase"),
    ("{'enum':'EeList','data':[]}", "enum name should not end in 'List'"),
    ("{'enum':'Ee e','data':[]}", "enum has an invalid name"),
    ("{'enum':'Ee'}", "enum misses key 'data'"),
    ("{'enum':'Ee','data':[],'x':'y','z':'w'}", "enum has unknown keys 'x', 'z'\nValid keys are"),
    ("{'enum':'Ee','data':{}}", "'data' must be an array"),
    ("{'enum':'Ee','data':[],'prefix':[]}", "'prefix' must be a string"),
    ("{'enum':'Ee','data':[true]}", "'data' member requires a string name"),
    ("{'enum':'Ee','data':['A']}", "name of 'data' member 'A' must not use uppercase or '_'"),
    ("{'enum':'Ee','data':['a_b']}", "must not use uppercase or '_'"),
    ("{'enum':'Ee','data':['']}", "'data' member '' has an invalid name"),
    ("{'enum':'Ee','data':['a','a']}", "value 'a' collides with value 'a'"),
    ("{'enum':'Ee','data':[{'name':'a','if':1}]}".replace("1", "[]"), "must be a string or an obj"),
    ("{'struct':'Ss','data':'x'}", "'data' should be an object or type name"),
    ("{'struct':'Ss','data':[]}", "'data' cannot be an array"),
    ("{'struct':'Ss','data':true}", "'data' should be an object or type name"),
    ("{'struct':'Ss','data':{'A':'int'}}", "name of 'data' member 'A' must not use uppercase"),
    ("{'struct':'Ss','data':{'u':'int'}}", "'data' member 'u' uses reserved name"),
    ("{'struct':'Ss','data':{'has-a':'int'}}", "uses reserved name"),
    ("{'struct':'Ss','data':{'q-a':'int'}}", "has an invalid name"),
    ("{'struct':'Ss','data':{'a':'no'}}", "member 'a' uses unknown type 'no'"),
    ("{'struct':'Ss','data':{'a':['no']}}", "struct uses unknown type 'no'"),
    ("{'struct':'Ss','data':{'a':['x','y']}}", "array type must contain single type name"),
    ("{'struct':'Ss','data':{'a':{'x':'y'}}}", "misses key 'type'"),
    ("{'struct':'Ss','data':{'a':'int','*a':'int'}}", "member 'a' collides with member 'a'"),
    ("{'struct':'Ss','data':{'a-b':'int','a.b':'int'}}", "has an invalid name"),
    ("{'struct':'Ss','data':{},'base':[]}", "'base' cannot be an array"),
    ("{'struct':'Ss','data':{},'base':{}}", "'base' should be a type name"),
    ("{'struct':'Ss','data':{},'base':'no'}", "'base' uses unknown type 'no'"),
    (
        ENUM + "{'struct':'Ss','data':{},'base':'Ee'}",
        "'base' requires a struct type, enum type 'Ee'",
    ),
    ("{'struct':'Ss','data':{},'base':'Ss'}", "object Ss contains itself"),
    (STRUCT + "{'struct':'Tt','data':{'x':'int'},'base':'Ss'}", "member 'x' of type 'Ss'"),
    (STRUCT + STRUCT, "'Ss' is already defined\ns.json: In struct 'Ss':\ns.json:1: previous"),
    ("{'struct':'QType','data':{}}", "enum type 'QType' is already defined"),
    ("{'struct':'Ss','data':{},'features':'x'}", "'features' must be an array"),
    ("{'struct':'Ss','data':{},'features':[true]}", "'features' member requires a string name"),
    ("{'struct':'Ss','data':{},'features':['a','a']}", "feature 'a' collides with feature 'a'"),
    ("{'struct':'Ss','data':{},'features':['deprecated']}", "is not supported for types"),
    (
        "{'struct':'Ss','data':{},'if':'x'}",
        "'if' condition 'x' of struct is not a valid identifier",
    ),
    ("{'struct':'Ss','data':{},'if':{}}", "'if' condition of struct has conflicting keys"),
    ("{'struct':'Ss','data':{},'if':{'all':[]}}", "'if' condition [] of struct is useless"),
    ("{'struct':'Ss','data':{},'if':{'any':'A'}}", "'any' condition of struct must be an array"),
    ("{'struct':'Ss','data':{},'if':{'x':'A'}}", "has unknown key 'x'"),
    ("{'struct':'Ss','data':{},'if':" + "{'not':" * 500 + "'A'" + "}" * 501, "deeper than 480"),
    ("{'union':'Uu','base':{},'data':{}}", "union misses key 'discriminator'"),
    ("{'union':'Uu','base':{},'discriminator':[],'data':{}}", "'discriminator' requires a string"),
    ("{'union':'Uu','base':{},'discriminator':'t','data':[]}", "'data' must be an object"),
    ("{'union':'Uu','base':{},'discriminator':'t','data':{}}", "'t' is not a member of 'base'"),
    (
        "{'union':'Uu','base':{'t':'str'},'discriminator':'t','data':{}}",
        "discriminator member 't' of 'base' must be of enum type",
    ),
    (
        ENUM + "{'union':'Uu','base':{'*t':'Ee'},'discriminator':'t','data':{}}",
        "must not be optional",
    ),
    (
        ENUM + "{'union':'Uu','base':{'t':{'type':'Ee','if':'A'}},'discriminator':'t','data':{}}",
        "must not be conditional",
    ),
    (
        "{'enum':'Nn','data':[]}{'union':'Uu','base':{'t':'Nn'},'discriminator':'t','data':{}}",
        "union has no branches",
    ),
    (
        ENUM + STRUCT + "{'union':'Uu','base':{'t':'Ee'},'discriminator':'t','data':{'c':'Ss'}}",
        "branch 'c' is not a value of enum type 'Ee'",
    ),
    (
        ENUM + "{'union':'Uu','base':{'t':'Ee'},'discriminator':'t','data':{'a':'int'}}",
        "branch 'a' cannot use built-in type 'int'",
    ),
    (
        ENUM + STRUCT + "{'union':'Uu','base':{'t':'Ee','x':'int'},'discriminator':'t','data':"
        "{'a':'Ss'}}",
        "member 'x' of type 'Ss' collides with base member 'x'",
    ),
    ("{'alternate':'Alt','data':{}}", "'data' must not be empty"),
    ("{'alternate':'Alt','data':['x']}", "'data' must be an object"),
    ("{'alternate':'Alt','data':{'a':'no'}}", "branch 'a' uses unknown type 'no'"),
    ("{'alternate':'Alt','data':{'a':'any'}}", "branch 'a' cannot use built-in type 'any'"),
    (
        "{'alternate':'Alt','data':{'a':'str','b':'int'}}",
        "branch 'b' can't be distinguished from 'a'",
    ),
    (
        "{'enum':'Oo','data':['on']}{'alternate':'Alt','data':{'a':'bool','b':'Oo'}}",
        "branch 'b' can't be distinguished from 'a'",
    ),
    ("{'command':'A'}", "name of command must not use uppercase or '_'"),
    ("{'command':'a_b'}", "name of command must not use uppercase or '_'"),
    ("{'command':'a','boxed':true}", "'boxed': true requires 'data'"),
    ("{'command':'a','data':'Ss','boxed':false}" + STRUCT, "flag 'boxed' may only use true value"),
    ("{'command':'a','data':{},'boxed':true}", "'data' should be a type name"),
    ("{'command':'a','data':'int'}", "command's 'data' cannot take built-in type 'int'"),
    ("{'command':'a','data':['int']}", "'data' cannot be an array"),
    ("{'command':'a','returns':'no'}", "command's 'returns' uses unknown type 'no'"),
    ("{'command':'a','returns':'int'}", "command's 'returns' cannot take built-in type 'int'"),
    ("{'command':'a','returns':['int']}", "command's 'returns' cannot take array type ['int']"),
    ("{'command':'a','gen':true}", "flag 'gen' may only use false value"),
    ("{'command':'a','allow-oob':true,'coroutine':true}", "are incompatible"),
    ("{'event':'e'}", "name of event must not use lowercase or '-'"),
    ("{'event':'EV','data':'no'}", "event's 'data' uses unknown type 'no'"),
    (
        ENUM + STRUCT + "{'union':'Uu','base':{'t':'Ee'},'discriminator':'t','data':{'a':'Ss'}}"
        "{'event':'EV','data':'Uu'}",
        "event's 'data' can take union type 'Uu' only with 'boxed': true",
    ),
    ("{'pragma':{'doc-required':true}}" + ENUM, "documentation comment required"),
    ("##\n# @F:\n##\n" + ENUM, "documentation comment is for 'F'"),
    ("##\n# @Ee:\n# Returns: x\n##\n" + ENUM, "'Returns' section is only valid for commands"),
    (PLAIN + "# @c: x\n##\n" + ENUM, "documented member 'c' does not exist"),
    (PLAIN + "# @c: x\n# @d: x\n##\n" + ENUM, "documented members 'c', 'd' do not exist"),
    (PLAIN + "#\n# Features:\n# @f: x\n##\n" + ENUM, "documented feature 'f' does not exist"),
    (
        "##\n# @Ss:\n##\n{'struct':'Ss','data':{},'features':['f']}",
        "feature 'f' lacks documentation",
    ),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=range(len(FAULTS)))
def test_faults(text, message):
    assert message in fault(text)


def test_a_fault_names_the_definition():
    assert fault("\n{'enum':'Ee','data':['a','a']}") == (
        "s.json: In enum 'Ee':\ns.json:2: value 'a' collides with value 'a'"
    )


def test_a_chain_of_bases_is_bounded():
    def chain(length):
        links = [f"{{'struct':'S{n}x','data':{{}},'base':'S{n + 1}x'}}" for n in range(length)]
        return "".join(links) + f"{{'struct':'S{length}x','data':{{'a':'int'}}}}"

    assert load(chain(999)).find_type("S0x").members[0].name == "a"
    assert "objects are deeper than 1000" in fault(chain(1000))
    backwards = "\n".join(reversed(chain(1000).replace("}{", "}\n{").split("\n")))
    assert "objects are deeper than 1000" in fault(backwards)


GOOD = """
{'pragma':{'command-returns-exceptions':['count'],'command-name-exceptions':['old_name']}}
{'enum':'Kind','data':['plain',{'name':'extra','if':'CONFIG_EXTRA','features':['deprecated']},
                       'bare']}
{'struct':'Base','data':{'kind':'Kind','*note':'str'}}
{'struct':'Plain','data':{'size':{'type':'size','features':['unstable']}}}
{'struct':'Extra','data':{'list':['uint8']},'if':'CONFIG_EXTRA'}
{'union':'Thing','base':'Base','discriminator':'kind',
 'data':{'plain':'Plain','extra':{'type':'Extra','if':'CONFIG_EXTRA'}}}
{'alternate':'Either','data':{'a':'str','b':'Base','c':['int'],'n':'null'}}
{'command':'count','returns':'int','if':{'not':'CONFIG_SMALL'}}
{'command':'old_name','data':'Thing','boxed':true,'returns':['Thing'],'features':['deprecated'],
 'allow-oob':true,'allow-preconfig':true}
{'struct':'Run','data':{'what':'Either','*flag':{'type':'bool','if':{'any':['A','B']}}}}
{'command':'run','boxed':true,'data':'Run',
 'gen':false,'success-response':false}
{'event':'DONE','data':{'id':'str'}}
{'event':'IDLE'}
"""


def test_resolution():
    schema = load(GOOD)
    thing = schema.find_type("Thing")
    assert [member.name for member in thing.members] == ["kind", "note"]
    assert [variant.name for variant in thing.variants] == ["plain", "extra", "bare"]
    assert thing.branch("bare") is schema.empty
    assert thing.branch("none") is None
    assert [member.name for member in thing.branch("plain").members] == ["size"]
    command = schema.command("old_name")
    assert command.has_feature("deprecated")
    assert (command.boxed, command.allow_oob, command.allow_preconfig) == (True, True, True)
    assert command.ret_type.element is thing
    assert schema.event("DONE").arg_type.name == "q_obj_DONE-arg"
    assert schema.command("run").success_response is False
    assert schema.event("DONE").arg_type.members[0].type is schema.find_type("str")
    assert schema.event("IDLE").arg_type is None
    assert schema.command("DONE") is None
    assert schema.find_type("run") is None
    assert schema.all_symbols == {"CONFIG_EXTRA", "CONFIG_SMALL", "A", "B"}


def test_symbols_decide_what_is_there():
    everything = load(GOOD, symbols={"CONFIG_EXTRA", "A"})
    nothing = load(GOOD, symbols=set())
    assert load(GOOD, symbols={"CONFIG_SMALL"}).command("count") is None
    assert nothing.command("count") is not None
    for schema, expected in ((everything, ["what", "flag"]), (nothing, ["what"])):
        members = schema.members(schema.command("run").arg_type)
        assert [member.name for member in members] == expected


def test_conditions():
    condition = Condition({"all": ["A", {"any": ["B", {"not": "C"}]}]})
    assert condition.holds({"A", "B", "C"})
    assert condition.holds({"A"})
    assert not condition.holds({"A", "C"})
    assert str(condition) == "A and (B or not C)"
    assert condition.symbols() == {"A", "B", "C"}
    assert Condition().holds(set())
    assert not Condition()
    assert str(Condition()) == ""


def test_releases():
    assert parse_release("7.2") == (7, 2)
    assert parse_release("10.0.13") == (10, 0, 13)
    for text in ("", "7", "7.2.", "7.x", "7.2.1.1", "99999.1"):
        with pytest.raises(UsageError, match="is no release"):
            parse_release(text)


WORDS = ["enum", "struct", "union", "alternate", "command", "event", "data", "base", "if", "E"]
WORDS += [
    "Ee",
    "Ss",
    "discriminator",
    "features",
    "returns",
    "boxed",
    "int",
    "a",
    "*a",
    "all",
    "not",
    "A",
]
VALUES = st.recursive(
    st.one_of(st.booleans(), st.sampled_from(WORDS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)


def write(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, list):
        return "[" + ",".join(map(write, value)) + "]"
    return "{" + ",".join(f"'{key}':{write(item)}" for key, item in value.items()) + "}"


@given(st.lists(st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=5), max_size=3))
def test_any_expressions_are_a_schema_or_refused(expressions):
    message = "s.json:"
    try:
        load("\n".join(map(write, expressions)))
    except QapiError as error:
        message = str(error)
    assert message.startswith("s.json:")
