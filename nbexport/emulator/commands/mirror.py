"""blockdev-mirror and drive-mirror, and the commit of an image that is written, which is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.block.locks import NOTHING, Permission
from nbexport.block.tracking import default_granularity
from nbexport.emulator import blockers, chains, describe, images, jobnodes, permissions
from nbexport.emulator.blockers import Operation
from nbexport.emulator.commands.registry import command
from nbexport.emulator.mirroring import Mirror
from nbexport.errors import CommandError
from nbexport.units import is_power_of_two

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import Node
    from nbexport.emulator.job import Job
    from nbexport.emulator.machine import Machine

GRANULARITY_MIN = 512
GRANULARITY_MAX = 64 << 20


@command("blockdev-mirror")
async def blockdev_mirror(machine: Machine, arguments: Arguments) -> None:
    """Start a job that copies a disk to a node and follows it."""
    async with machine.jobs.held():
        source = blockers.root(machine.graph, arguments["device"])
        target = machine.graph.find(arguments["target"])
        given = dict(arguments)
        zeroes = given["sync"] == "full" and not given.get("target-is-zero", False)
        job = _prepare(machine, source, target, given, zeroes=zeroes)
    _begin(job)


@command("drive-mirror")
async def drive_mirror(machine: Machine, arguments: Arguments) -> None:
    """Start a job that copies a disk to an image and follows it."""
    async with machine.jobs.held():
        job = _drive_mirror(machine, dict(arguments))
    _begin(job)


def _begin(job: Job) -> None:
    work = job.work
    assert isinstance(work, Mirror)
    work.start(job)


def _drive_mirror(machine: Machine, given: dict[str, Any]) -> Job:
    graph = machine.graph
    source = blockers.root(graph, given["device"])
    blockers.check(graph, source, Operation.MIRROR)
    mode = given.get("mode", "absolute-paths")
    driver = given.get("format")
    if driver is None and mode != "existing":
        driver = describe.driver(source)
    backing = chains.below(source)
    if backing is None and given["sync"] == "top":
        given["sync"] = "full"
    if given["sync"] == "none":
        backing = source
    if "replaces" in given and "node-name" not in given:
        raise CommandError("a node-name must be provided when replacing a named node of the graph")
    if mode != "existing":
        assert driver is not None
        below = None if given["sync"] == "full" else backing
        images.create(machine, given["target"], driver, source.block.size, below)
    before = set(graph.nodes)
    options: dict[str, Any] = {"backing": None} if driver in {None, "qcow2"} else {}
    if "node-name" in given:
        options["node-name"] = given["node-name"]
    target = images.open_image(machine, given["target"], driver, options)
    zeroes = given["sync"] == "full" and mode == "existing"
    try:
        job = _prepare(machine, source, target, given, zeroes=zeroes)
    except BaseException:
        images.discard(machine, before)
        raise
    work = job.work
    assert isinstance(work, Mirror)
    if mode == "existing":
        work.opens_backing = True
    else:
        work.sets_backing = True
        work.backing = {"none": source, "top": chains.below(source)}.get(given["sync"])
    return job


def _prepare(
    machine: Machine, source: Node, target: Node, given: dict[str, Any], *, zeroes: bool
) -> Job:
    """Check in QEMU's order, and create a job."""
    graph = machine.graph
    granularity = given.get("granularity", 0)
    if granularity and not GRANULARITY_MIN <= granularity <= GRANULARITY_MAX:
        raise CommandError("Parameter 'granularity' expects a value in range [512B, 64MB]")
    if granularity and not is_power_of_two(granularity):
        raise CommandError("Parameter 'granularity' expects a power of 2")
    blockers.check(graph, source, Operation.MIRROR)
    blockers.check(graph, target, Operation.MIRROR)
    if given["sync"] == "top" and chains.below(source) is None:
        given["sync"] = "full"
    if "replaces" in given:
        _check_replaced(machine, source, given["replaces"])
    if given["sync"] in {"incremental", "bitmap"}:
        raise CommandError(f"Sync mode '{given['sync']}' not supported")
    layers = {"top": 1, "none": 0}.get(given["sync"])
    return _start(machine, source, target, given, zeroes=zeroes, layers=layers)


def _check_replaced(machine: Machine, source: Node, name: str) -> None:
    """Raise CommandError unless a node can be replaced by the mirror of another."""
    node = machine.graph.nodes.get(name)
    if node is None:
        raise CommandError(f"Failed to find node with node-name='{name}'")
    blockers.check(machine.graph, node, Operation.MIRROR)
    if chains.without_filters(source) is not chains.without_filters(node):
        raise CommandError(
            f"Cannot replace '{name}' by a node mirrored from '{source.name}', because it cannot "
            "be guaranteed that doing so would not lead to an abrupt change of visible data"
        )
    if node.block.size != source.block.size:
        raise CommandError("cannot replace image with a mirror image of different size")


def start_commit(
    machine: Machine, top: Node, base: Node, nodes: list[Node], given: dict[str, Any]
) -> Job:
    """Create the job of a commit of an image that is written.

    Args:
        machine: where it runs.
        top: the image.
        base: what gets the data.
        nodes: the chain from one to the other.
        given: arguments of the command.

    Raises:
        CommandError: it cannot be.
    """
    was_read_only = base.read_only
    if was_read_only:
        jobnodes.set_read_only(machine, base, read_only=False)
    overlay = chains.overlay_of(top, base)
    assert overlay is not None
    layers = chains.layers_to(top, overlay)
    try:
        return _start(machine, top, base, given, zeroes=False, layers=layers, between=nodes[1:-1])
    except BaseException:
        if was_read_only:
            jobnodes.set_read_only(machine, base, read_only=True)
        raise


def _start(
    machine: Machine,
    source: Node,
    target: Node,
    given: dict[str, Any],
    *,
    zeroes: bool,
    layers: int | None,
    between: list[Node] | None = None,
) -> Job:
    granularity = given.get("granularity") or default_granularity(target.block.cluster_size)
    if given.get("buf-size", 0) < 0:
        raise CommandError("Invalid parameter 'buf-size'")
    if chains.without_filters(source) is chains.without_filters(target):
        raise CommandError("Can't mirror node into itself")
    commits = between is not None
    is_below = target in list(source.chain())
    given.setdefault("job-id", jobnodes.device_name(machine, source))
    above = jobnodes.insert(
        machine,
        block.MirrorTopNode,
        source,
        given.get("filter-node-name"),
        read_only=False,
        options={"commits": is_below, "stopped": False},
    )
    work = None
    job = None
    try:
        work = Mirror(machine, source, target, given, granularity, layers=layers, commits=commits)
        work.zeroes_target = zeroes
        work.filter = above
        job = jobnodes.new_job(machine, work, [above, source, target, *(between or ())], given)
        _take_permissions(machine, job, above, source, target, between, is_below=is_below)
    except BaseException:
        if job is not None:
            job.fail_early()
        if work is not None:
            work.clean()
        else:
            machine.graph.take_out(above)
        raise
    work.job = job
    return job


def _take_permissions(
    machine: Machine,
    job: Job,
    above: Node,
    source: Node,
    target: Node,
    between: list[Node] | None,
    *,
    is_below: bool,
) -> None:
    kind = job.work.type
    denied = Permission.RESIZE
    use = permissions.root_use(Permission.CONSISTENT_READ, denied)
    use = use._replace(who=f"{kind} job '{job.id}'", role="main node")
    jobnodes.use(machine, job, above, use)
    if not is_below and chains.without_filters(target) in list(source.chain()):
        raise CommandError(
            "Cannot mirror to a filter on top of a node in the source's backing chain"
        )
    if not is_below:
        denied |= Permission.CONSISTENT_READ | Permission.WRITE
    jobnodes.use(machine, job, target, permissions.root_use(Permission.WRITE, denied))
    use = permissions.job_use(kind, job.id, "source", Permission.RESIZE)
    jobnodes.use(machine, job, source, use)
    jobnodes.use(machine, job, target, permissions.job_use(kind, job.id, "target", NOTHING))
    for node in between or ():
        denied = Permission.CONSISTENT_READ | Permission.RESIZE
        use = permissions.job_use(kind, job.id, "intermediate node", denied)
        jobnodes.use(machine, job, node, use)
