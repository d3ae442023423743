"""The work of a mirror: a copy of a disk that follows what is written to it.

Source: QEMU's ``docs/interop/live-block-operations.rst``, "Live disk synchronization".
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from nbexport.bits import Bitmap
from nbexport.block import Qcow2Node, SourceReadError
from nbexport.block.node import NBD_STATE_HOLE, NBD_STATE_ZERO
from nbexport.emulator import chains, images, jobnodes
from nbexport.emulator.graph import DirtyBitmap, link
from nbexport.emulator.work import DISK_ERRORS, SLICE_SECONDS, BlockWork, grow
from nbexport.errors import CommandError, FormatError
from nbexport.units import MiB

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import Node
    from nbexport.emulator.job import Job
    from nbexport.emulator.machine import Machine

BUFFER: Final = 10 * MiB
"""Bytes that one step copies at the most, if nothing is said; QEMU's."""
CHUNK: Final = 1 * MiB
"""Bytes that are held at a time."""
ZEROED_AT_ONCE: Final = 1 << 30
"""Bytes that are zeroed in one step."""


class Mirror(BlockWork):
    """The work of a mirror job, or of a commit of an image that is written.

    Args:
        machine: where it runs.
        source: what is copied.
        target: what gets the copies.
        given: arguments of the command.
        granularity: bytes of a bit of what is still to be copied.
        layers: layers of the source's chain whose data are copied; 0 for no data, all if None.
        commits: whether the target is below the source.
    """

    ends_after_reply = True

    def __init__(
        self,
        machine: Machine,
        source: Node,
        target: Node,
        given: Arguments,
        granularity: int,
        *,
        layers: int | None,
        commits: bool = False,
    ) -> None:
        on_error = given.get("on-error", "report")
        super().__init__(
            machine,
            {
                "read": given.get("on-source-error", on_error),
                "write": given.get("on-target-error", on_error),
            },
            max(given.get("speed", 0), 0),
        )
        self.type = "commit" if commits else "mirror"
        self._source = source
        self._target = target
        self._layers = layers
        self._commits = commits
        self._at_once = max(given.get("buf-size", 0) or BUFFER, granularity)
        self._zeroes_are_free = target.options.get("discard") == "unmap"
        self._unmaps = given.get("unmap", True)
        self.replaces: str | None = given.get("replaces")
        self.copies_at_once = given.get("copy-mode") == "write-blocking"
        self.dirty = Bitmap(source.block.size, granularity)
        self._shown = DirtyBitmap("", self.dirty, enabled=not self.copies_at_once, anonymous=True,
                                  tracking=source.block.tracking)  # fmt: skip
        self._lock = threading.Lock()
        self._prepared = layers == 0
        self._wants_end = False
        self._synced = False
        self._ended = False
        self._still = contextlib.ExitStack()
        self.zeroes_target = False
        self.backing: Node | None = None
        self.sets_backing = self.opens_backing = False
        self.filter: Node | None = None
        self.job: Job | None = None
        self._next = 0
        source.bitmaps.append(self._shown)
        if self.copies_at_once:
            source.block.followers += (self._follow,)

    @property
    def is_synced(self) -> bool:
        """Whether all writes reach the target before they are confirmed."""
        return self._synced

    def progress(self) -> tuple[int, int]:
        """Return the bytes that are done, and those with what is still to be copied."""
        return self.done, self.total

    def complete(self, job: Job) -> None:
        """Have the target take the place of the source, as soon as it equals it."""
        if self.replaces is not None and self._machine.graph.nodes.get(self.replaces) is None:
            raise CommandError(f"Node name '{self.replaces}' not found")
        del job
        self._wants_end = True

    def cancels_at_once(self, job: Job, *, force: bool) -> bool:
        """Return whether to stop in the middle: a mirror that is ready is left equal."""
        return force or not job.is_ready

    def start(self, job: Job) -> None:
        """Start the job; one that has nothing to copy is ready before the reply."""
        job.start()
        if self._prepared and not self.dirty.count:
            self._become_ready(job)

    def _become_ready(self, job: Job) -> None:
        job.become_ready()
        self._synced = self.copies_at_once

    # Copying

    async def step(self, job: Job) -> bool:
        """Copy a piece, or wait for something to be copied."""
        if not self._prepared:
            if self._source.block.size != self._target.block.size and not self._commits:
                job.error = "Source and target image have different sizes"
                raise OSError(errno.EINVAL, job.error)
            await grow(self._machine, self._target, self._source.block.size)
            await self._machine.in_thread(self._look)
            self._prepared = True
            return True
        self.total = self.done + self.dirty.count
        if self.dirty.count:
            await self._copy_next(job)
            self.total = self.done + self.dirty.count
        else:
            if not job.is_ready:
                try:
                    await self._machine.in_thread(self._target.block.flush)
                except DISK_ERRORS as error:
                    self.failed(job, error, "write")
                    return True
                self._become_ready(job)
            if (self._wants_end or job.asked_to_end) and self._stop_writers():
                return False
            self.delay = SLICE_SECONDS
        await job.sleep(self.delay)
        self.delay = 0.0
        return True

    async def _copy_next(self, job: Job) -> None:
        try:
            length = await self._machine.in_thread(self._copy)
        except DISK_ERRORS as error:
            self._synced = False
            self.failed(job, error)
            return
        # What a mirror that is ready has to copy is not held up.
        self.delay = 0.0 if job.is_ready else self.rate.delay(length)

    def _look(self) -> None:
        """Note what is to be copied at first."""
        disk, target = self._source.block, self._target.block
        everything = self._layers is None
        if self.zeroes_target:
            if not self._zeroes_are_free:
                self._mark(0, disk.size)
                return
            for start in range(0, disk.size, ZEROED_AT_ONCE):
                length = min(ZEROED_AT_ONCE, disk.size - start)
                target.write_zeroes(start, length, unmap=self._unmaps)
        layers = len(list(disk.chain())) if everything else self._layers
        assert layers is not None
        depth = disk.depth()
        wanted = depth.map_flags(lambda flags: ((flags >= 1) & (flags <= layers)).astype(np.uint32))
        for start, length, is_wanted in wanted:
            if is_wanted:
                self._mark(start, length)

    def _mark(self, start: int, length: int) -> None:
        with self._source.block.tracking.paused():
            self.dirty.set(start, length)

    def _copy(self) -> int:
        """Copy the next piece; return its length as far as the speed counts it."""
        found = self._first(self._next) or self._first(0)
        if found is None:
            return 0
        counted = 0
        unit = max(CHUNK, self.dirty.granularity)
        for start in range(*found, unit):
            counted += self._copy_piece(start, min(start + unit, found[1]))
            if self.job is not None and (self.job.cancelled or self.job.pause_count):
                break
        return counted

    def _copy_piece(self, start: int, end: int) -> int:
        with self._lock:
            self._source.block.tracking.take(self.dirty, start, end - start)
            try:
                counted = self._move(start, end)
            except BaseException:
                self._mark(start, end - start)
                raise
            self.done += end - start
            self._next = end
        return counted

    def _first(self, start: int) -> tuple[int, int] | None:
        size = self._source.block.size
        if start >= size:
            return None
        found = self.dirty.extents(start, size)
        marked = np.flatnonzero(found.flags)
        if not len(marked):
            return None
        first = int(found.bounds[marked[0]])
        return first, min(int(found.bounds[marked[0] + 1]), first + self._at_once)

    def _move(self, start: int, end: int) -> int:
        """Make the target equal the source in a range; return the bytes that the speed counts."""
        counted, disk, target = 0, self._source.block, self._target.block
        try:
            known = disk.allocation(start, end)
        except (FormatError, OSError) as error:
            raise SourceReadError(error) from error
        for first, length, flags in known:
            if flags & NBD_STATE_ZERO:
                unmaps = self._unmaps and bool(flags & NBD_STATE_HOLE)
                target.write_zeroes(first, length, unmap=unmaps)
                counted += 0 if self._zeroes_are_free else length
                continue
            try:
                data = disk.read(first, length)
            except (FormatError, OSError) as error:
                raise SourceReadError(error) from error
            target.write_from(first, memoryview(data))
            counted += length
        return counted

    def _follow(self, offset: int, length: int) -> None:
        """Bring a write to the target before it is confirmed."""
        if self._ended or not self._prepared:
            return
        with self._lock:
            try:
                self._move(offset, offset + length)
            except DISK_ERRORS:
                self.dirty.set(offset, length)
                self._synced = False
                return
            unit = self.dirty.granularity
            first, last = -(-offset // unit) * unit, (offset + length) // unit * unit
            if first < last:
                self._source.block.tracking.take(self.dirty, first, last - first)
            self.done += length
            self.total += length

    # The end

    def _stop_writers(self) -> bool:
        """Let nobody write the source any more; return whether the target equals it."""
        graph = self._machine.graph
        self._still.enter_context(graph.still(self._source))
        if not self.dirty.count:
            self.holds_still = True
            return True
        self._still.close()
        return False

    def prepare(self) -> None:
        """Put the target in the place of the source, if that is what was asked for."""
        machine, graph = self._machine, self._machine.graph
        self._end()
        if self.job is not None:
            self.job.uses_of = []
        if self.filter is not None:
            self.filter.options["stopped"] = True
        target = chains.without_filters(self._target)
        assert target is not None
        if self.sets_backing and target.backing is not self.backing:
            chains.set_backing(target, self.backing)
        elif self.opens_backing:
            _open_backing(machine, target)
        if not self._wants_end:
            return
        replaced = self._source
        if self.replaces is not None:
            found = graph.nodes.get(self.replaces)
            if found is None:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            replaced = found
        if replaced.read_only != self._target.read_only:
            with contextlib.suppress(CommandError):
                jobnodes.set_read_only(machine, self._target, read_only=replaced.read_only)
        graph.replace(replaced, self._target)

    def _end(self) -> None:
        self._ended = True
        disk = self._source.block
        disk.followers = tuple(each for each in disk.followers if each != self._follow)
        self._shown.leave()
        if self._shown in self._source.bitmaps:
            self._source.bitmaps.remove(self._shown)

    def clean(self) -> None:
        """Leave source and target to their users."""
        graph = self._machine.graph
        self._end()
        gone = [] if self.job is None else [each for each in self.job.nodes if not each.is_filter]
        if self.job is not None:
            self.job.nodes, self.job.uses_of = [], []
        if self.filter is not None:
            above, self.filter = self.filter, None
            graph.take_out(above)
        self._still.close()
        self.holds_still = False
        jobnodes.release(self._machine, gone)


def _open_backing(machine: Machine, image: Node) -> None:
    """Open the backing file that an image names.

    Raises:
        OSError: it cannot be opened.
    """
    disk = image.block
    if not isinstance(disk, Qcow2Node) or disk.header.backing_file is None:
        return
    name, driver = disk.full_backing_filename, disk.backing_format
    assert name is not None
    try:
        backing = images.open_image(machine, name, driver, {}, writable=False)
    except CommandError as error:
        raise OSError(errno.EINVAL, str(error)) from error
    link(image, "backing", backing)
    image.options = {key: value for key, value in image.options.items() if key != "backing"}
