"""``nbexport copy``."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from nbexport.cli.asking import TIMEOUT
from nbexport.nbd.copy import copy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from nbexport.nbd.copy import Copied


@click.command("copy")
@click.argument("uri")
@click.argument("file")
@click.option("-B", "--bitmap", metavar="NAME", help="Copy only what this dirty bitmap marks.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
@TIMEOUT
def copy_command(*, uri: str, file: str, bitmap: str | None, as_json: bool, timeout: float) -> None:
    """Copy the export at URI to FILE, a raw image.

    \b
      nbexport copy nbd://localhost/disk full.raw
      nbexport copy nbd://localhost/disk full.raw --bitmap daily

    A full copy makes FILE anew; it is sparse where the export reads as zeroes, and a copy that
    fails leaves nothing behind. With --bitmap FILE must be an earlier copy: what the bitmap marks
    is written into it, which brings it up to date, an incremental backup in one command.
    """  # noqa: D301 - click wants the \b itself
    with _interruptible():
        done = _copy(uri, file, bitmap, timeout)
    if as_json:
        click.echo(json.dumps(asdict(done)))
    else:
        click.echo(
            f"{file}: {done.selected} of {done.size} bytes selected, {done.transferred} transferred"
        )


def _copy(uri: str, file: str, bitmap: str | None, timeout: float) -> Copied:
    if not sys.stderr.isatty():
        return copy(uri, file, bitmap=bitmap, timeout=timeout)
    with click.progressbar(length=1, label=file, file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        return copy(uri, file, bitmap=bitmap, timeout=timeout, progress=progress)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the work in order, as SIGINT does; say what it leaves half done."""
    came: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as stopped:
        click.echo(f"nbexport: {str(stopped) or 'interrupted'}", err=True)
        sys.exit(128 + (came[0] if came else signal.SIGINT))
    finally:
        signal.signal(signal.SIGTERM, before)
