"""Lives of interface elements as bars over the days of releases."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.plots.plot import STYLE, Plot
from nbexport.plots.timetables import introduced_text, window_text
from nbexport.qapi import parse_release
from nbexport.timeline.lifecycle import day
from nbexport.timeline.releases import release, releases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nbexport.timeline.lifecycle import Lifecycle
    from nbexport.timeline.release_data import Release

# Okabe and Ito's palette; where two of them meet, a hatch tells them apart in grey print too.
_BLUE, _ORANGE, _RED, _GREEN, _GREY = "#0072B2", "#F0B73E", "#D55E00", "#009E73", "#B8B8B8"
_PALE = "#A9CDE3"
_INK, _FAINT = "#222222", "#666666"
_WIDTH = 7.2
"""Inches. Narrow, so that text of ten points stays readable where the screen is 360 pixels wide."""
_NAME_MAX = 50
"""Characters of an element's name that fit above a bar beside what became of it."""
_LANE = 0.9
_BAR = 0.26
_UNKNOWN = dt.timedelta(days=240)
"""Shown of the time before a deprecation where nothing tells when something was introduced."""
_LEAST_SPAN = 365
"""Days: less than a year of releases has nothing to compare."""


def draw_timeline(lives: Sequence[Lifecycle], *, first: str | None = None, title: str = "") -> Plot:
    """Draw each life as a bar over time: in use, deprecated within the policy's window, beyond it.

    The window in which the policy promises that the old and the new way both work is shaded; a
    diamond marks the release planned for the removal, a cross the one that removed it, an arrow
    that it is still there, a triangle the release that brought the replacement.

    Args:
        lives: what to draw, top to bottom.
        first: the release at which the axis begins; None for that of the oldest one, or a year
            before the first deprecation if that is later.
        title: what the figure is about.

    Raises:
        UsageError: there is nothing to draw, or ``first`` is not older than the newest release.
    """
    import matplotlib.style  # noqa: PLC0415 - half a second that only a plot should cost
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = [life for life in lives if _begin(life) is not None]
    if not shown:
        raise UsageError("nothing to draw: no element with a known release was given")
    end = max(found for life in shown if (found := _end(life)) is not None)
    begin = release(first).date if first else _first_day(shown)
    if (end - begin).days < _LEAST_SPAN:
        raise UsageError(f"nothing to draw: from {begin} to {end} is less than a year")
    with matplotlib.style.context([str(STYLE), {"font.size": 10}]):
        figure = Figure(figsize=(_WIDTH, _LANE * len(shown) + 1.7))
        axes = figure.subplots()
        _draw_axis(axes, begin, end, len(shown))
        for row, life in enumerate(shown):
            _draw_life(axes, life, row, begin, end)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold",
                            parse_math=False)  # fmt: skip
        _draw_legend(figure, shown)
    told = " ".join(_sentence(life) for life in shown)
    return Plot(figure, f"{title or 'Lives of interface elements'}, {begin} to {end}. {told}")


def _x(when: dt.date) -> float:
    """Return a day's place on the axis."""
    return float(when.toordinal())


def _begin(life: Lifecycle) -> dt.date | None:
    known = day(life.introduced) or day(life.experimental) or day(life.deprecated)
    return known or _long_ago(life.introduced)


def _long_ago(name: str | None) -> dt.date | None:
    """Return the oldest day there is for a release that is older; None for any other text."""
    oldest = releases()[0]
    try:
        older = name is not None and parse_release(name) < oldest.version
    except UsageError:
        return None
    return oldest.date if older else None


def _end(life: Lifecycle) -> dt.date | None:
    return day(life.removed or life.delisted or life.newest)


def _first_day(lives: Sequence[Lifecycle]) -> dt.date:
    """Return the oldest day of interest, so that years without an event take no room."""
    begun = min(found for life in lives if (found := _begin(life)) is not None)
    events = [day(life.deprecated or life.experimental) for life in lives]
    known = [found for found in events if found is not None]
    return max(begun, min(known) - dt.timedelta(days=400)) if known else begun


def _draw_axis(axes: Axes, begin: dt.date, end: dt.date, lanes: int) -> None:
    """Draw a line for each release, and name those that begin a series."""
    # Right of the newest release an arrow says that the story goes on.
    margin = (end - begin) * 0.045
    axes.set_xlim(_x(begin), _x(end + margin))
    axes.set_ylim(lanes - 0.25, -0.62)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    step = 1 + (end - begin).days // 3300
    years = range(begin.year + 1, end.year + 1, step)
    axes.set_xticks([_x(dt.date(year, 1, 1)) for year in years], [str(year) for year in years])
    main = [entry for entry in releases() if not entry.is_stable and begin <= entry.date <= end]
    for entry in main:
        is_major = _is_major(entry)
        axes.axvline(
            _x(entry.date),
            color="#D0D0D0" if is_major else "#EBEBEB",
            linewidth=0.9 if is_major else 0.6,
            zorder=0,
        )
    top = axes.secondary_xaxis("top")
    majors = [entry for entry in main if _is_major(entry)]
    top.set_xticks([_x(entry.date) for entry in majors], [entry.name for entry in majors])
    top.tick_params(length=0, pad=1)
    top.spines["top"].set_visible(False)
    top.set_xlabel("release of QEMU", labelpad=3)


def _is_major(entry: Release) -> bool:
    return entry.version[1] == 0


def _draw_life(axes: Axes, life: Lifecycle, row: int, begin: dt.date, end: dt.date) -> None:
    came, gone = _begin(life), _end(life)
    assert came is not None
    assert gone is not None
    deprecated, planned = day(life.deprecated), day(life.earliest)
    still_there = life.removed is None and life.delisted is None
    if life.experimental and life.deprecated is None:
        _bar(axes, row, max(came, begin), gone, _GREY, "....")
    else:
        _bar(axes, row, max(came, begin), min(deprecated or gone, gone), _BLUE)
        if life.introduced is None:
            _bar(axes, row, max(came - _UNKNOWN, begin), came, _PALE)
    if deprecated is not None:
        closing = min(planned, gone) if planned is not None else gone
        low, high = _share(axes, row + 0.42), _share(axes, row - 0.22)
        axes.axvspan(_x(deprecated), _x(closing), ymin=low, ymax=high,
                     color=_ORANGE, alpha=0.22, linewidth=0, zorder=0.5)  # fmt: skip
        _bar(axes, row, deprecated, closing, _ORANGE)
        if planned is not None and gone > planned:
            _bar(axes, row, planned, gone, _RED, "////")
        _mark(axes, row, deprecated, life.deprecated or "", begin)
    if planned is not None and planned <= end:
        axes.plot([_x(planned)], [row], marker="D", markersize=6, markerfacecolor="white",
                  markeredgecolor=_INK, markeredgewidth=1.2, zorder=4)  # fmt: skip
        if planned != gone:
            _mark(axes, row, planned, life.earliest or "", begin)
    if not still_there:
        axes.plot([_x(gone)], [row], marker="X", markersize=8, markerfacecolor=_INK,
                  markeredgecolor="white", markeredgewidth=0.8, zorder=5)  # fmt: skip
        _mark(axes, row, gone, life.removed or life.delisted or "", begin)
    else:
        colour = _RED if planned and gone > planned else _ORANGE if deprecated else _BLUE
        axes.plot([_x(gone)], [row], marker=">", markersize=9, markerfacecolor=colour,
                  markeredgecolor="white", markeredgewidth=0.8, zorder=5)  # fmt: skip
    new = day(life.replaced_since)
    if new is not None and begin <= new <= end:
        axes.plot([_x(new)], [row - _BAR / 2 - 0.07], marker="v", markersize=6, color=_GREEN,
                  markeredgewidth=0, zorder=6)  # fmt: skip
    _label(axes, life, row)


def _share(axes: Axes, y: float) -> float:
    """Return a height of the axes' data as a share of the axes, from below."""
    low, high = axes.get_ylim()
    return (y - low) / (high - low)


def _bar(axes: Axes, row: int, start: dt.date, end: dt.date, colour: str, hatch: str = "") -> None:
    if end <= start:
        return
    axes.barh(row, _x(end) - _x(start), _BAR, _x(start), color=colour,
              hatch=hatch, edgecolor="white", linewidth=0, zorder=2)  # fmt: skip


def _mark(axes: Axes, row: int, when: dt.date, text: str, begin: dt.date) -> None:
    if when >= begin:
        axes.annotate(text, (_x(when), row + _BAR / 2), xytext=(0, -3), textcoords="offset points",
                      ha="center", va="top", fontsize=8.5, color=_INK, zorder=6)  # fmt: skip


def _label(axes: Axes, life: Lifecycle, row: int) -> None:
    """Write name and fate above a bar."""
    transform = axes.get_yaxis_transform()
    height = row - _BAR / 2 - 0.12
    name = life.element
    if len(name) > _NAME_MAX:
        name = name[: _NAME_MAX - 1] + "…"
    axes.text(0, height, name, transform=transform, ha="left", va="bottom",
              fontfamily="monospace", fontsize=10, fontweight="bold", color=_INK,
              parse_math=False)  # fmt: skip
    axes.text(1, height, _fate(life), transform=transform, ha="right", va="bottom", fontsize=9,
              color=_FAINT)  # fmt: skip


def _fate(life: Lifecycle) -> str:
    gone = life.removed or life.delisted
    if life.deprecated is None:
        if life.experimental:
            return f"experiment, gone in {gone}" if gone else "experiment"
        return f"gone in {gone}" if gone else f"since {introduced_text(life)}"
    count = "1 release" if life.window == 1 else f"{life.window} releases"
    return f"deprecated for {count}, {'gone' if gone else 'still there'}"


def _draw_legend(figure: Figure, lives: Sequence[Lifecycle]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415 - matplotlib only where it is used
    from matplotlib.patches import Patch  # noqa: PLC0415

    def dot(marker: str, label: str, colour: str, edge: str = "white") -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, markersize=7, label=label,
                      markerfacecolor=colour, markeredgecolor=edge)  # fmt: skip

    handles: list[Patch | Line2D] = [Patch(facecolor=_BLUE, label="in use")]
    if any(life.experimental and not life.deprecated for life in lives):
        handles.append(Patch(facecolor=_GREY, hatch="....", edgecolor="white", label="experiment"))
    if any(life.deprecated for life in lives):
        handles.append(Patch(facecolor=_ORANGE, label="migration window of the policy"))
        handles.append(
            Patch(
                facecolor=_RED,
                hatch="////",
                edgecolor="white",
                label="deprecated, beyond the window",
            )
        )
        handles.append(dot("D", "removal planned", "white", _INK))
    if any(life.removed or life.delisted for life in lives):
        handles.append(dot("X", "removed", _INK))
    if any(life.removed is None for life in lives):
        handles.append(dot(">", "still there", _FAINT))
    if any(day(life.replaced_since) for life in lives):
        handles.append(dot("v", "replacement came", _GREEN))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1.4)


def _sentence(life: Lifecycle) -> str:
    """Say in words what a bar shows."""
    known = f"introduced {introduced_text(life)}" if life.introduced else "introduced earlier"
    said = [f"{life.element}: {known}"]
    if life.deprecated:
        said.append(f"deprecated {life.deprecated}")
        said.append(f"removal planned for {life.earliest}" if life.earliest else "no removal yet")
    elif life.experimental:
        said.append("an experiment")
    gone = life.removed or life.delisted
    said.append(f"removed in {gone}" if gone else f"still there in {life.newest}")
    if life.window:
        said.append(f"deprecated for {window_text(life)}")
    return ", ".join(said) + "."
