"""Where a schema comes from: files, a git revision, a live monitor, a release, an introspection.

`load` takes them all, by one notation; `describe` explains a piece of what was loaded.
"""

from __future__ import annotations

from nbexport.sources.describe import Description, describe
from nbexport.sources.load import LoadedSchema, load

__all__ = ["Description", "LoadedSchema", "describe", "load"]
