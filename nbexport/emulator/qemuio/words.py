"""The language of ``qemu-io``: words, switches, numbers, and how results are printed.

Source: qemu-io(1); what it answers was compared with that of QEMU 7.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nbexport.emulator.numbers import INT64_MAX, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SIZE_LIKE: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?[bBkKmMgGtTpPeE]?\Z|0[xX][0-9a-fA-F]+\Z")
_PATTERN: Final = re.compile(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|[0-9]+)\Z")
_BYTE_MAX: Final = 255
_DUMPED: Final = 16


class RefusedError(Exception):
    """A command cannot be understood; its text is what is printed, empty for the usage."""


@dataclass
class Line:
    """A command, taken apart.

    Attributes:
        switches: letters, and their values where they have some.
        operands: what stands for itself.
    """

    switches: dict[str, str]
    operands: list[str]


def split(words: Sequence[str], letters: str, complain: Callable[[str], object]) -> Line:
    """Take a command apart as getopt does, switches and operands in any order.

    Args:
        words: the command's name, and what follows.
        letters: the switches; those with a value have a colon behind.
        complain: told of a switch that there is not.

    Raises:
        RefusedError: there is no such switch, or its value is missing.
    """
    line = Line({}, [])
    left = list(words[1:])
    while left:
        word = left.pop(0)
        if word == "--":
            line.operands += left
            break
        if not word.startswith("-") or word == "-":
            line.operands.append(word)
            continue
        rest = word[1:]
        while rest:
            letter, rest = rest[0], rest[1:]
            at = letters.find(letter)
            if at < 0 or letter == ":":
                complain(f"{words[0]}: invalid option -- '{letter}'\n")
                raise RefusedError
            if letters[at + 1 : at + 2] != ":":
                line.switches[letter] = ""
                continue
            if not rest and not left:
                complain(f"{words[0]}: option requires an argument -- '{letter}'\n")
                raise RefusedError
            line.switches[letter] = rest or left.pop(0)
            break
    return line


def number(text: str) -> int:
    """Return a number of bytes.

    Raises:
        RefusedError: it is none, or too large.
    """
    value = parse_size(text)
    if value is not None and value <= INT64_MAX:
        return value
    if value is not None or _SIZE_LIKE.match(text):
        raise RefusedError(f"Parsing error: argument too large -- {text}\n")
    raise RefusedError(
        f"Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {text}\n"
    )


def pattern(text: str) -> int:
    """Return the byte that a buffer is filled with.

    Raises:
        RefusedError: it is none.
    """
    match = _PATTERN.match(text)
    value = -1
    if match is not None:
        digits = match[2]
        base = 16 if digits[:2].lower() == "0x" else 8 if digits.startswith("0") else 10
        try:
            value = int(digits, base) * (-1 if match[1] == "-" else 1)
        except ValueError:
            value = -1
    if not 0 <= value <= _BYTE_MAX:
        raise RefusedError(f"{text} is not a valid pattern byte\n")
    return value


def shown(value: float) -> str:
    """Return a number of bytes, or of bytes a second, in the largest unit that fits."""
    name, text = "bytes", f"{value:f}"
    for power, unit in reversed(list(enumerate(_UNITS, 1))):
        if value >= 1 << 10 * power:
            name, text = unit, f"{value / (1 << 10 * power):.3f}"
            break
    whole, point, fraction = text.partition(".")
    if point and fraction.startswith("000"):
        text = whole
    return f"{text} {name}"


def report(what: str, seconds: float, offset: int, length: int, *, parsable: bool = False) -> str:
    """Return what is printed of a request that is done.

    Args:
        what: ``read``, ``wrote`` or ``discard``.
        seconds: how long it took.
        offset: where it began.
        length: how many bytes.
        parsable: whether a program shall read it.
    """
    seconds = max(seconds, 1e-9)
    if parsable:
        whole = int(seconds)
        time = f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60 + seconds - whole:05.2f}"
        return f"{length},1,{time},{length / seconds:.3f},{1 / seconds:.3f}\n"
    time = f"{seconds:05.2f} sec"
    if seconds >= 1:
        whole = int(seconds)
        time = f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60 + seconds - whole:05.2f}"
    return (
        f"{what} {length}/{length} bytes at offset {offset}\n"
        f"{shown(length)}, 1 ops; {time} ({shown(length / seconds)}/sec and "
        f"{1 / seconds:.4f} ops/sec)\n"
    )


def dump(data: bytes, offset: int) -> str:
    """Return bytes as a table: sixteen a line, then those that are letters or digits."""
    lines = []
    for start in range(0, len(data), _DUMPED):
        piece = data[start : start + _DUMPED]
        digits = "".join(f"{byte:02x} " for byte in piece)
        letters = "".join(
            chr(byte) if byte < 128 and chr(byte).isalnum() else "." for byte in piece
        )
        lines.append(f"{offset + start:08x}:  {digits} {letters}\n")
    return "".join(lines)
