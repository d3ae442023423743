"""Disks: files and raw and qcow2 images, with their maps and persistent bitmaps."""

from __future__ import annotations

from nbexport.block.copying import CopyBefore, SourceReadError, cluster_of
from nbexport.block.create import create_qcow2, create_raw, creation_text
from nbexport.block.editing import NoBitmaps, begin, edit_bitmaps
from nbexport.block.file import FileNode, HostDeviceNode
from nbexport.block.filter import CopyBeforeWriteNode
from nbexport.block.front import Front
from nbexport.block.info import (
    ImageMap,
    bitmap_facts,
    check_image,
    image_info,
    image_map,
)
from nbexport.block.jobfilters import CommitTopNode, MirrorTopNode, StreamTopNode
from nbexport.block.locks import ImageLockedError
from nbexport.block.node import BlockNode, HostFileError, PersistentBitmap
from nbexport.block.null import NullAioNode, NullNode
from nbexport.block.open import open_image
from nbexport.block.passing import FilterNode
from nbexport.block.qcow2 import FROM_HEADER, Qcow2Node
from nbexport.block.qcow2.bitmap_store import BitmapStore, InconsistentBitmapError
from nbexport.block.qcow2.check import CheckResult
from nbexport.block.raw import RawNode
from nbexport.block.writing import open_writable

__all__ = [
    "FROM_HEADER",
    "BitmapStore",
    "BlockNode",
    "CheckResult",
    "CommitTopNode",
    "CopyBefore",
    "CopyBeforeWriteNode",
    "FileNode",
    "FilterNode",
    "Front",
    "HostDeviceNode",
    "HostFileError",
    "ImageLockedError",
    "ImageMap",
    "InconsistentBitmapError",
    "MirrorTopNode",
    "NoBitmaps",
    "NullAioNode",
    "NullNode",
    "PersistentBitmap",
    "Qcow2Node",
    "RawNode",
    "SourceReadError",
    "StreamTopNode",
    "begin",
    "bitmap_facts",
    "check_image",
    "cluster_of",
    "create_qcow2",
    "create_raw",
    "creation_text",
    "edit_bitmaps",
    "image_info",
    "image_map",
    "open_image",
    "open_writable",
]
