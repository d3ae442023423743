"""blkdebug: a filter that fails requests on purpose, after steps that have names.

Rules wait for an event, which the node above tells (`BlockNode.event`) or the requests themselves
are. A rule of the one kind changes a state, which others may ask for; one of the other kind arms an
error, and the next request that it fits fails.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from nbexport.block.node import HostFileError, SilentError, fill_zeroes
from nbexport.block.passing import FilterNode
from nbexport.units import SECTOR_SIZE, align_down, align_up

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from nbexport.bits import Extents
    from nbexport.block.node import BlockNode

EVENTS: Final = (
    "l1_update", "l1_grow_alloc_table", "l1_grow_write_table", "l1_grow_activate_table",
    "l2_load", "l2_update", "l2_update_compressed", "l2_alloc_cow_read", "l2_alloc_write",
    "read_aio", "read_backing_aio", "read_compressed", "write_aio", "write_compressed",
    "vmstate_load", "vmstate_save", "cow_read", "cow_write", "reftable_load", "reftable_grow",
    "reftable_update", "refblock_load", "refblock_update", "refblock_update_part",
    "refblock_alloc", "refblock_alloc_hookup", "refblock_alloc_write",
    "refblock_alloc_write_blocks", "refblock_alloc_write_table", "refblock_alloc_switch_table",
    "cluster_alloc", "cluster_alloc_bytes", "cluster_free", "flush_to_os", "flush_to_disk",
    "pwritev_rmw_head", "pwritev_rmw_after_head", "pwritev_rmw_tail", "pwritev_rmw_after_tail",
    "pwritev", "pwritev_zero", "pwritev_done", "empty_image_prepare", "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters", "cor_write", "cluster_alloc_space", "none",
)  # fmt: skip
"""Names of all events that rules may wait for, whoever tells them."""

IO_TYPES: Final = ("read", "write", "write-zeroes", "discard", "flush", "block-status")
_DEFAULT_TYPES: Final = frozenset(IO_TYPES) - {"block-status"}
_ONE_REQUEST: Final = 1 << 30
"""The longest piece that a request is split into where no limit is given."""


@dataclass(eq=False)
class Rule:
    """What is to happen at an event.

    Attributes:
        event: its name.
        state: the state in which it counts, 0 for any.
        new_state: the state that begins; None for a rule that arms an error.
        types: which requests fail.
        number: their error; 0 for none.
        offset: the byte that a request has to touch, None for any request.
        once: whether one failure is all.
    """

    event: str
    state: int = 0
    new_state: int | None = None
    types: frozenset[str] = _DEFAULT_TYPES
    number: int = errno.EIO
    offset: int | None = None
    once: bool = False


@dataclass(frozen=True)
class Limits:
    """What the node takes in one piece; 0 is no limit of its own.

    Attributes:
        align: requests are multiples of it.
        transfer: longest read or write.
        zero_align: what zeroes are a multiple of; what is left over is written.
        zero_most: longest piece of zeroes.
        discard_align: what discards are a multiple of.
        discard_most: longest piece of a discard.
    """

    align: int = 0
    transfer: int = 0
    zero_align: int = 0
    zero_most: int = 0
    discard_align: int = 0
    discard_most: int = 0


class BlkdebugNode(FilterNode):
    """A disk that is the node below, with errors on request.

    Args:
        file: the node below.
        rules: the later ones of an event come first.
        limits: of requests.
    """

    driver: ClassVar[str] = "blkdebug"

    def __init__(
        self, file: BlockNode, rules: Iterable[Rule] = (), limits: Limits | None = None
    ) -> None:
        super().__init__(file)
        self._limits = limits or Limits()
        if self._limits.align:
            self.request_alignment = self._limits.align
        self.request_max = self._limits.transfer or self.request_max
        self._rules: dict[str, list[Rule]] = {}
        for rule in rules:
            self._rules.setdefault(rule.event, []).insert(0, rule)
        self._fails_maps = any("block-status" in rule.types for rule in self._all_rules())
        self._armed: list[Rule] = []
        self._state = 1
        self._lock = threading.Lock()
        self._merging = threading.RLock()
        self.event("none")

    def _all_rules(self) -> list[Rule]:
        return [rule for rules in self._rules.values() for rule in rules]

    def event(self, name: str) -> None:
        """Apply the rules that wait for an event."""
        if name not in self._rules:
            return
        with self._lock:
            state, hits = self._state, 0
            for rule in list(self._rules[name]):
                if rule.state not in {0, self._state}:
                    continue
                if rule.new_state is not None:
                    state = rule.new_state
                    continue
                if not hits:
                    self._armed = []
                hits += 1
                self._armed.insert(0, rule)
            self._state = state

    def _check(self, offset: int, length: int, kind: str) -> None:
        """Fail a request if an armed rule fits."""
        if not self._armed:
            return
        with self._lock:
            for rule in self._armed:
                inside = rule.offset is None or offset <= rule.offset < offset + length
                if inside and kind in rule.types:
                    break
            else:
                return
            if not rule.number:
                return
            if rule.once:
                self._armed.remove(rule)
                self._rules[rule.event].remove(rule)
        text = f"{self.filename}: {os.strerror(rule.number)}, as was asked for"
        raise SilentError(rule.number, text, self.filename)

    @property
    def _align(self) -> int:
        return max(1, self.request_alignment)

    # Requests

    def _read(self, offset: int, buffer: memoryview) -> None:
        start = align_down(offset, self._align)
        end = align_up(offset + len(buffer), self._align)
        for at, length in _pieces(start, end, 1, self._limits.transfer):
            self._check(at, length, "read")
            low, high = max(at, offset), min(at + length, offset + len(buffer), self.size)
            if low < high:
                self.file.read_into(low, buffer[low - offset : high - offset])
        inside = max(0, min(len(buffer), self.size - offset))
        if inside < len(buffer):
            fill_zeroes(buffer[inside:])

    def _write(self, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        if offset % self._align == 0 and end % self._align == 0:
            self._write_aligned(offset, data)
            return
        with self._merging:
            self._write_aligned(*self._merged(offset, data))

    def _write_aligned(self, offset: int, data: memoryview) -> None:
        self.event("pwritev")
        self._write_pieces(offset, data)
        self.event("pwritev_done")

    def _write_pieces(self, offset: int, data: memoryview) -> None:
        for at, length in _pieces(offset, offset + len(data), 1, self._limits.transfer):
            self._check(at, length, "write")
            piece = data[at - offset : at - offset + length]
            self.file.write_from(at, piece[: self.size - at])

    def _merged(self, offset: int, data: memoryview) -> tuple[int, memoryview]:
        """Return a request of whole units with what is around a part of some."""
        end = offset + len(data)
        start, stop = align_down(offset, self._align), align_up(end, self._align)
        whole = memoryview(bytearray(stop - start))
        head, tail = offset - start, stop - end
        if head:
            self.event("pwritev_rmw_head")
            self._read(start, whole[: self._align])
            self.event("pwritev_rmw_after_head")
        if tail and not (head and stop - start == self._align):
            self.event("pwritev_rmw_tail")
            self._read(stop - self._align, whole[len(whole) - self._align :])
            self.event("pwritev_rmw_after_tail")
        whole[head : head + len(data)] = data
        return start, whole

    def _write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        end = offset + length
        low, high = align_up(offset, self._align), align_down(end, self._align)
        if low > high:
            low = high = end
        for start, stop in ((offset, low), (high, end)):
            if start < stop:
                if no_fallback:
                    raise self._cannot_zero()
                self._write(start, memoryview(bytes(stop - start)))
        if low == high:
            return
        self.event("pwritev_zero")
        unit = max(self._limits.zero_align, self._align)
        for at, size in _pieces(low, high, unit, self._limits.zero_most):
            if size < unit:
                if no_fallback:
                    raise self._cannot_zero()
                self._write_pieces(at, memoryview(bytes(size)))
                continue
            self._check(at, size, "write-zeroes")
            size = min(size, self.size - at)
            self.file.write_zeroes(at, size, unmap=unmap, no_fallback=no_fallback)
        self.event("pwritev_done")

    def _cannot_zero(self) -> HostFileError:
        text = f"{self.filename}: a part of a unit is zeroed by writing it only"
        return HostFileError(errno.ENOTSUP, text, self.filename)

    def _discard(self, offset: int, length: int) -> None:
        low, high = align_up(offset, self._align), align_down(offset + length, self._align)
        unit = max(1, self._limits.discard_align)
        for at, size in _pieces(low, high, unit, self._limits.discard_most):
            self._check(at, size, "discard")
            self.file.discard(at, size)

    def _write_compressed(self, offset: int, data: memoryview) -> None:
        del offset, data
        text = f"{self.filename}: nothing can be stored compressed here"
        raise HostFileError(errno.ENOTSUP, text, self.filename)

    @property
    def compresses(self) -> bool:
        """No: this filter has no such requests."""
        return False

    def _flush(self) -> None:
        if self._steps_to_disk:
            self._check(0, 0, "flush")
        self.file.flush()

    # Maps

    def _status(self, start: int, end: int, *, want_zero: bool) -> Extents:
        self._check(start, end - start, "block-status")
        return super()._status(start, end, want_zero=want_zero)

    def _generation(self) -> Hashable:
        return self._state, super()._generation()

    def _map_is_bounded(self) -> bool:
        return not self._fails_maps and super()._map_is_bounded()


def _pieces(start: int, end: int, unit: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the pieces of a range, cut where units are and at a length.

    What is not whole units, at either end, is a piece by itself.
    """
    most = most or max(unit, align_down(_ONE_REQUEST, unit))
    at = start
    while at < end:
        if at % unit:
            stop = min(end, align_up(at, unit))
        elif end - at < unit:
            stop = end
        else:
            stop = min(at + most, align_down(end, unit))
        yield at, stop - at
        at = stop


def sector_rule_offset(sector: int) -> int | None:
    """Return the byte that a rule's sector stands for; None for -1, any request."""
    return None if sector == -1 else sector * SECTOR_SIZE
