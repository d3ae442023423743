"""What the nodes of a process hold on their files, and deny to other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport import block
from nbexport.block import locks

if TYPE_CHECKING:
    from nbexport.emulator.graph import Graph, Node


def hold(file: Node, *, writable: bool) -> None:
    """Lock a file for an image that is about to be opened on it.

    A node that could be written holds what QEMU's would, although this process writes nothing.

    Raises:
        ImageLockedError: another process uses the file.
    """
    if isinstance(file.block, block.FileNode):
        file.block.locks.acquire(*locks.for_format(writable=writable))


def settle(graph: Graph) -> None:
    """Give up the locks that were for nodes which are gone."""
    for node in graph.nodes.values():
        parents = graph.parents(node)
        if not isinstance(node.block, block.FileNode):
            continue
        if all(parent.file is node and parent.block.driver == "qcow2" for parent in parents):
            held = denied = locks.NOTHING
            for parent in parents:
                holds, denies = locks.for_format(writable=not parent.read_only)
                held |= holds
                denied |= denies
            node.block.locks.keep(held, denied)
