"""The C library's heap, where it is glibc: elsewhere nothing here does anything.

A server holds large buffers for a short time, in several threads. By itself glibc keeps a heap for
each thread, and keeps what was freed in the middle of one.
"""

from __future__ import annotations

import ctypes

_ARENA_MAX = -8  # mallopt(3)
_libc = ctypes.CDLL(None)


def share() -> None:
    """Let all threads of this program take memory from one heap.

    Threads that make a large map in turn would otherwise hold as many times what one of them
    needs.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Give memory that is free to the system; takes some milliseconds for 100 MiB."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
