"""Metadata contexts of one disk, aligned under each other on a common axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbexport.errors import UsageError
from nbexport.nbd.meanings import DIRTY_BITMAP_PREFIX, describe
from nbexport.plots.palette import GREY, background, context_colour
from nbexport.plots.plot import STYLE, WIDTH, Plot
from nbexport.units import GiB, KiB, MiB, TiB, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from nbexport.bits import Extents

_COLUMNS = 1200
"""Columns of a lane: about one for each dot of its 6 inches at 200 dots an inch."""

_FLOOR = 0.45
"""Least ink of a column that holds any byte of interest: one dirty granule is never invisible."""

_LABEL_MAX = 24
"""Characters of a bitmap's name that fit beside a lane."""


def shares(extents: Extents, flags: int, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return which part of each column carries ``flags``.

    The bytes with these flags below an offset form a piecewise linear function of the offset, so
    its differences at the columns' edges are the answer, however many extents there are.

    Shape: edges (n + 1,) offsets in bytes, increasing; result (n,) in [0, 1].
    """
    covered = np.where(extents.flags == flags, extents.lengths, 0)
    below = np.concatenate([[0], np.cumsum(covered)])
    part: NDArray[np.float64] = np.diff(np.interp(edges, extents.bounds, below)) / np.diff(edges)
    return np.clip(part, 0.0, 1.0)


def _lane(context: str, extents: Extents, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the colours of one lane. Shape: (1, n, 3) in [0, 1]."""
    from matplotlib.colors import to_rgb  # noqa: PLC0415 - matplotlib only where it is used

    ground = background(context)
    values = [int(v) for v in np.unique(extents.flags) if v != ground]
    ink = np.zeros(len(edges) - 1)
    mixed = np.zeros((len(edges) - 1, 3))
    for value in values:
        part = shares(extents, value, edges)
        ink += part
        mixed += part[:, None] * np.array(to_rgb(context_colour(context, value)))
    some = ink > 0
    mixed[some] /= ink[some, None]
    # By the root of the share: most columns of a large disk hold little, and differ in it.
    strength = np.where(some, _FLOOR + (1 - _FLOOR) * np.sqrt(ink), 0.0)[:, None]
    lane: NDArray[np.float64] = np.array(to_rgb(GREY)) * (1 - strength) + mixed * strength
    return lane[None]


def _unit(size: int) -> tuple[int, str]:
    for unit, name in ((TiB, "TiB"), (GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB")):
        if size >= 2 * unit:
            return unit, name
    return 1, "bytes"


def _summary(context: str, extents: Extents) -> str:
    """Say in words how many bytes carry what, background last."""
    size = extents.end - extents.start
    ground = background(context)
    totals = sorted(extents.totals().items(), key=lambda item: (item[0] == ground, item[0]))
    parts = [
        f"{format_size(count)} {describe(context, flags) or f'flags {flags}'}"
        for flags, count in totals
        if flags != ground or len(totals) == 1
    ]
    marked = sum(count for flags, count in totals if flags != ground)
    return f"{', '.join(parts)} ({marked / size:.1%})" if size else "empty"


def _label(context: str) -> str:
    """Break a bitmap's context into two lines, and shorten a name that would not fit."""
    prefix, found, name = context.partition(DIRTY_BITMAP_PREFIX)
    if not found or prefix:
        return context
    if len(name) > _LABEL_MAX:
        name = name[: _LABEL_MAX - 1] + "…"
    return f"{DIRTY_BITMAP_PREFIX}\n{name}"


def _draw_lane(axes: Axes, context: str, extents: Extents, unit: int) -> None:
    edges = np.linspace(extents.start, extents.end, _COLUMNS + 1)
    axes.imshow(
        _lane(context, extents, edges),
        extent=(extents.start / unit, extents.end / unit, 0, 1),
        aspect="auto",
        interpolation="antialiased",
    )
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylabel(
        _label(context), rotation=0, ha="right", va="center", labelpad=6, parse_math=False
    )
    axes.text(1.0, 1.04, _summary(context, extents), transform=axes.transAxes, ha="right",
              va="bottom", fontsize=8, color="#444444")  # fmt: skip


def _draw_legend(figure: Figure, maps: Mapping[str, Extents]) -> None:
    """Explain each colour that occurs, once."""
    from matplotlib.patches import Patch  # noqa: PLC0415 - matplotlib only where it is used

    entries: dict[tuple[str, str], Patch] = {}
    for context, extents in maps.items():
        for flags in np.unique(extents.flags).tolist():
            word = describe(context, flags) or f"flags {flags}"
            colour = context_colour(context, flags)
            entries.setdefault((word, colour), Patch(facecolor=colour, label=word))
    ordered = sorted(entries.items(), key=lambda item: item[0][1] == GREY)
    handles = [patch for (_, colour), patch in ordered if colour != GREY]
    grey = [word for (word, colour), _ in ordered if colour == GREY]
    if grey:
        handles.append(Patch(facecolor=GREY, label=" / ".join(grey)))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))


def draw_maps(
    maps: Mapping[str, Extents],
    *,
    title: str = "",
    start: int | None = None,
    end: int | None = None,
) -> Plot:
    """Draw each context as a lane over the offsets of the disk.

    A column that holds any data, dirty or allocated byte is visible, however small its share;
    deeper ink means a larger share. The cost does not grow with the number of extents per column.

    Args:
        maps: for each context name its extents, all over the same range; drawn top to bottom.
        title: what the figure is about, above the first lane.
        start: first offset to draw in bytes; the maps' start if None.
        end: offset behind the last; the maps' end if None.

    Raises:
        UsageError: there is no map, the range is empty, or it is not inside every map.
    """
    import matplotlib.style  # noqa: PLC0415 - half a second that only a plot should cost
    from matplotlib.figure import Figure  # noqa: PLC0415

    if not maps:
        raise UsageError("nothing to draw: no metadata context was given")
    first = next(iter(maps.values()))
    low = first.start if start is None else start
    high = first.end if end is None else end
    if low >= high:
        raise UsageError(f"nothing to draw: the range [{low}, {high}) is empty")
    window = {context: extents.clip(low, high) for context, extents in maps.items()}
    unit, unit_name = _unit(high - low)
    with matplotlib.style.context(str(STYLE)):
        figure = Figure(figsize=(WIDTH, 0.72 * len(window) + 1.15))
        lanes = figure.subplots(len(window), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (context, extents) in zip(lanes, window.items(), strict=True):
            _draw_lane(axes, context, extents, unit)
        for axes in lanes[:-1]:
            axes.tick_params(labelbottom=False)
        lanes[-1].set_xlabel(f"offset on the disk ({unit_name})")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold",
                            parse_math=False)  # fmt: skip
        _draw_legend(figure, window)
    described = "; ".join(
        f"{context}: {_summary(context, extents)}" for context, extents in window.items()
    )
    span = f"offsets {format_size(low)} to {format_size(high)}"
    return Plot(figure, f"{title or 'Metadata contexts'}, {span}. {described}.")
