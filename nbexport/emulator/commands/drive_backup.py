"""drive-backup: a backup to an image that the command makes, or opens by its file name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport.emulator import blockers, chains, describe, images, jobnodes
from nbexport.emulator.blockers import Operation
from nbexport.emulator.commands import backup

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import Node
    from nbexport.emulator.job import Job
    from nbexport.emulator.machine import Machine


def prepare(
    machine: Machine,
    arguments: Arguments,
    group: list[Job],
    after: list[Callable[[], None]],
) -> Job:
    """Create a job, which is not started, as an action of a transaction.

    Args:
        machine: where it runs.
        arguments: of the command.
        group: the jobs that it ends together with.
        after: gets what is to be done after the transaction.

    Raises:
        CommandError: something is wrong; nothing is left of the attempt but the image's file.
    """
    given: dict[str, Any] = dict(arguments)
    source = machine.graph.find(given["device"])
    machine.jobs.quiesce(source)
    after.append(lambda: machine.jobs.release(source))
    blockers.check(machine.graph, source, Operation.BACKUP)
    filename, mode = given.pop("target"), given.pop("mode", "absolute-paths")
    driver = given.pop("format", None)
    if driver is None and mode != "existing":
        driver = describe.driver(source)
    backing: Node | None = None
    if given["sync"] == "top":
        backing = chains.below(source)
        if backing is None:
            given["sync"] = "full"
    elif given["sync"] == "none":
        backing = source
    if mode != "existing":
        assert driver is not None
        images.create(machine, filename, driver, source.block.size, backing)
    options: dict[str, Any] = {"discard": "unmap", "detect-zeroes": "unmap"}
    if given["sync"] == "none" and driver in {None, "qcow2"}:
        options["backing"] = None
    if "cache" in source.options:
        options["cache"] = dict(source.options["cache"])
    target = images.open_image(machine, filename, driver, options)
    try:
        if given["sync"] == "none":
            chains.set_backing(target, source)
        return backup.prepare(machine, given, group, target=target)
    except BaseException:
        jobnodes.release(machine, [target])
        raise
