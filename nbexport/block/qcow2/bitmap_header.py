"""What the header says of the bitmaps: its extension, and the bit that makes it trusted."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from nbexport.block.qcow2 import layout
from nbexport.errors import FormatError
from nbexport.units import SECTOR_SIZE, align_up

if TYPE_CHECKING:
    from nbexport.block.node import BlockNode
    from nbexport.block.qcow2.header import BitmapsExtension, Header

_AUTOCLEAR_OFFSET: Final = 88
_AUTOCLEAR: Final = struct.Struct(">Q")
_BACKING_OFFSET: Final = 8
_BACKING: Final = struct.Struct(">QI")  # offset, length
_AUTOCLEAR_KNOWN: Final = layout.AUTOCLEAR_BITMAPS | layout.AUTOCLEAR_RAW_DATA_FILE


def read_autoclear(file: BlockNode) -> int:
    """Return the autoclear features of a version 3 header.

    Raises:
        OSError: the host cannot read.
    """
    stored = bytearray(_AUTOCLEAR.size)
    file.read_padded(_AUTOCLEAR_OFFSET, memoryview(stored))
    value: int = _AUTOCLEAR.unpack(stored)[0]
    return value


def trust_bitmaps(file: BlockNode, *, trusted: bool) -> None:
    """Set or clear the bit that says that the bitmaps know of every write, and flush.

    The bits of features that this package does not know are cleared on the way, as a writer must.

    Raises:
        OSError: the host failed.

    Source: qcow2 specification, "Header", autoclear feature bits.
    """
    features = read_autoclear(file) & _AUTOCLEAR_KNOWN & ~layout.AUTOCLEAR_BITMAPS
    if trusted:
        features |= layout.AUTOCLEAR_BITMAPS
    file.write_from(_AUTOCLEAR_OFFSET, memoryview(_AUTOCLEAR.pack(features)))
    file.flush()


def has_stale_features(file: BlockNode, header: Header) -> bool:
    """Return whether a writer must drop something: unknown bits, or bitmaps not to be trusted.

    Raises:
        OSError: the host cannot read.
    """
    if header.version < 3:
        return False
    if read_autoclear(file) & ~_AUTOCLEAR_KNOWN:
        return True
    if header.bitmaps is not None:
        return False
    return any(kind == layout.EXTENSION_BITMAPS for kind, _ in _extensions(file, header)[1])


def write_extension(file: BlockNode, header: Header, place: BitmapsExtension | None) -> None:
    """Make the header name another directory of bitmaps, or none, and flush.

    Everything else in the header's cluster stays; a name of a backing file may move. The sector
    that says that the bitmaps are trusted is written last, so that it never stands before half of
    an extension; only where the name moves all is written at once.

    Args:
        file: where the image is.
        header: its header, version 3.
        place: the directory; the bitmaps are trusted then. None if there are none any more.

    Raises:
        FormatError: the header's cluster has no room for the extension.
        OSError: the host failed.

    Source: qcow2 specification, "Header extensions", "Bitmaps extension".
    """
    head, found = _extensions(file, header)
    named_at, length = _BACKING.unpack_from(head, _BACKING_OFFSET)
    backing = file.read(named_at, length) if named_at else b""
    kept = [(kind, data) for kind, data in found if kind != layout.EXTENSION_BITMAPS]
    features = _AUTOCLEAR.unpack_from(head, _AUTOCLEAR_OFFSET)[0] & _AUTOCLEAR_KNOWN
    features &= ~layout.AUTOCLEAR_BITMAPS
    if place is not None:
        features |= layout.AUTOCLEAR_BITMAPS
        data = layout.BITMAPS.pack(place.count, 0, place.directory_size, place.directory_offset)
        kept.append((layout.EXTENSION_BITMAPS, data))
    _AUTOCLEAR.pack_into(head, _AUTOCLEAR_OFFSET, features)
    tail = _packed(kept)
    moves = False
    if backing:
        moves = named_at != len(head) + len(tail)
        _BACKING.pack_into(head, _BACKING_OFFSET, len(head) + len(tail), len(backing))
        tail += backing
    if len(head) + len(tail) > header.cluster_size:
        raise FormatError(
            "the header's cluster has no room for the bitmaps extension", path=file.filename
        )
    # The rest of the cluster is cleared, lest remains pass for something.
    cluster = memoryview((bytes(head) + tail).ljust(header.cluster_size, b"\0"))
    if moves or len(cluster) == SECTOR_SIZE:
        file.write_from(0, cluster)
    else:
        if read_autoclear(file) & layout.AUTOCLEAR_BITMAPS:
            trust_bitmaps(file, trusted=False)
        file.write_from(SECTOR_SIZE, cluster[SECTOR_SIZE:])
        file.flush()
        file.write_from(0, cluster[:SECTOR_SIZE])
    file.flush()


def write_backing(file: BlockNode, header: Header, name: str | None, driver: str | None) -> None:
    """Make the header name another backing file, or none, and flush.

    Args:
        file: where the image is.
        header: its header.
        name: of the backing file.
        driver: its format.

    Raises:
        FormatError: the header's cluster has no room for the name.
        OSError: the host failed.

    Source: qcow2 specification, "Header" and "Header extensions".
    """
    head, found = _extensions(file, header)
    kept = [(kind, data) for kind, data in found if kind != layout.EXTENSION_BACKING_FORMAT]
    if driver is not None:
        kept.insert(0, (layout.EXTENSION_BACKING_FORMAT, driver.encode()))
    backing = b"" if name is None else os.fsencode(name)
    tail = _packed(kept)
    at = len(head) + len(tail)
    if len(backing) > layout.BACKING_NAME_MAX or at + len(backing) > header.cluster_size:
        raise FormatError("the header's cluster has no room for the name", path=file.filename)
    _BACKING.pack_into(head, _BACKING_OFFSET, at if backing else 0, len(backing))
    cluster = bytes(head) + tail + backing
    file.write_from(0, memoryview(cluster.ljust(header.cluster_size, b"\0")))
    file.flush()


def _packed(extensions: list[tuple[int, bytes]]) -> bytes:
    """Return extensions as they are stored, with the one that ends them."""
    parts = [
        layout.EXTENSION.pack(kind, len(data)) + data.ljust(align_up(len(data), 8), b"\0")
        for kind, data in extensions
    ]
    return b"".join([*parts, layout.EXTENSION.pack(layout.EXTENSION_END, 0)])


def _extensions(file: BlockNode, header: Header) -> tuple[bytearray, list[tuple[int, bytes]]]:
    """Return the header up to its extensions, and the extensions, as they are stored now."""
    area = bytearray(header.cluster_size)
    file.read_padded(0, memoryview(area))
    raw = layout.RawHeader(*layout.HEADER.unpack_from(area))
    end = raw.backing_file_offset or header.cluster_size
    found: list[tuple[int, bytes]] = []
    at = raw.header_length
    while at + layout.EXTENSION.size <= end:
        kind, length = layout.EXTENSION.unpack_from(area, at)
        at += layout.EXTENSION.size
        if kind == layout.EXTENSION_END:
            break
        found.append((kind, bytes(area[at : at + length])))
        at += align_up(length, 8)
    return area[: raw.header_length], found
