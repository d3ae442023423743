"""Events that a guest could cause too often: at most one in a period goes out, the last one.

The first event of its kind is sent at once and starts a period. Of those that come meanwhile the
last is kept and sent when the period ends, which starts another one. Kinds are told apart by
name, some also by a member of their data. No clock: times are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Keys come from a guest's devices; one more is sent unthrottled rather than remembered. An entry
# is some 500 bytes, the event's data included: 2 MB.
MAX_KEYS = 4096


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How often an event may be sent.

    Attributes:
        period: the shortest time between two of a kind, in seconds.
        key: the member of the data that tells kinds apart; None if all are one.
    """

    period: float = 1.0
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Emission:
    """An event to be sent.

    Attributes:
        event: its name.
        data: its data.
        stamp: when it happened, seconds since 1970 and microseconds.
    """

    event: str
    data: Mapping[str, Any] | None
    stamp: tuple[int, int]


@dataclass(slots=True)
class _Period:
    """A running period of one kind of event, and the event that waits for its end."""

    ends: float
    waiting: Emission | None = None


class Throttle:
    """The rate limits of all monitors of a process together.

    Args:
        limits: of the events that have one.
    """

    def __init__(self, limits: Mapping[str, RateLimit]) -> None:
        self._limits = limits
        self._periods: dict[tuple[str, Any], _Period] = {}

    def submit(self, emission: Emission, now: float) -> list[Emission]:
        """Take an event.

        Args:
            emission: the event.
            now: a time that never goes back, in seconds.

        Returns:
            What is to be sent now, in order: what was due, and the event if nothing holds it back.
        """
        limit = self._limits.get(emission.event)
        if limit is None:
            return [emission]
        due = self.expire(now)
        value = (emission.data or {}).get(limit.key) if limit.key is not None else None
        kind = (emission.event, value if isinstance(value, str | int) else None)
        running = self._periods.get(kind)
        if running is not None:
            running.waiting = emission
            return due
        if len(self._periods) < MAX_KEYS:
            self._periods[kind] = _Period(now + limit.period)
        return [*due, emission]

    def expire(self, now: float) -> list[Emission]:
        """End the periods that are over; return what waited for that, oldest period first."""
        over = [(period.ends, kind) for kind, period in self._periods.items() if period.ends <= now]
        due = []
        for _, kind in sorted(over, key=lambda entry: entry[0]):
            period = self._periods[kind]
            if period.waiting is None:
                del self._periods[kind]
                continue
            due.append(period.waiting)
            period.waiting = None
            period.ends = now + self._limits[kind[0]].period
        return due

    @property
    def next_time(self) -> float | None:
        """When `expire` has to be called next; None if no event waits."""
        return min((p.ends for p in self._periods.values() if p.waiting is not None), default=None)
