"""``--object``: objects that a command line makes, and the help about their types."""

from __future__ import annotations

import sys
from typing import Any

from nbexport import qapi
from nbexport.cli.dropin.stop import StopError
from nbexport.emulator import keyval
from nbexport.emulator.objects import TYPES, Objects
from nbexport.emulator.release import Release
from nbexport.errors import CommandError
from nbexport.qapi.model import ArrayType, BuiltinType, ObjectType

_IDENTIFIERS = "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."
_NAMES = {"str": "string"}


def make_object(text: str, objects: Objects | None, release: str) -> Objects:
    """Make the object that an option describes.

    Args:
        text: ``type,id=ID,name=value,...`` or JSON.
        objects: those that there are, None if there are none yet.
        release: whose schema and words are wanted.

    Returns:
        All objects.

    Raises:
        StopError: it is wrong, or cannot be made.
        SystemExit: help was asked for, and has been printed.
    """
    emulated = Release.parse(release)
    schema = qapi.load_release(release)
    kind = schema.find_type("ObjectOptions")
    assert isinstance(kind, ObjectType)
    objects = Objects(emulated) if objects is None else objects
    try:
        given: dict[str, Any] = keyval.read(
            schema, kind, text, "qom-type", helps=True, release=emulated.version
        )
        name, identifier = given.pop("qom-type"), given.pop("id")
        if name not in TYPES:
            raise StopError(f"Objects of type '{name}' are not supported")
        objects.add(name, identifier, given)
    except keyval.HelpWanted as wanted:
        sys.stdout.write(_help(kind, wanted.options.get("qom-type")))
        sys.exit(0)
    except CommandError as error:
        hint = _IDENTIFIERS if str(error) == "Parameter 'id' expects an identifier" else ""
        raise StopError(str(error), hint) from error
    return objects


def _help(options: ObjectType, name: str | None) -> str:
    """Return the help about all types, or about one."""
    known = sorted(name for name, kind in TYPES.items() if not kind.abstract)
    if name is None:
        return "".join(["List of user creatable objects:\n", *(f"  {each}\n" for each in known)])
    branch = options.branch(name)
    if branch is None or name not in known:
        raise StopError(f"Parameter 'qom-type' does not accept value '{name}'")
    lines = [f"{name} options:"]
    members = {member.name: member for member in _members(branch)}
    for member in sorted(members):
        shown = members[member].type
        if isinstance(shown, BuiltinType):
            word = _NAMES.get(shown.name, shown.name)
        elif isinstance(shown, ArrayType):
            word = f"{getattr(shown.element, 'name', 'any')}List"
        else:
            word = shown.name
        lines.append(f"  {member}=<{word}>")
    return "\n".join(lines) + "\n"


def _members(branch: ObjectType) -> list[Any]:
    return [member for member in branch.members if not member.features]  # deprecated ones have some
