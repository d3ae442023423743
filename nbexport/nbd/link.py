"""A client's connection, byte by byte: what it sends, and frames that it takes apart.

Every length that a server announces is compared with a bound before anything is allocated.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from nbexport.errors import PeerError, UsageError
from nbexport.listening import connect_unix
from nbexport.nbd import wire
from nbexport.units import KiB, MiB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.nbd.uri import NbdUri

REPLY_MAX = 64 * KiB
"""Longest option reply that is taken: a name and a description of 4096 bytes each fit well."""
REPLIES_MAX = 1 << 17
"""Replies to one option, one for each export or context: twice the bitmaps of a qcow2 image."""
INPUT_SIZE = 256 * KiB
"""Bytes that are taken at once where less was asked for."""
PROGRESS_SIZE = MiB
"""What a server has to send, or else finish a reply, within the time that it may stay silent."""
CHUNK_MAX = 64 * MiB
"""Longest chunk that is taken: twice what this client asks for in one read."""


class OptionReply(NamedTuple):
    """One reply to an option.

    Attributes:
        kind: its type.
        data: its data.
    """

    kind: int
    data: bytes

    @property
    def message(self) -> str:
        """What an error reply says: the server's text, or the name of the error."""
        text = self.data.decode("utf-8", "replace")
        return text or wire.REPLY_NAMES.get(self.kind, f"error {self.kind:#x}")


class Head(NamedTuple):
    """What stands before the payload of a chunk; a simple reply counts as a chunk that is all.

    Attributes:
        done: whether it is the last chunk of its reply.
        kind: its type.
        cookie: which request it answers.
        length: bytes of the payload, which `Link.receive` takes next.
        error: error value of a simple reply; None if it is none.
    """

    done: bool
    kind: int
    cookie: int
    length: int
    error: int | None = None


class Link:
    """A blocking connection to a server.

    Args:
        uri: where to connect.
        timeout: how long the server may stay silent, in seconds. An option's replies may take as
            long altogether, and a request's reply as long for each started `PROGRESS_SIZE`: a
            server that sends a byte now and then is given up.

    Attributes:
        without_zeroes: whether no padding follows the answer to the export's name.
        structured: whether replies may come in chunks.
        extended: whether requests and replies have extended headers.

    Raises:
        PeerError: nobody listens there.
        UsageError: the host has a name that none can have.
    """

    def __init__(self, uri: NbdUri, timeout: float) -> None:
        self.uri = uri
        self.without_zeroes = False
        self.structured = self.extended = False
        self._timeout = timeout
        self.progress()
        # What came with the bytes that were asked for: small answers take no system call each.
        self._view = memoryview(bytearray(INPUT_SIZE))
        self._taken = self._filled = 0
        try:
            self._socket = _connect(uri, timeout)
        except OSError as error:
            raise PeerError(f"{uri}: {error.strerror or error}") from error
        except UnicodeError as error:  # an empty or endless part between two dots
            raise UsageError(f"{uri}: not the name of a host: '{uri.host}'") from error

    def fail(self, message: str) -> PeerError:
        """Return the error that says what the server did wrong."""
        return PeerError(f"{self.uri}: {message}")

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        self._socket.close()

    def start_tls(self) -> None:
        """Secure the connection; the server must be willing.

        Raises:
            PeerError: the server is not, or the two do not come to terms.
            UsageError: Python cannot do what the URI asks for.
            SourceError: a file of the URI's is not of use.
        """
        reply = [*self.option(wire.OPT_STARTTLS)][-1]
        if reply.kind != wire.REP_ACK:
            raise self.fail(f"TLS: {reply.message}")
        self.secure()

    def secure(self) -> None:
        """Secure the connection, on which the server has just agreed; raises as `start_tls`."""
        from nbexport.nbd.tls_client import secure  # noqa: PLC0415 - ssl takes a while

        if self._taken != self._filled:
            raise self.fail("TLS: the server went on in clear")
        try:
            self._socket = secure(self._socket, self.uri)
        except OSError as error:
            raise self.fail(f"TLS: {_reason(error)}") from error

    def detach(self) -> socket.socket:
        """Return the socket; this link is of no use afterwards.

        Raises:
            PeerError: the server has sent something that nobody has asked for.
        """
        if self._taken != self._filled:
            raise self.fail("bytes that belong to nothing")
        return self._socket

    def send(self, data: bytes | memoryview) -> None:
        """Send bytes.

        Raises:
            PeerError: the server has gone, or does not read.
        """
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self.fail(_reason(error)) from error

    def progress(self) -> None:
        """Give the server its whole time again: something was finished, or is asked for."""
        self._deadline = time.monotonic() + self._timeout
        self._credit = PROGRESS_SIZE

    def receive(self, length: int) -> bytes:
        """Return the next bytes.

        Raises:
            PeerError: the server closed the connection, stayed silent too long, or is too slow.
        """
        end = self._taken + length
        if end <= self._filled:
            self._taken, begin = end, self._taken
            return bytes(self._view[begin:end])
        buffer = bytearray(length)
        self.receive_into(memoryview(buffer))
        return bytes(buffer)

    def receive_view(self, length: int) -> memoryview:
        """Return the next bytes, of use until the next are taken; raises what `receive` raises."""
        end = self._taken + length
        if end <= self._filled:
            self._taken, begin = end, self._taken
            return self._view[begin:end]
        buffer = memoryview(bytearray(length))
        self.receive_into(buffer)
        return buffer

    def receive_into(self, buffer: memoryview) -> None:
        """Fill a buffer; raises what `receive` raises."""
        done = 0
        while done < len(buffer):
            ready = min(self._filled - self._taken, len(buffer) - done)
            if ready:
                end = self._taken + ready
                buffer[done : done + ready] = self._view[self._taken : end]
                self._taken = end
                done += ready
            elif len(buffer) - done >= INPUT_SIZE:
                done += self._receive_some(buffer[done:])
            else:
                self._filled = self._receive_some(self._view)
                self._taken = 0

    def _receive_some(self, buffer: memoryview) -> int:
        """Take what has come, at least one byte; return how much."""
        if time.monotonic() > self._deadline:
            raise self.fail("the server takes too long")
        try:
            count = self._socket.recv_into(buffer)
        except OSError as error:
            raise self.fail(_reason(error)) from error
        if not count:
            raise self.fail("the server closed the connection")
        self._credit -= count
        if self._credit <= 0:
            self._credit += PROGRESS_SIZE * (1 - self._credit // PROGRESS_SIZE)
            self._deadline = time.monotonic() + self._timeout
        return count

    def wait_for_end(self, seconds: float) -> None:
        """Wait until the server closes the connection; what it still sends is dropped.

        Raises:
            PeerError: it does not close in time, or the connection breaks.
        """
        deadline = time.monotonic() + seconds
        try:
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(64 * KiB):
                    return
            raise TimeoutError
        except OSError as error:
            raise self.fail(_reason(error)) from error

    def option(self, option: int, data: bytes = b"") -> Iterator[OptionReply]:
        """Send an option and yield its replies; the last is an ACK or an error."""
        self.progress()
        self.send(wire.pack_option(option, data))
        for _ in range(REPLIES_MAX):
            magic, echo, kind, length = wire.OPTION_REPLY.unpack(
                self.receive(wire.OPTION_REPLY.size)
            )
            if magic != wire.REPLY_MAGIC or echo != option:
                raise self.fail(f"not a reply to option '{wire.option_name(option)}'")
            if length > REPLY_MAX:
                raise self.fail(f"option reply of {length} bytes")
            reply = OptionReply(kind, self.receive(length))
            yield reply
            if kind == wire.REP_ACK or kind & wire.REP_FLAG_ERROR:
                return
        raise self.fail(f"endless replies to option '{wire.option_name(option)}'")

    def pack_request(
        self, command: int, cookie: int, offset: int, length: int, flags: int
    ) -> bytes:
        """Return the header of a request in the form that was agreed."""
        if not self.extended:
            return wire.pack_request(command, cookie, offset, length, flags)
        magic = wire.EXTENDED_REQUEST_MAGIC
        return wire.EXTENDED_REQUEST.pack(magic, flags, command, cookie, offset, length)

    def head(self) -> Head:
        """Take what stands before the payload of the next chunk.

        Raises:
            PeerError: what comes is no reply, or none in the form that was agreed.
        """
        if self.extended:
            data = self.receive_view(wire.EXTENDED_CHUNK.size)
            magic, flags, kind, cookie, _offset, length = wire.EXTENDED_CHUNK.unpack(data)
            expected = wire.EXTENDED_CHUNK_MAGIC
        else:
            begin = self.receive(wire.SIMPLE_REPLY.size)
            magic, error, cookie = wire.SIMPLE_REPLY.unpack(begin)
            if magic == wire.SIMPLE_REPLY_MAGIC:
                kind = wire.CHUNK_ERROR if error else wire.CHUNK_NONE
                return Head(True, kind, cookie, 0, error)  # noqa: FBT003
            if not self.structured:
                raise self.fail(f"not a simple reply: magic {magic:#x}")
            begin += self.receive(wire.CHUNK.size - wire.SIMPLE_REPLY.size)
            magic, flags, kind, cookie, length = wire.CHUNK.unpack(begin)
            expected = wire.CHUNK_MAGIC
        if magic != expected:
            raise self.fail(f"not a reply: magic {magic:#x}")
        if length > CHUNK_MAX:
            raise self.fail(f"chunk of {length} bytes")
        return Head(bool(flags & wire.CHUNK_FLAG_DONE), kind, cookie, length)

    def error(self, head: Head, doing: str) -> PeerError:
        """Take the rest of a reply that tells an error; return what it says."""
        if head.error is not None:
            error, text = head.error, ""
        else:
            payload = self.receive(head.length)
            if len(payload) < wire.ERROR.size:
                return self.fail(f"{doing}: error without a value")
            error, length = wire.ERROR.unpack_from(payload)
            text = payload[wire.ERROR.size :][:length].decode("utf-8", "replace")
        name = wire.ERROR_NAMES.get(error, str(error))
        return PeerError(f"{self.uri}: {doing}: {text or 'failed'} ({name})", errno=error)


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "the server stayed silent"
    return error.strerror or str(error)


def _connect(uri: NbdUri, timeout: float) -> socket.socket:
    if uri.socket is None:
        connection = socket.create_connection((uri.host, uri.port), timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connect_unix(connection, uri.socket)
    except BaseException:
        connection.close()
        raise
    return connection
