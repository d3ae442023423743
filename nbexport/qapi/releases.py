"""The interfaces that travel with the package: one folder of QAPI files for each release."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.qapi.schema import Schema, load_schema, parse_release
from nbexport.resources import data_path

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

ROOT = "schema.json"


def known_releases() -> list[str]:
    """Return the releases that have an interface of their own, oldest first."""
    folder = data_path("interface")
    names = [entry.name for entry in folder.iterdir() if (entry / ROOT).is_file()]
    return sorted(names, key=parse_release)


def interface_of(release: str) -> str:
    """Return the newest known interface that is not newer than a release.

    ``7.2.22`` has that of ``7.2``, and so has every later one until the next that is known.

    Raises:
        UsageError: the text is no release, or all known interfaces are newer.
    """
    wanted = parse_release(release)
    known = known_releases()
    fitting = [name for name in known if parse_release(name) <= wanted]
    if not fitting:
        raise UsageError(f"no interface of release {release}: known are {', '.join(known)}")
    return fitting[-1]


def load_release(release: str, *, symbols: AbstractSet[str] | None = None) -> Schema:
    """Return the schema of the NBD export interface in a release.

    Args:
        release: ``7.2``, ``7.2.22``, ``5.2``, ...
        symbols: configuration symbols of the build; None defines all, as distributions do.

    Raises:
        UsageError: there is no interface for that release; the text lists those there are.
    """
    schema = _load(interface_of(release))
    if symbols is None:
        return schema
    return load_schema(schema.root, symbols=symbols)


# One entry for each folder, so that a look through all releases reads each once: they are 32 now.
@lru_cache(maxsize=64)
def _load(name: str) -> Schema:
    return load_schema(str(data_path("interface", name, ROOT)))
