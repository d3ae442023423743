"""``nbexport serve`` and ``nbexport map``."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING

import click

from nbexport import block, nbd
from nbexport.errors import UsageError
from nbexport.nbd.meanings import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.bits import Extents
    from nbexport.block import BlockNode


@click.command("serve")
@click.argument("image")
@click.option(
    "-B",
    "--bitmap",
    "bitmaps",
    multiple=True,
    metavar="NAME",
    help="Offer this dirty bitmap as the context qemu:dirty-bitmap:NAME; may be repeated. It is "
    "looked for in the image, then in its backing files.",
)
@click.option("-A", "--allocation-depth", is_flag=True, help="Offer qemu:allocation-depth too.")
@click.option("-f", "--format", "image_format", help="qcow2 or raw.  [default: look at the image]")
@click.option("-k", "--socket", metavar="PATH", help="Listen on a unix socket.")
@click.option("-b", "--bind", metavar="ADDRESS", help="Listen on TCP.  [default: 127.0.0.1]")
@click.option("-p", "--port", type=click.IntRange(0, 65535), help="TCP port; 0 picks a free one.")
@click.option("-x", "--export-name", default="", help="Name of the export.  [default: empty]")
@click.option("-D", "--description", help="Text that clients see beside the name.")
@click.option(
    "-e",
    "--shared",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Clients at a time; 0 is no limit, 1 takes back the promise that several may share.",
)
def serve_command(
    *,
    image: str,
    bitmaps: tuple[str, ...],
    allocation_depth: bool,
    image_format: str | None,
    socket: str | None,
    bind: str | None,
    port: int | None,
    export_name: str,
    description: str | None,
    shared: int,
) -> None:
    """Serve IMAGE read-only over NBD, with its dirty bitmaps, until interrupted.

    \b
      nbexport serve disk.qcow2 -B b0 -B b1 --socket /tmp/nbd.sock
      nbexport serve disk.qcow2 -B b0 -A --port 10809
      nbexport serve disk.raw -f raw --port 0

    Prints the URI of the export once clients can connect. Contexts have the order of -B. The
    image is never written. Without --socket, --bind or --port it listens on 127.0.0.1:10809.
    """  # noqa: D301 - click wants the \b itself
    if socket is not None and (bind is not None or port is not None):
        raise click.UsageError("--socket does not go with --bind or --port.")
    with block.open_image(image, format=image_format) as node:
        export = nbd.from_node(
            node,
            export_name,
            description=description,
            allocation_depth=allocation_depth,
            bitmaps=[(name, _extents_of(node, name)) for name in bitmaps],
            multi_conn=shared != 1,
        )
        asyncio.run(_serve(export, shared, socket, bind, port))


def _extents_of(node: BlockNode, name: str) -> nbd.ExtentsProvider:
    """Return what gives the dirty extents of a bitmap.

    Raises:
        UsageError: there is no such bitmap, or its content cannot be trusted; QEMU's words.
    """
    found = node.find_bitmap(name)
    if found is None:
        raise UsageError(f"{node.filename}: Bitmap '{name}' is not found")
    owner, stored = found
    if stored.bitmap is None:
        raise UsageError(f"{owner.filename}: Bitmap '{name}' is inconsistent and cannot be used")
    extents = stored.bitmap.extents()
    return lambda: extents


async def _serve(
    export: nbd.Export, shared: int, socket: str | None, bind: str | None, port: int | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = nbd.NbdServer(max_connections=shared)
    try:
        server.add(export)
        if socket is not None:
            await server.listen_unix(socket)
        else:
            await server.listen_tcp(bind or "127.0.0.1", nbd.DEFAULT_PORT if port is None else port)
        for uri in server.uris(export.name):
            click.echo(uri)
        await stop.wait()
    finally:
        await server.close()


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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the server may stay silent.",
)
def map_command(*, uri: str, contexts: tuple[str, ...], as_json: bool, timeout: float) -> None:
    """Print the extents of the export at URI, for every metadata context at once.

    \b
      nbexport map 'nbd+unix:///?socket=/tmp/nbd.sock'
      nbexport map nbd://localhost/disk --context qemu:dirty-bitmap:b0
      nbexport map nbd://localhost/disk --json

    A line is offset, length, flags, and the word for the flags, as nbdinfo prints it; a line with
    the context's name stands before its extents. The JSON object has the members uri, size and
    contexts; each context is a list of objects with offset, length, type and description.
    """  # noqa: D301 - click wants the \b itself
    chosen: Sequence[str] | None = contexts or None
    with nbd.Client.connect(uri, contexts=chosen, timeout=timeout) as client:
        missing = [name for name in contexts if name not in client.contexts]
        if missing:
            offered = ", ".join(client.server_contexts) or "none"
            raise UsageError(f"{uri}: no metadata context '{missing[0]}' (offered: {offered})")
        maps = client.map()
        size = client.export_size
    if as_json:
        click.echo(json.dumps({"uri": uri, "size": size, "contexts": _as_json(maps)}))
        return
    for name, extents in maps.items():
        click.echo(name)
        for offset, length, flags in extents:
            word = describe(name, flags)
            click.echo(f"{offset:10d}  {length:10d}  {flags:3d}{f'  {word}' if word else ''}")


def _as_json(maps: dict[str, Extents]) -> dict[str, list[dict[str, object]]]:
    return {
        name: [
            {
                "offset": offset,
                "length": length,
                "type": flags,
                **({"description": word} if (word := describe(name, flags)) else {}),
            }
            for offset, length, flags in extents
        ]
        for name, extents in maps.items()
    }
