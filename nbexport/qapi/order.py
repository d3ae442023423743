"""The orders in which QEMU meets the members of a JSON object.

QEMU keeps an object in a ``QDict``: 512 buckets chosen by a hash of the member's name, newest
first in each bucket. It prints objects, and checks a request's envelope, in bucket order. The
input visitor keeps the names that it has not met yet in a ``GHashTable`` and complains about the
first one left in slot order. Both orders are visible to clients, so both are reproduced here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

QDICT_BUCKETS = 512
GLIB_MIN_SHIFT = 3
# The modulus for a table of 2**i slots is the largest prime below it (tables below 8 slots are
# never used); 2**21 slots hold more names than a message of 2**21 tokens can have.
GLIB_MODULI = (
    1, 2, 3, 7, 13, 31, 61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071,
    262139, 524287, 1048573, 2097143, 4194301,
)  # fmt: skip
_MASK32 = 0xFFFF_FFFF


def to_modified_utf8(text: str) -> bytes:
    r"""Return the bytes that QEMU holds for a string: UTF-8, with U+0000 as ``C0 80``.

    Bytes of file names that are no UTF-8, kept by Python as lone surrogates, come out unchanged.
    """
    data = text.encode("utf-8", "surrogateescape" if _escaped(text) else "surrogatepass")
    return data.replace(b"\0", b"\xc0\x80")


def _escaped(text: str) -> bool:
    """Return whether all lone surrogates of a string stand for undecodable bytes."""
    return all("\udc80" <= char <= "\udcff" for char in text if "\ud800" <= char <= "\udfff")


@lru_cache(maxsize=4096)
def qdict_bucket(name: str) -> int:
    """Return the bucket, 0 to 511, of a member name (the hash of the "trivial database")."""
    data = to_modified_utf8(name)
    value = 0x238F13AF * len(data)
    for index, byte in enumerate(data):
        value += byte << (index * 5 % 24)
    return (1103515243 * value + 12345 & _MASK32) % QDICT_BUCKETS


def qdict_order(mapping: Mapping[str, Any]) -> list[str]:
    """Return the member names of an object in the order in which QEMU walks it.

    Args:
        mapping: the object, its members in the order in which they were put.
    """
    if len(mapping) < 2:
        return list(mapping)
    # sorting is stable, so the newest of a bucket stays first
    newest_first = list(mapping)[::-1]
    return sorted(newest_first, key=qdict_bucket)


def _glib_hash(name: str) -> int:
    """Return GLib's string hash (Bernstein's, over signed characters)."""
    value = 5381
    for byte in to_modified_utf8(name):
        value = value * 33 + (byte - 256 if byte >= 128 else byte) & _MASK32
    # 0 and 1 mark unused and deleted slots
    return max(value, 2)


class GlibNames:
    """A set of names with the slot order of GLib's hash table (2.40 to 2.80 behave alike).

    Open addressing, triangular probing, deleted slots kept as tombstones until the next resize.

    Args:
        names: the names in the order in which they are inserted; each at most once.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._shift = GLIB_MIN_SHIFT
        self._slots: list[tuple[int, str] | None] = [None] * (1 << self._shift)
        self._dead: set[int] = set()
        self._count = 0
        for name in names:
            self.add(name)

    def __len__(self) -> int:
        return self._count

    def _find(self, name: str, hashed: int) -> tuple[int, bool]:
        """Return the slot that holds the name, or the one to put it, and whether it is there."""
        mask = len(self._slots) - 1
        index = hashed * 11 % (_MASK32 + 1) % GLIB_MODULI[self._shift]
        step = 0
        tombstone = -1
        while True:
            slot = self._slots[index]
            if slot is not None:
                if slot == (hashed, name):
                    return index, True
            elif index in self._dead:
                tombstone = index if tombstone < 0 else tombstone
            else:
                return (index if tombstone < 0 else tombstone), False
            step += 1
            index = index + step & mask

    def add(self, name: str) -> None:
        """Insert a name that is not in the set."""
        hashed = _glib_hash(name)
        index, found = self._find(name, hashed)
        if found:
            return
        self._slots[index] = (hashed, name)
        self._dead.discard(index)
        self._count += 1
        self._maybe_resize()

    def discard(self, name: str) -> None:
        """Remove a name if it is in the set."""
        index, found = self._find(name, _glib_hash(name))
        if not found:
            return
        self._slots[index] = None
        self._dead.add(index)
        self._count -= 1
        self._maybe_resize()

    def first(self) -> str:
        """Return the name in the lowest slot; the set must not be empty."""
        return next(slot[1] for slot in self._slots if slot is not None)

    def _maybe_resize(self) -> None:
        size = len(self._slots)
        occupied = self._count + len(self._dead)
        too_big = size > self._count * 4 and size > 1 << GLIB_MIN_SHIFT
        if too_big or size <= occupied + occupied // 16:
            self._resize()

    def _resize(self) -> None:
        """Move every name to its slot of a table of the fitting size, in GLib's eviction order."""
        old = len(self._slots)
        # GLib computes count * 1.333 in floating point and takes the next power of two above
        self._shift = max(int(self._count * 1.333).bit_length(), GLIB_MIN_SHIFT)
        size = 1 << self._shift
        self._slots.extend([None] * (size - old))
        self._dead.clear()
        placed: set[int] = set()
        for start in range(old):
            moving = self._slots[start]
            if moving is None or start in placed:
                continue
            self._slots[start] = None
            while moving is not None:
                index = moving[0] * 11 % (_MASK32 + 1) % GLIB_MODULI[self._shift]
                step = 0
                while index in placed:
                    step += 1
                    index = index + step & size - 1
                placed.add(index)
                self._slots[index], moving = moving, self._slots[index]
        del self._slots[size:]
