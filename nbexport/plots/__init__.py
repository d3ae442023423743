"""Figures and tables: data in, a matplotlib figure and its text alternative out."""

from __future__ import annotations

from nbexport.plots.maps import draw_maps
from nbexport.plots.plot import Plot, show
from nbexport.plots.reviews import draw_revisions, findings_table, revisions_table
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
from nbexport.plots.timeline import draw_timeline
from nbexport.plots.timetables import lifecycle_table, mapping_table, plan_table, tag_table

__all__ = [
    "Plot",
    "Table",
    "answer_table",
    "availability_table",
    "bitmap_table",
    "comparison_table",
    "draw_maps",
    "draw_revisions",
    "draw_timeline",
    "findings_table",
    "history_table",
    "lifecycle_table",
    "map_table",
    "mapping_table",
    "plan_table",
    "revisions_table",
    "show",
    "tag_table",
    "window",
]
