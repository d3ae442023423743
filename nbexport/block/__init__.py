"""Disks: files and raw and qcow2 images, read-only, with their maps and persistent bitmaps."""

from __future__ import annotations

from nbexport.block.file import FileNode, HostDeviceNode
from nbexport.block.node import BlockNode, HostFileError, PersistentBitmap
from nbexport.block.open import open_image
from nbexport.block.qcow2 import FROM_HEADER, Qcow2Node
from nbexport.block.raw import RawNode

__all__ = [
    "FROM_HEADER",
    "BlockNode",
    "FileNode",
    "HostDeviceNode",
    "HostFileError",
    "PersistentBitmap",
    "Qcow2Node",
    "RawNode",
    "open_image",
]
