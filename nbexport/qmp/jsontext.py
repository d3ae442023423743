"""JSON scalars as QEMU reads them, and values as QEMU prints them.

Strings are "modified UTF-8": U+0000 is the two bytes ``C0 80``, and surrogates and Unicode's 66
noncharacters are errors. Output is ASCII.
"""

from __future__ import annotations

import re
from itertools import repeat
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in the stubs
from typing import Any

from nbexport.qapi.order import qdict_order, to_modified_utf8

_INT64_MIN, _INT64_MAX, _UINT64_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
# no integer of 64 bits has more characters than its sign and 20 digits
_MAX_INTEGER_TEXT = 21
_ESCAPES = {
    0x22: '"',
    0x27: "'",
    0x5C: "\\",
    0x2F: "/",
    0x62: "\b",
    0x66: "\f",
    0x6E: "\n",
    0x72: "\r",
    0x74: "\t",
}
_PRINTED = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}
_NONCHARACTER = re.compile(
    "[\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
_NO_CHARACTER = re.compile(_NONCHARACTER.pattern.removesuffix("]") + "\ud800-\udfff]")
# Whole characters and escapes, some 16 Ki: what is looked at once more if there is an error in it.
_PIECE = re.compile(
    rb"(?:[^\\\x80-\xff]|[\x80-\xff]+|\\[^u]"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\u[0-9a-fA-F]{4}){1,16384}",
    re.DOTALL,
)
_QUOTES = re.compile(r"\\.|\"", re.DOTALL)
_QUOTED = {"\\'": "'", '"': '\\"'}
_SMALLEST = (0, 0, 0x80, 0x800, 0x10000, 0x200000, 0x4000000)
_HEX = frozenset(b"0123456789abcdefABCDEF")
_REPLACEMENT = "\ufffd"


def is_character(code: int) -> bool:
    """Return whether a code point may occur in a string."""
    if 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF:
        return False
    return 0 <= code <= 0x10FFFF and code & 0xFFFE != 0xFFFE


def _sequence(data: bytes, start: int) -> tuple[int, int]:
    """Return the code point of the sequence at ``start``, -1 if invalid, and where it ends."""
    first = data[start]
    position = start + 1
    if first < 0x80:
        return first, position
    if first >= 0xFE or first < 0xC0:
        return -1, position
    length = 8 - (first ^ 0xFF).bit_length()
    code = first & (0x7F >> length)
    for _ in range(1, length):
        if position >= len(data) or data[position] & 0xC0 != 0x80:
            return -1, position
        code = code << 6 | data[position] & 0x3F
        position += 1
    overlong = code < _SMALLEST[length] and not (code == 0 and length == 2)
    return (-1 if overlong or not is_character(code) else code), position


def decode_text(data: bytes) -> str:
    """Return bytes as a string, U+FFFD for each sequence that is none."""
    if data.isascii():
        return data.decode("ascii")
    parts: list[str] = []
    position = 0
    while position < len(data):
        code, position = _sequence(data, position)
        parts.append(chr(code) if code >= 0 else _REPLACEMENT)
    return "".join(parts)


def decode_string(token: bytes) -> tuple[str, str | None]:
    """Return the string of a token with its quotes, or an error text.

    Args:
        token: complete and without control characters, as the lexer makes it.
    """
    body = token[1:-1]
    if b"\\" not in body:
        if body.isascii():
            return body.decode("ascii"), None
        return _plain(body)
    parts: list[str] = []
    position = 0
    while position < len(body):
        piece = _PIECE.match(body, position)
        text = None if piece is None else _quickly(piece[0])
        if piece is None or text is None:
            # there is an error in it, or right here
            end = len(body) if piece is None else piece.end()
            text, error = _carefully(body[position:end] + token[-1:])
            if error is not None or piece is None:
                return "".join([*parts, text]) if error is None else "", error
        parts.append(text)
        position = piece.end()
    return "".join(parts), None


def _quickly(data: bytes) -> str | None:
    """Return the text of whole characters and escapes, None if one is not allowed."""
    text, error = _plain(data)
    if error is not None:
        return None
    if "\\" not in text:
        return text
    if "'" in text or '"' in text:
        # as other readers of JSON know them
        text = _QUOTES.sub(lambda found: _QUOTED.get(found[0], found[0]), text)
    try:
        found, _end = scanstring(text + '"', 0, False)  # noqa: FBT003 - it takes no keyword
    except ValueError:
        return None
    return None if _NO_CHARACTER.search(found) else found


def _carefully(token: bytes) -> tuple[str, str | None]:
    """Return the text before the last byte, a quote, or the first error."""
    body = token[:-1]
    parts: list[str] = []
    position = 0
    while True:
        slash = body.find(b"\\", position)
        text, error = _plain(body[position : slash if slash >= 0 else len(body)])
        if error is not None:
            return "", error
        parts.append(text)
        if slash < 0:
            return "".join(parts), None
        kind = body[slash + 1]
        if kind in _ESCAPES:
            parts.append(_ESCAPES[kind])
            position = slash + 2
            continue
        if kind != 0x75:
            return "", "invalid escape sequence in string"
        # the digits are looked for up to the end of the token, its quote included
        code, end = _escaped(token, slash + 2)
        if not is_character(code):
            shown = decode_text(token[slash:end])
            return "", f"{shown} is not a valid Unicode character"
        parts.append(chr(code))
        position = end


def _plain(data: bytes) -> tuple[str, str | None]:
    """Return the text of bytes without escapes, or an error text.

    No byte is zero, so those that stand for U+0000 can be told from all others.
    """
    try:
        text = data.replace(b"\xc0\x80", b"\0").decode("utf-8")
    except UnicodeDecodeError:
        return "", "invalid UTF-8 sequence in string"
    # each noncharacter has one of these in its bytes; looking for them is quick
    if (b"\xbf" in data or b"\xef\xb7" in data) and _NONCHARACTER.search(text):
        return "", "invalid UTF-8 sequence in string"
    return text, None


def _hex4(data: bytes, start: int) -> int:
    digits = data[start : start + 4]
    return int(digits, 16) if len(digits) == 4 and _HEX.issuperset(digits) else -1


def _escaped(token: bytes, start: int) -> tuple[int, int]:
    r"""Return the code point of the digits after ``\u``, -1 for none, and where they end."""
    code = _hex4(token, start)
    end = start + 4
    if 0xD800 <= code <= 0xDBFF and token[end : end + 2] == b"\\u":
        trailing = _hex4(token, end + 2)
        if 0xDC00 <= trailing <= 0xDFFF:
            return 0x10000 + ((code & 0x3FF) << 10 | trailing & 0x3FF), end + 6
        return -1, end
    return code, end


def number(token: bytes) -> int | float:
    """Return a number: an integer if it has that form and fits 64 bits, else a double."""
    if not token.strip(b"-0123456789") and len(token) <= _MAX_INTEGER_TEXT:
        value = int(token)
        if _INT64_MIN <= value <= _UINT64_MAX:
            return value
    return float(token)


def quote(text: str) -> str:
    """Return a string as QEMU prints it: ASCII, upper-case escapes, surrogate pairs."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    if any("\ud800" <= char <= "\udfff" for char in text):
        text = decode_text(to_modified_utf8(text))
    parts = ['"']
    for char in text:
        code = ord(char)
        if char in _PRINTED:
            parts.append(_PRINTED[char])
        elif 0x20 <= code < 0x7F:
            parts.append(char)
        elif not is_character(code):
            parts.append("\\uFFFD")
        elif code > 0xFFFF:
            code -= 0x10000
            parts.append(f"\\u{0xD800 + (code >> 10):04X}\\u{0xDC00 + (code & 0x3FF):04X}")
        else:
            parts.append(f"\\u{code:04X}")
    parts.append('"')
    return "".join(parts)


def _scalar(value: Any) -> str | None:
    """Return a scalar's text, None for a container."""
    if isinstance(value, str):
        return quote(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and _INT64_MIN <= value <= _UINT64_MAX:
        return str(int(value))
    if isinstance(value, int | float):
        return f"{float(value):.17g}"
    if isinstance(value, dict | list | tuple):
        return None
    raise TypeError(f"{type(value).__name__} is no JSON value")


def encode(value: Any, *, pretty: bool = False) -> str:
    """Return a value as QEMU prints it, without the end of line.

    Args:
        value: dict, list, tuple, str, int, float, bool or None, nested as deep as one likes.
        pretty: one member or element a line, indented by 4, lines ended by CR LF.

    Raises:
        TypeError: something in it is no JSON value.
    """
    parts: list[str] = []
    # for each open container: an iterator over what is left, its end, whether it was entered
    stack: list[list[Any]] = []
    pending: list[Any] = [(None, value)]
    while True:
        if pending:
            name, item = pending.pop()
            if name is not None:
                parts.append(quote(name) + ": ")
            text = _scalar(item)
            if text is not None:
                parts.append(text)
            elif isinstance(item, dict):
                parts.append("{")
                members = [(key, item[key]) for key in qdict_order(item)]
                stack.append([iter(members), "}", False])
            else:
                parts.append("[")
                stack.append([zip(repeat(None), item, strict=False), "]", False])
        if not stack:
            return "".join(parts)
        top = stack[-1]
        follow = next(top[0], None)
        if follow is None:
            stack.pop()
            parts.append(_newline(len(stack)) if pretty else "")
            parts.append(top[1])
            continue
        if top[2]:
            parts.append("," if pretty else ", ")
        top[2] = True
        if pretty:
            parts.append(_newline(len(stack)))
        pending.append(follow)


def _newline(depth: int) -> str:
    return "\r\n" + " " * (4 * depth)
