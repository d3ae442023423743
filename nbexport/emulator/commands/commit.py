"""block-commit: the data of images go down to one below them, which takes their place."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.block import SourceReadError
from nbexport.block.locks import NOTHING, Permission
from nbexport.emulator import blockers, chains, jobnodes, permissions
from nbexport.emulator.blockers import Operation
from nbexport.emulator.commands import mirror
from nbexport.emulator.commands.registry import command
from nbexport.emulator.work import DISK_ERRORS, BlockWork, grow
from nbexport.errors import CommandError, FormatError
from nbexport.units import KiB

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import Node
    from nbexport.emulator.job import Job
    from nbexport.emulator.machine import Machine

CHUNK = 512 * KiB
"""Bytes that are looked at and copied at a time, as in QEMU."""


class Commit(BlockWork):
    """The work of a job that commits images which nobody writes.

    Args:
        machine: where it runs.
        top: the topmost image that goes.
        base: what gets the data.
        given: arguments of the command.
    """

    type = "commit"

    def __init__(self, machine: Machine, top: Node, base: Node, given: Arguments) -> None:
        on_error = given.get("on-error", "report")
        super().__init__(
            machine, {"read": on_error, "write": on_error}, max(given.get("speed", 0), 0)
        )
        self._top = top
        self._base = base
        overlay = chains.overlay_of(top, base)
        assert overlay is not None
        self._layers = chains.layers_to(top, overlay)
        self._going = list(itertools.takewhile(lambda node: node is not base, top.chain()))
        self._name = given.get("backing-file")
        self._at = 0
        self.filter: Node | None = None
        self.was_read_only = False
        self.job: Job | None = None

    async def step(self, job: Job) -> bool:
        """Look at the next piece, and copy it if it is above the base."""
        if not self._at:
            await grow(self._machine, self._base, self._top.block.size)
        self.total = size = self._top.block.size
        if self._at >= size:
            return False
        await job.sleep(self.delay)
        if job.cancelled or job.pause_count:
            self.delay = 0.0
            return True
        try:
            length, copied = await self._machine.in_thread(self._copy)
        except DISK_ERRORS as error:
            self.failed(job, error)
            return True
        self._at += length
        self.done += length
        self.delay = self.rate.delay(length) if copied else 0.0
        return True

    def _copy(self) -> tuple[int, bool]:
        """Copy a piece; return its length, and whether there was something to copy."""
        top, base = self._top.block, self._base.block
        end = min(self._at + CHUNK, top.size)
        try:
            depth = top.depth(self._at, end)
            length = int(depth.bounds[1]) - self._at
            # Pieces that are all to be copied, or all not, are one.
            wanted = depth.map_flags(lambda flags: _within(flags, self._layers))
            length = int(wanted.bounds[1]) - self._at
            if not wanted.flags[0]:
                return length, False
            data = top.read(self._at, length)
        except (FormatError, OSError) as error:
            raise SourceReadError(error) from error
        base.write_from(self._at, memoryview(data))
        return length, True

    def prepare(self) -> None:
        """Let the images go: who stands on them stands on the base from now on."""
        above = self.filter
        assert above is not None
        graph = self._machine.graph
        if self.job is not None:
            self.job.uses_of = [use for use in self.job.uses_of if use[1].role != "root"]
        users = [user for user in graph.parents(above) if user.backing is above]
        with graph.still(self._base):
            graph.replace(above, self._base)
        del graph.nodes[above.name]
        self.filter = None
        for user in users:
            chains.rebase(self._machine, user, self._base, self._name)

    def abort(self) -> None:
        """Leave the images where they are, to anybody."""
        if self.job is not None:
            self.job.nodes, self.job.uses_of = [], []

    def clean(self) -> None:
        """Leave what is left of the chain to its users."""
        if self.job is not None:
            self.job.uses_of = [use for use in self.job.uses_of if use[1].role != "root"]
        if self.filter is not None:
            above, self.filter = self.filter, None
            self._machine.graph.take_out(above)
        if self.was_read_only:
            _quietly_read_only(self._machine, self._base)
        permissions.settle(self._machine.graph)

    def forget(self) -> None:
        """Close the images that nobody uses any more; until now the job did."""
        jobnodes.release(self._machine, self._going)


def _quietly_read_only(machine: Machine, node: Node) -> None:
    try:
        jobnodes.set_read_only(machine, node, read_only=True)
    except CommandError:
        return


def _within(flags: Any, layers: int) -> Any:
    return ((flags >= 1) & (flags <= layers)).astype(flags.dtype)


@command("block-commit")
async def block_commit(machine: Machine, arguments: Arguments) -> None:
    """Start a job that commits images."""
    async with machine.jobs.held():
        job = _prepare(machine, dict(arguments))
    job.start()


def _prepare(machine: Machine, given: dict[str, Any]) -> Job:
    graph = machine.graph
    device = _device(machine, given["device"])
    blockers.check(graph, device, Operation.COMMIT_SOURCE)
    top = _top(machine, device, given)
    base = _base(machine, top, given)
    nodes = []
    for node in top.chain():
        blockers.check(graph, node, Operation.COMMIT_TARGET)
        nodes.append(node)
        if node is base:
            break
    if top is base:
        raise CommandError("cannot commit an image into itself")
    given.setdefault("job-id", jobnodes.device_name(machine, device))
    is_active = chains.without_filters(top) is chains.without_filters(device)
    if is_active or _is_written(machine, top):
        if "backing-file" in given:
            what = "is the active layer" if is_active else "has a writer on it"
            raise CommandError(f"'backing-file' specified, but 'top' {what}")
        return mirror.start_commit(machine, top, base, nodes, given)
    overlay = chains.overlay_of(device, top)
    assert overlay is not None
    blockers.check(graph, overlay, Operation.COMMIT_TARGET)
    return _start(machine, device, top, base, nodes, given)


def _device(machine: Machine, name: str) -> Node:
    if machine.graph.look_up(name) is None:
        raise CommandError(f"Device '{name}' not found", error_class="DeviceNotFound")
    return blockers.root(machine.graph, name)


def _top(machine: Machine, device: Node, given: Arguments) -> Node:
    if "top-node" in given and "top" in given:
        raise CommandError("'top-node' and 'top' are mutually exclusive")
    if "top-node" in given:
        return _in_chain(machine, device, given["top-node"])
    if "top" in given and given["top"] != device.block.filename:
        found = chains.find_by_name(device, given["top"])
        if found is None:
            raise CommandError(f"Top image file {given['top']} not found")
        return found
    return device


def _base(machine: Machine, top: Node, given: Arguments) -> Node:
    if "base-node" in given and "base" in given:
        raise CommandError("'base-node' and 'base' are mutually exclusive")
    if "base-node" in given:
        return _in_chain(machine, top, given["base-node"])
    if "base" in given:
        found = chains.find_by_name(top, given["base"])
        if found is None:
            raise CommandError(f"Can't find '{given['base']}' in the backing chain")
        return found
    found = chains.overlay_of(top, None)
    assert found is not None
    return found


def _in_chain(machine: Machine, top: Node, name: str) -> Node:
    node = machine.graph.nodes.get(name)
    if node is None:
        raise CommandError(f"Cannot find device='' nor node-name='{name}'")
    if node not in list(top.chain()):
        raise CommandError(f"'{name}' is not in this backing file chain")
    return node


def _is_written(machine: Machine, node: Node) -> bool:
    return any(use.required & Permission.WRITE for use in permissions.uses(machine.graph, node))


def _start(
    machine: Machine, device: Node, top: Node, base: Node, nodes: list[Node], given: Arguments
) -> Job:
    """Create the job of a commit that nobody disturbs by writing."""
    work = Commit(machine, top, base, given)
    job = jobnodes.new_job(machine, work, [device, *nodes], given)
    try:
        if base.read_only:
            jobnodes.set_read_only(machine, base, read_only=False)
            work.was_read_only = True
        name = given.get("filter-node-name")
        work.filter = jobnodes.insert(machine, block.CommitTopNode, top, name, read_only=True)
        denied = Permission.CONSISTENT_READ | Permission.RESIZE
        for node in nodes[:-1]:
            use = permissions.job_use(work.type, job.id, "intermediate node", denied)
            jobnodes.use(machine, job, node, use)
        jobnodes.use(machine, job, base, permissions.job_use(work.type, job.id, "base", NOTHING))
        required = Permission.CONSISTENT_READ | Permission.WRITE
        denied = Permission.WRITE | Permission.RESIZE
        jobnodes.use(machine, job, base, permissions.root_use(required, denied))
        jobnodes.use(machine, job, top, permissions.root_use(NOTHING, NOTHING))
    except BaseException:
        job.fail_early()
        work.clean()
        raise
    work.job = job
    return job
