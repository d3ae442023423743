"""Filters that inject errors, limit, keep and compress; limits as objects; lengths and threads."""

from __future__ import annotations

from typing import Any

from qmp_sessions.words import UNIX, do, drop, export, file, nodes, remove

TEXT = file("text")
EMPTY = {"driver": "qcow2", "file": file("empty.qcow2")}


def injecting(node: str, /, **more: Any) -> Any:
    """Open a node that injects errors."""
    return do("blockdev-add", driver="blkdebug", node_name=node, **{"image": TEXT, **more})


def above(driver: str, node: str, below: Any, /, **more: Any) -> Any:
    """Open another filter."""
    return do("blockdev-add", driver=driver, node_name=node, file=below, **more)


def group(name: str, /, **limits: int) -> Any:
    """Make limits."""
    named = {key.replace("_", "-"): value for key, value in limits.items()}
    return do("object-add", qom_type="throttle-group", id=name, limits=named)


def limit(path: str, value: Any, name: str = "limits") -> Any:
    """Change limits."""
    return do("qom-set", path=path, property=name, value=value)


def tell(path: str, name: str = "limits") -> Any:
    """Ask for a property."""
    return do("qom-get", path=path, property=name)


def length(node: str, size: int) -> Any:
    """Give a disk another length."""
    return do("block_resize", node_name=node, size=size)


def thread(node: str, name: Any, /, **more: Any) -> Any:
    """Have a node run in another thread."""
    return do("x-blockdev-set-iothread", node_name=node, iothread=name, **more)


SESSIONS = {
    "errors to be injected": [
        injecting("n", config="none"),
        injecting("n", config="text"),
        injecting("n", inject_error=[{"event": "bogus"}]),
        injecting("n", inject_error=[{}]),
        injecting("n", inject_error=[{"event": "none", "iotype": "bogus"}]),
        injecting("n", inject_error={"event": "none"}),
        injecting("n", set_state=[{"event": "none"}]),
        injecting("n", set_state=[{"event": "none", "new_state": "x"}]),
        injecting("n", image="none"),
        injecting("n", image=file("none")),
        injecting("1n"),
        injecting("n", align=3),
        injecting("n", align=-1),
        injecting("n", align=1 << 40),
        injecting("n", align=4096, max_transfer=512),
        injecting("n", max_transfer=1 << 40),
        injecting("n", align=512, opt_write_zero=100),
        injecting("n", opt_write_zero=512, max_write_zero=100),
        injecting("n", align=512, opt_discard=100),
        injecting("n", opt_discard=512, max_discard=100),
        injecting("n", take_child_perms=["bogus"]),
        injecting("a", align=512, max_transfer=4096, opt_write_zero=1024, max_write_zero=2048),
        injecting("b", image="a", config="", inject_error=[{"event": "read_aio", "errno": 5}]),
        injecting("c", image={**TEXT, "read-only": True}, unshare_child_perms=["resize"]),
        injecting("d", set_state=[{"event": "none", "new_state": 2}]),
        do("blockdev-add", driver="raw", node_name="r", file="d", read_only=True),
        nodes(),
        drop("a"),
        drop("d"),
        do("blockdev-reopen", options=[{"driver": "blkdebug", "node-name": "c", "align": 512,
                                        "image": {**TEXT, "read-only": True}}]),
        *map(drop, "rdcba"),
    ],
    "limits": [
        group("g", iops_total=1, iops_read=1),
        group("g", iops_size=1),
        group("g", bps_total=-1),
        group("g", bps_total_max=1),
        group("g", bps_total=5, bps_total_max=1),
        group("g", bps_total=5, bps_total_max_length=0),
        group("g", bps_total=5, bps_total_max_length=2),
        group("g", bps_total=5, bps_total_max_length=1 << 32),
        group("g", bogus=1),
        do("object-add", qom_type="throttle-group", id="g", x_iops_total=-1),
        do("object-add", qom_type="throttle-group", id="g", x_bps_read_max_length=1 << 32),
        do("object-add", qom_type="throttle-group", id="g", x_bps_read=10, x_bps_read_max=20),
        group("h", iops_total=5, iops_total_max=9, iops_total_max_length=2, iops_size=4096),
        group("h"),
        *(tell(path, name) for path in ("/objects/g", "g") for name in ("limits", "x-bps-read")),
        tell("h"),
        tell("h", "type"),
        tell("h", "bogus"),
        tell("bogus"),
        tell("/objects", "type"),
        tell("/objects", "h"),
        limit("g", {"bps-read": 0, "bps-read-max": 0, "iops-write": 3}),
        limit("g", {"bogus": 3}),
        limit("g", {"bps-read": "x"}),
        limit("g", 7),
        limit("g", {"iops-size": 1, "iops-write": 0}),
        limit("g", 7, "x-bps-read"),
        limit("g", 7, "type"),
        limit("g", 7, "bogus"),
        limit("bogus", 7),
        tell("g"),
        above("throttle", "n", TEXT, throttle_group="bogus"),
        above("throttle", "n", TEXT),
        above("throttle", "n", TEXT, throttle_group="g"),
        above("throttle", "m", "n", throttle_group="h", read_only=True),
        nodes(),
        do("object-del", id="g"),
        do("blockdev-reopen", options=[
            {"driver": "throttle", "node-name": "n", "file": TEXT, "throttle-group": "x"}]),
        do("blockdev-reopen", options=[
            {"driver": "throttle", "node-name": "n", "file": TEXT, "throttle-group": "h"}]),
        do("object-del", id="g"),
        drop("m"),
        drop("n"),
        do("object-del", id="h"),
    ],
    "copies, compression and room": [
        above("copy-on-read", "n", TEXT, bottom="none"),
        above("copy-on-read", "n", {**TEXT, "read-only": True}),
        above("copy-on-read", "n", TEXT, read_only=True),
        above("copy-on-read", "n", EMPTY),
        above("copy-on-read", "m", file("odd.raw"), bottom="n"),
        above("compress", "c", TEXT),
        above("compress", "c", {"driver": "qcow2", "file": file("wide.qcow2")}),
        above("preallocate", "p", TEXT, prealloc_align=100),
        above("preallocate", "p", TEXT, prealloc_align=-1),
        above("preallocate", "p", TEXT, prealloc_size=4096, prealloc_align=4096),
        nodes(),
        do("blockdev-reopen", options=[{"driver": "compress", "node-name": "c"}]),
        do("blockdev-reopen", options=[{"driver": "copy-on-read", "node-name": "n"}]),
        *map(drop, "ncp"),
    ],
    "lengths": [
        do("blockdev-add", driver="raw", node_name="r", file=file("small.raw")),
        do("blockdev-add", driver="raw", node_name="ro", file=file("small.raw"), read_only=True),
        do("blockdev-add", driver="raw", node_name="fix", size=512, file=TEXT),
        do("blockdev-add", driver="null-co", node_name="null"),
        do("blockdev-add", driver="qcow2", node_name="q", file=file("empty.qcow2")),
        do("block_resize", size=512),
        do("block_resize", device="q", size=512),
        *(length(node, 1 << 20) for node in ("none", "ro", "fix", "null")),
        *(length("r", size) for size in (-1, 100, 1 << 20, 65536)),
        *(length("q", size) for size in (-1, 5 << 20, (5 << 20) + 1, 1 << 62)),
        do("block-dirty-bitmap-add", node="q", name="b"),
        length("q", 8 << 20),
        do("nbd-server-start", addr=UNIX),
        export("e", "q", writable=True),
        length("q", 9 << 20),
        nodes(),
        remove("e"),
        do("nbd-server-stop"),
        *map(drop, ("q", "null", "fix", "ro", "r")),
    ],
    "threads of nodes": [
        do("object-add", qom_type="iothread", id="t"),
        injecting("n"),
        thread("none", "t"),
        thread("n", "none"),
        thread("n", 7),
        thread("n", "t"),
        thread("n", None),
        do("nbd-server-start", addr=UNIX),
        export("e", "n"),
        thread("n", "t"),
        thread("n", "t", force=True),
        thread("n", None, force=True),
        remove("e"),
        export("e", "n", iothread="t", fixed_iothread=True),
        thread("n", None, force=True),
        remove("e"),
        do("nbd-server-stop"),
        drop("n"),
        do("object-del", id="t"),
    ],
}  # fmt: skip
