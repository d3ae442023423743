"""``nbexport migrate``: what to call instead of something old, release by release."""

from __future__ import annotations

import json

import click

from nbexport.cli.timeline import FORMATS, markdown
from nbexport.errors import UsageError
from nbexport.qapi import known_releases
from nbexport.timeline.migration import Plan, plan
from nbexport.timeline.sketch import sketch


@click.command("migrate")
@click.argument("item")
@click.option("--from", "first", metavar="RELEASE", help="The oldest release to support.")
@click.option("--to", "last", metavar="RELEASE", help="The newest one.")
@click.option(
    "--argument",
    "arguments",
    multiple=True,
    metavar="NAME",
    help="An optional argument of the old call that is used; may be repeated. A release without "
    "it does not take the call.",
)
@click.option(
    "--no-deprecated", is_flag=True, help="Call nothing that is deprecated or experimental."
)
@click.option("--code", is_flag=True, help="Print a Python function that makes the call.")
@FORMATS
def migrate_command(
    *,
    item: str,
    first: str | None,
    last: str | None,
    arguments: tuple[str, ...],
    no_deprecated: bool,
    code: bool,
    form: str,
) -> None:
    """Plan what an application calls instead of ITEM on each release that it supports.

    \b
      nbexport migrate nbd-server-add --from 5.0 --to 6.1 --no-deprecated
      nbexport migrate nbd-server-add --from 3.1 --to 7.1 --argument bitmap
      nbexport migrate nbd-server-add --no-deprecated --code > export_call.py

    ITEM is a command, or an argument of one: block-dirty-bitmap-add.x-disabled. The plan says
    which call each release takes, which of them is clean, that is neither deprecated nor an
    experiment, and where to switch; what becomes of each argument stands below. Without
    --no-deprecated the old call is kept while it works.

    With --code a Python function is printed that needs nothing else: it takes what
    query-qmp-schema returned and the arguments of the old call, and returns the command to send.
    It looks for commands and arguments, never at a version.

    Exit status: 0 success, 1 some release has no call that will do, 2 wrong usage.
    """  # noqa: D301 - click wants the \b itself
    known = known_releases()
    try:
        made = plan(
            item,
            first or known[0],
            last or known[-1],
            no_deprecated=no_deprecated,
            arguments=arguments,
        )
    except UsageError as error:
        raise click.UsageError(f"{error}.") from error
    if code:
        click.echo(sketch(made), nl=False)
    elif form == "json":
        click.echo(json.dumps(made.as_json(), indent=2))
    else:
        _show(made, form)
    if made.gaps:
        raise SystemExit(1)


def _show(made: Plan, form: str) -> None:
    from nbexport.plots.timetables import mapping_table, plan_table  # noqa: PLC0415 - numpy

    lay = markdown if form == "markdown" else str
    mark = "### " if form == "markdown" else ""
    used = f" with {', '.join(made.used)}" if made.used else ""
    kind = "nothing deprecated" if made.no_deprecated else "deprecated calls allowed"
    click.echo(f"{mark}{made.item}{used}, {kind}\n")
    click.echo(lay(plan_table(made)))
    click.echo()
    bullet = "- " if form == "markdown" else ""
    for sentence in made.sentences():
        click.echo(f"{bullet}{sentence}")
    for step in made.steps:
        click.echo()
        click.echo(lay(mapping_table(step)))
    notable = [step.note for step in made.steps if step.note]
    if notable:
        click.echo()
    for note in notable:
        click.echo(f"{bullet}Note: {note}.")
