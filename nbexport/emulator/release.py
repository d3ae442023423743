"""What the emulated release knows and how it behaves where releases differ.

One table instead of scattered conditions: a command asks the release a question, and the answer
names the first release for which it holds. Stable releases count: a fix that was carried back to
7.2.9 holds there, although 8.0.0 does not have it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nbexport.emulator.branches import Version, parse_version
from nbexport.nbd import QEMU_7_2, QEMU_8_2, Profile, wire
from nbexport.qmp import RateLimit

if TYPE_CHECKING:
    from collections.abc import Mapping

# Events that a guest can cause as often as it likes: since when there is a limit, and which.
_RATE_LIMITS: Mapping[str, tuple[Version, RateLimit]] = {
    "RTC_CHANGE": ((2, 12, 0), RateLimit()),
    "WATCHDOG": ((2, 12, 0), RateLimit()),
    "BALLOON_CHANGE": ((2, 12, 0), RateLimit()),
    "QUORUM_REPORT_BAD": ((2, 12, 0), RateLimit()),
    "QUORUM_FAILURE": ((2, 12, 0), RateLimit()),
    "VSERPORT_CHANGE": ((2, 12, 0), RateLimit(key="id")),
    "MEMORY_DEVICE_SIZE_CHANGE": ((5, 1, 0), RateLimit(key="qom-path")),
    "HV_BALLOON_STATUS_REPORT": ((8, 2, 0), RateLimit()),
}


@dataclass(frozen=True, order=True)
class Release:
    """A QEMU release, by its number.

    Attributes:
        version: major, minor and micro number.
    """

    version: Version

    @classmethod
    def parse(cls, text: str) -> Release:
        """Return the release that ``text`` names: ``7.2`` or ``7.2.14``.

        Raises:
            UsageError: it is no release number, or the interface of that release is not known.
        """
        return cls(parse_version(text))

    @property
    def branch(self) -> str:
        """Major and minor number: the name of the interface's folder."""
        return f"{self.version[0]}.{self.version[1]}"

    def __str__(self) -> str:
        return ".".join(map(str, self.version))

    def _has(self, *since: Version) -> bool:
        """Whether a change is in this release that came with any of ``since``.

        The highest is the release of the main line; the others are stable releases that carried it
        back, each for its own branch only.
        """
        *stable, main = sorted(since)
        return self.version >= main or any(
            self.version[:2] == fix[:2] and self.version >= fix for fix in stable
        )

    @property
    def max_connections(self) -> int:
        """Default of ``nbd-server-start``'s ``max-connections``; 0 is no limit."""
        return 100 if self._has((9, 1, 0), (9, 0, 3), (8, 2, 7), (7, 2, 14)) else 0

    @property
    def handshake_seconds(self) -> float:
        """How long a client may take to finish the handshake; 0 is no limit."""
        return 10.0 if self._has((9, 1, 0), (9, 0, 3), (8, 2, 7), (7, 2, 14)) else 0.0

    @property
    def deletes_before_reply(self) -> bool:
        """Whether BLOCK_EXPORT_DELETED of an idle export precedes the reply that deleted it."""
        return self._has((9, 0, 0), (8, 2, 1), (7, 2, 9))

    @property
    def multi_conn_by_limit(self) -> bool:
        """Whether exports offer several connections unless the server is limited to one.

        Before, all read-only exports offered it and no writable one.
        """
        return self._has((7, 1, 0))

    @property
    def names_both_users(self) -> bool:
        """Whether a conflict of permissions is told with both users and the node."""
        return self._has((6, 1, 0))

    @property
    def enabled_before_state(self) -> bool:
        """Whether exporting a bitmap checks enabled against read-only before the bitmap's state."""
        return self._has((7, 1, 0))

    @property
    def merges_one_by_one(self) -> bool:
        """Whether bitmaps are merged into the target itself, checked for each, and sizes told.

        Before, they were merged beside it, and the target was looked at in the end.
        """
        return self._has((7, 0, 0))

    @property
    def checks_grouping_first(self) -> bool:
        """Whether a transaction refuses a completion mode before its first action."""
        return self._has((8, 1, 0))

    @property
    def backup_filter(self) -> str | None:
        """The driver of the node that a backup puts above its source; None if there is none."""
        if self._has((6, 2, 0)):
            return "copy-before-write"
        return "backup-top" if self._has((4, 2, 0)) else None

    @property
    def backs_up_bitmaps(self) -> bool:
        """Whether blockdev-backup can be told of a bitmap; before, only of a drive's backup."""
        return self._has((4, 2, 0))

    @property
    def backups_compare_sizes(self) -> bool:
        """Whether a backup is refused whose target is larger or smaller than its source."""
        return self._has((5, 1, 0))

    @property
    def job_cancel_stops(self) -> bool:
        """Whether job-cancel stops a job that is ready in the middle, too."""
        return self._has((6, 2, 0))

    @property
    def ends_idle_jobs_at_once(self) -> bool:
        """Whether a job that has nothing to copy ends before the reply to the command.

        Since 8.0 the end of a drained section lets nothing else happen.
        """
        return not self._has((8, 0, 0))

    @property
    def filter_lists_bitmaps(self) -> bool:
        """Whether such a node has bitmaps of what it copied and of what may be asked for."""
        return self._has((7, 0, 0))

    # What a monitor offers, and how it speaks.

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the greeting offers; before 4.0 oob had to be asked for (``x-oob``)."""
        return ("oob",) if self._has((4, 0, 0)) else ()

    @property
    def has_compat(self) -> bool:
        """Whether there is ``-compat``."""
        return self._has((6, 0, 0))

    @property
    def rate_limits(self) -> dict[str, RateLimit]:
        """The events that are sent at most once in a period."""
        return {event: limit for event, (since, limit) in _RATE_LIMITS.items() if self._has(since)}

    # Before block-export-add, exports were the NBD server's alone.

    @property
    def exports_have_ids(self) -> bool:
        """Whether exports are found by an id of the monitor's, and their end is an event."""
        return self._has((5, 2, 0))

    @property
    def first_bitmap_id(self) -> int:
        """The number of the metadata context of an export's first bitmap."""
        return 2 if self._has((5, 2, 0)) else 1

    @property
    def checks_name_length(self) -> bool:
        """Whether a name that the protocol does not allow is refused when the export is added."""
        return self._has((4, 2, 0))

    @property
    def stop_needs_server(self) -> bool:
        """Whether stopping no NBD server is an error."""
        return self._has((4, 0, 0))

    @property
    def shares_readonly(self) -> bool:
        """Whether a read-only export offers several connections at all."""
        return self._has((4, 2, 0))

    @property
    def refuses_second_unplug(self) -> bool:
        """Whether a device that was asked to leave is not asked again."""
        return self._has((5, 0, 0))

    # Objects and TLS.

    @property
    def describes_objects(self) -> bool:
        """Whether the schema has the properties of objects; before, each checked its own."""
        return self._has((6, 0, 0))

    @property
    def takes_flat_objects(self) -> bool:
        """Whether an object's properties may stand beside its type and id."""
        return self._has((5, 0, 0))

    @property
    def checks_object_ids(self) -> bool:
        """Whether an object's id must be well-formed when it comes over QMP."""
        return self._has((6, 0, 0))

    @property
    def names_object_type(self) -> bool:
        """Whether an unknown property is told with the type of the object."""
        return self._has((5, 2, 0))

    @property
    def sets_loaded(self) -> bool:
        """Whether ``loaded`` of secrets and credentials may be given, without effect."""
        return not self._has((7, 0, 0))

    @property
    def unknown_types(self) -> frozenset[str]:
        """Types of objects that others extend from a later release on."""
        later = {"secret_common": (5, 1, 0), "event-loop-base": (7, 1, 0)}
        return frozenset(name for name, since in later.items() if not self._has(since))

    def wrong_endpoint_text(self, side: str) -> str:
        """Return the refusal of credentials of the other side.

        Args:
            side: whose are wanted, ``server`` or ``client``.
        """
        if self._has((6, 1, 0)):
            return f"Expected TLS credentials for a {side} endpoint"
        return f"Expecting TLS credentials with a {side} endpoint"

    @property
    def tls_needs_inet(self) -> bool:
        """Whether the NBD server speaks TLS on TCP only."""
        return not self._has((7, 0, 0))

    @property
    def reopens_several(self) -> bool:
        """Whether nodes are reopened together, and get another file by reference.

        Before, the command was unstable, and told a missing node in other words.
        """
        return self._has((6, 1, 0))

    @property
    def nbd_profile(self) -> Profile:
        """How the NBD server behaves."""
        if self._has((8, 2, 0)):
            return QEMU_8_2
        unknown = 0 if self._has((4, 2, 0)) else wire.SEND_FAST_ZERO
        unknown |= 0 if self._has((3, 0, 0)) else wire.SEND_CACHE
        return replace(QEMU_7_2, unknown_flags=unknown)
