"""The qcow2 format, read-only: header, tables, clusters, persistent bitmaps."""

from __future__ import annotations

from nbexport.block.qcow2.node import FROM_HEADER, Qcow2Node

__all__ = ["FROM_HEADER", "Qcow2Node"]
