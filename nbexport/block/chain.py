"""From a file name to a node, and from an image down its backing chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nbexport.block import locks
from nbexport.block.file import FileNode, open_file
from nbexport.block.node import HostFileError
from nbexport.block.probing import OTHER_DRIVERS, PROBE_BYTES, recognised
from nbexport.block.raw import RawNode
from nbexport.errors import FormatError, UsageError

if TYPE_CHECKING:
    from nbexport.block.node import BlockNode
    from nbexport.block.qcow2.node import Qcow2Node

MAX_CHAIN: Final = 200
"""Layers of a chain: libvirt's bound too. Each holds one file descriptor and at most 32 MiB of L1
table, as much as its file has."""


def split_protocol(filename: str) -> str:
    """Return the path in ``filename``; only ``file:`` may stand before it.

    Raises:
        UsageError: another protocol, or a ``json:`` description, is named.
    """
    head, colon, rest = filename.partition(":")
    if not colon or "/" in head:
        return filename
    if head == "file":
        return rest
    if head == "json":
        raise UsageError(f"'json:' file names are not supported: {filename}")
    raise UsageError(f"Unknown protocol '{head}'")


def probe_format(file: BlockNode) -> str:
    """Guess the format of an image from its first sector as QEMU does.

    Returns:
        "qcow2", or "raw" if nothing is recognised.

    Raises:
        FormatError: another format is recognised, which is not supported.
        OSError: the host cannot read.
    """
    buffer = bytearray(PROBE_BYTES)
    file.read_padded(0, memoryview(buffer))
    name = recognised(buffer)
    if name not in {"qcow2", "raw"}:
        raise unsupported_driver(name, file.filename)
    return name


def is_known_driver(name: str) -> bool:
    """Return whether a name is that of a driver of QEMU's which is not supported here."""
    return name in OTHER_DRIVERS


def unsupported_driver(name: str, filename: str) -> FormatError:
    """Return the error that refuses a driver by its name."""
    if name in OTHER_DRIVERS:
        return FormatError(f"Driver '{name}' is not supported", path=filename)
    return FormatError(f"Unknown driver '{name}'", path=filename)


def open_layer(
    filename: str,
    format_name: str | None,
    qcow2: type[Qcow2Node],
    *,
    force_share: bool = False,
    facts_only: bool = False,
) -> tuple[BlockNode, FileNode]:
    """Open one image without its backing file.

    Args:
        filename: a path, or ``file:`` and a path.
        format_name: the driver; None to probe.
        qcow2: the class of qcow2 nodes.
        force_share: do not mind other processes that write the image.
        facts_only: no data will be read, only what the image says of itself.

    Returns:
        The node, which closes its file node with itself, and the file node.

    Raises:
        UsageError: the name has a protocol that is not supported.
        FormatError: the image is damaged, or its format is not supported.
        ImageLockedError: another process writes the image.
        OSError: it cannot be opened or read.
    """
    file = open_file(split_protocol(filename))
    try:
        driver = format_name if format_name is not None else probe_format(file)
        if driver in {FileNode.driver, RawNode.driver, file.driver}:
            if not facts_only:
                file.locks.acquire(*locks.for_data(writable=False, force_share=force_share))
            if driver != RawNode.driver:
                return file, file
        node: BlockNode
        if driver == qcow2.driver:
            wanted = locks.for_format(
                writable=False, force_share=force_share, facts_only=facts_only
            )
            file.locks.acquire(*wanted)
            node = qcow2(file, backing=None)
            if node.data_file is not None and not facts_only:
                wanted = locks.for_data_file(writable=False, force_share=force_share)
                try:
                    node.data_file.locks.acquire(*wanted)
                except BaseException:
                    node.close()
                    raise
        elif driver == RawNode.driver:
            node = RawNode(file, probed=format_name is None)
        else:
            raise unsupported_driver(driver, filename)
    except BaseException:
        file.close()
        raise
    node.adopt(file)
    return node, file


def open_backing_chain(top: Qcow2Node, *, force_share: bool = False) -> None:
    """Open the backing file that ``top`` names, the one that that names, and so on.

    Each node closes the one below it. If anything fails, all that was opened is closed again.

    Args:
        top: an image whose ``backing`` is not set yet.
        force_share: do not mind other processes that write images of the chain.

    Raises:
        FormatError: an image of the chain is bad, or the chain is a loop or too long.
        ImageLockedError: another process writes an image of the chain.
        OSError: a file of the chain cannot be opened or read.
    """
    qcow2 = type(top)
    upper: BlockNode = top
    seen = _identities(top)
    prefix = ""
    try:
        while isinstance(upper, qcow2) and upper.header.backing_file is not None:
            prefix += "Could not open backing file: "
            name = resolve(upper.filename, upper.header.backing_file)
            if len(prefix) // len("Could not open backing file: ") >= MAX_CHAIN:
                raise FormatError(f"Backing chain is longer than {MAX_CHAIN} images at '{name}'")
            lower, file = open_layer(
                name, upper.header.backing_format, qcow2, force_share=force_share
            )
            upper.adopt(lower)
            upper.backing = lower
            if file.identity in seen:
                raise FormatError(f"Backing chain is a loop: '{name}' is in it already")
            seen.add(file.identity)
            upper = lower
    except (FormatError, UsageError, OSError) as error:
        top.backing = None
        top.close()
        if isinstance(error, locks.ImageLockedError):
            raise error.below(prefix) from error
        if isinstance(error, OSError):
            raise HostFileError(error.errno, prefix + str(error), error.filename) from error
        message = error.message if isinstance(error, FormatError) else str(error)
        raise FormatError(prefix + message, path=top.filename) from error


def _identities(node: BlockNode) -> set[tuple[int, int]]:
    """Return device and inode of the file under ``node``, if it is one."""
    while node.file is not None:
        node = node.file
    return {node.identity} if isinstance(node, FileNode) else set()


def resolve(overlay: str, name: str) -> str:
    """Return the backing file's name seen from here: it is relative to the overlay's folder.

    A name with a protocol stays as it is, so that after ``file:`` it is relative to the process's
    folder, as in QEMU.
    """
    head, colon, _ = name.partition(":")
    if name.startswith("/") or (colon and "/" not in head):
        return name
    folder, slash, _ = overlay.rpartition("/")
    return f"{folder}{slash}{name}"
