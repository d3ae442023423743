"""Which thread the requests of a node run in, and who lets it change.

Nodes that are built on each other run in the same thread, and so do all exports of them. An export
that wants its thread fixed keeps them where they are. The emulator serves all of them alike; what
is kept here decides which commands QEMU refuses.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from nbexport.errors import CommandError

if TYPE_CHECKING:
    from nbexport.emulator.graph import Backend, Graph, Node
    from nbexport.emulator.objects import UserObject


def connected(graph: Graph, node: Node) -> list[Node]:
    """Return a node and all that are joined to it, up and down."""
    found, waiting = [node], [node]
    while waiting:
        each = waiting.pop()
        for other in (*each.children(), *graph.parents(each)):
            if other not in found:
                found.append(other)
                waiting.append(other)
    return found


def move(
    graph: Graph, node: Node, thread: UserObject | None, *, mover: Backend | None = None
) -> None:
    """Have a node and all that are joined to it run in a thread; None is the main one.

    Args:
        graph: the nodes.
        node: one of them.
        thread: the thread.
        mover: the disk for whose device they move.

    Raises:
        CommandError: an export or another device keeps them where they are.
    """
    joined = connected(graph, node)
    if all(each.thread is thread for each in joined):
        return
    fixed = any(export.fixed_thread for each in joined for export in graph.exports_of(each))
    if fixed or any(
        disk.device is not None and disk is not mover
        for each in joined
        for disk in graph.backends_of(each)
    ):
        raise CommandError("Cannot change iothread of active block backend")
    for each in joined:
        each.thread = thread


def settle(graph: Graph, node: Node) -> None:
    """Have a node that an export has left run in the main thread, if nobody minds."""
    with contextlib.suppress(CommandError):
        move(graph, node, None)
