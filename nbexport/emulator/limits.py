"""Limits of the machine's own disks, which go by older names than those of groups.

Disks whose group has the same name share its limits, be it an object's or one of their own.

Source: QEMU's ``BlockIOThrottle`` and ``BlockDeviceInfo``; qemu(1), ``-drive``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nbexport import block
from nbexport.block.throttling import KINDS
from nbexport.emulator.numbers import parse_uint64
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbexport.emulator.graph import Backend, Graph
    from nbexport.emulator.objects import Objects

_SHORT: Final = {"total": "", "read": "_rd", "write": "_wr"}
_PREFIX: Final = "throttling."


def _old_name(kind: str) -> str:
    what, which = kind.split("-")
    return what + _SHORT[which]


_NAMES: Final = {
    _old_name(kind) + suffix: kind + suffix.replace("_", "-")
    for kind in KINDS
    for suffix in ("", "_max", "_max_length")
} | {"iops_size": "iops-size"}
"""The older name of each limit, and that of groups."""


def from_command(arguments: Mapping[str, Any]) -> block.Configuration:
    """Return the limits that ``block_set_io_throttle`` is told.

    Raises:
        CommandError: they do not go together.
    """
    return _checked({_NAMES[name]: value for name, value in arguments.items() if name in _NAMES})


def from_drive(given: dict[str, Any]) -> tuple[block.Configuration, str | None]:
    """Take the limits from the options of ``-drive``, and return them and the name of the group.

    Raises:
        CommandError: one is no number, is given twice, or they do not go together.
    """
    for old, name in (*_NAMES.items(), ("group", "group")):
        if old in given:
            new = _PREFIX + name
            if new in given:
                raise CommandError(f"'{old}' and its alias '{new}' can't be used at the same time")
            given[new] = given.pop(old)
    group = given.pop(f"{_PREFIX}group", None)
    found = {}
    for name in [name for name in given if name.startswith(_PREFIX)]:
        short = name.removeprefix(_PREFIX)
        if short not in _NAMES.values():
            raise CommandError(f"Invalid parameter '{name}'")
        value = parse_uint64(given.pop(name))
        if value is None:
            raise CommandError(f"Parameter '{name}' expects a number")
        found[short] = value
    return _checked(found), group


def _checked(limits: Mapping[str, int]) -> block.Configuration:
    configuration = block.Configuration()
    try:
        configuration.update(limits)
        configuration.check()
    except ValueError as error:
        raise CommandError(str(error)) from error
    return configuration


def limit(
    graph: Graph,
    objects: Objects | None,
    backend: Backend,
    configuration: block.Configuration,
    group: str | None,
) -> None:
    """Give a disk limits, or take them from it if none is set.

    Args:
        graph: knows the other disks.
        objects: know groups.
        backend: the disk.
        configuration: the limits.
        group: the group that gets them; None for the disk's own.
    """
    if not configuration.is_enabled:
        backend.limits = None
        return
    if backend.limits is None or group is not None:
        name = group or backend.name
        backend.limits = name, _find(graph, objects, name)
    backend.limits[1].configure(configuration)


def _find(graph: Graph, objects: Objects | None, name: str) -> block.ThrottleGroup:
    found = None if objects is None else objects.find(name)
    if found is not None and isinstance(found.value, block.ThrottleGroup):
        return found.value
    for other in graph.disks:
        if other.limits is not None and other.limits[0] == name:
            return other.limits[1]
    return block.ThrottleGroup()


def describe(backend: Backend) -> dict[str, Any]:
    """Return the members of ``BlockDeviceInfo`` that tell of a disk's limits."""
    if backend.limits is None:
        return {}
    name, group = backend.limits
    limits = group.configuration.limits()
    told: dict[str, Any] = {"group": name}
    for old, new in _NAMES.items():
        base = new.removesuffix("-length")
        if ("-max" not in new and old != "iops_size") or limits[base]:
            told[old] = limits[new]
    return told
