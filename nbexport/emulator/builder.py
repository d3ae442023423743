"""From ``blockdev-add``'s options to open nodes, in the order in which QEMU opens them.

A child is opened before its parent, but a parent's backing file after it; that order decides which
error comes first, and in which order nodes are listed.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.bits import Bitmap
from nbexport.emulator import caches, drivers, filters, permissions
from nbexport.emulator.graph import DirtyBitmap, Graph, Node
from nbexport.errors import CommandError, FormatError, PeerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbexport.block import BlockNode
    from nbexport.emulator.objects import Objects
    from nbexport.emulator.release import Release

Options = dict[str, Any]

# Options that would change what is read, and that this emulator cannot honour. Everything else
# that the schema knows is a hint about caching, locking or discarding, and accepted as such.
_UNSUPPORTED = {"encrypt", "data-file", "key-secret", "pr-manager", "filter"}

_PLAIN_FILTERS = {"throttle", "compress", "preallocate", "copy-on-read"}

NESTING_MAX = 200
"""Layers that one command may describe; JSON itself nests to 1024 levels, four of them a layer."""


class Builder:
    """Opens the nodes of one command, and closes them again if it fails half-way.

    Args:
        release: decides the words of some errors.
        graph: gets the nodes.
        objects: finds TLS credentials by id, if the process has objects.

    Attributes:
        probed: nodes that were looked at by a user that is gone again.
    """

    def __init__(self, release: Release, graph: Graph, *, objects: Objects | None = None) -> None:
        self._release = release
        self._graph = graph
        self._objects = objects
        self.probed: list[Node] = []
        self._made: list[Node] = []

    def build(self, options: Options) -> Node:
        """Open what ``options`` describe.

        Raises:
            CommandError: an option is wrong, a file cannot be opened, an image is damaged. Nothing
                is left of the attempt.
        """
        try:
            return self._build(options, read_only=False, depth=0)
        except BaseException as error:
            for node in reversed(self._made):
                del self._graph.nodes[node.name]
                drivers.leave(node)
                node.close()
            permissions.settle(self._graph)
            if isinstance(error, FormatError):
                raise CommandError(error.message) from error
            if isinstance(error, block.ImageLockedError):
                raise CommandError(error.reason) from error
            if isinstance(error, UsageError | OSError | PeerError):
                raise CommandError(str(error)) from error
            raise

    def _build(self, options: Options, *, read_only: bool, depth: int) -> Node:
        if depth > NESTING_MAX:
            raise CommandError(f"Nodes are nested too deeply (limit {NESTING_MAX})")
        for name in _UNSUPPORTED & options.keys():
            raise CommandError(f"Option '{name}' is not supported by this emulator")
        if options.get("detect-zeroes") == "unmap" and options.get("discard") != "unmap":
            raise CommandError(
                "setting detect-zeroes to unmap is not allowed without setting discard operation "
                "to unmap"
            )
        read_only = options.get("read-only", read_only)
        options = _with_inherited_cache(options)
        driver = options["driver"]
        if driver in {"file", "host_device"}:
            return self._file(options, read_only=read_only)
        if driver in {"null-co", "null-aio"}:
            disk = drivers.open_null(options, writable=not read_only)
            return self._register(self._name(options), disk, options, read_only=read_only)
        if driver == "nbd":
            return self._nbd(options, read_only=read_only)
        if driver == "blkdebug":
            return self._injecting(options, read_only=read_only, depth=depth)
        file = self._child(options["file"], read_only=read_only, depth=depth)
        if isinstance(options["file"], str):
            self.probed.append(file)
        if driver == "raw":
            return self._raw(file, options, read_only=read_only)
        if driver == "copy-before-write":
            return self._filter(file, options, read_only=read_only, depth=depth)
        if driver == "snapshot-access":
            return self._snapshot(file, options, read_only=read_only)
        if driver in _PLAIN_FILTERS:
            return self._plain_filter(file, options, read_only=read_only)
        name = self._name(options)
        return self._qcow2(name, file, options, read_only=read_only, depth=depth)

    def _nbd(self, options: Options, *, read_only: bool) -> Node:
        name = self._name(options)
        writable = not read_only
        may_fall_back = options.get("auto-read-only", False)
        disk = drivers.open_nbd(
            options, self._release, self._objects, writable=writable, may_fall_back=may_fall_back
        )
        return self._register(name, disk, options, read_only=disk.read_only)

    def _raw(self, file: Node, options: Options, *, read_only: bool) -> Node:
        name = self._name(options)
        for given in ("offset", "size"):
            if options.get(given, 0) < 0:
                raise CommandError(f"Parameter '{given}' expects a non-negative number below 2^64")
        if options.get("offset") or "size" in options:
            permissions.begin(self._release, self._graph, file, permissions.part_use(name))
        disk = block.RawNode(
            file.block,
            options.get("offset", 0),
            options.get("size"),
            probed=options.get("probed", False),  # no schema has it: only who guesses gives it
        )
        disk.read_only = read_only
        return self._register(name, disk, options, read_only=read_only, file=file)

    def _filter(self, file: Node, options: Options, *, read_only: bool, depth: int) -> Node:
        name = self._name(options)
        before = len(self._made)
        target = self._child(options["target"], read_only=read_only, depth=depth)
        bitmap = drivers.find_wanted(self._graph, options)
        permissions.begin(self._release, self._graph, target, permissions.target_use(name))
        if target.read_only:
            raise CommandError("Block node is read-only")
        disk = drivers.open_filter(file, target, bitmap, options)
        node = self._register(name, disk, options, read_only=read_only, file=file)
        node.target = target
        self._list_later(before)
        drivers.join(node, lists=self._release.filter_lists_bitmaps)
        return node

    def _snapshot(self, file: Node, options: Options, *, read_only: bool) -> Node:
        name = self._name(options)
        disk = block.SnapshotAccessNode(file.block)
        disk.read_only = read_only
        return self._register(name, disk, options, read_only=read_only, file=file)

    def _injecting(self, options: Options, *, read_only: bool, depth: int) -> Node:
        name = self._name(options)
        rules = filters.read_rules(options)
        before = len(self._made)
        file = self._child(options["image"], read_only=read_only, depth=depth)
        limits = filters.read_limits(options, file.block)
        use = permissions.injecting_use(name, options)
        permissions.begin(self._release, self._graph, file, use)
        disk = block.BlkdebugNode(file.block, rules, limits)
        node = self._register(name, disk, options, read_only=read_only, file=file)
        self._list_later(before)
        return node

    def _plain_filter(self, file: Node, options: Options, *, read_only: bool) -> Node:
        """Put a filter above a node that was opened before it."""
        name, driver = self._name(options), options["driver"]
        disk: BlockNode
        if driver == "throttle":
            disk = filters.open_throttle(file.block, options, self._objects)
        elif driver == "compress":
            disk = filters.open_compress(file.block)
        elif driver == "preallocate":
            disk = filters.open_preallocate(file.block, options)
        else:
            disk = filters.open_copy_on_read(file.block, options, self._graph)
            use = permissions.reading_use(name)
            permissions.begin(self._release, self._graph, file, use)
        return self._register(name, disk, options, read_only=read_only, file=file)

    def _list_later(self, before: int) -> None:
        """List the children that were opened last behind the node which was there before them."""
        for later in self._made[before:-1]:
            self._graph.nodes[later.name] = self._graph.nodes.pop(later.name)

    def _child(self, given: str | Options, *, read_only: bool, depth: int) -> Node:
        """Return a child by reference, or open the one that is described."""
        if isinstance(given, str):
            return self._graph.find(given)
        return self._build(given, read_only=read_only, depth=depth + 1)

    def _name(self, options: Options) -> str:
        if "node-name" in options:
            self._graph.check_name(options["node-name"])
            name: str = options["node-name"]
            return name
        return self._graph.generate_name()

    def _file(self, options: Options, *, read_only: bool) -> Node:
        name = self._name(options)
        filename = options["filename"].removeprefix("file:")
        if not filename:
            raise CommandError("The 'file' block driver requires a file name")
        if options.get("aio") == "native" and not options["cache"].get("direct", False):
            raise CommandError(
                "aio=native was specified, but it requires cache.direct=on, which was not "
                "specified."
            )
        if not read_only:
            _check_writable(filename)
        kind = block.FileNode if options["driver"] == "file" else block.HostDeviceNode
        disk = kind(filename, writable=not read_only)
        return self._register(name, disk, options, read_only=read_only)

    def _qcow2(
        self, name: str, file: Node, options: Options, *, read_only: bool, depth: int
    ) -> Node:
        use = permissions.format_use(name, writable=not read_only)
        permissions.begin(self._release, self._graph, file, use)
        writable = not read_only and file.block.writable
        if "backing" not in options:
            disk = block.Qcow2Node(file.block, writable=writable)
            caches.check(options, disk.header.cluster_size)
            node = self._register(name, disk, options, read_only=read_only, file=file)
            permissions.hold_data_file(node, [])
            if disk.backing is not None:
                # No schema has the names: only an image's own backing file is named so.
                names = options.get("backing-names", {})
                node.backing = self._register_opened(disk.backing, options["cache"], names)
            self._begin_writing(node, disk)
            return node
        disk = block.Qcow2Node(file.block, backing=None, writable=writable)
        caches.check(options, disk.header.cluster_size)
        node = self._register(name, disk, options, read_only=read_only, file=file)
        permissions.hold_data_file(node, [])
        if options["backing"] is not None:
            if disk.header.backing_file is not None:
                _check_backing(options["backing"])
            if options["backing"] == name:
                raise CommandError(
                    f"Making '{name}' a backing child of '{name}' would create a cycle"
                )
            try:
                node.backing = self._child(options["backing"], read_only=True, depth=depth)
            except block.ImageLockedError as error:
                raise error.below("Could not open backing file: ") from error
            except (CommandError, OSError, UsageError) as error:
                raise CommandError(f"Could not open backing file: {error}") from error
            except FormatError as error:
                raise CommandError(f"Could not open backing file: {error.message}") from error
            disk.backing = node.backing.block
        self._begin_writing(node, disk)
        return node

    def _begin_writing(self, node: Node, disk: block.Qcow2Node) -> None:
        """Let an image be written, which says from now on that its bitmaps are in use."""
        if not node.read_only and disk.file.writable:
            disk.begin_writing(*block.begin(disk, disk.file))
            for bitmap in node.bitmaps:
                bitmap.set_enabled(bitmap.enabled)

    def _register_opened(self, disk: BlockNode, cache: Options, names: Options) -> Node:
        """Register a node that the block layer opened itself, its children first."""
        file = None
        if disk.file is not None:
            file = self._register_opened(disk.file, cache, names.get("file", {}))
        options: Options = {"driver": disk.driver, "cache": cache}
        if file is None:
            options["filename"] = disk.filename
        name = self._name(names)
        node = self._register(name, disk, options, read_only=True, file=file)
        if disk.backing is not None:
            node.backing = self._register_opened(disk.backing, cache, names.get("backing", {}))
        return node

    def _register(
        self,
        name: str,
        disk: BlockNode,
        options: Mapping[str, Any],
        *,
        read_only: bool,
        file: Node | None = None,
    ) -> Node:
        disk.disown()  # the graph knows who uses a node, and closes it when nobody does
        node = Node(name, disk, dict(options), read_only, file=file)
        node.bitmaps = [_bitmap(disk, stored, read_only) for stored in disk.bitmaps.values()]
        self._graph.nodes[name] = node
        self._made.append(node)
        return node


def _with_inherited_cache(options: Options) -> Options:
    """Return a node's options, and in those of its children what they do not say of caching."""
    own = options.get("cache", {})
    children = {
        role: {**options[role], "cache": own | options[role].get("cache", {})}
        for role in ("file", "image", "backing")
        if isinstance(options.get(role), dict)
    }
    return {**options, "cache": own, **children}


def _check_backing(given: str | Options) -> None:
    """Refuse a backing file whose own file QEMU would take from the image's header as well.

    QEMU uses that name unless the options have one at the place where it looks.
    """
    if isinstance(given, str):
        return
    text = None
    if given["driver"] == "file":
        text = "Can't specify 'file' and 'filename' options at the same time"
    elif isinstance(given.get("file"), str):
        text = "Cannot reference an existing block device with additional options or a new filename"
    if text is not None:
        raise CommandError(f"Could not open backing file: {text}")


def _check_writable(filename: str) -> None:
    """Refuse what cannot be opened for writing, in the words that name it."""
    number = None
    if Path(filename).is_dir():
        number = errno.EISDIR
    elif Path(filename).exists() and not os.access(filename, os.W_OK):
        number = errno.EACCES
    if number is not None:
        raise CommandError(f"Could not open '{filename}': {os.strerror(number)}")


def _bitmap(disk: BlockNode, stored: block.PersistentBitmap, readonly: bool) -> DirtyBitmap:  # noqa: FBT001
    bits = Bitmap(disk.size, stored.granularity) if stored.bitmap is None else stored.bitmap
    return DirtyBitmap(
        stored.name,
        bits,
        enabled=stored.enabled and not stored.inconsistent,
        persistent=True,
        inconsistent=stored.inconsistent,
        readonly=readonly,
        tracking=None if readonly else disk.tracking,
    )
