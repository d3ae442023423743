"""Raw NBD conversations: send bytes, take whole replies, whatever the server does.

Nothing here uses the package's client or its numbers, so that a mistake there cannot hide itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

TIME_LIMIT = 20.0
EXPORT_NAME, ABORT, LIST, PEEK, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = (
    range(1, 12)
)
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << bit for bit in range(6))
CLOSED = b"<closed>"


def option(number: int, data: bytes = b"", length: int | None = None) -> bytes:
    return (
        struct.pack(">QII", 0x49484156454F5054, number, len(data) if length is None else length)
        + data
    )


def string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def info(name: bytes, *kinds: int) -> bytes:
    return string(name) + struct.pack(f">H{len(kinds)}H", len(kinds), *kinds)


def queries(name: bytes, *texts: bytes) -> bytes:
    return string(name) + struct.pack(">I", len(texts)) + b"".join(map(string, texts))


def request(
    command: int, offset: int = 0, length: int = 0, flags: int = 0, cookie: int = 0x1122334455667788
) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length)


class Talk:
    """One connection; `log` holds the greeting and the reply to each step."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self.structured = False
        self.log: list[bytes] = []
        try:
            self._socket.settimeout(TIME_LIMIT)
            self._socket.connect(os.fspath(path))
            self.log.append(self._exactly(18))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Ask for TLS, and begin with it as soon as that is granted."""
        assert self.option(STARTTLS).endswith(b"\0\0\0\1\0\0\0\0")
        self._socket = context.wrap_socket(
            self._socket, server_hostname="localhost", suppress_ragged_eofs=False
        )
        self.structured = False

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def _exactly(self, length: int) -> bytes:
        data = bytearray(length)
        done = 0
        while done < length:
            try:
                count = self._socket.recv_into(memoryview(data)[done:])
            except ConnectionError:
                count = 0
            if not count:
                return bytes(data[:done]) + CLOSED
            done += count
        return bytes(data)

    def _note(self, data: bytes) -> bytes:
        self.log.append(data)
        return data

    # Each step returns what came back, and notes it.

    def flags(self, value: int = 3) -> None:
        self.send(struct.pack(">I", value))

    def option(self, number: int, data: bytes = b"", length: int | None = None) -> bytes:
        self.send(option(number, data, length))
        return self.take_option()

    def take_option(self) -> bytes:
        """Take every reply to an option, up to the acknowledgement or the error."""
        taken = b""
        while True:
            head = self._exactly(20)
            taken += head
            if head.endswith(CLOSED):
                return self._note(taken)
            number, kind, length = struct.unpack(">III", head[8:])
            taken += self._exactly(length)
            if kind == 1 or kind >> 31:
                if number == STRUCTURED and kind == 1:
                    self.structured = True
                return self._note(taken)

    def export_name(self, name: bytes, *, zeroes: bool = False, length: int | None = None) -> bytes:
        self.send(option(EXPORT_NAME, name, length))
        return self._note(self._exactly(134 if zeroes else 10))

    def request(self, command: int, offset: int = 0, length: int = 0, flags: int = 0,
                *, cookie: int = 0x1122334455667788, payload: bytes = b"") -> bytes:  # fmt: skip
        self.send(request(command, offset, length, flags, cookie) + payload)
        return self.take_reply(length if command == READ else 0)

    def take_reply(self, read_length: int = 0) -> bytes:
        """Take a simple reply, with the data of a read, or chunks up to the one marked as last."""
        taken = b""
        while True:
            head = self._exactly(16)
            taken += head
            if head.endswith(CLOSED):
                return self._note(taken)
            if head[:4] == bytes.fromhex("67446698"):
                error = int.from_bytes(head[4:8], "big")
                return self._note(taken + (b"" if error else self._exactly(read_length)))
            rest = self._exactly(4)
            taken += rest
            if rest.endswith(CLOSED):
                return self._note(taken)
            taken += self._exactly(int.from_bytes(rest, "big"))
            if head[5] & 1:
                return self._note(taken)

    def end(self) -> bytes:
        """Take what comes until the server closes."""
        taken = b""
        while True:
            try:
                piece = self._socket.recv(65536)
            except ConnectionError:
                piece = b""
            except TimeoutError:
                return self._note(taken + b"<open>")
            if not piece:
                return self._note(taken + CLOSED)
            taken += piece


@contextlib.contextmanager
def serving(path: Any, *exports: Any, **options: Any) -> Iterator[Any]:
    """Run our server in a thread on a unix socket; give a function that runs its coroutines."""
    from nbexport.nbd import NbdServer

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(TIME_LIMIT)

    async def start() -> Any:
        server = NbdServer(**options)
        for export in exports:
            server.add(export)
        await server.listen_unix(str(path))
        return server

    try:
        server = call(start())
        try:
            yield server, call
        finally:
            call(server.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(TIME_LIMIT)
        loop.close()
