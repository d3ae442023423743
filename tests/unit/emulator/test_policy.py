"""Policies, and interfaces after a removal."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from nbexport.emulator import Machine, Release, make_monitor
from nbexport.errors import CommandError, UsageError
from nbexport.qapi import introspect, load_release, load_schema, load_without
from nbexport.qmp import CompatPolicy, Dispatcher
from nbexport.qmp.policy import PolicyCrashError
from nbexport.qmp.session import Session

LIMIT = 10.0


def policy(text, release="7.2"):
    return CompatPolicy.parse(text, Release.parse(release).version)


def ask(command, arguments=None, *, text="", release="7.2", result=None, removed=()):
    """Dispatch a command that would return ``result``; return it, or the error."""

    async def handler(_arguments):
        return result

    schema = load_without(load_release(release), removed)
    handlers = {
        c.name: handler
        for c in schema.commands()
        if c.name not in ("query-commands", "query-qmp-schema", "qmp_capabilities")
    }
    number = Release.parse(release).version
    made = policy(text, release) if text else None
    dispatcher = Dispatcher(schema, handlers, release=number, policy=made)
    try:
        return asyncio.run(dispatcher.dispatch(command, arguments or {}))
    except CommandError as error:
        return error.error_class, error.desc


REJECT = "deprecated-input=reject"
BOTH = "deprecated-input=reject,unstable-input=reject"
ADD = {"device": "d"}
NBD = {"driver": "nbd", "node-name": "n", "server": {"type": "unix", "path": "/x"}}
NESTED = {"driver": "raw", "node-name": "r", "file": {**NBD, "x-dirty-bitmap": "b"}}


def test_commands():
    found = ask("nbd-server-add", {"bogus": 1}, text=REJECT)
    assert found == ("CommandNotFound", "Deprecated command nbd-server-add disabled by policy")
    assert ask("nbd-server-add", ADD, text="unstable-input=reject") == {}
    name = "x-debug-block-dirty-bitmap-sha256"
    found = ask(name, text="unstable-input=reject")
    assert found == ("CommandNotFound", f"Unstable command {name} disabled by policy")
    # before there were features, nothing was known to be unstable
    assert ask("nbd-server-add", ADD, text="deprecated-input=accept", release="6.0") == {}


def test_arguments_at_any_depth_in_the_order_of_the_walk():
    told = ("GenericError", "Unstable parameter x-dirty-bitmap disabled by policy")
    assert ask("blockdev-add", {**NBD, "x-dirty-bitmap": "b"}, text=BOTH) == told
    assert ask("blockdev-add", NESTED, text=BOTH) == told
    assert ask("blockdev-add", NESTED, text=REJECT) == {}
    # an error of a member before it comes first, one of a member after it does not
    assert "expected: boolean" in ask("blockdev-add", {**NESTED, "read-only": 1}, text=BOTH)[1]
    wrong = {"driver": "nbd", "server": {"type": "unix", "path": "/x"}, "x-dirty-bitmap": 1}
    assert ask("blockdev-add", wrong, text=BOTH) == told


SCHEMA = """
{ 'enum': 'Kind', 'data': [ 'new', { 'name': 'old', 'features': [ 'deprecated' ] },
                            { 'name': 'odd', 'features': [ 'deprecated', 'unstable' ] } ] }
{ 'struct': 'Thing', 'data': { 'name': 'str',
                               'x-a': { 'type': 'int', 'features': [ 'unstable' ] },
                               '*b': { 'type': 'int', 'features': [ 'deprecated' ] },
                               '*deep': 'Thing' } }
{ 'command': 'query-things', 'data': { '*kinds': [ 'Kind' ] }, 'returns': [ 'Thing' ] }
{ 'event': 'THING', 'data': 'Thing' }
{ 'event': 'OLD_THING', 'features': [ 'deprecated' ] }
"""
THING = {"name": "n", "x-a": 1, "b": 2}


@pytest.fixture
def own(tmp_path):
    """A schema that has what the real ones, cut down to this project's family, do not."""
    (tmp_path / "s.json").write_text("{ 'pragma': { 'doc-required': false } }" + SCHEMA)
    return load_schema(str(tmp_path / "s.json"))


def things(schema, text, kinds):
    async def handler(_arguments):
        return [{**THING, "deep": THING}]

    dispatcher = Dispatcher(schema, {"query-things": handler}, release=(7, 2), policy=policy(text))
    return asyncio.run(dispatcher.dispatch("query-things", {"kinds": kinds}))


@pytest.mark.parametrize(
    ("text", "kinds", "words"),
    [
        (REJECT, ["new", "old"], "Deprecated value old disabled by policy"),
        (BOTH, ["odd"], "Deprecated value odd disabled by policy"),
        ("unstable-input=reject", ["odd"], "Unstable value odd disabled by policy"),
        (REJECT, ["old", "none"], "Deprecated value old disabled by policy"),
        (REJECT, ["none", "old"], "Parameter 'null' does not accept value 'none'"),
    ],
)
def test_values(own, text, kinds, words):
    with pytest.raises(CommandError) as caught:
        things(own, text, kinds)
    assert caught.value.desc == words


def test_results_lose_hidden_members_at_any_depth(own):
    left = {"name": "n", "x-a": 1}
    assert things(own, "deprecated-output=hide", ["old"]) == [{**left, "deep": left}]
    left = {"name": "n", "b": 2}
    assert things(own, "unstable-output=hide", []) == [{**left, "deep": left}]


def test_events_lose_hidden_members_and_are_hidden(own):
    async def scenario(text):
        dispatcher = Dispatcher(own, {}, release=(7, 2), policy=policy(text))
        session = Session(own, version={}, release=(7, 2), policy=dispatcher.policy)
        session.negotiated = True
        session.data_to_send()
        session.event("THING", THING, (0, 0))
        data = json.loads(session.data_to_send())["data"]
        return data, dispatcher.policy.hides(own, own.event("OLD_THING"))

    assert asyncio.run(scenario("deprecated-output=hide")) == ({"name": "n", "x-a": 1}, True)
    assert asyncio.run(scenario("unstable-output=hide")) == ({"name": "n", "b": 2}, False)
    assert asyncio.run(scenario("")) == (THING, False)


def test_a_crash_is_no_answer():
    with pytest.raises(PolicyCrashError):
        ask("nbd-server-add", ADD, text="deprecated-input=crash")


def test_hidden_members_of_results():
    # the values of an enumeration, and the schema's deprecated commands
    plain = ask("query-qmp-schema")
    hidden = ask("query-qmp-schema", text="deprecated-output=hide")
    gone = {entry["name"] for entry in plain} - {entry["name"] for entry in hidden}
    assert {"nbd-server-add", "nbd-server-remove"} <= gone
    assert all("values" in entry for entry in plain if entry["meta-type"] == "enum")
    assert not any("values" in entry for entry in hidden)
    # what is unstable stays in the schema
    assert ask("query-qmp-schema", text="unstable-output=hide") == plain
    names = ask("query-commands", text="deprecated-output=hide")
    assert {"name": "nbd-server-add"} in names


@pytest.mark.parametrize(
    ("text", "release", "words"),
    [
        ("bogus=1", "7.2", "Parameter 'bogus' is unexpected"),
        (
            "deprecated-input=x",
            "7.2",
            "Parameter 'deprecated-input' does not accept value 'x'",
        ),
        ("deprecated-input=x", "6.0", "Invalid parameter 'x'"),
        ("deprecated-output=reject", "7.2", "does not accept value 'reject'"),
        ("unstable-input=accept", "6.1", "Parameter 'unstable-input' is unexpected"),
        ("deprecated-input=accept", "5.2", "invalid option"),
        ("deprecated-input", "7.2", "Expected '=' after parameter 'deprecated-input'"),
        ("=1", "7.2", "Invalid parameter ''"),
        ("deprecated-input.x=1", "7.2", "Parameters 'deprecated-input.*' are unexpected"),
        ("deprecated-input=reject,,x", "7.2", "does not accept value 'reject,x'"),
        ("{nope", "7.2", "not one JSON object"),
        ("{'deprecated-input':1}", "7.2", "'deprecated-input', expected: string"),
    ],
)
def test_bad_policies(text, release, words):
    with pytest.raises(UsageError) as caught:
        policy(text, release)
    assert words in str(caught.value)


def test_good_policies():
    assert policy("") == policy("deprecated-input=reject,deprecated-input=accept,")
    assert policy("{'unstable-output':'hide'}").unstable_output == "hide"


def test_removal():
    told = ask("nbd-server-add", ADD, removed=["nbd-server-add"])
    assert told == ("CommandNotFound", "The command nbd-server-add has not been found")
    assert {"name": "nbd-server-add"} not in ask("query-commands", removed=["nbd-server-add"])
    removed = ["nbd-server-add.bitmap", "transaction.actions.type.block-dirty-bitmap-add"]
    told = ask("nbd-server-add", {**ADD, "bitmap": "b"}, removed=removed)
    assert told == ("GenericError", "Parameter 'bitmap' is unexpected")
    assert ask("nbd-server-add", ADD, removed=removed) == {}
    add = {"type": "block-dirty-bitmap-add", "data": {"node": "n", "name": "b"}}
    assert "does not accept value" in ask("transaction", {"actions": [add]}, removed=removed)[1]
    clear = {"type": "block-dirty-bitmap-clear", "data": {"node": "n", "name": "b"}}
    assert ask("transaction", {"actions": [clear]}, removed=removed) == {}
    # another command that takes the same type keeps the argument
    told = ask(
        "block-dirty-bitmap-clear", {"node": "n"}, removed=["block-dirty-bitmap-remove.name"]
    )
    assert told == ("GenericError", "Parameter 'name' is missing")
    inner = "blockdev-add.server"
    assert "'server' is unexpected" in ask("blockdev-add", NBD, removed=[inner])[1]


def test_removal_shows_in_the_introspection_alone():
    schema = load_release("7.2")
    before = introspect(schema)
    after = introspect(load_without(schema, ["BLOCK_EXPORT_DELETED", "nbd-server-add.bitmap"]))
    assert introspect(schema) == before
    names = [entry["name"] for entry in after]
    assert len(names) == len(set(names))
    assert "BLOCK_EXPORT_DELETED" not in names
    by_name = {entry["name"]: entry for entry in after}
    members = by_name[by_name["nbd-server-add"]["arg-type"]]["members"]
    assert "bitmap" not in [member["name"] for member in members]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nope", "'nope' is no command or event"),
        ("nbd-server-add.nope", "command 'nbd-server-add' has no 'nope'"),
        ("nbd-server-stop.x", "command 'nbd-server-stop' has no 'x'"),
        ("NbdServerAddOptions", "is no command or event"),
        ("transaction.actions.type.nope", "has no 'actions.type.nope'"),
    ],
)
def test_what_is_not_there_cannot_be_removed(name, words):
    with pytest.raises(UsageError) as caught:
        load_without(load_release("7.2"), [name])
    assert words in str(caught.value)


def test_removing_events_and_the_crash_on_a_real_socket(tmp_path):
    async def scenario():
        machine = Machine(Release.parse("7.2"), removed=["SHUTDOWN"])
        made = CompatPolicy(deprecated_input="crash", release=(7, 2))
        monitor = make_monitor(machine, policy=made)
        path = tmp_path / "m.sock"
        other = tmp_path / "o.sock"
        await monitor.listen_unix(path)
        await monitor.listen_unix(other, pretty=True)
        first = await asyncio.open_unix_connection(str(path))
        second = await asyncio.open_unix_connection(str(other))
        monitor.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        first[1].write(b"{'execute':'qmp_capabilities'}")
        greeting, done = [await first[0].readuntil(b"\r\n") for _ in range(2)]
        assert json.loads(done) == {"return": {}}
        first[1].write(b"{'execute':'nbd-server-add','arguments':{'device':'d'}}")
        closed = asyncio.create_task(monitor.wait_closed())
        with contextlib.suppress(ConnectionResetError):
            assert await first[0].read() == b""
        with contextlib.suppress(ConnectionResetError):
            assert b"SHUTDOWN" not in await second[0].read()
        assert greeting.startswith(b'{"QMP"')
        await closed
        await machine.close()
        for _, writer in (first, second):
            writer.close()

    async def limited():
        async with asyncio.timeout(LIMIT):
            await scenario()

    asyncio.run(limited())
