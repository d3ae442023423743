"""What reviews find, revision beside revision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.errors import UsageError
from nbexport.plots.plot import STYLE, Plot
from nbexport.plots.tables import Table
from nbexport.review.finding import Level

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbexport.review.finding import Finding
    from nbexport.review.report import Review

    Row = tuple[str, str]

# Okabe and Ito's palette, darker for what is worse; what is not there stays white.
_COLOURS = {
    Level.BREAKING: "#7A1F00",
    Level.RISKY: "#D55E00",
    Level.NOTICE: "#56B4E9",
    Level.INFO: "#DDDDDD",
}
_LABEL_MAX = 44
_WIDTH, _ROW = 7.2, 0.42
"""Inches. Narrow, so that text of ten points stays readable where the screen is 360 pixels wide."""


def findings_table(findings: Sequence[Finding], *, least: str = "notice") -> Table:
    """Tabulate findings, the worst first.

    Args:
        findings: what a review found.
        least: the lowest level to show.

    Raises:
        UsageError: there is no such level.
    """
    lowest = _level(least)
    rows = []
    for finding in findings:
        place = finding.new or finding.old
        where = f"{place.file.rpartition('/')[2]}:{place.line}" if place is not None else ""
        if finding.level >= lowest:
            rows.append((str(finding.level), finding.rule, where, finding.message))
    return Table(("level", "rule", "line", "what"), rows)


def revisions_table(reviews: Mapping[str, Review], *, least: str = "notice") -> Table:
    """Tabulate which revision has which findings.

    Args:
        reviews: for each revision the review of the change that it makes.
        least: the lowest level to show.

    Raises:
        UsageError: there is no such level.
    """
    rows = _rows(reviews, _level(least))
    cells = [
        (rule, element, *(str(levels[name]) if name in levels else "-" for name in reviews))
        for (rule, element), levels in rows.items()
    ]
    return Table(("rule", "element", *reviews), cells)


def draw_revisions(
    reviews: Mapping[str, Review], *, title: str = "", least: str = "notice"
) -> Plot:
    """Draw which revision has which findings: a row for each, a column for a revision.

    Args:
        reviews: for each revision the review of the change that it makes.
        title: what the figure is about.
        least: the lowest level to draw.

    Raises:
        UsageError: there is no review, or no such level.
    """
    import matplotlib.style  # noqa: PLC0415 - half a second that only a plot should cost
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.patches import Patch, Rectangle  # noqa: PLC0415

    if not reviews:
        raise UsageError("nothing to draw: no review was given")
    rows = _rows(reviews, _level(least))
    with matplotlib.style.context([str(STYLE), {"font.size": 10}]):
        figure = Figure(figsize=(_WIDTH, _ROW * max(len(rows), 1) + 1.3))
        axes = figure.subplots()
        for line, levels in enumerate(rows.values()):
            for column, name in enumerate(reviews):
                level = levels.get(name)
                face = _COLOURS[level] if level is not None else "white"
                axes.add_patch(
                    Rectangle((column, line), 1, 1, facecolor=face, edgecolor="white", linewidth=2)
                )
        axes.set_xlim(0, len(reviews))
        axes.set_ylim(max(len(rows), 1), 0)
        axes.set_xticks([column + 0.5 for column in range(len(reviews))], list(reviews))
        labels = [_label(rule, element) for rule, element in rows]
        axes.set_yticks([line + 0.5 for line in range(len(rows))], labels, parse_math=False)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.tick_params("y", labelsize=9)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold",
                            parse_math=False)  # fmt: skip
        there = {level for levels in rows.values() for level in levels.values()}
        handles = [
            Patch(facecolor=_COLOURS[level], label=str(level)) for level in sorted(there)[::-1]
        ]
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return Plot(figure, f"{title or 'Findings by revision'}. {_described(reviews, rows)}")


def _level(name: str) -> Level:
    try:
        return Level[name.upper()]
    except KeyError as error:
        raise UsageError(f"no level '{name}': {', '.join(map(str, Level))}") from error


def _rows(reviews: Mapping[str, Review], least: Level) -> dict[Row, dict[str, Level]]:
    """Return for each rule and element the level by revision, the worst and oldest rows first."""
    rows: dict[Row, dict[str, Level]] = {}
    for name, review in reviews.items():
        for finding in review.findings:
            if finding.level >= least:
                row = rows.setdefault((finding.rule, finding.element), {})
                row[name] = max(finding.level, row.get(name, finding.level))
    return dict(sorted(rows.items(), key=lambda item: -max(item[1].values())))


def _label(rule: str, element: str) -> str:
    shown = element if len(element) <= _LABEL_MAX else f"{element[: _LABEL_MAX - 1]}…"
    return f"{rule}\n{shown}"


def _described(reviews: Mapping[str, Review], rows: Mapping[Row, Mapping[str, Level]]) -> str:
    """Say in words how many findings each revision has, and what the last one is rid of."""
    counts = [
        f"{name}: {sum(name in levels for levels in rows.values())} findings" for name in reviews
    ]
    names = list(reviews)
    left = {rule for (rule, _), levels in rows.items() if names[-1] in levels}
    gone = sorted({rule for rule, _ in rows} - left)
    rid = f" Not in {names[-1]}: {', '.join(gone)}." if gone else ""
    return f"{'; '.join(counts)}.{rid}"
