"""Disks without storage: what is written is lost."""

from __future__ import annotations

import time
from typing import ClassVar

from nbexport.bits import Extents
from nbexport.block.node import ALLOCATED, ZERO, BlockNode, fill_zeroes
from nbexport.units import SECTOR_SIZE, align_up

DEFAULT_SIZE = 1 << 30


class NullNode(BlockNode):
    """A disk that takes everything and keeps nothing; it reads as zeroes.

    (QEMU leaves the buffer of a read as it is unless ``read-zeroes`` is on; that is no value to be
    relied on, and zeroes are one that it may have.)

    Args:
        size: length in bytes.
        latency_ns: nanoseconds that each request takes.
        read_zeroes: whether it says of itself that it reads as zeroes.
        writable: whether it takes writes.

    Attributes:
        latency: seconds that each request takes.
    """

    driver: ClassVar[str] = "null-co"

    def __init__(
        self,
        size: int = DEFAULT_SIZE,
        *,
        latency_ns: int = 0,
        read_zeroes: bool = False,
        writable: bool = True,
    ) -> None:
        super().__init__(f"{self.driver}://", align_up(size, SECTOR_SIZE))
        self.read_only = not writable
        self.latency = latency_ns / 1e9
        self._read_zeroes = read_zeroes

    def allocated_size(self) -> int:
        """Return 0: there is no storage."""
        return 0

    @property
    def writable(self) -> bool:
        """Whether writes are taken."""
        return not self.read_only

    def _wait(self) -> None:
        if self.latency:
            time.sleep(self.latency)

    def _read(self, offset: int, buffer: memoryview) -> None:  # noqa: ARG002 # all is the same
        self._wait()
        fill_zeroes(buffer)

    def _write(self, offset: int, data: memoryview) -> None:  # noqa: ARG002 # nothing is kept
        self._wait()

    def _write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        del offset, length, unmap, no_fallback  # nothing is kept
        self._wait()

    def _discard(self, offset: int, length: int) -> None:  # noqa: ARG002 # nothing is kept
        self._wait()

    def _flush(self) -> None:
        self._wait()

    def _status(self, start: int, end: int, *, want_zero: bool) -> Extents:  # noqa: ARG002
        return Extents.uniform(start, end, ALLOCATED | (ZERO if self._read_zeroes else 0))


class NullAioNode(NullNode):
    """The same; QEMU has it with requests that wait elsewhere."""

    driver: ClassVar[str] = "null-aio"
