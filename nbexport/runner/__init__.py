"""Runs notebooks with papermill and turns them into a site with nbconvert.

The only room that imports papermill, nbconvert or nbformat, and only where they are used: they
cost more than a second.
"""

from __future__ import annotations

from nbexport.runner.notebook import Notebook, find_notebooks
from nbexport.runner.record import Records, record
from nbexport.runner.run import Run, parse_parameters, run_notebook
from nbexport.runner.site import build_site

__all__ = [
    "Notebook",
    "Records",
    "Run",
    "build_site",
    "find_notebooks",
    "parse_parameters",
    "record",
    "run_notebook",
]
