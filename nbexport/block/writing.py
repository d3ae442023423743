"""Opening an image to write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.block import locks
from nbexport.block.chain import open_backing_chain, split_protocol, unsupported_driver
from nbexport.block.editing import begin
from nbexport.block.file import open_file
from nbexport.block.open import as_name
from nbexport.block.qcow2.node import Qcow2Node
from nbexport.block.raw import RawNode

if TYPE_CHECKING:
    from pathlib import Path

    from nbexport.block.file import FileNode
    from nbexport.block.node import BlockNode


def open_writable(filename: str | Path, format: str) -> BlockNode:  # noqa: A002 # the field's word
    """Open an image for writing; its backing chain is only read.

    Closing the node stores what is left to store, the bitmaps of the image among it.

    Args:
        filename: a path; a string may begin with ``file:``.
        format: ``raw`` or ``qcow2``. It is not guessed: who writes a raw disk could make it look
            like an image that names other files.

    Raises:
        UsageError: the name has a protocol that is not supported.
        FormatError: the format is not supported, the image is damaged or was not closed cleanly.
        ImageLockedError: another process uses the image.
        OSError: it cannot be opened, read or written.
    """
    name = as_name(filename)
    file = open_file(split_protocol(name), writable=True)
    node: BlockNode
    try:
        if format == RawNode.driver:
            file.locks.acquire(*locks.for_data(writable=True))
            node = RawNode(file)
        elif format == Qcow2Node.driver:
            file.locks.acquire(*locks.for_format(writable=True))
            node = _qcow2(file)
        else:
            raise unsupported_driver(format, name)
    except BaseException:
        file.close()
        raise
    node.adopt(file)
    return node


def _qcow2(file: FileNode) -> Qcow2Node:
    node = Qcow2Node(file, backing=None, writable=True)
    try:
        if node.data_file is not None:
            node.data_file.locks.acquire(*locks.for_data_file(writable=True))
        open_backing_chain(node)
        node.begin_writing(*begin(node, file))
    except BaseException:
        node.close()
        raise
    return node
