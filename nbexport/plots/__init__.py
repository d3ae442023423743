"""Figures and tables: data in, a matplotlib figure and its text alternative out."""

from __future__ import annotations

from nbexport.plots.maps import draw_maps
from nbexport.plots.plot import Plot, show
from nbexport.plots.tables import (
    Table,
    answer_table,
    availability_table,
    bitmap_table,
    comparison_table,
    history_table,
    map_table,
    window,
)

__all__ = [
    "Plot",
    "Table",
    "answer_table",
    "availability_table",
    "bitmap_table",
    "comparison_table",
    "draw_maps",
    "history_table",
    "map_table",
    "show",
    "window",
]
