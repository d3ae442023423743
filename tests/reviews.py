"""The patch revisions that travel with the package, as patches and as reviews."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from nbexport.resources import data_path
from nbexport.review.patch import apply_series, parse_series
from nbexport.review.run import Settings, review_patches

if TYPE_CHECKING:
    from nbexport.review.report import Review

SERIES = data_path("series", "multiple-bitmaps")
BASE = str(SERIES / "base")
SEPARATOR = "From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001\n"
HEADERS = """\
From: A Contributor <contributor@example.org>
To: qemu-devel@example.org
Cc: qemu-block@example.org, "B. Reader" <reader@example.org>
Subject: [PATCH v5 {number}] nbd: Update qapi to support exporting multiple bitmaps
Date: Mon, 26 Oct 2020 11:52:33 -0500
Message-ID: <5-{id}@example.org>
In-Reply-To: <5-0@example.org>
References: <4-0@example.org> <5-0@example.org>
"""


def diff(old: str, new: str) -> str:
    """Return the difference of two revisions as git writes it."""
    pieces = []
    for path in sorted(Path(SERIES, old).iterdir()):
        texts = [
            (SERIES / side / path.name).read_text().splitlines(keepends=True) for side in (old, new)
        ]
        lines = list(
            difflib.unified_diff(*texts, f"a/qapi/{path.name}", f"b/qapi/{path.name}", n=3)
        )
        if lines:
            pieces.append(f"diff --git a/qapi/{path.name} b/qapi/{path.name}\nindex 1..2 100644\n")
            pieces += lines
    return "".join(pieces)


def mail(text: str, number: str = "1/1") -> str:
    """Return a patch as format-patch writes a mail."""
    headers = HEADERS.format(number=number, id=number.partition("/")[0])
    return f"{headers}\nWhy it is done.\n\nSigned-off-by: A Contributor\n---\n{text}-- \n2.29.1\n\n"


def reviewed(text: str, base: str = BASE, **settings) -> Review:
    """Review the patches of a text on top of a base."""
    patched = apply_series(parse_series(text.encode(), name="p.mbox"), base)
    return review_patches(patched, Settings(**({"release": "5.2"} | settings)))
