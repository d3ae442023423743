"""Byte units, alignment and the printing of sizes."""

from __future__ import annotations

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40

SECTOR_SIZE = 512
"""QEMU's block layer rounds every node's length up to this many bytes."""


def is_power_of_two(value: int) -> bool:
    """Return whether ``value`` is 1, 2, 4, ..."""
    return value > 0 and value & (value - 1) == 0


def align_down(value: int, alignment: int) -> int:
    """Return the largest multiple of ``alignment`` that is not above ``value``."""
    return value - value % alignment


def align_up(value: int, alignment: int) -> int:
    """Return the smallest multiple of ``alignment`` that is not below ``value``."""
    return -(-value // alignment) * alignment


def format_size(size: int) -> str:
    """Return ``size`` bytes in the largest binary unit that divides it well, as ``64 MiB``.

    >>> format_size(65536), format_size(1536), format_size(511)
    ('64 KiB', '1.5 KiB', '511 B')
    """
    for unit, name in ((TiB, "TiB"), (GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} B"
