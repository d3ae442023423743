"""Disks: files and raw and qcow2 images, with their maps and persistent bitmaps."""

from __future__ import annotations

from nbexport.block.compressing import (
    PREALLOCATED,
    PREALLOCATED_ALIGN,
    CompressNode,
    PreallocateNode,
)
from nbexport.block.copying import CopyBefore, SourceReadError, cluster_of
from nbexport.block.copyonread import CopyOnReadNode
from nbexport.block.editing import NoBitmaps, begin, edit_bitmaps
from nbexport.block.file import FileNode, HostDeviceNode, create_file
from nbexport.block.filter import CopyBeforeWriteNode
from nbexport.block.front import Front
from nbexport.block.info import (
    ImageMap,
    bitmap_facts,
    check_image,
    image_info,
    image_map,
)
from nbexport.block.injecting import BlkdebugNode, Limits, Rule, sector_rule_offset
from nbexport.block.jobfilters import (
    CommitTopNode,
    JobFilterNode,
    MirrorTopNode,
    StreamTopNode,
)
from nbexport.block.locks import ImageLockedError
from nbexport.block.node import BlockNode, HostFileError, PersistentBitmap
from nbexport.block.null import NullAioNode, NullNode
from nbexport.block.open import open_image
from nbexport.block.passing import FilterNode
from nbexport.block.qcow2 import FROM_HEADER, Qcow2Node
from nbexport.block.qcow2.bitmap_store import BitmapStore, InconsistentBitmapError
from nbexport.block.qcow2.check import CheckResult
from nbexport.block.qcow2.creating import Plan, create
from nbexport.block.raw import RawNode
from nbexport.block.snapshotaccess import SnapshotAccessNode
from nbexport.block.throttling import Configuration, ThrottleGroup, ThrottleNode
from nbexport.block.writing import open_writable

__all__ = [
    "FROM_HEADER",
    "PREALLOCATED",
    "PREALLOCATED_ALIGN",
    "BitmapStore",
    "BlkdebugNode",
    "BlockNode",
    "CheckResult",
    "CommitTopNode",
    "CompressNode",
    "Configuration",
    "CopyBefore",
    "CopyBeforeWriteNode",
    "CopyOnReadNode",
    "FileNode",
    "FilterNode",
    "Front",
    "HostDeviceNode",
    "HostFileError",
    "ImageLockedError",
    "ImageMap",
    "InconsistentBitmapError",
    "JobFilterNode",
    "Limits",
    "MirrorTopNode",
    "NoBitmaps",
    "NullAioNode",
    "NullNode",
    "PersistentBitmap",
    "Plan",
    "PreallocateNode",
    "Qcow2Node",
    "RawNode",
    "Rule",
    "SnapshotAccessNode",
    "SourceReadError",
    "StreamTopNode",
    "ThrottleGroup",
    "ThrottleNode",
    "begin",
    "bitmap_facts",
    "check_image",
    "cluster_of",
    "create",
    "create_file",
    "edit_bitmaps",
    "image_info",
    "image_map",
    "open_image",
    "open_writable",
    "sector_rule_offset",
]
