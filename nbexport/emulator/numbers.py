"""Numbers as options of a command line spell them: C's notations, and sizes with a suffix.

Every function returns None for what is no such number, or too large a one; nothing may follow it.
What is read is what ``strtoll``, ``strtoull`` and ``strtod`` read, since QEMU's options do.
"""

from __future__ import annotations

import math
import re
from typing import Final

INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1
UINT64_MAX: Final = (1 << 64) - 1

_INTEGER = re.compile(r"[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))\Z")
_DECIMAL = re.compile(r"[ \t\n\v\f\r]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")
_HEX_FLOAT = re.compile(
    r"[ \t\n\v\f\r]*[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?\Z"
)
_SIZE = re.compile(r"([0-9]+)(\.[0-9]*)?([bBkKmMgGtTpPeE]?)\Z")
_HEX_SIZE = re.compile(r"0[xX]([0-9a-fA-F]+)([kKmMgGtTpP]?)\Z")
_SUFFIXES = "BKMGTPE"


def _integer(text: str) -> int | None:
    """Return a whole number in decimal, octal (``0...``) or hexadecimal (``0x...``)."""
    match = _INTEGER.match(text)
    if match is None:
        return None
    sign, hexadecimal, octal, decimal = match.groups()
    if hexadecimal:
        value = int(hexadecimal, 16)
    elif octal:
        value = int(octal, 8)
    else:
        # More digits than any 64-bit number has; int() itself would refuse thousands of them.
        value = int(decimal[:25])
    return -value if sign == "-" else value


def parse_int64(text: str) -> int | None:
    """Return a signed number of 64 bits."""
    value = _integer(text)
    return value if value is not None and INT64_MIN <= value <= INT64_MAX else None


def parse_int32(text: str) -> int | None:
    """Return a signed number of 32 bits."""
    value = _integer(text)
    return value if value is not None and -(1 << 31) <= value < 1 << 31 else None


def parse_uint64(text: str) -> int | None:
    """Return an unsigned number of 64 bits; a negative one wraps around."""
    value = _integer(text)
    if value is None or not -UINT64_MAX <= value <= UINT64_MAX:
        return None
    return value % (1 << 64)


def parse_number(text: str) -> float | None:
    """Return a finite number with a fraction."""
    if _DECIMAL.match(text):
        value = float(text)
    elif _HEX_FLOAT.match(text):
        value = float.fromhex(text.strip())
    else:
        return None
    return value if math.isfinite(value) else None


def parse_size(text: str) -> int | None:
    """Return a number of bytes: ``512``, ``0x200``, ``64k``, ``1.5M``; a bare number is bytes.

    The suffixes B, K, M, G, T, P and E are powers of 1024, in either case.
    """
    match = _HEX_SIZE.match(text)
    if match is not None:
        value = int(match[1], 16) << 10 * _shift(match[2])
    else:
        match = _SIZE.match(text)
        if match is None:
            return None
        whole, fraction, suffix = match.groups()
        shift = 10 * _shift(suffix)
        value = int(whole[:25]) << shift
        if fraction is not None and float(f"0{fraction}0"):
            if not shift:
                return None  # there is no part of a byte
            value += int(float(f"0{fraction}0") * (1 << shift) + 0.5)
    return value if value <= UINT64_MAX else None


def _shift(suffix: str) -> int:
    return _SUFFIXES.index(suffix.upper()) if suffix else 0
