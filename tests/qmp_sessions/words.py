"""The commands of the sessions, each with few words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmp_play import NbdConnect, NbdLeave, Until

if TYPE_CHECKING:
    from qmp_play import Command

UNIX = {"type": "unix", "data": {"path": "nbd.sock"}}


def do(command: str, /, **arguments: Any) -> Command:
    """Return a command; ``_`` in an argument's name stands for ``-``."""
    return command, {name.replace("_", "-"): value for name, value in arguments.items()}


def file(name: str, **more: Any) -> dict[str, Any]:
    """Return the options of a file."""
    return {"driver": "file", "filename": name, **more}


def disk(node: str, image: str = "two-bitmaps.qcow2", /, **more: Any) -> Command:
    """Open an image read-only, unless ``more`` says otherwise."""
    return do("blockdev-add", **{"driver": "qcow2", "node_name": node, "read_only": True,
                                 "file": file(image), **more})  # fmt: skip


def raw(node: str, image: str = "text", /, **more: Any) -> Command:
    """Open a file as raw, read-only unless ``more`` says otherwise."""
    return do("blockdev-add", **{"driver": "raw", "node_name": node, "read_only": True,
                                 "file": file(image), **more})  # fmt: skip


def drop(node: str) -> Command:
    """Close a node."""
    return do("blockdev-del", node_name=node)


def bitmap(verb: str, name: str, node: str = "n0", /, **more: Any) -> Command:
    """Do something to a bitmap."""
    return do(f"block-dirty-bitmap-{verb}", node=node, name=name, **more)


def merge(target: str, *sources: Any, node: str = "n0") -> Command:
    """Merge bitmaps, named or each with its node."""
    return do("block-dirty-bitmap-merge", node=node, target=target, bitmaps=list(sources))


def of(node: str, name: str) -> dict[str, str]:
    """Name a bitmap together with its node."""
    return {"node": node, "name": name}


def look(*names: str, node: str = "n0") -> list[Command]:
    """Ask for digests of bitmaps, and how they are listed."""
    asked = [do("x-debug-block-dirty-bitmap-sha256", node=node, name=name) for name in names]
    return [*asked, nodes()]


def nodes() -> Command:
    """List the nodes."""
    return do("query-named-block-nodes", flat=True)


def serve(**more: Any) -> Command:
    """Start the NBD server."""
    return do("nbd-server-start", addr=UNIX, **more)


def export(identifier: str, node: str = "n0", /, **more: Any) -> Command:
    """Export a node."""
    return do("block-export-add", type="nbd", id=identifier, node_name=node, **more)


def remove(identifier: str, **more: Any) -> Command:
    """Delete an export."""
    return do("block-export-del", id=identifier, **more)


def after(command: Command, count: int = 1) -> Until:
    """Run a command and wait until so many exports are gone."""
    return Until(command, "BLOCK_EXPORT_DELETED", count)


def act(*actions: Command, **more: Any) -> Command:
    """Do several commands as one transaction."""
    made = [{"type": kind, "data": data} for kind, data in actions]
    return do("transaction", actions=made, **more)


EXPORTS = do("query-block-exports")
STOP = do("nbd-server-stop")
ABORT = do("abort")

__all__ = [
    "ABORT", "EXPORTS", "STOP", "UNIX", "NbdConnect", "NbdLeave", "act", "after", "bitmap", "disk",
    "do", "drop", "export", "file", "look", "merge", "nodes", "of", "raw", "remove", "serve",
]  # fmt: skip
