"""Opening an image by its file name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.block.chain import open_backing_chain, open_layer
from nbexport.block.qcow2.node import Qcow2Node
from nbexport.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from nbexport.block.node import BlockNode


def open_image(
    filename: str | Path,
    *,
    format: str | None = None,  # noqa: A002 # the field's word
    snapshot: str | None = None,
    force_share: bool = False,
) -> BlockNode:
    """Open a disk image and its backing chain for reading.

    Args:
        filename: a path; a string may begin with ``file:``, other protocols are refused.
        format: ``qcow2``, ``raw`` or ``file``; None to look at the image as QEMU does. A raw
            image whose format was guessed serves whole sectors only.
        snapshot: id or name of an internal snapshot to read instead of the disk as it is now.
        force_share: do not mind other processes that write the image; what is read may be torn.

    Returns:
        The topmost node; closing it closes all that was opened.

    Raises:
        UsageError: the name has a protocol that is not supported, or there is no such snapshot.
        FormatError: an image is damaged, needs what is not supported, or the chain is a loop.
        ImageLockedError: another process writes an image of the chain; QEMU's words.
        OSError: a file is missing, is neither a regular file nor a block device, or cannot be
            read. The text is one line that names the file.
    """
    name = as_name(filename)
    node, _ = open_layer(name, format, Qcow2Node, force_share=force_share)
    if isinstance(node, Qcow2Node):
        open_backing_chain(node, force_share=force_share)
    if snapshot is not None:
        try:
            _load_snapshot(node, snapshot)
        except BaseException:
            node.close()
            raise
    return node


def _load_snapshot(node: BlockNode, name: str) -> None:
    if not isinstance(node, Qcow2Node):
        raise UsageError(
            f"{node.filename}: Failed to load snapshot: Block format '{node.driver}' used by "
            "device '' does not support temporarily loading internal snapshots"
        )
    node.load_snapshot(name)


def as_name(filename: str | Path) -> str:
    """Return a file name as text; that of a Path in a form in which a colon is no protocol."""
    if isinstance(filename, str):
        return filename
    name = str(filename)
    head, colon, _ = name.partition(":")
    return f"./{name}" if colon and "/" not in head else name
