"""What a request does to the disk, and the reply that tells of it. Runs in worker threads."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from nbexport.block.node import SilentError
from nbexport.errors import FormatError
from nbexport.nbd import wire
from nbexport.nbd.replies import room_for
from nbexport.units import SECTOR_SIZE

if TYPE_CHECKING:
    from nbexport.nbd.replies import Buffer
    from nbexport.nbd.transmission import Request, ServerTransmission

_log = logging.getLogger(__name__)

_ERRNO = {
    errno.EPERM: wire.EPERM,
    errno.EROFS: wire.EPERM,
    errno.EIO: wire.EIO,
    errno.ENOMEM: wire.ENOMEM,
    errno.EINVAL: wire.EINVAL,
    errno.ENOSPC: wire.ENOSPC,
    errno.EDQUOT: wire.ENOSPC,
    errno.EFBIG: wire.ENOSPC,
    errno.EOVERFLOW: wire.EOVERFLOW,
    errno.ENOTSUP: wire.ENOTSUP,
    errno.ESHUTDOWN: wire.ESHUTDOWN,
}
_FAILURES = {
    wire.CMD_READ: "reading from file failed",
    wire.CMD_WRITE: "writing to file failed",
    wire.CMD_WRITE_ZEROES: "writing to file failed",
    wire.CMD_TRIM: "discard failed",
    wire.CMD_FLUSH: "flush failed",
    wire.CMD_CACHE: "caching data failed",
    wire.CMD_BLOCK_STATUS: "can't get block status",
}


def error_number(error: Exception) -> int:
    """Return the protocol's error value for what went wrong with the disk."""
    if isinstance(error, OSError) and error.errno is not None:
        return _ERRNO.get(error.errno, wire.EINVAL)
    return wire.EIO


def memory_of(engine: ServerTransmission, request: Request) -> int:
    """Return about how many bytes a request and its reply hold in memory, at most."""
    if request.command in {wire.CMD_READ, wire.CMD_WRITE}:
        return request.length
    if request.command == wire.CMD_BLOCK_STATUS:
        # Descriptors for extents of a sector, the least that a bitmap can tell apart.
        extents = min(request.length // SECTOR_SIZE + 2, wire.EXTENTS_MAX)
        contexts = engine.choice.contexts if request.contexts is None else request.contexts
        return len(contexts) * extents * (16 if engine.choice.extended else 8)
    return 0


def answer(engine: ServerTransmission, request: Request) -> list[Buffer]:
    """Do what a request asks of the disk and return the pieces of its reply."""
    try:
        return _perform(engine, request)
    except (OSError, FormatError) as error:
        if not isinstance(error, SilentError):
            _log.warning("%s", error)
        return [engine.error(request, error_number(error), _FAILURES[request.command])]
    except Exception:
        # A fault of ours: the client must get an answer, and the next request may work.
        _log.exception("request %s failed", request)
        return [engine.error(request, wire.EIO, _FAILURES[request.command])]


def _perform(engine: ServerTransmission, request: Request) -> list[Buffer]:
    export = engine.choice.export
    writer = export.writer
    fua = writer is not None and bool(request.flags & wire.CMD_FLAG_FUA)
    if request.command == wire.CMD_READ:
        if fua and writer is not None:
            writer.flush()  # what is read now is not lost later
        data = room_for(request.length)
        export.read_into(request.offset, data)
        return engine.read_reply(request, data)
    if request.command == wire.CMD_BLOCK_STATUS:
        return engine.block_status_reply(request)
    if writer is not None:
        if request.command == wire.CMD_WRITE:
            assert request.data is not None
            writer.write_from(request.offset, request.data)
        elif request.command == wire.CMD_WRITE_ZEROES:
            writer.write_zeroes(
                request.offset,
                request.length,
                unmap=export.unmap and not request.flags & wire.CMD_FLAG_NO_HOLE,
                no_fallback=bool(request.flags & wire.CMD_FLAG_FAST_ZERO),
            )
        elif request.command == wire.CMD_TRIM and export.unmap:
            writer.discard(request.offset, request.length)
        if fua or request.command == wire.CMD_FLUSH:
            writer.flush()
    # A flush of a disk that nobody writes, and a cache request, have nothing to do.
    return [engine.done(request)]
