"""A client's requests in flight: sent ahead, answered in any order, each exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.nbd import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nbexport.errors import PeerError
    from nbexport.nbd.link import Head, Link

CHUNKS_MAX = 1 << 20
"""Chunks of one reply: a read of 32 MiB in pieces of 32 bytes."""


class Ask:
    """A request whose reply is a success or an error only.

    Args:
        command: what is asked for.
        offset: first byte.
        length: how many bytes.
        flags: of the request.
        payload: what follows the header.
    """

    def __init__(
        self,
        command: int,
        offset: int,
        length: int,
        flags: int = 0,
        payload: memoryview | None = None,
    ) -> None:
        self.command = command
        self.offset = offset
        self.length = length
        self.flags = flags
        self.payload = payload
        self.chunks = 0

    @property
    def doing(self) -> str:
        """What error texts call it."""
        return f"{wire.command_name(self.command)} at offset {self.offset}"

    def take(self, head: Head, link: Link) -> None:
        """Take the payload of a chunk that is no error.

        Raises:
            PeerError: it does not belong into this reply.
        """
        if head.kind != wire.CHUNK_NONE or head.length:
            raise self.misplaced(head, link)

    def misplaced(self, head: Head, link: Link) -> PeerError:
        """Return the error that a chunk of this type has no place in the reply."""
        name = wire.command_name(self.command)
        return link.fail(f"chunk of type {head.kind} in the reply to a {name}")

    def finish(self, link: Link) -> None:
        """Take the end of a reply that told no error.

        Raises:
            PeerError: something is missing.
        """


class Reading(Ask):
    """A read whose bytes are handed on as they come, in any order.

    Args:
        offset: first byte.
        length: how many bytes.
        data: takes an offset and its bytes, which are of use until it returns.
        hole: takes an offset and a length that read as zeroes.
    """

    def __init__(
        self,
        offset: int,
        length: int,
        data: Callable[[int, memoryview], None],
        hole: Callable[[int, int], None],
    ) -> None:
        super().__init__(wire.CMD_READ, offset, length)
        self._data = data
        self._hole = hole
        self._pieces: list[tuple[int, int]] = []

    def take(self, head: Head, link: Link) -> None:
        """Take a chunk of data or a hole; a simple reply has all the data behind it."""
        if head.error is not None:
            if link.structured:
                raise link.fail(f"{self.doing}: a simple reply after structured ones were agreed")
            self._pieces.append((self.offset, self.offset + self.length))
            self.bytes_come(self.offset, self.length, link)
        elif head.kind == wire.CHUNK_OFFSET_HOLE and head.length == wire.HOLE.size:
            at, length = wire.HOLE.unpack(link.receive_view(wire.HOLE.size))
            self._place(at, length, link)
            self._hole(at, length)
        elif head.kind == wire.CHUNK_OFFSET_DATA and head.length > wire.OFFSET.size:
            (at,) = wire.OFFSET.unpack(link.receive_view(wire.OFFSET.size))
            length = head.length - wire.OFFSET.size
            self._place(at, length, link)
            self.bytes_come(at, length, link)
        elif head.kind != wire.CHUNK_NONE or head.length:
            raise self.misplaced(head, link)

    def bytes_come(self, at: int, length: int, link: Link) -> None:
        """Take the bytes themselves."""
        self._data(at, link.receive_view(length))

    def _place(self, at: int, length: int, link: Link) -> None:
        end = self.offset + self.length
        if not length or at < self.offset or at + length > end:
            raise link.fail(f"chunk outside the range that was read: offset {at}")
        self._pieces.append((at, at + length))

    def finish(self, link: Link) -> None:
        """Compare what has come with what was asked for: each byte once.

        A piece that came twice must not stand for one that did not come.
        """
        reached = self.offset
        for start, end in sorted(self._pieces):
            if start != reached:
                raise link.fail(f"{self.doing}: chunks overlap or leave a gap")
            reached = end
        if reached != self.offset + self.length:
            raise link.fail(f"{self.doing}: the reply ends at offset {reached}")


class ReadingInto(Reading):
    """A read into a buffer, without a copy in between.

    Args:
        offset: first byte.
        buffer: what is filled.
    """

    def __init__(self, offset: int, buffer: memoryview) -> None:
        super().__init__(offset, len(buffer), lambda _at, _data: None, self._clear)
        self._buffer = buffer

    def bytes_come(self, at: int, length: int, link: Link) -> None:
        """Take the bytes to their place."""
        begin = at - self.offset
        link.receive_into(self._buffer[begin : begin + length])

    def _clear(self, at: int, length: int) -> None:
        begin = at - self.offset
        self._buffer[begin : begin + length] = bytes(length)


class Pipeline:
    """Requests of one connection.

    Args:
        link: in the transmission phase.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._cookie = 0
        self._flying: dict[int, Ask] = {}

    @property
    def is_idle(self) -> bool:
        """Whether every request has its whole reply."""
        return not self._flying

    def run(self, following: Callable[[], Ask | None], depth: int) -> None:
        """Send requests ahead and take their replies, until there is nothing more to ask.

        After an error reply nothing more is asked, but what is in flight is awaited, so that the
        connection stays of use.

        Args:
            following: gives the next request; None if there is none now, which may change with
                each reply.
            depth: how many may be in flight.

        Raises:
            PeerError: the server refused a request, or broke the protocol.
            Whatever ``following`` and the requests raise; the connection is of no use then.
        """
        failure: PeerError | None = None
        link, flying = self._link, self._flying
        while True:
            # Half the requests at a time: they leave together, and the server is never idle.
            if failure is None and len(flying) <= depth // 2:
                self._send_ahead(following, depth)
            if not flying:
                if failure is not None:
                    raise failure
                return
            head = link.head()
            ask = flying.get(head.cookie)
            if ask is None:
                raise link.fail(f"{next(iter(flying.values())).doing}: a reply to no request")
            ask.chunks += 1
            if ask.chunks > CHUNKS_MAX:
                raise link.fail(f"{ask.doing}: endless reply")
            if head.kind & wire.CHUNK_FLAG_ERROR:
                told = link.error(head, ask.doing)
                failure = failure or told
            else:
                ask.take(head, link)
            if head.done:
                del flying[head.cookie]
                link.progress()
                if failure is None:
                    ask.finish(link)

    def run_all(self, asks: Iterator[Ask], depth: int) -> None:
        """Do as `run` with the requests of an iterator."""
        self.run(lambda: next(asks, None), depth)

    def _send_ahead(self, following: Callable[[], Ask | None], depth: int) -> None:
        headers: list[bytes] = []
        link = self._link
        if not self._flying:
            link.progress()
        while len(self._flying) < depth and (ask := following()) is not None:
            self._cookie += 1
            self._flying[self._cookie] = ask
            length, flags = ask.length, ask.flags
            if ask.payload is not None and link.extended:
                length, flags = len(ask.payload), flags | wire.CMD_FLAG_PAYLOAD_LEN
            headers.append(link.pack_request(ask.command, self._cookie, ask.offset, length, flags))
            if ask.payload is not None:
                link.send(b"".join(headers))
                headers.clear()
                link.send(ask.payload)
        if headers:
            link.send(b"".join(headers))
