"""What the users of a node do with it and deny to others: to each other, and to other processes.

A format needs its file for itself while it can be written; an export needs the size to stay. Inside
the process two users that contradict each other are an error of the command that brought the
second; other processes see the locks on the files.

Source: QEMU's ``include/block/block-common.h``, the permissions of a node's children.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from nbexport import block
from nbexport.block import locks
from nbexport.block.locks import Permission
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from nbexport.emulator.graph import Backend, Graph, Node
    from nbexport.emulator.release import Release

UNNAMED = "an unnamed block device"
_CHANGES = Permission.WRITE | Permission.WRITE_UNCHANGED


class Use(NamedTuple):
    """One user of a node.

    Attributes:
        who: how errors call it.
        role: what the node is to it: root, file or backing.
        required: what it does.
        unshared: what it denies to the other users.
    """

    who: str
    role: str
    required: Permission
    unshared: Permission


def export_use(*, writable: bool, fixed_size: bool = True) -> Use:
    """Return the use that an export makes of its node."""
    required = Permission.CONSISTENT_READ | (Permission.WRITE if writable else locks.NOTHING)
    return Use(UNNAMED, "root", required, Permission.RESIZE if fixed_size else locks.NOTHING)


def backend_use(backend: Backend) -> Use:
    """Return the use that a backend of the machine makes of its node; a device denies."""
    required = Permission.CONSISTENT_READ
    if backend.writable:
        required |= Permission.WRITE
    denied = locks.NOTHING
    if not backend.shares_writes:
        denied |= Permission.WRITE
    if not backend.shares_size:
        denied |= Permission.RESIZE
    who = backend.name or backend.device
    return Use(f"block device '{who}'" if who else UNNAMED, "root", required, denied)


def write_use() -> Use:
    """Return the use of who only wants to write a node, and denies nothing."""
    return Use(UNNAMED, "root", Permission.WRITE, locks.NOTHING)


def format_use(name: str, *, writable: bool) -> Use:
    """Return the use that a qcow2 node makes of its file."""
    required, unshared = locks.for_format(writable=writable)
    return Use(f"node '{name}'", "file", required, unshared)


def part_use(name: str) -> Use:
    """Return the use that a raw node which shows a part of its file makes of it, unused itself."""
    return Use(f"node '{name}'", "file", locks.NOTHING, Permission.RESIZE)


def resizing_use() -> Use:
    """Return the use that a command makes of a node which gives it another length."""
    return Use(UNNAMED, "root", Permission.RESIZE, locks.NOTHING)


def reading_use(name: str) -> Use:
    """Return the use that a filter which keeps what was read makes of its file."""
    return Use(f"node '{name}'", "file", Permission.WRITE_UNCHANGED, locks.NOTHING)


def injecting_use(name: str, options: Mapping[str, Any]) -> Use:
    """Return the use that a filter which injects errors makes of its file, unused itself."""
    return Use(
        f"node '{name}'",
        "image",
        _permissions(options.get("take-child-perms", ())),
        _permissions(options.get("unshare-child-perms", ())),
    )


def _permissions(names: Iterable[str]) -> Permission:
    found = locks.NOTHING
    for name in names:
        if name != "graph-mod":  # no file knows of it
            found |= Permission[name.upper().replace("-", "_")]
    return found


def target_use(name: str) -> Use:
    """Return the use that a copy-before-write filter makes of what it copies to."""
    return Use(f"node '{name}'", "target", Permission.WRITE, Permission.RESIZE)


def root_use(required: Permission, unshared: Permission) -> Use:
    """Return the use that a job makes of a node by itself, without a name."""
    return Use(UNNAMED, "root", required, unshared)


def job_use(kind: str, identifier: str, role: str, unshared: Permission) -> Use:
    """Return the use of a node that a job only keeps others from."""
    return Use(f"{kind} job '{identifier}'", role, locks.NOTHING, unshared)


def uses(graph: Graph, node: Node) -> list[Use]:
    """Return the uses of a node, the newest first."""
    found = [use for job in graph.jobs_of(node) for user, use in job.uses_of[::-1] if user is node]
    found += [export_use(writable=export.writable) for export in reversed(graph.exports_of(node))]
    found += [backend_use(backend) for backend in reversed(graph.backends_of(node))]
    for parent in reversed(graph.parents(node)):
        if parent.target is node:
            found.append(target_use(parent.name))
        if parent.backing is node:
            found.append(_backing_use(parent, uses(graph, parent)))
        if parent.file is node:
            found.append(_file_use(graph, parent, uses(graph, parent)))
    return found


def _backing_use(node: Node, above: list[Use]) -> Use:
    """Return the use of a backing file: read and not written as the users above want it."""
    required = unshared = locks.NOTHING
    if any(use.required & Permission.CONSISTENT_READ for use in above):
        required = Permission.CONSISTENT_READ
    if any(use.unshared & Permission.WRITE for use in above):
        unshared = Permission.WRITE | Permission.RESIZE
    return Use(f"node '{node.name}'", "backing", required, unshared)


def _file_use(graph: Graph, node: Node, above: list[Use]) -> Use:
    if node.is_format:
        return format_use(node.name, writable=not node.read_only)
    passed = _passed_on(node, above)
    if isinstance(node.block, block.SnapshotAccessNode):
        # What is kept is not read by way of the filter's own requests.
        return Use(passed.who, "file", locks.NOTHING, locks.NOTHING)
    if node.options.get("offset") or "size" in node.options:
        # A part of a file stays where it is only as long as the file does.
        passed = passed._replace(unshared=passed.unshared | Permission.RESIZE)
    own = None
    if isinstance(node.block, block.BlkdebugNode):
        own = injecting_use(node.name, node.options)
    elif isinstance(node.block, block.CopyOnReadNode):
        own = reading_use(node.name)
    if own is not None:
        return own._replace(
            required=own.required | passed.required, unshared=own.unshared | passed.unshared
        )
    if isinstance(node.block, block.CommitTopNode):
        return Use(passed.who, "backing", locks.NOTHING, locks.NOTHING)
    if isinstance(node.block, block.MirrorTopNode):
        if node.options.get("stopped"):
            return Use(passed.who, "backing", locks.NOTHING, locks.NOTHING)
        if node.options.get("commits"):
            required = passed.required & ~Permission.CONSISTENT_READ
            unshared = passed.unshared & ~Permission.WRITE
            return Use(passed.who, "backing", required, unshared)
        return passed._replace(role="backing")
    if isinstance(node.block, block.StreamTopNode):
        return passed
    copies = isinstance(node.block, block.CopyBeforeWriteNode)
    if not copies or not (above or graph.jobs_of(node)):
        return passed
    # Nobody writes below a filter that copies before writes, as long as somebody uses it.
    return passed._replace(
        required=passed.required | Permission.CONSISTENT_READ,
        unshared=passed.unshared | Permission.WRITE | Permission.RESIZE,
    )


def _passed_on(node: Node, above: list[Use]) -> Use:
    """Return the use of a raw node's file: that of all its users together."""
    required = unshared = locks.NOTHING
    for use in above:
        required |= use.required
        unshared |= use.unshared
    return Use(f"node '{node.name}'", "file", required, unshared)


def begin(release: Release, graph: Graph, node: Node, new: Use) -> None:
    """Let a new user use a node: the others must allow it, and other processes too.

    Raises:
        CommandError: another user of the node, or of what is below it, does not go with this one;
            or the node cannot be written.
        ImageLockedError: another process does not allow it.
        OSError: the host failed.
    """
    others = uses(graph, node)
    while True:
        _check(release, node, new, others)
        if new.required & _CHANGES and node.read_only:
            raise CommandError("Block node is read-only")
        if isinstance(node.block, block.FileNode):
            node.block.locks.acquire(new.required, new.unshared)
        hold_data_file(node, [new, *others])
        if node.is_format and node.backing is not None:
            # What is above wants something of the images behind, too.
            new = _backing_use(node, [new, *others])
            node = node.backing
            others = [use for use in uses(graph, node) if use.who != new.who]
            continue
        if node.file is None or node.is_format:
            return
        # What is above a raw node passes through it; its own use of the file is counted anew.
        new = _file_use(graph, node, [new, *others])
        node = node.file
        others = [use for use in uses(graph, node) if use.who != new.who]


def _check(release: Release, node: Node, new: Use, others: list[Use]) -> None:
    """Raise CommandError if two users contradict each other."""
    for one, other in itertools.permutations([new, *others], 2):
        bad = other.required & one.unshared
        if not bad:
            continue
        names = ", ".join(_names(bad))
        if release.names_both_users:
            raise CommandError(
                f"Permission conflict on node '{node.name}': permissions '{names}' are both "
                f"required by {other.who} (uses node '{node.name}' as '{other.role}' child) and "
                f"unshared by {one.who} (uses node '{node.name}' as '{one.role}' child)."
            )
        known, what = (one, "does not allow") if other is new else (other, "uses")
        raise CommandError(
            f"Conflicts with use by {known.who} as '{known.role}', which {what} '{names}' on "
            f"{node.name}"
        )


def recheck(
    release: Release, graph: Graph, nodes: Iterable[Node], *, just_read_only: AbstractSet[str]
) -> None:
    """Check that the users of nodes still go together after something of them has changed.

    Args:
        release: decides the words of conflicts.
        graph: the nodes, as they shall be.
        nodes: those that have changed; what is below them is checked, too.
        just_read_only: names of the nodes that could be written before.

    Raises:
        CommandError: two users contradict each other, or a node cannot be written.
        ImageLockedError: another process does not allow it.
        OSError: the host failed.
    """
    waiting, seen = list(nodes), set()
    while waiting:
        node = waiting.pop(0)
        if node.name in seen:
            continue
        seen.add(node.name)
        waiting += node.children()
        found = uses(graph, node)
        together = _passed_on(node, found)
        for number, use in enumerate(found):
            _check(release, node, use, found[:number] + found[number + 1 :])
        if together.required & _CHANGES and node.read_only:
            if node.name in just_read_only:
                raise CommandError(
                    f"Read-only block node '{node.name}' cannot support read-write users"
                )
            raise CommandError("Block node is read-only")
        if isinstance(node.block, block.FileNode):
            node.block.locks.acquire(together.required, together.unshared)
        hold_data_file(node, found)


def hold_data_file(node: Node, above: list[Use]) -> None:
    """Lock the external data file of an image, if it has one, for all of its users.

    Raises:
        ImageLockedError: another process does not allow it.
        OSError: the host failed.
    """
    if isinstance(node.block, block.Qcow2Node) and node.block.data_file is not None:
        node.block.data_file.locks.acquire(*_data_use(above))


def _data_use(above: list[Use]) -> tuple[Permission, Permission]:
    """Return what an image does with its external data file, and what it denies to others."""
    wanted = locks.NOTHING
    for use in above:
        wanted |= use.required
    required = wanted & Permission.CONSISTENT_READ
    if wanted & Permission.WRITE:
        required |= Permission.WRITE | Permission.RESIZE
    return required, Permission.RESIZE


def _names(permissions: Permission) -> Iterator[str]:
    return (str(one.name).lower().replace("_", " ") for one in Permission if one & permissions)


def settle(graph: Graph) -> None:
    """Give up the locks that were for users which are gone.

    Raises:
        OSError: the host failed.
    """
    for node in graph.nodes.values():
        if isinstance(node.block, block.FileNode):
            use = _passed_on(node, uses(graph, node))
            node.block.locks.keep(use.required, use.unshared)
        elif isinstance(node.block, block.Qcow2Node) and node.block.data_file is not None:
            node.block.data_file.locks.keep(*_data_use(uses(graph, node)))
