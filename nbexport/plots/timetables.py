"""Lives of interface elements, and migration plans, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.plots.tables import Table
from nbexport.timeline.lifecycle import AT_LATEST, day
from nbexport.timeline.migration import described
from nbexport.timeline.tags import PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nbexport.timeline.lifecycle import Lifecycle
    from nbexport.timeline.mapping import Migration
    from nbexport.timeline.migration import Plan
    from nbexport.timeline.tags import TagDifference


def introduced_text(life: Lifecycle) -> str:
    """Say in which release something came, and how sure that is."""
    if life.introduced is None:
        return "-"
    return f"{life.introduced} or before" if life.basis == AT_LATEST else life.introduced


def lifecycle_table(lives: Iterable[Lifecycle]) -> Table:
    """Tabulate lives, one a row: when each came, what happened to it, what the policy says."""
    rows = [
        (
            life.element,
            life.kind,
            introduced_text(life),
            life.deprecated or (f"experimental {life.experimental}" if life.experimental else "-"),
            life.removed or "-",
            life.earliest or "-",
            window_text(life),
            life.replacement or "-",
            life.verdict,
        )
        for life in lives
    ]
    header = ("element", "kind", "introduced", "deprecated", "removed", "planned", "window",
              "instead", "policy")  # fmt: skip
    return Table(header, rows)


def tag_table(differences: Iterable[TagDifference]) -> Table:
    """Tabulate written releases that the schemas contradict."""
    rows = [
        (str(item.element), item.told or "-", str(item.since), PROBLEMS[item.problem])
        for item in differences
    ]
    return Table(("element", "written", "computed", "what is wrong"), rows)


def window_text(life: Lifecycle) -> str:
    """Say for how long something was deprecated and worked, in releases and days."""
    if life.window is None:
        return "-"
    days = f", {life.days} days" if life.days is not None else ""
    so_far = " so far" if life.removed is None and life.delisted is None else ""
    plural = "" if life.window == 1 else "s"
    return f"{life.window} release{plural}{days}{so_far}"


def dated(release: str | None) -> str:
    """Return a release with its day, ``5.2 (2020-12-08)``; a dash for none."""
    if release is None:
        return "-"
    found = day(release)
    return f"{release} ({found})" if found else release


# -- migration plans ----------------------------------------------------------------------------


def plan_table(plan: Plan) -> Table:
    """Tabulate a plan: for each release what it has of each call, and which one to make."""
    rows = []
    for row in plan.rows:
        found = day(row.release)
        states = ("-" if str(state) == "absent" else str(state) for state in row.states)
        call = row.choice.title if row.choice else "none"
        rows.append((row.release, str(found or ""), *states, call, "switch" if row.switch else ""))
    header = ("release", "date", *(way.title for way in plan.ways), "call", "")
    return Table(header, rows)


def mapping_table(step: Migration) -> Table:
    """Tabulate what becomes of each argument of a call."""
    return Table((step.item, step.to, ""), list(_mapped(step)))


def _mapped(step: Migration) -> Iterator[tuple[str, str, str]]:
    if step.whole is not None:
        yield "all arguments: X", f"{step.whole.to}: [X]", step.whole.note
    for argument in step.arguments:
        if not argument.to:
            yield argument.old, "-", argument.note
        elif argument.form == "list":
            yield f"{argument.old}: X", f"{argument.to}: [X]", argument.note
        else:
            yield argument.old, argument.to, argument.note
    for new in step.new:
        yield "-", f"{new.name}: {described(new.value, new.of, new.asked)}", new.note
