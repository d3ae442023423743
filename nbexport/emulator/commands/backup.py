"""blockdev-backup: a copy of a disk as it was when the command came, made by a job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.bits import Bitmap
from nbexport.emulator import drivers, jobnodes, permissions
from nbexport.emulator.graph import DirtyBitmap, Node
from nbexport.emulator.work import BlockWork
from nbexport.errors import CommandError, FormatError, UsageError
from nbexport.units import align_up

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.graph import Graph
    from nbexport.emulator.job import Job
    from nbexport.emulator.machine import Machine

WORKERS_MAX = (1 << 31) - 1
AT_ONCE_MAX = 1 << 30
"""Bytes that are copied between two null disks while everybody waits; QEMU has no limit there."""


class Backup(BlockWork):
    """The work of a backup job: the copying, and the bitmap that says what is worth it.

    Args:
        machine: where it runs.
        source: what is copied.
        target: what gets the copies.
        arguments: of the command, with ``sync`` and ``bitmap-mode`` as they are meant.
        bitmap: what says which parts to copy, or learns it.
    """

    type = "backup"
    tells_busy = False

    def __init__(
        self,
        machine: Machine,
        source: Node,
        target: Node,
        arguments: Arguments,
        bitmap: DirtyBitmap | None,
    ) -> None:
        super().__init__(
            machine,
            {
                "read": arguments.get("on-source-error", "report"),
                "write": arguments.get("on-target-error", "report"),
            },
            arguments.get("speed", 0),
        )
        self._source = source
        self._sync = arguments["sync"]
        self._mode = arguments.get("bitmap-mode")
        self._bitmap = bitmap
        self.filter: Node | None = None
        self.job: Job | None = None
        self._target = target
        self._prepared = self._sync != "top"
        self._speed = arguments.get("speed", 0)
        self._next_at = 0.0
        self.copying = block.CopyBefore(
            source.block, target.block, compress=arguments.get("compress", False)
        )
        self._whole: int | None = None
        self._bits = DirtyBitmap("", self.copying.remaining, enabled=False, anonymous=True)
        if machine.release.backup_filter is not None:
            source.bitmaps.append(self._bits)
        # While the source is written through an export, whatever node that stands on.
        source.block.guards += (self.copying.before,)

    def begin(self) -> None:
        """Look what is to be copied: the last thing before the job starts."""
        remaining = self.copying.remaining
        if self._sync == "bitmap":
            assert self._bitmap is not None
            wanted = self._bitmap.bits.at_granularity(self.copying.cluster)
            remaining.clear()
            remaining.merge(wanted)

    def progress(self) -> tuple[int, int]:
        """Return the bytes that were copied, and those with what is still to be copied."""
        copied, left = self.copying.progress()
        return copied, self._whole if self._whole is not None else copied + left

    @property
    def waits_for_nothing(self) -> bool:
        """Whether nothing is left to copy, or all of it between disks that take no time."""
        left = self.copying.progress()[1]
        disks = (self._source.block, self.copying.target)
        quick = not self._speed and left <= AT_ONCE_MAX and all(map(_takes_no_time, disks))
        return self._sync != "none" and (quick or (self._prepared and not left))

    async def step(self, job: Job) -> bool:
        """Copy a piece, unless the speed says that it is not the time yet."""
        if self._sync == "none":
            await job.sleep(None)
            return True
        if not self._prepared:
            await self._machine.in_thread(self._leave_out_unallocated)
            self._prepared = True
            return True
        wait = self._next_at - time.monotonic()
        # (With nothing left to copy there is nothing to wait for.)
        if wait > 0 and self.copying.progress()[1]:
            await job.sleep(wait)
            return True
        try:
            copied = await self._machine.in_thread(self.copying.next_chunk)
        except (OSError, FormatError, UsageError) as error:
            if self.failed(job, error) == "ignore":
                self._next_at = time.monotonic() + self.delay
            return True
        if copied is None:
            return False
        self.pace(job.speed, copied)
        return True

    def pace(self, speed: int, copied: int = 0) -> None:
        """Say when the next piece may be copied, after ``copied`` bytes at so many a second."""
        self._next_at = time.monotonic() + copied / speed if speed and copied else 0.0

    def _leave_out_unallocated(self) -> None:
        """Leave out what the source only has from its backing files."""
        cluster = self.copying.cluster
        depth = self._source.block.depth()
        wanted = Bitmap.from_extents(
            depth.map_flags(lambda flags: (flags == 1).astype(flags.dtype)),
            depth.end,
            cluster,
        )
        for start, length, kept in wanted.extents():
            if not kept:
                self.copying.skip(start, length)

    # The end

    def commit(self) -> None:
        """Let the bitmap say what was written since the backup began."""
        self._end_bitmap(succeeded=True)

    def abort(self) -> None:
        """Let the bitmap say what was not backed up."""
        self._end_bitmap(succeeded=False)

    def _end_bitmap(self, *, succeeded: bool) -> None:
        bitmap = self._bitmap
        if bitmap is None:
            return
        assert bitmap.successor is not None
        if self._mode != "never" and (succeeded or self._mode == "always"):
            kept = abdicate(self._source, bitmap)
            if not succeeded:
                kept.change(lambda bits: _merged(bits, self.copying.remaining))
        else:
            reclaim(self._source, bitmap)
        self._source.keep_bitmaps()

    def clean(self) -> None:
        """Leave source and target to their users."""
        before = self.copying.before
        disk, graph = self._source.block, self._machine.graph
        if self._whole is None:
            self._whole = self.progress()[1]
        with disk.tracking.paused():
            disk.guards = tuple(guard for guard in disk.guards if guard != before)
        if self._bits in self._source.bitmaps:
            self._source.bitmaps.remove(self._bits)
        if self.filter is not None:
            above, self.filter = self.filter, None
            for job in graph.jobs_of(above):
                job.nodes = []
            self._machine.jobs.drain(above)
            for bitmap in above.bitmaps:
                bitmap.leave()
            graph.take_out(above)
        if self.job is not None:
            self.job.nodes = []
            jobnodes.release(self._machine, [self._target])
        permissions.settle(graph)


def _takes_no_time(disk: block.BlockNode) -> bool:
    while isinstance(disk, block.RawNode):
        disk = disk.file
    return isinstance(disk, block.NullNode) and disk.driver == "null-co" and not disk.latency


def _merged(bits: Bitmap, other: Bitmap) -> Bitmap:
    result = bits.copy()
    result.merge(other)
    return result


def freeze(node: Node, bitmap: DirtyBitmap) -> None:
    """Let a job have a bitmap as it is; a successor records what is written meanwhile."""
    successor = DirtyBitmap(
        "",
        Bitmap(bitmap.bits.size, bitmap.bits.granularity),
        enabled=bitmap.enabled,
        tracking=bitmap.tracking,
        anonymous=True,
    )
    bitmap.set_enabled(False)
    bitmap.successor = successor
    bitmap.busy = True
    node.bitmaps.append(successor)


def abdicate(node: Node, bitmap: DirtyBitmap) -> DirtyBitmap:
    """Put the successor in the place of a bitmap; return it."""
    successor = bitmap.successor
    assert successor is not None
    node.bitmaps.remove(bitmap)
    successor.name, successor.persistent = bitmap.name, bitmap.persistent
    successor.anonymous = False
    return successor


def reclaim(node: Node, bitmap: DirtyBitmap) -> None:
    """Add to a bitmap what its successor recorded, and let it record again."""
    successor = bitmap.successor
    assert successor is not None
    with node.block.tracking.paused():
        successor.leave()
        node.bitmaps.remove(successor)
        bitmap.bits = _merged(bitmap.bits, successor.bits)
        bitmap.set_enabled(successor.enabled)
    bitmap.successor = None
    bitmap.busy = False


# The command


def prepare(
    machine: Machine, arguments: Arguments, group: list[Job], *, target: Node | None = None
) -> Job:
    """Create a job, which is not started.

    What writes the source must be paused, and the jobs must be held.

    Args:
        machine: where it runs.
        arguments: of the command.
        group: the jobs that it ends together with.
        target: what gets the copy, if it is not named; it goes with the job.

    Raises:
        CommandError: something is wrong; nothing is left of the attempt.
    """
    source = machine.graph.find(arguments["device"])
    if target is None:
        target = machine.graph.find(arguments["target"])
    given = dict(arguments)
    if "job-id" not in given:
        for backend in machine.graph.backends_of(source):
            given["job-id"] = backend.name
    bitmap = None
    if machine.release.backs_up_bitmaps:
        bitmap = _bitmap(source, given)
    else:
        bitmap = _early_bitmap(source, given)
    if source is target:
        raise CommandError("Source and target cannot be the same")
    if given.get("compress", False) and not target.block.compresses:
        raise CommandError("Compression is not supported for this drive ")
    for node in (source, target):
        check_blocked(machine.graph, node)
    limits = given.get("x-perf", {})
    if not 1 <= limits.get("max-workers", 64) <= WORKERS_MAX:
        raise CommandError(f"max-workers must be between 1 and {WORKERS_MAX}")
    if limits.get("max-chunk", 0) < 0:
        raise CommandError("max-chunk must be zero (which means no limit) or positive")
    if bitmap is not None and given["bitmap-mode"] != "never":
        bitmap.check()
    if given["sync"] == "incremental":  # only where there was no bitmap to be told of
        raise CommandError('must provide a valid bitmap name for "incremental" sync mode')
    if machine.release.backups_compare_sizes and source.block.size != target.block.size:
        raise CommandError("Source and target image have different sizes")
    return _create(machine, source, target, given, bitmap, group)


def check_blocked(graph: Graph, node: Node) -> None:
    """Raise CommandError if a job does not allow that others do more than read and write."""
    for job in graph.jobs_of(node):
        raise CommandError(
            f"Node '{node.name}' is busy: block device is in use by block job: {job.work.type}"
        )


def _bitmap(source: Node, given: dict[str, Any]) -> DirtyBitmap | None:
    """Check what is said of the bitmap, in QEMU's order; return it."""
    sync, name = given["sync"], given.get("bitmap")
    if sync in {"bitmap", "incremental"} and name is None:
        raise CommandError(f"must provide a valid bitmap name for '{sync}' sync mode")
    if sync == "incremental":
        if given.get("bitmap-mode", "on-success") != "on-success":
            raise CommandError(
                "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'"
            )
        sync = given["sync"] = "bitmap"
        given["bitmap-mode"] = "on-success"
    mode = given.get("bitmap-mode")
    if name is None:
        if mode is not None:
            raise CommandError("Cannot specify bitmap sync mode without a bitmap")
        return None
    bitmap = source.bitmap(name)
    if bitmap is None:
        raise CommandError(f"Bitmap '{name}' could not be found")
    if mode is None:
        raise CommandError("Bitmap sync mode must be given when providing a bitmap")
    bitmap.check(allow_readonly=True)
    if sync == "none":
        raise CommandError("sync mode 'none' does not produce meaningful bitmap outputs")
    if mode == "never" and sync != "bitmap":
        raise CommandError(
            f"Bitmap sync mode 'never' has no meaningful effect when combined with sync mode "
            f"'{sync}'"
        )
    return bitmap


def _early_bitmap(source: Node, given: dict[str, Any]) -> DirtyBitmap | None:
    """Check what is said of the bitmap as before 4.2, when it was for increments only."""
    name, sync = given.get("bitmap"), given["sync"]
    if name is None:
        return None
    bitmap = source.bitmap(name)
    if bitmap is None:
        raise CommandError(f"Bitmap '{name}' could not be found")
    bitmap.check(allow_readonly=True)
    if sync != "incremental":
        raise CommandError(
            "a sync_bitmap was provided to backup_run, but received an incompatible sync_mode "
            f"({sync})"
        )
    given["sync"], given["bitmap-mode"] = "bitmap", "on-success"
    return bitmap


def _create(
    machine: Machine,
    source: Node,
    target: Node,
    given: dict[str, Any],
    bitmap: DirtyBitmap | None,
    group: list[Job],
) -> Job:
    jobs = machine.jobs
    if bitmap is not None:
        freeze(source, bitmap)
    backup = Backup(machine, source, target, given, bitmap)
    try:
        if machine.release.backup_filter is not None:
            backup.filter = _insert_filter(machine, source, target, given, backup)
        chunk = given.get("x-perf", {}).get("max-chunk", 0)
        if 0 < chunk < backup.copying.cluster:
            raise CommandError(
                f"Required max-chunk ({chunk}) is less than backup cluster size "
                f"({backup.copying.cluster})"
            )
        if chunk:
            backup.copying.chunk = min(
                align_up(chunk, backup.copying.cluster), backup.copying.chunk
            )
        identifier = given.get("job-id", "")
        jobs.check_id(identifier)
        nodes = [backup.filter or source, target]
        backup.begin()
        job = jobnodes.new_job(machine, backup, nodes, {**given, "job-id": identifier}, group)
    except BaseException:
        if bitmap is not None:
            reclaim(source, bitmap)
        backup.clean()
        raise
    backup.job = job
    return job


def _insert_filter(
    machine: Machine, source: Node, target: Node, given: dict[str, Any], backup: Backup
) -> Node:
    """Put a node between the source and its users, as a release does that has such filters."""
    graph, driver = machine.graph, machine.release.backup_filter
    assert driver is not None
    prefix = "Could not create node: "
    name = given.get("filter-node-name")
    if name is None:
        name = graph.generate_name()
    else:
        try:
            graph.check_name(name)
        except CommandError as error:
            raise CommandError(prefix + error.desc) from error
    disk = block.CopyBeforeWriteNode(
        source.block, target.block, copying=backup.copying, guarded=False
    )
    # Bitmaps of the filter record what is written below it: its users stand on the source's disk.
    disk.tracking = source.block.tracking
    disk.read_only = False
    options = {"driver": driver}
    above = Node(name, disk, options, read_only=False, file=source, target=target)
    above.implicit = driver == "backup-top" and "filter-node-name" not in given
    if machine.release.filter_lists_bitmaps:
        above.bitmaps = drivers.filter_bitmaps(backup.copying)
    graph.nodes[name] = above
    users = [(user, role, getattr(user, role)) for user in graph.parents(source)
             for role in ("file", "backing", "target")]  # fmt: skip
    exports = graph.exports_of(source)
    del graph.nodes[name]
    try:
        permissions.begin(machine.release, graph, target, permissions.target_use(name))
        graph.nodes[name] = above
        graph.insert(above, source)
        permissions.settle(graph)
    except (CommandError, block.ImageLockedError, OSError) as error:
        graph.nodes.pop(name, None)
        for user, role, child in users:
            if user is not above:
                setattr(user, role, child)
        for export in exports:
            export.node = source
        text = error.reason if isinstance(error, block.ImageLockedError) else str(error)
        raise CommandError(prefix + text) from error
    return above
