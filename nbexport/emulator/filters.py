"""How the filters are opened that do something to requests: the options of each, and their errors.

Source: QEMU's ``qapi/block-core.json``; the texts were compared with 7.2.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, Any, Final

from nbexport import block
from nbexport.block.injecting import EVENTS, IO_TYPES
from nbexport.emulator.numbers import parse_uint64
from nbexport.errors import CommandError
from nbexport.units import SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nbexport.emulator.graph import Graph
    from nbexport.emulator.objects import Objects

Options = dict[str, Any]

CONFIG_BYTES_MAX: Final = 1 << 20
"""Bytes of a file with rules: thousands of them."""
_SIZES: Final = (
    "align", "max-transfer", "opt-write-zero", "max-write-zero", "opt-discard", "max-discard",
)  # fmt: skip
_INT_MAX: Final = (1 << 31) - 1
_GROUPS: Final = {
    "inject-error": ("event", "state", "iotype", "errno", "sector", "once", "immediately"),
    "set-state": ("event", "state", "new_state"),
}
_SECTION = re.compile(r'\[(?:([^\s\]]{1,63}) "([^"]{1,63})"\]|([^\]]{1,63})\])')
_SETTING = re.compile(r'\s*(\S{1,63})(?:\s*=\s*"([^"]{1,1023})"?)?')
_SWITCHES: Final = {"on": True, "yes": True, "true": True, "y": True} | dict.fromkeys(
    ("off", "no", "false", "n"), False
)


# blkdebug


def read_rules(options: Options) -> list[block.Rule]:
    """Return the rules of error injection: those of a file, and those of the options.

    Raises:
        CommandError: the file cannot be read, or a rule is wrong.
    """
    config = options.get("config")
    found: dict[str, list[dict[str, Any]]] = {group: [] for group in _GROUPS}
    for group, settings in () if config is None else _read_config(config):
        found[group].append(settings)
    for group in _GROUPS:
        found[group] += options.get(group, [])
    rules = [_error_rule(settings) for settings in found["inject-error"]]
    return rules + [_state_rule(settings) for settings in found["set-state"]]


def _read_config(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the sections of a file with their settings."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path may be any text
            lines = file.read(CONFIG_BYTES_MAX).decode(errors="surrogateescape").splitlines()
    except OSError as error:
        text = f"Could not read blkdebug config file: {error.strerror}"
        raise CommandError(text) from error
    section: tuple[str, dict[str, Any]] | None = None
    sections = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        head = _SECTION.match(line)
        if head is not None:
            section = (head[1] or head[3], {})
            if section[0] not in _GROUPS:
                raise CommandError(f"There is no option group '{section[0]}'")
            sections.append(section)
            continue
        setting = _SETTING.match(line)
        if setting is None:
            raise CommandError("parse error")
        if section is None:
            raise CommandError("no group defined")
        if setting[1] not in _GROUPS[section[0]]:
            raise CommandError(f"Invalid parameter '{setting[1]}'")
        section[1][setting[1]] = _checked(setting[1], setting[2] or "")
    yield from sections


def _checked(name: str, text: str) -> Any:
    """Return the value of a setting."""
    if name in {"event", "iotype"}:
        return text
    if name in {"once", "immediately"}:
        if text not in _SWITCHES:
            raise CommandError(f"Parameter '{name}' expects 'on' or 'off'")
        return _SWITCHES[text]
    value = parse_uint64(text)
    if value is None:
        raise CommandError(f"Parameter '{name}' expects a number")
    return value


def typed_rules(given: Any, group: str) -> list[dict[str, Any]]:
    """Return rules that were given with dotted names: one, or a number before each.

    Raises:
        CommandError: a rule has another part, or a value is wrong.
    """
    if isinstance(given, list):
        listed = given
    elif isinstance(given, dict) and all(name.isdecimal() for name in given):
        listed = [given[name] for name in sorted(given, key=int)]
    else:
        listed = [given]
    made = []
    for settings in listed:
        if not isinstance(settings, dict):
            raise CommandError(f"Invalid parameter type for '{group}', expected: object")
        for name in settings:
            if name not in _GROUPS[group]:
                raise CommandError(f"Invalid parameter '{name}'")
        made.append({name: _read(name, value) for name, value in settings.items()})
    return made


def _read(name: str, value: Any) -> Any:
    if isinstance(value, bool):
        value = "on" if value else "off"
    return _checked(name, str(value))


def _event(settings: Mapping[str, Any]) -> str:
    name = settings.get("event")
    if name is None:
        raise CommandError("Missing event name for rule")
    if name not in EVENTS:
        raise CommandError(f"invalid parameter value: {name}")
    return str(name)


def _error_rule(settings: Mapping[str, Any]) -> block.Rule:
    event = _event(settings)
    iotype = settings.get("iotype")
    if iotype is not None and iotype not in IO_TYPES:
        raise CommandError(f"invalid parameter value: {iotype}")
    rule = block.Rule(
        event,
        state=settings.get("state", 0),
        number=settings.get("errno", errno.EIO),
        offset=block.sector_rule_offset(settings.get("sector", -1)),
        once=settings.get("once", False),
    )
    if iotype is not None:
        rule.types = frozenset({iotype})
    return rule


def _state_rule(settings: Mapping[str, Any]) -> block.Rule:
    return block.Rule(
        _event(settings),
        state=settings.get("state", 0),
        new_state=settings.get("new_state", 0),
    )


def check_size(name: str, value: int) -> None:
    """Raise CommandError if a size is negative."""
    if value < 0:
        raise CommandError(f"Parameter '{name}' expects a non-negative number below 2^64")


def read_limits(options: Options, file: block.BlockNode) -> block.Limits:
    """Return the limits of a node that injects errors.

    Raises:
        CommandError: one does not go with the others, or with the node below.
    """
    for name in _SIZES:
        check_size(name, options.get(name, 0))
    align = options.get("align", 0)
    if align and (align >= _INT_MAX or align & (align - 1)):
        raise CommandError(f"Cannot meet constraints with align {align}")
    unit = max(align, file.request_alignment)

    def multiple(name: str, of: int) -> int:
        value: int = options.get(name, 0)
        if value and (value >= _INT_MAX or value % of):
            raise CommandError(f"Cannot meet constraints with {name} {value}")
        return value

    transfer = multiple("max-transfer", unit)
    zero_align = multiple("opt-write-zero", unit)
    zero_most = multiple("max-write-zero", max(zero_align, unit))
    discard_align = multiple("opt-discard", unit)
    discard_most = multiple("max-discard", max(discard_align, unit))
    return block.Limits(align, transfer, zero_align, zero_most, discard_align, discard_most)


# The others


def open_throttle(file: block.BlockNode, options: Options, objects: Objects | None) -> Any:
    """Put limits above a node.

    Raises:
        CommandError: there are none of that name.
    """
    return block.ThrottleNode(file, find_group(options, objects))


def find_group(options: Options, objects: Objects | None) -> block.ThrottleGroup:
    """Return the limits that options name.

    Raises:
        CommandError: there are none of that name.
    """
    name = options.get("throttle-group")
    if name is None:
        raise CommandError("Please specify a throttle group")
    found = None if objects is None else objects.find(name)
    if found is None or not isinstance(found.value, block.ThrottleGroup):
        raise CommandError(f"Throttle group '{name}' does not exist")
    return found.value


def open_copy_on_read(file: block.BlockNode, options: Options, graph: Graph) -> Any:
    """Put a filter above an image that keeps what is read of its backing files.

    Raises:
        CommandError: the lowest layer is not there, or is a filter.
    """
    name = options.get("bottom")
    if name is None:
        return block.CopyOnReadNode(file)
    bottom = graph.nodes.get(name)
    if bottom is None:
        raise CommandError(f"Bottom node '{name}' not found")
    if bottom.is_filter:
        raise CommandError(f"Bottom node '{name}' is a filter")
    return block.CopyOnReadNode(file, bottom.block)


def open_compress(file: block.BlockNode) -> block.CompressNode:
    """Put a filter above an image that compresses.

    Raises:
        CommandError: the image cannot compress.
    """
    if not file.compresses:
        raise CommandError(f"Compression is not supported for underlying format: {file.driver}")
    return block.CompressNode(file)


def open_preallocate(file: block.BlockNode, options: Options) -> block.PreallocateNode:
    """Put a filter above a file that has room prepared ahead.

    Raises:
        CommandError: a number is out of range.
    """
    align, length = read_preallocation(options, file)
    return block.PreallocateNode(file, align=align, length=length)


def read_preallocation(options: Options, file: block.BlockNode) -> tuple[int, int]:
    """Return how a file is to be prolonged: in multiples of what, and by how much.

    Raises:
        CommandError: a number is out of range.
    """
    for name in ("prealloc-align", "prealloc-size"):
        check_size(name, options.get(name, 0))
    align = options.get("prealloc-align", block.PREALLOCATED_ALIGN)
    for unit, whose in (
        (SECTOR_SIZE, f"{SECTOR_SIZE}"),
        (file.request_alignment, f"underlying node request alignment ({file.request_alignment})"),
    ):
        if align % unit:
            raise CommandError(
                f"prealloc-align parameter of preallocate filter is not aligned to {whose}"
            )
    return align, options.get("prealloc-size", block.PREALLOCATED)


def name_of_injection(options: Mapping[str, Any], inner: str) -> str | None:
    """Return the file name that opens the same again, None if options say more than a name can."""
    known = {"config", "driver", "image", "x-image"}
    decisive = {"inject-error", "set-state", *_SIZES}
    if inner.startswith("json:") or (options.keys() & decisive) - known:
        return None
    config = options.get("config") or ""
    return f"blkdebug:{os.fspath(config)}:{inner}"
