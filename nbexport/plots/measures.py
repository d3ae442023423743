"""What a map costs and how it is cut up: granularities against bytes, lengths of extents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbexport.bits.measures import length_classes
from nbexport.errors import UsageError
from nbexport.plots.curves import Panel, draw_curves
from nbexport.plots.palette import background
from nbexport.plots.tables import Table
from nbexport.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbexport.bits import Extents
    from nbexport.bits.measures import Cost
    from nbexport.plots.plot import Plot


def draw_costs(costs: Mapping[str, Sequence[Cost]], *, title: str = "") -> Plot:
    """Draw what granularities cost: bytes that a backup copies, and bytes that the bitmap takes.

    Args:
        costs: for each bitmap its costs, in rising order of granularity.
        title: what the figure is about.

    Raises:
        UsageError: there are none.
    """
    if not any(costs.values()):
        raise UsageError("nothing to draw: no costs were given")
    marked = {
        name: ([cost.granularity for cost in many], [cost.dirty for cost in many])
        for name, many in costs.items()
        if any(cost.dirty for cost in many)
    }
    over = {}
    for name, many in costs.items():
        some = [cost for cost in many if cost.over_reported]
        if some:
            over[name] = (
                [cost.granularity for cost in some],
                [cost.over_reported for cost in some],
            )
    first = next(many for many in costs.values() if many)
    bits = ([cost.granularity for cost in first], [cost.bitmap_bytes for cost in first])
    panels = [Panel({**over, "size of one bitmap": bits}, "over-reported / bitmap", as_size=True)]
    if marked:
        panels.insert(0, Panel(marked, "marked dirty", as_size=True))
    return draw_curves(
        panels, along="granularity", title=title or "What granularity costs", sizes=True, ticks=9
    )


def draw_lengths(maps: Mapping[str, Extents], *, title: str = "") -> Plot:
    """Draw how long the extents of each context are: how many there are, and their bytes.

    Extents that nobody looks for (holes, clean, absent) are left out.

    Raises:
        UsageError: no context has any other extent.
    """
    counts, totals = {}, {}
    for context, extents in maps.items():
        found = length_classes(extents, background=background(context))
        if not len(found.counts):
            continue
        lengths = (1 << found.exponents).tolist()
        some = found.counts > 0  # an empty class is a gap in its curve
        name = context.rpartition(":")[2] if context.startswith("qemu:dirty") else context
        counts[name] = (lengths, np.where(some, found.counts, np.nan).tolist())
        totals[name] = (lengths, np.where(some, found.totals, np.nan).tolist())
    if not counts:
        raise UsageError("nothing to draw: no context has an extent of interest")
    panels = [
        Panel(counts, "extents"),
        Panel(totals, "bytes in them", as_size=True),
    ]
    return draw_curves(
        panels,
        along="length of an extent, from this on",
        title=title or "How long extents are",
        sizes=True,
        ticks=9,
    )


def cost_table(costs: Sequence[Cost]) -> Table:
    """Tabulate what each granularity costs."""
    rows = [
        (
            format_size(cost.granularity),
            format_size(cost.bitmap_bytes),
            f"{cost.extents:,}",
            format_size(cost.dirty),
            format_size(cost.over_reported),
            f"{cost.dirty / (cost.dirty - cost.over_reported):.2f}"
            if cost.dirty > cost.over_reported
            else "-",
        )
        for cost in costs
    ]
    header = ("granularity", "bitmap", "extents", "dirty", "over-reported", "dirty / written")
    return Table(header, rows)
