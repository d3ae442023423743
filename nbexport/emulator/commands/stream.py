"""block-stream: the data of the images below come up, until the image does without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.block import SourceReadError
from nbexport.block.locks import Permission
from nbexport.emulator import blockers, chains, jobnodes, permissions
from nbexport.emulator.blockers import Operation
from nbexport.emulator.commands.registry import command
from nbexport.emulator.work import DISK_ERRORS, BlockWork, DiskError
from nbexport.errors import CommandError, FormatError
from nbexport.units import KiB

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import Node
    from nbexport.emulator.job import Job
    from nbexport.emulator.machine import Machine

CHUNK = 512 * KiB
"""Bytes that are looked at and copied at a time, as in QEMU."""


class Stream(BlockWork):
    """The work of a job that brings data up.

    Args:
        machine: where it runs.
        image: what gets the data.
        going: the images that are not needed any more in the end.
        last: the last image whose data come up.
        given: arguments of the command.
    """

    type = "stream"

    def __init__(
        self, machine: Machine, image: Node, going: list[Node], last: Node, given: Arguments
    ) -> None:
        on_error = given.get("on-error", "report")
        super().__init__(
            machine, {"read": on_error, "write": on_error}, max(given.get("speed", 0), 0)
        )
        self._image = image
        self._going = going
        self._last = last
        self._layers = chains.layers_to(image, last)
        self._name = given.get("backing-file")
        self._at = 0
        self._first_error: DiskError | None = None
        self.filter: Node | None = None
        self.was_read_only = False
        self.job: Job | None = None

    async def step(self, job: Job) -> bool:
        """Look at the next piece, and bring it up if it is below."""
        if chains.without_filters(self._image) is self._last:
            return False
        self.total = size = self._image.block.size
        if self._at >= size:
            if self._first_error is not None:
                # What was left out must still be found below.
                raise OSError(getattr(self._first_error, "errno", None) or 5, "")
            return False
        await job.sleep(self.delay)
        if job.cancelled or job.pause_count:
            self.delay = 0.0
            return True
        copied = False
        try:
            length, copied = await self._machine.in_thread(self._copy)
        except DISK_ERRORS as error:
            if self.failed(job, error, "read") == "stop":
                return True
            self._first_error = self._first_error or error
            length = min(CHUNK, size - self._at)
        self._at += length
        self.done += length
        self.delay = self.rate.delay(length) if copied else 0.0
        return True

    def _copy(self) -> tuple[int, bool]:
        """Bring a piece up; return its length, and whether there was something to bring."""
        disk = self._image.block
        end = min(self._at + CHUNK, disk.size)
        with disk.tracking.paused():
            try:
                depth = disk.depth(self._at, end)
                kinds = depth.map_flags(lambda flags: _kind(flags, self._layers))
                length = int(kinds.bounds[1]) - self._at
                if kinds.flags[0] != _BELOW:
                    return length, False
                data = disk.read(self._at, length)
            except (FormatError, OSError) as error:
                raise SourceReadError(error) from error
            disk.write_unchanged(self._at, memoryview(data))
        return length, True

    def prepare(self) -> None:
        """Let the images below go; what is left below is the new backing file."""
        self._drop_filter()
        base = self._last.backing
        image = chains.without_filters(self._image)
        assert image is not None
        if image.backing is not None:
            with self._machine.graph.still(image):
                chains.rebase(self._machine, image, base, self._name)

    def _drop_filter(self) -> None:
        if self.filter is not None:
            above, self.filter = self.filter, None
            self._machine.graph.take_out(above)

    def clean(self) -> None:
        """Leave what is left of the chain to its users."""
        if self.job is not None:
            self.job.uses_of = [use for use in self.job.uses_of if use[1].role != "root"]
        self._drop_filter()
        if self.was_read_only:
            jobnodes.set_read_only(self._machine, self._image, read_only=True)
        permissions.settle(self._machine.graph)

    def forget(self) -> None:
        """Close the images that nobody uses any more; until now the job did."""
        jobnodes.release(self._machine, self._going)


_HERE, _BELOW = 1, 2


def _kind(flags: Any, layers: int) -> Any:
    """Return 1 where the image itself has data, 2 where an image has that goes, else 0."""
    here = (flags == 1).astype(flags.dtype) * _HERE
    return here + ((flags > 1) & (flags <= layers)).astype(flags.dtype) * _BELOW


@command("block-stream")
async def block_stream(machine: Machine, arguments: Arguments) -> None:
    """Start a job that brings data up."""
    async with machine.jobs.held():
        job = _prepare(machine, dict(arguments))
    job.start()


def _prepare(machine: Machine, given: dict[str, Any]) -> Job:
    for one, other in (("base", "base-node"), ("base", "bottom"), ("bottom", "base-node")):
        if one in given and other in given:
            raise CommandError(f"'{one}' and '{other}' cannot be specified at the same time")
    image = machine.graph.find(given["device"])
    base = _base(machine, image, given)
    bottom = _bottom(machine, image, given)
    going = []
    end = bottom.backing if bottom is not None else base
    for node in image.chain():
        if node is end:
            break
        blockers.check(machine.graph, node, Operation.STREAM)
        going.append(node)
    if base is None and "backing-file" in given:
        raise CommandError("backing file specified, but streaming the entire chain")
    last = bottom if bottom is not None else chains.overlay_of(image, base)
    if last is None:
        assert base is not None
        raise CommandError(f"'{base.name}' is not in the backing chain of '{image.name}'")
    return _start(machine, image, last, going, given)


def _base(machine: Machine, image: Node, given: Arguments) -> Node | None:
    if "base" in given:
        found = chains.find_by_name(image, given["base"])
        if found is None:
            raise CommandError(f"Can't find '{given['base']}' in the backing chain")
        return found
    if "base-node" in given:
        name = given["base-node"]
        node = machine.graph.nodes.get(name)
        if node is None:
            raise CommandError(f"Cannot find device='' nor node-name='{name}'")
        if node is image or node not in list(image.chain()):
            raise CommandError(f"Node '{name}' is not a backing image of '{given['device']}'")
        return node
    return None


def _bottom(machine: Machine, image: Node, given: Arguments) -> Node | None:
    if "bottom" not in given:
        return None
    name = given["bottom"]
    node = machine.graph.nodes.get(name)
    if node is None:
        raise CommandError(f"Cannot find device='' nor node-name='{name}'")
    if node.is_filter:
        raise CommandError(f"Node '{name}' is a filter, use a non-filter node as 'bottom'")
    if node not in list(image.chain()):
        raise CommandError(f"Node '{name}' is not in a chain starting from '{given['device']}'")
    return node


def _start(
    machine: Machine, image: Node, last: Node, going: list[Node], given: dict[str, Any]
) -> Job:
    for node in going[1:]:
        if isinstance(node.block, block.CommitTopNode | block.MirrorTopNode):
            # (Without a name of its own: the chain is held before the filter is made.)
            prefix = "" if image.read_only else "Could not create node: "
            raise CommandError(f"{prefix}Cannot freeze 'backing' link to '{node.name}'")
    work = Stream(machine, image, going[1:], last, given)
    given.setdefault("job-id", jobnodes.device_name(machine, image))
    job = None
    try:
        if image.read_only:
            jobnodes.set_read_only(machine, image, read_only=False)
            work.was_read_only = True
        name = given.get("filter-node-name")
        try:
            work.filter = jobnodes.insert(
                machine, block.StreamTopNode, image, name, read_only=False
            )
        except CommandError as error:
            raise CommandError(f"Could not create node: {error.desc}") from error
        job = jobnodes.new_job(machine, work, [work.filter, *going], given)
        denied = Permission.RESIZE
        jobnodes.use(machine, job, work.filter,
                    permissions.root_use(Permission.CONSISTENT_READ, denied))  # fmt: skip
        use = permissions.job_use(work.type, job.id, "active node", denied)
        jobnodes.use(machine, job, image, use)
        for node in going[1:]:
            use = permissions.job_use(
                work.type, job.id, "intermediate node", denied | Permission.WRITE
            )
            jobnodes.use(machine, job, node, use)
    except BaseException:
        if job is not None:
            job.fail_early()
        work.clean()
        raise
    work.job = job
    return job
