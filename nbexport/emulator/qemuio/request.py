"""What a command of ``qemu-io`` asks of a disk, and what comes of it."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from nbexport.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbexport.emulator.graph import Backend, Node

REQUEST_MAX: Final = ((1 << 31) - 1) & ~511
"""Bytes of one request."""


class Process(Protocol):
    """What is needed of the process; a `Machine` has it."""

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run what reads files beside the event loop."""

    async def settle_requests(self) -> None:
        """Wait until all requests that were begun are done."""


@dataclass
class Target:
    """A disk, and who is told of what is done to it.

    Attributes:
        process: where the disk is.
        disk: the disk; it may be empty.
        permit: lets the disk be written, or raises CommandError.
        write: told what is printed.
        complain: told of mistakes.
        tell: told what a human at a monitor shall read.
    """

    process: Process
    disk: Backend
    permit: Callable[[], None]
    write: Callable[[str], object]
    complain: Callable[[str], object]
    tell: Callable[[str], object]
    begun: set[Any] = field(default_factory=set)

    def node(self) -> Node:
        """Return what is in the disk.

        Raises:
            OSError: nothing.
        """
        if self.disk.node is None:
            raise OSError(errno.ENOMEDIUM, os.strerror(errno.ENOMEDIUM))
        return self.disk.node

    async def timed(self, act: Callable[[], Any]) -> tuple[Any, float]:
        """Do something beside the event loop; return what comes of it, and how long it took.

        Raises:
            OSError: it failed.
        """

        def run() -> tuple[Any, float]:
            start = time.monotonic()
            return act(), time.monotonic() - start

        try:
            done: tuple[Any, float] = await self.process.in_thread(run)
        except FormatError as error:
            raise OSError(errno.EIO, str(error)) from error
        except UsageError as error:
            # Beside the disk there is nothing.
            raise OSError(errno.EIO, str(error)) from error
        return done


def reason(error: OSError) -> str:
    """Return why a request failed."""
    return os.strerror(error.errno or errno.EIO)


@dataclass(frozen=True)
class Change:
    """A write.

    Attributes:
        offset: where.
        length: how many bytes.
        data: what, None for zeroes.
        durable: whether it is to be on the disk when it is done.
        unmap: whether zeroes may give storage back.
        quick: whether zeroes must be quicker than data.
    """

    offset: int
    length: int
    data: bytes | None
    durable: bool = False
    unmap: bool = False
    quick: bool = False

    def apply(self, node: Node) -> None:
        """Do it.

        Raises:
            OSError: it failed.
        """
        disk = node.block
        _check(disk.size, self.offset, self.length)
        if self.data is not None:
            disk.write_from(self.offset, memoryview(self.data))
        else:
            unmap = self.unmap and node.options.get("discard") == "unmap"
            disk.write_zeroes(self.offset, self.length, unmap=unmap, no_fallback=self.quick)
        if self.durable:
            disk.flush()


def read(node: Node, offset: int, length: int) -> bytes:
    """Return what is on a disk.

    Raises:
        OSError: it cannot be read.
    """
    _check(node.block.size, offset, length)
    return node.block.read(offset, length)


def discard(node: Node, offset: int, length: int) -> None:
    """Give up a range, if the disk was opened for that.

    Raises:
        OSError: it failed.
    """
    _check(node.block.size, offset, length)
    if node.options.get("discard") == "unmap":
        node.block.discard(offset, length)


def _check(size: int, offset: int, length: int) -> None:
    if offset + length > size:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
