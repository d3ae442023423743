"""A disk with bitmaps to look at: an image, or one made up from a pattern of writes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from nbexport import nbd
from nbexport.bits.measures import coarsen, from_writes
from nbexport.bits.patterns import make_writes
from nbexport.block import open_image
from nbexport.errors import UsageError
from nbexport.nbd.contexts import BASE_ALLOCATION_ID, FIRST_BITMAP_ID
from nbexport.units import KiB, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from nbexport.bits import Bitmap, Extents
    from nbexport.block import BlockNode

CLUSTER = 64 * KiB
DAYS = {"monday": 1, "tuesday": 4}
"""The bitmaps of a made-up disk, each recorded until the next began, as checkpoints do; and which
part of the writes a day has: Tuesday is a quiet one."""
_FILLED = 0.4
"""The part of a made-up disk that was written long before."""
_DATA, _HOLE = 0, 3


@dataclass(frozen=True)
class Sample:
    """A disk that can be exported; a context manager that closes its image.

    Attributes:
        title: what it is, for a reader.
        export: the disk with its contexts.
        bitmaps: names of its bitmaps.
        written: for each bitmap what was written, as exactly as it is known: by the byte for a
            made-up disk, in granules for an image.
        granularities: of each bitmap, in bytes.
        close: gives up the image.
    """

    title: str
    export: nbd.Export
    bitmaps: tuple[str, ...]
    written: Mapping[str, Extents]
    granularities: Mapping[str, int]
    close: Callable[[], None]

    def read(self) -> dict[str, Extents]:
        """Return the maps of all contexts, as a client gets them from a server.

        Raises:
            PeerError: the two do not understand each other.
        """
        with nbd.serving(self.export) as uri, nbd.Client.connect(uri) as client:
            return client.map()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def image_sample(path: Path, bitmaps: Sequence[str] = ()) -> Sample:
    """Open an image and bitmaps of its chain; without names, those of the image itself.

    Raises:
        UsageError: there is no such bitmap, it is inconsistent, or the image has none.
        FormatError: it is damaged.
        OSError: it cannot be read.
    """
    node = open_image(path)
    with contextlib.ExitStack() as undo:
        undo.callback(node.close)
        names = tuple(bitmaps) or tuple(node.bitmaps)
        if not names:
            raise UsageError(f"{path}: this image has no bitmaps")
        found = {name: _bitmap(node, path, name) for name in names}
        export = nbd.from_node(
            node,
            "",
            allocation_depth=True,
            bitmaps=[(name, found[name].copy) for name in names],
        )
        written = {name: bitmap.extents().extend(node.size, 0) for name, bitmap in found.items()}
        granularities = {name: bitmap.granularity for name, bitmap in found.items()}
        undo.pop_all()
    return Sample(path.name, export, names, written, granularities, node.close)


def _bitmap(node: BlockNode, path: Path, name: str) -> Bitmap:
    known = node.find_bitmap(name)
    if known is None:
        raise UsageError(f"{path}: there is no bitmap '{name}'")
    if known[1].bitmap is None:
        raise UsageError(f"{path}: bitmap '{name}' is inconsistent and cannot be read")
    return known[1].bitmap


def made_up_sample(
    pattern: str, size: int, writes: int, granularity: int, *, seed: int = 0
) -> Sample:
    """Make up a disk on which two days' work was done.

    Args:
        pattern: of the writes, one of `nbexport.bits.patterns.PATTERNS`.
        size: of the disk in bytes.
        writes: of a day.
        granularity: of the two bitmaps, in bytes.
        seed: of the random numbers.

    Raises:
        UsageError: pattern, size, writes or granularity are not possible.
    """
    days = {
        day: from_writes(*make_writes(pattern, size, writes // part, seed=seed, day=number), size)
        for number, (day, part) in enumerate(DAYS.items())
    }
    seen = {day: coarsen(written, granularity) for day, written in days.items()}
    filled = int(size * _FILLED) // CLUSTER * CLUSTER
    stored = from_writes([0], [filled], size)
    for written in days.values():
        stored = stored.combine(coarsen(written, CLUSTER), np.maximum)
    allocation = stored.map_flags(lambda flags: np.where(flags, _DATA, _HOLE))
    contexts = [
        nbd.MetaContext(nbd.BASE_ALLOCATION, BASE_ALLOCATION_ID, allocation.clip, lambda: 0)
    ]
    for number, (day, extents) in enumerate(seen.items(), FIRST_BITMAP_ID):
        name = nbd.dirty_bitmap_name(day)
        contexts.append(nbd.MetaContext(name, number, extents.clip, lambda: 0))
    export = nbd.Export("", size, _read_zeroes, allocation.clip, tuple(contexts))
    title = f"A disk of {format_size(size)}, {writes:,} {pattern} writes a day"
    return Sample(title, export, tuple(DAYS), days, dict.fromkeys(DAYS, granularity), lambda: None)


def _read_zeroes(offset: int, buffer: memoryview) -> None:  # noqa: ARG001 # the export's signature
    buffer[:] = bytes(len(buffer))
