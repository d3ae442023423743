"""``nbexport matrix``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from nbexport.runner.campaign import (
    DIFFERS,
    Outputs,
    cluster_executor,
    local_executor,
    new_baseline,
    run_matrix,
    select,
)
from nbexport.runner.compare import read_baseline, write_baseline
from nbexport.runner.execute import FAILED, MISSING
from nbexport.runner.matrix import Matrix
from nbexport.runner.matrix_report import junit, page, tally

STRICT = "NBEXPORT_REQUIRE_PEERS"


@click.command("matrix")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    default="build/matrix",
    show_default=True,
    help="A folder, or an address that papermill can write (s3://...). Gets index.html, junit.xml "
    "and a folder for each run.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Run on a Dask cluster, not here.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Runs at a time, here.")
@click.option("--resume", is_flag=True, help="Do not repeat what passed before.")
@click.option("--only", "patterns", multiple=True, metavar="PATTERN", help="Only runs like this.")
@click.option(
    "--baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Results that are expected.  [default: baseline.json beside FILE, if there]",
)
@click.option("--update-baseline", is_flag=True, help="Write the results there.")
@click.option("--list", "list_only", is_flag=True, help="Print the runs and run nothing.")
@click.option("--progress/--no-progress", default=None, help="Draw a progress bar.")
def matrix_command(
    *,
    file: Path,
    output: str,
    scheduler: str | None,
    jobs: int | None,
    resume: bool,
    patterns: tuple[str, ...],
    baseline: Path | None,
    update_baseline: bool,
    list_only: bool,
    progress: bool | None,
) -> None:
    """Run notebooks with every combination of parameters that FILE asks for.

    \b
      nbexport matrix notebooks/matrix.toml
      nbexport matrix notebooks/matrix.toml --only '03_*release=5.2*' --resume
      nbexport matrix notebooks/matrix.toml --scheduler tcp://127.0.0.1:8786

    Results that the notebooks record are compared with the baseline. Exit status: 0 every run
    passed and found what it should, 1 one did not, 2 wrong usage. A run whose programs are not
    installed is left out; where NBEXPORT_REQUIRE_PEERS is set it counts as failed.
    """  # noqa: D301 - click wants the \b itself
    matrix = select(Matrix.load(file), patterns)
    if list_only:
        for run in matrix.runs:
            click.echo(run.id)
        return
    kept = baseline or file.with_name("baseline.json")
    expected = read_baseline(kept.read_text(encoding="utf-8"), str(kept)) if kept.exists() else None
    if baseline is not None and expected is None and not update_baseline:
        raise click.UsageError(f"there is no baseline {baseline}.")
    outputs = Outputs(output)
    shown = sys.stderr.isatty() if progress is None else progress
    with cluster_executor(scheduler) if scheduler else local_executor(jobs) as executor:
        verdicts = run_matrix(
            matrix,
            outputs,
            executor,
            baseline=None if update_baseline else expected,
            resume=resume,
            progress=shown,
        )
    ids = {verdict.run.id for verdict in verdicts}
    gone = [] if patterns else [id_ for id_ in expected or {} if id_ not in ids]
    outputs.write("index.html", page(matrix.title, verdicts, gone=gone))
    outputs.write("junit.xml", junit(matrix.title, verdicts))
    if update_baseline:
        known = dict(expected or {})
        made = new_baseline(verdicts, known)
        text = write_baseline(known | made if patterns else made)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text, encoding="utf-8")
        click.echo(f"{kept}: {len(made)} runs", err=True)
    for verdict in verdicts:
        if verdict.status in {DIFFERS, FAILED, MISSING}:
            why = verdict.outcome.reason or "; ".join(map(str, verdict.differences[:3]))
            click.echo(f"{verdict.status}: {verdict.run.id}: {why}", err=True)
    for id_ in gone:
        click.echo(f"only in the baseline: {id_}", err=True)
    click.echo(f"{tally(verdicts)}: {outputs.place}/index.html")
    bad = {DIFFERS, FAILED} | ({MISSING} if os.environ.get(STRICT) else set())
    if any(verdict.status in bad for verdict in verdicts) or (gone and not update_baseline):
        sys.exit(1)
