"""Executable design document and test bench for exporting dirty bitmaps over NBD."""

from __future__ import annotations

__version__ = "0.1.0"
