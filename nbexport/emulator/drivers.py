"""How disks of the drivers are opened that have no image: null, nbd, copy-before-write."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from nbexport import block, nbd
from nbexport.block.null import DEFAULT_SIZE
from nbexport.emulator.graph import DirtyBitmap, Graph, Node
from nbexport.errors import CommandError, PeerError
from nbexport.nbd import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbexport.bits import Bitmap
    from nbexport.emulator.objects import Objects
    from nbexport.emulator.release import Release

Options = dict[str, Any]

SIZE_MAX: Final = (1 << 63) - 1
EXPORT_NAME_MAX: Final = 4096
"""The NBD protocol's limit for names, in bytes."""
RETRY_SECONDS: Final = 0.1
_REFUSALS: Final = {
    wire.REP_ERR_UNSUP: "Unsupported option type {number} ({name})",
    wire.REP_ERR_POLICY: "Denied by server for option {number} ({name})",
    wire.REP_ERR_INVALID: "Invalid parameters for option {number} ({name})",
    wire.REP_ERR_PLATFORM: "Server lacks support for option {number} ({name})",
    wire.REP_ERR_TLS_REQD: "TLS negotiation required before option {number} ({name})",
    wire.REP_ERR_SHUTDOWN: "Server shutting down before option {number} ({name})",
    wire.REP_ERR_BLOCK_SIZE_REQD: "Server requires INFO_BLOCK_SIZE for option {number} ({name})",
}


def open_null(options: Options, *, writable: bool) -> block.NullNode:
    """Open a disk without storage.

    Raises:
        CommandError: a number is out of range. (QEMU 7.2 aborts if the size is.)
    """
    size = options.get("size", DEFAULT_SIZE)
    latency = options.get("latency-ns", 0)
    if not 0 <= size <= SIZE_MAX - 511:
        raise CommandError(f"null: size {size} is out of range")
    if not 0 <= latency <= SIZE_MAX:
        raise CommandError("latency-ns is invalid")
    kind = block.NullNode if options["driver"] == "null-co" else block.NullAioNode
    return kind(
        size,
        latency_ns=latency,
        read_zeroes=options.get("read-zeroes", False),
        writable=writable,
    )


# nbd


def open_nbd(
    options: Options,
    release: Release,
    objects: Objects | None,
    *,
    writable: bool,
    may_fall_back: bool,
) -> nbd.NbdNode:
    """Connect to a server.

    Args:
        options: of blockdev-add.
        release: decides whether TLS works where.
        objects: finds TLS credentials; None if the process has no objects.
        writable: whether to write.
        may_fall_back: whether to read only if the export does not allow more.

    Raises:
        CommandError: it does not work, in QEMU's words.
    """
    server = options["server"]
    name = options.get("export", "")
    tls = _tls(options, release, objects)
    if len(name.encode()) > EXPORT_NAME_MAX:
        raise CommandError("export name too long to send to server")
    uri = _address(server, name, tls)
    deadline = time.monotonic() + options.get("open-timeout", 0)
    context = options.get("x-dirty-bitmap")
    while True:
        try:
            node = nbd.NbdNode(
                uri,
                writable=writable and not may_fall_back,
                reconnect_seconds=options.get("reconnect-delay", 0),
                context=context,
            )
        except PeerError as error:
            if isinstance(error.__cause__, OSError) and time.monotonic() < deadline:
                time.sleep(RETRY_SECONDS)
                continue
            raise CommandError(_words(error, uri)) from error
        if may_fall_back and writable:
            node.read_only = node.is_read_only_export
        return node


def _tls(options: Options, release: Release, objects: Objects | None) -> nbd.TlsChoice | None:
    """Return how the connection is to be secured, None for not at all."""
    identifier = options.get("tls-creds")
    if identifier is None:
        return None
    if objects is None:
        raise CommandError(f"No TLS credentials with id '{identifier}'")
    choice = objects.client_tls(identifier, options.get("tls-hostname"))
    if options["server"]["type"] != "inet" and release.tls_needs_inet:
        raise CommandError("TLS only supported over IP sockets")
    return choice


def _address(server: Mapping[str, Any], name: str, tls: nbd.TlsChoice | None) -> nbd.NbdUri:
    kind = server["type"]
    if kind == "unix":
        if server.get("abstract", False):
            raise CommandError("Connecting to an abstract socket is not supported by this emulator")
        return nbd.NbdUri(export=name, socket=server["path"], tls=tls)
    if kind == "inet":
        host, port = server["host"], server["port"]
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise CommandError(
                f"address resolution failed for {host}:{port}: {error.strerror}"
            ) from error
        return nbd.NbdUri(export=name, host=host, port=int(found[0][4][1]), tls=tls)
    raise CommandError(f"Connecting to a socket of type '{kind}' is not supported by this emulator")


def _words(error: PeerError, uri: nbd.NbdUri) -> str:
    """Return what QEMU says instead."""
    if isinstance(error, nbd.RefusedError):
        text = _REFUSALS.get(error.kind, "Requested export not available")
        return text.format(number=error.option, name=wire.option_name(error.option))
    cause = error.__cause__
    if isinstance(cause, OSError):
        where = uri.socket if uri.socket is not None else f"{uri.host}:{uri.port}"
        return f"Failed to connect to '{where}': {cause.strerror or cause}"
    return str(error)


# copy-before-write


def find_wanted(graph: Graph, options: Options) -> DirtyBitmap | None:
    """Return the bitmap that says what a filter keeps.

    Raises:
        CommandError: there is none of that name.
    """
    given = options.get("bitmap")
    if given is None:
        return None
    node = graph.look_up(given["node"])
    if node is None:
        raise CommandError(f"Node '{given['node']}' not found")
    bitmap = node.bitmap(given["name"])
    if bitmap is None:
        raise CommandError(f"Dirty bitmap '{given['name']}' not found")
    return bitmap


def open_filter(
    file: Node, target: Node, bitmap: DirtyBitmap | None, options: Options
) -> block.CopyBeforeWriteNode:
    """Put a filter above a node.

    Raises:
        CommandError: the bitmap is of another disk.
    """
    wanted = None
    if bitmap is not None:
        if bitmap.bits.size != file.block.size:
            raise CommandError(
                "Cannot create block-copy-state: Bitmaps are of different sizes (destination size "
                f"is {file.block.size}, source size is {bitmap.bits.size}) and can't be merged"
            )
        wanted = bitmap.bits.at_granularity(block.cluster_of(target.block))
    return block.CopyBeforeWriteNode(
        file.block,
        target.block,
        wanted=wanted,
        timeout_seconds=options.get("cbw-timeout", 0),
        breaks_snapshot=options.get("on-cbw-error") == "break-snapshot",
    )


def join(node: Node, *, lists: bool) -> None:
    """Show the bitmaps of a filter, on itself and on the node below.

    Args:
        node: the filter.
        lists: whether its release lists bitmaps of the filter itself.
    """
    assert isinstance(node.block, block.CopyBeforeWriteNode)
    assert node.file is not None
    copying = node.block.copying
    node.file.bitmaps.append(_anonymous(copying.remaining))
    if lists:
        node.bitmaps = filter_bitmaps(copying)


def leave(node: Node) -> None:
    """Take the bitmap of a filter from the node below; other nodes have none there."""
    if not isinstance(node.block, block.CopyBeforeWriteNode) or node.file is None:
        return
    bits = node.block.copying.remaining
    with contextlib.suppress(StopIteration):
        node.file.bitmaps.remove(next(each for each in node.file.bitmaps if each.bits is bits))


def filter_bitmaps(copying: block.CopyBefore) -> list[DirtyBitmap]:
    """Return the bitmaps of a filter: what was copied, and what may be asked for."""
    everything: Bitmap = copying.remaining.copy()
    return [_anonymous(bits) for bits in (copying.touched, everything)]


def _anonymous(bits: Bitmap) -> DirtyBitmap:
    return DirtyBitmap("", bits, enabled=False, anonymous=True)
