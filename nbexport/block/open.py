"""Opening an image by its file name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.block.chain import open_backing_chain, open_layer
from nbexport.block.qcow2.node import Qcow2Node

if TYPE_CHECKING:
    from pathlib import Path

    from nbexport.block.node import BlockNode


def open_image(filename: str | Path, *, format: str | None = None) -> BlockNode:  # noqa: A002 # the field's word
    """Open a disk image and its backing chain for reading.

    Args:
        filename: a path; a string may begin with ``file:``, other protocols are refused.
        format: ``qcow2``, ``raw`` or ``file``; None to look at the image as QEMU does. A raw
            image whose format was guessed serves whole sectors only.

    Returns:
        The topmost node; closing it closes all that was opened.

    Raises:
        UsageError: the name has a protocol that is not supported.
        FormatError: an image is damaged, needs what is not supported, or the chain is a loop.
        OSError: a file is missing, is neither a regular file nor a block device, or cannot be
            read. The text is one line that names the file.
    """
    name = filename if isinstance(filename, str) else _as_path(str(filename))
    node, _ = open_layer(name, format, Qcow2Node)
    if isinstance(node, Qcow2Node):
        open_backing_chain(node)
    return node


def _as_path(name: str) -> str:
    """Return a Path's text in a form in which a colon is no protocol."""
    head, colon, _ = name.partition(":")
    return f"./{name}" if colon and "/" not in head else name
