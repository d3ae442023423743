"""A disk that is an export of an NBD server, asked for again and again."""

from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

import numpy as np

from nbexport.bits import Extents
from nbexport.block.node import (
    ALLOCATED,
    DATA,
    NBD_STATE_HOLE,
    NBD_STATE_ZERO,
    ZERO,
    BlockNode,
    HostFileError,
)
from nbexport.errors import PeerError
from nbexport.nbd import wire
from nbexport.nbd.client import Client
from nbexport.nbd.contexts import BASE_ALLOCATION
from nbexport.units import SECTOR_SIZE, MiB, align_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nbexport.nbd.uri import NbdUri

_Result = TypeVar("_Result")

CONNECT_AGAIN_SECONDS: Final = 0.1
"""How long the client waits between two attempts to reach a server that went away."""
_ZEROES: Final = bytes(MiB)


class NbdNode(BlockNode):
    """An export, as a node of the block graph.

    Requests are made one after the other. A connection that breaks fails the request that it
    breaks in; the next one connects again. What the server refuses fails with its error number.

    Args:
        uri: where the export is.
        writable: whether to write; the export must allow it.
        reconnect_seconds: how long a request waits for a server that went away.
        context: the metadata context that maps are made of; base:allocation unless a test wants
            another, whose flags are then read as those of base:allocation.

    Raises:
        PeerError: nobody answers, the export does not exist, the server breaks the protocol.
        OSError: the export is read-only and shall be written; or it lacks the context.

    Source: NBD protocol; QEMU's ``BlockdevOptionsNbd``.
    """

    driver: ClassVar[str] = "nbd"

    def __init__(
        self,
        uri: NbdUri,
        *,
        writable: bool = False,
        reconnect_seconds: float = 0.0,
        context: str | None = None,
    ) -> None:
        self._uri = uri
        self._context = context or BASE_ALLOCATION
        self._reconnect_seconds = reconnect_seconds
        self._lock = threading.Lock()
        self._client: Client | None = self._connect()
        client = self._client
        super().__init__(_name(uri), align_up(client.export_size, SECTOR_SIZE))
        self._export_size = client.export_size
        self.read_only = not writable
        try:
            if writable and client.transmission_flags & wire.READ_ONLY:
                raise HostFileError(errno.EACCES, "Could not open image: Permission denied")
            if context is not None and context not in client.contexts:
                raise HostFileError(errno.EINVAL, "Could not open image: Invalid argument")
        except OSError:
            client.close()
            raise

    def _connect(self) -> Client:
        return Client.connect(self._uri, contexts=[self._context])

    @property
    def writable(self) -> bool:
        """Whether writes are sent."""
        return not self.read_only

    @property
    def is_read_only_export(self) -> bool:
        """Whether the server allows no writes."""
        return self._client is not None and bool(self._client.transmission_flags & wire.READ_ONLY)

    def allocated_size(self) -> int:
        """Return 0: the protocol does not tell."""
        return 0

    def _ask(self, function: Callable[[Client], _Result]) -> _Result:
        """Do something with the connection; make it anew if the last request broke it."""
        with self._lock:
            if self._client is None:
                self._client = self._connect_again()
            try:
                return function(self._client)
            except PeerError as error:
                if error.errno is None:
                    self._client.close()
                    self._client = None
                raise OSError(_number(error), f"{self.filename}: {error}") from error

    def _connect_again(self) -> Client:
        deadline = time.monotonic() + self._reconnect_seconds
        while True:
            try:
                client = self._connect()
            except PeerError as error:
                if time.monotonic() >= deadline:
                    raise OSError(errno.EIO, f"{self.filename}: {error}") from error
                time.sleep(CONNECT_AGAIN_SECONDS)
                continue
            if client.export_size != self._export_size:
                client.close()
                raise OSError(errno.EIO, f"{self.filename}: the export has another size now")
            return client

    def _inside(self, offset: int, length: int) -> int:
        """Return how many bytes of a range the export has; a last sector may be cut short."""
        return max(0, min(length, self._export_size - offset))

    def _read(self, offset: int, buffer: memoryview) -> None:
        inside = self._inside(offset, len(buffer))
        if inside:
            self._ask(lambda client: client.read_into(offset, buffer[:inside]))
        buffer[inside:] = bytes(len(buffer) - inside)

    def _write(self, offset: int, data: memoryview) -> None:
        inside = self._inside(offset, len(data))
        if inside:
            self._ask(lambda client: client.write(offset, data[:inside]))

    def _write_zeroes(self, offset: int, length: int, *, unmap: bool, no_fallback: bool) -> None:
        inside = self._inside(offset, length)

        def ask(client: Client) -> None:
            if client.transmission_flags & wire.SEND_WRITE_ZEROES:
                fast = no_fallback and bool(client.transmission_flags & wire.SEND_FAST_ZERO)
                client.write_zeroes(offset, inside, may_trim=unmap, fast=fast)
                return
            if no_fallback:
                raise OSError(errno.ENOTSUP, f"{self.filename}: the server writes no zeroes")
            for done in range(0, inside, len(_ZEROES)):
                part = memoryview(_ZEROES)[: min(len(_ZEROES), inside - done)]
                client.write(offset + done, part)

        if inside:
            self._ask(ask)

    def _discard(self, offset: int, length: int) -> None:
        inside = self._inside(offset, length)

        def ask(client: Client) -> None:
            if client.transmission_flags & wire.SEND_TRIM:
                client.trim(offset, inside)

        if inside:
            self._ask(ask)

    def _flush(self) -> None:
        def ask(client: Client) -> None:
            if client.transmission_flags & wire.SEND_FLUSH:
                client.flush()

        self._ask(ask)

    def _status(self, start: int, end: int, *, want_zero: bool) -> Extents:  # noqa: ARG002
        return self._ask(lambda client: self._map(client, start, end))

    def _map(self, client: Client, start: int, end: int) -> Extents:
        last = min(end, self._export_size)
        if self._context not in client.contexts:
            return Extents.uniform(start, end, ALLOCATED | DATA)
        found = client.map(start, last)[self._context].map_flags(_to_own)
        return found.extend(end, ALLOCATED | ZERO)

    def _map_is_bounded(self) -> bool:
        # Others may write the export, so that a map that is kept would be wrong.
        return False

    def _close_own(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


def _number(error: PeerError) -> int:
    """Return the number of the error that a request fails with; the protocol's are Linux's."""
    if error.errno is None:
        return errno.EIO
    return error.errno if error.errno in wire.ERROR_NAMES else errno.EINVAL


def _to_own(flags: NDArray[np.uint32]) -> NDArray[np.uint32]:
    data = np.where(flags & NBD_STATE_HOLE, 0, DATA)
    zero = np.where(flags & NBD_STATE_ZERO, ZERO, 0)
    return (data | zero | ALLOCATED).astype(np.uint32)


def _name(uri: NbdUri) -> str:
    """Return how QEMU calls the node: like a URI, but with nothing escaped."""
    if uri.socket is not None:
        path = f"/{uri.export}" if uri.export else ""
        return f"nbd+unix://{path}?socket={uri.socket}"
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    return f"nbd://{host}:{uri.port}" + (f"/{uri.export}" if uri.export else "")
