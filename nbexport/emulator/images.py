"""Images that commands make or open by their file name: targets and overlays."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.block.chain import is_known_driver, split_protocol
from nbexport.emulator import describe
from nbexport.emulator.imageopts import ImageOpener
from nbexport.errors import CommandError, UsageError
from nbexport.units import KiB

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
        make(split_protocol(filename), driver, size, backing_file=name, backing_format=shape)
    except block.ImageLockedError as error:
        raise CommandError(error.reason) from error
    except UsageError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(error.strerror or str(error)) from error
    text = creation_text(filename, driver, size, backing_file=name, backing_format=shape)
    machine.say(text)


def creation_text(
    path: str,
    driver: str,
    size: int,
    *,
    backing_file: str | None = None,
    backing_format: str | None = None,
) -> str:
    """Return the line that QEMU prints when it makes an image."""
    if driver == "raw":
        return f"Formatting '{path}', fmt=raw size={size}"
    backing = ""
    if backing_file is not None:
        backing = f" backing_file={_quoted(backing_file)}"
    if backing_format is not None:
        backing += f" backing_fmt={backing_format}"
    return (
        f"Formatting '{path}', fmt=qcow2 cluster_size={64 * KiB} extended_l2=off "
        f"compression_type=zlib size={size}{backing} lazy_refcounts=off refcount_bits=16"
    )


def _quoted(value: str) -> str:
    """Return a value as it stands in a list of options."""
    return value.replace(",", ",,")


def make(
    path: str,
    driver: str,
    size: int,
    *,
    backing_file: str | None = None,
    backing_format: str | None = None,
) -> None:
    """Make an image with QEMU's defaults, or make a file one.

    Args:
        path: of the file.
        driver: ``qcow2``, or what has no more than the data.
        size: bytes of the disk.
        backing_file: the name of what answers for it.
        backing_format: that one's format.

    Raises:
        ImageLockedError: another user does not allow it.
        UsageError: the disk is too long, or the name.
        OSError: the host failed.
    """
    if driver != "qcow2":
        block.create_file(path, size)
        return
    block.create_file(path, 0)
    with block.FileNode(path, writable=True) as file:
        plan = block.Plan(size=size, backing_file=backing_file, backing_format=backing_format)
        block.create(file, plan)


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
