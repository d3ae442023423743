"""Figures and tables: data in, a matplotlib figure and its text alternative out."""

from __future__ import annotations

from nbexport.plots.maps import draw_maps
from nbexport.plots.plot import Plot, show
from nbexport.plots.reviews import draw_revisions, findings_table, revisions_table
from nbexport.plots.tables import (
    Table,
    availability_table,
    bitmap_table,
    history_table,
    map_table,
    window,
)

__all__ = [
    "Plot",
    "Table",
    "availability_table",
    "bitmap_table",
    "draw_maps",
    "draw_revisions",
    "findings_table",
    "history_table",
    "map_table",
    "revisions_table",
    "show",
    "window",
]
