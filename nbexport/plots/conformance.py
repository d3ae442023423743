"""What was compared with which QEMU, what differs, and which deviations are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.plots.palette import BLUE, GREY, ORANGE
from nbexport.plots.plot import STYLE, WIDTH, Plot
from nbexport.plots.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.bench.conformance import Comparison
    from nbexport.bench.deviations import Deviation

_SHOWN_MAX = 400
_LABEL_MAX = 44


def conformance_table(comparisons: Sequence[Comparison]) -> Table:
    """Tabulate for each peer how much was compared and how much of it differs."""
    rows = []
    for each in comparisons:
        if not each.installed:
            rows.append((each.peer, "not installed", "", "", ""))
            continue
        behaved = f"release {each.release}" if each.release else "as always"
        rows.append((each.peer, each.version, behaved, f"{len(each.found):,}",
                     f"{len(each.different):,}"))  # fmt: skip
    return Table(("compared with", "version", "nbexport behaves", "questions", "different"), rows)


def differences_table(comparisons: Sequence[Comparison]) -> Table:
    """Tabulate every answer that is not the same; no rows if there is none."""
    rows = [
        (comparison.peer, each.group, *map(_short, (each.asked, each.theirs, each.ours)))
        for comparison in comparisons
        for each in comparison.different
    ]
    return Table(("compared with", "where", "question", "QEMU", "nbexport"), rows)


def answers_table(comparison: Comparison, group: str) -> Table:
    """Tabulate what was asked in one group, and what both said.

    Raises:
        UsageError: there is no such group.
    """
    rows = [
        (
            _short(each.asked),
            _short(each.theirs),
            "the same" if each.same else _short(each.ours),
        )
        for each in comparison.found
        if each.group == group
    ]
    if not rows and comparison.installed:
        known = ", ".join(dict.fromkeys(each.group for each in comparison.found))
        raise UsageError(f"nothing was compared under '{group}' (but under: {known})")
    return Table(("question", comparison.peer, "nbexport"), rows)


def deviation_table(known: Sequence[Deviation]) -> Table:
    """Tabulate known deviations: what differs and why."""
    rows = [(each.area, each.what, each.why, each.since) for each in known]
    return Table(("area", "what differs", "why", "since"), rows)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 1]}…"


def draw_conformance(comparisons: Sequence[Comparison], *, title: str = "") -> Plot:
    """Draw what was compared: a row for each group, a column for each peer, numbers in the cells.

    Args:
        comparisons: one for each peer.
        title: what the figure is about.

    Raises:
        UsageError: there is none.
    """
    import matplotlib.style  # noqa: PLC0415 - half a second that only a plot should cost
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.patches import Patch, Rectangle  # noqa: PLC0415

    if not comparisons:
        raise UsageError("nothing to draw: nothing was compared")
    groups = list(dict.fromkeys(each.group for one in comparisons for each in one.found))
    with matplotlib.style.context(str(STYLE)):
        figure = Figure(figsize=(WIDTH, 0.28 * max(len(groups), 1) + 1.3))
        axes = figure.subplots()
        for column, one in enumerate(comparisons):
            for line, group in enumerate(groups):
                some = [each for each in one.found if each.group == group]
                if not some:
                    continue
                bad = sum(not each.same for each in some)
                axes.add_patch(Rectangle((column, line), 1, 1, edgecolor="white", linewidth=2,
                                         facecolor=ORANGE if bad else BLUE))  # fmt: skip
                word = f"{bad} of {len(some)}" if bad else str(len(some))
                axes.text(column + 0.5, line + 0.5, word, color="white", ha="center", va="center",
                          fontsize=8)  # fmt: skip
            if not one.installed:
                axes.add_patch(Rectangle((column, 0), 1, max(len(groups), 1), facecolor=GREY))
                axes.text(column + 0.5, max(len(groups), 1) / 2, "not\ninstalled", ha="center",
                          va="center", fontsize=8)  # fmt: skip
        axes.set_xlim(0, len(comparisons))
        axes.set_ylim(max(len(groups), 1), 0)
        names = [f"{one.peer}\n{one.version}".strip() for one in comparisons]
        axes.set_xticks([column + 0.5 for column in range(len(names))], names)
        axes.set_yticks([line + 0.5 for line in range(len(groups))],
                        [group[:_LABEL_MAX] for group in groups], parse_math=False)  # fmt: skip
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold",
                            parse_math=False)  # fmt: skip
        handles = [Patch(facecolor=BLUE, label="questions, all answered alike"),
                   Patch(facecolor=ORANGE, label="some answered otherwise")]  # fmt: skip
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    told = "; ".join(
        f"{one.peer} {one.version}: {len(one.found)} questions, {len(one.different)} different"
        if one.installed
        else f"{one.peer}: not installed"
        for one in comparisons
    )
    return Plot(figure, f"{title or 'Conformance'}. {told}.")
