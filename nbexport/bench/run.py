"""The work: what is asked of every server, and in which order."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbexport import __version__
from nbexport.bench.images import Scattered, write_data, write_scattered
from nbexport.bench.load import pump, requests
from nbexport.bench.monitors import Load, measure, memory_bound
from nbexport.bench.report import Comparison, Report
from nbexport.bench.servers import OURS, Disk, Server, available, can_serve
from nbexport.errors import PeerError, UsageError
from nbexport.nbd import BASE_ALLOCATION, Client, dirty_bitmap_name, wire
from nbexport.units import GiB, KiB, MiB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TiB = 1 << 40
DEPTH = 64
COMMAND_LIMIT_S = 300.0
_WRITE = 64 * KiB


@dataclass(frozen=True)
class Scale:
    """How much is done.

    Attributes:
        disk: bytes of the disk that is mapped.
        blocks: its scattered clusters.
        requests: small requests of one measurement.
        data: bytes of the disk that is read.
        written: bytes that are written to an empty image.
        growth: numbers of extents at which the growth is looked at.
        rounds: measurements of each, the servers taking turns.
        monitors: what is asked of many monitors at once.
    """

    disk: int = TiB
    blocks: int = 100_000
    requests: int = 20_000
    data: int = GiB
    written: int = 256 * MiB
    growth: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    rounds: int = 5
    monitors: Load = field(default_factory=Load)


QUICK = Scale(
    64 * GiB, 2_000, 500, 32 * MiB, 4 * MiB, (1_000, 10_000), 2, Load(20, 400, 400.0, MiB)
)


def run(
    scale: Scale | None = None,
    *,
    only: Sequence[str] = (),
    peers: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> Report:
    """Do the work on every server and compare.

    Args:
        scale: how much; the full one by default.
        only: names of work to do, all if there are none.
        peers: the servers to compare with; those that are installed by default.
        progress: told what is being measured.

    Raises:
        UsageError: an unknown piece of work.
        PeerError: a server failed, or two servers told different maps.
    """
    scale = scale or Scale()
    servers = available() if peers is None else available(tuple(peers))
    with tempfile.TemporaryDirectory(prefix="nbexport-bench-") as folder:
        bench = _Bench(Path(folder), scale, servers, progress)
        work = bench.work()
        unknown = set(only) - set(work)
        if unknown:
            raise UsageError(f"no work '{min(unknown)}' (there is: {', '.join(work)})")
        comparisons: list[Comparison] = []
        for name, do in work.items():
            if not only or name in only:
                comparisons += do()
        return Report(comparisons, scale.rounds, {name: _version(name) for name in servers})


def _version(server: str) -> str:
    if server == OURS:
        return __version__
    done = subprocess.run(
        [server, "--version"], capture_output=True, text=True, timeout=10, check=False
    )
    return done.stdout.split("\n", 1)[0].strip()


class _Bench:
    def __init__(
        self, folder: Path, scale: Scale, servers: list[str], progress: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._scale = scale
        self._servers = servers
        self._progress = progress
        self._random = np.random.default_rng(11)

    def work(self) -> dict[str, Callable[[], list[Comparison]]]:
        return {
            "maps": self._maps,
            "status": self._status,
            "reads": self._reads,
            "copy": self._copy,
            "writes": self._writes,
            "open": self._open,
            "start": self._start,
            "growth": self._growth,
            "monitors": self._monitors,
        }

    def _measure(
        self,
        comparison: Comparison,
        disk: Disk,
        do: Callable[[Server], float],
        *,
        fresh: bool = False,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """Measure on every server that can serve the disk, in rounds in which each has its turn.

        Args:
            comparison: where the figures go.
            disk: what is served.
            do: does the work and returns the figure.
            fresh: whether each measurement needs a server that was just started.
            before: prepares the disk for a server that is about to start.
        """
        names = [name for name in self._servers if can_serve(name, disk)]
        running: dict[str, Server] = {}
        try:
            for number in range(self._scale.rounds):
                for name in names:
                    self._progress(f"{comparison.name}: {name}, round {number + 1}")
                    if fresh:
                        while running:  # who may write an image has it alone
                            running.popitem()[1].close()
                    if name not in running:
                        before()
                        running[name] = Server(name, disk, self._folder)
                    comparison.add(name, do(running[name]))
        finally:
            for server in running.values():
                server.close()

    def _scattered(self, blocks: int) -> Iterator[Disk]:
        """Give a disk; its image goes when the next is asked for."""
        image: Scattered = write_scattered(
            self._folder / f"scattered-{blocks}.qcow2", self._scale.disk, blocks
        )
        try:
            yield Disk(image.path, "qcow2", image.bitmaps)
        finally:
            image.path.unlink()

    def _maps(self) -> list[Comparison]:
        """Map the whole disk: all contexts, the allocation, one bitmap; and the memory it takes."""
        everything = Comparison("map, 4 contexts", "the whole disk in all contexts", target=20)
        allocation = Comparison("map, base:allocation", "the whole disk in base:allocation")
        bitmap = Comparison("map, one bitmap", "the whole disk in one dirty bitmap", target=2)
        wide = Comparison(
            "map, one bitmap, 64-bit",
            "the same, in few requests where the server has extended headers",
            target=2,
        )
        memory = Comparison("peak memory", "of the server, after these maps", "B")
        found: dict[str, dict[str, object]] = {}

        def scan(server: Server, contexts: list[str] | None) -> float:
            with Client.connect(server.uri, contexts=contexts) as client:
                begin = time.perf_counter()
                maps = client.map()
                seconds = time.perf_counter() - begin
            for name, extents in maps.items():
                first = found.setdefault(name, {"server": server.name, "extents": extents})
                if first["extents"] != extents:
                    raise PeerError(f"{server.name} tells another {name} than {first['server']}")
            return seconds

        def size(server: Server) -> float:
            scan(server, None)
            return float(server.peak_memory)

        for disk in self._scattered(self._scale.blocks):
            # a cold server walks the image's tables, which is what a backup program meets
            self._measure(everything, disk, partial(scan, contexts=None), fresh=True)
            one = [dirty_bitmap_name(disk.bitmaps[0])]
            self._measure(allocation, disk, partial(scan, contexts=[BASE_ALLOCATION]))
            self._measure(bitmap, disk, partial(scan, contexts=one))
            self._measure(memory, disk, size)
            self._measure(wide, replace(disk, extended=True), partial(scan, contexts=one))
        return [everything, allocation, bitmap, memory, wide]

    def _status(self) -> list[Comparison]:
        what = f"random block status of 64 KiB in 4 contexts, {DEPTH} in flight"
        comparison = Comparison("small block status", what, target=2)
        for disk in self._scattered(self._scale.blocks):
            places = self._random.integers(0, self._scale.disk // (64 * KiB), self._scale.requests)
            made = requests(wire.CMD_BLOCK_STATUS, places * 64 * KiB, 64 * KiB)
            self._measure(comparison, disk, partial(_pumped, made=made, contexts=None))
        return [comparison]

    def _data(self) -> Iterator[Disk]:
        path = write_data(self._folder / "data.raw", self._scale.data)
        try:
            yield Disk(path, "raw")
        finally:
            path.unlink()

    def _reads(self) -> list[Comparison]:
        what = f"random reads of 4 KiB, {DEPTH} in flight"
        comparison = Comparison("small reads", what, target=0.7)
        for disk in self._data():
            places = self._random.integers(0, self._scale.data // (4 * KiB), self._scale.requests)
            made = requests(wire.CMD_READ, places * 4 * KiB, 4 * KiB)
            self._measure(comparison, disk, partial(_pumped, made=made, contexts=[]))
        return [comparison]

    def _copy(self) -> list[Comparison]:
        """Read the whole disk by nbdcopy, a client that belongs to none of the servers."""
        if shutil.which("nbdcopy") is None:
            self._progress("copy: nbdcopy is not installed")
            return []
        found = []
        for connections in (1, 4):
            name = f"copy, {connections} connection{'s' if connections > 1 else ''}"
            target = 1 if connections == 1 else None
            comparison = Comparison(name, "the whole disk by nbdcopy", target=target)
            for disk in self._data():
                self._measure(comparison, disk, partial(_copied, connections=connections))
            found.append(comparison)
        return found

    def _writes(self) -> list[Comparison]:
        """Fill an empty qcow2 image, in order and in none; every cluster is allocated."""
        path = self._folder / "written.qcow2"
        made_anew = partial(write_scattered, path, self._scale.written, 0, bitmaps=())
        places = np.arange(self._scale.written // _WRITE) * _WRITE
        payload = self._random.bytes(_WRITE)
        found = []
        for name, offsets in (
            ("sequential writes", places),
            ("random writes", self._random.permutation(places)),
        ):
            what = f"of 64 KiB to an empty qcow2 image, {DEPTH} in flight, and a flush"
            comparison = Comparison(name, what, target=0.5)
            made = requests(wire.CMD_WRITE, offsets, _WRITE)
            do = partial(_pumped, made=made, contexts=[], payload=payload)
            disk = Disk(path, "qcow2", writable=True)
            self._measure(comparison, disk, do, fresh=True, before=made_anew)
            found.append(comparison)
        path.unlink()
        return found

    def _open(self) -> list[Comparison]:
        """Open an image and map it: two programs, each from its start to its end."""
        programs = {OURS: [sys.executable, "-m", "nbexport", "image"], "qemu-img": ["qemu-img"]}
        if shutil.which("qemu-img") is None:
            self._progress("open: qemu-img is not installed")
            return []
        comparison = Comparison("open and map", "by 'image map' and 'qemu-img map', as JSON")
        for disk in self._scattered(self._scale.blocks):
            for number in range(self._scale.rounds):
                for name, words in programs.items():
                    self._progress(f"{comparison.name}: {name}, round {number + 1}")
                    command = [*words, "map", "--output=json", str(disk.path)]
                    comparison.add(name, _took(command, f"{name} map"))
        return [comparison]

    def _start(self) -> list[Comparison]:
        comparison = Comparison("start", "from the start of the program to its greeting")
        for disk in self._data():
            self._measure(comparison, disk, lambda server: server.started_in, fresh=True)
        return [comparison]

    def _growth(self) -> list[Comparison]:
        """Map in all contexts what has more and more extents."""
        found = []
        for extents in self._scale.growth:
            comparison = Comparison(f"map of {extents:,} extents", "the whole disk, all contexts")
            blocks = min(extents // 2, self._scale.disk // (64 * KiB) // 2)
            for disk in self._scattered(blocks):
                self._measure(comparison, disk, _mapped)
            found.append(comparison)
        return found

    def _monitors(self) -> list[Comparison]:
        """Load many monitors of one process, two of them with bad clients."""
        load = self._scale.monitors
        shown = f"of {load.commands:,} commands over {load.monitors} monitors"
        paced = Comparison(
            "monitor, paced", f"median latency {shown}, {load.rate:,.0f} a second", limit=5e-3
        )
        burst = Comparison("monitor, burst", f"until the last answer {shown}, sent at once")
        memory = Comparison(
            "monitor, memory", "the most that it had", "B", limit=memory_bound(1, 1)
        )
        for number in range(self._scale.rounds):
            self._progress(f"monitors: {OURS}, round {number + 1}")
            outcome = measure(self._folder, load)
            if outcome.lost:
                raise PeerError(f"{OURS}: {outcome.lost} commands were not answered")
            paced.add(OURS, outcome.median)
            burst.add(OURS, outcome.burst_seconds)
            memory.add(OURS, float(outcome.memory))
        return [paced, burst, memory]


def _mapped(server: Server) -> float:
    with Client.connect(server.uri) as client:
        begin = time.perf_counter()
        client.map()
        return time.perf_counter() - begin


def _pumped(
    server: Server, made: list[bytes], contexts: list[str] | None, payload: bytes = b""
) -> float:
    client = Client.connect(server.uri, contexts=contexts, extended=False)
    begin = time.perf_counter()
    pump(client, made, DEPTH, payload=payload)
    return time.perf_counter() - begin


def _copied(server: Server, connections: int) -> float:
    command = ["nbdcopy", f"--connections={connections}", server.uri, "null:"]
    return _took(command, f"nbdcopy from {server.name}")


def _took(command: list[str], name: str) -> float:
    """Run a program and return the seconds that it needs."""
    begin = time.perf_counter()
    done = subprocess.run(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=COMMAND_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise PeerError(f"{name}: {done.stderr.strip()}")
    return time.perf_counter() - begin
