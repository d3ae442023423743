"""Disks that take writes in another way than they come: --cache and --detect-zeroes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nbexport.units import align_down, align_up

if TYPE_CHECKING:
    from nbexport.nbd import WritableDisk


@dataclass(frozen=True)
class WriteThrough:
    """A disk each of whose writes is durable when it is answered."""

    disk: WritableDisk

    def write_from(self, offset: int, data: memoryview) -> None:
        """Store bytes."""
        self.disk.write_from(offset, data)
        self.disk.flush()

    def write_zeroes(
        self, offset: int, length: int, *, unmap: bool = True, no_fallback: bool = False
    ) -> None:
        """Make a range read as zeroes."""
        self.disk.write_zeroes(offset, length, unmap=unmap, no_fallback=no_fallback)
        self.disk.flush()

    def discard(self, offset: int, length: int) -> None:
        """Give up a range."""
        self.disk.discard(offset, length)

    def flush(self) -> None:
        """Make every finished write durable."""
        self.disk.flush()


@dataclass(frozen=True)
class ZeroDetector:
    """A disk that is told to zero a range where all bytes of a write are zeroes.

    Attributes:
        disk: the disk.
        unmap: whether storage may be given back then.
        alignment: what can be zeroed is made of blocks of so many bytes.
    """

    disk: WritableDisk
    unmap: bool
    alignment: int = 1

    def write_from(self, offset: int, data: memoryview) -> None:
        """Store bytes, or zero their range; its ends are stored where they are not aligned."""
        end = offset + len(data)
        first, last = align_up(offset, self.alignment), align_down(end, self.alignment)
        if first >= last or np.frombuffer(data, dtype=np.uint8).any():
            self.disk.write_from(offset, data)
            return
        if offset < first:
            self.disk.write_from(offset, data[: first - offset])
        self.disk.write_zeroes(first, last - first, unmap=self.unmap)
        if last < end:
            self.disk.write_from(last, data[last - offset :])

    def write_zeroes(
        self, offset: int, length: int, *, unmap: bool = True, no_fallback: bool = False
    ) -> None:
        """Make a range read as zeroes."""
        self.disk.write_zeroes(offset, length, unmap=unmap, no_fallback=no_fallback)

    def discard(self, offset: int, length: int) -> None:
        """Give up a range."""
        self.disk.discard(offset, length)

    def flush(self) -> None:
        """Make every finished write durable."""
        self.disk.flush()
