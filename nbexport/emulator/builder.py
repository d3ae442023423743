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
from nbexport.emulator import drivers, permissions
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
                if node.is_filter and node.file is not None:
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
        file = self._child(options["file"], read_only=read_only, depth=depth)
        if isinstance(options["file"], str):
            self.probed.append(file)
        if driver == "raw":
            return self._raw(file, options, read_only=read_only)
        if driver == "copy-before-write":
            return self._filter(file, options, read_only=read_only, depth=depth)
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
        for later in self._made[before:-1]:
            # The filter was there before its target was opened, and is listed so.
            self._graph.nodes[later.name] = self._graph.nodes.pop(later.name)
        drivers.join(node, lists=self._release.filter_lists_bitmaps)
        return node

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
        writable = not read_only and isinstance(file.block, block.FileNode)
        if "backing" not in options:
            disk = block.Qcow2Node(file.block, writable=writable)
            node = self._register(name, disk, options, read_only=read_only, file=file)
            permissions.hold_data_file(node, [])
            if disk.backing is not None:
                node.backing = self._register_opened(disk.backing, options["cache"])
            self._begin_writing(node, disk)
            return node
        disk = block.Qcow2Node(file.block, backing=None, writable=writable)
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
        """Let an image be written, which says from now on that its bitmaps are in use.

        An image on anything but a file is only read.
        """
        if not node.read_only and isinstance(disk.file, block.FileNode):
            disk.begin_writing(*block.begin(disk, disk.file))
            for bitmap in node.bitmaps:
                bitmap.set_enabled(bitmap.enabled)

    def _register_opened(self, disk: BlockNode, cache: Options) -> Node:
        """Register a node that the block layer opened itself, its children first."""
        file = self._register_opened(disk.file, cache) if disk.file is not None else None
        options: Options = {"driver": disk.driver, "cache": cache}
        if file is None:
            options["filename"] = disk.filename
        node = self._register(self._graph.generate_name(), disk, options, read_only=True, file=file)
        if disk.backing is not None:
            node.backing = self._register_opened(disk.backing, cache)
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
        for role in ("file", "backing")
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
