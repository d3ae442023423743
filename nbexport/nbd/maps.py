"""The maps of an export's contexts: computed once, kept in wire order, dropped by a change.

A map is kept in windows of the disk, so that the bitmap of a large disk with every other block
dirty costs a few windows of memory, not a descriptor for each block.
"""

from __future__ import annotations

import struct
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbexport.bits import Bitmap, Extents
from nbexport.errors import FormatError
from nbexport.nbd import wire
from nbexport.units import MiB

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from nbexport.nbd.contexts import MetaContext

WINDOW_EXTENTS = 1 << 16
"""Extents of a window where they can be told in advance: 20 bytes each are 1.25 MiB."""
JOINT_PLACES = 1 << 20
JOINT_ANSWERS = 1 << 12
JOINTS_MAX = 4
"""Tables of several contexts: 10 bytes a place are 10 MiB for each; as many choices of contexts
are remembered."""
KEPT_BYTES = 32 * MiB
"""Windows that one export keeps; the one that was used longest ago goes first."""
SHARES_MIN = 4
"""A map that is one window takes no more than a share of that: one for each context, and no more
than this part. Else contexts that are asked for together would drive each other out."""
_EXTENT_BYTES = 8 + 4 + 8  # bound, flags, descriptor


class Window(NamedTuple):
    """A part of a map, ready to be sent.

    Attributes:
        bounds: where extents begin, and the end of the last. Shape: (n + 1,) int64.
        flags: one for each. Shape: (n,) uint32.
        places: the bounds and
        values: the flags, as numbers of Python: to look up a few is much faster so.
        descriptors: as block-status chunks have them, 8 bytes each; lengths that do not fit there
            are wrong, and are not asked for where that matters.
    """

    bounds: NDArray[np.int64]
    flags: NDArray[np.uint32]
    places: memoryview
    values: memoryview
    descriptors: memoryview


def window_of(extents: Extents) -> Window:
    """Return a map as a window."""
    pairs = np.empty((len(extents), 2), dtype=">u4")
    pairs[:, 0] = np.diff(extents.bounds) & 0xFFFFFFFF
    pairs[:, 1] = extents.flags
    bounds, flags = np.ascontiguousarray(extents.bounds), np.ascontiguousarray(extents.flags)
    return Window(bounds, flags, bounds.data, flags.data, pairs.view(np.uint8).reshape(-1).data)


class Cache:
    """Windows of the contexts of one export, up to `KEPT_BYTES`.

    Args:
        contexts: how many there are.

    Attributes:
        whole_extents: the most extents of a map that is one window.
    """

    def __init__(self, contexts: int) -> None:
        self._lock = threading.Lock()
        self.whole_extents = KEPT_BYTES // max(contexts, SHARES_MIN) // _EXTENT_BYTES
        self._windows: OrderedDict[tuple[int, int], tuple[Hashable, Window]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[int, int], version: Hashable) -> Window | None:
        """Return a window that is still true."""
        with self._lock:
            held = self._windows.get(key)
            if held is None or held[0] != version:
                return None
            self._windows.move_to_end(key)
            return held[1]

    def put(self, key: tuple[int, int], version: Hashable, window: Window) -> None:
        """Keep a window instead of the oldest ones; one that is too large alone is not kept."""
        with self._lock:
            self._drop(key)
            size = len(window.flags) * _EXTENT_BYTES
            if size > KEPT_BYTES:
                return
            while self._bytes + size > KEPT_BYTES:
                self._drop(next(iter(self._windows)))
            self._windows[key] = version, window
            self._bytes += size

    def _drop(self, key: tuple[int, int]) -> None:
        held = self._windows.pop(key, None)
        if held is not None:
            self._bytes -= len(held[1].flags) * _EXTENT_BYTES


class ContextMap:
    """One context of an export, asked for ranges.

    Args:
        context: what gives the extents.
        size: bytes of the export.
        cache: where windows are kept.
        number: sets the context's windows apart from others'.
    """

    def __init__(self, context: MetaContext, size: int, cache: Cache, number: int) -> None:
        self._context = context
        self._size = size
        self._cache = cache
        self._number = number
        self._making = threading.Lock()
        self._asked: Hashable = None
        self._span: tuple[Hashable, int] | None = None
        self._unusable: Hashable = None

    def kept(self, start: int, end: int, versions: dict[int, Hashable]) -> list[Window] | None:
        """Return the window of a range if that is kept, or at once made of a bitmap in memory.

        Nothing here waits for a disk or takes long. Arguments as for `windows`.
        """
        source = self._context.source() if self._context.source is not None else None
        if isinstance(source, Bitmap):
            span = self._span_of(source)
            if span == source.size and self._whole(source) is None:
                return None  # making it takes too long for this place
            if (end - 1) // span - start // span > 1:
                return None  # more than two windows, which may have to be made
            return self._of_bitmap(source, start, end, WINDOW_EXTENTS)
        version = self._version(versions)
        window = None if version is None else self._cache.get((self._number, 0), version)
        return None if window is None else [window]

    def state(self, versions: dict[int, Hashable]) -> Hashable:
        """Return what changes when the map does; None if nothing tells."""
        source = self._context.source() if self._context.source is not None else None
        if isinstance(source, Bitmap):
            return id(source), source.version
        return self._version(versions)

    def windows(
        self, start: int, end: int, limit: int, versions: dict[int, Hashable]
    ) -> list[Window]:
        """Return consecutive windows that cover ``[start, end)``, or begin to.

        Args:
            start: first byte.
            end: behind the last byte, more than ``start``.
            limit: extents that the caller can use; what follows them is left out.
            versions: what contexts of the same request have found out; added to.

        Raises:
            What the context's extents raise.
        """
        source = self._context.source() if self._context.source is not None else None
        if isinstance(source, Bitmap):
            return self._of_bitmap(source, start, end, limit)
        version = self._version(versions)
        if version is None or version == self._unusable:
            return [window_of(self._context.extents(start, end))]
        window = self._cache.get((self._number, 0), version)
        if window is None and version == self._asked:
            # The second question about the same state: it is worth to be kept.
            window = self._make_whole(version)
        if window is None:
            self._asked = version
            window = window_of(self._context.extents(start, end))
        return [window]

    def _part(self, bitmap: Bitmap, version: Hashable, index: int, start: int, stop: int) -> Window:
        """Return one window of a bitmap, made once however many threads ask for it."""
        key = self._number, index
        window = self._cache.get(key, version)
        if window is None:
            with self._making:
                window = self._cache.get(key, version)
                if window is None:
                    window = window_of(bitmap.extents(start, stop))
                    self._cache.put(key, version, window)
        return window

    def _make_whole(self, version: Hashable) -> Window | None:
        """Return the window of the whole disk, made once however many threads ask for it."""
        with self._making:
            window = self._cache.get((self._number, 0), version)
            if window is not None or version == self._unusable:
                return window
            try:
                whole = self._context.extents(0, self._size)
            except (OSError, FormatError):
                self._unusable = version  # damaged somewhere, not necessarily here
                return None
            if len(whole) > self._cache.whole_extents:
                self._unusable = version  # the context itself keeps it, or it is not kept
                return None
            window = window_of(whole)
            self._cache.put((self._number, 0), version, window)
            return window

    def _version(self, versions: dict[int, Hashable]) -> Hashable:
        ask = self._context.version
        if ask is None:
            return None
        # Several contexts of a disk change together, and ask the same.
        if id(ask) not in versions:
            versions[id(ask)] = ask()
        return versions[id(ask)]

    def _span_of(self, bitmap: Bitmap) -> int:
        """Return how many bytes of the disk a window has."""
        version = id(bitmap), bitmap.version
        if self._span is None or self._span[0] != version:
            span = WINDOW_EXTENTS * bitmap.granularity
            if bitmap.size > span and bitmap.count_changes() < self._cache.whole_extents:
                span = bitmap.size
            self._span = version, span
        return self._span[1]

    def _whole(self, bitmap: Bitmap) -> Window | None:
        return self._cache.get((self._number, 0), (id(bitmap), bitmap.version))

    def _of_bitmap(self, bitmap: Bitmap, start: int, end: int, limit: int) -> list[Window]:
        span = self._span_of(bitmap)
        version = id(bitmap), bitmap.version
        found: list[Window] = []
        extents, at = 0, start
        # One more extent than can be used shows where the last of them ends.
        while at < end and extents <= limit:
            if at >= bitmap.size:
                # A bitmap that is shorter than the disk is clean behind its end.
                window, stop = window_of(Extents.uniform(at, self._size, 0)), self._size
            else:
                index = at // span
                stop = min((index + 1) * span, bitmap.size, self._size)
                window = self._part(bitmap, version, index, index * span, stop)
            if end <= stop and not found:
                return [window]
            first = int(window.bounds.searchsorted(at, side="right")) - 1
            extents += len(window.flags) - first
            if found and found[-1].flags[-1] == window.flags[first]:
                extents -= 1  # equal neighbours across the boundary are one extent
            found.append(window)
            at = stop
        return found


_NEAR = 16
_PAIR = struct.Struct(">II")
_WIDE_PAIR = struct.Struct(">QQ")


class Single(NamedTuple):
    """A piece that is one extent: what most small questions get."""

    start: int
    end: int
    flag: int

    @property
    def bounds(self) -> NDArray[np.int64]:
        """Where it begins and ends. Shape: (2,)."""
        return np.array((self.start, self.end), dtype=np.int64)

    @property
    def flags(self) -> NDArray[np.uint32]:
        """Its flags. Shape: (1,)."""
        return np.array((self.flag,), dtype=np.uint32)

    def __len__(self) -> int:
        """Return the number of extents."""
        return 1

    def any_of(self, mask: int) -> bool:
        """Return whether an extent has one of these flags."""
        return bool(self.flag & mask)

    def cut(self, end: int) -> Single:
        """Return the part in front of ``end``, which is behind the first byte."""
        return self if end >= self.end else Single(self.start, end, self.flag)

    def to_wire(self) -> bytes:
        """Return a 32-bit descriptor."""
        return _PAIR.pack(self.end - self.start, self.flag)

    def to_wide_wire(self) -> bytes:
        """Return a 64-bit descriptor."""
        return _WIDE_PAIR.pack(self.end - self.start, self.flag)


class Several(NamedTuple):
    """The extents of a range, clipped to it, at most as many as were asked for.

    Attributes:
        window: what they are taken from.
        first: the number of the first one there.
        last: the number behind that of the last; there are two at least.
        start: where the range begins.
        end: where the last extent ends.
    """

    window: Window
    first: int
    last: int
    start: int
    end: int

    @property
    def bounds(self) -> NDArray[np.int64]:
        """Where they begin, and the end of the last. Shape: (n + 1,)."""
        bounds = self.window.bounds[self.first : self.last + 1].copy()
        bounds[0], bounds[-1] = self.start, self.end
        return bounds

    @property
    def flags(self) -> NDArray[np.uint32]:
        """One for each; neighbours differ. Shape: (n,)."""
        return self.window.flags[self.first : self.last]

    def __len__(self) -> int:
        """Return the number of extents."""
        return self.last - self.first

    def any_of(self, mask: int) -> bool:
        """Return whether an extent has one of these flags."""
        return bool((self.flags & mask).any())

    def cut(self, end: int) -> Piece:
        """Return the part in front of ``end``, which is behind the first byte."""
        if end >= self.end:
            return self
        places = self.window.places
        last = bisect_left(places, end, self.first + 1, self.last)
        if last == self.first + 1:
            return Single(self.start, end, self.window.values[self.first])
        return Several(self.window, self.first, last, self.start, end)

    def to_wire(self) -> bytes | bytearray:
        """Return 32-bit descriptors; no extent may be longer than those can say."""
        places, first, last = self.window.places, self.first, self.last
        data = bytearray(self.window.descriptors[first * 8 : last * 8])
        wire.UINT32.pack_into(data, 0, places[first + 1] - self.start)
        wire.UINT32.pack_into(data, len(data) - 8, self.end - places[last - 1])
        return data

    def to_wide_wire(self) -> bytes:
        """Return 64-bit descriptors."""
        pairs = np.empty((len(self), 2), dtype=">u8")
        pairs[:, 0] = np.diff(self.bounds)
        pairs[:, 1] = self.flags
        return pairs.tobytes()


Piece = Single | Several


def piece(windows: list[Window], start: int, end: int, limit: int) -> Piece:
    """Return the extents of ``[start, end)``, at most ``limit`` of them, from its windows."""
    window = windows[0]
    if len(windows) > 1:
        bounds = np.concatenate([window.bounds, *(w.bounds[1:] for w in windows[1:])])
        window = window_of(Extents(bounds, np.concatenate([w.flags for w in windows])))
    places = window.places
    first = bisect_right(places, start) - 1
    until = places[first + 1]
    if until >= end or limit == 1:
        return Single(start, min(until, end), window.values[first])
    # Most often it is near: how many extents a range has depends on its length.
    last = min(bisect_left(places, end, first + 2), first + limit)
    return Several(window, first, last, start, min(places[last], end))


def descriptors(
    windows: Sequence[Window], start: int, end: int, limit: int
) -> tuple[list[bytes | bytearray], int] | None:
    """Return what several maps say of ``[start, end)``, as 32-bit descriptors of each.

    It is what `piece` leads to in more steps, for windows of which each has the whole range.

    Args:
        windows: one of each context.
        start: first byte.
        end: behind the last byte.
        limit: extents that may be told of each, more than one.

    Returns:
        The descriptors, and the extents of the map that has most there; None if that are more
        than may be told.
    """
    found: list[bytes | bytearray] = []
    most = 1
    for _, _, places, values, pairs in windows:
        first = bisect_right(places, start) - 1
        until = places[first + 1]
        if until >= end:
            found.append(_PAIR.pack(end - start, values[first]))
            continue
        last = first + 2
        while places[last] < end:  # a few extents are found sooner by going on than by halving
            last += 1
            if last - first == _NEAR:
                last = bisect_left(places, end, last)
                break
        count = last - first
        if count > limit:
            return None
        most = max(most, count)
        data = bytearray(pairs[first * 8 : last * 8])
        wire.UINT32.pack_into(data, 0, until - start)
        wire.UINT32.pack_into(data, count * 8 - 8, end - places[last - 1])
        found.append(data)
    return found, most


class Joint:
    """Several contexts in one table: where any of them changes, and what each says in between.

    A small question lies between two such places nearly always, and then one look answers it for
    all contexts.

    Args:
        windows: one of each context, over the same bytes.

    Raises:
        ValueError: there would be more places than `JOINT_PLACES`, or more answers than
            `JOINT_ANSWERS`.
    """

    def __init__(self, windows: Sequence[Window]) -> None:
        bounds = np.unique(np.concatenate([window.bounds for window in windows]))
        if len(bounds) > JOINT_PLACES:
            raise ValueError("too many places")
        code = np.zeros(len(bounds) - 1, dtype=np.int64)
        answers: list[tuple[int, ...]] = [()]
        for window in windows:
            values, index = np.unique(window.flags, return_inverse=True)
            here = np.searchsorted(window.bounds, bounds[:-1], side="right") - 1
            code = code * len(values) + index[here]
            answers = [(*answer, flag) for answer in answers for flag in values.tolist()]
            if len(answers) > JOINT_ANSWERS:
                raise ValueError("too many answers")
        self._bounds = array("q", bounds.tobytes())
        self._codes = array("H", code.astype(np.uint16).tobytes())
        self._answers = answers

    def flags(self, start: int, end: int) -> tuple[int, ...] | None:
        """Return the flags of each context in ``[start, end)``; None if any changes there."""
        place = bisect_right(self._bounds, start) - 1
        if end > self._bounds[place + 1]:
            return None
        return self._answers[self._codes[place]]


class Maps:
    """What an export knows of its bytes, by context.

    Args:
        size: bytes of the export.
        contexts: what it offers.
    """

    def __init__(self, size: int, contexts: tuple[MetaContext, ...]) -> None:
        cache = Cache(len(contexts))
        self._size = size
        self._maps = {
            id(context): ContextMap(context, size, cache, number)
            for number, context in enumerate(contexts)
        }
        self._contexts = contexts  # kept, so that their ids stay theirs
        self._joints: dict[tuple[MetaContext, ...], tuple[Hashable, Joint | None]] = {}

    def whole(self, contexts: tuple[MetaContext, ...]) -> list[Window] | None:
        """Return one window of each context that has the whole disk, if all are kept so."""
        versions: dict[int, Hashable] = {}
        found = []
        for context in contexts:
            known = self._maps.get(id(context))
            kept = None if known is None else known.kept(0, self._size, versions)
            if kept is None or len(kept) != 1:
                return None
            found.append(kept[0])
        return found

    # What may not import this module has the class at hand.
    descriptors = staticmethod(descriptors)

    def joint(self, contexts: tuple[MetaContext, ...]) -> Joint | None:
        """Return the table of several contexts if `join` made one that is still true."""
        held = self._joints.get(contexts)
        if held is None or held[1] is None or held[0] != self._state(contexts):
            return None
        return held[1]

    def join(self, contexts: tuple[MetaContext, ...]) -> None:
        """Make the table of several contexts if all are kept whole; takes a while."""
        state = self._state(contexts)
        held = self._joints.get(contexts)
        if state is None or (held is not None and held[0] == state):
            return
        windows = self.whole(contexts)
        if windows is None:
            return
        try:
            made = Joint(windows)
        except ValueError:
            made = None  # not before something changes
        if len(self._joints) >= JOINTS_MAX:
            self._joints.pop(next(iter(self._joints)))
        if state == self._state(contexts):
            self._joints[contexts] = state, made

    def _state(self, contexts: tuple[MetaContext, ...]) -> Hashable:
        """Return what changes when any of the contexts does; None if one cannot tell."""
        versions: dict[int, Hashable] = {}
        found = []
        for context in contexts:
            known = self._maps.get(id(context))
            state = None if known is None else known.state(versions)
            if state is None:
                return None
            found.append(state)
        return tuple(found)

    def piece(self, context: MetaContext, start: int, end: int, limit: int) -> Piece:
        """Return what a context says of ``[start, end)``, at most ``limit`` extents.

        Raises:
            What the context's extents raise.
        """
        return self.pieces((context,), start, end, limit)[0]

    def kept_pieces(
        self, contexts: tuple[MetaContext, ...], start: int, end: int, limit: int
    ) -> list[Piece] | None:
        """Return the same of several contexts if that takes neither a disk nor time."""
        versions: dict[int, Hashable] = {}
        found: list[Piece] = []
        for context in contexts:
            known = self._maps.get(id(context))
            windows = None if known is None else known.kept(start, end, versions)
            if windows is None:
                return None
            found.append(piece(windows, start, end, limit))
        return found

    def pieces(
        self, contexts: tuple[MetaContext, ...], start: int, end: int, limit: int
    ) -> list[Piece]:
        """Return the same of several contexts."""
        versions: dict[int, Hashable] = {}
        found: list[Piece] = []
        for context in contexts:
            known = self._maps.get(id(context))
            if known is None:
                windows = [window_of(context.extents(start, end))]
            else:
                windows = known.windows(start, end, limit, versions)
            found.append(piece(windows, start, end, limit))
        return found
