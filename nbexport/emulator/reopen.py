"""blockdev-reopen: other options for nodes that are open, all of them or none.

Every node is checked by itself, then the users of all are, as they would be afterwards; only then
anything is opened anew. What is not given goes back to its default, as in ``blockdev-add``.

Source: QEMU's ``qapi/block-core.json``; texts and order were compared with 7.2.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.emulator import caches, filters, permissions, threads
from nbexport.errors import CommandError, FormatError, UsageError
from nbexport.units import SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nbexport.emulator.graph import Graph, Node
    from nbexport.emulator.objects import Objects
    from nbexport.emulator.release import Release

Options = dict[str, Any]

# Options that every node can change.
_COMMON = frozenset({
    "auto-read-only", "cache", "detect-zeroes", "discard", "driver", "node-name", "read-only",
})  # fmt: skip
# Options that the drivers change themselves; the others must stay what they are.
_CHANGEABLE = {
    "raw": frozenset({"offset", "size"}),
    "file": frozenset({"drop-cache", "x-check-cache-dropped"}),
    "qcow2": frozenset({
        "cache-clean-interval", "cache-size", "l2-cache-entry-size", "l2-cache-size",
        "lazy-refcounts", "overlap-check", "pass-discard-other", "pass-discard-request",
        "pass-discard-snapshot", "refcount-cache-size", "discard-no-unref",
    }),
    "preallocate": frozenset({"prealloc-align", "prealloc-size"}),
    "throttle": frozenset({"throttle-group"}),
}  # fmt: skip
# Drivers that cannot change at all.
_FIXED = frozenset({"compress", "copy-before-write", "copy-on-read", "snapshot-access"})
# What a driver changes when it is given, but cannot forget.
_STICKY = frozenset({"drop-cache"})
_CHILDREN = ("backing", "file", "image")


@dataclass(frozen=True)
class _Wanted:
    """What is asked of a node.

    Attributes:
        node: the node.
        options: all that it is told.
        inherited: whether it is read-only if it is not told.
    """

    node: Node
    options: Options
    inherited: bool = False


@dataclass
class _Change:
    """What is to become of one node."""

    node: Node
    options: Options
    read_only: bool
    file: Node | None = None
    backing: Node | None = None
    before: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        node = self.node
        self.file, self.backing = node.file, node.backing
        self.before = (node.options, node.read_only, node.file, node.backing)

    def show(self) -> None:
        """Let the graph have the node as it shall be."""
        node = self.node
        node.options, node.read_only = self.options, self.read_only
        node.file, node.backing = self.file, self.backing

    def hide(self) -> None:
        """Let the graph have the node as it was."""
        node = self.node
        node.options, node.read_only, node.file, node.backing = self.before

    @property
    def was_read_only(self) -> bool:
        return bool(self.before[1])


class Reopener:
    """Gives nodes other options.

    Args:
        release: decides the words of some errors, and what can change.
        graph: the nodes.
        objects: finds groups of limits, if the process has objects.
    """

    def __init__(self, release: Release, graph: Graph, objects: Objects | None = None) -> None:
        self._release = release
        self._graph = graph
        self._objects = objects

    def reopen(self, wanted: Sequence[Options]) -> list[Node]:
        """Reopen nodes.

        Args:
            wanted: for each node all of its options; later ones add to earlier ones of the same.

        Returns:
            Nodes that nobody uses any more, in the order in which to close them.

        Raises:
            CommandError: a node is not there, an option cannot change, or a user of a node does
                not allow it. Everything is as it was.
        """
        worked_in = [(node, node.thread) for node in self._graph.nodes.values()]
        try:
            changes = [self._prepare(each) for each in self._queue(wanted)]
            self._apply(changes)
        except BaseException:
            for node, thread in worked_in:
                node.thread = thread
            raise
        return self._left_over(changes)

    def _apply(self, changes: Sequence[_Change]) -> None:
        """Make all changes or none."""
        for change in changes:
            change.show()
        try:
            self._check(changes)
            self._carry_out(changes)
        except BaseException as error:
            for change in reversed(changes):
                change.hide()
            permissions.settle(self._graph)
            if isinstance(error, FormatError):
                raise CommandError(error.message) from error
            if isinstance(error, block.ImageLockedError):
                raise CommandError(error.reason) from error
            if isinstance(error, UsageError | OSError):
                raise CommandError(str(error)) from error
            raise
        permissions.settle(self._graph)

    def set_read_only(self, node: Node, *, read_only: bool) -> None:
        """Let a node, and the file that was opened with it, be written or not.

        Raises:
            CommandError: a user of it does not allow it, or it cannot be opened so. Everything is
                as it was.
        """
        wanted, below = [node], node.file
        while below is not None and _is_inline(wanted[-1]):
            wanted.append(below)
            below = below.file
        changes = [_Change(each, each.options, read_only) for each in wanted]
        changes = [change for change in changes if change.was_read_only != read_only]
        self._apply(changes)

    # What is wanted

    def _queue(self, wanted: Sequence[Options]) -> list[_Wanted]:
        """Return the nodes to change, parents before the children described with them."""
        found: dict[str, _Wanted] = {}
        for options in wanted:
            name = options.get("node-name")
            several = self._release.reopens_several
            if name is None:
                word = "node-name" if several else "Node name"
                raise CommandError(f"{word} not specified")
            node = self._graph.nodes.get(name)
            if node is None:
                raise CommandError(
                    f"Failed to find node with node-name='{name}'"
                    if several
                    else f"Cannot find node named '{name}'"
                )
            self._add(found, node, _Wanted(node, options))
        return list(found.values())

    def _add(self, found: dict[str, _Wanted], node: Node, new: _Wanted) -> None:
        """Queue a node, and the children that were described with it."""
        earlier = found.get(node.name)
        if earlier is not None:
            new = _Wanted(node, {**earlier.options, **new.options}, new.inherited)
        found[node.name] = new
        if node.backing is not None and _has_inline_backing(node):
            # A backing file is read only unless it was told otherwise.
            self._add_child(
                found, node.backing, new.options.get("backing"), inherited=True, parent=new
            )
        if node.file is not None and _is_inline(node):
            # The child follows its parent in what the parent is told, unless it was told itself.
            told = new.options.get("read-only", new.inherited or None)
            self._add_child(
                found, node.file, new.options.get(node.file_role), inherited=told, parent=new
            )

    def _add_child(
        self,
        found: dict[str, _Wanted],
        child: Node,
        given: Any,
        *,
        inherited: bool | None,
        parent: _Wanted,
    ) -> None:
        if isinstance(given, dict):
            options = {"node-name": child.name, **given}
            cache = {**parent.options.get("cache", {}), **given.get("cache", {})}
            if cache:
                options["cache"] = cache
            wanted = _Wanted(child, options, bool(inherited))
            self._add(found, child, wanted)
        elif given == child.name:
            inherited = child.read_only if inherited is None else inherited
            options = {**child.options, "node-name": child.name}
            self._add(found, child, _Wanted(child, options, inherited))

    def _prepare(self, wanted: _Wanted) -> _Change:
        """Check the options of one node, in QEMU's order."""
        node, options = wanted.node, wanted.options
        if options.get("detect-zeroes") == "unmap" and options.get("discard") != "unmap":
            raise CommandError(
                "setting detect-zeroes to unmap is not allowed without setting discard operation "
                "to unmap"
            )
        driver = node.block.driver
        if driver in _FIXED:
            raise CommandError(
                f"Block format '{driver}' used by node '{node.name}' does not support reopening "
                "files"
            )
        known = _CHANGEABLE.get(driver, frozenset())
        before, after = _without_lists(node.options), _without_lists(options)
        for name in before:
            resettable = _COMMON | known - _STICKY
            if name not in after and name not in resettable and name not in _CHILDREN:
                raise CommandError(f"Option '{name}' cannot be reset to its default value")
        if driver == block.RawNode.driver:
            _check_window(node, options)
        if isinstance(node.block, block.ThrottleNode):
            filters.find_group(options, self._objects)
        if isinstance(node.block, block.PreallocateNode):
            filters.read_preallocation(options, node.block.file)
        read_only = bool(options.get("read-only", wanted.inherited))
        change = _Change(node, dict(options), read_only)
        if change.read_only and node.read_only and _has_unstored_bitmaps(node):
            raise CommandError("No write access")
        self._place_backing(change)
        self._place_file(change)
        for new, old in ((change.backing, node.backing), (change.file, node.file)):
            if new is not None and new is not old:
                self._join(node, new)
        if options["driver"] != driver:
            raise CommandError("Cannot change the option 'driver'")
        if options["node-name"] != node.name:
            raise CommandError("Cannot change the option 'node-name'")
        for name, value in after.items():
            fixed = name not in _COMMON and name not in known and name not in _CHILDREN
            if fixed and (name not in before or before[name] != value):
                raise CommandError(f"Cannot change the option '{name}'")
        if isinstance(node.block, block.Qcow2Node):
            caches.check(options, node.block.header.cluster_size)
        if _is_inline(node):
            change.options[node.file_role] = node.options.get(node.file_role, {})
        if change.backing is node.backing is not None and _has_inline_backing(node):
            change.options.pop("backing", None)
            if "backing" in node.options:
                change.options["backing"] = node.options["backing"]
        return change

    def _join(self, node: Node, child: Node) -> None:
        """Have a new child work where its parent does, or the parent where the child does."""
        if child.thread is node.thread:
            return
        try:
            threads.move(self._graph, child, node.thread)
        except CommandError:
            threads.move(self._graph, node, child.thread)

    def _place_backing(self, change: _Change) -> None:
        node, options = change.node, change.options
        if not isinstance(node.block, block.Qcow2Node):
            return
        if "backing" not in options:
            if node.backing is not None or node.block.header.backing_file is not None:
                raise CommandError(f"backing is missing for '{node.name}'")
            return
        given = options["backing"]
        if isinstance(given, dict):
            if node.backing is None or not _has_inline_backing(node):
                raise CommandError("Cannot change the option 'backing.driver'")
            return
        change.backing = None if given is None else self._child(change, "backing", given)

    def _place_file(self, change: _Change) -> None:
        node, options = change.node, change.options
        if node.file is None or node.file_role not in options:
            return
        given = options[node.file_role]
        if isinstance(given, dict):
            if not _is_inline(node):
                raise CommandError(f"Cannot change the option '{node.file_role}.driver'")
            return
        child = self._child(change, node.file_role, given)
        if child is not node.file:
            if not self._release.reopens_several:
                raise CommandError(f"Cannot change the option '{node.file_role}'")
            if not isinstance(node.block, block.RawNode | block.Qcow2Node):
                raise CommandError(
                    f"Changing the file of a {node.block.driver} node is not supported by this "
                    "emulator"
                )
        change.file = child

    def _child(self, change: _Change, role: str, name: str) -> Node:
        node = change.node
        child = self._graph.nodes.get(name)
        if child is None:
            raise CommandError(f"Cannot find device='' nor node-name='{name}'")
        waiting, below = [child], {child.name}
        while waiting:
            for other in waiting.pop().children():
                if other.name not in below:
                    below.add(other.name)
                    waiting.append(other)
        if node.name in below:
            raise CommandError(
                f"Making '{name}' a {role} child of '{node.name}' would create a cycle"
            )
        return child

    # Doing it

    def _check(self, changes: Sequence[_Change]) -> None:
        just = {
            change.node.name for change in changes if change.read_only and not change.was_read_only
        }
        nodes = [change.node for change in changes]
        permissions.recheck(self._release, self._graph, nodes, just_read_only=just)

    def _carry_out(self, changes: Sequence[_Change]) -> None:
        """Open and close what has to be; undo what was done if it fails half-way."""
        turned = [change for change in changes if change.read_only != change.was_read_only]
        files = [change for change in turned if isinstance(change.node.block, block.FileNode)]
        images = [change for change in turned if isinstance(change.node.block, block.Qcow2Node)]
        with contextlib.ExitStack() as undo:
            for change in files:
                if not change.read_only:
                    _reopen_file(undo, change.node, writable=True)
            for change in images:
                if change.read_only:
                    undo.callback(_begin, change.node)
                    _end(change.node)
            for change in files:
                if change.read_only:
                    _reopen_file(undo, change.node, writable=False)
            for change in changes:
                if isinstance(change.node.block, block.RawNode):
                    assert change.file is not None
                    window = change.options.get("offset", 0), change.options.get("size")
                    change.node.block.reopen(change.file.block, *window)
                    change.node.block.read_only = change.read_only
            for change in changes:
                self._tell(change)
                if isinstance(change.node.block, block.Qcow2Node):
                    _change_file(undo, change)
            for change in images:
                if not change.read_only:
                    _begin(change.node)
                    undo.callback(_end, change.node)
            for change in changes:
                if change.backing is not change.before[3]:
                    disk = change.node.block
                    disk.backing = None if change.backing is None else change.backing.block
            undo.pop_all()

    def _tell(self, change: _Change) -> None:
        """Let a filter do as it is told; what it was told was checked."""
        disk = change.node.block
        if isinstance(disk, block.ThrottleNode):
            group = filters.find_group(change.options, self._objects)
            if group is not disk.group:
                disk.join(group)
        elif isinstance(disk, block.PreallocateNode):
            align, length = filters.read_preallocation(change.options, disk.file)
            disk.prepare(align, length)

    def _left_over(self, changes: Sequence[_Change]) -> list[Node]:
        """Take out children that nobody uses any more."""
        removed = []
        for change in changes:
            for child in change.before[2:]:
                if (
                    child is not None
                    and child.name in self._graph.nodes
                    and not child.monitor_owned
                    and not self._graph.parents(child)
                    and not self._graph.exports_of(child)
                    and not self._graph.backends_of(child)
                ):
                    removed += self._graph.remove(child)
        return removed


def _without_lists(options: Options) -> Options:
    """Return options in which the parts of lists are options with dots in their names."""
    found: Options = {}
    for name, value in options.items():
        if not isinstance(value, list):
            found[name] = value
        for number, part in enumerate(value if isinstance(value, list) else ()):
            if isinstance(part, dict):
                found |= {f"{name}.{number}.{inner}": leaf for inner, leaf in part.items()}
            else:
                found[f"{name}.{number}"] = part
    return found


def _is_inline(node: Node) -> bool:
    """Whether the node's file was described with it, not named."""
    return node.file is not None and not isinstance(node.options.get(node.file_role), str)


def _has_inline_backing(node: Node) -> bool:
    """Whether the node's backing file was described with it, or taken from the image."""
    return not isinstance(node.options.get("backing"), str)


def _has_unstored_bitmaps(node: Node) -> bool:
    """Whether bitmaps are to be stored in an image that cannot be written."""
    return any(bitmap.persistent and not bitmap.readonly for bitmap in node.bitmaps)


def _check_window(node: Node, options: Options) -> None:
    """Check what a raw node is to be a window of."""
    assert node.file is not None
    size = options.get("size")
    try:
        block.RawNode(node.file.block, options.get("offset", 0), size)
    except UsageError as error:
        raise CommandError(str(error)) from error
    if size is not None and size % SECTOR_SIZE:
        raise CommandError(f"Specified size is not multiple of {SECTOR_SIZE}")


def _reopen_file(undo: contextlib.ExitStack, node: Node, *, writable: bool) -> None:
    assert isinstance(node.block, block.FileNode)
    reopen: Callable[..., None] = node.block.reopen
    reopen(writable=writable)
    undo.callback(reopen, writable=not writable)


def _change_file(undo: contextlib.ExitStack, change: _Change) -> None:
    """Let an image that is read go on in another node; one that is written goes on to be."""
    node, disk = change.node, change.node.block
    old = change.before[2]
    assert isinstance(disk, block.Qcow2Node)
    assert change.file is not None
    if change.file is old:
        return
    goes_on = disk.writable
    if goes_on:
        undo.callback(_begin, node)
        _end(node)
    undo.callback(disk.change_file, old.block)
    disk.change_file(change.file.block)
    if goes_on:
        _begin(node)
        undo.callback(_end, node)


def _begin(node: Node) -> None:
    """Let an image be written, and its bitmaps change."""
    disk = node.block
    assert isinstance(disk, block.Qcow2Node)
    if disk.writable or not disk.file.writable:
        return
    disk.begin_writing(*block.begin(disk, disk.file))
    for bitmap in node.bitmaps:
        bitmap.tracking, bitmap.readonly = disk.tracking, False
        bitmap.set_enabled(bitmap.enabled)


def _end(node: Node) -> None:
    """Store what an image has to, and let nothing of it change any more."""
    disk = node.block
    assert isinstance(disk, block.Qcow2Node)
    if not disk.writable:
        return
    node.keep_bitmaps()
    disk.end_writing()
    for bitmap in node.bitmaps:
        bitmap.leave()
        bitmap.tracking, bitmap.readonly = None, bitmap.persistent
