"""transaction: several actions, or none of them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from nbexport.emulator.commands.bitmap import ACTIONS, Change
from nbexport.emulator.commands.registry import command
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.machine import Machine


@command("transaction")
async def transaction(machine: Machine, arguments: Arguments) -> None:
    """Prepare the actions in order, then commit them; undo them in reverse if one fails."""
    actions = arguments["actions"]
    grouped = arguments.get("properties", {}).get("completion-mode") == "grouped"
    early = machine.release.checks_grouping_first
    if grouped and early:
        for action in actions:
            _check_grouping(machine, action["type"])
    done: list[Change] = []
    with contextlib.ExitStack() as stack:
        # Nothing is written between the actions, nor between them and their undoing.
        # (The file of an image is written with the image's locks held, which actions may need.)
        nodes = machine.graph.nodes.values()
        files = {id(node.file) for node in nodes if node.store is not None}
        for node in nodes:
            if id(node) not in files:
                stack.enter_context(node.block.tracking.paused())
        try:
            for action in actions:
                if grouped and not early:
                    _check_grouping(machine, action["type"])
                done.append(_prepare(machine, action))
        except BaseException:
            for change in reversed(done):
                change.undo()
            raise
    for change in done:
        change.commit()


def _prepare(machine: Machine, action: Arguments) -> Change:
    if action["type"] == "abort":
        raise CommandError("Transaction aborted using Abort action")
    return ACTIONS[action["type"]](machine, action["data"])


def _check_grouping(machine: Machine, kind: str) -> None:
    """Raise CommandError: bitmaps start no jobs that could end together."""
    if kind == "abort":
        return
    word = "transaction" if machine.release.checks_grouping_first else "Transaction"
    raise CommandError(
        f"Action '{kind}' does not support {word} property completion-mode = grouped"
    )
