"""Images that commands make or open by their file name: targets and overlays."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.block.chain import is_known_driver, split_protocol
from nbexport.block.locks import Permission
from nbexport.emulator import describe
from nbexport.emulator.imageopts import ImageOpener
from nbexport.errors import CommandError, FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbexport.emulator.graph import Node
    from nbexport.emulator.machine import Machine

_WITHOUT_CREATION = frozenset({"copy-before-write", "nbd", "null-aio", "null-co"})


def create(
    machine: Machine, filename: str, driver: str, size: int, backing: Node | None = None
) -> None:
    """Make an image as QEMU does for a command, which tells of it on its standard output.

    Args:
        machine: whose command it is.
        filename: of the image.
        driver: its format.
        size: bytes of the disk.
        backing: the node that becomes its backing file.

    Raises:
        CommandError: it cannot be made.
    """
    if driver not in {"qcow2", "raw", "file"}:
        if driver in _WITHOUT_CREATION:
            raise CommandError(f"Format driver '{driver}' does not support image creation")
        if is_known_driver(driver):
            raise CommandError(f"Creating images of format '{driver}' is not supported")
        raise CommandError(f"Unknown file format '{driver}'")
    name = None if backing is None else describe.filename(backing)
    shape = None if backing is None else describe.driver(backing)
    if backing is not None and driver != "qcow2":
        raise CommandError(f"Backing file not supported for file format '{driver}'")
    if name is not None and name == filename:
        raise CommandError(
            "Error: Trying to create an image with the same filename as the backing file"
        )
    try:
        path = split_protocol(filename)
        if driver == "qcow2":
            _check_writable(path)
            block.create_qcow2(path, size, backing_file=name, backing_format=shape)
        else:
            _check_writable(path)
            block.create_raw(path, size)
    except block.ImageLockedError as error:
        raise CommandError(error.reason) from error
    except UsageError as error:
        raise CommandError(str(error)) from error
    except FormatError as error:
        raise CommandError(f"{filename}: {error.message}") from error
    except OSError as error:
        raise CommandError(
            f"Could not create '{filename}': {os.strerror(error.errno or 5)}"
        ) from error
    text = block.creation_text(filename, driver, size, backing_file=name, backing_format=shape)
    machine.say(text)


def _check_writable(path: str) -> None:
    """Refuse to truncate what another process uses."""
    if not Path(path).exists():
        return
    with block.FileNode(path, writable=True) as file:
        file.locks.acquire(Permission.WRITE | Permission.RESIZE, Permission.RESIZE)


def open_image(
    machine: Machine,
    filename: str,
    driver: str | None,
    options: Mapping[str, Any],
    *,
    writable: bool = True,
) -> Node:
    """Open an image for a command.

    Args:
        machine: whose command it is.
        filename: of the image.
        driver: its format; None to guess it.
        options: more of its node.
        writable: whether it is written.

    Raises:
        CommandError: it cannot be opened; nothing is left of it.
    """
    graph = machine.graph
    before = set(graph.nodes)
    opener = ImageOpener(machine.release, graph, machine.objects, _warn)
    given = {**options, "read-only": not writable}
    if driver is not None:
        given["driver"] = driver
    try:
        return opener.open(filename, given, writable=writable)
    except BaseException:
        discard(machine, before)
        raise


def discard(machine: Machine, before: set[str]) -> None:
    """Close the nodes that were not there before."""
    new = [node for name, node in machine.graph.nodes.items() if name not in before]
    for node in new:
        del machine.graph.nodes[node.name]
    machine.close_nodes(new[::-1])


def _warn(text: str) -> None:
    sys.stderr.write(text + "\n")
