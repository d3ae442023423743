"""Examples of the rules about deprecations, stability and documentation.

They are small schemas about maps: ``add-map`` is the old command, ``map-add`` its successor.
"""

from __future__ import annotations

from nbexport.review.rules.registry import Example

_DEPRECATED = ", 'features': ['deprecated']"


def _doc(name: str, *lines: str) -> str:
    """Return a documentation comment."""
    return (
        "##\n" + "".join(f"# {line}".rstrip() + "\n" for line in (f"@{name}:", "", *lines)) + "##\n"
    )


def command(name: str, data: str, *lines: str, more: str = "") -> str:
    """Return a command, with a comment if there are lines for it."""
    doc = _doc(name, *lines) if lines else ""
    return f"{doc}{{ 'command': '{name}', 'data': {data}{more} }}\n"


def struct(name: str, data: str, *lines: str, more: str = "") -> str:
    """Return a struct."""
    doc = _doc(name, *lines) if lines else ""
    return f"{doc}{{ 'struct': '{name}', 'data': {data}{more} }}\n"


def _replaced(note: str, *, deprecated: bool = True) -> str:
    """Return the old command, deprecated with a note."""
    if not deprecated:
        return command("add-map", "{ 'map': 'str' }", "@map: its name", "", "Since: 5.0")
    lines = ("@map: its name", "", "Features:", f"@deprecated: {note}", "", "Since: 5.0")
    return command("add-map", "{ 'map': 'str' }", *lines, more=_DEPRECATED)


_SUCCESSOR = command("map-add", "{ 'map': 'str' }", "@map: its name", "", "Since: 5.1")
_NEW_SUCCESSOR = _SUCCESSOR.replace("5.1", "5.2")
_LISTS = command("map-add", "{ 'maps': ['str'] }", "@maps: their names", "", "Since: 5.1")

# -- growth -----------------------------------------------------------------------------------

_OLD = command("add-map", "{ 'name': 'str' }", more=_DEPRECATED)
DEPRECATED_ALONE = Example(
    _OLD, command("add-map", "{ 'name': 'str', '*size': 'int' }", more=_DEPRECATED)
)
_ADDRESS = struct("Address", "{ 'host': 'str' }")
_TWO = command("add-map", "{ 'to': 'Address' }", more=_DEPRECATED) + command(
    "map-add", "{ 'to': 'Address' }"
)
DEPRECATED_NESTED = Example(
    _ADDRESS + _TWO, struct("Address", "{ 'host': 'str', '*port': 'int' }") + _TWO
)
_LEAF = (
    "{ 'struct': 'OldOptions', 'base': 'Options', 'data': { '*map': 'str' } }\n"
    "{ 'command': 'add-map', 'data': 'OldOptions', 'boxed': true"
    f"{_DEPRECATED} }}\n"
    "{ 'command': 'map-add', 'data': 'Options', 'boxed': true }\n"
)
_NARROW = struct("Options", "{ 'name': 'str' }") + _LEAF
LEAKING = Example(_NARROW, struct("Options", "{ 'name': 'str', '*maps': ['str'] }") + _LEAF)
SPLIT_BASE = Example(
    _NARROW,
    struct("OptionsBase", "{ 'name': 'str' }")
    + struct("Options", "{ '*maps': ['str'] }", more=", 'base': 'OptionsBase'")
    + _LEAF.replace("'base': 'Options'", "'base': 'OptionsBase'"),
)

# -- announcements ----------------------------------------------------------------------------

REPLACED_BY_NEW = Example(
    _replaced("", deprecated=False), _replaced("use map-add") + _NEW_SUCCESSOR, release="5.2"
)
REPLACED_BY_OLD = Example(
    _replaced("", deprecated=False) + _SUCCESSOR,
    _replaced("use map-add") + _SUCCESSOR,
    release="5.2",
)
_BARE = command("add-map", "{ 'map': 'str' }")
NOTE_MISSING = Example(_BARE, command("add-map", "{ 'map': 'str' }", more=_DEPRECATED))
NOTE_IN_LIST = Example(
    _replaced("", deprecated=False) + _SUCCESSOR,
    _replaced("use map-add") + _SUCCESSOR,
    release="5.2",
    notes="add-map (since 5.2)\n===================\n\nUse map-add.\n",
)
RENAME_UNNOTED = Example(
    _replaced("", deprecated=False) + _LISTS, _replaced("use map-add") + _LISTS, release="5.2"
)
RENAME_NOTED = Example(
    _replaced("", deprecated=False) + _LISTS,
    _replaced("use map-add, with a list of maps for map") + _LISTS,
    release="5.2",
)

# -- removal ----------------------------------------------------------------------------------

_STAYS = "{ 'command': 'go' }\n"
REMOVED_AT_ONCE = Example(_BARE + _STAYS, _STAYS)
REMOVED_LATER = Example(_OLD + _STAYS, _STAYS)
REMOVED_EARLY = Example(
    _OLD + _STAYS, _STAYS, release="6.0", shipped=(("5.1", _BARE + _STAYS), ("5.2", _OLD + _STAYS))
)
REMOVED_IN_TIME = Example(
    _OLD + _STAYS,
    _STAYS,
    release="6.1",
    shipped=(("5.1", _BARE + _STAYS), ("5.2", _OLD + _STAYS), ("6.0", _OLD + _STAYS)),
)

# -- stability --------------------------------------------------------------------------------

_UNSTABLE = ", 'features': ['unstable']"
_FAST = ", 'features': ['fast']"
STABLE_NOW = Example(command("add-map", "{}", more=_UNSTABLE), command("add-map", "{}"))
STABLE_ANYWAY = Example(command("add-map", "{}", more=_FAST), command("add-map", "{}"))
UNSTABLE_NOW = Example(command("add-map", "{}"), command("add-map", "{}", more=_UNSTABLE))
PROMISED = Example(
    command("add-map", "{}", more=_UNSTABLE),
    command("add-map", "{ '*name': 'str' }", more=_UNSTABLE),
)
_SHIPPED = (("5.1", _STAYS), ("5.2", command("map-add", "{ 'map': 'str' }")))
FROZEN_CHANGED = Example(
    command("map-add", "{ 'map': 'str' }"),
    command("map-add", "{ 'map': ['str'] }"),
    release="6.0",
    shipped=_SHIPPED,
)
NOT_FROZEN = Example(
    _SUCCESSOR.replace("5.1", "5.2"),
    _SUCCESSOR.replace("5.1", "5.2").replace("'map': 'str'", "'map': ['str']"),
    release="5.2",
    shipped=_SHIPPED[:1],
)
_MERGE = command("merge-maps", "{ 'maps': ['str'] }")
SCALAR = Example(_MERGE, _MERGE + command("map-add", "{ '*map': 'str' }"))
SCALAR_ALONE = Example(_MERGE, _MERGE + command("map-add", "{ '*name': 'str' }"))
COMPOSED = Example(
    struct("Map", "{ 'name': 'str', '*size': 'int' }") + command("add-map", "'Map'"),
    struct("Named", "{ 'name': 'str' }")
    + struct("MapOptions", "{ '*size': 'int' }", more=", 'base': 'Named'")
    + command("add-map", "'MapOptions'"),
)
RENAMED = Example(
    struct("Map", "{ 'name': 'str' }") + command("add-map", "'Map'"),
    struct("MapOptions", "{ 'name': 'str', '*size': 'int' }") + command("add-map", "'MapOptions'"),
)

# -- documentation ----------------------------------------------------------------------------

_LINES = ("Add a map.", "", "@name: its name", "")


def _documented(*lines: str, data: str = "{ 'name': 'str' }") -> str:
    return command("add-map", data, *_LINES, *lines)


_SINCE = "Since: 5.0"
_SIZED = "{ 'name': 'str', '*size': 'int' }"
PHANTOM = Example(
    _documented(_SINCE), _documented("It is not used together with @maps.", "", _SINCE)
)
NO_PHANTOM = Example(
    _documented(_SINCE), _documented("The length of @name is at most 64.", "", _SINCE)
)
UNDOCUMENTED = Example(_documented(_SINCE), _documented(_SINCE, data=_SIZED), as_of="7.2")
DOCUMENTED = Example(
    _documented(_SINCE),
    _documented("@size: its size (since 7.2)", "", _SINCE, data=_SIZED),
    as_of="7.2",
)
UNDATED = Example(_documented(_SINCE), _documented("@size: its size", "", _SINCE, data=_SIZED))
DATED = Example(
    _documented(_SINCE), _documented("@size: its size (since 5.2)", "", _SINCE, data=_SIZED)
)
MISDATED = Example(
    _documented(_SINCE),
    _documented("@size: its size (since 5.1)", "", _SINCE, data=_SIZED),
    release="5.2",
    shipped=(("5.1", _documented(_SINCE)),),
)
WELL_DATED = Example(
    _documented(_SINCE),
    _documented("@size: its size (since 5.2)", "", _SINCE, data=_SIZED),
    release="5.2",
    shipped=(("5.1", _documented(_SINCE)),),
)
