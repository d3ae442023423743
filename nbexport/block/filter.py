"""copy-before-write: a filter that saves what is about to be overwritten."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, ClassVar

from nbexport.block.copying import CopyBefore
from nbexport.block.node import HostFileError
from nbexport.block.passing import FilterNode
from nbexport.errors import FormatError

if TYPE_CHECKING:
    from nbexport.bits import Bitmap
    from nbexport.block.node import BlockNode


class CopyBeforeWriteNode(FilterNode):
    """A disk that is the node below, and whose overwritten parts can be found in another.

    Args:
        file: the node below; stays open when this one closes.
        target: what gets the old data.
        wanted: what is worth keeping, at the target's granularity; None for all.
        copying: what does the copying, if it is not this node's alone.
        guarded: whether writes through this node have it copy; without it something below does.
        timeout_seconds: how long a write waits for its copy; 0 for ever.
        breaks_snapshot: whether a copy that failed leaves the write alone and ends the copying,
            instead of failing the write.

    Attributes:
        copying: what is copied and what was.
        snapshot_error: what ended the copying, if a failed copy was to do that.

    Source: QEMU's ``BlockdevOptionsCbw``.
    """

    driver: ClassVar[str] = "copy-before-write"

    def __init__(
        self,
        file: BlockNode,
        target: BlockNode,
        *,
        wanted: Bitmap | None = None,
        copying: CopyBefore | None = None,
        guarded: bool = True,
        timeout_seconds: float = 0,
        breaks_snapshot: bool = False,
    ) -> None:
        super().__init__(file)
        self.copying = copying or CopyBefore(file, target, wanted=wanted)
        self.snapshot_error: Exception | None = None
        self._timeout = timeout_seconds
        self._breaks_snapshot = breaks_snapshot
        self.guards = (self._before,) if guarded else ()

    def _before(self, offset: int, length: int) -> None:
        """Copy what is about to be overwritten, or fail as it was asked for."""
        if self.snapshot_error is not None:
            return
        try:
            if self._timeout:
                self._before_in_time(offset, length)
            else:
                self.copying.before(offset, length)
        except (FormatError, OSError) as error:
            if not self._breaks_snapshot:
                raise
            self.snapshot_error = error

    def _before_in_time(self, offset: int, length: int) -> None:
        """Copy as `_before`; what is too slow goes on, but nobody waits for it."""
        failed: list[FormatError | OSError] = []

        def copy() -> None:
            try:
                self.copying.before(offset, length)
            except (FormatError, OSError) as error:
                failed.append(error)

        thread = threading.Thread(target=copy, daemon=True)
        thread.start()
        thread.join(self._timeout)
        if thread.is_alive():
            raise HostFileError(
                errno.ETIMEDOUT, f"{self.filename}: copying before a write took too long"
            )
        if failed:
            raise failed[0]

    def read_now(self, offset: int, buffer: memoryview) -> bool:
        """Ask the node below."""
        return self.file.read_now(offset, buffer)
