"""Figures and tables: data in, a matplotlib figure and its text alternative out."""

from __future__ import annotations

from nbexport.plots.availability import draw_availability
from nbexport.plots.curves import Panel, draw_curves
from nbexport.plots.maps import draw_maps
from nbexport.plots.measures import cost_table, draw_costs, draw_lengths
from nbexport.plots.plot import Plot, show
from nbexport.plots.rates import (
    draw_map_times,
    draw_rates,
    map_time_table,
    rate_table,
    server_table,
    workload_table,
)
from nbexport.plots.tables import (
    Table,
    availability_table,
    bitmap_table,
    history_table,
    map_table,
    window,
)

__all__ = [
    "Panel",
    "Plot",
    "Table",
    "availability_table",
    "bitmap_table",
    "cost_table",
    "draw_availability",
    "draw_costs",
    "draw_curves",
    "draw_lengths",
    "draw_map_times",
    "draw_maps",
    "draw_rates",
    "history_table",
    "map_table",
    "map_time_table",
    "rate_table",
    "server_table",
    "show",
    "window",
    "workload_table",
]
