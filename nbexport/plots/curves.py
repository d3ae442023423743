"""Curves on logarithmic axes: how something grows, for each of several that are compared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.plots.palette import INK, line
from nbexport.plots.plot import STYLE, WIDTH, Plot
from nbexport.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes

_FEW_DECADES = 1000
_LEAST_SPAN = 10

Points = tuple["Sequence[float]", "Sequence[float]"]
"""Where a curve's points are: along the axis, and upwards, nan for a gap; as long as each other."""


@dataclass(frozen=True)
class Panel:
    """One diagram of a figure.

    Attributes:
        curves: for each name its points.
        label: of the upward axis.
        level: a value that is drawn as a thin line across, None for none.
        as_size: whether the values are bytes.
        zero: whether the axis begins at 0 and is linear.
    """

    curves: Mapping[str, Points]
    label: str
    level: float | None = None
    as_size: bool = False
    zero: bool = False


def count(value: float) -> str:
    """Return a number in the way of an axis: ``950``, ``12 k``, ``3.4 M``.

    >>> count(950), count(12_000), count(3_400_000), count(0.25)
    ('950', '12 k', '3.4 M', '0.25')
    """
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g} {letter}"
    return f"{value:.3g}"


def draw_curves(
    panels: Sequence[Panel], *, along: str, title: str, sizes: bool = False, ticks: int = 8
) -> Plot:
    """Draw panels above each other over one logarithmic axis.

    A name has the same line in every panel, by colour, marker and dashes.

    Args:
        panels: top to bottom.
        along: label of the common axis.
        title: what the figure is about.
        sizes: whether the common axis is in bytes.
        ticks: the most labels on the common axis.

    Raises:
        UsageError: there is nothing to draw, or a value on a logarithmic axis is not above 0.
    """
    import matplotlib.style  # noqa: PLC0415 - half a second that only a plot should cost
    from matplotlib.figure import Figure  # noqa: PLC0415

    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    if not names:
        raise UsageError("nothing to draw: there is no curve")
    _check(panels)
    with matplotlib.style.context(str(STYLE)):
        figure = Figure(figsize=(WIDTH, 2.15 * len(panels) + 0.75))
        every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(every, panels, strict=True):
            _draw(axes, panel, names)
        _mark_axis(every[-1], panels, format_size if sizes else count, ticks)
        every[-1].set_xlabel(along)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold",
                        parse_math=False)  # fmt: skip
        handles = {
            label: handle
            for axes in every
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center",
                      ncols=min(len(names), 3))  # fmt: skip
    return Plot(figure, _alt(panels, along, title, sizes=sizes))


def _check(panels: Sequence[Panel]) -> None:
    for panel in panels:
        for name, (xs, ys) in panel.curves.items():
            if len(xs) != len(ys) or not len(xs):
                raise UsageError(f"'{name}' has {len(xs)} places and {len(ys)} values")
            if min(xs) <= 0 or (not panel.zero and any(y <= 0 for y in ys)):
                raise UsageError(f"'{name}' has a value that no logarithmic axis can show")


def _draw(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: PLC0415

    for name, (xs, ys) in panel.curves.items():
        style = line(names.index(name))
        axes.plot(xs, ys, label=name.replace("_", " "), markersize=4.5, linewidth=1.4,
                  **style._asdict())  # fmt: skip
    axes.set_xscale("log", base=2)
    if panel.zero:
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale("log", base=2 if panel.as_size else 10)
        _label_short_axis(axes, panel)
        _widen(axes, panel)
    if panel.level is not None:
        axes.axhline(panel.level, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    shown: Callable[[float], str] = _size if panel.as_size else count
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _at: shown(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.grid(axis="both", color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_ylabel(panel.label)


def _label_short_axis(axes: Axes, panel: Panel) -> None:
    """Label 1, 2 and 5 of each decade where there are too few decades for labels of their own."""
    from matplotlib.ticker import LogLocator  # noqa: PLC0415 - matplotlib only where it is used

    values = [y for _, ys in panel.curves.values() for y in ys if not math.isnan(y)]
    if not panel.as_size and max(values) < _FEW_DECADES * min(values):
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))


def _widen(axes: Axes, panel: Panel) -> None:
    """Let an axis span a decade at least: what hardly changes has to look level."""
    values = [y for _, ys in panel.curves.values() for y in ys if not math.isnan(y)]
    values += [panel.level] if panel.level is not None else []
    low, high = min(values), max(values)
    if high < _LEAST_SPAN * low:
        middle, half = math.sqrt(low * high), math.sqrt(_LEAST_SPAN)
        axes.set_ylim(middle / half, middle * half)


def _size(value: float) -> str:
    return format_size(round(value)) if value >= 1 else f"{value:g} B"


def _mark_axis(axes: Axes, panels: Sequence[Panel], shown: Callable[[int], str], most: int) -> None:
    """Label the places at which something was measured, at like distances, not more than fit."""
    from matplotlib.ticker import NullFormatter  # noqa: PLC0415

    places = sorted({x for panel in panels for xs, _ in panel.curves.values() for x in xs})
    low, high = math.log2(places[0]), math.log2(places[-1])
    apart = (high - low) / most
    chosen: list[float] = []
    for place in places:
        if not chosen or math.log2(place) - math.log2(chosen[-1]) > apart:
            chosen.append(place)
    axes.set_xticks(chosen, [shown(round(x)) if x >= 1 else f"{x:g}" for x in chosen])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _alt(panels: Sequence[Panel], along: str, title: str, *, sizes: bool) -> str:
    """Say of each curve where it begins and ends."""
    said = []
    for panel in panels:
        shown: Callable[[float], str] = _size if panel.as_size else count
        place: Callable[[float], str] = _size if sizes else count
        parts = [
            f"{name} from {shown(ys[0])} at {place(xs[0])} to {shown(ys[-1])} at {place(xs[-1])}"
            for name, (xs, ys) in panel.curves.items()
        ]
        said.append(f"{panel.label}: {'; '.join(parts)}")
    return f"{title}. Curves over {along}. {'. '.join(said)}."
