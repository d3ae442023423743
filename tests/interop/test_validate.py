"""The validator's verdict is QEMU's: the same commands, sent to a monitor and judged here."""

from __future__ import annotations

import copy
import random
import re
import socket
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from peers import background, peer

from nbexport.cli.main import cli
from nbexport.qapi.findings import ERROR, validate_command
from nbexport.qmp import QmpClient, QmpCommandError
from nbexport.qmp.jsonstream import JsonStream
from nbexport.qmp.jsontext import encode
from nbexport.sources import load

pytestmark = pytest.mark.interop

RELEASE = (7, 2, 22)
# Every way in which QEMU 7.2 refuses arguments by their form.
BY_FORM = re.compile(
    r"Parameter '.*' (is missing|is unexpected|does not accept value '.*'"
    r"|expects (uint64|u?int(8|16|32)_t))|Invalid parameter type for '.*', expected: \w+"
)
OUT_OF_RANGE = re.compile(r"Parameter '.*' expects u?int(8|16|32)_t")

# No command here succeeds or changes anything as it is: there is no such node or export.
COMMANDS = {
    "nbd-server-add": {"device": "d", "name": "n", "writable": True, "bitmap": "b"},
    "nbd-server-remove": {"name": "n", "mode": "hard"},
    "block-export-add": {
        "type": "nbd",
        "id": "e",
        "node-name": "n",
        "writable": False,
        "bitmaps": ["b", {"node": "n", "name": "b"}],
        "allocation-depth": True,
    },
    "block-export-del": {"id": "e", "mode": "safe"},
    "block-dirty-bitmap-add": {"node": "n", "name": "b", "granularity": 512, "persistent": True},
    "block-dirty-bitmap-remove": {"node": "n", "name": "b"},
    "block-dirty-bitmap-merge": {
        "node": "n",
        "target": "t",
        "bitmaps": ["b", {"node": "n", "name": "b"}],
    },
    "transaction": {
        "actions": [
            {"type": "block-dirty-bitmap-add", "data": {"node": "n", "name": "b"}},
            {
                "type": "block-dirty-bitmap-merge",
                "data": {"node": "n", "target": "t", "bitmaps": ["b"]},
            },
        ],
        "properties": {"completion-mode": "individual"},
    },
    "blockdev-del": {"node-name": "n"},
}
VHOST = {
    "type": "vhost-user-blk",
    "id": "e",
    "node-name": "n",
    "addr": {"type": "unix", "path": "/nonexistent/x"},
    "logical-block-size": 512,
    "num-queues": 1,
}
# Addresses that cannot be listened on.
SERVER = [
    {"addr": {"type": "unix", "data": {"path": "/nonexistent/x"}}, "max-connections": 1},
    {"addr": {"type": "inet", "data": {"host": "192.0.2.1", "port": "1", "to": 2}}},
]
# The package's data describes only some of their kinds.
NARROWED = ("transaction", "blockdev-add")
NAMES = ["x", "node", "name", "type", "data", "id", "", "ü", "max-connections"]
SCALARS = [
    None,
    True,
    0,
    -1,
    1.5,
    255,
    1 << 16,
    1 << 32,
    (1 << 63) - 1,
    (1 << 64) - 1,
    -(1 << 63),
    "",
    "x",
    "nbd",
    "fuse",
    "512",
    "safe",
    "abort",
    [],
    {},
    ["x"],
    [1],
    [None],
    {"node": "n"},
    {"type": "nbd"},
]


def places(value, path=()):
    """Every place inside of a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


def damaged(rng, arguments):
    """Arguments with one to three random changes at random places."""
    arguments = copy.deepcopy(arguments)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        path = rng.choice(list(places(arguments)))
        target = arguments
        for step in path[:-1]:
            target = target[step]
        inner = target[path[-1]] if path else arguments
        kinds = ["replace", "delete"] if path else []
        if isinstance(inner, dict):
            kinds += ["add", "add"]
        elif isinstance(inner, list):
            kinds += ["append"]
        kind = rng.choice(kinds)
        if kind == "replace":
            target[path[-1]] = copy.deepcopy(rng.choice(SCALARS))
        elif kind == "delete":
            del target[path[-1]]
        elif kind == "append":
            inner.append(copy.deepcopy(rng.choice(SCALARS)))
        else:
            for _ in range(rng.randint(1, 4)):
                key = rng.choice([*NAMES, f"m{rng.randint(0, 99)}"])
                inner[key] = copy.deepcopy(rng.choice(SCALARS))
    return arguments


def generated(count):
    rng = random.Random("commands")
    whole = [*COMMANDS.items(), ("block-export-add", VHOST)]
    whole += [("nbd-server-start", arguments) for arguments in SERVER]
    yield from whole
    for _ in range(count):
        name, arguments = rng.choice(whole)
        yield name, damaged(rng, arguments)


@pytest.fixture(scope="module")
def daemon():
    """The socket of a storage daemon."""
    program = peer("qemu-storage-daemon")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "monitor.sock")
        chardev = f"socket,id=c,path={path},server=on,wait=off"
        with background(program, "--chardev", chardev, "--monitor", "chardev=c", ready=path):
            yield path


def verdict_of(client, name, arguments):
    """QEMU's text if it refuses by form, else None."""
    try:
        client.execute(name, arguments)
    except QmpCommandError as error:
        return error.desc if BY_FORM.fullmatch(error.desc) else None
    return None


def first_error(schema, name, arguments):
    findings = validate_command(schema, {"execute": name, "arguments": arguments}, release=RELEASE)
    return next((finding.message for finding in findings if finding.level == ERROR), None)


def harmless(name, arguments):
    """Whether a command may be run if its form is right.

    QEMU 7.2 crashes on some transactions that name missing nodes, and would listen on an address
    that damage made valid.
    """
    if name == "nbd-server-start":
        return arguments in SERVER
    return name != "transaction"


def test_verdict_and_words_are_those_of_the_storage_daemon(daemon):
    ours = load("release:7.2").schema
    refused = accepted = 0
    with QmpClient(daemon) as client:
        for name, arguments in generated(1500):
            if name in NARROWED or ours.command(name) is None:
                continue
            mine = first_error(ours, name, arguments)
            if mine is None and not harmless(name, arguments):
                continue
            assert verdict_of(client, name, arguments) == mine, (name, arguments)
            refused += mine is not None
            accepted += mine is None
    assert refused > 600
    assert accepted > 40


def test_verdict_by_the_daemons_own_introspection(daemon):
    schema = load(f"qmp:{daemon}").schema
    release = load("release:7.2").schema
    compared = beyond = 0
    with QmpClient(daemon) as client:
        for name, arguments in generated(1000):
            mine = first_error(schema, name, arguments)
            if mine is None and not (
                harmless(name, arguments) or first_error(release, name, arguments)
            ):
                continue
            theirs = verdict_of(client, name, arguments)
            if theirs is not None and OUT_OF_RANGE.fullmatch(theirs):
                # introspection does not tell the width of integers
                beyond += 1
                continue
            assert weakened(mine) == weakened(theirs), (name, arguments)
            compared += 1
    assert compared > 200
    assert 0 < beyond < 150


def weakened(text):
    """A refusal without what introspection does not tell: names of types, signs of integers."""
    if text is None:
        return None
    match = re.fullmatch(r"Parameter '(.*)' expects uint64", text)
    if match:
        return f"Invalid parameter type for '{match[1]}', expected: integer"
    return re.sub(
        r"expected: (?!(?:integer|string|boolean|number|null|array|object)$)[-\w]+$",
        "expected: ALTERNATE",
        text,
    )


DEPRECATED = [
    ("nbd-server-add", {"device": "d"}, "deprecated-command"),
    ("nbd-server-remove", {"name": "x"}, "deprecated-command"),
    ("drive-backup", {"device": "d", "target": "t", "sync": "full"}, "deprecated-command"),
    ("block-commit", {"device": "d", "top": "t"}, "deprecated-member"),
    ("block-commit", {"device": "d", "base": "b"}, "deprecated-member"),
    (
        "transaction",
        {
            "actions": [
                {
                    "type": "drive-backup",
                    "data": {"device": "d", "target": "t", "sync": "full"},
                }
            ]
        },
        "deprecated-value",
    ),
    (
        "blockdev-add",
        {
            "driver": "qcow2",
            "node-name": "q",
            "file": {"driver": "ssh", "path": "x", "server": {"host": "h", "port": "1"}},
            "x-y": 1,
        },
        None,
    ),
    ("block-commit", {"device": "d", "top-node": "t"}, None),
    ("query-block", {}, None),
]
UNSTABLE = [
    ("x-debug-block-dirty-bitmap-sha256", {"node": "n", "name": "b"}, "unstable-command"),
    (
        "blockdev-add",
        {
            "driver": "raw",
            "node-name": "r",
            "file": {"driver": "file", "filename": "/nonexistent", "x-check-cache-dropped": True},
        },
        "unstable-member",
    ),
    ("block-dirty-bitmap-add", {"node": "n", "name": "b"}, None),
]


@pytest.mark.parametrize(
    ("policy", "option", "cases"),
    [
        ("deprecated-input=reject", "--no-deprecated", DEPRECATED),
        ("unstable-input=reject", "--no-unstable", UNSTABLE),
    ],
)
def test_what_a_policy_rejects_is_found(policy, option, cases, tmp_path):
    program = peer("qemu-system-x86_64")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "monitor.sock")
        options = ["-M", "none", "-nodefaults", "-display", "none", "-compat", policy]
        options += ["-qmp", f"unix:{path},server=on,wait=off"]
        with background(program, *options, ready=path), QmpClient(path) as client:
            theirs = []
            for name, arguments, _ in cases:
                try:
                    client.execute(name, arguments)
                    theirs.append("")
                except QmpCommandError as error:
                    theirs.append(error.desc)
            entries = client.execute("query-qmp-schema")
    saved = tmp_path / "schema.json"
    saved.write_text(encode(entries))
    schema = load(str(saved)).schema
    for (name, arguments, kind), desc in zip(cases, theirs, strict=True):
        command = {"execute": name, "arguments": arguments}
        kinds = [
            finding.kind
            for finding in validate_command(schema, command, release=RELEASE)
            if finding.level != ERROR
        ]
        assert kinds == ([kind] if kind else []), name
        assert ("disabled by policy" in desc) == (kind is not None), (name, desc)
        result = CliRunner().invoke(
            cli, ["validate", "--against", str(saved), option], input=encode(command)
        )
        assert result.exit_code == int(bool(kind) or bool(first_error(schema, name, arguments)))


def test_every_command_of_a_stream_is_judged_against_a_running_monitor(daemon):
    text = '{"execute": "query-block-exports"}\n{"execute": "block-export-del"}\n'
    result = CliRunner().invoke(cli, ["validate", "--against", f"qmp:{daemon}"], input=text)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "stdin:1: query-block-exports: accepted",
        (
            "stdin:2: block-export-del: error: arguments.id: Parameter 'id' is missing "
            "[missing-member]"
        ),
    ]


def test_faults_of_the_request_itself_are_named_alike(daemon):
    schema = load(f"qmp:{daemon}").schema
    rng = random.Random("requests")
    choices = {
        "execute": ["query-block-exports", "none", 1, None, {}, ""],
        "exec-oob": ["query-block-exports", "none", 1],
        "arguments": [{}, {"x": 1}, [], None, "x"],
        "id": [1, None, {}],
        "more": [1],
        "control": [1],
    }
    stream = JsonStream()
    faults = 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(daemon))

        def answer(request=None):
            if request is not None:
                connection.sendall(encode(request).encode() + b"\n")
            while (message := stream.next()) is None:
                stream.feed(connection.recv(65536))
            return message.value

        assert "oob" in answer()["QMP"]["capabilities"]
        enable = {"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}
        assert answer(enable) == {"return": {}}
        for _ in range(300):
            names = rng.sample(sorted(choices), rng.randint(0, 4))
            request = {name: rng.choice(choices[name]) for name in names}
            findings = validate_command(schema, request, release=RELEASE)
            theirs = answer(request).get("error", {}).get("desc")
            assert (findings[0].message if findings else None) == theirs, request
            faults += theirs is not None
        for value in ([], [{"execute": "quit"}], "quit", 1, True):
            (finding,) = validate_command(schema, value)
            assert finding.message == answer(value)["error"]["desc"]
    assert 200 < faults < 300
