"""The same work against this package's server and against other ones, told as ratios."""

from __future__ import annotations

from nbexport.bench.report import Comparison, Report
from nbexport.bench.run import run

__all__ = ["Comparison", "Report", "run"]
