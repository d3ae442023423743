"""Pull backups of a disk that goes on being written: which commands, in which order.

The disk's old data are copied to an overlay, the *scratch*, before a write reaches them (a backup
job with ``sync`` ``none``), so the scratch, read through to the disk, shows the disk as it was
when the job began. It is exported with the bitmap of what changed since the backup before; a
bitmap for the next backup begins in the same transaction, so no write falls between the two.

Source: QEMU's manual, *Dirty bitmaps and incremental backup*, and the order in which libvirt's
``virDomainBackupBegin`` asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbexport.errors import PeerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from nbexport.emulator.targets import Target

Command = tuple[str, dict[str, Any]]
"""A command and its arguments as on the wire."""

_CANCELLED = "concluded"
# Whatever a client that is cut loose had in flight has ended long before this.
_POLLS_MAX = 1000


@dataclass(frozen=True)
class PullBackup:
    """A backup that a client can fetch.

    Attributes:
        name: of the export, and of what was made for it.
        uri: where the client finds it.
        since: the bitmap that says what changed since the backup before; None for a full one.
        following: the bitmap that records for the next one.
    """

    name: str
    uri: str
    since: str | None
    following: str

    @property
    def scratch(self) -> str:
        """The node that keeps what is overwritten while the backup lasts."""
        return f"{self.name}-scratch"

    @property
    def job(self) -> str:
        """The job that brings it there."""
        return f"{self.name}-job"


def checkpoint(node: str, backup: PullBackup) -> Command:
    """Return the transaction that begins a backup: everything happens at one moment.

    Args:
        node: the disk.
        backup: what is to begin; its scratch is open.
    """
    bitmap = {"node": node}
    actions: list[dict[str, Any]] = []
    if backup.since is not None:
        data = bitmap | {"name": backup.since}
        actions.append({"type": "block-dirty-bitmap-disable", "data": data})
    new = bitmap | {"name": backup.following, "persistent": True}
    actions.append({"type": "block-dirty-bitmap-add", "data": new})
    job = {"device": node, "target": backup.scratch, "job-id": backup.job, "sync": "none",
           "auto-dismiss": False}  # fmt: skip
    actions.append({"type": "blockdev-backup", "data": job})
    return "transaction", {"actions": actions}


def open_scratch(node: str, backup: PullBackup, image: Path) -> Command:
    """Return the command that lays the scratch over the disk.

    Args:
        node: the disk.
        backup: whose scratch it is.
        image: an empty qcow2 image, as large as the disk.
    """
    return "blockdev-add", {
        "driver": "qcow2",
        "node-name": backup.scratch,
        "backing": node,
        "file": {"driver": "file", "filename": str(image)},
    }


def offer(backup: PullBackup, *, named: bool) -> Command:
    """Return the command that exports a backup to clients.

    Args:
        backup: which one.
        named: whether the release has ``block-export-add``; before 5.2 the older command does it.
    """
    if named:
        bitmaps = {} if backup.since is None else {"bitmaps": [backup.since]}
        export = {"type": "nbd", "id": backup.name, "node-name": backup.scratch}
        return "block-export-add", export | {"name": backup.name} | bitmaps
    one = {} if backup.since is None else {"bitmap": backup.since}
    return "nbd-server-add", {"device": backup.scratch, "name": backup.name} | one


class PullBackups:
    """Begins and ends pull backups of one disk, several at a time if need be.

    Args:
        target: whose monitor is asked; its NBD server runs.
        node: the disk, a node whose bitmaps can be stored.

    Attributes:
        named: whether exports are made by ``block-export-add``.
        log: the commands that were sent, with their replies.
    """

    def __init__(self, target: Target, node: str) -> None:
        self._target = target
        self._node = node
        known = {each["name"] for each in target.qmp.execute("query-commands")}
        self.named = "block-export-add" in known
        self.log: list[tuple[Command, Mapping[str, Any]]] = []

    def begin(self, name: str, scratch: Path, *, since: str | None, following: str) -> PullBackup:
        """Begin a backup: from this moment on its export shows the disk as it is now.

        Args:
            name: of the export.
            scratch: an empty qcow2 image, as large as the disk.
            since: the bitmap that recorded until now, None for a full backup.
            following: the bitmap that records from now on; it must not exist.

        Raises:
            UsageError: the target refuses; nothing of the backup is left.
        """
        backup = PullBackup(name, self._target.nbd_uri(name), since, following)
        self._do(open_scratch(self._node, backup, scratch))
        try:
            self._do(checkpoint(self._node, backup))
        except UsageError:
            self._do(("blockdev-del", {"node-name": backup.scratch}))
            raise
        try:
            self._do(offer(backup, named=self.named))
        except UsageError:
            self._end_job(backup)
            self._settle_bitmaps(backup, succeeded=False)
            raise
        return backup

    def end(self, backup: PullBackup, *, succeeded: bool = True) -> None:
        """End a backup, whatever its client does.

        The bitmap of a backup that succeeded is of no use any more. That of one that did not is
        merged into its successor: the next backup copies what this one should have copied.

        Raises:
            UsageError: the target refuses.
            PeerError: it does not come to an end.
        """
        name = "id" if self.named else "name"
        command = "block-export-del" if self.named else "nbd-server-remove"
        self._do((command, {name: backup.name, "mode": "hard"}))
        self._wait_for_export(backup)
        self._end_job(backup)
        self._settle_bitmaps(backup, succeeded=succeeded)

    def _settle_bitmaps(self, backup: PullBackup, *, succeeded: bool) -> None:
        if backup.since is None:
            if not succeeded:
                # There is nothing that an increment could follow.
                self._bitmap("remove", name=backup.following)
            return
        if not succeeded:
            self._bitmap("merge", target=backup.following, bitmaps=[backup.since])
        self._bitmap("remove", name=backup.since)

    def _end_job(self, backup: PullBackup) -> None:
        self._do(("job-cancel", {"id": backup.job}))
        while True:
            told = self._target.qmp.wait_event("JOB_STATUS_CHANGE")["data"]
            if told == {"id": backup.job, "status": _CANCELLED}:
                break
        self._do(("job-dismiss", {"id": backup.job}))
        self._do(("blockdev-del", {"node-name": backup.scratch}))

    def _wait_for_export(self, backup: PullBackup) -> None:
        """Wait until an export is gone; before 5.2 it is when the reply comes."""
        for _ in range(_POLLS_MAX if self.named else 0):
            exports = self._target.qmp.execute("query-block-exports")
            if all(export["id"] != backup.name for export in exports):
                return
        if self.named:
            raise PeerError(f"{self._target.name}: export '{backup.name}' does not go")

    def _bitmap(self, verb: str, **arguments: str | Sequence[str]) -> None:
        self._do((f"block-dirty-bitmap-{verb}", {"node": self._node, **arguments}))

    def _do(self, command: Command) -> None:
        reply = self._target.ask(*command)
        self.log.append((command, reply))
        if "error" in reply:
            text = reply["error"]["desc"]
            raise UsageError(f"{self._target.name} refuses {command[0]}: {text}")
