"""Backing chains: finding nodes in them, and giving an image another backing file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nbexport import block
from nbexport.block.chain import resolve
from nbexport.emulator import describe
from nbexport.emulator.graph import link
from nbexport.emulator.jobnodes import set_read_only
from nbexport.errors import CommandError, FormatError

if TYPE_CHECKING:
    from nbexport.emulator.graph import Node
    from nbexport.emulator.machine import Machine


def without_filters(node: Node | None) -> Node | None:
    """Return the node that filters show."""
    while node is not None and node.is_filter:
        node = node.file
    return node


def below(node: Node) -> Node | None:
    """Return the next image of the chain, without filters."""
    image = without_filters(node)
    return None if image is None else without_filters(image.backing)


def overlay_of(top: Node, base: Node | None) -> Node | None:
    """Return the image of a chain whose backing file ``base`` is; the last image for None."""
    wanted = without_filters(base)
    image = without_filters(top)
    while image is not None and below(image) is not wanted:
        image = below(image)
    return image


def find_by_name(top: Node, name: str) -> Node | None:
    """Return the node below ``top`` whose file has a name, as its overlay sees it."""
    upper = without_filters(top)
    while upper is not None:
        lower = below(upper)
        if lower is None:
            return None
        known = describe.filename(lower)
        if name == known or _same_file(resolve(upper.block.filename, name), known):
            return lower
        upper = lower
    return None


def _same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def layers_to(top: Node, last: Node) -> int:
    """Return how many layers of a disk's chain there are from ``top`` to ``last``, both counted."""
    disks = list(top.block.chain())
    target = last.block
    for number, disk in enumerate(disks, 1):
        while isinstance(disk, block.FilterNode):
            disk = disk.file
        if disk is target:
            return number
    return len(disks)


def name_backing(machine: Machine, image: Node, name: str | None, driver: str | None) -> None:
    """Have an image name another backing file; one that is only read is written for that.

    Raises:
        CommandError: it cannot be opened for that.
        OSError: the host failed, or the image cannot be written.
        FormatError: there is no room for the name.
    """
    was_read_only = image.read_only
    if was_read_only:
        set_read_only(machine, image, read_only=False)
    try:
        if not isinstance(image.block, block.Qcow2Node):
            raise OSError(95, os.strerror(95))
        image.block.change_backing(name, driver)
    finally:
        if was_read_only:
            set_read_only(machine, image, read_only=True)


def set_backing(image: Node, backing: Node | None) -> None:
    """Give an image another backing node."""
    link(image, "backing", backing)
    image.options = {**image.options, "backing": None if backing is None else backing.name}


def rebase(machine: Machine, image: Node, backing: Node | None, name: str | None = None) -> None:
    """Give an image another backing node, and have it name that.

    Args:
        machine: whose nodes they are.
        image: the overlay.
        backing: its new backing node.
        name: what the image calls it; None for its file name.

    Raises:
        OSError: it cannot be done.
    """
    set_backing(image, backing)
    shown = describe.filename(backing) if backing is not None else None
    driver = describe.driver(backing) if backing is not None else None
    try:
        name_backing(machine, image, name if backing is not None and name is not None else shown,
                     driver)  # fmt: skip
    except (CommandError, FormatError) as error:
        raise OSError(1, str(error)) from error
