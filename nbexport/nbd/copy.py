"""An export to a file: all of it without its holes, or only what a bitmap marks.

What is read is asked for ahead; chunks go to the file as they come.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbexport.block.file import punch_hole
from nbexport.errors import NbexportError, SourceError, UsageError
from nbexport.nbd.client import Client
from nbexport.nbd.contexts import BASE_ALLOCATION, dirty_bitmap_name
from nbexport.nbd.handshake import DEFAULT_TIMEOUT_S
from nbexport.units import KiB, MiB, align_down

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nbexport.bits import Extents
    from nbexport.nbd.uri import NbdUri

READ_SIZE = MiB
"""Bytes of one read: few enough that progress moves, many enough that replies cost little."""
_ZEROES = bytes(256 * KiB)
_SPARSE = 4 * KiB
"""Zeroes of this many bytes, aligned, become holes of the file, as with nbdcopy and qemu-img."""
_HALF_DONE = "the copy is neither the old nor the new state; repeat it"
_STATE_ZERO = 2


@dataclass(frozen=True)
class Copied:
    """What a copy did.

    Attributes:
        size: of the export, in bytes.
        selected: bytes that were to be copied: all, or what the bitmap marks.
        transferred: bytes that were read; the rest of the selected ones are zeroes.
    """

    size: int
    selected: int
    transferred: int


def copy(
    uri: str | NbdUri,
    target: str | Path,
    *,
    bitmap: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> Copied:
    """Copy an export to a file.

    Without a bitmap the file is made anew, sparse where the export reads as zeroes; if that fails,
    what was there before stays, and nothing else is left. With a bitmap the file must be there and
    as large as the export, and only what the bitmap marks is written into it: an incremental
    backup on top of an earlier copy. If that ends early, the error says whether the file was
    changed by then.

    Args:
        uri: the export.
        target: the file.
        bitmap: name of a dirty bitmap of the export.
        progress: told the bytes that are done and that are to be done.
        timeout: how long the server may stay silent, in seconds.

    Raises:
        UsageError: the export has no such bitmap, the file is of another size, or what is there is
            no regular file, whose place a new one must not take.
        PeerError: the server failed or broke the protocol.
        SourceError: the file is missing, or cannot be written.
        KeyboardInterrupt: with a text if the file was changed by then.
    """
    path = Path(target)
    if bitmap is None and path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a regular file, a full copy cannot take its place")
    wanted = [BASE_ALLOCATION]
    if bitmap is not None:
        wanted.append(dirty_bitmap_name(bitmap))
    with Client.connect(uri, contexts=wanted, timeout=timeout) as client:
        maps = client.map() if client.contexts else {}
        if bitmap is not None and wanted[1] not in maps:
            offered = ", ".join(client.server_contexts) or "none"
            raise UsageError(f"no metadata context '{wanted[1]}' (offered: {offered})")
        work = _Work(client, maps.get(BASE_ALLOCATION), progress)
        try:
            if bitmap is None:
                return work.whole(path)
            return work.changed(path, maps[wanted[1]])
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror or error}") from error


class _Work:
    def __init__(
        self, client: Client, allocation: Extents | None, progress: Callable[[int, int], None]
    ) -> None:
        self._client = client
        self._allocation = allocation
        self._progress = progress
        self._changed = False  # whether anything was written
        limits = client.block_size
        self._read_size = READ_SIZE
        if limits is not None:
            self._read_size = align_down(min(READ_SIZE, limits.maximum), limits.minimum)

    def whole(self, path: Path) -> Copied:
        size = self._client.export_size
        path = Path(os.path.realpath(path))  # a link stays, what it leads to is made anew
        # Beside the target, so that it can take its place in one step.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                os.ftruncate(file.fileno(), size)
                transferred = self._transfer(file.fileno(), [(0, size)], zeroes=False)
                mask = os.umask(0)
                os.umask(mask)
                os.fchmod(file.fileno(), 0o666 & ~mask)
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Copied(size, size, transferred)

    def changed(self, path: Path, bitmap: Extents) -> Copied:
        size = self._client.export_size
        dirty = [(offset, length) for offset, length, flags in bitmap if flags]
        with path.open("r+b") as file:
            there = file.seek(0, os.SEEK_END)
            if there != size:
                raise UsageError(f"{path}: {there} bytes, but the export has {size}")
            try:
                transferred = self._transfer(file.fileno(), dirty, zeroes=True)
                os.fsync(file.fileno())
            except (NbexportError, OSError, KeyboardInterrupt) as error:
                raise self._half_done(path, error) from error
        return Copied(size, sum(length for _, length in dirty), transferred)

    def _half_done(self, path: Path, error: BaseException) -> BaseException:
        """Return an error that also says what has become of the file."""
        if not self._changed:
            return error
        if isinstance(error, KeyboardInterrupt):
            return KeyboardInterrupt(f"{path}: interrupted ({_HALF_DONE})")
        if isinstance(error, OSError):
            return SourceError(f"{path}: {error.strerror or error} ({_HALF_DONE})")
        return type(error)(f"{error} ({_HALF_DONE})")

    def _transfer(self, file: int, ranges: list[tuple[int, int]], *, zeroes: bool) -> int:
        """Bring ranges into a file; return how many bytes were read.

        Args:
            file: its descriptor.
            ranges: offsets and lengths, in order.
            zeroes: whether what reads as zeroes may be something else in the file.
        """
        total = sum(length for _, length in ranges)
        done = transferred = 0

        def data(offset: int, buffer: memoryview) -> None:
            nonlocal transferred
            transferred += len(buffer)
            for at, part, used in _split(offset, buffer):
                if not used:
                    hole(at, len(part))
                    continue
                while part:
                    self._changed = True
                    count = os.pwrite(file, part, at)
                    part, at = part[count:], at + count

        def hole(offset: int, length: int) -> None:
            if not zeroes or not length:
                return
            self._changed = True
            if punch_hole(file, offset, length):
                return
            while length:
                count = os.pwrite(file, _ZEROES[:length], offset)
                offset, length = offset + count, length - count

        def count(length: int) -> None:
            nonlocal done
            done += length
            self._progress(done, total)

        self._progress(0, total)
        self._client.read_ranges(self._pieces(ranges, hole, count), data, hole, count)
        return transferred

    def _pieces(
        self,
        ranges: list[tuple[int, int]],
        hole: Callable[[int, int], None],
        count: Callable[[int], None],
    ) -> Iterator[tuple[int, int]]:
        """Give what has to be read, in reads that are not too long for the server."""
        for offset, length in ranges:
            if self._allocation is None:
                parts = [(offset, length, 0)]
            else:
                inside = self._allocation.clip(offset, offset + length)
                parts = list(inside.map_flags(lambda flags: flags & np.uint32(_STATE_ZERO)))
            for at, size, zero in parts:
                if zero:
                    hole(at, size)
                    count(size)
                    continue
                for start in range(at, at + size, self._read_size):
                    yield start, min(self._read_size, at + size - start)


def _split(offset: int, buffer: memoryview) -> Iterator[tuple[int, memoryview, bool]]:
    """Give the parts of a buffer, with their offsets, and whether there is anything but zeroes.

    What is not a whole block of `_SPARSE` bytes always counts as something.
    """
    blocks = len(buffer) // _SPARSE
    if offset % _SPARSE or not blocks:
        yield offset, buffer, True
        return
    words = np.frombuffer(buffer[: blocks * _SPARSE], dtype=np.uint64)
    used = np.ones(-(-len(buffer) // _SPARSE), dtype=bool)
    used[:blocks] = words.reshape(blocks, -1).any(axis=1)
    edges = [0, *(np.flatnonzero(np.diff(used)) + 1).tolist(), len(used)]
    for first, last in itertools.pairwise(edges):
        start, end = first * _SPARSE, min(last * _SPARSE, len(buffer))
        yield offset + start, buffer[start:end], bool(used[first])
