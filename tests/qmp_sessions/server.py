"""The NBD server's beginning and end."""

from __future__ import annotations

from qmp_sessions.words import (
    EXPORTS,
    STOP,
    UNIX,
    NbdConnect,
    NbdLeave,
    after,
    disk,
    do,
    export,
    remove,
    serve,
)  # fmt: skip


def start(path, **more):
    """Start the server at a path."""
    return do("nbd-server-start", addr={"type": "unix", "data": {"path": path}}, **more)


SESSIONS = {
    "start and stop": [
        STOP,
        serve(),
        serve(),
        serve(tls_creds="none"),
        start("other.sock"),
        STOP,
        STOP,
        serve(max_connections=0),
        STOP,
        serve(max_connections=4294967295),
        STOP,
        start("other.sock"),
        STOP,
        start("nbd.sock", tls_authz="none"),
        STOP,
    ],
    "addresses": [
        start("none/nbd.sock"),
        start("x" * 107),
        STOP,
        start("x" * 109),
        start("."),
        start("x" * 200),
        start("nbd.sock"),
        STOP,
        start("nbd.sock", tls_creds="none"),
        start("none/nbd.sock", tls_creds="none"),
        STOP,
        do("nbd-server-start", addr={"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}),
        STOP,
        do("nbd-server-start", addr={"type": "inet", "data": {"host": "", "port": "x"}}),
        STOP,
    ],
    "stop takes the exports along": [
        disk("n0"),
        export("e"),
        serve(),
        export("e", bitmaps=["weekly"]),
        export("f", name="f", bitmaps=["daily"]),
        do("nbd-server-add", device="n0", name="g"),
        EXPORTS,
        STOP,
        EXPORTS,
        export("e"),
        remove("e"),
        serve(),
        EXPORTS,
        export("e", bitmaps=["weekly", "daily"]),
        STOP,
    ],
    "a limit of connections": [
        disk("n0"),
        do("nbd-server-start", addr=UNIX, max_connections=2),
        export("e"),
        NbdConnect("a", "n0"),
        NbdConnect("b", "n0"),
        remove("e"),
        NbdLeave("a"),
        NbdConnect("c", "n0"),
        NbdLeave("b"),
        NbdLeave("c"),
        remove("e"),
        STOP,
    ],
    "a new server after one with clients": [
        disk("n0"), serve(), export("e"), NbdConnect("a", "n0"),
        after(STOP),
        serve(), export("e"), NbdConnect("b", "n0"),
        after(remove("e", mode="hard")),
        export("e"),
        NbdConnect("c", "n0"),
        NbdLeave("c"),
        remove("e"),
        STOP,
    ],
}  # fmt: skip
