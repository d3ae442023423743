"""A small blocking client that asks ahead: for notebooks, the command line and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from nbexport.bits import Extents
from nbexport.errors import PeerError, UsageError
from nbexport.nbd import handshake, wire
from nbexport.nbd.collect import Asking, Collector, decode
from nbexport.nbd.handshake import DEFAULT_TIMEOUT_S, Agreed, ExportInfo
from nbexport.nbd.link import Link
from nbexport.nbd.pipeline import Ask, Pipeline, Reading, ReadingInto
from nbexport.nbd.uri import NbdUri
from nbexport.units import MiB, align_down, align_up

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Sequence

GOODBYE_SECONDS = 2.0
"""How long closing waits for the server to close as well."""
READ_MAX = wire.PAYLOAD_MAX
PIECE_SIZE = 4 * MiB
"""Bytes of one request where more are read or written."""
_LENGTH_MAX = (1 << 32) - 1
"""Longest range of a request without extended headers."""
_LONG_MAX = (1 << 63) - 1
_STATUS_ALIGNMENT = 4096
"""A map asks for whole pages: the very longest request is the end of an nbdkit before 1.38.6
(CVE-2025-47711)."""
_STATUS_REPLIES_MAX = 1 << 20
"""Replies that make one map: 64 GiB by a server that tells 64 KiB at a time."""
DATA_DEPTH = 8
"""Reads or writes in flight: 32 MiB in pieces of the usual size."""
MAP_DEPTH = 64
"""Requests of a map in flight: the server works while its last answers are read."""


class Client:
    """A connection to one export, made by `connect`.

    After an exception in the middle of an answer, the server's or a caller's function's, nothing
    more can be asked; after an error that the server tells, the next request may be fine.

    Attributes:
        info: all that the server tells of the export.
        export_size: length in bytes.
        transmission_flags: what the export can do.
        block_size: request sizes, None if the server does not tell.
        description: shown beside the export's name.
        server_contexts: every metadata context that the server offers for it.
        contexts: the selected ones and their ids, in the order of the server's answer.
        structured: whether replies may come in chunks.
        extended: whether requests and replies have extended headers, with 64-bit lengths.
    """

    def __init__(
        self, link: Link, info: ExportInfo, contexts: dict[str, int], agreed: Agreed
    ) -> None:
        self._link = link
        self._pipeline = Pipeline(link)
        self._open = True
        self.info = info
        self.export_size = info.size
        self.transmission_flags = info.flags
        self.block_size = info.block_size
        self.description = info.description
        self.server_contexts = info.contexts
        self.contexts = contexts
        self.structured, self.extended = agreed

    @classmethod
    def connect(
        cls,
        uri: str | NbdUri,
        *,
        contexts: Sequence[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        extended: bool = True,
    ) -> Self:
        """Connect and choose the export that the URI names.

        Args:
            uri: where it is.
            contexts: the metadata contexts to select, those that the server lacks are left out;
                None selects all that it offers.
            timeout: how long the server may stay silent, in seconds.
            extended: whether to use extended headers where the server has them.

        Raises:
            UsageError: the URI is not one.
            PeerError: nobody answers, the export does not exist, or the server breaks the
                protocol.
        """
        link = Link(uri if isinstance(uri, NbdUri) else NbdUri.parse(uri), timeout)
        try:
            agreed = handshake.greet(link, extended=extended)
            name = link.uri.export.encode("utf-8", "surrogateescape")
            offered: list[str] = []
            selected: dict[str, int] = {}
            if agreed.structured:
                offered = [context for context, _ in handshake.list_contexts(link, name)]
                wanted = offered if contexts is None else list(contexts)
                selected = handshake.select_contexts(link, name, wanted)
            info = handshake.ask_info(link, wire.OPT_GO, name, offered)
            client = cls(link, info, selected, agreed)
        except BaseException:
            link.close()
            raise
        return client

    def close(self) -> None:
        """Say goodbye and close the connection; closing twice is harmless."""
        if self._open:
            self._open = False
            try:
                self._link.send(self._link.pack_request(wire.CMD_DISC, 0, 0, 0, 0))
                # Once the server has closed its side, it no longer counts this client.
                self._link.wait_for_end(GOODBYE_SECONDS)
            except PeerError:
                pass  # it has gone already
            finally:
                self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def detach(self) -> socket.socket:
        """Return the connection, for who speaks the transmission phase by itself.

        The client is of no use afterwards; whoever took the socket closes it.
        """
        self._open = False
        return self._link.detach()

    # Data

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the disk.

        Raises:
            UsageError: the range is not inside the disk.
            PeerError: the server could not read them, or broke the protocol.
        """
        self._check_range(offset, length)
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from an offset, asking ahead; raises what `read` raises."""
        self._check_range(offset, len(buffer))
        step = self._piece_size()
        pieces = range(0, len(buffer), step)
        self._run(
            (ReadingInto(offset + done, buffer[done : done + step]) for done in pieces), DATA_DEPTH
        )

    def read_ranges(
        self,
        ranges: Iterable[tuple[int, int]],
        data: Callable[[int, memoryview], None],
        hole: Callable[[int, int], None],
        finished: Callable[[int], None] = lambda _length: None,
    ) -> None:
        """Read many ranges, several at a time; what comes is handed on at once, in any order.

        Args:
            ranges: offsets and lengths, each at most 32 MiB.
            data: takes an offset and its bytes, which are of use until it returns.
            hole: takes an offset and a length that read as zeroes.
            finished: told the length of each range that is complete.

        Raises:
            UsageError: a range is not inside the disk.
            PeerError: the server could not read, or broke the protocol.
        """

        class Counted(Reading):
            def finish(self, link: Link) -> None:
                super().finish(link)
                finished(self.length)

        def asks() -> Iterator[Reading]:
            for offset, length in ranges:
                self._check_range(offset, length)
                yield Counted(offset, length, data, hole)

        self._run(asks(), DATA_DEPTH)

    def write(self, offset: int, data: bytes | memoryview, *, fua: bool = False) -> None:
        """Write bytes, several requests at a time where they are many.

        Args:
            offset: where the first goes.
            data: the bytes.
            fua: whether they must be on stable storage before this returns.

        Raises:
            UsageError: the range is not inside the disk, or the export cannot do it.
            PeerError: the server could not, or broke the protocol.
        """
        view = memoryview(data).cast("B")
        self._check_range(offset, len(view))
        self._need(wire.SEND_FUA if fua else 0, "write with FUA")
        flags = wire.CMD_FLAG_FUA if fua else 0
        parts = (
            (offset + done, view[done : done + self._piece_size()])
            for done in range(0, len(view), self._piece_size())
        )
        self._run(
            (Ask(wire.CMD_WRITE, at, len(part), flags, part) for at, part in parts), DATA_DEPTH
        )

    def write_zeroes(
        self, offset: int, length: int, *, may_trim: bool = True, fast: bool = False
    ) -> None:
        """Make a range read as zeroes.

        Args:
            offset: first byte.
            length: how many.
            may_trim: whether storage may be given back.
            fast: whether to fail where that is no faster than writing.

        Raises:
            What `write` raises.
        """
        self._check_range(offset, length)
        self._need(wire.SEND_WRITE_ZEROES, "write zeroes")
        self._need(wire.SEND_FAST_ZERO if fast else 0, "write zeroes fast")
        flags = 0 if may_trim else wire.CMD_FLAG_NO_HOLE
        flags |= wire.CMD_FLAG_FAST_ZERO if fast else 0
        self._on_range(wire.CMD_WRITE_ZEROES, offset, length, flags)

    def trim(self, offset: int, length: int) -> None:
        """Tell that the data of a range are no longer needed; raises what `write` raises."""
        self._check_range(offset, length)
        self._need(wire.SEND_TRIM, "trim")
        self._on_range(wire.CMD_TRIM, offset, length)

    def flush(self) -> None:
        """Wait until all that was written is on stable storage; raises what `write` raises."""
        self._need(wire.SEND_FLUSH, "flush", writing=False)
        self._run(iter([Ask(wire.CMD_FLUSH, 0, 0)]), 1)

    def cache(self, offset: int, length: int) -> None:
        """Tell that a range will be read soon; raises what `write` raises."""
        self._check_range(offset, length)
        self._need(wire.SEND_CACHE, "cache", writing=False)
        self._on_range(wire.CMD_CACHE, offset, length)

    # Maps

    def block_status(
        self,
        offset: int,
        length: int,
        *,
        req_one: bool = False,
        only: Sequence[str] | None = None,
    ) -> dict[str, Extents]:
        """Return the extents of each selected context from an offset on.

        Each map begins at the offset; it may end before or behind the range that was asked for.

        Args:
            offset: first byte.
            length: at most 2**32 - 1 bytes without extended headers.
            req_one: ask for the first extent only.
            only: ask for these of the selected contexts only, which the server must be able to do.

        Raises:
            UsageError: the range is empty or not inside the disk, no context was selected, or the
                server cannot tell some of the selected ones only.
            PeerError: the server refused, or broke the protocol.
        """
        self._check_range(offset, length)
        contexts = self._some_contexts(only)
        longest = self._longest()
        if not 0 < length <= longest:
            raise UsageError(f"block status of {length} bytes: 1 to {longest} can be asked for")
        flags, payload = wire.CMD_FLAG_REQ_ONE if req_one else 0, None
        asking = Asking(offset, length, contexts, flags=flags)
        if only is not None:
            ids = b"".join(wire.CONTEXT_ID.pack(number) for number in contexts.values())
            payload = memoryview(wire.UINT64.pack(length) + ids)
            asking = Asking(offset, length, contexts, flags=flags, payload=payload)
        self._run(iter([asking]), 1)
        found = {}
        for name, number in contexts.items():
            told = decode([asking], number, self._link)
            extents = Extents.from_lengths(told.lengths, told.flags, offset)
            found[name] = extents.clip(offset, min(extents.end, self.export_size))
        return found

    def map(self, start: int = 0, end: int | None = None) -> dict[str, Extents]:
        """Return the extents of each selected context over a range, the whole disk by default.

        Raises:
            UsageError: the range is not inside the disk, or no context was selected.
            PeerError: the server refused, or broke the protocol.
        """
        stop = self.export_size if end is None else end
        self._check_range(start, stop - start)
        contexts = self._some_contexts(None)
        minimum = max(self.block_size.minimum if self.block_size else 1, _STATUS_ALIGNMENT)
        step = align_down(_LENGTH_MAX, minimum)
        if self.extended:
            # As few as keep the server busy.
            step = max(step, align_up(-(-(stop - start) // MAP_DEPTH), minimum))
        collector = Collector(contexts, start, self._link)
        ranges = [(at, min(step, stop - at)) for at in range(start, stop, step)]
        replies = 0
        while ranges:
            asked = [Asking(offset, length, contexts) for offset, length in ranges]
            replies += len(asked)
            if replies > _STATUS_REPLIES_MAX:
                raise self._link.fail(f"block status: endless replies for {stop - start} bytes")
            self._run(iter(asked), MAP_DEPTH)
            ranges = collector.keep(asked)
        return collector.maps()

    # What all have in common

    def _some_contexts(self, only: Sequence[str] | None) -> dict[str, int]:
        if not self.contexts:
            raise UsageError(f"{self._link.uri}: no metadata context was selected")
        if only is None:
            return self.contexts
        if not self.transmission_flags & wire.BLOCK_STATUS_PAYLOAD:
            raise UsageError(f"{self._link.uri}: the server cannot tell some contexts only")
        for name in only:
            if name not in self.contexts:
                raise UsageError(f"{self._link.uri}: metadata context '{name}' was not selected")
        if not only:
            raise UsageError("block status of no metadata context")
        return {name: number for name, number in self.contexts.items() if name in only}

    def _piece_size(self) -> int:
        if self.block_size is None:
            return PIECE_SIZE
        # The smallest piece is what the server itself takes for its smallest.
        minimum = self.block_size.minimum
        return max(align_down(min(PIECE_SIZE, self.block_size.maximum), minimum), minimum)

    def _longest(self) -> int:
        return _LONG_MAX if self.extended else _LENGTH_MAX

    def _need(self, flag: int, what: str, *, writing: bool = True) -> None:
        if writing and self.transmission_flags & wire.READ_ONLY:
            raise UsageError(f"{self._link.uri}: the export is read-only")
        if flag & ~self.transmission_flags:
            raise UsageError(f"{self._link.uri}: the server cannot {what}")

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.export_size:
            raise UsageError(
                f"{self._link.uri}: range outside the disk: offset {offset}, length {length}, "
                f"size {self.export_size}"
            )

    def _check_open(self) -> None:
        if not self._pipeline.is_idle:
            raise UsageError(f"{self._link.uri}: the connection broke off in the middle of a reply")

    def _on_range(self, command: int, offset: int, length: int, flags: int = 0) -> None:
        """Do something with a range, in several requests if one cannot say its length."""
        step = align_down(self._longest(), wire.BLOCK_PREFERRED)
        asks = (
            Ask(command, offset + done, min(step, length - done), flags)
            for done in range(0, max(length, 1), step)
        )
        self._run(asks, DATA_DEPTH)

    def _run(self, asks: Iterator[Ask], depth: int) -> None:
        self._check_open()
        self._pipeline.run_all(asks, depth)
