"""transaction: several actions, or none of them; backups and overlays are one of one action."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from nbexport.emulator.commands import backup, drive_backup, snapshot
from nbexport.emulator.commands.bitmap import ACTIONS, Change
from nbexport.emulator.commands.registry import command
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import Graph, Node
    from nbexport.emulator.job import Job
    from nbexport.emulator.machine import Machine


@command("transaction")
async def transaction(machine: Machine, arguments: Arguments) -> None:
    """Prepare the actions in order, then commit them; undo them in reverse if one fails.

    (QEMU 7.2 never answers if that happens after two backups that were to end together.)
    """
    grouped = arguments.get("properties", {}).get("completion-mode") == "grouped"
    await _run(machine, arguments["actions"], grouped=grouped)


@command("blockdev-backup")
async def blockdev_backup(machine: Machine, arguments: Arguments) -> None:
    """Start a job that copies a disk."""
    await _run(machine, [{"type": "blockdev-backup", "data": arguments}], grouped=False)


@command("drive-backup")
async def drive(machine: Machine, arguments: Arguments) -> None:
    """Start a job that copies a disk to an image."""
    await _run(machine, [{"type": "drive-backup", "data": arguments}], grouped=False)


@command("blockdev-snapshot")
async def blockdev_snapshot(machine: Machine, arguments: Arguments) -> None:
    """Put a node on a disk as its overlay."""
    await _run(machine, [{"type": "blockdev-snapshot", "data": arguments}], grouped=False)


@command("blockdev-snapshot-sync")
async def blockdev_snapshot_sync(machine: Machine, arguments: Arguments) -> None:
    """Put an image on a disk as its overlay."""
    await _run(machine, [{"type": "blockdev-snapshot-sync", "data": arguments}], grouped=False)


async def _run(machine: Machine, actions: Sequence[Arguments], *, grouped: bool) -> None:
    early = machine.release.checks_grouping_first
    if grouped and early:
        for action in actions:
            _check_grouping(machine, action["type"])
    done: list[Change] = []
    after: list[Callable[[], None]] = []
    group: list[Job] = []

    def prepare(action: Arguments) -> Change:
        kind, data = action["type"], action["data"]
        if grouped and not early:
            _check_grouping(machine, kind)
        if kind == "abort":
            raise CommandError("Transaction aborted using Abort action")
        if kind == "blockdev-backup":
            return _prepare_backup(machine, data, group if grouped else [], after)
        if kind == "drive-backup":
            job = drive_backup.prepare(machine, data, group if grouped else [], after)
            return Change(undo=job.drop, commit=job.start)
        if kind in snapshot.KINDS:
            return snapshot.prepare(machine, kind, data, after)
        if kind not in ACTIONS:
            raise CommandError(f"Action '{kind}' is not supported by this emulator")
        return ACTIONS[kind](machine, data)

    async with machine.jobs.held():
        machine.jobs.drain()
        try:
            with _paused(machine, fronts=any(each["type"] in snapshot.KINDS for each in actions)):
                try:
                    for action in actions:
                        done.append(prepare(action))  # noqa: PERF401 - what was done is undone
                except BaseException:
                    for change in reversed(done):
                        change.undo()
                    raise
            for change in done:
                change.commit()
        finally:
            for function in after:
                function()
    if machine.release.ends_idle_jobs_at_once:
        await machine.jobs.end_idle()


@contextlib.contextmanager
def _paused(machine: Machine, *, fronts: bool) -> Iterator[None]:
    """Let nothing be written between the actions, nor between them and their undoing.

    Args:
        machine: whose disks are meant.
        fronts: whether exports will get other disks, so that nothing may be under way in them.
    """
    with contextlib.ExitStack() as stack:
        for export in machine.graph.exports.values() if fronts else ():
            if export.front is not None:
                stack.enter_context(export.front.quiet())
        # (The file of an image is written with the image's locks held, which actions may need.)
        nodes = _writers_first(machine.graph)
        files = {id(node.file) for node in nodes if node.store is not None}
        for node in nodes:
            if id(node) not in files:
                stack.enter_context(node.block.tracking.paused())
        yield


def _writers_first(graph: Graph) -> list[Node]:
    """Return all nodes, each before those that it is written to.

    A write that has begun must find those open that it goes on to.
    """
    below = {
        id(node): [child for child in (node.file, node.target) if child is not None]
        for node in graph.nodes.values()
    }
    for job in graph.jobs.values():
        # What writes the source makes a copy in the target first.
        if job.nodes:
            main, *targets = job.nodes
            source = main.file if main.is_filter and main.file is not None else main
            below[id(source)] += targets
    found: list[Node] = []
    seen: set[int] = set()

    def visit(node: Node) -> None:
        if id(node) not in seen:
            seen.add(id(node))
            for child in below[id(node)]:
                visit(child)
            found.append(node)

    for node in graph.nodes.values():
        visit(node)
    return found[::-1]


def _prepare_backup(
    machine: Machine,
    arguments: Arguments,
    group: list[Job],
    after: list[Callable[[], None]],
) -> Change:
    """Create a backup job, which the commit starts; nothing goes on at its source until then."""
    source = machine.graph.find(arguments["device"])
    machine.graph.find(arguments["target"])
    machine.jobs.quiesce(source)
    after.append(lambda: machine.jobs.release(source))
    job = backup.prepare(machine, arguments, group)
    return Change(undo=job.drop, commit=job.start)


def _check_grouping(machine: Machine, kind: str) -> None:
    """Raise CommandError if an action starts no job that could end together with others."""
    if kind in {"abort", "blockdev-backup", "drive-backup"}:
        return
    word = "transaction" if machine.release.checks_grouping_first else "Transaction"
    raise CommandError(
        f"Action '{kind}' does not support {word} property completion-mode = grouped"
    )
