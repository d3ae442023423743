"""What every disk is: a node that can be read and that knows what of it is allocated where."""

from __future__ import annotations

import contextlib
import errno
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np

from nbexport.bits import Bitmap, Extents
from nbexport.block.tracking import Tracking
from nbexport.errors import FormatError, UsageError
from nbexport.units import SECTOR_SIZE, align_up

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from types import TracebackType

    from numpy.typing import NDArray

    from nbexport.block.fence import Fence

# What one layer says of its bytes; the flags of the maps that layers exchange.
DATA = 1
"""The bytes are stored in this layer."""
ZERO = 2
"""The bytes read as zeroes."""
ALLOCATED = 4
"""This layer decides what the bytes read as; without it the backing file does."""
DAMAGED = 8
"""The metadata of this range is unusable; asking for it is an error, asking beside it is not."""

_DEPTH_SHIFT = 8  # above the flags, a chain map carries the number of the layer

NBD_STATE_HOLE = 1
NBD_STATE_ZERO = 2


class HostFileError(OSError):
    """A file of the host cannot be opened or read; its text is one line that names the file.

    Args:
        errno: the error number.
        message: the whole line.
        filename: the file.
    """

    def __str__(self) -> str:
        return str(self.strerror)


class SilentError(HostFileError):
    """A request fails as it was asked for or has to; that is nobody's business but its user's."""


@dataclass(frozen=True)
class PersistentBitmap:
    """A dirty bitmap that is stored in an image.

    Attributes:
        name: its name; bytes that are not UTF-8 are surrogate escapes.
        granularity: bytes per bit.
        enabled: the `auto` flag: a writer records its writes here.
        inconsistent: the `in_use` flag: a writer did not close the image, the bits are stale.
        bitmap: the bits, or None if inconsistent. Shared: treat it as read-only.

    Source: qcow2 specification, "Bitmap directory".
    """

    name: str
    granularity: int
    enabled: bool
    inconsistent: bool
    bitmap: Bitmap | None


class _Answer(NamedTuple):
    """A map ready to be handed out, and where it must not be used."""

    extents: Extents
    damage: Extents | None  # flags: number of the damaged layer, 0 for sound; None: all sound


class BlockNode(ABC):
    """One node of a block graph, opened for reading or, where its driver can, for writing too.

    Reading, writing and mapping are thread safe: requests that overlap and are under way at the
    same time may take effect in any order, as on any disk. Closing is the owner's business: it
    must come after the last call of any other method.

    Attributes:
        driver: name of the driver as in QAPI's ``BlockdevDriver``.
        filename: what error texts and listings call the node.
        size: length in bytes, a multiple of 512 as every length of QEMU's block layer.
        cluster_size: unit of allocation in bytes, if the format has one.
        read_only: whether its user asked for reading only; see `writable` for what it can.
        request_alignment: smallest request in bytes that the node's driver is made for.
        request_max: longest request in bytes that the node should get; 0 for no limit of its own.
        file: the protocol child.
        backing: the node that answers for what is not allocated here.
        bitmaps: bitmaps that are stored in the image, in the order of its directory.
        tracking: bitmaps in which writes are marked.
        guards: called with offset and length before a write takes effect; what they raise fails
            the write.
        followers: called with offset and length after a write has taken effect, before it is
            confirmed; what they raise fails it.
        fence: keeps readers and copies into the node apart, where somebody makes some.
    """

    driver: ClassVar[str]
    _orders_flush: ClassVar[bool] = False
    """Whether the driver itself says when a flush is about to make the file below durable."""

    def __init__(self, filename: str, size: int) -> None:
        self.filename = filename
        self.size = size
        self.cluster_size: int | None = None
        self.read_only = True
        self.request_alignment = 1
        self.request_max = 0
        self.file: BlockNode | None = None
        self.backing: BlockNode | None = None
        self.bitmaps: Mapping[str, PersistentBitmap] = MappingProxyType({})
        self.tracking = Tracking()
        self.guards: tuple[Callable[[int, int], None], ...] = ()
        self.followers: tuple[Callable[[int, int], None], ...] = ()
        self.fence: Fence | None = None
        self._owned: list[BlockNode] = []
        self._writes = self._flushed = 0
        self._steps_to_disk = False  # whether the flush under way has anything of its own to do
        self._map_lock = threading.Lock()
        self._answers: dict[str, tuple[Hashable, _Answer]] = {}
        self._asked: dict[str, Hashable] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.filename!r}, size={self.size})"

    # What a driver provides

    @abstractmethod
    def _read(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset``; the range is inside the node."""

    @abstractmethod
    def _status(self, start: int, end: int, *, want_zero: bool) -> Extents:
        """Return what this layer alone says of ``[start, end)``, which is inside the node.

        Args:
            start: first byte.
            end: behind the last byte.
            want_zero: whether ZERO is worth looking for; without it only ALLOCATED counts.
        """

    @abstractmethod
    def allocated_size(self) -> int:
        """Return how many bytes the node's files occupy on the host, holes left out."""

    def _generation(self) -> Hashable:
        """Return a value that changes when the maps that were made may no longer hold."""
        return None

    def _write(self, offset: int, data: memoryview) -> None:  # noqa: ARG002 # drivers use them
        """Store ``data`` at ``offset``; the range is inside the node, and it is writable."""
        raise self._not_writable()

    def _write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        """Make a range read as zeroes; otherwise as `_write`."""
        del offset, length, unmap, no_fallback  # for drivers that can
        raise self._not_writable()

    def _discard(self, offset: int, length: int) -> None:  # noqa: ARG002 # drivers use them
        """Give up a range; otherwise as `_write`."""
        raise self._not_writable()

    def _flush(self) -> None:
        """Make what was written durable; the node is writable."""
        raise self._not_writable()

    def _write_compressed(self, offset: int, data: memoryview) -> None:  # noqa: ARG002 # drivers use them
        """Store whole clusters compressed, where that saves room; otherwise as `_write`."""
        text = f"{self.filename}: nothing can be stored compressed here"
        raise HostFileError(errno.ENOTSUP, text, self.filename)

    def _map_is_bounded(self) -> bool:
        """Return whether a map of the whole layer is cheap enough to be made and kept."""
        return True

    def _raise_damage(self, offset: int) -> None:
        """Raise the FormatError that tells what is wrong at ``offset``."""
        raise FormatError(f"damaged metadata at offset {offset}", path=self.filename)

    # What a user calls

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` as the guest sees them.

        Args:
            offset: any offset, not necessarily aligned.
            buffer: writable, contiguous bytes.

        Raises:
            UsageError: the range is not inside the node.
            FormatError: the image is damaged here.
            OSError: the host cannot read.
        """
        if offset < 0 or offset + len(buffer) > self.size:
            raise UsageError(
                f"{self.filename}: read outside the disk: offset {offset}, "
                f"length {len(buffer)}, size {self.size}"
            )
        if not len(buffer):
            return
        if self.fence is None:
            self._read(offset, buffer)
        else:
            with self.fence.shared():
                self._read(offset, buffer)

    def read_now(self, offset: int, buffer: memoryview) -> bool:  # noqa: ARG002 # drivers use them
        """Fill ``buffer`` as `read_into` does if that takes no waiting; return whether it did."""
        return False

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; raises what `read_into` raises."""
        if offset < 0 or length < 0 or offset + length > self.size:
            # Before the buffer is allocated, not after.
            raise UsageError(
                f"{self.filename}: read outside the disk: offset {offset}, "
                f"length {length}, size {self.size}"
            )
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    @property
    def writable(self) -> bool:
        """Whether `write_from` and its like work: the driver can, and it was opened for it."""
        return False

    def write_from(self, offset: int, data: memoryview) -> None:
        """Store bytes; later reads see them, `flush` makes them durable.

        Args:
            offset: any offset, not necessarily aligned.
            data: contiguous bytes; not kept.

        Raises:
            UsageError: the range is not inside the node.
            FormatError: the image is damaged here.
            OSError: the node is read-only, or the host cannot write.
        """
        self._check_write(offset, len(data))
        if len(data):
            with self._changing(offset, len(data)):
                self._write(offset, data)

    def write_zeroes(
        self, offset: int, length: int, *, unmap: bool = True, no_fallback: bool = False
    ) -> None:
        """Make a range read as zeroes.

        Args:
            offset: any offset, not necessarily aligned.
            length: in bytes.
            unmap: whether its storage may be given back.
            no_fallback: fail with ENOTSUP rather than write zeroes as data.

        Raises:
            UsageError: the range is not inside the node.
            FormatError: the image is damaged here.
            OSError: the node is read-only, or the host cannot.
        """
        self._check_write(offset, length)
        if length:
            with self._changing(offset, length):
                self._write_zeroes(offset, length, unmap=unmap, no_fallback=no_fallback)

    @property
    def compresses(self) -> bool:
        """Whether the driver can store data compressed."""
        return False

    def write_compressed(self, offset: int, data: memoryview) -> None:
        """Store whole clusters as `write_from` does, compressed; the end of the disk may cut one.

        Raises:
            UsageError: the range is not inside the node.
            FormatError: the image is damaged here.
            OSError: the node is read-only, cannot compress, holds data here, or the host failed.
        """
        self._check_write(offset, len(data))
        if len(data):
            with self._changing(offset, len(data)):
                self._write_compressed(offset, data)

    def write_unchanged(self, offset: int, data: memoryview) -> None:
        """Store what the node shows already: nobody sees a change, and no bitmap notes one.

        Arguments and errors as of `write_from`. Writes must be paused.
        """
        self._check_write(offset, len(data))
        if np.frombuffer(data, dtype=np.uint8).any():
            self._write(offset, data)
        else:
            self._write_zeroes(offset, len(data), unmap=False, no_fallback=False)

    def discard(self, offset: int, length: int) -> None:
        """Say that nobody needs a range any more; what it reads as afterwards is not promised.

        Raises:
            UsageError: the range is not inside the node.
            FormatError: the image is damaged here.
            OSError: the node is read-only, or the host failed; that it cannot is no failure.
        """
        self._check_write(offset, length)
        if length:
            with self._changing(offset, length):
                self._discard(offset, length)

    def flush(self) -> None:
        """Make durable what every finished write stored, whoever made it.

        Raises:
            OSError: the host failed; what was written before may be lost.
        """
        if self.writable:
            self.tell_file("flush_to_os")
            written = self._writes
            self._steps_to_disk = written != self._flushed
            if self._steps_to_disk and not self._orders_flush:
                self.tell_file("flush_to_disk")
            self._flush()
            self._flushed = written

    def event(self, name: str) -> None:  # noqa: B027 # most nodes do not listen
        """Hear of a step of the node above, of those that error injection knows by name."""

    def tell_file(self, name: str) -> None:
        """Let the node below hear of a step of this one, in QEMU's ``BlkdebugEvent``."""
        if self.file is not None:
            self.file.event(name)

    def grow(self, size: int) -> None:
        """Make the node longer, for a format above; what is added reads as zeroes.

        One that is long enough stays as it is.

        Raises:
            OSError: it has a fixed length, is read-only, or the host failed.
        """
        if size > self.size:
            self.resize(align_up(size, SECTOR_SIZE))

    def resize(self, size: int) -> None:
        """Give the disk another length; what is added reads as zeroes.

        Args:
            size: in bytes, a multiple of 512.

        Raises:
            OSError: it has a fixed length, is read-only, or the host failed; QEMU's text.
            FormatError: the image cannot have that length; QEMU's text.
        """
        del size  # for drivers that can
        text = "Image format driver does not support resize"
        raise HostFileError(errno.ENOTSUP, text, self.filename)

    def version(self) -> Hashable:
        """Return a value that changes with every change of the chain's maps.

        None says that the maps are too large to be kept.
        """
        layers = list(self.chain())
        if not all(node._map_is_bounded() for node in layers):
            return None
        return tuple((id(node), node._generation()) for node in layers)

    @contextlib.contextmanager
    def _changing(self, offset: int, length: int) -> Iterator[None]:
        """Do what every change of the disk needs around it."""
        self.tracking.begin()
        try:
            for guard in self.guards:
                guard(offset, length)
            yield
            for follower in self.followers:
                follower(offset, length)
        finally:
            self._writes += 1
            self.tracking.end(offset, length)

    def _check_write(self, offset: int, length: int) -> None:
        if not self.writable:
            raise self._not_writable()
        if offset < 0 or length < 0 or offset + length > self.size:
            raise UsageError(
                f"{self.filename}: write outside the disk: offset {offset}, "
                f"length {length}, size {self.size}"
            )

    def _not_writable(self) -> OSError:
        return HostFileError(errno.EPERM, f"{self.filename}: the node is read-only", self.filename)

    def read_padded(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``; bytes behind the end of the node are zeroes.

        So QEMU reads an image's own metadata and clusters from the file below the format.

        Raises:
            FormatError: the image is damaged here.
            OSError: the host cannot read.
        """
        inside = max(0, min(len(buffer), self.size - offset))
        if inside:
            with self.fence.shared() if self.fence is not None else contextlib.nullcontext():
                self._read(offset, buffer[:inside])
        if inside < len(buffer):
            fill_zeroes(buffer[inside:])

    def allocation(self, start: int = 0, end: int | None = None) -> Extents:
        """Return NBD's ``base:allocation`` of ``[start, end)``: 1 hole, 2 reads as zeroes.

        The whole backing chain is looked at. The flags are those that QEMU 7.2 gives.

        Raises:
            UsageError: the range is not inside the node.
            FormatError: the image's metadata is damaged in the range.
            OSError: the host cannot read.

        Source: NBD protocol, "Metadata contexts", ``base:allocation``.
        """
        return self._answer("allocation", start, self.size if end is None else end)

    def reads_as_zeroes(self, start: int, end: int, *, fast: bool = False) -> bool:
        """Return whether the maps of the chain say that a range reads as zeroes.

        Args:
            start: first byte, inside the disk.
            end: behind the last byte.
            fast: whether holes of files do not count.
        """
        if not fast:
            return bool((self.allocation(start, end).flags & NBD_STATE_ZERO).all())
        flags = self._chain_map(start, end, want_zero=False).flags
        return bool((flags & ZERO).all())

    def depth(self, start: int = 0, end: int | None = None) -> Extents:
        """Return ``qemu:allocation-depth`` of ``[start, end)``.

        The flags are 0 where no layer decides, 1 for this node, 2 for its backing file, and so
        on; behind the end of a shorter backing file it is that file which decides.

        Raises:
            UsageError: the range is not inside the node.
            FormatError: the image's metadata is damaged in the range.
            OSError: the host cannot read.

        Source: QEMU, ``docs/interop/nbd.txt``.
        """
        return self._answer("depth", start, self.size if end is None else end)

    def find_bitmap(self, name: str) -> tuple[BlockNode, PersistentBitmap] | None:
        """Return the bitmap called ``name`` and its node, the topmost of the chain first."""
        for node in self.chain():
            if name in node.bitmaps:
                return node, node.bitmaps[name]
        return None

    def chain(self) -> Iterator[BlockNode]:
        """Yield this node, its backing file, that one's backing file, and so on."""
        node: BlockNode | None = self
        while node is not None:
            yield node
            node = node.backing

    def adopt(self, child: BlockNode) -> None:
        """Make ``child`` close when this node does."""
        self._owned.append(child)

    def disown(self) -> None:
        """Leave the closing of every adopted child to the caller."""
        self._owned = []

    def close(self) -> None:
        """Close the node and what it opened itself; closing twice is harmless."""
        # A list instead of recursion: a chain may be longer than the interpreter's stack allows.
        waiting: list[BlockNode] = [self]
        while waiting:
            node = waiting.pop()
            waiting.extend(node._owned)
            node._owned = []
            node._close_own()

    def _close_own(self) -> None:  # noqa: B027 # most nodes hold nothing
        """Release what this node alone holds of the host."""

    # Maps over the chain

    def _answer(self, kind: str, start: int, end: int) -> Extents:
        if not 0 <= start <= end <= self.size:
            raise UsageError(
                f"{self.filename}: range [{start}, {end}) is outside the disk of {self.size} bytes"
            )
        if start == end:
            return Extents.empty(start)
        with contextlib.ExitStack() as stack:
            for node in self.chain():
                if node.fence is not None:
                    stack.enter_context(node.fence.shared())
            answer = self._whole_answer(kind) or self._make_answer(kind, start, end)
        if answer.damage is not None:
            damage = answer.damage.clip(start, end)
            if damage.flags.any():
                first = int(np.flatnonzero(damage.flags)[0])
                layers = list(self.chain())
                layers[int(damage.flags[first]) - 1]._raise_damage(int(damage.bounds[first]))
        return answer.extents.clip(start, end)

    def _whole_answer(self, kind: str) -> _Answer | None:
        """Return the map of the whole node from the cache, or make it, if it is bounded."""
        layers = list(self.chain())
        key = tuple((id(node), node._generation()) for node in layers)
        with self._map_lock:
            held = self._answers.get(kind)
            if held is not None and held[0] == key:
                return held[1]
            if not all(node._map_is_bounded() for node in layers):
                return None
            if self.writable and self._asked.get(kind) != key:
                # Whoever writes between two questions must not pay for the whole map each time.
                self._asked[kind] = key
                return None
            answer = self._make_answer(kind, 0, self.size)
            self._answers[kind] = (key, answer)
            return answer

    def _make_answer(self, kind: str, start: int, end: int) -> _Answer:
        chain = self._chain_map(start, end, want_zero=kind == "allocation")
        extents = chain.map_flags(_to_allocation if kind == "allocation" else _to_depth)
        damage = None
        if (chain.flags & DAMAGED).any():
            damage = chain.map_flags(_to_damage)
        return _Answer(extents, damage)

    def _chain_map(self, start: int, end: int, *, want_zero: bool) -> Extents:
        """Return the deciding layer's flags with its number (top 1) from bit 8 up.

        Where no layer decides, the flags are those of the lowest: ZERO if it has no backing file.
        """
        result = Extents.uniform(start, end, 0)
        for number, node in enumerate(self.chain(), 1):
            # The part behind the end of a short backing file reads as zeroes that this layer
            # seems to have allocated: it was asked and nothing below it is.
            inside = min(max(node.size, start), end)
            own = (
                node._status(start, inside, want_zero=want_zero)
                if inside > start
                else Extents.empty(start)
            ).extend(end, ZERO | ALLOCATED)
            own = Extents(own.bounds, own.flags | np.uint32(number << _DEPTH_SHIFT))
            result = own if number == 1 else result.combine(own, _fall_through)
            if (result.flags & (ALLOCATED | DAMAGED)).all():
                break
        return result


def fill_zeroes(buffer: memoryview) -> None:
    """Set every byte of ``buffer`` to zero without making a second buffer."""
    np.frombuffer(buffer, dtype=np.uint8)[:] = 0


def _fall_through(upper: NDArray[np.uint32], lower: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.where(upper & (ALLOCATED | DAMAGED), upper, lower)


def _to_allocation(flags: NDArray[np.uint32]) -> NDArray[np.uint32]:
    hole = np.where(flags & DATA, 0, NBD_STATE_HOLE)
    zero = np.where(flags & ZERO, NBD_STATE_ZERO, 0)
    return (hole | zero).astype(np.uint32)


def _to_depth(flags: NDArray[np.uint32]) -> NDArray[np.uint32]:
    # A layer that has neither data nor zeroes to tell of, as a null disk, counts as none, too.
    decided = (flags & ALLOCATED != 0) & (flags & (DATA | ZERO) != 0)
    return np.where(decided, flags >> _DEPTH_SHIFT, 0).astype(np.uint32)


def _to_damage(flags: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.where(flags & DAMAGED, flags >> _DEPTH_SHIFT, 0).astype(np.uint32)
