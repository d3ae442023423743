"""object-add, object-del, qom-list-types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport import qapi
from nbexport.emulator.commands.registry import command
from nbexport.emulator.objects import TYPES, list_types
from nbexport.errors import CommandError
from nbexport.qapi.model import ObjectType
from nbexport.qapi.validate import validate

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.machine import Machine

_OWN = ("qom-type", "id", "props")
_FIRST_DESCRIBED = "6.0"
"""The first release whose schema has the properties; before, each object checked its own."""


@command("object-add")
async def add(machine: Machine, arguments: Arguments) -> None:
    """Make an object."""
    if machine.release.describes_objects:
        given = {name: value for name, value in arguments.items() if name not in _OWN}
    else:
        given = _old_properties(machine, arguments)
    # Files are read: a secret may lie on a disk that is slow, and keys may be long.
    await machine.in_thread(machine.objects.add, arguments["qom-type"], arguments["id"], given)


def _old_properties(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    """Return the properties as they were given before 6.0, checked as objects did themselves."""
    for name in ("qom-type", "id"):
        if not isinstance(arguments.get(name), str):
            raise CommandError(f"Parameter '{name}' is missing")
    kind: str = arguments["qom-type"]
    properties = {name: value for name, value in arguments.items() if name not in _OWN}
    if properties and not machine.release.takes_flat_objects:
        raise CommandError(f"Parameter '{next(iter(properties))}' is unexpected")
    given = arguments.get("props", {})
    if not isinstance(given, dict):
        raise CommandError("Invalid parameter type for 'props', expected: dict")
    for name in given:
        if name in properties:
            raise CommandError(f"Option '{name}' is given both in 'props' and beside it")
    properties |= given
    known = TYPES.get(kind)
    if known is None or kind in machine.release.unknown_types:
        raise CommandError(f"invalid object type: {kind}")
    if known.abstract:
        raise CommandError(f"object type '{kind}' is abstract")
    described = qapi.load_release(_FIRST_DESCRIBED)
    options = described.find_type("ObjectOptions")
    assert isinstance(options, ObjectType)
    branch = options.branch(kind)
    assert branch is not None
    members = {member.name for member in branch.members}
    for name in properties:
        if name not in members:
            owner = kind if machine.release.names_object_type else ""
            raise CommandError(f"Property '{owner}.{name}' not found")
    # What an authorization needs it complained about later, but in the same words.
    whole = {"qom-type": kind, "id": arguments["id"], **properties}
    validate(described, options, whole, release=machine.release.version)
    return properties


@command("object-del")
async def delete(machine: Machine, arguments: Arguments) -> None:
    """Remove an object."""
    machine.objects.remove(arguments["id"])


@command("qom-list-types")
async def list_types_(machine: Machine, arguments: Arguments) -> list[dict[str, Any]]:
    """List the types of the objects that can be made here, and what they extend."""
    return list(
        list_types(
            machine.release,
            system=machine.is_system_emulator,
            implements=arguments.get("implements"),
            abstract=arguments.get("abstract", False),
        )
    )
