"""Block status in figures and tables: rates of servers, and times of whole maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbexport.bench.servers import OURS
from nbexport.bench.throughput import ratios
from nbexport.errors import UsageError
from nbexport.plots.curves import Panel, count, draw_curves
from nbexport.plots.tables import Table
from nbexport.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nbexport.bench.throughput import Bench, MapTime, Rate, Workload
    from nbexport.plots.curves import Points
    from nbexport.plots.plot import Plot

_SIZES = frozenset({"size", "length"})
_AXES = {
    "size": "size of the disk",
    "share": "part of the disk that is dirty",
    "run": "clusters side by side",
    "length": "bytes of a request",
    "depth": "requests in flight",
}


def server_table(bench: Bench) -> Table:
    """Say which servers take part, and which were asked for and are not installed."""
    rows = [(name, "takes part") for name in bench.servers]
    rows += [(name, "not installed") for name in bench.missing]
    return Table(("server", "state"), rows)


def rate_table(rates: Sequence[Rate]) -> Table:
    """Tabulate the rates of one workload, and how many times as fast this package's server is."""
    faster = {name: f"{ratio:.2f}" for name, ratio in ratios(rates).items()}
    rows = [
        (rate.server, count(rate.requests), count(rate.extents), faster.get(rate.server, ""))
        for rate in rates
    ]
    return Table(("server", "requests/s", "extents/s", f"{OURS} is faster by"), rows)


def draw_rates(rates: Sequence[Rate], axis: str, *, title: str) -> Plot:
    """Draw rates over one attribute of the workload, and the ratios to each peer below.

    Args:
        rates: a sweep.
        axis: the attribute that was swept.
        title: what the figure is about.

    Raises:
        UsageError: there are no rates, or they cannot be drawn over this attribute.
    """
    if axis not in _AXES:
        raise UsageError(f"rates cannot be drawn over '{axis}' (but over: {', '.join(_AXES)})")
    panels = [
        Panel(_over(rates, axis, lambda rate: rate.requests), "requests/s"),
        Panel(_over(rates, axis, lambda rate: rate.extents), "extents/s"),
    ]
    compared: dict[str, tuple[list[float], list[float]]] = {}
    for value in dict.fromkeys(getattr(rate.workload, axis) for rate in rates):
        same = [rate for rate in rates if getattr(rate.workload, axis) == value]
        for peer, ratio in ratios(same).items():
            xs, ys = compared.setdefault(peer, ([], []))
            xs.append(value)
            ys.append(ratio)
    if compared:
        panels.append(Panel(compared, f"{OURS} / peer", level=1.0))
    return draw_curves(panels, along=_AXES[axis], title=title, sizes=axis in _SIZES)


def _over(rates: Sequence[Rate], axis: str, value: Callable[[Rate], float]) -> dict[str, Points]:
    curves: dict[str, Any] = {}
    for rate in rates:
        xs, ys = curves.setdefault(rate.server, ([], []))
        xs.append(getattr(rate.workload, axis))
        ys.append(value(rate))
    return curves


def draw_map_times(times: Sequence[MapTime], *, title: str) -> Plot:
    """Draw how long maps of a whole disk take over the number of their extents.

    Above the first map after a server's start, below the next ones.

    Raises:
        UsageError: there are no times.
    """
    panels = [
        Panel(_of_maps(times, lambda time: time.cold * 1e3), "first map (ms)"),
        Panel(_of_maps(times, lambda time: time.warm * 1e3), "next maps (ms)"),
    ]
    return draw_curves(panels, along="extents of the map", title=title)


def _of_maps(times: Sequence[MapTime], value: Callable[[MapTime], float]) -> dict[str, Points]:
    curves: dict[str, Any] = {}
    for time in sorted(times, key=lambda time: time.extents):
        xs, ys = curves.setdefault(f"{time.server}, {_short(time.contexts)}", ([], []))
        xs.append(time.extents)
        ys.append(value(time))
    return curves


def map_time_table(times: Sequence[MapTime]) -> Table:
    """Tabulate the times of maps, for each extent and in all."""
    rows = [
        (
            time.server,
            _short(time.contexts),
            f"{time.extents:,}",
            f"{time.cold * 1e3:.2f} ms",
            f"{time.warm * 1e3:.2f} ms",
            f"{time.cost(cold=True):.3f} µs",
            f"{time.cost():.3f} µs",
        )
        for time in times
    ]
    header = ("server", "contexts", "extents", "first", "next", "first, an extent", "next")
    return Table(header, rows)


def _short(contexts: Sequence[str]) -> str:
    names = ["bitmap" if name.startswith("qemu:dirty-bitmap:") else name for name in contexts]
    return " + ".join(names)


def workload_table(workload: Workload) -> Table:
    """Say what is asked of which disk."""
    kind = "raw, pieces of 4 KiB" if workload.raw else f"qcow2, in runs of {workload.run}"
    rows = [
        ("disk", f"{format_size(workload.size)}, {kind}"),
        ("scattered", f"{workload.blocks:,} ({workload.share:.1%} of all clusters)"),
        ("request", f"block status of {format_size(workload.length)} at random places"),
        ("in flight", str(workload.depth)),
        ("contexts", ", ".join(workload.contexts)),
    ]
    return Table(("what", "how much"), rows)
