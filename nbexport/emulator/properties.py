"""The values of devices' properties: texts of a command line, or of ``device_add``.

Source: what QEMU 7.2 says of wrong ones.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from nbexport.emulator import numbers
from nbexport.errors import CommandError
from nbexport.units import is_power_of_two

if TYPE_CHECKING:
    from nbexport.emulator.models import Model
    from nbexport.emulator.objects import Objects

_TRUE: Final = frozenset({"on", "yes", "true", "y"})
_FALSE: Final = frozenset({"off", "no", "false", "n"})
_LIMITS: Final = {
    "int32": (-(1 << 31), (1 << 31) - 1),
    "uint16": (0, (1 << 16) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
}
_CHOICES: Final = {
    "BiosAtaTranslation": frozenset({"auto", "large", "lba", "none", "rechs"}),
    "BlockdevOnError": frozenset({"auto", "enospc", "ignore", "report", "stop"}),
    "OnOffAuto": frozenset({"auto", "off", "on"}),
}
_ADDRESS: Final = re.compile(r"([0-9a-fA-F]{1,2}|0[xX][0-9a-fA-F]{1,2})(?:\.([0-7]))?\Z")
_BLOCK_MIN: Final = 512
_BLOCK_MAX: Final = 2 << 20


def read(model: Model, name: str, value: Any, objects: Objects, *, typed: bool = False) -> Any:
    """Return what a property becomes.

    Args:
        model: whose property it is.
        name: its name.
        value: what was given, a text or of JSON.
        objects: finds threads.
        typed: whether the value must be of the property's type already.

    Raises:
        CommandError: there is no such property, or it cannot become this.
    """
    kind = model.properties.get(name)
    if kind is None:
        raise CommandError(f"Property '{model.name}.{name}' not found")
    if typed:
        _check_type(name, kind, value)
    text = _text(value)
    if kind == "bool":
        if text not in _TRUE | _FALSE:
            raise CommandError(f"Parameter '{name}' expects 'on' or 'off'")
        return text in _TRUE
    if kind in _CHOICES:
        if text not in _CHOICES[kind]:
            raise CommandError(f"Parameter '{name}' does not accept value '{text}'")
        return text
    if kind == "iothread":
        if not text:
            return None
        found = objects.find(text.removeprefix("/objects/"))
        if found is None or found.type != "iothread":
            raise CommandError(f"Device '{text}' not found", error_class="DeviceNotFound")
        return found
    if kind == "size":
        return _size(name, text)
    if name == "addr":
        return _address(model, text)
    if kind in _LIMITS:
        return _number(name, kind, text)
    return text


def _check_type(name: str, kind: str, value: Any) -> None:
    if kind == "bool":
        fits, wanted = isinstance(value, bool), "boolean"
    elif kind in _LIMITS or kind == "size":
        fits = isinstance(value, int) and not isinstance(value, bool)
        wanted = "integer" if kind == "int32" else "uint64"
        if name == "addr":
            fits = fits or isinstance(value, str)
    else:
        fits, wanted = isinstance(value, str), "string"
    if not fits and wanted == "uint64":
        raise CommandError(f"Parameter '{name}' expects uint64")
    if not fits:
        raise CommandError(f"Invalid parameter type for '{name}', expected: {wanted}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _number(name: str, kind: str, text: str) -> int:
    number = (numbers.parse_int64 if kind == "int32" else numbers.parse_uint64)(text)
    if number is None:
        raise CommandError(f"Parameter '{name}' expects integer")
    low, high = _LIMITS[kind]
    if not low <= number <= high:
        raise CommandError(f"Parameter '{name}' expects {kind}_t")
    return number


def _size(name: str, text: str) -> int:
    size = numbers.parse_size(text)
    if size is None:
        raise CommandError(f"Parameter '{name}' expects size")
    if name in {"logical_block_size", "physical_block_size"} and size:
        if not _BLOCK_MIN <= size <= _BLOCK_MAX:
            raise CommandError(
                f"Property .{name} doesn't take value {size} "
                f"(minimum: {_BLOCK_MIN}, maximum: {_BLOCK_MAX})"
            )
        if not is_power_of_two(size):
            raise CommandError(
                f"Property .{name} doesn't take value '{size}', it's not a power of 2"
            )
    return size


def _address(model: Model, text: str) -> int:
    match = _ADDRESS.match(text)
    slot = int(match[1], 16) if match is not None else 0
    if match is None or slot >= 32:
        raise CommandError(f"Property '{model.name}.addr' doesn't take value '{text}'")
    return slot * 8 + int(match[2] or 0)
