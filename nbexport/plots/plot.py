"""A figure together with the sentence that stands for it, and how a notebook shows the two."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("nbexport.mplstyle")

WIDTH = 7.6
"""Inches of every figure: the text column of a page, on paper or on a screen, without scaling."""


@dataclass(frozen=True)
class Plot:
    """A figure and its text alternative.

    Attributes:
        figure: made without pyplot, so that no global state is left behind.
        alt: what the figure shows, for a reader who does not see it.
    """

    figure: Figure
    alt: str

    def png(self) -> bytes:
        """Return the figure as a PNG file at twice the screen's resolution."""
        buffer = io.BytesIO()
        # Without the software tag the same data gives the same bytes on every release.
        dpi = 2 * self.figure.get_dpi()
        self.figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()


def show(plot: Plot) -> None:
    """Display ``plot`` in a notebook as a PNG that carries its text alternative.

    A raw bundle does not depend on matplotlib's backend, and keeps the alternative text where the
    site's template finds it.
    """
    from IPython.display import display  # noqa: PLC0415 - only a notebook has it

    width, height = plot.figure.get_size_inches() * plot.figure.get_dpi()
    display(
        {"image/png": base64.b64encode(plot.png()).decode(), "text/plain": plot.alt},
        metadata={"image/png": {"width": round(width), "height": round(height), "alt": plot.alt}},
        raw=True,
    )
