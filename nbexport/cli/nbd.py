"""``nbexport serve``."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nbexport import block, heap, nbd
from nbexport.block import locks
from nbexport.cli.serving import Listening, serve
from nbexport.errors import UsageError

if TYPE_CHECKING:
    from nbexport.block import BlockNode
    from nbexport.nbd.tls import Tls


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
@click.option(
    "-b",
    "--bind",
    "bind",
    multiple=True,
    metavar="ADDRESS",
    help="Listen on TCP at this name or address; may be repeated.  [default: 127.0.0.1]",
)
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
@click.option(
    "--fd",
    type=click.IntRange(0),
    metavar="N",
    help="Use this inherited socket: one that listens, or one client, which is served alone.",
)
@click.option("--writable", is_flag=True, help="Let clients write the image.")
@click.option(
    "--discard",
    type=click.Choice(["ignore", "unmap"]),
    default="ignore",
    show_default=True,
    help="Whether trimming and zeroing give storage back.",
)
@click.option(
    "--profile",
    type=click.Choice(list(nbd.PROFILES)),
    default=nbd.QEMU_7_2.name,
    show_default=True,
    help="Whom to behave like where servers differ; qemu-8.2 and spec speak extended headers.",
)
@click.option(
    "--handshake-limit",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a client may take to choose an export; 0 is no limit.",
)
@click.option(
    "--tls-creds",
    metavar="DIR",
    help="Speak TLS with ca-cert.pem, server-cert.pem and server-key.pem from this folder, or "
    "with the shared keys of its keys.psk.",
)
@click.option(
    "--tls",
    "tls_mode",
    type=click.Choice([str(mode) for mode in nbd.TlsMode]),
    help="Whether clients must use it.  [default: required with --tls-creds, else none]",
)
@click.option(
    "--tls-verify-peer/--no-tls-verify-peer",
    "tls_verify_peer",
    default=True,
    show_default=True,
    help="Whether clients need a certificate of the same authority.",
)
@click.option(
    "--tls-authz",
    multiple=True,
    metavar="DN",
    help="Let in only clients of this distinguished name (* and ? match anything); may be "
    "repeated.",
)
def serve_command(
    *,
    image: str,
    bitmaps: tuple[str, ...],
    allocation_depth: bool,
    image_format: str | None,
    socket: str | None,
    bind: tuple[str, ...],
    port: int | None,
    export_name: str,
    description: str | None,
    shared: int,
    fd: int | None,
    writable: bool,
    discard: str,
    profile: str,
    handshake_limit: float,
    tls_creds: str | None,
    tls_mode: str | None,
    tls_verify_peer: bool,
    tls_authz: tuple[str, ...],
) -> None:
    """Serve IMAGE over NBD, with its dirty bitmaps, until interrupted.

    \b
      nbexport serve disk.qcow2 -B b0 -B b1 --socket /tmp/nbd.sock
      nbexport serve disk.qcow2 -B b0 -A --port 10809
      nbexport serve disk.raw -f raw --port 0
      nbexport serve disk.raw -f raw --writable --discard unmap --socket /tmp/nbd.sock
      nbexport serve disk.qcow2 -f qcow2 --writable -B b0 --socket /tmp/nbd.sock
      nbexport serve disk.qcow2 --tls-creds /etc/pki/qemu --port 10809

    Prints the URI of the export once clients can connect. Contexts have the order of -B. The
    image is not written unless --writable says so. Without --socket, --bind or --port it listens
    on 127.0.0.1:10809, or on the sockets that a service manager hands over, whose URIs are not
    printed.
    """  # noqa: D301 - click wants the \b itself
    heap.share()
    listening = Listening.choose(socket, bind, port, fd)
    tls = _tls(tls_creds, tls_mode, tls_authz, verify_peer=tls_verify_peer)
    with contextlib.closing(_open(image, image_format, writable=writable)) as node:
        locks.keep_length(node)
        export = nbd.from_node(
            node,
            export_name,
            description=description,
            allocation_depth=allocation_depth,
            bitmaps=[(name, _extents_of(node, name)) for name in bitmaps],
            multi_conn=shared != 1,
            writable=writable,
            unmap=discard == "unmap",
        )

        def make_server() -> nbd.NbdServer:
            return nbd.NbdServer(
                max_connections=shared,
                handshake_seconds=handshake_limit,
                profile=nbd.find_profile(profile),
                tls=tls,
            )

        asyncio.run(serve(make_server, export, listening))


def _open(image: str, image_format: str | None, *, writable: bool) -> BlockNode:
    """Open the image; of one to be written the format must be given.

    Raises:
        UsageError: it is not.
        ImageLockedError: another process uses the image.
    """
    if not writable:
        return block.open_image(image, format=image_format)
    if image_format is None:
        raise UsageError(
            f"{image}: --writable needs --format: a client could write what makes a raw image "
            "look like another format"
        )
    return block.open_writable(image, image_format)


def _tls(
    folder: str | None, mode: str | None, allowed: tuple[str, ...], *, verify_peer: bool
) -> Tls | None:
    """Return how to speak TLS, None for not at all.

    Raises:
        UsageError: the options do not go together, or the credentials cannot be used.
    """
    if folder is None:
        if mode not in {None, nbd.TlsMode.NONE}:
            raise click.UsageError(f"--tls {mode} needs --tls-creds.")
        if allowed:
            raise click.UsageError("--tls-authz is not permitted without --tls-creds.")
        return None
    if mode == nbd.TlsMode.NONE:
        raise click.UsageError("--tls none does not go with --tls-creds.")
    from nbexport.nbd import tls  # noqa: PLC0415 - who serves in clear pays nothing

    chosen = nbd.TlsMode.REQUIRED if mode is None else nbd.TlsMode(mode)
    if (Path(folder) / tls.PSK_KEYS).exists():
        if allowed:
            raise click.UsageError("--tls-authz needs certificates, not shared keys.")
        return tls.psk(folder, mode=chosen)
    return tls.x509(folder, verify_peer=verify_peer, mode=chosen, allowed=allowed or None)


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
    bitmap = stored.bitmap
    return lambda: bitmap
