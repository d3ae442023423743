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
from nbexport.emulator import permissions
from nbexport.errors import CommandError, FormatError, UsageError
from nbexport.units import SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nbexport.emulator.graph import Graph, Node
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
}  # fmt: skip
# Drivers that cannot change at all.
_FIXED = frozenset({"copy-before-write"})
# What a driver changes when it is given, but cannot forget.
_STICKY = frozenset({"drop-cache"})
_CHILDREN = ("backing", "file")


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
    """

    def __init__(self, release: Release, graph: Graph) -> None:
        self._release = release
        self._graph = graph

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
        changes = [self._prepare(each) for each in self._queue(wanted)]
        self._apply(changes)
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
        """Queue a node, and the child that was described with it."""
        earlier = found.get(node.name)
        if earlier is not None:
            new = _Wanted(node, {**earlier.options, **new.options}, new.inherited)
        found[node.name] = new
        child, given = node.file, new.options.get("file")
        if child is None or not _is_inline(node):
            return
        # The child follows its parent in what the parent is told, unless it was told itself.
        inherited = new.options.get("read-only")
        if isinstance(given, dict):
            wanted = _Wanted(child, {"node-name": child.name, **given}, bool(inherited))
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
        for name in node.options:
            resettable = _COMMON | known - _STICKY
            if name not in options and name not in resettable and name not in _CHILDREN:
                raise CommandError(f"Option '{name}' cannot be reset to its default value")
        if driver == block.RawNode.driver:
            _check_window(node, options)
        read_only = bool(options.get("read-only", wanted.inherited))
        change = _Change(node, dict(options), read_only)
        if change.read_only and node.read_only and _has_unstored_bitmaps(node):
            raise CommandError("No write access")
        self._place_backing(change)
        self._place_file(change)
        if options["driver"] != driver:
            raise CommandError("Cannot change the option 'driver'")
        if options["node-name"] != node.name:
            raise CommandError("Cannot change the option 'node-name'")
        for name, value in options.items():
            fixed = name not in _COMMON and name not in known and name not in _CHILDREN
            if fixed and (name not in node.options or node.options[name] != value):
                raise CommandError(f"Cannot change the option '{name}'")
        if _is_inline(node):
            change.options["file"] = node.options.get("file", {})
        return change

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
            raise CommandError("Cannot change the option 'backing.driver'")
        change.backing = None if given is None else self._child(change, "backing", given)

    def _place_file(self, change: _Change) -> None:
        node, options = change.node, change.options
        if node.file is None or "file" not in options:
            return
        given = options["file"]
        if isinstance(given, dict):
            if not _is_inline(node):
                raise CommandError("Cannot change the option 'file.driver'")
            return
        child = self._child(change, "file", given)
        if child is not node.file:
            if not self._release.reopens_several:
                raise CommandError("Cannot change the option 'file'")
            if node.block.driver != block.RawNode.driver:
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
            for change in images:
                if not change.read_only:
                    _begin(change.node)
                    undo.callback(_end, change.node)
            for change in changes:
                if change.backing is not change.before[3]:
                    disk = change.node.block
                    disk.backing = None if change.backing is None else change.backing.block
            undo.pop_all()

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


def _is_inline(node: Node) -> bool:
    """Whether the node's file was described with it, not named."""
    return node.file is not None and not isinstance(node.options.get("file"), str)


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


def _begin(node: Node) -> None:
    """Let an image be written, and its bitmaps change."""
    disk = node.block
    assert isinstance(disk, block.Qcow2Node)
    if disk.writable or not isinstance(disk.file, block.FileNode):
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
