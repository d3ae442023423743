"""A QEMU process's state: nodes, bitmaps, exports and jobs."""

from __future__ import annotations

import contextlib
import random
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.bits import Bitmap
from nbexport.emulator.serial import next_serial
from nbexport.errors import CommandError
from nbexport.units import SECTOR_SIZE, align_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nbexport.block import BitmapStore, BlockNode
    from nbexport.block.tracking import Tracking
    from nbexport.emulator.job import Job
    from nbexport.emulator.objects import UserObject

NODE_NAME_LENGTH_MAX = 31
"""A node name is kept in 32 bytes, the last of which ends it."""

ROLES = ("file", "backing", "target")
"""What a node can be to another one."""

_WELL_FORMED = re.compile(r"[A-Za-z][A-Za-z0-9\-._]*\Z")


def is_well_formed(name: str) -> bool:
    """Return whether ``name`` can be an id: a letter, then letters, digits and ``-._``."""
    return _WELL_FORMED.match(name) is not None


@dataclass(eq=False)
class DirtyBitmap:
    """A dirty bitmap of a node.

    Attributes:
        name: unique in its node.
        bits: what is dirty; empty for an inconsistent one, whose content cannot be trusted.
        enabled: whether writes are recorded.
        persistent: whether it lives in the image.
        inconsistent: whether the image's last writer did not store it.
        busy: whether an export holds it.
        readonly: whether its node cannot be written, so that it cannot change.
        tracking: of the writes of its node, if that can be written.
        anonymous: whether a job made it for itself; it is listed, but cannot be named.
        successor: what records writes while a job uses this one.
        going: whether a transaction that has not ended removes it; its image stores it no more.
    """

    name: str
    bits: Bitmap
    enabled: bool = True
    persistent: bool = False
    inconsistent: bool = False
    busy: bool = False
    readonly: bool = False
    tracking: Tracking | None = None
    anonymous: bool = False
    successor: DirtyBitmap | None = None
    going: bool = False

    def __post_init__(self) -> None:
        self._follow()

    def _follow(self) -> None:
        if self.tracking is not None and self.enabled and not self.inconsistent:
            self.tracking.start(self.bits)

    def leave(self) -> None:
        """Record nothing any more: the bitmap is gone."""
        if self.tracking is not None:
            self.tracking.stop(self.bits)

    def set_enabled(self, enabled: bool) -> None:  # noqa: FBT001
        """Record writes from now on, or stay as it is."""
        self.leave()
        self.enabled = enabled
        self._follow()

    def change(self, make: Callable[[Bitmap], Bitmap]) -> None:
        """Put other bits in the place of the bits; writes wait meanwhile.

        Args:
            make: gets what is there, and returns what shall be; it leaves what it gets alone.
        """
        with self.tracking.paused() if self.tracking is not None else contextlib.nullcontext():
            bits = make(self.bits)
            self.leave()
            self.bits = bits
            self._follow()

    def check(self, *, allow_readonly: bool = False, allow_inconsistent: bool = False) -> None:
        """Raise CommandError unless an operation may use the bitmap; QEMU's order and words."""
        if self.busy:
            raise CommandError(
                f"Bitmap '{self.name}' is currently in use by another operation and cannot be used"
            )
        if self.readonly and not allow_readonly:
            raise CommandError(f"Bitmap '{self.name}' is readonly and cannot be modified")
        if self.inconsistent and not allow_inconsistent:
            raise CommandError(f"Bitmap '{self.name}' is inconsistent and cannot be used")


@dataclass(eq=False)
class Node:
    """A block node.

    Attributes:
        name: the node name, given or generated.
        block: the disk behind it.
        options: what ``blockdev-add`` was told, for the file name that queries show.
        read_only: whether it was opened so.
        monitor_owned: whether ``blockdev-del`` may remove it.
        file: the node of the ``file`` child.
        backing: the node of the ``backing`` child.
        target: the node that a copy-before-write filter copies to.
        bitmaps: its dirty bitmaps, oldest first.
        thread: the object whose thread its requests run in; None is the main one.
        implicit: whether a job made it and nobody gave it a name.
        backed_at: when its backing node became that, as a number that grows.
    """

    name: str
    block: BlockNode
    options: dict[str, Any]
    read_only: bool
    monitor_owned: bool = False
    file: Node | None = None
    backing: Node | None = None
    target: Node | None = None
    bitmaps: list[DirtyBitmap] = field(default_factory=list)
    thread: UserObject | None = None
    implicit: bool = False
    backed_at: int = field(default_factory=next_serial)

    def children(self) -> list[Node]:
        """Return the nodes that this one is built on."""
        return [child for child in (self.file, self.backing, self.target) if child is not None]

    @property
    def is_filter(self) -> bool:
        """Whether it shows the data of the node below it, and passes on what users want of it."""
        return isinstance(self.block, block.FilterNode)

    @property
    def file_role(self) -> str:
        """What the node below is to this one."""
        return "image" if isinstance(self.block, block.BlkdebugNode) else "file"

    @property
    def is_format(self) -> bool:
        """Whether it is an image that needs its file for itself."""
        return isinstance(self.block, block.Qcow2Node)

    def reaches(self, other: Node) -> bool:
        """Return whether ``other`` is this node or below it."""
        waiting, seen = [self], {id(self)}
        while waiting:
            node = waiting.pop()
            if node is other:
                return True
            for child in node.children():
                if id(child) not in seen:
                    seen.add(id(child))
                    waiting.append(child)
        return False

    def chain(self) -> Iterator[Node]:
        """Yield this node and its backing nodes, top first; filters count as the node below."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.file if node.is_filter else node.backing

    @property
    def store(self) -> BitmapStore | None:
        """What keeps the persistent bitmaps, where the node is an image that can be written."""
        return self.block.bitmap_store if isinstance(self.block, block.Qcow2Node) else None

    def keep_bitmaps(self) -> None:
        """Tell the image which persistent bitmaps it is to store when it is closed."""
        if self.store is not None:
            places = {entry.name: place for place, entry in enumerate(self.store.stored)}
            kept = [
                bitmap for bitmap in self.bitmaps[::-1] if bitmap.persistent and not bitmap.going
            ]
            kept.sort(key=lambda bitmap: places.get(bitmap.name, len(places)))
            self.store.keep(
                block.PersistentBitmap(
                    bitmap.name,
                    bitmap.bits.granularity,
                    bitmap.enabled,
                    bitmap.inconsistent,
                    None if bitmap.inconsistent else bitmap.bits,
                )
                for bitmap in kept
            )

    def resize(self, size: int) -> None:
        """Give the disk another length, and its bitmaps.

        Raises:
            CommandError: a bitmap does not allow it.
            FormatError: the image cannot have that length.
            OSError: the disk has a fixed length, or the host failed.
        """
        if size % SECTOR_SIZE and not self.is_format:
            size = align_up(size, SECTOR_SIZE)
        for bitmap in self.bitmaps:
            if bitmap.persistent:
                bitmap.check()
        self.block.resize(size)
        for bitmap in self.bitmaps:
            bitmap.change(lambda bits: _resized(bits, size))

    def close(self) -> None:
        """Close the disk; what an image has to store is stored.

        Raises:
            FormatError: the image has no room for its bitmaps.
            OSError: the host failed.
        """
        try:
            self.keep_bitmaps()
        finally:
            self.block.close()

    def bitmap(self, name: str) -> DirtyBitmap | None:
        """Return the bitmap of that name, or None."""
        return next((b for b in self.bitmaps if b.name == name and not b.anonymous), None)


def _resized(bits: Bitmap, size: int) -> Bitmap:
    """Return the bits of a disk that has another length now."""
    new = Bitmap(size, bits.granularity)
    for start, length, dirty in bits.extents(0, min(bits.size, size)):
        if dirty:
            new.set(start, length)
    return new


@dataclass(eq=False)
class BlockExport:
    """An export, created by ``block-export-add`` or ``nbd-server-add``.

    Attributes:
        id: its id in the monitor.
        type: the kind of export, ``nbd``.
        node: what it exports.
        name: its name on the NBD server.
        bitmaps: the bitmaps that it holds busy.
        front: what its clients see of the node; None if that cannot become another one.
        shutting_down: whether its removal has begun.
        writable: whether clients may write.
        fixed_thread: whether the node's requests must go on to run where they do.
        disk: the disk that it was made for, with whose medium it goes.
    """

    id: str
    type: str
    node: Node
    name: str
    bitmaps: list[DirtyBitmap]
    front: block.Front | None = None
    shutting_down: bool = False
    writable: bool = False
    fixed_thread: bool = False
    disk: Backend | None = None


@dataclass(eq=False)
class Backend:
    """A disk of the machine: what ``-drive`` makes, or a device for the node that it is given.

    Attributes:
        name: the device name; empty if a device made it for itself.
        node: what is in it; None if it is empty.
        writable: whether it may be written.
        device: how its device is told: an id or a path in the object tree; None without a device.
        limits: how fast its device may be, with the name of the group; None for no limit.
        automatic: the interface that ``-drive`` connected it to; None if it was to be ``none``.
        shares_writes: whether its device lets others write.
        shares_size: whether its device lets others change the size.
        removable: whether its device takes another medium.
        tray_open: whether the device's tray is open.
        writeback: whether writes may stay in caches.
        on_error: what the machine does when a write fails, and when a read does.
        begun: what ``qemu-io`` has begun and not waited for.
    """

    name: str
    node: Node | None
    writable: bool = False
    device: str | None = None
    limits: tuple[str, block.ThrottleGroup] | None = None
    automatic: str | None = None
    shares_writes: bool = True
    shares_size: bool = True
    removable: bool = True
    tray_open: bool = False
    writeback: bool = True
    on_error: tuple[str, str] = ("enospc", "report")
    begun: set[Any] = field(default_factory=set)

    @property
    def keeps_errors(self) -> bool:
        """Whether a state of errors is kept: an error can stop the machine."""
        return self.device is not None and (
            self.on_error[0] in {"enospc", "stop"} or self.on_error[1] == "stop"
        )


def link(user: Node, role: str, child: Node | None) -> None:
    """Give a node another child, and its disk that child's disk."""
    setattr(user, role, child)
    disk = user.block
    if role == "backing":
        user.backed_at = next_serial()
        disk.backing = None if child is None else child.block
    elif role == "file" and child is not None:
        if isinstance(disk, block.RawNode):
            disk.reopen(child.block, disk.offset, user.options.get("size"))
            disk.read_only = user.read_only
        else:
            disk.file = child.block


class Graph:
    """All nodes, exports and jobs of a process, in the order of their creation."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.exports: dict[str, BlockExport] = {}
        self.jobs: dict[str, Job] = {}
        self.disks: list[Backend] = []
        self._generated = 0
        self._random = random.Random()  # noqa: S311 - names, not secrets

    def generate_name(self) -> str:
        """Return a node name that nobody can have given: ``#block`` and at least three digits.

        A counter makes it unique, two random digits keep clients from relying on it.
        """
        name = f"#block{self._generated}{self._random.randrange(100):02d}"
        self._generated += 1
        return name

    def check_name(self, name: str) -> None:
        """Raise CommandError unless a new node may have this name."""
        if not is_well_formed(name):
            raise CommandError(f"Invalid node-name: '{name}'")
        if name in self.backends:
            raise CommandError(f"node-name={name} is conflicting with a device id")
        if name in self.nodes:
            raise CommandError(f"Duplicate nodes with node-name='{name}'")
        if len(name.encode()) > NODE_NAME_LENGTH_MAX:
            raise CommandError("Node name too long")

    def lift_limits(self, node: Node | None = None) -> None:
        """Let requests pass at once that wait for limits: all from now on, or those at a node.

        Args:
            node: one that is to be quiet, with what it is built on; None if the process ends.
        """
        for other in self.nodes.values():
            disk = other.block
            if not isinstance(disk, block.ThrottleNode):
                continue
            if node is None:
                disk.lift()
            elif node.reaches(other):
                disk.drain()

    def find(self, name: str) -> Node:
        """Return a node by name or, in QEMU's terms, by device.

        Raises:
            CommandError: there is none.
        """
        found = self.look_up(name)
        if found is None:
            raise CommandError(f"Cannot find device='{name}' nor node-name='{name}'")
        return found

    def look_up(self, name: str) -> Node | None:
        """Return a node by device or by name, or None.

        Raises:
            CommandError: the device is empty.
        """
        backend = self.backends.get(name)
        if backend is None:
            return self.nodes.get(name)
        if backend.node is None:
            raise CommandError(f"Device '{name}' has no medium")
        return backend.node

    @property
    def backends(self) -> dict[str, Backend]:
        """The backends that have a name, by that."""
        return {backend.name: backend for backend in self.disks if backend.name}

    def backends_of(self, node: Node) -> list[Backend]:
        """Return the backends that ``node`` is in, the oldest first."""
        return [backend for backend in self.disks if backend.node is node]

    def parents(self, node: Node) -> list[Node]:
        """Return the nodes that are built on ``node``."""
        return [other for other in self.nodes.values() if node in other.children()]

    def exports_of(self, node: Node) -> list[BlockExport]:
        """Return the exports of ``node``."""
        return [export for export in self.exports.values() if export.node is node]

    def jobs_of(self, node: Node) -> list[Job]:
        """Return the jobs that run at ``node`` or use it, the newest first."""
        return [job for job in reversed(self.jobs.values()) if node in job.nodes]

    def insert(self, above: Node, node: Node) -> None:
        """Put ``above`` between ``node`` and its users; those that ``above`` needs stay."""
        assert above.file is node
        for user in self.parents(node):
            if above.reaches(user):
                continue
            for role in ROLES:
                if getattr(user, role) is node:
                    setattr(user, role, above)
                    user.backed_at = next_serial() if role == "backing" else user.backed_at
        for export in self.exports_of(node):
            export.node = above
        for backend in self.backends_of(node):
            backend.node = above

    def take_out(self, above: Node) -> None:
        """Give the users of a filter back to the node below it, and forget the filter."""
        assert above.file is not None
        self.replace(above, above.file)
        del self.nodes[above.name]

    def replace(self, old: Node, new: Node, *, but: Node | None = None) -> None:
        """Give the users of a node to another one that shows the same; nothing may be written.

        Args:
            old: the node.
            new: gets its users, but for those that it needs itself.
            but: a user that stays.
        """
        for user in self.parents(old):
            if user is but or user is new or new.reaches(user):
                continue
            for role in ROLES:
                if getattr(user, role) is old:
                    link(user, role, new)
        for export in self.exports_of(old):
            export.node = new
            if export.front is not None:
                with export.front.quiet():
                    export.front.exchange(new.block)
        for backend in self.backends_of(old):
            backend.node = new

    @contextlib.contextmanager
    def still(self, *nodes: Node) -> Iterator[None]:
        """Let nobody read or write nodes through an export, nor write them, while it lasts."""
        with contextlib.ExitStack() as stack:
            for export in self.exports.values():
                reached = any(export.node.reaches(node) for node in nodes)
                if export.front is not None and reached:
                    stack.enter_context(export.front.quiet())
            for node in nodes:
                stack.enter_context(node.block.tracking.paused())
            yield

    def is_used(self, node: Node) -> bool:
        """Return whether anybody needs a node: the monitor, another node, an export, a job."""
        return bool(
            node.monitor_owned
            or self.parents(node)
            or self.exports_of(node)
            or self.backends_of(node)
            or self.jobs_of(node)
        )

    def release(self, node: Node) -> list[Node]:
        """Take a node out if nobody needs it any more; return what is to be closed, as `remove`."""
        if self.nodes.get(node.name) is not node or self.is_used(node):
            return []
        return self.remove(node)

    def remove(self, node: Node) -> list[Node]:
        """Take ``node`` out, and every child that nothing else holds.

        Returns:
            The removed nodes, a parent before its children: the order in which to close them.
        """
        removed = []
        waiting = [node]
        while waiting:
            gone = waiting.pop(0)
            del self.nodes[gone.name]
            removed.append(gone)
            waiting += [
                child
                for child in gone.children()
                if child.name in self.nodes and not self.is_used(child)
            ]
        return removed
