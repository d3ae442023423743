"""What jobs and overlays do not allow to be done with a node.

Source: QEMU's ``include/block/block-common.h``, the operations that can be blocked.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from nbexport.errors import CommandError

if TYPE_CHECKING:
    from nbexport.emulator.graph import Graph, Node


class Operation(Enum):
    """What is to be done; the value tells whether a backing file allows it."""

    BACKUP = "backup", True
    COMMIT_TARGET = "commit-target", True
    STREAM = "stream", True
    COMMIT_SOURCE = "commit-source", False
    CHANGE = "change", False
    DELETE = "delete", False
    MIRROR = "mirror", False
    SNAPSHOT = "snapshot", False


def name_of(graph: Graph, node: Node) -> str:
    """Return how errors call a node: by its device, if it is in one."""
    backends = graph.backends_of(node)
    return backends[0].name if backends else node.name


def check(graph: Graph, node: Node, operation: Operation) -> None:
    """Raise CommandError if a job or an overlay does not allow that."""
    name = name_of(graph, node)
    found = [
        (job.made_at, f"block device is in use by block job: {job.work.type}")
        for job in graph.jobs_of(node)
    ]
    if not operation.value[1]:
        found += [
            (parent.backed_at, f"node is used as backing hd of '{name_of(graph, parent)}'")
            for parent in graph.parents(node)
            if parent.backing is node
        ]
    if found:
        raise CommandError(f"Node '{name}' is busy: {max(found)[1]}")


def root(graph: Graph, name: str) -> Node:
    """Return a node by device or name that no other node is built on, and no job works at.

    Raises:
        CommandError: there is none, or one is.
    """
    node = graph.find(name)
    if graph.parents(node) or graph.jobs_of(node):
        raise CommandError("Need a root block node")
    return node
