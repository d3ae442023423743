"""``nbexport copy`` and ``nbexport info``."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nbexport import nbd
from nbexport.nbd import wire
from nbexport.nbd.copy import copy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from nbexport.nbd import ExportInfo
    from nbexport.nbd.copy import Copied

_TIMEOUT = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds that the server may stay silent.",
)


@click.command("copy")
@click.argument("uri")
@click.argument("file")
@click.option("-B", "--bitmap", metavar="NAME", help="Copy only what this dirty bitmap marks.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def copy_command(*, uri: str, file: str, bitmap: str | None, as_json: bool) -> None:
    """Copy the export at URI to FILE, a raw image.

    \b
      nbexport copy nbd://localhost/disk full.raw
      nbexport copy nbd://localhost/disk full.raw --bitmap daily

    A full copy makes FILE anew; it is sparse where the export reads as zeroes, and a copy that
    fails leaves nothing behind. With --bitmap FILE must be an earlier copy: what the bitmap marks
    is written into it, which brings it up to date, an incremental backup in one command.
    """  # noqa: D301 - click wants the \b itself
    with _interruptible():
        done = _copy(uri, file, bitmap)
    if as_json:
        click.echo(json.dumps(asdict(done)))
    else:
        click.echo(
            f"{file}: {done.selected} of {done.size} bytes selected, {done.transferred} transferred"
        )


def _copy(uri: str, file: str, bitmap: str | None) -> Copied:
    if not sys.stderr.isatty():
        return copy(uri, file, bitmap=bitmap)
    with click.progressbar(length=1, label=file, file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        return copy(uri, file, bitmap=bitmap, progress=progress)


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


@click.command("info")
@click.argument("uri")
@click.option("--list", "everything", is_flag=True, help="Tell of every export of the server.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, as nbdinfo does.")
@_TIMEOUT
def info_command(*, uri: str, everything: bool, as_json: bool, timeout: float) -> None:
    """Tell what a server says of the export at URI: its size, contexts and abilities.

    \b
      nbexport info nbd://localhost/disk
      nbexport info nbd://localhost --list --json

    The JSON object has nbdinfo's members, without those that need a look into the disk.
    """  # noqa: D301 - click wants the \b itself
    where = nbd.NbdUri.parse(uri)
    if everything:
        found = nbd.list_exports(where, timeout=timeout)
        structured = any(info.flags & wire.SEND_DF for info in found)
    else:
        with nbd.Client.connect(where, contexts=[], timeout=timeout) as client:
            found, structured = [client.info], client.structured
    if as_json:
        told = {
            "protocol": "newstyle-fixed",
            "TLS": where.tls is not None,
            "structured": structured,
            "exports": [_as_json(info, where) for info in found],
        }
        click.echo(json.dumps(told, indent=2))
        return
    packets = "structured" if structured else "simple"
    secured = "with" if where.tls is not None else "without"
    click.echo(f"protocol: newstyle-fixed {secured} TLS, using {packets} packets")
    for info in found:
        shown = _as_json(info, where)
        click.echo(f'export="{shown.pop("export-name")}":')
        click.echo(f"\texport-size: {shown.pop('export-size')}")
        for name, value in shown.items():
            if isinstance(value, list):
                click.echo(f"\t{name}:")
                for item in value:
                    click.echo(f"\t\t{item}")
            else:
                word = str(value).lower() if isinstance(value, bool) else value
                click.echo(f"\t{name}: {word}")


# nbdinfo's words, and the bit of the transmission flags that each stands for.
_ABILITIES = {
    "is_rotational": wire.ROTATIONAL,
    "is_read_only": wire.READ_ONLY,
    "can_cache": wire.SEND_CACHE,
    "can_df": wire.SEND_DF,
    "can_fast_zero": wire.SEND_FAST_ZERO,
    "can_flush": wire.SEND_FLUSH,
    "can_fua": wire.SEND_FUA,
    "can_multi_conn": wire.CAN_MULTI_CONN,
    "can_trim": wire.SEND_TRIM,
    "can_zero": wire.SEND_WRITE_ZEROES,
}


def _as_json(info: ExportInfo, where: nbd.NbdUri) -> dict[str, Any]:
    shown: dict[str, Any] = {"export-name": info.name}
    if info.description is not None:
        shown["description"] = info.description
    shown["uri"] = str(nbd.NbdUri(info.name, where.socket, where.host, where.port, where.tls))
    shown["contexts"] = info.contexts
    shown |= {name: bool(info.flags & bit) for name, bit in _ABILITIES.items()}
    if info.block_size is not None:
        for name, value in info.block_size._asdict().items():
            shown[f"block_size_{name}"] = value
    shown["export-size"] = info.size
    return shown
