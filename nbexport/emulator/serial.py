"""Numbers that say what came after what."""

from __future__ import annotations

import itertools

_NUMBERS = itertools.count(1)


def next_serial() -> int:
    """Return a number that is larger than all before."""
    return next(_NUMBERS)
