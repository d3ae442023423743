"""Patches: read from diffs, mails and mailboxes, and applied in memory onto a schema's files.

One module a stage: ``mail`` undoes what the transport did, ``series`` puts patches in order,
``diff`` reads files and hunks, ``apply`` and ``tree`` apply them, ``steps`` loads the schemas
before and after each patch.
"""

from __future__ import annotations

from nbexport.review.patch.errors import PatchError
from nbexport.review.patch.make import make_patch
from nbexport.review.patch.series import Patch, Series, parse_series, read_patch
from nbexport.review.patch.steps import PatchedSchemas, Step, apply_series

__all__ = [
    "Patch",
    "PatchError",
    "PatchedSchemas",
    "Series",
    "Step",
    "apply_series",
    "make_patch",
    "parse_series",
    "read_patch",
]
