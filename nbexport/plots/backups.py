"""Backups beside each other: what was marked, what was copied, and what a full one would read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.plots.palette import BLUE, GREY, ORANGE, SKY
from nbexport.plots.plot import STYLE, WIDTH, Plot
from nbexport.plots.tables import Table
from nbexport.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.bench.backups import Fetched
    from nbexport.bits import Extents

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def backup_table(backups: Sequence[Fetched]) -> Table:
    """Tabulate what consumers fetched, in the order in which they did.

    A full copy is what a backup of all would have read at that moment; the last column tells
    whether the copy is the disk of the moment at which the backup began.
    """
    rows = [
        (
            each.consumer,
            each.bitmap or "(full)",
            format_size(each.marked) if each.bitmap else "all",
            format_size(each.copied),
            format_size(each.in_use),
            f"{format_size(each.saved)} ({each.saved / each.in_use:.0%})" if each.in_use else "-",
            "yes" if each.same else "NO",
        )
        for each in backups
    ]
    header = ("consumer", "bitmap", "marked", "copied", "full copy", "saved", "as the disk was")
    return Table(header, rows)


def marks(backups: Sequence[Fetched]) -> dict[str, Extents]:
    """Return for each bitmap that was used what it named, as lanes of a map."""
    return {
        context: extents
        for each in backups
        if each.bitmap is not None
        for context, extents in each.maps.items()
        if context.endswith(f":{each.bitmap}")
    }


def draw_backups(backups: Sequence[Fetched], *, title: str = "") -> Plot:
    """Draw a bar for each backup: what it copied, and what it saved of a full one.

    Args:
        backups: what was fetched, top to bottom.
        title: what the figure is about.

    Raises:
        UsageError: there is none.
    """
    import matplotlib.style  # noqa: PLC0415 - half a second that only a plot should cost
    from matplotlib.figure import Figure  # noqa: PLC0415

    if not backups:
        raise UsageError("nothing to draw: no backup was made")
    most = max(max(each.in_use, each.marked if each.bitmap else 0) for each in backups)
    unit, name = next(((size, word) for size, word in _UNITS if most >= size), (1, "bytes"))
    labels = [each.bitmap or f"{each.consumer}, full" for each in backups]
    with matplotlib.style.context(str(STYLE)):
        figure = Figure(figsize=(WIDTH, 0.38 * len(backups) + 1.35))
        axes = figure.subplots()
        places = range(len(backups))
        copied = [each.copied / unit for each in backups]
        saved = [max(each.saved, 0) / unit for each in backups]
        axes.barh(places, saved, left=copied, color=GREY, label="saved: a full backup reads it too")
        axes.barh(places, copied, color=BLUE, label="copied")
        zeroed = [max(each.marked - each.copied, 0) / unit if each.bitmap else 0
                  for each in backups]  # fmt: skip
        axes.barh(places, zeroed, left=copied, color=SKY, height=0.3,
                  label="marked, and known to be zeroes")  # fmt: skip
        for place, each in enumerate(backups):
            end = (each.copied + max(each.saved, 0)) / unit
            colour = "#444444" if each.same else ORANGE
            axes.text(end, place, f"  {_share(each)}", va="center", fontsize=8, color=colour)
        axes.set_yticks(list(places), labels, parse_math=False)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.set_xlabel(name)
        axes.tick_params(left=False)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold",
                            parse_math=False)  # fmt: skip
        figure.legend(loc="outside lower center", ncols=3)
    told = "; ".join(
        f"{label}: {format_size(each.copied)} copied, {format_size(max(each.saved, 0))} saved"
        for label, each in zip(labels, backups, strict=True)
    )
    return Plot(figure, f"{title or 'Backups'}. {told}.")


def _share(each: Fetched) -> str:
    if not each.same:
        return "is not the disk of then"
    return f"{max(each.saved, 0) / each.in_use:.0%} saved" if each.saved > 0 else ""
