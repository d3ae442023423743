"""blockdev-create: an image is made by a job, which has to be dismissed."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final

from nbexport import block
from nbexport.block.locks import NOTHING, Permission
from nbexport.emulator import permissions
from nbexport.emulator.builder import Builder
from nbexport.emulator.commands.registry import command
from nbexport.emulator.job import Job
from nbexport.emulator.work import BlockWork
from nbexport.errors import CommandError, FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import Node
    from nbexport.emulator.machine import Machine

_EXTENT_HINT_MAX: Final = (1 << 32) - 1
_VERSIONS: Final = {"v2": 2, "v3": 3}
_COMPRESSIONS: Final = {"zlib": 0, "zstd": 1}
_PLAN: Final = {
    "cluster-size": "cluster_size",
    "refcount-bits": "refcount_bits",
    "lazy-refcounts": "lazy_refcounts",
    "extended-l2": "extended_l2",
    "backing-file": "backing_file",
    "backing-fmt": "backing_format",
    "data-file-raw": "data_file_raw",
    "preallocation": "preallocation",
    "size": "size",
}


class Create(BlockWork):
    """The work of a job that makes an image.

    Args:
        machine: where it runs.
        options: what to make.

    Attributes:
        nodes: what it writes to.
    """

    type = "create"

    def __init__(self, machine: Machine, options: dict[str, Any]) -> None:
        super().__init__(machine, on_error={}, speed=0)
        self._options = options
        self._make: Callable[[], None] | None = None
        self._error: Exception | None = None
        self._begun = self._done = False
        self._opened: list[Node] = []
        self.nodes: list[Node] = []

    async def open(self) -> None:
        """Open what is written to; an error is that of the job."""
        try:
            self._make = await self._machine.in_thread(self._plan)
        except (CommandError, FormatError, UsageError, OSError) as error:
            self._error = error

    def progress(self) -> tuple[int, int]:
        """Return 1 of 1 when it is done."""
        return int(self._done), int(self._begun)

    async def step(self, job: Job) -> bool:
        """Make the image."""
        self._begun = True
        error = self._error
        if error is None:
            assert self._make is not None
            try:
                await self._machine.in_thread(self._make)
            except (CommandError, FormatError, UsageError, OSError) as failed:
                error = failed
        self._done = True
        if error is not None:
            job.error = _words(error)
            raise OSError(getattr(error, "errno", None) or errno.EINVAL, job.error) from error
        return False

    def clean(self) -> None:
        """Close what was opened for it."""
        graph = self._machine.graph
        self.nodes = []
        for node in self._opened:
            if node.name in graph.nodes:
                self._machine.close_nodes(graph.remove(node))
        permissions.settle(graph)

    # What is to be done

    def _plan(self) -> Callable[[], None]:
        options = self._options
        if options["driver"] == "file":
            return self._plan_file(options)
        return self._plan_qcow2(options)

    def _plan_file(self, options: dict[str, Any]) -> Callable[[], None]:
        if options.get("extent-size-hint", 0) > _EXTENT_HINT_MAX:
            raise CommandError("Extent size hint is too large")
        mode = options.get("preallocation", "off")
        return lambda: block.create_file(options["filename"], options["size"], mode)

    def _plan_qcow2(self, options: dict[str, Any]) -> Callable[[], None]:
        file = self._open(options["file"])
        if "encrypt" in options:
            raise CommandError("Option 'encrypt' is not supported by this emulator")
        given = {_PLAN[name]: value for name, value in options.items() if name in _PLAN}
        if "data-file" in options:
            given["data_file"] = ""
        plan = block.Plan(
            version=_VERSIONS[options.get("version", "v3")],
            compression=_COMPRESSIONS[options.get("compression-type", "zlib")],
            **given,
        )
        plan.check()
        if "data-file" in options:
            data = self._open(options["data-file"])
            given["data_file"] = data.block.filename
            plan = block.Plan(version=plan.version, compression=plan.compression, **given)
        use = permissions.Use(
            "an unnamed block device", "root", Permission.WRITE | Permission.RESIZE, NOTHING
        )
        permissions.begin(self._machine.release, self._machine.graph, file, use)
        return lambda: block.create(file.block, plan)

    def _open(self, given: str | dict[str, Any]) -> Node:
        """Return a node by reference, or open the one that is described."""
        graph = self._machine.graph
        if isinstance(given, str):
            node = graph.find(given)
        else:
            objects = getattr(self._machine, "objects", None)
            node = Builder(self._machine.release, graph, objects=objects).build(given)
            self._opened.append(node)
        self.nodes.append(node)
        return node


def _words(error: Exception) -> str:
    if isinstance(error, block.ImageLockedError):
        return error.reason
    if isinstance(error, OSError) and error.strerror is None:
        return os.strerror(error.errno or errno.EIO)
    return str(error)


@command("blockdev-create")
async def create(machine: Machine, arguments: Arguments) -> None:
    """Start a job that makes an image."""
    options = arguments["options"]
    if options["driver"] not in {"file", "qcow2"}:
        raise CommandError("Driver does not support blockdev-create")
    machine.jobs.check_id(arguments["job-id"])
    work = Create(machine, options)
    job = Job(machine.jobs, arguments["job-id"], work, [], [], auto_dismiss=False)
    await work.open()
    job.nodes = list(work.nodes)
    job.start()
