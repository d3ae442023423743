"""Reading the guest's bytes from clusters, plain and compressed."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np
import zstandard

from nbexport.block.node import fill_zeroes
from nbexport.block.qcow2 import layout
from nbexport.block.qcow2.tables import BAD, COMPRESSED, NORMAL, ZERO, Tables, run_starts
from nbexport.errors import FormatError

if TYPE_CHECKING:
    from nbexport.block.node import BlockNode
    from nbexport.block.qcow2.header import Header


_ZSTD_STEP: Final = 64
"""Bytes of input a call: at most 22 blocks of 3 bytes, each of which gives up to 128 KiB."""


def _inflate_zlib(packed: bytearray, size: int) -> bytes:
    """Return at most ``size`` bytes, whatever goes in."""
    return zlib.decompressobj(layout.INFLATE_WINDOW_BITS).decompress(packed, size)


def _inflate_zstd(packed: bytearray, size: int) -> bytes:
    """Return what whole frames give until there are ``size`` bytes; nothing if they give more.

    What follows the last frame belongs to somebody else. A frame that is not complete when the
    bytes are there counts as damage.

    Source: qcow2 specification, "Header", compression type 1; RFC 8878, "Frames" and "Blocks".
    """
    data = bytearray()
    rest = bytes(packed)
    while len(data) < size and rest:
        frame = zstandard.ZstdDecompressor().decompressobj()
        for at in range(0, len(rest), _ZSTD_STEP):
            data += frame.decompress(rest[at : at + _ZSTD_STEP])
            if len(data) > size:
                return b""
            if frame.eof:
                rest = frame.unused_data + rest[at + _ZSTD_STEP :]
                break
        else:
            return b""
    return bytes(data)


def deflate(data: bytes, kind: int) -> bytes:
    """Return what inflates to ``data``, in the image's type of compression; maybe a longer text.

    Source: qcow2 specification, "Header", compression type: raw deflate streams, or zstd frames.
    """
    if kind == 0:
        packer = zlib.compressobj(wbits=layout.INFLATE_WINDOW_BITS, memLevel=layout.DEFLATE_MEMORY)
        return packer.compress(data) + packer.flush()
    return zstandard.ZstdCompressor().compress(data)


_DECOMPRESS: Final = {0: _inflate_zlib, 1: _inflate_zstd}


class ClusterReader:
    """Reads ranges of one image.

    Args:
        file: where the image is.
        header: its header.
        tables: its L1 and L2 tables.
        data: where its clusters are, if not in ``file``.
    """

    def __init__(
        self, file: BlockNode, header: Header, tables: Tables, data: BlockNode | None = None
    ) -> None:
        self._file = file
        self._data = file if data is None else data
        self._header = header
        self._tables = tables
        self._lock = threading.Lock()
        self._inflated: OrderedDict[int, bytes] = OrderedDict()
        self._inflated_max = max(1, layout.INFLATED_CACHE_BYTES // header.cluster_size)

    def read(self, offset: int, buffer: memoryview) -> list[tuple[int, memoryview]]:
        """Fill ``buffer`` with the guest's bytes from ``offset`` where clusters are allocated.

        Args:
            offset: in the disk, any alignment.
            buffer: not empty, inside the disk.

        Returns:
            Offset and part of the buffer of each run of unallocated clusters, not filled.

        Raises:
            FormatError: the tables or a compressed cluster are damaged here.
            OSError: the host cannot read.
        """
        size = self._header.unit_size
        end = offset + len(buffer)
        first = offset // size
        count = -(-end // size) - first
        kinds, hosts, words = self._tables.units(first, count)
        starts = run_starts(np.arange(first, first + count), kinds, hosts, size)
        ends = np.append(starts[1:], count)
        missing: list[tuple[int, memoryview]] = []
        # One turn is one request to the file or to the backing file, however many clusters long.
        for at, to in zip(starts.tolist(), ends.tolist(), strict=True):
            begin = max(offset, (first + at) * size)
            stop = min(end, (first + to) * size)
            part = buffer[begin - offset : stop - offset]
            kind = kinds[at]
            if kind == NORMAL:
                self._file.event("read_aio")
                self._data.read_padded(int(hosts[at]) + begin - (first + at) * size, part)
            elif kind == ZERO:
                fill_zeroes(part)
            elif kind == COMPRESSED:
                self._read_compressed(begin, part, words[at:to].tolist())
            elif kind == BAD:
                self._tables.raise_bad(first + at)
            else:
                missing.append((begin, part))
        return missing

    def _read_compressed(self, offset: int, buffer: memoryview, words: list[int]) -> None:
        """Fill ``buffer`` from compressed clusters; ``words`` has an entry for each unit of it."""
        size, unit = self._header.cluster_size, self._header.unit_size
        done = 0
        while done < len(buffer):
            at = offset + done
            inner = at % size
            part = min(size - inner, len(buffer) - done)
            data = self._inflate(words[at // unit - offset // unit], at - inner)
            buffer[done : done + part] = data[inner : inner + part]
            done += part

    def _inflate(self, entry: int, guest: int) -> bytes:
        """Return the cluster that a compressed descriptor stands for."""
        with self._lock:
            data = self._inflated.get(entry)
            if data is not None:
                self._inflated.move_to_end(entry)
                return data
        size = self._header.cluster_size
        offset, length = self._tables.compressed_place(entry)
        packed = bytearray(length)  # at most 2 * cluster_size
        self._file.event("read_compressed")
        self._file.read_padded(offset, memoryview(packed))
        try:
            data = _DECOMPRESS[self._header.compression_type](packed, size)
        except (zlib.error, zstandard.ZstdError):
            data = b""
        if len(data) != size:
            raise FormatError(
                f"compressed cluster of offset {guest} (at {offset:#x} in the file) does not "
                f"inflate to {size} bytes",
                path=self._file.filename,
            )
        with self._lock:
            self._inflated[entry] = data
            while len(self._inflated) > self._inflated_max:
                self._inflated.popitem(last=False)
        return data
