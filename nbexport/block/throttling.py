"""throttle: a filter that lets so many bytes and requests pass a second, alone or with others.

Each limit is a bucket that leaks at its rate. A request waits until no bucket that counts it is
too full, and is counted then; so a long one passes at once, and those behind it wait. Without a
burst a bucket holds what leaks in a tenth of a second; with one, as much as the burst's rate brings
in its time, and a second bucket keeps that rate.

Source: QEMU's ``docs/throttle.txt``; ``ThrottleLimits`` in ``qapi/block-core.json``.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from nbexport.block.passing import FilterNode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nbexport.block.node import BlockNode

KINDS: Final = ("bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write")
VALUE_MAX: Final = 1_000_000_000_000_000
"""The largest limit that can be set."""
_LENGTH_MAX: Final = (1 << 32) - 1
_NO_BURST: Final = 10
"""The part of a second whose leak a bucket holds without a burst, and one of a burst."""


@dataclass
class Bucket:
    """One limit.

    Attributes:
        average: what leaks a second, 0 for no limit.
        most: what may come a second in a burst, 0 for none.
        length: seconds that a burst may last.
        level: what is in it.
        burst_level: what is in the second one, of a burst that lasts.
    """

    average: int = 0
    most: int = 0
    length: int = 1
    level: float = 0.0
    burst_level: float = 0.0

    def leak(self, seconds: float) -> None:
        """Let so much time pass."""
        self.level = max(0.0, self.level - self.average * seconds)
        if self.length > 1:
            self.burst_level = max(0.0, self.burst_level - self.most * seconds)

    def wait(self) -> float:
        """Return how many seconds it takes until a request may pass."""
        if not self.average:
            return 0.0
        if not self.most:
            return max(0.0, self.level - self.average / _NO_BURST) / self.average
        size = self.most * self.length
        if self.level > size:
            return (self.level - size) / self.average
        if self.length > 1:
            extra = self.burst_level - self.most / _NO_BURST
            return max(0.0, extra) / self.most
        return 0.0

    def take(self, units: float) -> None:
        """Count a request that passes."""
        self.level += units
        if self.length > 1:
            self.burst_level += units


@dataclass
class Configuration:
    """The limits of a group; names are those of `KINDS`."""

    buckets: dict[str, Bucket] = field(default_factory=lambda: {kind: Bucket() for kind in KINDS})
    iops_size: int = 0

    def copy(self) -> Configuration:
        """Return the same limits with empty buckets."""
        return Configuration(
            {
                kind: Bucket(bucket.average, bucket.most, bucket.length)
                for kind, bucket in self.buckets.items()
            },
            self.iops_size,
        )

    @property
    def is_enabled(self) -> bool:
        """Whether anything is limited."""
        return any(bucket.average for bucket in self.buckets.values())

    def update(self, limits: Mapping[str, int]) -> None:
        """Set what is given, as in QEMU's ``ThrottleLimits``.

        Raises:
            ValueError: a length does not fit; QEMU's text.
        """
        for name, value in limits.items():
            if name == "iops-size":
                self.iops_size = value
            elif name.endswith("-max-length"):
                if value > _LENGTH_MAX:
                    text = f"{name} value must be in the range [0, {_LENGTH_MAX}]"
                    raise ValueError(text)
                self.buckets[name.removesuffix("-max-length")].length = value % (_LENGTH_MAX + 1)
            elif name.endswith("-max"):
                self.buckets[name.removesuffix("-max")].most = value
            else:
                self.buckets[name].average = value

    def limits(self) -> dict[str, int]:
        """Return all as QEMU's ``ThrottleLimits``."""
        found = {}
        for kind in sorted(KINDS, key=lambda kind: kind.startswith("bps")):
            bucket = self.buckets[kind]
            found[kind] = bucket.average
            found[f"{kind}-max"] = bucket.most
            found[f"{kind}-max-length"] = bucket.length
        found["iops-size"] = self.iops_size
        return found

    def check(self) -> None:
        """Raise ValueError unless the limits go together; QEMU's texts."""
        by = self.buckets

        def both(what: str, attribute: str) -> bool:
            total = getattr(by[f"{what}-total"], attribute)
            parts = [getattr(by[f"{what}-{way}"], attribute) for way in ("read", "write")]
            return bool(total and any(parts))

        if any(both(what, name) for what in ("bps", "iops") for name in ("average", "most")):
            raise ValueError(
                "bps/iops/max total values and read/write values cannot be used at the same time"
            )
        limited = any(by[kind].average for kind in KINDS if kind.startswith("iops"))
        if self.iops_size and not limited:
            raise ValueError("iops size requires an iops value to be set")
        for bucket in by.values():
            self._check_bucket(bucket)

    @staticmethod
    def _check_bucket(bucket: Bucket) -> None:
        if not (0 <= bucket.average <= VALUE_MAX and 0 <= bucket.most <= VALUE_MAX):
            raise ValueError(f"bps/iops/max values must be within [0, {VALUE_MAX}]")
        if not bucket.length:
            raise ValueError("the burst length cannot be 0")
        if bucket.length > 1 and not bucket.most:
            raise ValueError("burst length set without burst rate")
        if bucket.most and bucket.length > VALUE_MAX // bucket.most:
            raise ValueError("burst length too high for this burst rate")
        if bucket.most and not bucket.average:
            raise ValueError("bps_max/iops_max require corresponding bps/iops values")
        if bucket.most and bucket.most < bucket.average:
            raise ValueError("bps_max/iops_max cannot be lower than bps/iops")


@dataclass(eq=False)
class _Ticket:
    """A request that waits.

    Attributes:
        node: of which disk it is.
        passes: whether it need not wait any more.
    """

    node: ThrottleNode
    passes: bool = False


class ThrottleGroup:
    """Limits that several disks share; requests pass in the order in which they come.

    Args:
        configuration: the limits.

    Attributes:
        configuration: the limits as they are now.
        members: the disks that share them.
    """

    def __init__(self, configuration: Configuration | None = None) -> None:
        self.configuration = configuration or Configuration()
        self._changed = threading.Condition()
        self._queues: dict[bool, list[_Ticket]] = {False: [], True: []}
        self._since = time.monotonic()
        self.members: list[ThrottleNode] = []

    def configure(self, configuration: Configuration) -> None:
        """Have other limits from now on, with empty buckets."""
        with self._changed:
            self.configuration = configuration
            self._since = time.monotonic()
            self._changed.notify_all()

    def release(self, node: ThrottleNode | None = None) -> None:
        """Let those that wait pass at once: all, or those of one disk."""
        with self._changed:
            for queue in self._queues.values():
                for ticket in queue:
                    ticket.passes |= node is None or ticket.node is node
            self._changed.notify_all()

    def _counting(self, *, write: bool) -> Iterator[tuple[Bucket, bool]]:
        """Yield the buckets that count a request, and whether in bytes."""
        for what in ("bps", "iops"):
            for which in ("total", "write" if write else "read"):
                yield self.configuration.buckets[f"{what}-{which}"], what == "bps"

    def pass_through(self, length: int, node: ThrottleNode, *, write: bool) -> None:
        """Wait until a request of ``length`` bytes may pass, and count it."""
        ticket = _Ticket(node)
        queue = self._queues[write]
        with self._changed:
            queue.append(ticket)
            try:
                while not (node.is_unlimited or ticket.passes):
                    delay = self._delay(write=write) if queue[0] is ticket else None
                    if delay == 0:
                        break
                    self._changed.wait(delay)
                for bucket, in_bytes in self._counting(write=write):
                    bucket.take(length if in_bytes else self._operations(length))
            finally:
                queue.remove(ticket)
                self._changed.notify_all()

    def _delay(self, *, write: bool) -> float:
        now = time.monotonic()
        for bucket in self.configuration.buckets.values():
            bucket.leak(now - self._since)
        self._since = now
        return max(bucket.wait() for bucket, _ in self._counting(write=write))

    def _operations(self, length: int) -> float:
        size = self.configuration.iops_size
        return length / size if size and length > size else 1.0


class ThrottleNode(FilterNode):
    """A disk that is the node below, as fast as a group allows.

    Args:
        file: the node below.
        group: the limits.

    Attributes:
        group: the limits.
        is_unlimited: whether requests pass at once, as they do when the disk is to be quiet.
    """

    driver: ClassVar[str] = "throttle"

    def __init__(self, file: BlockNode, group: ThrottleGroup) -> None:
        super().__init__(file)
        self.group = group
        self.is_unlimited = False
        group.members.append(self)

    def join(self, group: ThrottleGroup) -> None:
        """Have the limits of another group from now on."""
        self._leave()
        self.group = group
        group.members.append(self)

    def _leave(self) -> None:
        if self in self.group.members:
            self.group.members.remove(self)

    def _close_own(self) -> None:
        self._leave()

    def lift(self) -> None:
        """Let all pass that wait, and whatever comes, at once."""
        self.is_unlimited = True
        self.group.release(self)

    def drain(self) -> None:
        """Let all pass at once that wait now."""
        self.group.release(self)

    def _read(self, offset: int, buffer: memoryview) -> None:
        self.group.pass_through(len(buffer), self, write=False)
        super()._read(offset, buffer)

    def _write(self, offset: int, data: memoryview) -> None:
        self.group.pass_through(len(data), self, write=True)
        super()._write(offset, data)

    def _write_compressed(self, offset: int, data: memoryview) -> None:
        self.group.pass_through(len(data), self, write=True)
        super()._write_compressed(offset, data)

    def _write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        self.group.pass_through(length, self, write=True)
        super()._write_zeroes(offset, length, unmap=unmap, no_fallback=no_fallback)

    def _discard(self, offset: int, length: int) -> None:
        self.group.pass_through(length, self, write=True)
        super()._discard(offset, length)
