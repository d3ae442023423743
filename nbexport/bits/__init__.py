"""Bitmaps and extents: the two values that every other room exchanges. Pure numpy, no I/O."""

from __future__ import annotations

from nbexport.bits.bitmap import Bitmap
from nbexport.bits.extents import Extents

__all__ = ["Bitmap", "Extents"]
