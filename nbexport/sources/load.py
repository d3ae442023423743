"""One loader for every kind of source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbexport.errors import PeerError, SourceError, UsageError
from nbexport.qapi import interface_of, load_release, load_schema, parse_release
from nbexport.qapi.from_introspection import from_introspection
from nbexport.qapi.parser import read_file
from nbexport.qapi.rules import OLDEST
from nbexport.qmp import QmpClient, QmpCommandError
from nbexport.sources.git import Revision, split_address
from nbexport.sources.replies import MAX_SIZE, find_introspection, looks_like_json, release_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from nbexport.qapi import Schema

# The root of QEMU's schema in its tree, newest place first, then that of a schema by itself.
ROOTS = ("qapi/qapi-schema.json", "qapi-schema.json", "schema.json")
FOLDER_ROOTS = ("schema.json", "qapi-schema.json", "qapi/qapi-schema.json")
# A monitor that is busy with a disk may take seconds; one that hangs shall not be waited for.
MONITOR_TIME_LIMIT = 30.0
_PORT_MAX = 65535
# The file of QEMU's tree that names the release; from this third number on it is the next one.
VERSION = "VERSION"
VERSION_MAX = 32
_CANDIDATES = 50
_ERRNO = re.compile(r"\[Errno -?\d+\] ")
_HOST_PORT = re.compile(r"(.*):(\d{1,5})")

FILE, GIT, MONITOR, RELEASE, INTROSPECTION = "file", "git", "monitor", "release", "introspection"


@dataclass(frozen=True, slots=True)
class LoadedSchema:
    """A schema and where it came from.

    Attributes:
        schema: the schema.
        name: how to call it in a text: the source, shortened where it is long.
        kind: ``file``, ``git``, ``monitor``, ``release`` or ``introspection``.
        release: the release that it is the interface of, None where nothing tells.
    """

    schema: Schema
    name: str
    kind: str
    release: tuple[int, ...] | None = None

    @property
    def introspected(self) -> bool:
        """Whether it came from introspection: invented type names, no docs, no conditions."""
        return self.kind in (MONITOR, INTROSPECTION)


def load(
    source: str,
    *,
    defines: Collection[str] | None = None,
    as_of: tuple[int, ...] | None = None,
) -> LoadedSchema:
    """Load a schema from anywhere.

    Args:
        source: one of

            - a schema file, or a folder with a ``schema.json``, ``qapi-schema.json`` or
              ``qapi/qapi-schema.json``;
            - a JSON file with an answer to ``query-qmp-schema``: the list, one reply, or a
              recording of a monitor's replies;
            - ``git:REPO@REV`` or ``git:REPO@REV:path``: read from the revision, no checkout;
            - ``qmp:PATH`` or ``qmp:HOST:PORT``: a running monitor is asked;
            - ``release:5.2``: the interface that travels with this package.

            A file whose name looks like one of these is written with ``./`` before it.
        defines: configuration symbols of the build; None defines all that occur. What comes from
            introspection has its conditions resolved and takes none.
        as_of: the release, as numbers, by whose rules schema text is read. None for the one that
            QEMU's ``VERSION`` file names where the schema lies in QEMU's tree, else for the newest
            rules. Only text has rules.

    Raises:
        QapiError: the schema text or the introspection is wrong.
        SourceError: it cannot be had: no such file, repository, revision, monitor.
        UsageError: an option that this kind of source does not take, or an unknown release.
        PeerError: the monitor does not answer as one.
    """
    scheme, colon, rest = source.partition(":")
    if colon and scheme == "git":
        return _git(source, rest, defines, as_of)
    if colon and scheme == "qmp":
        _no_text(source, defines, as_of)
        return _monitor(source, rest)
    if colon and scheme == "release":
        if as_of is not None:
            raise UsageError(f"{source}: the package's data is written by the newest rules")
        return _release(source, rest, defines)
    return _path(source, defines, as_of)


def _no_text(source: str, defines: Collection[str] | None, as_of: tuple[int, ...] | None) -> None:
    """Refuse options of the language for a source that is no text."""
    if defines is not None:
        raise UsageError(f"{source}: an introspection has no conditions, symbols do not apply")
    if as_of is not None:
        raise UsageError(f"{source}: an introspection is no text, no release's rules apply")


def release_of_tree(version: str) -> tuple[int, ...] | None:
    """Return the release that a ``VERSION`` file of QEMU's tree speaks of, None for other text.

    ``7.2.3`` is 7.2.3; ``7.1.92`` is a candidate for 7.2, and ``7.2.50`` on the way to 8.0.
    """
    try:
        release = parse_release(version.strip())
    except UsageError:
        return None
    if release[2:] < (_CANDIDATES,):
        return release if release >= OLDEST else None
    major, minor = release[:2]
    last = {2: 12, 3: 1}.get(major, 2)
    return (major + 1, 0) if minor >= last else (major, minor + 1)


def _load_text(
    root: str,
    read: Callable[[str], str],
    defines: Collection[str] | None,
    as_of: tuple[int, ...] | None,
) -> Schema:
    symbols = None if defines is None else frozenset(defines)
    return load_schema(root, read=read, symbols=symbols, as_of=as_of)


def _release(source: str, text: str, defines: Collection[str] | None) -> LoadedSchema:
    release = parse_release(text)
    schema = load_release(text, symbols=None if defines is None else frozenset(defines))
    known = interface_of(text)
    name = source if known == text else f"{source} (interface of {known})"
    return LoadedSchema(schema, name, RELEASE, release)


def _path(
    source: str, defines: Collection[str] | None, as_of: tuple[int, ...] | None
) -> LoadedSchema:
    path = Path(source)
    if path.is_dir():
        found = [name for name in FOLDER_ROOTS if (path / name).is_file()]
        if not found:
            raise SourceError(f"{source}: no {' or '.join(FOLDER_ROOTS)} in this folder")
        path = path / found[0]
    elif not path.exists():
        raise SourceError(f"{source}: no such file or folder")
    elif not path.is_file():
        raise SourceError(f"{source}: neither a file nor a folder")
    with path.open("rb") as file:
        data = file.read(MAX_SIZE + 1)
    if not looks_like_json(data[:4096].decode("utf-8", "replace")):
        release = as_of or _release_beside(path)
        schema = _load_text(str(path), read_file, defines, release)
        return LoadedSchema(schema, source, FILE, release)
    _no_text(source, defines, as_of)
    if len(data) > MAX_SIZE:
        raise SourceError(f"{source}: larger than {MAX_SIZE} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{source}: not JSON: byte {error.start} is no UTF-8") from error
    entries, release = find_introspection(text, source)
    schema = from_introspection(entries, name=source)
    return LoadedSchema(schema, source, INTROSPECTION, release)


def _release_beside(path: Path) -> tuple[int, ...] | None:
    """Return the release whose tree a schema file lies in, None if nothing tells."""
    for folder in (path.parent, path.parent.parent):
        try:
            with (folder / VERSION).open("rb") as file:
                text = file.read(VERSION_MAX).decode("ascii", "replace")
        except OSError:
            continue
        return release_of_tree(text)
    return None


def _git(
    source: str,
    address: str,
    defines: Collection[str] | None,
    as_of: tuple[int, ...] | None,
) -> LoadedSchema:
    repository, rev, path = split_address(address)
    revision = Revision(repository, rev)
    if path is None:
        path = next((name for name in ROOTS if revision.has_file(name)), None)
        if path is None:
            raise SourceError(f"{source}: no {' or '.join(ROOTS)} in revision {rev}")
    elif not revision.has_file(path):
        raise SourceError(f"{source}: no file '{path}' in revision {rev}")
    # Files are called REV:path, as git calls them; the slash keeps an include beside its includer.
    prefix = f"{rev}:"
    root = prefix + (path if "/" in path else f"./{path}")

    def read(name: str) -> str:
        if not name.startswith(prefix):
            raise OSError("it lies outside of the revision")
        return revision.read(name.removeprefix(prefix))

    if as_of is None and revision.has_file(VERSION):
        as_of = release_of_tree(revision.read(VERSION)[:VERSION_MAX])
    return LoadedSchema(_load_text(root, read, defines, as_of), source, GIT, as_of)


def _monitor(source: str, address: str) -> LoadedSchema:
    try:
        with QmpClient(_monitor_address(source, address), timeout=MONITOR_TIME_LIMIT) as client:
            release = release_of(client.greeting)
            entries = client.execute("query-qmp-schema")
    except QmpCommandError as error:
        if error.error_class == "CommandNotFound":
            raise SourceError(f"{source}: this monitor has no query-qmp-schema") from error
        raise SourceError(f"{source}: query-qmp-schema failed: {error.desc}") from error
    except PeerError as error:
        raise SourceError(f"qmp:{_ERRNO.sub('', str(error))}") from error
    return LoadedSchema(from_introspection(entries, name=source), source, MONITOR, release)


def _monitor_address(source: str, address: str) -> str | tuple[str, int]:
    """Return a path, or host and port; what has a slash or exists is a path."""
    if not address:
        raise SourceError(f"{source}: expected qmp:PATH or qmp:HOST:PORT")
    if "/" in address or Path(address).exists():
        return address
    match = _HOST_PORT.fullmatch(address)
    if match is None:
        return address
    port = int(match[2])
    if not 0 < port <= _PORT_MAX:
        raise SourceError(f"{source}: no port {port}")
    return match[1].removeprefix("[").removesuffix("]") or "127.0.0.1", port
