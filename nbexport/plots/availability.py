"""What each release has of something, as a row of squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.plots.palette import BLUE, GREY, ORANGE
from nbexport.plots.plot import STYLE, WIDTH, Plot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

_KINDS = {
    "present": (BLUE, ""),
    "deprecated": (ORANGE, "////"),
    "absent": (GREY, ""),
}
"""For each kind its colour and hatch: what is deprecated is hatched for who sees no colour."""


def draw_availability(
    found: Mapping[str, Sequence[str]], releases: Sequence[str], *, title: str
) -> Plot:
    """Draw through which releases each of some calls exists.

    Args:
        found: for each call the answers of `nbexport.timeline.availability`.
        releases: the releases that were asked about.
        title: what the figure is about.

    Raises:
        UsageError: there is no call, no release, or not one answer for each release.
    """
    import matplotlib.style  # noqa: PLC0415 - half a second that only a plot should cost
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    if not found or not releases:
        raise UsageError("nothing to draw: no call, or no release")
    for name, answers in found.items():
        if len(answers) != len(releases):
            raise UsageError(f"'{name}' has {len(answers)} answers for {len(releases)} releases")
    with matplotlib.style.context(str(STYLE)):
        figure = Figure(figsize=(WIDTH, 0.36 * len(found) + 1.35))
        axes = figure.subplots()
        for row, answers in enumerate(found.values()):
            _draw_row(axes, row, [_kind(answer) for answer in answers])
        axes.set_yticks(range(len(found)), list(found))
        axes.invert_yaxis()
        axes.set_xticks(range(len(releases)), list(releases), rotation=90, fontsize=7.5)
        axes.tick_params(length=0)
        axes.set_xlim(-0.6, len(releases) - 0.4)
        axes.spines[:].set_visible(False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold",
                        parse_math=False)  # fmt: skip
        handles = [
            Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=kind)
            for kind, (colour, hatch) in _KINDS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    said = "; ".join(f"{name}: {_spans(answers, releases)}" for name, answers in found.items())
    return Plot(figure, f"{title}. {said}.")


def _kind(answer: str) -> str:
    if not answer:
        return "absent"
    return "deprecated" if "deprecated" in answer.split(", ") else "present"


def _draw_row(axes: Axes, row: int, kinds: Sequence[str]) -> None:
    for kind, (colour, hatch) in _KINDS.items():
        at = [number for number, each in enumerate(kinds) if each == kind]
        axes.bar(at, 0.8, width=0.92, bottom=row - 0.4, color=colour, hatch=hatch,
                 edgecolor="white", linewidth=0)  # fmt: skip


def _spans(answers: Sequence[str], releases: Sequence[str]) -> str:
    """Say the kinds of neighbours that are alike together."""
    spans: list[tuple[str, str, str]] = []
    for release, answer in zip(releases, answers, strict=True):
        kind = _kind(answer)
        if spans and spans[-1][0] == kind:
            spans[-1] = (kind, spans[-1][1], release)
        else:
            spans.append((kind, release, release))
    return ", ".join(
        f"{kind} in {first}" if first == last else f"{kind} from {first} to {last}"
        for kind, first, last in spans
    )
