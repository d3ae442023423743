"""Colours and line styles; what they tell apart is told by a second sign as well."""

from __future__ import annotations

from typing import NamedTuple

from nbexport.nbd.meanings import DIRTY_BITMAP_PREFIX

# Okabe and Ito's palette: told apart with every common form of colour blindness.
GREY = "#E4E4E4"
BLUE, ORANGE, GREEN, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7"
INK = "#333333"
_ALLOCATION_COLOURS = {0: BLUE, 1: PURPLE, 2: SKY, 3: GREY}
_DEPTH_COLOURS = [GREY, "#00543D", GREEN, "#66C5A8", "#99D8C6"]


def context_colour(context: str, flags: int) -> str:
    """Return the colour of an extent with ``flags`` in a metadata context."""
    if context == "qemu:allocation-depth":
        return _DEPTH_COLOURS[min(flags, len(_DEPTH_COLOURS) - 1)]
    if context.startswith(DIRTY_BITMAP_PREFIX):
        return ORANGE if flags else GREY
    return _ALLOCATION_COLOURS.get(flags, PURPLE)


def background(context: str) -> int:
    """The flags of the bytes that nobody looks for: zeroes, unallocated, clean."""
    return 3 if context == "base:allocation" else 0


class Line(NamedTuple):
    """How one series of a chart is drawn.

    Attributes:
        color: of the line and its markers.
        marker: at each point.
        linestyle: between them.
    """

    color: str
    marker: str
    linestyle: str


_LINES = (
    Line(BLUE, "o", "-"),
    Line(ORANGE, "s", "--"),
    Line(GREEN, "^", "-."),
    Line(PURPLE, "D", ":"),
    Line(INK, "v", "-"),
    Line(SKY, "P", "--"),
)


def line(number: int) -> Line:
    """Return the style of a chart's series; after six of them they repeat."""
    return _LINES[number % len(_LINES)]
