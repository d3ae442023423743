"""The order in which a process has registered its commands, which ``query-commands`` shows.

The schema's modules are cut otherwise than QEMU's, so their order does not tell. This is 7.2's;
what 7.2 does not have stands beside its like. Clients look for names, not for places.
"""

from __future__ import annotations

_REGISTERED = (
    "query-status", "eject", "block_set_io_throttle",
    "query-block", "query-block-jobs", "block_resize",
    "blockdev-snapshot-sync", "blockdev-snapshot", "change-backing-file", "block-commit",
    "drive-backup", "blockdev-backup", "query-named-block-nodes", "drive-mirror",
    "block-dirty-bitmap-add", "block-dirty-bitmap-remove", "block-dirty-bitmap-clear",
    "block-dirty-bitmap-enable", "x-block-dirty-bitmap-enable",
    "block-dirty-bitmap-disable", "x-block-dirty-bitmap-disable",
    "block-dirty-bitmap-merge", "x-block-dirty-bitmap-merge", "x-debug-block-dirty-bitmap-sha256",
    "blockdev-mirror", "block-stream",
    "block-job-set-speed", "block-job-cancel", "block-job-pause", "block-job-resume",
    "block-job-complete", "block-job-dismiss", "block-job-finalize", "block-job-change",
    "blockdev-add", "x-blockdev-reopen", "blockdev-reopen", "x-blockdev-del", "blockdev-del",
    "blockdev-create", "x-blockdev-set-iothread",
    "job-pause", "job-resume", "job-cancel", "job-complete", "job-dismiss", "job-finalize",
    "query-jobs",
    "nbd-server-start", "nbd-server-add", "x-nbd-server-add-bitmap", "nbd-server-remove",
    "nbd-server-stop", "block-export-add", "block-export-del", "query-block-exports",
    "transaction",
    "qmp_capabilities", "query-version", "query-commands", "quit", "query-qmp-schema",
    "qom-get", "qom-set", "qom-list-types", "object-add", "object-del",
    "device_del", "system_reset", "stop", "cont", "human-monitor-command", "device_add",
)  # fmt: skip
_LAST_OF_DAEMON = "transaction"


def registered(*, system: bool) -> list[str]:
    """Return the names of commands, the one that was registered first at the beginning.

    Args:
        system: whether the process is a system emulator; the storage daemon has another last one.
    """
    names = list(_REGISTERED)
    if not system:
        names.remove(_LAST_OF_DAEMON)
        names.append(_LAST_OF_DAEMON)
    return names
