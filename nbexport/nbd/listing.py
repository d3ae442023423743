"""What a server exports, asked for and told as ``qemu-nbd --list`` does; the words are its.

Source: qemu-nbd(8); NBD protocol, "Option types".
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from nbexport.errors import PeerError
from nbexport.nbd import handshake, wire
from nbexport.nbd.link import Link

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nbexport.nbd.handshake import ExportInfo
    from nbexport.nbd.uri import NbdUri

_FLAGS = (
    (wire.READ_ONLY, "readonly"),
    (wire.SEND_FLUSH, "flush"),
    (wire.SEND_FUA, "fua"),
    (wire.ROTATIONAL, "rotational"),
    (wire.SEND_TRIM, "trim"),
    (wire.SEND_WRITE_ZEROES, "zeroes"),
    (wire.SEND_DF, "df"),
    (wire.CAN_MULTI_CONN, "multi"),
    (1 << 9, "resize"),
    (wire.SEND_CACHE, "cache"),
    (wire.SEND_FAST_ZERO, "fast-zero"),
)
_REFUSALS = {
    wire.REP_ERR_POLICY: "Denied by server for option {}",
    wire.REP_ERR_INVALID: "Invalid parameters for option {}",
    wire.REP_ERR_PLATFORM: "Server lacks support for option {}",
    wire.REP_ERR_TLS_REQD: (
        "TLS negotiation required before option {}\nDid you forget a valid tls-creds?"
    ),
    wire.REP_ERR_UNKNOWN: "Requested export not available",
    wire.REP_ERR_SHUTDOWN: "Server shutting down before option {}",
    wire.REP_ERR_BLOCK_SIZE_REQD: "Server requires INFO_BLOCK_SIZE for option {}",
}
_NO_MATCH = {62, 64}
"""OpenSSL's results for a certificate of another host, and of another address."""


def ask(uri: NbdUri, *, timeout: float = handshake.DEFAULT_TIMEOUT_S) -> list[ExportInfo]:
    """Return the exports of a server.

    Args:
        uri: where it is, and how the connection is secured.
        timeout: how long the server may stay silent, in seconds.

    Raises:
        PeerError: nobody answers, the server does not list, or it breaks the protocol.
        UsageError: Python cannot secure the connection so.
        SourceError: a certificate or key is missing.
    """
    link = _connect(uri, timeout)
    try:
        _greet(link)
        if uri.tls is not None:
            _secure(link)
        structured = _reply(link, wire.OPT_STRUCTURED_REPLY) == wire.REP_ACK
        found = []
        for name, said in _names(link):
            contexts: list[str] = []
            try:
                info = handshake.ask_info(link, wire.OPT_INFO, name, [])
                if structured:
                    contexts = [each for each, _ in handshake.list_contexts(link, name)]
            except handshake.RefusedError:
                shown = name.decode("utf-8", "surrogateescape")
                info = handshake.ExportInfo(shown, 0, 0, None, None, [])
            found.append(
                handshake.ExportInfo(
                    info.name, info.size, info.flags, said, info.block_size, contexts
                )
            )
        for _ in link.option(wire.OPT_ABORT):
            pass
    finally:
        link.close()
    return found


def text(exports: Sequence[ExportInfo]) -> str:
    """Return what is printed of them."""
    return "".join(f"{line}\n" for line in _lines(exports))


def _lines(exports: Sequence[ExportInfo]) -> Iterator[str]:
    yield f"exports available: {len(exports)}"
    for export in exports:
        yield f" export: '{export.name}'"
        if export.description:
            yield f"  description: {export.description}"
        if export.flags & wire.HAS_FLAGS:
            words = "".join(f" {word}" for bit, word in _FLAGS if export.flags & bit)
            yield f"  size:  {export.size}"
            yield f"  flags: {export.flags:#x} ({words} )"
        if export.block_size is not None:
            yield f"  min block: {export.block_size.minimum}"
            yield f"  opt block: {export.block_size.preferred}"
            yield f"  max block: {export.block_size.maximum}"
        if export.contexts:
            yield f"  available meta contexts: {len(export.contexts)}"
            yield from (f"   {context}" for context in export.contexts)


def _connect(uri: NbdUri, timeout: float) -> Link:
    if uri.socket is None:
        where = f"{uri.host}:{uri.port}"
        try:
            socket.getaddrinfo(uri.host, uri.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            text = f"address resolution failed for {where}: {error.strerror}"
            raise PeerError(text) from error
    else:
        where = uri.socket
    try:
        return Link(uri, timeout)
    except PeerError as error:
        cause = error.__cause__
        reason = (isinstance(cause, OSError) and cause.strerror) or cause
        raise PeerError(f"Failed to connect to '{where}': {reason}") from error


def _greet(link: Link) -> None:
    """Take the greeting, and agree on the protocol of today."""
    begin = _take(link, 8, "initial magic")
    if begin != wire.GREETING_MAGIC.to_bytes(8, "big"):
        raise PeerError(f"Bad initial magic received: 0x{begin.hex()}")
    kind = int.from_bytes(_take(link, 8, "server magic"), "big")
    flags = 0
    if kind == wire.OPTION_MAGIC:
        flags = int.from_bytes(_take(link, 2, "server flags"), "big")
    if not flags & wire.FLAG_FIXED_NEWSTYLE:
        raise PeerError("Server does not support export lists")
    answer = flags & (wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES)
    link.without_zeroes = bool(answer & wire.FLAG_NO_ZEROES)
    link.send(wire.CLIENT_FLAGS.pack(answer))


def _take(link: Link, length: int, what: str) -> bytes:
    try:
        return link.receive(length)
    except PeerError as error:
        reason = "Unexpected end-of-file before all data were read"
        if isinstance(error.__cause__, OSError):
            reason = f"Unable to read from socket: {error.__cause__.strerror}"
        raise PeerError(f"Failed to read {what}: {reason}") from error


def _reply(link: Link, option: int) -> int:
    return [each.kind for each in link.option(option)][-1]


def _refusal(option: int, kind: int, data: bytes) -> PeerError:
    number = f"{option} ({wire.option_name(option)})"
    told = _REFUSALS.get(kind, "Unknown error code when asking for option {}").format(number)
    said = data.decode("utf-8", "replace")
    return PeerError(f"{told}\nserver reported: {said}" if said else told)


def _secure(link: Link) -> None:
    tls = link.uri.tls
    assert tls is not None
    host = tls.hostname or (link.uri.host if link.uri.socket is None else None)
    answers = [*_starttls(link)]
    if answers:
        raise answers[0]
    if host is None and tls.psk_file is None and tls.verify:
        raise PeerError("No hostname for certificate validation")
    try:
        link.secure()
    except PeerError as error:
        code = getattr(error.__cause__, "verify_code", None)
        if code in _NO_MATCH:
            raise PeerError(f"Certificate does not match the hostname {host}") from error
        raise


def _starttls(link: Link) -> Iterator[PeerError]:
    for reply in link.option(wire.OPT_STARTTLS):
        if reply.kind != wire.REP_ACK:
            yield _refusal(wire.OPT_STARTTLS, reply.kind, reply.data)


def _names(link: Link) -> list[tuple[bytes, str | None]]:
    found: list[tuple[bytes, str | None]] = []
    for reply in link.option(wire.OPT_LIST):
        if reply.kind == wire.REP_SERVER:
            length = int.from_bytes(reply.data[:4], "big")
            if len(reply.data) < 4 or length > len(reply.data) - 4:
                raise PeerError("incorrect name length")
            name, said = reply.data[4 : 4 + length], reply.data[4 + length :]
            found.append((name, said.decode("utf-8", "surrogateescape") or None))
        elif reply.kind == wire.REP_ERR_UNSUP:
            raise PeerError("Server does not support export lists")
        elif reply.kind != wire.REP_ACK:
            raise _refusal(wire.OPT_LIST, reply.kind, reply.data)
    return found
