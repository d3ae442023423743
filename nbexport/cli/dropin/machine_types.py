"""The values of ``-machine`` and ``-device`` that ask what there is, or choose of it.

Source: ``-machine help`` and ``-device help`` of QEMU 7.2.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from nbexport import qapi
from nbexport.emulator.models import ALIASES, MODELS, described, listed
from nbexport.errors import CommandError, UsageError
from nbexport.qapi.model import EnumType
from nbexport.qmp import jsonstream

if TYPE_CHECKING:
    from nbexport.emulator.release import Release

_VERSIONED: Final = re.compile(r"pc-(i440fx|q35)-([0-9]+)\.([0-9]+)\Z")
_BOARDS: Final = {"i440fx": "pc", "q35": "q35"}
_OLDEST: Final = {"i440fx": (1, 4), "q35": (2, 4)}


def machines(release: Release) -> str:
    """Return the text of ``-machine help``."""
    branch = release.branch
    rows = [
        ("pc", f"a board with a PCI bus (alias of pc-i440fx-{branch})"),
        (f"pc-i440fx-{branch}", "a board with a PCI bus (default)"),
        ("q35", f"a board with a PCI Express bus (alias of pc-q35-{branch})"),
        (f"pc-q35-{branch}", "a board with a PCI Express bus"),
        ("none", "empty machine"),
    ]
    lines = [f"{name:20} {what}" for name, what in rows]
    return "\n".join(["Supported machines are:", *lines, ""])


def board_of(kind: str, release: Release) -> str:
    """Return the board of a type of machine.

    Raises:
        UsageError: there is no such type.
    """
    if kind in {"none", "pc", "q35"}:
        return kind
    match = _VERSIONED.match(kind)
    if match is not None:
        version = (int(match[2]), int(match[3]))
        if _OLDEST[match[1]] <= version <= release.version[:2]:
            return _BOARDS[match[1]]
    raise UsageError("unsupported machine type\nUse -machine help to list supported machines")


def formats(release: Release) -> str:
    """Return the text of ``-drive format=help``."""
    drivers = qapi.load_release(str(release)).find_type("BlockdevDriver")
    assert isinstance(drivers, EnumType)
    names = " ".join(sorted(member.name for member in drivers.members))
    return f"Supported formats: {names}\nSupported formats (read-only): {names}\n"


def devices(driver: str) -> str:
    """Return the text of ``-device help``, or of the help for one driver.

    Raises:
        CommandError: there is no such driver.
    """
    if driver in {"help", "?"}:
        return "\n".join([*listed(), ""])
    model = MODELS.get(ALIASES.get(driver, driver))
    if model is None:
        raise CommandError(f"Device '{driver}' not found")
    return "\n".join([*described(model), ""])


def from_json(text: str) -> dict[str, Any]:
    """Return a device that is described by JSON.

    Raises:
        CommandError: it is no JSON object, or says nothing of the driver.
    """
    found = jsonstream.parse(text)
    if not isinstance(found.get("driver"), str):
        raise CommandError("Parameter 'driver' is missing")
    return dict(found)
