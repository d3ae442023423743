"""qom-get and qom-set, for devices and for the objects that clients make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nbexport import block, qapi
from nbexport.emulator.commands import device
from nbexport.emulator.commands.registry import command
from nbexport.errors import CommandError
from nbexport.qapi.validate import validate

if TYPE_CHECKING:
    from nbexport.emulator.commands.registry import Arguments
    from nbexport.emulator.machine import Machine
    from nbexport.emulator.objects import UserObject

_CONTAINER: Final = "/objects"
_LIMITS: Final = "limits"


def _find(machine: Machine, path: str) -> UserObject | None:
    """Return an object by its path or the end of it; None for the container of all.

    Raises:
        CommandError: there is none.
    """
    if path in {"/", _CONTAINER, "objects"}:
        return None
    name = path.removeprefix(f"{_CONTAINER}/").removeprefix("objects/")
    found = machine.objects.find(name)
    if found is None:
        raise CommandError(f"Device '{path}' not found", error_class="DeviceNotFound")
    return found


@command("qom-get")
async def get(machine: Machine, arguments: Arguments) -> Any:
    """Return a property of a device or an object."""
    path, name = arguments["path"], arguments["property"]
    plugged = machine.board.find(path)
    if plugged is not None:
        return device.get_property(plugged, name)
    found = _find(machine, path)
    if found is None:
        if name == "type":
            return "container"
        if path != "/" and machine.objects.find(name) is not None:
            return f"{_CONTAINER}/{name}"
        raise CommandError(f"Property 'container.{name}' not found")
    if name == "type":
        return found.type
    if isinstance(found.value, block.ThrottleGroup):
        limits = found.value.configuration.limits()
        if name == _LIMITS:
            return limits
        if name.startswith("x-") and name[2:] in limits:
            return limits[name[2:]]
    elif name in found.properties:
        return found.properties[name]
    raise CommandError(f"Property '{found.type}.{name}' not found")


@command("qom-set")
async def set_(machine: Machine, arguments: Arguments) -> None:
    """Change a property: the disk of a device, the limits of a group."""
    name, value = arguments["property"], arguments["value"]
    plugged = machine.board.find(arguments["path"])
    if plugged is not None:
        await device.set_property(machine, plugged, name, value)
        return
    found = _find(machine, arguments["path"])
    owner = "container" if found is None else found.type
    if name == "type":
        raise CommandError(f"Property '{owner}.type' is not writable")
    if found is None or not isinstance(found.value, block.ThrottleGroup):
        raise CommandError(f"Property '{owner}.{name}' not found")
    group = found.value
    if name != _LIMITS:
        if not name.startswith("x-") or name[2:] not in group.configuration.limits():
            raise CommandError(f"Property '{owner}.{name}' not found")
        raise CommandError("Property cannot be set after initialization")
    described = machine.schema if machine.release.describes_objects else qapi.load_release("6.0")
    limits = described.find_type("ThrottleLimits")
    assert limits is not None
    validate(described, limits, value, release=machine.release.version, name=_LIMITS)
    configuration = group.configuration.copy()
    try:
        configuration.update(value)
        configuration.check()
    except ValueError as error:
        raise CommandError(str(error)) from error
    group.configure(configuration)
