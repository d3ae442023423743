"""A disk that is written, and consumers that back it up, each from a bitmap of its own.

The guest is a client of a writable export; it knows what is on its disk, so every copy can be held
against what the disk was when the backup began. Random numbers come from a seed: a scene with the
same parameters marks, copies and saves the same bytes with every target.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from nbexport import nbd
from nbexport.bench.images import CLUSTER, write_scattered
from nbexport.bits.patterns import make_writes
from nbexport.emulator.fleecing import PullBackups
from nbexport.errors import UsageError
from nbexport.nbd.copy import copy
from nbexport.units import MiB, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbexport.bits import Extents
    from nbexport.emulator.fleecing import PullBackup
    from nbexport.emulator.targets import Target

DISK, GUEST = "disk", "guest"
SIZE_MAX = 1024 * MiB
"""The guest keeps its disk in memory, and copies are compared as a whole."""
_ZEROED = 5
"""Every so many writes the guest zeroes instead, as a file system does that trims."""
_ZERO_FLAG = 2
_PIECE = MiB


class Guest:
    """What writes the disk, and knows what is on it.

    Args:
        uri: a writable export.
        seed: of its random numbers.

    Attributes:
        disk: its content.
    """

    def __init__(self, uri: str, seed: int) -> None:
        self._client = nbd.Client.connect(uri, contexts=())
        self._seed = seed
        self._random = np.random.default_rng(seed)
        self._works = 0
        self.disk = bytearray(self._client.read(0, self._client.export_size))

    def fill(self, length: int) -> None:
        """Write the beginning of the disk."""
        self._write(0, self._random.bytes(length))

    def work(self, writes: int, pattern: str) -> int:
        """Write here and there, and zero some; return how many bytes that were.

        Raises:
            UsageError: there is no such pattern (`nbexport.bits.patterns.make_writes`).
            PeerError: the server failed.
        """
        size = len(self.disk)
        found = make_writes(pattern, size, writes, seed=self._seed, day=self._works)
        self._works += 1
        for number, (offset, length) in enumerate(zip(*(a.tolist() for a in found), strict=True)):
            length = min(length, size - offset)
            if number % _ZEROED == _ZEROED - 1:
                self._client.write_zeroes(offset, length)
                self.disk[offset : offset + length] = bytes(length)
            else:
                self._write(offset, self._random.bytes(length))
        return int(found[1].sum())

    def _write(self, offset: int, data: bytes) -> None:
        self._client.write(offset, data)
        self.disk[offset : offset + len(data)] = data

    def digest(self) -> str:
        """Return what is on the disk now, in a word."""
        return hashlib.sha256(self.disk).hexdigest()

    def close(self) -> None:
        """Leave the server."""
        self._client.close()


@dataclass(frozen=True)
class Fetched:
    """What a consumer fetched of one backup.

    Attributes:
        consumer: its name.
        bitmap: what told the changes; None for a full backup.
        maps: of the backup's export: the allocation and the bitmap.
        in_use: bytes that a full backup would have read: those that are not known to be zeroes.
        marked: bytes that were to be brought up to date.
        copied: bytes that were read; the rest of the marked ones are zeroes.
        same: whether the copy is what the disk was when the backup began.
    """

    consumer: str
    bitmap: str | None
    maps: Mapping[str, Extents]
    in_use: int
    marked: int
    copied: int
    same: bool

    @property
    def saved(self) -> int:
        """Bytes that a full backup would have read and this one did not."""
        return self.in_use - self.copied


@dataclass
class Consumer:
    """Somebody who keeps a copy of the disk.

    Attributes:
        name: of it, and of its bitmaps.
        file: its copy.
        began: how many backups it has begun.
        bitmap: records what its next backup has to copy; None before the first.
        state: the digest of the disk when the last backup began that succeeded.
    """

    name: str
    file: Path
    began: int = 0
    bitmap: str | None = None
    state: str = ""


class Scene:
    """A target with a disk, a guest that writes it, and whoever backs it up.

    A context manager that takes everything down but the target.

    Args:
        target: who has the disk.
        size: of the disk in bytes: whole clusters of 64 KiB, from 4 MiB to 1 GiB.
        filled: the part of it that is in use from the beginning.
        seed: of the random numbers.

    Raises:
        UsageError: the size or the part is not possible, or the target refuses.
        PeerError: the target failed.

    Attributes:
        guest: who writes.
        pulls: the backups, and the commands that were sent for them.
    """

    def __init__(self, target: Target, size: int, *, filled: float = 0.25, seed: int = 1) -> None:
        if size % CLUSTER or not 4 * MiB <= size <= SIZE_MAX or not 0 <= filled <= 1:
            raise UsageError(
                f"a disk of {size} bytes, {filled} of it in use: whole clusters of 64 KiB, "
                f"4 MiB to {format_size(SIZE_MAX)}, and a part from 0 to 1 are possible"
            )
        self._target = target
        self._size = size
        # the disk's digests when the backups began that are under way
        self._states: dict[str, str] = {}
        with contextlib.ExitStack() as undo:
            self._folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="nbexport-")))
            self._open(DISK)
            address = {"type": "unix", "data": {"path": str(target.nbd_socket)}}
            self._ask("nbd-server-start", {"addr": address})
            self.pulls = PullBackups(target, DISK)
            self._export(DISK, GUEST)
            self.guest = Guest(target.nbd_uri(GUEST), seed)
            undo.callback(self.guest.close)
            self.guest.fill(int(size * filled) // CLUSTER * CLUSTER)
            self._undo = undo.pop_all()

    def consumer(self, name: str) -> Consumer:
        """Return somebody who has no backup yet."""
        return Consumer(name, self._folder / f"{name}.raw")

    def begin(self, consumer: Consumer) -> PullBackup:
        """Begin the next backup of a consumer: the first is a full one.

        Raises:
            UsageError: the target refuses.
        """
        name = f"{consumer.name}-{consumer.began}"
        scratch = self._image(f"{name}.qcow2")
        following = f"{consumer.name}-since-{consumer.began}"
        self._states[name] = self.guest.digest()
        backup = self.pulls.begin(name, scratch, since=consumer.bitmap, following=following)
        consumer.began += 1
        consumer.bitmap = following
        return backup

    def back_up(
        self, *consumers: Consumer, meanwhile: int = 0, pattern: str = "mixed"
    ) -> list[Fetched]:
        """Begin a backup for each consumer, let the guest go on writing, then fetch them.

        Args:
            consumers: whose backups are under way at the same time.
            meanwhile: what the guest writes after they began, see `Guest.work`.
            pattern: of these writes.

        Raises:
            UsageError: the target refuses; up to QEMU 4.1 it has one backup of a disk at a time.
            PeerError: it failed.
        """
        begun = [(consumer, self.begin(consumer)) for consumer in consumers]
        self.guest.work(meanwhile, pattern)
        return [self.fetch(consumer, backup) for consumer, backup in begun]

    def fetch(self, consumer: Consumer, backup: PullBackup) -> Fetched:
        """Bring the consumer's copy up to date, and end the backup.

        Raises:
            UsageError: the target refuses.
            PeerError: it failed.
        """
        wanted = [nbd.BASE_ALLOCATION]
        if backup.since is not None:
            wanted.append(nbd.dirty_bitmap_name(backup.since))
        with nbd.Client.connect(backup.uri, contexts=wanted) as client:
            maps = client.map()
        zeroes = maps[nbd.BASE_ALLOCATION].map_flags(lambda flags: flags & np.uint32(_ZERO_FLAG))
        copied = copy(backup.uri, consumer.file, bitmap=backup.since)
        self.pulls.end(backup)
        consumer.state = self._states.pop(backup.name)
        same = _digest(consumer.file) == consumer.state
        return Fetched(consumer.name, backup.since, maps, zeroes.total(0), copied.selected,
                       copied.transferred, same)  # fmt: skip

    def fail(self, consumer: Consumer, backup: PullBackup) -> None:
        """End a backup of which nothing arrived: the next one has to make up for it.

        Raises:
            UsageError: the target refuses.
        """
        self._states.pop(backup.name)
        self.pulls.end(backup, succeeded=False)
        if backup.since is None:
            consumer.bitmap = None

    def restore(self, consumer: Consumer) -> bool:
        """Write a consumer's copy to a new disk; return whether that is the disk of the backup.

        Raises:
            UsageError: the target refuses, or there is no copy.
            PeerError: it failed.
        """
        if not consumer.state:
            raise UsageError(f"{consumer.name} has no backup to restore")
        name = f"{consumer.name}-restored"
        self._open(name)
        self._export(name, name)
        with nbd.Client.connect(self._target.nbd_uri(name), contexts=()) as client:
            with consumer.file.open("rb") as file:
                for offset in range(0, self._size, _PIECE):
                    piece = file.read(_PIECE)
                    if any(piece):
                        client.write(offset, piece)
            client.flush()
            found = hashlib.sha256(client.read(0, self._size)).hexdigest()
        return found == consumer.state

    def close(self) -> None:
        """Let the guest go, stop the server and give up the files. Safe to call twice."""
        self.guest.close()
        self._target.ask("nbd-server-stop")
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _image(self, name: str) -> Path:
        return write_scattered(self._folder / name, self._size, 0, bitmaps=()).path

    def _open(self, node: str) -> None:
        file = {"driver": "file", "filename": str(self._image(f"{node}.qcow2"))}
        self._ask("blockdev-add", {"driver": "qcow2", "node-name": node, "discard": "unmap",
                                   "file": file})  # fmt: skip

    def _export(self, node: str, name: str) -> None:
        if self.pulls.named:
            export = {"type": "nbd", "id": name, "node-name": node, "name": name}
            self._ask("block-export-add", export | {"writable": True})
        else:
            self._ask("nbd-server-add", {"device": node, "name": name, "writable": True})

    def _ask(self, command: str, arguments: Mapping[str, object]) -> None:
        reply = self._target.ask(command, arguments)
        if "error" in reply:
            raise UsageError(f"{self._target.name} refuses {command}: {reply['error']['desc']}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
