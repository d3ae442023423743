"""The sizes of caches that options ask of a qcow2 node: they change nothing, but they are checked.

Source: qcow2's options in ``qapi/block-core.json``; the texts are those of QEMU 7.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nbexport.errors import CommandError
from nbexport.units import is_power_of_two

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENTRY_MIN: Final = 512


def check(options: Mapping[str, Any], cluster_size: int) -> None:
    """Check what the options of a node say of its caches.

    Args:
        options: of ``blockdev-add`` or ``blockdev-reopen``.
        cluster_size: of the image.

    Raises:
        CommandError: it makes no sense.
    """
    total = options.get("cache-size")
    tables, counts = options.get("l2-cache-size"), options.get("refcount-cache-size")
    if total is not None:
        if tables is not None and counts is not None:
            raise CommandError(
                "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
            )
        for name, size in (("l2-cache-size", tables), ("refcount-cache-size", counts)):
            if size is not None and size > total:
                raise CommandError(f"{name} may not exceed cache-size")
    entry = options.get("l2-cache-entry-size", cluster_size)
    if not (_ENTRY_MIN <= entry <= cluster_size and is_power_of_two(entry)):
        raise CommandError(
            f"L2 cache entry size must be a power of two between {_ENTRY_MIN} and the cluster "
            f"size ({cluster_size})"
        )
