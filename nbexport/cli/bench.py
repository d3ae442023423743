"""``nbexport bench``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from nbexport.bench import run
from nbexport.bench.run import QUICK, Scale


@click.command("bench")
@click.option("--json", "json_file", metavar="FILE", help="Write all samples to FILE, too.")
@click.option("--quick", is_flag=True, help="Small images and few rounds, to see that it works.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Measurements of each.  [default: 5]")
@click.option("--only", multiple=True, metavar="NAME", help="Do this work only; may be repeated.")
def bench_command(
    *, json_file: str | None, quick: bool, rounds: int | None, only: tuple[str, ...]
) -> None:
    """Compare this package's servers with those that are installed.

    \b
      nbexport bench
      nbexport bench --only maps --only status --json result.json

    The same client asks each server for the same of the same images, in turns: maps of a 1 TiB
    disk with 100,000 scattered dirty blocks, small requests in flight, sequential and random reads
    and writes, the time to start, memory, how a map grows with its extents, and 200 monitors of
    one process that are asked at once beside clients that never read or never end. What is printed
    are medians, and how many times as much each peer needs. The images take some 3 GiB of the
    temporary folder for a while.

    NAME is one of maps, status, reads, copy, writes, open, start, growth, monitors.
    """  # noqa: D301 - click wants the \b itself
    scale = QUICK if quick else Scale()
    if rounds is not None:
        scale = replace(scale, rounds=rounds)
    report = run(scale, only=only, progress=lambda text: click.echo(text, err=True))
    for line in report.lines():
        click.echo(line)
    if json_file is not None:
        Path(json_file).write_text(json.dumps(report.as_json(), indent=2) + "\n")
