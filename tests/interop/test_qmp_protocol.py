"""The same bytes sent to qemu-storage-daemon and to our server get the same bytes back.

Both sides are given one connection a case: the case's pieces are sent, the sending side is shut
down, and everything up to the end of the connection is compared. Only commands whose errors come
before any state is looked at are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest
from peers import background, peer

from nbexport.errors import CommandError
from nbexport.qapi import load_release
from nbexport.qmp import Dispatcher, QmpClient, QmpServer

pytestmark = pytest.mark.interop

LIMIT = 20.0
# The id of a request this long, printed with a line for each level, fills every buffer.
LONG = 1000
CAPS = b'{"execute":"qmp_capabilities"}'
OOB = b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}'


def converse(path: Path, pieces: list[bytes], *, linger: float = 0) -> bytes:
    """Send the pieces on a connection of their own and return all that comes back.

    QEMU forgets what it has not written yet when the connection ends: with oob on what waits in
    its queue, and always the rest of a reply of megabytes. Such cases linger: they read until
    nothing more has come for a while.
    """
    received = []
    linger = max(linger, 0.3 if max(map(len, pieces)) > LONG else 0)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LIMIT)
        sock.connect(str(path))
        for index, piece in enumerate(pieces):
            if index:
                time.sleep(0.002)
            sock.sendall(piece)
        if linger:
            sock.settimeout(linger)
            with contextlib.suppress(TimeoutError):
                while data := sock.recv(65536):
                    received.append(data)
            sock.settimeout(LIMIT)
        sock.shutdown(socket.SHUT_WR)
        while data := sock.recv(65536):
            received.append(data)
    return b"".join(received)


class Ours:
    """Our server on a thread of its own."""

    def __init__(self, path: Path, version, *, pretty: bool = False):
        self.path, self.version, self.pretty = path, version, pretty
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self):
        schema = load_release("7.2")

        async def query_version(_arguments):
            return self.version

        async def refuse(_arguments):
            raise CommandError("reached its state")

        own = ("query-commands", "query-qmp-schema", "qmp_capabilities")
        handlers = {c.name: refuse for c in schema.commands() if c.name not in own}
        handlers["query-version"] = query_version
        dispatcher = Dispatcher(schema, handlers, release=(7, 2, 22))
        self.server = QmpServer(
            dispatcher, version=self.version, clock=lambda: (0, 0), pretty=self.pretty
        )
        await self.server.listen_unix(self.path)
        self.loop = asyncio.get_running_loop()
        self.ready.set()
        await self.server.wait_closed()

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(LIMIT)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.server.request_close)
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module", params=["plain", "pretty"])
def servers(request):
    pretty = request.param == "pretty"
    with tempfile.TemporaryDirectory() as folder:
        theirs = Path(folder, "theirs.sock")
        chardev = f"socket,id=c,path={theirs},server=on,wait=off"
        monitor = f"chardev=c,pretty={'on' if pretty else 'off'}"
        program = peer("qemu-storage-daemon")
        command = [program, "--chardev", chardev, "--monitor", monitor]
        with background(*command, ready=theirs):
            with QmpClient(theirs) as client:
                version = client.execute("query-version")
            if version["qemu"]["major"] != 7:
                pytest.skip("qemu-storage-daemon is not of release 7")
            with Ours(Path(folder, "ours.sock"), version, pretty=pretty) as ours:
                yield theirs, ours.path


def call(command: str, arguments=None, **more) -> bytes:
    request = {"execute": command, **more}
    if arguments is not None:
        request["arguments"] = arguments
    return json.dumps(request).encode()


def nest(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


UNIX = {"type": "unix", "data": {"path": "/x"}}
NBD = {"type": "nbd", "id": "e", "node-name": "n"}

SYNTAX = [
    b"",
    b" \t\r\n",
    b"{}",
    b"[]",
    b"1 ",
    b"1",
    b'"a"',
    b"'a'",
    b"true ",
    b"null\n",
    b"nope ",
    b"True ",
    b"a" * 2000 + b" ",
    b"}",
    b"]",
    b"[[}",
    b"[1}",
    b"{]",
    b"[{]}",
    b'{"a":[1,2}',
    b'{"a":[1,2}]}',
    b'{"a":01}',
    b"01 ",
    b"00 ",
    b"-0 ",
    b"-",
    b"- ",
    b"-a ",
    b"+1 ",
    b"1. ",
    b"1.5 ",
    b"1.e5 ",
    b"1e5 ",
    b"1e ",
    b"1e+ ",
    b"1e+5 ",
    b"1.5E-3 ",
    b"1e5.5 ",
    b"0e1 ",
    b"1x ",
    b"NaN ",
    b"0x10 ",
    b".5 ",
    b"%d ",
    b"{,}",
    b"{1:2}",
    b"{null:2}",
    b"{[1]:2}",
    b'{"a" 1}',
    b'{"a":}',
    b'{"a":1,}',
    b'{"a":1 "b":2}',
    b'{"a":1,"a":2}',
    b'{"a":1:2}',
    b'{"a":1,,"b":2}',
    b"[,]",
    b"[1,]",
    b"[1 2]",
    b"[1:2]",
    b'["a" "b"]',
    b"[true false]",
    b"[nope nix]",
    b'{"a":nope,"a":1}',
    b'"\\n\\t\\b\\f\\r\\/\\\\\\"\\\'"',
    b'"\\x"',
    b'"\\u00e9"',
    b'"\\u12"',
    b'"\\u12g4"',
    b'"\\ud800"',
    b'"\\ud800\\u0041"',
    b'"\\ud83d\\ude00"',
    b'"\\udc00"',
    b'"\\ufffe"',
    b'"\\ufdd0"',
    b'"\xc3\xa9"',
    b'"\xc3"',
    b'"\xe9"',
    b'"\xf4\x90\x80\x80"',
    b'"\xed\xa0\x80"',
    b'"\xc0\x80"',
    b'"\xc0\x81"',
    b'"\xf8\x88\x80\x80\x80"',
    b'"\xfe"',
    b'"\xff"',
    b"\xfe",
    b"\xff",
    b"\xc3\xa9 ",
    b"\x00",
    b"\x01{}",
    b'"a\nb"',
    b'"a\tb"',
    b'"a\x00b"',
    b"'it\\'s' ",
    b"'a\"b'",
    b'"a',
    b"{'execute':'query-version'",
    nest(1024),
    nest(1025),
    nest(1030),
    b'{"a":' * 1025 + b"1" + b"}" * 1025,
    b"stray words [ here",
    b"?? { ? }",
    b"/* comment */",
]

ENVELOPES = [
    b'{"execute":"query-version"}',
    b"{'execute':'query-version'}",
    b'{"execute":"query-version","id":1}{"execute":"query-version","id":2}',
    b'{"execute":1}',
    b'{"execute":null}',
    b'{"execute":"query-version","arguments":[]}',
    b'{"execute":"query-version","arguments":null}',
    b'{"execute":"query-version","arguments":{}}',
    b'{"execute":"query-version","arguments":{"a":1}}',
    b'{"execute":"query-version","foo":1}',
    b'{"arguments":{}}',
    b'{"id":7}',
    b'{"id":7,"foo":1,"bar":2}',
    b'{"execute":1,"arguments":1,"foo":1}',
    b'{"exec-oob":"query-version"}',
    b'{"exec-oob":1,"id":"x"}',
    b'{"exec-oob":"query-version","execute":"query-version"}',
    b'{"execute":"no-such-command"}',
    b'{"execute":"no-such-command","arguments":{"a":1},"id":{"b":[]}}',
    b'{"execute":""}',
    b'{"execute":"caf\\u00e9\\u0000"}',
    b'{"execute":"a\\"\\\\b"}',
    b'{"execute":"query-version","id":null}',
    b'{"execute":"query-version","id":1.0}',
    b'{"execute":"query-version","id":-0.0}',
    b'{"execute":"query-version","id":0.1}',
    b'{"execute":"query-version","id":1e400}',
    b'{"execute":"query-version","id":18446744073709551615}',
    b'{"execute":"query-version","id":18446744073709551616}',
    b'{"execute":"query-version","id":-9223372036854775808}',
    b'{"execute":"query-version","id":-9223372036854775809}',
    b'{"execute":"query-version","id":"\\u0000\\u001f\\u007f\\u00e9\\ud83d\\ude00"}',
    b'{"execute":"query-version","id":{"z":1,"y":{"x":[1,"a",null,true,{}]},"a":[]}}',
    b'{"execute":"query-version","id":' + nest(1000) + b"}",
    b'{"id":1,"execute":"qmp_capabilities"}',
    call("qmp_capabilities", {}),
    call("qmp_capabilities", {"enable": []}),
    call("qmp_capabilities", {"enable": "oob"}),
    call("qmp_capabilities", {"enable": None}),
    call("qmp_capabilities", {"enable": ["bogus"]}),
    call("qmp_capabilities", {"enable": [1]}),
    call("qmp_capabilities", {"enable": ["oob", "oob"]}),
    call("qmp_capabilities", {"bogus": 1}),
    call("qmp_capabilities", {"enable": ["oob"], "bogus": 1}),
]

ARGUMENTS = [
    call("nbd-server-start"),
    call("nbd-server-start", {"addr": 1}),
    call("nbd-server-start", {"addr": {}}),
    call("nbd-server-start", {"addr": {"type": "bogus"}}),
    call("nbd-server-start", {"addr": {"type": 5}}),
    call("nbd-server-start", {"addr": {"type": "unix"}}),
    call("nbd-server-start", {"addr": {"type": "unix", "data": []}}),
    call("nbd-server-start", {"addr": {"type": "unix", "data": {}}}),
    call("nbd-server-start", {"addr": {"type": "unix", "data": {"path": 1}}}),
    call("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "/x", "y": 1}}}),
    call("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "/x", "tight": 1}}}),
    call("nbd-server-start", {"addr": {**UNIX, "more": 1}}),
    call("nbd-server-start", {"addr": {"type": "inet", "data": {"host": "h"}}}),
    call("nbd-server-start", {"addr": {"type": "inet", "data": {"host": "h", "port": 1}}}),
    call(
        "nbd-server-start", {"addr": {"type": "inet", "data": {"host": "", "port": "", "to": -1}}}
    ),
    call("nbd-server-start", {"addr": {"type": "fd", "data": {"str": None}}}),
    call("nbd-server-start", {"addr": UNIX, "max-connections": -1}),
    call("nbd-server-start", {"addr": UNIX, "max-connections": "512"}),
    call("nbd-server-start", {"addr": UNIX, "max-connections": 1.5}),
    call("nbd-server-start", {"addr": UNIX, "max-connections": 512.0}),
    call("nbd-server-start", {"addr": UNIX, "max-connections": None}),
    call("nbd-server-start", {"addr": UNIX, "max-connections": 1 << 32}),
    call("nbd-server-start", {"addr": UNIX, "max-connections": 1 << 64}),
    call("nbd-server-start", {"addr": UNIX, "tls-creds": True}),
    call("nbd-server-start", {"addr": UNIX, "handshake-max-seconds": 1}),
    call("nbd-server-stop", {"x": 1}),
    call("nbd-server-add", {}),
    call("nbd-server-add", {"device": "d", "bitmaps": ["b"]}),
    call("nbd-server-add", {"name": 5, "device": 6}),
    call("nbd-server-remove", {"mode": "soft"}),
    call("nbd-server-remove", {"name": "n", "mode": "soft"}),
    call("nbd-server-remove", {"name": "n", "mode": "so\u00e9ft"}),
    call("block-export-add"),
    call("block-export-add", {"type": "bogus"}),
    call("block-export-add", {"type": "nbd"}),
    call("block-export-add", {"type": "nbd", "id": 1}),
    call("block-export-add", {"type": "nbd", "id": "x"}),
    call("block-export-add", {**NBD, "fixed-iothread": 1, "iothread": 1}),
    call("block-export-add", {**NBD, "writable": "on"}),
    call("block-export-add", {**NBD, "bitmaps": "b"}),
    call("block-export-add", {**NBD, "bitmaps": [1]}),
    call("block-export-add", {**NBD, "bitmaps": ["a", None]}),
    call("block-export-add", {**NBD, "bitmaps": ["a", {}]}),
    call("block-export-add", {**NBD, "bitmaps": [{"node": "n"}]}),
    call("block-export-add", {**NBD, "bitmaps": ["a", {"node": "n", "name": 1}]}),
    call("block-export-add", {**NBD, "bitmaps": [{"node": "n", "name": "b", "x": 1}]}),
    call("block-export-add", {**NBD, "bitmaps": [["a"]]}),
    call("block-export-add", {**NBD, "allocation-depth": None}),
    call("block-export-add", {**NBD, "bitmap": "b"}),
    call("block-export-add", {**NBD, "mountpoint": "/x"}),
    call("block-export-add", {**NBD, "type": "vhost-user-blk"}),
    call("block-export-add", {**NBD, "type": "vhost-user-blk", "addr": UNIX}),
    call("block-export-add", {**NBD, "type": "vhost-user-blk", "addr": {"type": "vsock"}}),
    call(
        "block-export-add",
        {
            **NBD,
            "type": "vhost-user-blk",
            "addr": {"type": "unix", "path": ""},
            "num-queues": 65536,
        },
    ),
    call(
        "block-export-add",
        {
            **NBD,
            "type": "vhost-user-blk",
            "addr": {"type": "fd", "str": ""},
            "logical-block-size": 1.0,
        },
    ),
    call("block-export-add", {**NBD, "type": "fuse", "mountpoint": "/x", "allow-other": "maybe"}),
    call("block-export-add", {**NBD, "type": "vduse-blk"}),
    call("block-export-add", {**NBD, "one": 1, "two": 2, "three": 3}),
    call("block-export-del", {"id": ["x"]}),
    call("block-export-del", {"id": "x", "mode": 1}),
    call("query-block-exports", {"": 1}),
    call("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "/x", "": 1}}}),
    call("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "/x", "a.b": 1}}}),
    call("block-dirty-bitmap-add", {"node": "n"}),
    call("block-dirty-bitmap-add", {"name": "b"}),
    call("block-dirty-bitmap-add", {"node": "n", "name": "b", "granularity": -1}),
    call("block-dirty-bitmap-add", {"node": "n", "name": "b", "granularity": True}),
    call("block-dirty-bitmap-add", {"node": "n", "name": "b", "granularity": {}}),
    call("block-dirty-bitmap-add", {"node": "n", "name": "b", "persistent": "yes"}),
    call("block-dirty-bitmap-add", {"node": "n", "name": "b", "autoload": True}),
    call("block-dirty-bitmap-remove", {"node": "n", "name": "b", "x.y": 1}),
    call("block-dirty-bitmap-remove", {"node": None}),
    call("blockdev-add"),
    call("blockdev-add", {"driver": 1}),
    call("blockdev-add", {"driver": "bogus", "node-name": "n"}),
    call("blockdev-add", {"driver": "raw"}),
    call("blockdev-add", {"driver": "raw", "file": 1}),
    call("blockdev-add", {"driver": "raw", "file": None}),
    call("blockdev-add", {"driver": "raw", "file": {"driver": "file"}}),
    call("blockdev-add", {"driver": "raw", "file": {"driver": "file", "filename": 1}}),
    call("blockdev-add", {"driver": "raw", "file": "f", "offset": "1"}),
    call("blockdev-add", {"driver": "raw", "file": "f", "offset": 1 << 63}),
    call("blockdev-add", {"driver": "raw", "file": "f", "size": 1.0}),
    call("blockdev-add", {"driver": "raw", "file": "f", "backing": None}),
    call("blockdev-add", {"driver": "raw", "file": "f", "cache": {"direct": 1}}),
    call("blockdev-add", {"driver": "raw", "file": "f", "cache": {"bogus": 1}}),
    call("blockdev-add", {"driver": "raw", "file": "f", "discard": "on"}),
    call("blockdev-add", {"driver": "raw", "file": "f", "detect-zeroes": 1}),
    call("blockdev-add", {"driver": "file", "filename": "f", "aio": "bogus"}),
    call("blockdev-add", {"driver": "file", "filename": "f", "locking": True}),
    call("blockdev-add", {"driver": "file", "filename": "f", "drop-cache": "x"}),
    call("blockdev-add", {"driver": "file", "filename": "f", "x-check-cache-dropped": 1}),
    call("blockdev-add", {"driver": "qcow2", "file": "f", "backing": 1}),
    call("blockdev-add", {"driver": "qcow2", "file": "f", "backing": {"driver": "raw"}}),
    call("blockdev-add", {"driver": "qcow2", "file": "f", "backing": None, "x": 1}),
    call("blockdev-add", {"driver": "qcow2", "file": "f", "overlap-check": "x"}),
    call("blockdev-add", {"driver": "qcow2", "file": "f", "overlap-check": 1}),
    call("blockdev-add", {"driver": "qcow2", "file": "f", "overlap-check": {"template": "x"}}),
    call("blockdev-add", {"driver": "qcow2", "file": "f", "encrypt": {}}),
    call("blockdev-add", {"driver": "qcow2", "file": "f", "encrypt": {"format": "rot13"}}),
    call("blockdev-add", {"driver": "qcow2", "file": "f", "data-file": []}),
    b'{"execute":"blockdev-add","arguments":'
    + b'{"driver":"raw","file":' * 400
    + b'{"driver":"file"}'
    + b"}" * 400
    + b"}",
    call("blockdev-del", {}),
    call("blockdev-del", {"node-name": 1}),
    call("query-named-block-nodes", {"flat": "true"}),
    call("quit", {"now": True}),
]

OOB_CASES = [
    [OOB, b'{"exec-oob":"query-version","id":1}'],
    [OOB, b'{"exec-oob":"no-such-command"}'],
    [OOB, b'{"exec-oob":1}'],
    [OOB, b'{"exec-oob":"query-version","execute":"query-version"}'],
    [OOB, b'{"exec-oob":"qmp_capabilities"}'],
    [OOB, b'{"exec-oob":"query-version","foo":1}'],
    [OOB, b'{"execute":"query-version","id":1}'],
    [OOB, OOB],
    [call("qmp_capabilities", {"enable": ["x"]}), b'{"execute":"query-version"}', CAPS],
]


def check(servers, pieces: list[bytes], *, linger: float = 0) -> bytes:
    theirs, ours = (converse(path, pieces, linger=linger) for path in servers)
    assert ours == theirs, pieces
    return ours


@pytest.mark.parametrize("case", SYNTAX, ids=lambda case: repr(case[:30]))
def test_syntax(servers, case):
    check(servers, [CAPS + case])


@pytest.mark.parametrize("case", ENVELOPES, ids=lambda case: repr(case[:60]))
def test_envelopes_before_and_after_the_negotiation(servers, case):
    check(servers, [case])
    check(servers, [CAPS, case])


@pytest.mark.parametrize("case", ARGUMENTS, ids=range(len(ARGUMENTS)))
def test_arguments(servers, case):
    reply = check(servers, [CAPS + case])
    assert b"GenericError" in reply
    assert b"reached its state" not in reply


@pytest.mark.parametrize("pieces", OOB_CASES, ids=range(len(OOB_CASES)))
def test_oob(servers, pieces):
    check(servers, pieces, linger=0.1)


def test_any_split_of_a_message(servers):
    text = b"\xc3" + CAPS + b"{'execute':'query-version','id':'\\ud83d\\ude00',\"a\":1e5}"
    whole = check(servers, [text])
    for cut in range(1, len(text)):
        assert converse(servers[1], [text[:cut], text[cut:]]) == whole
    check(servers, [bytes((byte,)) for byte in text])


def test_unexpected_members_are_named_in_the_order_of_glib(servers):
    choose = random.Random(22)
    for _ in range(60):
        names = {f"{choose.choice('abcxyz')}{choose.randrange(10**6)}" for _ in range(60)}
        wanted = sorted(names)[: choose.choice((2, 3, 5, 6, 7, 8, 15, 16, 30, 60))]
        choose.shuffle(wanted)
        extra = dict.fromkeys(wanted, 1)
        check(servers, [CAPS + call("block-export-add", {**extra, **NBD}, id=extra)])
        check(servers, [CAPS + call("query-version", extra)])


def test_random_values_as_arguments(servers):
    choose = random.Random(5)
    atoms = [None, True, False, 0, -1, 1.5, 1 << 40, "x", "nbd", "unix", [], {}]
    names = ["type", "id", "node-name", "name", "bitmaps", "addr", "data", "path", "mode", "node"]
    commands = ["block-export-add", "nbd-server-start", "block-export-del", "nbd-server-add"]

    def value(depth):
        if depth and choose.random() < 0.5:
            if choose.random() < 0.3:
                return [value(depth - 1) for _ in range(choose.randrange(3))]
            return {choose.choice(names): value(depth - 1) for _ in range(choose.randrange(6))}
        return choose.choice(atoms)

    for _ in range(150):
        arguments = {choose.choice(names): value(3) for _ in range(choose.randrange(6))}
        arguments["unknown"] = 1
        check(servers, [CAPS + call(choose.choice(commands), arguments, id=value(3))])


def test_random_bytes(servers):
    choose = random.Random(9)
    pieces = [b"{", b"}", b"[", b"]", b":", b",", b'"a"', b"'", b'"', b"\\", b"\\u00", b"1", b"-"]
    pieces += [b".", b"e", b"0", b" ", b"\n", b"\t", b"true", b"\xff", b"\x00", b"\xc3\xa9", b"x"]
    for _ in range(150):
        text = b"".join(choose.choice(pieces) for _ in range(choose.randrange(1, 40)))
        check(servers, [CAPS + text])


def test_the_next_client_waits_for_the_first(servers):
    for path in servers:
        with QmpClient(path, timeout=LIMIT) as first, socket.socket(socket.AF_UNIX) as second:
            second.settimeout(0.3)
            second.connect(str(path))
            with pytest.raises(TimeoutError):
                second.recv(1)
            assert first.execute("query-version")
            first.close()
            second.settimeout(LIMIT)
            assert second.recv(100)
