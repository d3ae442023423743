"""``nbexport info``, ``nbexport list`` and ``nbexport map``: what a server tells."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import click

from nbexport import nbd
from nbexport.errors import PeerError, UsageError
from nbexport.nbd import wire
from nbexport.nbd.handshake import Agreed, look_around
from nbexport.nbd.meanings import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.bits import Extents
    from nbexport.nbd import Client, ExportInfo

CONTENT_SIZE = 8192
"""Bytes from which the content is guessed, as nbdinfo does."""
_GUESS_LIMIT_S = 10.0

TIMEOUT = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the server may stay silent.",
)


@click.command("info")
@click.argument("uri")
@click.option("--list", "everything", is_flag=True, help="Tell of every export of the server.")
@click.option("--size", "only_size", is_flag=True, help="Print the size in bytes only.")
@click.option(
    "--content/--no-content",
    "content",
    default=None,
    help="Whether to guess from the first bytes what the disk holds; needs the program file.  "
    "[default: for one export]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, as nbdinfo does.")
@TIMEOUT
def info_command(
    *,
    uri: str,
    everything: bool,
    only_size: bool,
    content: bool | None,
    as_json: bool,
    timeout: float,
) -> None:
    """Tell what a server says of the export at URI: its size, contexts and abilities.

    \b
      nbexport info nbd://localhost/disk
      nbexport info nbd://localhost --list --json

    Both forms are nbdinfo's.
    """  # noqa: D301 - click wants the \b itself
    where = nbd.NbdUri.parse(uri)
    contents: dict[str, str] = {}
    if everything:
        if only_size:
            raise click.UsageError("--size is of one export, --list of all.")
        agreed, found = look_around(where, timeout=timeout)
        for info in found if content else ():
            if info.refusal is None:
                with nbd.Client.connect(_at(where, info), contexts=[], timeout=timeout) as client:
                    _add_content(contents, client)
    else:
        with nbd.Client.connect(where, contexts=[], timeout=timeout) as client:
            agreed, found = Agreed(client.structured, client.extended), [client.info]
            if only_size:
                click.echo(client.export_size)
                return
            if content is not False:
                _add_content(contents, client)
    if as_json:
        told = {
            "protocol": "newstyle-fixed",
            "TLS": where.tls is not None,
            "structured": agreed.structured,
            "extended": agreed.extended,
            "exports": [_members(info, where, contents.get(info.name)) for info in found],
        }
        click.echo(json.dumps(told, indent=2))
        return
    packets = "extended" if agreed.extended else "structured" if agreed.structured else "simple"
    secured = "with" if where.tls is not None else "without"
    click.echo(f"protocol: newstyle-fixed {secured} TLS, using {packets} packets")
    for info in found:
        _print(_members(info, where, contents.get(info.name)))


def _add_content(contents: dict[str, str], client: Client) -> None:
    """Let ``file`` say what the disk begins with; without that program nothing is said."""
    program = shutil.which("file")
    if program is None:
        return
    begin = client.read(0, min(CONTENT_SIZE, client.export_size))
    done = subprocess.run(
        [program, "-b", "-"], input=begin, capture_output=True, timeout=_GUESS_LIMIT_S, check=False
    )
    if done.returncode == 0:
        contents[client.info.name] = done.stdout.decode("utf-8", "replace").strip()


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


def _at(where: nbd.NbdUri, info: ExportInfo) -> nbd.NbdUri:
    return nbd.NbdUri(info.name, where.socket, where.host, where.port, where.tls)


def _members(info: ExportInfo, where: nbd.NbdUri, content: str | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"export-name": info.name}
    if info.description is not None:
        shown["description"] = info.description
    if info.refusal is not None:
        return {**shown, "uri": str(_at(where, info)), "refusal": info.refusal}
    if content is not None:
        shown["content"] = content
    shown["uri"] = str(_at(where, info))
    if info.contexts:
        shown["contexts"] = info.contexts
    shown |= {name: bool(info.flags & bit) for name, bit in _ABILITIES.items()}
    if info.block_size is not None:
        for name, value in info.block_size._asdict().items():
            shown[f"block_size_{name}"] = value
    shown["export-size"] = info.size
    shown["export-size-str"] = human_size(info.size)
    return shown


def human_size(size: int) -> str:
    """Return a size with the largest unit that divides it, as nbdinfo shows it.

    >>> human_size(1 << 20), human_size(1536 << 10), human_size(1000)
    ('1M', '1536K', '1000')
    """
    units = iter("KMGTPE")
    unit = ""
    while size and size % 1024 == 0:
        size //= 1024
        unit = next(units)
    return f"{size}{unit}"


def _print(shown: dict[str, Any]) -> None:
    """Print an export's members, in the order of nbdinfo's text."""
    click.echo(f'export="{shown.pop("export-name")}":')
    size, text = shown.pop("export-size", None), shown.pop("export-size-str", "")
    lines = {"description": shown.pop("description")} if "description" in shown else {}
    if size is not None:
        lines["export-size"] = str(size) if text == str(size) else f"{size} ({text})"
    for name, value in (lines | shown).items():
        if isinstance(value, list):
            click.echo(f"\t{name}:")
            for item in value:
                click.echo(f"\t\t{item}")
        else:
            word = str(value).lower() if isinstance(value, bool) else value
            click.echo(f"\t{name}: {word}")


@click.command("list")
@click.argument("uri")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, as nbdinfo does.")
@TIMEOUT
def list_command(*, uri: str, as_json: bool, timeout: float) -> None:
    """List the exports of the server at URI: size, name and description.

    \b
      nbexport list nbd://localhost
      nbexport list 'nbd+unix:///?socket=/tmp/nbd.sock' --json

    An export that the server does not tell of is listed with the reason. `nbexport info --list`
    tells all that is known of each.
    """  # noqa: D301 - click wants the \b itself
    where = nbd.NbdUri.parse(uri)
    found = nbd.list_exports(where, timeout=timeout)
    if as_json:
        exports = [_members(info, where, None) for info in found]
        click.echo(json.dumps({"exports": exports}, indent=2))
        return
    for info in found:
        size = "-" if info.refusal is not None else human_size(info.size)
        remark = info.refusal if info.refusal is not None else info.description
        line = f"{size:>10}  {json.dumps(info.name, ensure_ascii=False)}"
        click.echo(f"{line}  {remark}" if remark else line)


@click.command("map")
@click.argument("uri")
@click.option(
    "-c",
    "--context",
    "contexts",
    multiple=True,
    metavar="NAME",
    help="Print this metadata context; may be repeated.  [default: every one the server offers]",
)
@click.option("--totals", is_flag=True, help="Print the sum of each kind of extent only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@TIMEOUT
def map_command(
    *, uri: str, contexts: tuple[str, ...], totals: bool, as_json: bool, timeout: float
) -> None:
    """Print the extents of the export at URI, for every metadata context at once.

    \b
      nbexport map 'nbd+unix:///?socket=/tmp/nbd.sock'
      nbexport map nbd://localhost/disk --context qemu:dirty-bitmap:b0
      nbexport map nbd://localhost/disk --totals

    A line is offset, length, flags, and the word for the flags, as nbdinfo prints it; a line with
    the context's name stands before its extents. With --totals it is the number of bytes, their
    share of the disk, flags and word. The JSON object has the members uri, size and contexts; each
    context is a list of objects with offset, length, type and description, or of those that
    nbdinfo prints for totals: size, percent, type and description.
    """  # noqa: D301 - click wants the \b itself
    chosen: Sequence[str] | None = contexts or None
    with nbd.Client.connect(uri, contexts=chosen, timeout=timeout) as client:
        missing = [name for name in contexts if name not in client.contexts]
        if missing:
            offered = ", ".join(client.server_contexts) or "none"
            raise UsageError(f"{uri}: no metadata context '{missing[0]}' (offered: {offered})")
        if not client.contexts:
            raise PeerError(f"{uri}: the server offers no metadata context")
        maps = client.map()
        size = client.export_size
    if as_json:
        told = {name: _rows(name, extents, totals=totals) for name, extents in maps.items()}
        click.echo(json.dumps({"uri": uri, "size": size, "contexts": told}))
        return
    for name, extents in maps.items():
        click.echo(name)
        for row in _rows(name, extents, totals=totals):
            word = row.get("description")
            if totals:
                line = f"{row['size']:10d} {row['percent']:5.1f}% {row['type']:3d}"
                click.echo(f"{line} {word}" if word else line)
            else:
                line = f"{row['offset']:10d}  {row['length']:10d}  {row['type']:3d}"
                click.echo(f"{line}  {word}" if word else line)


def _rows(context: str, extents: Extents, *, totals: bool) -> list[dict[str, Any]]:
    """Return the extents, or their sums by rising flags, as nbdinfo's JSON has them."""
    rows: list[dict[str, Any]]
    if totals:
        size = extents.end - extents.start
        rows = [
            {"size": length, "percent": 100 * length / size, "type": flags}
            for flags, length in extents.totals().items()
        ]
    else:
        rows = [
            {"offset": offset, "length": length, "type": flags} for offset, length, flags in extents
        ]
    words = {flags: describe(context, flags) for flags in {row["type"] for row in rows}}
    for row in rows:
        if words[row["type"]] is not None:
            row["description"] = words[row["type"]]
    return rows
