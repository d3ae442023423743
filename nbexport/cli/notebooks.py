"""``nbexport run`` and ``nbexport site``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nbexport.resources import notebooks_path
from nbexport.runner import (
    Notebook,
    build_site,
    find_notebooks,
    parse_parameters,
    run_notebook,
)
from nbexport.runner.remote import run_to_address
from nbexport.runner.storage import is_remote

_progress = click.option(
    "--progress/--no-progress",
    default=None,
    help="Draw a progress bar on standard error.  [default: if it is a terminal]",
)


def _find(name: str) -> Notebook:
    """Return the notebook at a path or address, or the one that travels with the package."""
    if is_remote(name):
        return Notebook.load(name)
    path = Path(name)
    if not path.exists():
        known = notebooks_path() / path.with_suffix(".ipynb").name
        path = known if known.exists() else path
    return Notebook.load(path)


@click.command("run")
@click.argument("notebook")
@click.option(
    "-p",
    "--parameter",
    "pairs",
    type=(str, str),
    multiple=True,
    metavar="NAME VALUE",
    help="Set a parameter; may be repeated. A list is JSON, or words separated by commas.",
)
@click.option(
    "-o",
    "--output",
    help="The executed copy: a file or an address.  [default: build/notebooks/NOTEBOOK]",
)
@_progress
def run_command(
    notebook: str,
    *,
    pairs: tuple[tuple[str, str], ...],
    output: str | None,
    progress: bool | None,
) -> None:
    """Run NOTEBOOK with parameters and keep the executed copy.

    NOTEBOOK is a file, the name of one that travels with the package, or an address that
    papermill can read (http, s3, gs, abs, hdfs); the executed copy can go to such a one too:

    \b
      nbexport run 01_multiple_bitmaps -p release 5.2
      nbexport run 01_multiple_bitmaps -p target qemu-storage-daemon
      nbexport run 01_multiple_bitmaps -p image disk.qcow2 -p bitmaps b0,b1

    Only parameters that the notebook's parameters cell sets are accepted. Prints the path of the
    executed copy. Exit status: 0 every cell ran, 1 a cell failed or a parameter is wrong.
    """  # noqa: D301 - click wants the \b itself
    found = _find(notebook)
    parameters = parse_parameters(found, pairs)
    shown = sys.stderr.isatty() if progress is None else progress
    if output is not None and is_remote(output):
        run_to_address(found, output, parameters=parameters, progress=shown)
        click.echo(output)
        return
    target = Path(output) if output else Path("build", "notebooks", found.path.name)
    run = run_notebook(found, target, parameters=parameters, progress=shown)
    click.echo(run.output)


@click.command("site")
@click.argument("notebooks", nargs=-1)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build"),
    show_default=True,
    help="Gets notebooks/ and site/.",
)
@click.option("--render/--no-render", default=True, help="Whether to make pages of the results.")
@_progress
def site_command(
    notebooks: tuple[str, ...], output: Path, *, render: bool, progress: bool | None
) -> None:
    """Run NOTEBOOKS with their defaults and build the site.

    Without NOTEBOOKS, all that travel with the package are run. Prints the index page. The old
    site stays as it was if a notebook fails.
    """
    chosen = [_find(name) for name in notebooks] or find_notebooks(notebooks_path())
    shown = sys.stderr.isatty() if progress is None else progress
    if render:
        index = build_site(chosen, output, progress=shown)
        click.echo(f"The site is at {index}")
        return
    for notebook in chosen:
        run = run_notebook(notebook, output / "notebooks" / notebook.path.name, progress=shown)
        click.echo(run.output)
