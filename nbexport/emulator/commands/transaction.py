"""transaction: several actions, or none of them; blockdev-backup is one of one action."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from nbexport.emulator.commands import backup
from nbexport.emulator.commands.bitmap import ACTIONS, Change
from nbexport.emulator.commands.registry import command
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.jobs import Job
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


async def _run(machine: Machine, actions: Sequence[Arguments], *, grouped: bool) -> None:
    early = machine.release.checks_grouping_first
    if grouped and early:
        for action in actions:
            _check_grouping(machine, action["type"])
    async with machine.jobs.held():
        machine.jobs.drain()
        with _actions(machine, grouped=grouped) as run, _paused(machine):
            for action in actions:
                if grouped and not early:
                    _check_grouping(machine, action["type"])
                run(action)


@contextlib.contextmanager
def _paused(machine: Machine) -> Iterator[None]:
    """Let nothing be written between the actions, nor between them and their undoing."""
    with contextlib.ExitStack() as stack:
        # (The file of an image is written with the image's locks held, which actions may need.)
        nodes = list(machine.graph.nodes.values())
        files = {id(node.file) for node in nodes if node.store is not None}
        for node in nodes:
            if id(node) not in files:
                stack.enter_context(node.block.tracking.paused())
        yield


@contextlib.contextmanager
def _actions(machine: Machine, *, grouped: bool) -> Iterator[Callable[[Arguments], None]]:
    """Give what prepares an action; commit or undo all in the end."""
    done: list[Change] = []
    after: list[Callable[[], None]] = []
    group: list[Job] = []

    def run(action: Arguments) -> None:
        kind, data = action["type"], action["data"]
        if kind == "abort":
            raise CommandError("Transaction aborted using Abort action")
        if kind == "blockdev-backup":
            done.append(_prepare_backup(machine, data, group if grouped else [], after))
        elif kind in ACTIONS:
            done.append(ACTIONS[kind](machine, data))
        else:
            raise CommandError(f"Action '{kind}' is not supported by this emulator")

    try:
        yield run
    except BaseException:
        for change in reversed(done):
            change.undo()
        for function in after:
            function()
        raise
    for change in done:
        change.commit()
    for function in after:
        function()


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
    if kind in {"abort", "blockdev-backup"}:
        return
    word = "transaction" if machine.release.checks_grouping_first else "Transaction"
    raise CommandError(
        f"Action '{kind}' does not support {word} property completion-mode = grouped"
    )
