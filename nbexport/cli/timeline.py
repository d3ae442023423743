"""``nbexport timeline``: when each piece of the interface came, was deprecated, and went."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from nbexport.errors import UsageError
from nbexport.qapi import parse_release
from nbexport.sources import load
from nbexport.timeline import Snapshot, Timeline, check_tags, release_snapshots
from nbexport.timeline.lifecycle import AT_LATEST, DOCUMENTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nbexport.plots.tables import Table
    from nbexport.timeline import Lifecycle, TagDifference

FORMATS = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    show_default=True,
    help="json is one JSON document.",
)


@click.command("timeline")
@click.argument("elements", nargs=-1, metavar="[ELEMENT]...")
@click.option("--from", "first", metavar="RELEASE", help="Tell of what happened from that one on.")
@click.option("--to", "last", metavar="RELEASE", help="Look at no release after that one.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="SOURCE",
    help="Look at these schemas instead of the package's own, oldest first: a schema file or "
    "folder, git:REPO@REV[:path], qmp:ADDRESS, release:7.2, or a saved answer to "
    "query-qmp-schema.  Two at least.",
)
@click.option(
    "--only-deprecated", is_flag=True, help="Only what is deprecated, an experiment, or gone."
)
@click.option("--tags", is_flag=True, help="Only where the written releases are wrong or missing.")
@click.option(
    "--window",
    type=click.IntRange(min=1),
    metavar="N",
    help="Judge by a policy under which what is deprecated works for N releases, that one "
    "included.  [default: QEMU's, 2]",
)
@FORMATS
def timeline_command(
    *,
    elements: tuple[str, ...],
    first: str | None,
    last: str | None,
    sources: tuple[str, ...],
    only_deprecated: bool,
    tags: bool,
    window: int | None,
    form: str,
) -> None:
    """Tell when each ELEMENT of the interface came, was deprecated, and went.

    \b
      nbexport timeline nbd-server-add
      nbexport timeline --only-deprecated --from 5.2
      nbexport timeline query-block.result.inserted BlockExportType=fuse --format json
      nbexport timeline --source git:../qemu@v7.2.0 --source git:../qemu@v8.0.0 --tags

    An ELEMENT is a command, event or type; a member, nbd-server-add.bitmap; a member of what a
    command returns, query-block.result.inserted; a value, BlockExportType=fuse; a feature,
    nbd-server-add:deprecated; or an item of the list of deprecations, "blockdev-add driver
    gluster". A space does instead of a dot. Of a command, event or type its pieces are told, too.
    Without ELEMENT everything is.

    All of it is computed from the schemas; deprecations before 5.0, which no schema tells, and
    changed defaults come from QEMU's own lists. Releases that the documentation names are compared
    with the computed ones. With --source the same is done for other schemas; a type that was
    renamed, or members that moved to a base, keep their date.

    Exit status: 0 success, 1 with --tags if there are differences, or if a source cannot be read,
    2 wrong usage.
    """  # noqa: D301 - click wants the \b itself
    try:
        snapshots = _snapshots(sources, last)
        timeline = Timeline(snapshots, policy_window=window)
        lives = [life for text in elements for life in timeline.find(text)]
        start = parse_release(first) if first is not None else None
        if start is not None and last is not None and parse_release(last) < start:
            raise UsageError(f"--from {first} is later than --to {last}")
    except UsageError as error:
        raise click.UsageError(f"{error}.") from error
    differences = _chosen(check_tags(snapshots, dates=timeline.dates), lives, elements)
    if tags:
        _show_tags(differences, snapshots, form)
        raise SystemExit(1 if differences else 0)
    if not elements:
        lives = [life for life in timeline.all() if _happened(life, start)]
    if only_deprecated:
        lives = list(_on_their_way_out(lives))
        differences = []
    if form == "json":
        shown = {
            "looked-at": [snapshot.name for snapshot in snapshots],
            "elements": [life.as_json() for life in lives],
            "tags": [_tag_json(difference) for difference in differences],
        }
        click.echo(json.dumps(shown, indent=2))
        return
    _show(lives, differences, form, detailed=elements)


def _snapshots(sources: Sequence[str], last: str | None) -> list[Snapshot]:
    if not sources:
        return release_snapshots(last=last)
    if len(sources) == 1:
        raise UsageError("a timeline needs two sources at least")
    found = []
    for source in sources:
        loaded = load(source)
        name = ".".join(map(str, loaded.release)) if loaded.release else loaded.name
        found.append(Snapshot(_short(name), loaded.schema, loaded.release))
    if last is not None:
        high = parse_release(last)[:2]
        found = [item for item in found if item.release is None or item.release[:2] <= high]
    names = [item.name for item in found]
    # Two builds of one release, or two commits on the way to it, need names that tell them apart.
    return [
        Snapshot(source if names.count(item.name) > 1 else item.name, item.schema, item.release)
        for source, item in zip(sources, found, strict=False)
    ]


def _short(name: str) -> str:
    """Return a release of the main line by two numbers."""
    return name.removesuffix(".0") if name.count(".") == 2 else name


def _happened(life: Lifecycle, start: tuple[int, ...] | None) -> bool:
    """Return whether something happened to an element in a release or after it."""
    if start is None:
        return True
    for name in life.releases:
        try:
            if parse_release(name) >= start:
                return True
        except UsageError:
            return True
    return False


def _on_their_way_out(lives: Sequence[Lifecycle]) -> Iterator[Lifecycle]:
    """Give what is deprecated, an experiment or gone, pieces only where it is not all of it."""
    fates = {life.element: _fate(life) for life in lives}
    for life in lives:
        owner = _owner(life.element)
        alike = owner != life.element and fates.get(owner) == _fate(life)
        if life.on_its_way_out and not alike:
            yield life


def _fate(life: Lifecycle) -> tuple[str | None, ...]:
    experimental = life.experimental and "x"
    return life.deprecated, experimental, life.removed


def _chosen(
    differences: Sequence[TagDifference], lives: Sequence[Lifecycle], elements: Sequence[str]
) -> list[TagDifference]:
    if not elements:
        return list(differences)
    named = {life.element for life in lives}
    return [item for item in differences if str(item.element) in named]


def _tag_json(difference: TagDifference) -> dict[str, str]:
    shown = {
        "element": str(difference.element),
        "problem": difference.problem,
        "told": difference.told,
        "computed": str(difference.since),
        "place": difference.place,
    }
    return {key: value for key, value in shown.items() if value}


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(_cell(word) for word in line) + " |" for line in lines)


def _cell(word: str) -> str:
    return word.replace("|", "\\|")


def _table(table: Table, form: str) -> str:
    return markdown(table) if form == "markdown" else str(table)


def _show(
    lives: Sequence[Lifecycle],
    differences: Sequence[TagDifference],
    form: str,
    *,
    detailed: Sequence[str],
) -> None:
    from nbexport.plots.timetables import lifecycle_table  # noqa: PLC0415 - numpy comes with it

    if detailed:
        for number, life in enumerate(_main(lives)):
            if number:
                click.echo()
            for line in _detail(life, form):
                click.echo(line)
        rest = [life for life in lives if life not in _main(lives)]
        if rest:
            click.echo()
            click.echo(_table(lifecycle_table(rest), form))
    elif lives:
        click.echo(_table(lifecycle_table(lives), form))
    else:
        click.echo("nothing happened in these releases", err=True)
    if differences:
        click.echo()
        _show_tag_lines(differences, form)


def _main(lives: Sequence[Lifecycle]) -> list[Lifecycle]:
    """Return those that were asked for, not the pieces that come with them."""
    owners = {life.element for life in lives if not set(life.element) & set(" =:")}
    return [life for life in lives if life.element in owners or _owner(life.element) not in owners]


def _owner(element: str) -> str:
    for index, letter in enumerate(element):
        if letter in " =:":
            return element[:index]
    return element


def _detail(life: Lifecycle, form: str) -> list[str]:
    """Lay one life out, a line for each thing that happened."""
    from nbexport.plots.timetables import dated, introduced_text, window_text  # noqa: PLC0415

    facts: list[tuple[str, str]] = []
    known = {DOCUMENTED: "by the documentation", AT_LATEST: "the oldest schema has it"}
    basis = f"  ({known[life.basis]})" if life.basis in known else ""
    if life.introduced is not None:
        when = introduced_text(life) if life.basis == AT_LATEST else dated(life.introduced)
        facts.append(("introduced", when + basis))
    if life.experimental:
        facts.append(("experimental", dated(life.experimental)))
    if life.deprecated:
        facts.append(("deprecated", dated(life.deprecated)))
        if life.flagged:
            facts.append(("  told by introspection", dated(life.flagged)))
        facts.append(("removal planned", dated(life.earliest) if life.earliest else "not out yet"))
    if life.removed:
        facts.append(("removed", dated(life.removed)))
    if life.deprecated:
        facts.append(("window", window_text(life)))
    if life.verdict:
        facts.append(("policy", life.verdict))
    if life.replacement:
        since = f", since {dated(life.replaced_since)}" if life.replaced_since else ""
        facts.append(("instead", f"{life.replacement}{since}"))
    if life.note:
        facts.append(("note", life.note))
    facts += [("changed", f"{change.release}: {change.text}") for change in life.changes]
    if form == "markdown":
        lines = [f"### `{life.element}` ({life.kind})", ""]
        return lines + [f"- {name.strip()}: {text}" for name, text in facts]
    width = max((len(name) for name, _ in facts), default=0)
    return [f"{life.element} ({life.kind})", *(f"  {n:{width}}  {t}" for n, t in facts)]


def _show_tags(
    differences: Sequence[TagDifference], snapshots: Sequence[Snapshot], form: str
) -> None:
    if form == "json":
        click.echo(json.dumps([_tag_json(difference) for difference in differences], indent=2))
    elif differences:
        _show_tag_lines(differences, form)
    else:
        click.echo(f"every written release of {snapshots[-1].name} agrees", err=True)


def _show_tag_lines(differences: Iterable[TagDifference], form: str) -> None:
    if form == "markdown":
        click.echo("### Written releases\n")
    for item in differences:
        place = f"{item.place}: " if form == "text" else "- "
        click.echo(f"{place}{item}")
