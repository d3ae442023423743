"""Many small requests in flight: a client that does nothing but ask and count the answers."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from nbexport.errors import PeerError
from nbexport.nbd import Client, wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

_REQUEST = np.dtype(
    [
        *(("magic", ">u4"), ("flags", ">u2"), ("command", ">u2"), ("cookie", ">u8")),
        *(("offset", ">u8"), ("length", ">u4")),
    ]
)
_CHUNK = struct.Struct(">IHHQI")
_RECEIVE = 1 << 20
TIME_LIMIT_S = 60.0


def requests(command: int, offsets: Sequence[int] | np.ndarray, length: int) -> list[bytes]:
    """Return requests of one kind, one for each offset, with cookies from 1 on."""
    made = np.zeros(len(offsets), _REQUEST)
    made["magic"] = wire.REQUEST_MAGIC
    made["command"] = command
    made["cookie"] = np.arange(1, len(offsets) + 1)
    made["offset"] = offsets
    made["length"] = length
    data = made.tobytes()
    size = _REQUEST.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)]


def pump(client: Client, made: Sequence[bytes], depth: int, *, payload: bytes = b"") -> int:
    """Send requests, at most ``depth`` unanswered at a time, and take all answers.

    Args:
        client: connected, with structured replies; nothing else may use it meanwhile.
        made: the requests, each with a cookie of its own.
        depth: how many may be in flight.
        payload: what follows each of them; with any, they are writes, and a flush comes last.

    Returns:
        The bytes of all answers.

    Raises:
        PeerError: the server refused one, broke off, or answered what nobody asked.
    """
    link = client.detach()
    link.settimeout(TIME_LIMIT_S)
    total = _drive(link, made, depth, payload)
    if payload:
        flush = wire.pack_request(wire.CMD_FLUSH, len(made) + 1)
        total += _drive(link, [flush], 1, b"")
    _goodbye(link)
    return total


def _drive(link: socket.socket, made: Sequence[bytes], depth: int, payload: bytes) -> int:
    sent = answered = total = 0
    buffer = bytearray()
    while answered < len(made):
        batch = made[sent : answered + depth]
        if batch:
            link.sendall(b"".join(part for request in batch for part in (request, payload)))
            sent += len(batch)
        data = link.recv(_RECEIVE)
        if not data:
            raise PeerError("the server closed the connection")
        total += len(data)
        buffer += data
        done, at = _take(buffer)
        answered += done
        del buffer[:at]
    return total


def _take(buffer: bytearray) -> tuple[int, int]:
    """Return how many answers are complete, and where what is incomplete begins."""
    done = at = 0
    end = len(buffer)
    while end - at >= wire.SIMPLE_REPLY.size:
        magic, error, _cookie = wire.SIMPLE_REPLY.unpack_from(buffer, at)
        if magic == wire.SIMPLE_REPLY_MAGIC:  # of a write or a flush
            if error:
                raise PeerError("the server refused a request")
            at += wire.SIMPLE_REPLY.size
            done += 1
            continue
        if end - at < _CHUNK.size:
            break
        magic, flags, kind, _cookie, length = _CHUNK.unpack_from(buffer, at)
        if magic != wire.CHUNK_MAGIC:
            raise PeerError(f"not a reply: magic {magic:#x}")
        if kind & wire.CHUNK_FLAG_ERROR:
            raise PeerError("the server refused a request")
        if end - at < _CHUNK.size + length:
            break
        at += _CHUNK.size + length
        done += flags & wire.CHUNK_FLAG_DONE
    return done, at


def _goodbye(link: socket.socket) -> None:
    link.sendall(wire.pack_request(wire.CMD_DISC, 0))
    link.close()
