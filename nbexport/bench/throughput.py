"""How fast block status is: requests and extents a second, against what makes it slow.

A `Bench` serves images of a given size and density by each server that is installed, and asks all
of them for the same. Each has told the whole map before: what is measured is not the reading of
the image, which `Bench.map_times` tells. The best of some rounds counts, in which the servers
take turns: whatever else a machine does only makes it slower.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from nbexport.bench.images import CLUSTER, write_pieces, write_scattered
from nbexport.bench.load import pump, requests
from nbexport.bench.servers import OURS, Disk, Server, available, can_serve
from nbexport.errors import PeerError, UsageError
from nbexport.nbd import BASE_ALLOCATION, Client, dirty_bitmap_name, wire
from nbexport.units import MiB, align_down

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nbexport.bits import Extents

CONTEXTS = ("base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0")
"""What an image of the bench offers, besides a second bitmap."""

_CHUNK_BYTES = 20 + 4
"""Of each block-status chunk: its header and the number of the context."""
_EXTENT_BYTES = 8
_WARM_REQUESTS = 200
_SECONDS = 0.06
"""How long one sample asks, about."""
_REQUESTS_MAX = 20_000
_REPLIES_MAX = 256 * MiB
"""Bytes of replies in one sample: requests of a whole dense disk are few."""


@dataclass(frozen=True)
class Workload:
    """What is asked of which disk.

    Attributes:
        size: of the disk, in bytes.
        share: which part of its clusters is allocated, and dirty.
        run: clusters of 64 KiB that lie side by side.
        contexts: what is selected.
        length: bytes of a request.
        depth: requests in flight.
        raw: a raw image with pieces of data and holes, which every server knows, instead of a
            qcow2 image with bitmaps.
    """

    size: int = 64 << 30
    share: float = 0.01
    run: int = 1
    contexts: tuple[str, ...] = CONTEXTS
    length: int = MiB
    depth: int = 16
    raw: bool = False

    @property
    def blocks(self) -> int:
        """Allocated clusters, or pieces of data."""
        runs = round(self.size // CLUSTER * self.share / self.run)
        return max(1, runs) * self.run


@dataclass(frozen=True)
class Rate:
    """What a server did.

    Attributes:
        server: its name.
        workload: what was asked.
        requests: a second.
        extents: a second, of all contexts together.
    """

    server: str
    workload: Workload
    requests: float
    extents: float


@dataclass(frozen=True)
class MapTime:
    """How long the map of a whole disk took.

    Attributes:
        server: its name.
        contexts: what was selected.
        extents: of the map, of all contexts together.
        cold: seconds of the first map that a server that has just started is asked for.
        warm: seconds of the next ones.
    """

    server: str
    contexts: tuple[str, ...]
    extents: int
    cold: float
    warm: float

    def cost(self, *, cold: bool = False) -> float:
        """Return the microseconds for each extent."""
        return (self.cold if cold else self.warm) / self.extents * 1e6


class Bench:
    """Images and servers for some measurements; a context manager that ends and removes them.

    Args:
        peers: servers to compare with; those that are not installed are left out.
        rounds: of which the best counts.
        seed: of images and requests.

    Raises:
        UsageError: a peer is none that the bench knows.
    """

    def __init__(self, peers: Sequence[str], *, rounds: int = 4, seed: int = 7) -> None:
        self.servers = available(peers)
        self.missing = [name for name in peers if name not in self.servers]
        self._rounds = rounds
        self._seed = seed
        self._open = contextlib.ExitStack()
        self._folder = Path(
            self._open.enter_context(tempfile.TemporaryDirectory(prefix="nbexport-bench-"))
        )
        self._running = self._open.enter_context(contextlib.ExitStack())
        self._servers: dict[str, Server] = {}
        self._served: Disk | None = None
        self._images: dict[tuple[object, ...], Disk] = {}

    def close(self) -> None:
        """End the servers and remove the images."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def rates(self, workload: Workload) -> list[Rate]:
        """Measure block status of random places on every server that can serve the disk.

        Raises:
            UsageError: the workload is not possible.
            PeerError: a server failed.
        """
        check(workload)
        servers = self._serve(self._disk(workload))
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        many = {name: self._warm_up(server, workload) for name, server in servers.items()}
        for number in range(self._rounds):
            for name, server in servers.items():
                found[name].append(self._ask(server, workload, many[name], number))
        return [Rate(name, workload, *max(samples)) for name, samples in found.items()]

    def sweep(self, workload: Workload, **axis: Iterable[object]) -> list[Rate]:
        """Measure a workload with one attribute changed to each of some values.

        Args:
            workload: what stays the same.
            axis: one attribute of `Workload`, and its values.

        Raises:
            UsageError: there is not one such attribute, or a workload is not possible.
            PeerError: a server failed.
        """
        if len(axis) != 1 or not set(axis) <= set(Workload.__dataclass_fields__):
            raise UsageError(f"one attribute of a workload can be swept, not {', '.join(axis)}")
        ((name, values),) = axis.items()
        return [
            rate
            for value in values
            for rate in self.rates(replace(workload, **{name: value}))  # type: ignore[arg-type] # checked above
        ]

    def map_times(self, workload: Workload, choices: Sequence[tuple[str, ...]]) -> list[MapTime]:
        """Measure the map of the whole disk, in each choice of contexts.

        Each server is started anew, and asked for the choices in their order: what one of them
        makes a server read, the next finds read already.

        Raises:
            UsageError: the workload is not possible.
            PeerError: a server failed, or servers told different maps.
        """
        check(workload)
        told: dict[str, Extents] = {}
        found = []
        for name, server in self._serve(self._disk(workload), fresh=True).items():
            for contexts in choices:
                cold, maps = _map(server.uri, contexts)
                warm = [_map(server.uri, contexts)[0] for _ in range(self._rounds)]
                for context, extents in maps.items():
                    if told.setdefault(context, extents) != extents:
                        raise PeerError(f"{name} tells another {context} than the others")
                total = sum(len(extents) for extents in maps.values())
                found.append(MapTime(name, contexts, total, cold, min(warm)))
        return found

    def _serve(self, disk: Disk, *, fresh: bool = False) -> dict[str, Server]:
        """Return running servers of a disk; those of the last one are kept if it is the same."""
        if fresh or disk != self._served:
            self._running.close()
            self._servers = {
                name: self._running.enter_context(Server(name, disk, self._folder))
                for name in self.servers
                if can_serve(name, disk)
            }
            self._served = disk
        return self._servers

    def _disk(self, workload: Workload) -> Disk:
        """Return an image of a size and density; it is made once."""
        key = (workload.size, workload.blocks, workload.run, workload.raw)
        if key not in self._images:
            path = self._folder / f"image-{len(self._images)}"
            if workload.raw:
                write_pieces(path, workload.size, workload.blocks, seed=self._seed)
                self._images[key] = Disk(path, "raw")
            else:
                image = write_scattered(
                    path, workload.size, workload.blocks, seed=self._seed, run=workload.run
                )
                self._images[key] = Disk(path, "qcow2", image.bitmaps)
        return self._images[key]

    def _warm_up(self, server: Server, workload: Workload) -> int:
        """Let a server fill its caches; return how many requests a sample should have."""
        _map(server.uri, workload.contexts)
        rate, extents = self._ask(server, workload, _WARM_REQUESTS, self._rounds)
        each = extents / rate * _EXTENT_BYTES or 1
        return int(max(_WARM_REQUESTS, min(rate * _SECONDS, _REQUESTS_MAX, _REPLIES_MAX / each)))

    def _ask(
        self, server: Server, workload: Workload, many: int, number: int
    ) -> tuple[float, float]:
        """Return requests and extents a second; each number has places of its own.

        Places that were asked for before would tell how well a server remembers its answers.
        """
        random = np.random.default_rng([self._seed, number])
        last = workload.size - workload.length
        places = random.integers(0, last // CLUSTER + 1, many) * CLUSTER
        made = requests(wire.CMD_BLOCK_STATUS, places, workload.length)
        client = Client.connect(server.uri, contexts=list(workload.contexts), extended=False)
        chosen = len(client.contexts)
        if not chosen:
            client.close()
            raise UsageError(f"{server.name} offers none of {', '.join(workload.contexts)}")
        begin = time.perf_counter()
        answered = pump(client, made, workload.depth)
        seconds = time.perf_counter() - begin
        extents = (answered - many * chosen * _CHUNK_BYTES) // _EXTENT_BYTES
        return many / seconds, extents / seconds


def _map(uri: str, contexts: Sequence[str]) -> tuple[float, dict[str, Extents]]:
    with Client.connect(uri, contexts=list(contexts), extended=False) as client:
        begin = time.perf_counter()
        maps = client.map()
        return time.perf_counter() - begin, maps


def check(workload: Workload) -> None:
    """Raise UsageError where a workload is not possible."""
    if not 0 < workload.share <= 0.5:
        raise UsageError(f"the dirty share must be above 0 and at most 0.5, not {workload.share}")
    if workload.size % CLUSTER or workload.size < CLUSTER * 2 * workload.run:
        raise UsageError(f"a disk of {workload.size} bytes is too small, or no whole clusters")
    if not CLUSTER <= workload.length <= min(workload.size, align_down((1 << 32) - 1, CLUSTER)):
        raise UsageError(f"a request of {workload.length} bytes is too short, or too long")
    if workload.depth < 1 or not workload.contexts:
        raise UsageError("a workload needs a request in flight and a context")
    if workload.raw and workload.contexts != (BASE_ALLOCATION,):
        raise UsageError(f"a raw image has {BASE_ALLOCATION} only")


def bitmap_context(number: int = 0) -> str:
    """Return the context of a bitmap of the bench's images: the first, or the second."""
    return dirty_bitmap_name(f"b{number}")


def ratios(rates: Sequence[Rate], attribute: str = "requests") -> dict[str, float]:
    """Return for each peer how many times as fast this package's server is."""
    ours = next(getattr(rate, attribute) for rate in rates if rate.server == OURS)
    return {rate.server: ours / getattr(rate, attribute) for rate in rates if rate.server != OURS}
