"""The client's side of the negotiation: what is agreed, and what a server tells of its exports.

Source: NBD protocol, "Handshake phase" and "Option types".
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from nbexport.errors import PeerError
from nbexport.nbd import wire
from nbexport.nbd.link import Link
from nbexport.nbd.uri import NbdUri
from nbexport.units import is_power_of_two

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_TIMEOUT_S = 30.0
_SIZE_MAX = (1 << 63) - 1
"""Sizes above are not allowed ("Size of the export"), and offsets would not fit into int64."""


class BlockSize(NamedTuple):
    """What a server says of request sizes, in bytes."""

    minimum: int
    preferred: int
    maximum: int


@dataclass(frozen=True)
class ExportInfo:
    """What a server tells of an export before it is chosen.

    Attributes:
        name: what to ask for.
        size: length in bytes.
        flags: transmission flags.
        description: shown beside the name, None if the server has none.
        block_size: request sizes, None if the server does not tell.
        contexts: the names of its metadata contexts.
        refusal: why the server tells nothing of an export that it lists; None if it does tell.
    """

    name: str
    size: int
    flags: int
    description: str | None
    block_size: BlockSize | None
    contexts: list[str]
    refusal: str | None = None


class Agreed(NamedTuple):
    """What client and server agreed on."""

    structured: bool
    extended: bool


def list_exports(uri: str | NbdUri, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[ExportInfo]:
    """Return what a server offers; the export that the URI may name does not matter.

    Args:
        uri: where it is.
        timeout: how long the server may stay silent, in seconds.

    Raises:
        UsageError: the URI is not one.
        PeerError: nobody answers, the server does not list, or it breaks the protocol.
    """
    return look_around(uri, timeout=timeout)[1]


def look_around(
    uri: str | NbdUri, *, timeout: float = DEFAULT_TIMEOUT_S
) -> tuple[Agreed, list[ExportInfo]]:
    """Return what was agreed, too; else as `list_exports`."""
    link = Link(uri if isinstance(uri, NbdUri) else NbdUri.parse(uri), timeout)
    try:
        agreed = greet(link)
        listed: list[tuple[bytes, str | None]] = []
        for reply in link.option(wire.OPT_LIST):
            if reply.kind == wire.REP_SERVER:
                name, rest = _take_string(link, reply.data)
                listed.append((name, rest.decode("utf-8", "surrogateescape") or None))
            elif reply.kind != wire.REP_ACK:
                raise link.fail(f"cannot list exports: {reply.message}")
        infos = [_info_of(link, name, said, agreed) for name, said in listed]
        with contextlib.suppress(PeerError):  # all was told; how they part is of no interest
            for _ in link.option(wire.OPT_ABORT):
                pass
    finally:
        link.close()
    return agreed, infos


def _info_of(link: Link, name: bytes, said: str | None, agreed: Agreed) -> ExportInfo:
    try:
        contexts: list[str] = []
        if agreed.structured:
            contexts = [context for context, _ in list_contexts(link, name)]
        return ask_info(link, wire.OPT_INFO, name, contexts)
    except RefusedError as error:
        # One export that the server keeps to itself must not hide the others.
        text = name.decode("utf-8", "surrogateescape")
        return ExportInfo(text, 0, 0, said, None, [], error.reason)


class RefusedError(PeerError):
    """The server answered an option with an error; the conversation can go on.

    Args:
        message: the text, with the place.
        reason: what the server says.
        option: what was refused, one of ``NBD_OPT_*``; 0 where that is not known.
        kind: how, one of ``NBD_REP_ERR_*``; 0 where that is not known.
    """

    def __init__(self, message: str, reason: str = "", *, option: int = 0, kind: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.option = option
        self.kind = kind


def greet(link: Link, *, extended: bool = True) -> Agreed:
    """Take the greeting and agree on the most that the server can do.

    Args:
        link: just connected.
        extended: whether to ask for extended headers.

    Raises:
        PeerError: this is no server of the fixed newstyle protocol, or it breaks it.
    """
    magic, kind, flags = wire.GREETING.unpack(link.receive(wire.GREETING.size))
    if magic != wire.GREETING_MAGIC:
        raise link.fail("not an NBD server")
    if kind != wire.OPTION_MAGIC or not flags & wire.FLAG_FIXED_NEWSTYLE:
        raise link.fail("the server does not speak the fixed newstyle protocol")
    answer = flags & (wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES)
    link.without_zeroes = bool(answer & wire.FLAG_NO_ZEROES)
    link.send(wire.CLIENT_FLAGS.pack(answer))
    if link.uri.tls is not None:
        link.start_tls()
    link.extended = extended and _agree(link, wire.OPT_EXTENDED_HEADERS)
    link.structured = link.extended or _agree(link, wire.OPT_STRUCTURED_REPLY)
    return Agreed(link.structured, link.extended)


def _agree(link: Link, option: int) -> bool:
    return [reply.kind for reply in link.option(option)][-1] == wire.REP_ACK


def _take_string(link: Link, data: bytes) -> tuple[bytes, bytes]:
    """Split off a string with its length before it."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 or length > len(data) - 4:
        raise link.fail("a string longer than the reply that holds it")
    return data[4 : 4 + length], data[4 + length :]


def list_contexts(link: Link, name: bytes) -> list[tuple[str, int]]:
    """Return every context of an export, in the server's order; none if it cannot list."""
    data = wire.pack_string(name) + wire.UINT32.pack(0)
    return _context_replies(link, wire.OPT_LIST_META_CONTEXT, data)


def select_contexts(link: Link, name: bytes, wanted: Sequence[str]) -> dict[str, int]:
    """Select contexts; return those that the server has, with their ids."""
    queries = [wire.pack_string(query.encode("utf-8", "surrogateescape")) for query in wanted]
    data = wire.pack_string(name) + wire.UINT32.pack(len(queries)) + b"".join(queries)
    found = dict(_context_replies(link, wire.OPT_SET_META_CONTEXT, data))
    for context in found:
        if context not in wanted:
            raise link.fail(f"context '{context}' was not asked for")
    if len(set(found.values())) != len(found):
        raise link.fail("two contexts with the same id")
    return found


def _context_replies(link: Link, option: int, data: bytes) -> list[tuple[str, int]]:
    found = []
    for reply in link.option(option, data):
        if reply.kind == wire.REP_META_CONTEXT:
            if len(reply.data) < wire.CONTEXT_ID.size:
                raise link.fail("a context without an id")
            (number,) = wire.CONTEXT_ID.unpack_from(reply.data)
            name = reply.data[wire.CONTEXT_ID.size :].decode("utf-8", "surrogateescape")
            found.append((name, number))
        elif reply.kind == wire.REP_ERR_UNSUP:
            return []
        elif reply.kind != wire.REP_ACK:
            text = str(link.fail(reply.message))
            raise RefusedError(text, reply.message, option=option, kind=reply.kind)
    return found


def ask_info(link: Link, option: int, name: bytes, contexts: list[str]) -> ExportInfo:
    """Send INFO or GO and collect what the server tells."""
    kinds = (wire.INFO_NAME, wire.INFO_DESCRIPTION, wire.INFO_BLOCK_SIZE)
    request = b"".join(wire.UINT16.pack(kind) for kind in kinds)
    data = wire.pack_string(name) + wire.UINT16.pack(len(kinds)) + request
    told: dict[int, bytes] = {}
    for reply in link.option(option, data):
        if reply.kind == wire.REP_INFO and len(reply.data) >= wire.UINT16.size:
            told[int.from_bytes(reply.data[:2], "big")] = reply.data
        elif reply.kind == wire.REP_ERR_UNSUP and option == wire.OPT_GO and not link.extended:
            return _choose_by_name(link, name, contexts)
        elif reply.kind != wire.REP_ACK:
            text = str(link.fail(reply.message))
            raise RefusedError(text, reply.message, option=option, kind=reply.kind)
    if len(told.get(wire.INFO_EXPORT, b"")) != wire.INFO_EXPORT_DATA.size:
        raise link.fail("the server does not tell the size of the export")
    _, size, flags = wire.INFO_EXPORT_DATA.unpack(told[wire.INFO_EXPORT])
    _check_size(link, size)
    description = told.get(wire.INFO_DESCRIPTION)
    return ExportInfo(
        name.decode("utf-8", "surrogateescape"),
        size,
        flags,
        None if description is None else description[2:].decode("utf-8", "surrogateescape"),
        _block_size(link, told.get(wire.INFO_BLOCK_SIZE)),
        contexts,
    )


def _choose_by_name(link: Link, name: bytes, contexts: list[str]) -> ExportInfo:
    """Choose an export the old way, in which a server that lacks it just closes."""
    link.send(wire.pack_option(wire.OPT_EXPORT_NAME, name))
    size, flags = wire.EXPORT_NAME_REPLY.unpack(link.receive(wire.EXPORT_NAME_REPLY.size))
    if not link.without_zeroes:
        link.receive(len(wire.EXPORT_NAME_PADDING))
    _check_size(link, size)
    return ExportInfo(name.decode("utf-8", "surrogateescape"), size, flags, None, None, contexts)


def _check_size(link: Link, size: int) -> None:
    if size > _SIZE_MAX:
        raise link.fail(f"impossible size of the export: {size}")


def _block_size(link: Link, data: bytes | None) -> BlockSize | None:
    if data is None:
        return None
    if len(data) != wire.INFO_BLOCK_SIZE_DATA.size:
        raise link.fail("block sizes of a wrong length")
    sizes = BlockSize(*wire.INFO_BLOCK_SIZE_DATA.unpack(data)[1:])
    ordered = sizes.minimum <= sizes.preferred <= sizes.maximum
    if not (is_power_of_two(sizes.minimum) and ordered):
        raise link.fail(f"impossible block sizes: {tuple(sizes)}")
    return sizes
