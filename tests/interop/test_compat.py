"""Policies compared with those of QEMU: the same option, the same bytes, the same answers."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys

import pytest
from peers import TIME_LIMIT, peer

from nbexport.qmp import CompatPolicy

pytestmark = pytest.mark.interop

SYSTEM = "qemu-system-x86_64"
OUTPUT_MAX = 1 << 20
CAPS = '{"execute":"qmp_capabilities"}'
QUIT = '{"execute":"quit"}'
NBD = {"driver": "nbd", "node-name": "n", "server": {"type": "unix", "path": "/none"}}
MERGED = "deprecated-input=reject,unstable-input=reject,deprecated-output=hide"


def call(command, arguments=None, **more):
    request = {"execute": command, **more}
    if arguments is not None:
        request["arguments"] = arguments
    return json.dumps(request)


COMMANDS = [
    call("nbd-server-add", {"bogus": 1}, id=1),
    call("nbd-server-add"),
    call("nbd-server-remove", {"name": 1}),
    call("nbd-server-remove", {"name": "e", "bogus": 1}),
    call("x-debug-block-dirty-bitmap-sha256"),
    call("x-debug-block-dirty-bitmap-sha256", {"node": "n", "name": "b"}),
    call("blockdev-add", {**NBD, "x-dirty-bitmap": 1}),
    call("blockdev-add", {**NBD, "read-only": 1, "x-dirty-bitmap": "b"}),
    call("blockdev-add", {**NBD, "bogus": 1, "x-dirty-bitmap": "b"}),
    call("blockdev-add", {"driver": "raw", "node-name": 5, "file": {"x-dirty-bitmap": "b"}}),
    call("block-export-add", {"type": "nbd", "id": "e", "node-name": "n", "bogus": 1}),
    call("block-export-del", {"id": "none"}),
    call("nope"),
    '{"exec-oob":"nbd-server-add"}',
    call("nbd-server-stop"),
]
# accepted, these would connect
UNSTABLE = [
    call("blockdev-add", {**NBD, "x-dirty-bitmap": "b"}),
    call("blockdev-add", {"driver": "raw", "file": {**NBD, "x-dirty-bitmap": "b"}}),
]


def talk(program, options, requests, release="7.2"):
    """Return exit status, the lines of output without time and version, standard error."""
    if program == SYSTEM:
        words = [peer(SYSTEM), "-M", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    else:
        words = [sys.executable, "-m", "nbexport", "qmp", "--release", release, "--stdio"]
        options = ["-" + word if word.startswith("-") else word for word in options]
    reading, writing = os.pipe()
    try:
        # Whoever quits forgets what its pipe has no room for: all of an introspection has to fit.
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, OUTPUT_MAX)
        done = subprocess.run(
            [*words, *options],
            input="".join(line + "\n" for line in requests),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
    finally:
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as stream:
            told = stream.read()
    shown = re.sub(r'"timestamp": \{[^}]*\}', '"timestamp": 0', told)
    shown = re.sub(r'"version": \{.*?\}, "package": "[^"]*"\}', '"version": 0', shown)
    return done.returncode, shown.splitlines(), done.stderr


@pytest.fixture(scope="module", autouse=True)
def _release():
    greeting = talk(SYSTEM, [], [CAPS, call("query-version"), QUIT])[1]
    if '"major": 7' not in greeting[2] or '"minor": 2' not in greeting[2]:
        pytest.skip("qemu-system-x86_64 is not of release 7.2")


@pytest.mark.parametrize(
    "policy",
    [
        "deprecated-input=reject",
        "unstable-input=reject",
        MERGED,
        "deprecated-input=reject,deprecated-input=accept",
        '{"deprecated-input": "reject"}',
        "",
    ],
)
def test_the_same_answers(policy):
    unstable = UNSTABLE if "unstable-input=reject" in policy else []
    requests = [CAPS, *COMMANDS, *unstable, QUIT]
    theirs, ours = (talk(name, ["-compat", policy], requests) for name in (SYSTEM, "ours"))
    assert len(theirs[1]) > len(COMMANDS)
    assert ours == theirs
    rejects = "reject" in policy and "accept" not in policy
    assert any("disabled by policy" in line for line in theirs[1]) == rejects


def test_the_last_option_counts():
    options = ["-compat", "deprecated-input=reject", "-compat", "unstable-input=reject"]
    requests = [CAPS, *COMMANDS, *UNSTABLE, QUIT]
    assert talk("ours", options, requests) == talk(SYSTEM, options, requests)


@pytest.mark.parametrize(
    ("policy", "request_"),
    [
        ("deprecated-input=crash", call("nbd-server-add", {"bogus": 1})),
        ("unstable-input=crash", call("blockdev-add", {**NBD, "x-dirty-bitmap": "b"})),
    ],
)
def test_the_same_crash(policy, request_):
    requests = [CAPS, call("nbd-server-stop"), request_, QUIT]
    theirs, ours = (talk(name, ["-compat", policy], requests) for name in (SYSTEM, "ours"))
    assert theirs[0] == -6
    assert len(theirs[1]) == 3
    assert ours == theirs


@pytest.mark.parametrize(
    "policy",
    [
        "bogus=1",
        "deprecated-input=x",
        "deprecated-input",
        "=1",
        "no-input",
        "deprecated-input.x=1",
        "deprecated-input=reject,,x",
        "deprecated-input=reject,bogus=2,unstable-input=zz",
        "unstable-output=crash",
        "deprecated-input=reject,,",
        ",",
        ",a=1",
        "a,b=1",
        "a.b=1",
        "a=1,deprecated-input=reject,b=2",
    ],
)
def test_the_same_refusals(policy):
    status, _, theirs = talk(SYSTEM, ["-compat", policy], [QUIT])
    assert status == 1
    status, _, ours = talk("ours", ["-compat", policy], [QUIT])
    assert status == 2
    text = theirs.strip().removeprefix(f"{SYSTEM}: -compat ")
    assert ours.strip().endswith(f"--compat {text}")


def test_the_same_pieces_of_the_schema_are_hidden():
    asked = [CAPS, call("query-qmp-schema"), call("query-commands"), QUIT]

    def answers(policy):
        return [json.loads(line) for line in talk(SYSTEM, ["-compat", policy], asked)[1]][2:4]

    plain, commands = answers("")
    hidden, same_commands = answers("deprecated-output=hide")
    assert commands == same_commands
    assert plain != hidden
    policy = CompatPolicy(deprecated_output="hide", release=(7, 2))
    # "values" is an ordinary member of the answer that is deprecated itself
    expected = [
        {name: value for name, value in entry.items() if name != "values"}
        for entry in policy.filter_schema(plain["return"])
    ]
    assert hidden["return"] == expected
    assert answers("unstable-output=hide")[0] == plain
    # ours hides the same of what it has
    ours = talk("ours", ["-compat", "deprecated-output=hide"], asked)[1]
    ours_plain = talk("ours", [], asked)[1]
    gone = _names(ours_plain[2]) - _names(ours[2])
    assert gone == {"drive-backup", "nbd-server-add", "nbd-server-remove"}
    assert gone <= _names(json.dumps(plain)) - _names(json.dumps(hidden))
    assert ours[3] == ours_plain[3]
    assert '"values": [' not in ours[2]


def _names(line):
    return {entry["name"] for entry in json.loads(line)["return"]}
