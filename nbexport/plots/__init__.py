"""Figures and tables: data in, a matplotlib figure and its text alternative out."""

from __future__ import annotations

from nbexport.plots.availability import draw_availability
from nbexport.plots.backups import backup_table, draw_backups, marks
from nbexport.plots.conformance import (
    answers_table,
    conformance_table,
    deviation_table,
    differences_table,
    draw_conformance,
)
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
from nbexport.plots.reviews import draw_revisions, findings_table, revisions_table
from nbexport.plots.tables import (
    Table,
    answer_table,
    availability_table,
    bitmap_table,
    command_table,
    comparison_table,
    history_table,
    map_table,
    window,
)
from nbexport.plots.timeline import draw_timeline
from nbexport.plots.timetables import lifecycle_table, mapping_table, plan_table, tag_table

__all__ = [
    "Panel",
    "Plot",
    "Table",
    "answer_table",
    "answers_table",
    "availability_table",
    "backup_table",
    "bitmap_table",
    "command_table",
    "comparison_table",
    "conformance_table",
    "cost_table",
    "deviation_table",
    "differences_table",
    "draw_availability",
    "draw_backups",
    "draw_conformance",
    "draw_costs",
    "draw_curves",
    "draw_lengths",
    "draw_map_times",
    "draw_maps",
    "draw_rates",
    "draw_revisions",
    "draw_timeline",
    "findings_table",
    "history_table",
    "lifecycle_table",
    "map_table",
    "map_time_table",
    "mapping_table",
    "marks",
    "plan_table",
    "rate_table",
    "revisions_table",
    "server_table",
    "show",
    "tag_table",
    "window",
    "workload_table",
]
