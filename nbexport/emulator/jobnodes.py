"""Filters that jobs put into the graph, and the jobs themselves: how they come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.emulator import permissions
from nbexport.emulator.graph import Node
from nbexport.emulator.job import Job
from nbexport.emulator.reopen import Reopener
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbexport.emulator.machine import Machine
    from nbexport.emulator.work import BlockWork


def insert(
    machine: Machine,
    kind: type[block.FilterNode],
    below: Node,
    name: str | None,
    *,
    read_only: bool,
    options: Mapping[str, Any] | None = None,
) -> Node:
    """Put a filter between a node and its users.

    Args:
        machine: gets the node.
        kind: of filter.
        below: the node.
        name: of the filter; None to make one up.
        read_only: whether the filter takes no writes.
        options: what permissions look at.

    Raises:
        CommandError: the name is taken or bad.
    """
    graph = machine.graph
    implicit = name is None
    if name is None:
        name = graph.generate_name()
    else:
        graph.check_name(name)
    disk = kind(below.block)
    disk.tracking = below.block.tracking
    disk.read_only = read_only
    above = Node(
        name, disk, {"driver": kind.driver, **(options or {})}, read_only=read_only, file=below
    )
    above.implicit = implicit
    graph.nodes[name] = above
    graph.insert(above, below)
    return above


def new_job(
    machine: Machine,
    work: BlockWork,
    nodes: Sequence[Node],
    given: Mapping[str, Any],
    group: list[Job] | None = None,
) -> Job:
    """Create a job, which is not started.

    Args:
        machine: gets it.
        work: what it does.
        nodes: what it works at, the node that it is the job of first.
        given: the arguments of the command, with ``job-id``.
        group: the jobs that it ends together with; it adds itself. None for none.

    Raises:
        CommandError: id or speed are wrong.
    """
    machine.jobs.check_id(given["job-id"])
    speed = given.get("speed", 0)
    job = Job(
        machine.jobs,
        given["job-id"],
        work,
        nodes,
        [] if group is None else group,
        speed=max(speed, 0),
        auto_finalize=given.get("auto-finalize", True),
        auto_dismiss=given.get("auto-dismiss", True),
    )
    if speed < 0:
        job.fail_early()
        raise CommandError("Parameter 'speed' expects a non-negative value")
    return job


def use(machine: Machine, job: Job, node: Node, new: permissions.Use) -> None:
    """Let a job use a node, as long as it lasts.

    Raises:
        CommandError: another user does not allow it.
    """
    try:
        permissions.begin(machine.release, machine.graph, node, new)
    except block.ImageLockedError as error:
        raise CommandError(error.reason) from error
    except OSError as error:
        raise CommandError(str(error)) from error
    job.uses_of.append((node, new))


def set_read_only(machine: Machine, node: Node, *, read_only: bool) -> None:
    """Let a node be written or not.

    Raises:
        CommandError: it cannot be.
    """
    Reopener(machine.release, machine.graph).set_read_only(node, read_only=read_only)


def release(machine: Machine, nodes: Sequence[Node]) -> None:
    """Close those nodes that nobody uses any more."""
    for node in nodes:
        machine.close_nodes(machine.graph.release(node))
    permissions.settle(machine.graph)


def device_name(machine: Machine, node: Node) -> str:
    """Return the name of the device that a node is in, empty if there is none."""
    backends = machine.graph.backends_of(node)
    return backends[0].name if backends else ""
