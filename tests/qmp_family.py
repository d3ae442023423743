"""Hypothesis strategies for sessions of the NBD-export family: names collide, some words are wrong.

What makes QEMU 7.2 itself crash is left out: merging no bitmaps, and enabling a bitmap within a
transaction, which ends the process if the bitmap is missing and disables it if the bitmap is busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qmp_play import Command


@st.composite
def _often(draw: st.DrawFn, *weighted: tuple[int, st.SearchStrategy[Any]]) -> Any:
    """Draw from one of several strategies, each as often as its weight says.

    (`one_of` takes strategies that are given repeatedly for one.)
    """
    return draw(draw(st.sampled_from([each for weight, each in weighted for _ in range(weight)])))


def _mostly(usual: Sequence[Any], seldom: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Draw what is usual nineteen times of twenty."""
    return _often((19, st.sampled_from(usual)), (1, st.sampled_from(seldom)))


NODES = _mostly(["n0", "n0", "n1", "r0"], ["none", "r1"])
NEW_NODES = _mostly(["n1", "r0", "n0"], ["r1", "1bad"])
BITMAPS = _mostly(["a", "a", "b", "weekly", "daily"], [""])
SOME_BITMAPS = st.sampled_from(["a", "a", "b", "weekly", "daily"])
IDS = _mostly(["e0", "e0", "e1", "n0"], ["0bad"])
NAMES = st.sampled_from(["x", "y", "n0", ""])
IMAGES = _mostly(["two-bitmaps.qcow2", "empty.qcow2", "wide.qcow2", "old.qcow2"], ["text", "none"])
FILES = _mostly(["text", "small.raw", "odd.raw"], ["empty.qcow2", "none"])
GRANULARITIES = _mostly([512, 4096, 65536, 1 << 20], [1 << 31, 256, 3000, 0, -1])
JUNK = st.sampled_from([None, True, 0, -1, 1.5, "", "none", [], ["a"], {}, {"node": "n0"}])
UNIX = {"type": "unix", "data": {"path": "nbd.sock"}}


def _command(
    name: str, needed: Mapping[str, Any], /, **optional: Any
) -> st.SearchStrategy[Command]:
    def join(given: dict[str, Any]) -> Command:
        return name, given

    return st.fixed_dictionaries(dict(needed), optional=optional).map(join)


def _on_bitmap(verb: str, **optional: Any) -> st.SearchStrategy[Command]:
    needed = {"node": NODES, "name": BITMAPS}
    return _command(f"block-dirty-bitmap-{verb}", needed, **optional)


PAIRS = st.fixed_dictionaries({"node": NODES, "name": BITMAPS})
SOURCES = st.lists(SOME_BITMAPS | PAIRS, min_size=1, max_size=3)

ADD_BITMAP = _on_bitmap(
    "add", granularity=GRANULARITIES, persistent=st.booleans(), disabled=st.booleans()
)
UNDOABLE = st.one_of(
    ADD_BITMAP,
    _on_bitmap("remove"),
    _on_bitmap("clear"),
    _on_bitmap("disable"),
    _command(
        "block-dirty-bitmap-merge",
        {"node": NODES, "target": SOME_BITMAPS, "bitmaps": SOURCES},
    ),
)


def _transaction(actions: list[Command], properties: Any) -> Command:
    made = [{"type": kind, "data": data} for kind, data in actions]
    return "transaction", {"actions": made} | ({"properties": properties} if properties else {})


ABORT = st.just(("abort", {}))
MODES = st.sampled_from([None, None, {"completion-mode": "individual"}, {}])
TRANSACTION = st.builds(
    _transaction, st.lists(_often((9, UNDOABLE), (1, ABORT)), max_size=4), MODES
)


def _file(name: str) -> dict[str, Any]:
    return {"driver": "file", "filename": name}


READ_ONLY = st.sampled_from([True, True, False])
DISK = _command(
    "blockdev-add",
    {
        "driver": st.just("qcow2"),
        "node-name": NEW_NODES,
        "file": _often((4, IMAGES.map(_file)), (1, NODES)),
        "read-only": READ_ONLY,
    },
    backing=st.none() | NODES,
)
RAW = _command(
    "blockdev-add",
    {
        "driver": st.just("raw"),
        "node-name": NEW_NODES,
        "file": _often((2, FILES.map(_file)), (1, NODES)),
        "read-only": READ_ONLY,
    },
    offset=st.sampled_from([0, 512, 4096, 1 << 40, 3]),
    size=st.sampled_from([512, 8192, 5, 1 << 40]),
)
PLAIN = _command(
    "blockdev-add",
    {
        "driver": st.just("file"),
        "node-name": NEW_NODES,
        "filename": FILES,
        "read-only": READ_ONLY,
    },
)
EXPORT = _command(
    "block-export-add",
    {"type": st.just("nbd"), "id": IDS, "node-name": NODES},
    name=NAMES,
    writable=st.booleans(),
    bitmaps=st.lists(SOME_BITMAPS | PAIRS, max_size=2),
    **{"allocation-depth": st.booleans()},
)
OLD_EXPORT = _command(
    "nbd-server-add",
    {"device": NODES},
    name=IDS,
    writable=st.booleans(),
    bitmap=BITMAPS,
)
MODE = st.sampled_from(["safe", "hard"])
BITMAP_COMMANDS = _often(
    (4, ADD_BITMAP),
    (4, UNDOABLE),
    (2, _on_bitmap("enable")),
    (3, TRANSACTION),
    (1, _command("x-debug-block-dirty-bitmap-sha256", {"node": NODES, "name": SOME_BITMAPS})),
)
NODE_COMMANDS = _often(
    (3, DISK),
    (2, RAW),
    (1, PLAIN),
    (2, _command("blockdev-del", {"node-name": NODES})),
    (1, st.just(("query-named-block-nodes", {"flat": True}))),
)
EXPORT_COMMANDS = _often(
    (4, EXPORT),
    (2, OLD_EXPORT),
    (2, _command("block-export-del", {"id": IDS}, mode=MODE)),
    (1, _command("nbd-server-remove", {"name": IDS}, mode=MODE)),
    (1, st.just(("query-block-exports", {}))),
)
SERVER_COMMANDS = st.sampled_from(
    [("nbd-server-start", {"addr": UNIX}), ("nbd-server-start", {"addr": UNIX}),
     ("nbd-server-stop", {})]
)  # fmt: skip
COMMANDS = _often(
    (12, BITMAP_COMMANDS), (12, EXPORT_COMMANDS), (8, NODE_COMMANDS), (1, SERVER_COMMANDS)
)


@st.composite
def slightly_wrong(draw: st.DrawFn) -> Command:
    """Draw a command of whose arguments one is missing, unknown or of another kind."""
    name, arguments = draw(COMMANDS.filter(lambda made: made[0] != "transaction"))
    arguments = dict(arguments)
    if arguments and draw(st.booleans()):
        member = draw(st.sampled_from(sorted(arguments)))
        if draw(st.booleans()):
            del arguments[member]
        else:
            arguments[member] = draw(JUNK)
    else:
        extra = st.sampled_from(["id", "node", "name", "bitmap", "force", "more"])
        arguments |= draw(st.dictionaries(extra, JUNK, min_size=1, max_size=2))
    if name.endswith("-merge") and arguments.get("bitmaps") == []:
        arguments["bitmaps"] = ["a"]
    return name, arguments


def _opened(node: str, image: str, *, read_only: bool) -> Command:
    options = {"driver": "qcow2", "node-name": node, "file": _file(image), "read-only": read_only}
    return "blockdev-add", options


SERVED: Command = ("nbd-server-start", {"addr": UNIX})
BEGINNINGS = st.sampled_from(
    [
        [_opened("n0", "two-bitmaps.qcow2", read_only=True), SERVED],
        [_opened("n0", "two-bitmaps.qcow2", read_only=False), SERVED],
        [
            _opened("n0", "two-bitmaps.qcow2", read_only=True),
            ("block-dirty-bitmap-add", {"node": "n0", "name": "a"}),
            _opened("n1", "empty.qcow2", read_only=False),
            ("block-dirty-bitmap-add", {"node": "n1", "name": "a", "persistent": True}),
            SERVED,
        ],
    ]
)
ENDING: list[Command] = [
    ("query-block-exports", {}),
    ("query-named-block-nodes", {"flat": True}),
]
LENGTH_MAX = 40


@st.composite
def sessions(draw: st.DrawFn) -> list[Command]:
    """Draw a session; its last steps show what it has made."""
    steps = st.lists(
        _often((19, COMMANDS), (1, slightly_wrong())), min_size=15, max_size=LENGTH_MAX
    )
    return [*draw(BEGINNINGS), *draw(steps), *ENDING]
