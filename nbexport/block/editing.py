"""Opening an image to change its bitmaps, and nothing else of it."""

from __future__ import annotations

import contextlib
from types import MappingProxyType
from typing import TYPE_CHECKING

from nbexport.block import locks
from nbexport.block.chain import probe_format, split_protocol, unsupported_driver
from nbexport.block.file import open_file
from nbexport.block.open import as_name
from nbexport.block.qcow2 import layout
from nbexport.block.qcow2.allocator import Allocator
from nbexport.block.qcow2.bitmap_store import BitmapStore, check_new
from nbexport.block.qcow2.node import Qcow2Node
from nbexport.block.raw import RawNode
from nbexport.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from nbexport.block.node import BlockNode, PersistentBitmap


@contextlib.contextmanager
def edit_bitmaps(
    filename: str | Path,
    *,
    format: str | None = None,  # noqa: A002 # the field's word
) -> Iterator[BitmapStore | NoBitmaps]:
    """Open an image for writing and give its bitmaps; they are stored when the block ends.

    A raw image has none, and can have none.

    Meanwhile the image says that its bitmaps are in use. They are stored also if the block ends by
    an error, since what was done before it is done.

    Args:
        filename: a path; a string may begin with ``file:``.
        format: ``qcow2``; None to look at the image.

    Raises:
        UsageError: the name has a protocol that is not supported.
        FormatError: the image is damaged, was not closed cleanly, or has no room.
        ImageLockedError: another process uses the image.
        OSError: it cannot be opened, read or written.
    """
    name = as_name(filename)
    with open_file(split_protocol(name), writable=True) as file:
        driver = probe_format(file) if format is None else format
        if driver in {RawNode.driver, file.driver}:
            file.locks.acquire(*locks.for_data(writable=True))
            yield NoBitmaps(name)
            return
        if driver != Qcow2Node.driver:
            raise unsupported_driver(driver, name)
        file.locks.acquire(*locks.for_format(writable=True))
        with Qcow2Node(file, backing=None) as node:
            if node.data_file is not None:
                node.data_file.locks.acquire(*locks.for_data_file(writable=False))
            _, store = begin(node, file)
            try:
                yield store
            finally:
                store.close()


class NoBitmaps:
    """What an image without bitmaps answers, in QEMU's words.

    Args:
        filename: the image.
    """

    bitmaps: Mapping[str, PersistentBitmap] = MappingProxyType({})

    def __init__(self, filename: str) -> None:
        self._filename = filename

    def add(self, name: str, granularity: int | None = None, *, enabled: bool = True) -> None:
        """Refuse it; raises UsageError always."""
        del enabled
        check_new(name, granularity)
        raise UsageError(
            f"Can't store persistent bitmaps to {self._filename}: Operation not supported"
        )

    def find(self, name: str) -> PersistentBitmap:
        """Not find it; raises UsageError always."""
        raise UsageError(f"Dirty bitmap '{name}' not found")

    def remove(self, name: str) -> None:
        """Not find it; raises UsageError always."""
        self.find(name)

    def clear(self, name: str) -> None:
        """Not find it; raises UsageError always."""
        self.find(name)

    def enable(self, name: str) -> None:
        """Not find it; raises UsageError always."""
        self.find(name)

    def disable(self, name: str) -> None:
        """Not find it; raises UsageError always."""
        self.find(name)

    def merge(self, name: str, source: PersistentBitmap) -> None:
        """Not find it; raises UsageError always."""
        del source
        self.find(name)


def begin(node: Qcow2Node, file: BlockNode) -> tuple[Allocator, BitmapStore]:
    """Begin to change an image that is open for writing.

    Raises:
        FormatError: it is damaged, was not closed cleanly, or has no room.
        OSError: the host failed.
    """
    features = node.header.incompatible_features
    if features & 1 << layout.INCOMPATIBLE_CORRUPT:
        raise FormatError("qcow2: Image is corrupt; cannot be opened read/write")
    if features & 1 << layout.INCOMPATIBLE_DIRTY:
        raise FormatError(
            "the image was not closed cleanly: its reference counts must be repaired first, as "
            "'qemu-img check -r all' does",
            path=node.filename,
        )
    allocator = Allocator(file, node.header)
    return allocator, BitmapStore(node, allocator)
