"""Options as a command line gives them: ``key=value`` pairs with dotted keys, or a JSON object.

The text ``driver=qcow2,file.driver=file,file.filename=a,,b`` is the object
``{"driver": "qcow2", "file": {"driver": "file", "filename": "a,b"}}``: a key is a path, a part of
it that is a number is the index of an array, and a comma in a value is written twice. All values
are strings; the schema says what they are to become. Words and order of errors are QEMU's,
compared with qemu-storage-daemon 7.2.

Source: QEMU's ``docs/interop/qemu-storage-daemon-qmp-ref`` for the types, and the comments on
command line syntax in its manual pages.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from nbexport.emulator.numbers import parse_int64, parse_number, parse_size, parse_uint64
from nbexport.errors import CommandError
from nbexport.qapi.validate import NEWEST, Visitor
from nbexport.qmp import jsonstream

if TYPE_CHECKING:
    from nbexport.qapi.model import Type
    from nbexport.qapi.schema import Schema

KEY_PART_MAX: Final = 127
"""Bytes of one part of a key."""

_INDEX = re.compile(r"[0-9]+")
_INDEX_MAX = (1 << 31) - 1
# A name of QAPI's: maybe a vendor's prefix, then a letter and what may follow it.
_NAME = re.compile(r"(?:__[A-Za-z0-9.-]*_)?[A-Za-z][A-Za-z0-9_-]*")
_BEFORE_VALUE = re.compile(r"[^=,]*")
_HELP = frozenset({"help", "?"})

_TRUE = frozenset({"on", "yes", "true", "y"})
_FALSE = frozenset({"off", "no", "false", "n"})
_INTEGERS = frozenset({"int", "int8", "int16", "int32", "int64"})

Tree = dict[str, Any]


class HelpWanted(Exception):  # noqa: N818 - it is a wish, not an error
    """A ``help`` or ``?`` stands among the options.

    Args:
        options: what else was given.
    """

    def __init__(self, options: Tree) -> None:
        super().__init__("help")
        self.options = options


def parse(text: str, implied_key: str | None = None, *, helps: bool = False) -> Tree:
    """Return the object that a text of ``key=value`` pairs describes; its leaves are strings.

    Args:
        text: the pairs, separated by commas.
        implied_key: the key of a first value that stands alone.
        helps: whether there is help.

    Raises:
        CommandError: the text is wrong.
        HelpWanted: help was asked for, and there is some.
    """
    pairs = _Pairs(text)
    while pairs.read(implied_key):
        implied_key = None
    if pairs.asks_help and not helps:
        raise CommandError("Help is not available for this option")
    options = _with_arrays(pairs.tree, "")
    assert isinstance(options, dict)
    if pairs.asks_help:
        raise HelpWanted(options)
    return options


class _Pairs:
    """Reads pairs, one by one, into a tree whose arrays are still objects."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self.tree: Tree = {}
        self.asks_help = False

    def read(self, implied_key: str | None) -> bool:
        """Read a pair; return whether there was one."""
        text, start = self._text, self._position
        if start >= len(text):
            return False
        match = _BEFORE_VALUE.match(text, start)
        assert match is not None
        key, end = match[0], match.end()
        alone = text[end : end + 1] != "="
        if key and alone and key in _HELP:
            self.asks_help = True
            self._position = end + 1
            return True
        if key and alone and implied_key is not None:
            _put(self.tree, implied_key, key, implied_key)
            self._position = end + 1
            return True
        branch, part = self._place(key)
        if alone:
            raise CommandError(f"Expected '=' after parameter '{key}'")
        _put(branch, part, self._value(end + 1), key)
        return True

    def _place(self, key: str) -> tuple[Tree, str]:
        """Return the object that the last part of a key is in, and that part."""
        here = self.tree
        start, part = _next_part(key, 0)
        while start <= len(key):
            end, below = _next_part(key, start)
            inner = here.setdefault(part, {})
            if not isinstance(inner, dict):
                raise CommandError(f"Parameters '{key[: start - 1]}.*' used inconsistently")
            here, start, part = inner, end, below
        return here, part

    def _value(self, start: int) -> str:
        """Return the value that starts there, and go to the next pair."""
        text = self._text
        pieces = []
        while True:
            comma = text.find(",", start)
            if comma < 0:
                pieces.append(text[start:])
                self._position = len(text)
                break
            if text[comma + 1 : comma + 2] != ",":
                pieces.append(text[start:comma])
                self._position = comma + 1
                break
            pieces.append(text[start : comma + 1])
            start = comma + 2
        return "".join(pieces)


def _put(branch: Tree, part: str, value: str, key: str) -> None:
    if isinstance(branch.get(part, ""), dict):
        raise CommandError(f"Parameters '{key}.*' used inconsistently")
    branch[part] = value


def _next_part(key: str, start: int) -> tuple[int, str]:
    """Return where the part of a key after the one at ``start`` begins, and this one.

    A part is a name or, unless it is the first, a number.
    """
    match = _INDEX.match(key, start) if start else None
    match = match or _NAME.match(key, start)
    end = match.end() if match is not None else start
    if match is None or (end < len(key) and key[end] != "."):
        raise CommandError(f"Invalid parameter '{key}'")
    part = match[0]
    if len(part) > KEY_PART_MAX:
        kind = "Parameter" if part == key else "Parameter fragment"
        raise CommandError(f"{kind} '{part}' is too long")
    return end + 1, part


def _with_arrays(tree: Tree, path: str) -> Tree | list[Any]:
    """Return a tree with its arrays; ``path`` ends in a dot, unless it is empty."""
    for key, value in tree.items():
        if isinstance(value, dict):
            tree[key] = _with_arrays(value, f"{path}{key}.")
    numbers = [key for key in tree if _INDEX.fullmatch(key)]
    if not numbers:
        return tree
    if len(numbers) < len(tree):
        raise CommandError(f"Parameters '{path}*' used inconsistently")
    elements = {min(int(key), _INDEX_MAX): value for key, value in tree.items()}
    for index in range(min(len(tree), max(elements) + 1)):
        if index not in elements:
            raise CommandError(f"Parameter '{path}{index}' missing")
    return [elements[index] for index in range(len(elements))]


# values


def read(
    schema: Schema,
    kind: Type,
    text: str,
    implied_key: str | None = None,
    *,
    helps: bool = False,
    release: tuple[int, ...] = NEWEST,
) -> Any:
    """Return the value of a type that an option describes: JSON if it begins with a brace.

    Args:
        schema: the schema.
        kind: the type, an object.
        text: ``{"key": value}`` or ``key=value,...``.
        implied_key: the key of a first value that stands alone.
        helps: whether there is help.
        release: the release whose error texts are wanted.

    Raises:
        CommandError: the text is wrong, or it does not fit the type.
        HelpWanted: help was asked for, and there is some.
    """
    if text.startswith("{"):
        value = jsonstream.parse(text)
        Visitor(schema, release).run(kind, value)
        return value
    return convert(schema, kind, parse(text, implied_key, helps=helps), release=release)


def convert(schema: Schema, kind: Type, tree: Any, *, release: tuple[int, ...] = NEWEST) -> Any:
    """Return a tree with each string as the type wants it.

    Args:
        schema: the schema.
        kind: the type.
        tree: as `parse` returns it.
        release: the release whose error texts are wanted.

    Raises:
        CommandError: the tree does not fit the type.
    """
    visitor = _Converter(schema, release)
    visitor.run(kind, tree)
    return _replaced(tree, visitor.converted, ())


Path = tuple[str | int, ...]


def _replaced(value: Any, converted: dict[Path, Any], path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(each, converted, (*path, key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, converted, (*path, i)) for i, each in enumerate(value)]
    return converted.get(path, value)


class _Converter(Visitor):
    """A walk over strings, which notes what they are to become.

    Attributes:
        converted: by path, what is not to stay a string.
    """

    def __init__(self, schema: Schema, release: tuple[int, ...]) -> None:
        super().__init__(schema, release)
        self.converted: dict[Path, Any] = {}

    def path(self, name: str | None) -> str:
        parts = [*self._path, name]
        return ".".join(str(part) for part in parts if part is not None)

    def _builtin(self, type_name: str, value: Any, name: str | None) -> None:
        if type_name in {"any", "null"}:
            super()._builtin(type_name, value, name)
            return
        path = self.path(name)
        if not isinstance(value, str):
            self.fault("wrong-type", name, f"Parameters '{path}.*' are unexpected")
            return
        if type_name == "str":
            return
        expected = "integer"
        found: bool | int | float | None
        if type_name == "bool":
            found = True if value in _TRUE else False if value in _FALSE else None
            expected = "'on' or 'off'"
        elif type_name == "number":
            found, expected = parse_number(value), "number"
        elif type_name == "size":
            found, expected = parse_size(value), "size"
        elif type_name in _INTEGERS:
            found = parse_int64(value)
        else:
            found = parse_uint64(value)
        if found is None:
            self.fault("wrong-type", name, f"Parameter '{path}' expects {expected}")
            return
        if expected == "integer":
            super()._builtin(type_name, found, name)  # it may be too large for the type
        self.converted[tuple(part for part in (*self._path, name) if part is not None)] = found

    def _enum(self, kind: Any, value: Any, name: str | None) -> None:
        if isinstance(value, str):
            super()._enum(kind, value, name)
        else:
            self.fault("wrong-type", name, f"Parameters '{self.path(name)}.*' are unexpected")
