"""A small blocking client: for notebooks, the command line and tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from nbexport.bits import Extents
from nbexport.errors import PeerError, ProtocolError, UsageError
from nbexport.nbd import wire
from nbexport.nbd.collect import Answer, Collector
from nbexport.nbd.link import Chunk, Link
from nbexport.nbd.uri import NbdUri
from nbexport.units import align_down, is_power_of_two

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Sequence

DEFAULT_TIMEOUT_S = 30.0
GOODBYE_SECONDS = 2.0
"""How long closing waits for the server to close as well."""
READ_MAX = wire.PAYLOAD_MAX
_STATUS_MAX = (1 << 32) - 1
_STATUS_ALIGNMENT = 4096
"""A map asks for whole pages: the very longest request is the end of an nbdkit before 1.38.6
(CVE-2025-47711)."""
_CHUNKS_MAX = 1 << 20
"""Chunks of one reply: a read of 32 MiB in pieces of 32 bytes."""
_STATUS_CHUNKS_MAX = 1 << 22
"""Block-status chunks that make one map: 64 GiB by a server that tells 64 KiB in 4 contexts."""
READ_DEPTH = 8
"""Reads in flight where many are wanted."""
MAP_DEPTH = 8
"""Requests of a map in flight: the server works while its last answers are read."""
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
    """

    name: str
    size: int
    flags: int
    description: str | None
    block_size: BlockSize | None
    contexts: list[str]


@dataclass
class _Reading:
    """A read that is under way: its range, and the pieces of it that have come."""

    offset: int
    length: int
    pieces: list[tuple[int, int]] = field(default_factory=list)

    def missing(self) -> bool:
        """Return whether the pieces are anything but the whole, each byte once."""
        reached = self.offset
        for start, end in sorted(self.pieces):
            if start != reached:
                return True
            reached = end
        return reached != self.offset + self.length


class Client:
    """A connection to one export, made by `connect`.

    Attributes:
        info: all that the server tells of the export.
        export_size: length in bytes.
        transmission_flags: what the export can do.
        block_size: request sizes, None if the server does not tell.
        description: shown beside the export's name.
        server_contexts: every metadata context that the server offers for it.
        contexts: the selected ones and their ids, in the order of the server's answer.
        structured: whether structured replies were agreed.
    """

    def __init__(self, link: Link, info: ExportInfo, contexts: dict[str, int]) -> None:
        self._link = link
        self._cookie = 0
        self._open = True
        self.info = info
        self.export_size = info.size
        self.transmission_flags = info.flags
        self.block_size = info.block_size
        self.description = info.description
        self.server_contexts = info.contexts
        self.contexts = contexts
        self.structured = bool(info.flags & wire.SEND_DF)

    @classmethod
    def connect(
        cls,
        uri: str | NbdUri,
        *,
        contexts: Sequence[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Self:
        """Connect and choose the export that the URI names.

        Args:
            uri: where it is.
            contexts: the metadata contexts to select, those that the server lacks are left out;
                None selects all that it offers.
            timeout: how long the server may stay silent, in seconds.

        Raises:
            UsageError: the URI is not one.
            PeerError: nobody answers, the export does not exist, or the server breaks the
                protocol.
        """
        link = Link(uri if isinstance(uri, NbdUri) else NbdUri.parse(uri), timeout)
        try:
            structured = _greet(link)
            name = link.uri.export.encode("utf-8", "surrogateescape")
            offered: list[str] = []
            selected: dict[str, int] = {}
            if structured:
                offered = [context for context, _ in _list_contexts(link, name)]
                wanted = offered if contexts is None else list(contexts)
                selected = _select_contexts(link, name, wanted)
            info = _ask_info(link, wire.OPT_GO, name, offered)
            client = cls(link, info, selected)
            client.structured = structured
        except BaseException:
            link.close()
            raise
        return client

    def close(self) -> None:
        """Say goodbye and close the connection; closing twice is harmless."""
        if self._open:
            self._open = False
            try:
                self._link.send(wire.pack_request(wire.CMD_DISC, 0))
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
        """Fill a buffer from an offset, in requests of 32 MiB; raises what `read` raises."""
        self._check_range(offset, len(buffer))
        limit = min(READ_MAX, self.block_size.maximum if self.block_size else READ_MAX)
        for done in range(0, len(buffer), limit):
            self._read_once(offset + done, buffer[done : done + limit])

    def _read_once(self, offset: int, buffer: memoryview) -> None:
        cookie = self._send(wire.CMD_READ, offset, len(buffer))
        if not self.structured:
            error = self._link.simple_reply(cookie)
            if error:
                name = wire.ERROR_NAMES.get(error, str(error))
                raise self._link.fail(f"read at offset {offset}: failed ({name})")
            self._link.receive_into(buffer)
            return
        pieces = [
            self._place(chunk, offset, buffer)
            for chunk in self._chunks(cookie, f"read at offset {offset}")
        ]
        # Each byte once: a piece that came twice must not stand for one that did not come.
        reached = offset
        for start, end in sorted(pieces):
            if start != reached:
                raise self._link.fail(f"read at offset {offset}: chunks overlap or leave a gap")
            reached = end
        if reached != offset + len(buffer):
            raise self._link.fail(f"read at offset {offset}: the reply ends at offset {reached}")

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
            data: takes an offset and its bytes.
            hole: takes an offset and a length that read as zeroes.
            finished: told the length of each range that is complete.

        Raises:
            UsageError: a range is not inside the disk.
            PeerError: the server could not read, or broke the protocol.
        """
        if not self.structured:
            for offset, length in ranges:
                data(offset, memoryview(self.read(offset, length)))
                finished(length)
            return
        waiting = iter(ranges)
        flying: dict[int, _Reading] = {}
        failure: PeerError | None = None
        more = True
        while True:
            while more and failure is None and len(flying) < READ_DEPTH:
                following = next(waiting, None)
                if following is None:
                    more = False
                    break
                offset, length = following
                self._check_range(offset, length)
                flying[self._send(wire.CMD_READ, offset, length)] = _Reading(offset, length)
            if not flying:
                if failure is not None:
                    raise failure
                return
            chunk = self._link.chunk()
            reading = flying.get(chunk.cookie)
            if reading is None:
                raise self._link.fail("read: a reply to no request of ours")
            if chunk.kind & wire.CHUNK_FLAG_ERROR:
                doing = f"read at offset {reading.offset}"
                failure = failure or self._link.error_of(chunk, doing)
            else:
                self._hand_on(chunk, reading, data, hole)
            if chunk.done:
                del flying[chunk.cookie]
                if failure is None:
                    if reading.missing():
                        text = f"read at offset {reading.offset}: chunks overlap or leave a gap"
                        raise self._link.fail(text)
                    finished(reading.length)

    def _hand_on(
        self,
        chunk: Chunk,
        reading: _Reading,
        data: Callable[[int, memoryview], None],
        hole: Callable[[int, int], None],
    ) -> None:
        if chunk.kind == wire.CHUNK_NONE and not chunk.payload:
            return
        if chunk.kind == wire.CHUNK_OFFSET_HOLE and len(chunk.payload) == wire.HOLE.size:
            at, length = wire.HOLE.unpack(chunk.payload)
        elif chunk.kind == wire.CHUNK_OFFSET_DATA and len(chunk.payload) > wire.OFFSET.size:
            (at,) = wire.OFFSET.unpack_from(chunk.payload)
            length = len(chunk.payload) - wire.OFFSET.size
        else:
            raise self._link.fail(f"chunk of type {chunk.kind} in the reply to a read")
        end = reading.offset + reading.length
        if not length or at < reading.offset or at + length > end:
            raise self._link.fail(f"chunk outside the range that was read: offset {at}")
        reading.pieces.append((at, at + length))
        if chunk.kind == wire.CHUNK_OFFSET_HOLE:
            hole(at, length)
        else:
            data(at, memoryview(chunk.payload)[wire.OFFSET.size :])

    def _place(self, chunk: Chunk, offset: int, buffer: memoryview) -> tuple[int, int]:
        """Put a chunk's bytes where they belong; return the range that they fill."""
        if chunk.kind == wire.CHUNK_NONE and not chunk.payload:
            return offset, offset
        if chunk.kind == wire.CHUNK_OFFSET_HOLE and len(chunk.payload) == wire.HOLE.size:
            at, length = wire.HOLE.unpack(chunk.payload)
            data = None
        elif chunk.kind == wire.CHUNK_OFFSET_DATA and len(chunk.payload) > wire.OFFSET.size:
            (at,) = wire.OFFSET.unpack_from(chunk.payload)
            data = memoryview(chunk.payload)[wire.OFFSET.size :]
            length = len(data)
        else:
            raise self._link.fail(f"chunk of type {chunk.kind} in the reply to a read")
        if not length or at < offset or at + length > offset + len(buffer):
            raise self._link.fail(f"chunk outside the range that was read: offset {at}")
        buffer[at - offset : at - offset + length] = bytes(length) if data is None else data
        return at, at + length

    def write(self, offset: int, data: bytes | memoryview, *, fua: bool = False) -> None:
        """Write bytes, in requests of 32 MiB.

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
        limit = min(READ_MAX, self.block_size.maximum if self.block_size else READ_MAX)
        for done in range(0, len(view), limit):
            part = view[done : done + limit]
            flags = wire.CMD_FLAG_FUA if fua else 0
            self._do(wire.CMD_WRITE, offset + done, len(part), flags, part)

    def write_zeroes(
        self, offset: int, length: int, *, may_trim: bool = True, fast: bool = False
    ) -> None:
        """Make a range read as zeroes, at most 2**32 - 1 bytes.

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
        self._do(
            wire.CMD_WRITE_ZEROES, offset, length, flags | (wire.CMD_FLAG_FAST_ZERO if fast else 0)
        )

    def trim(self, offset: int, length: int) -> None:
        """Tell that the data of a range are no longer needed; raises what `write` raises."""
        self._check_range(offset, length)
        self._need(wire.SEND_TRIM, "trim")
        self._do(wire.CMD_TRIM, offset, length)

    def flush(self) -> None:
        """Wait until all that was written is on stable storage; raises what `write` raises."""
        self._need(wire.SEND_FLUSH, "flush", writing=False)
        self._do(wire.CMD_FLUSH, 0, 0)

    def cache(self, offset: int, length: int) -> None:
        """Tell that a range will be read soon; raises what `write` raises."""
        self._check_range(offset, length)
        self._need(wire.SEND_CACHE, "cache", writing=False)
        self._do(wire.CMD_CACHE, offset, length)

    def _need(self, flag: int, what: str, *, writing: bool = True) -> None:
        if writing and self.transmission_flags & wire.READ_ONLY:
            raise UsageError(f"{self._link.uri}: the export is read-only")
        if flag & ~self.transmission_flags:
            raise UsageError(f"{self._link.uri}: the server cannot {what}")

    def _do(
        self,
        command: int,
        offset: int,
        length: int,
        flags: int = 0,
        data: memoryview | None = None,
    ) -> None:
        """Send a request whose reply is a success or an error only."""
        if length > _STATUS_MAX:
            raise UsageError(f"{wire.command_name(command)} of {length} bytes: too long")
        cookie = self._send(command, offset, length, flags)
        if data is not None:
            self._link.send(data)
        doing = f"{wire.command_name(command)} at offset {offset}"
        if not self.structured:
            error = self._link.simple_reply(cookie)
            if error:
                name = wire.ERROR_NAMES.get(error, str(error))
                raise self._link.fail(f"{doing}: failed ({name})")
            return
        for chunk in self._chunks(cookie, doing):
            if chunk.kind != wire.CHUNK_NONE or chunk.payload:
                raise self._link.fail(f"chunk of type {chunk.kind} in the reply to {doing}")

    def block_status(
        self, offset: int, length: int, *, req_one: bool = False
    ) -> dict[str, Extents]:
        """Return the extents of each selected context from an offset on.

        Each map begins at the offset; it may end before or behind the range that was asked for.

        Args:
            offset: first byte.
            length: at most 2**32 - 1 bytes.
            req_one: ask for the first extent only.

        Raises:
            UsageError: the range is empty or not inside the disk, or no context was selected.
            PeerError: the server refused, or broke the protocol.
        """
        self._check_range(offset, length)
        if not self.contexts:
            raise UsageError(f"{self._link.uri}: no metadata context was selected")
        if not 0 < length <= _STATUS_MAX:
            raise UsageError(f"block status of {length} bytes: 1 to {_STATUS_MAX} can be asked for")
        flags = wire.CMD_FLAG_REQ_ONE if req_one else 0
        cookie = self._send(wire.CMD_BLOCK_STATUS, offset, length, flags)
        names = {number: name for name, number in self.contexts.items()}
        found: dict[str, Extents] = {}
        for chunk in self._chunks(cookie, f"block status at offset {offset}"):
            size = wire.CONTEXT_ID.size
            if chunk.kind != wire.CHUNK_BLOCK_STATUS or len(chunk.payload) < size:
                raise self._link.fail(f"chunk of type {chunk.kind} in the reply to a block status")
            (number,) = wire.CONTEXT_ID.unpack_from(chunk.payload)
            if number not in names or names[number] in found:
                raise self._link.fail(f"extents of context {number}, which was not asked for")
            try:
                extents = Extents.from_wire(memoryview(chunk.payload)[size:], offset)
            except (ProtocolError, UsageError) as error:
                raise self._link.fail(str(error)) from error
            found[names[number]] = extents.clip(offset, min(extents.end, self.export_size))
        for name in self.contexts:
            if name not in found:
                raise self._link.fail(f"no extents of context '{name}' at offset {offset}")
        return {name: found[name] for name in self.contexts}

    def map(self, start: int = 0, end: int | None = None) -> dict[str, Extents]:
        """Return the extents of each selected context over a range, the whole disk by default.

        Raises:
            UsageError: the range is not inside the disk, or no context was selected.
            PeerError: the server refused, or broke the protocol.
        """
        stop = self.export_size if end is None else end
        self._check_range(start, stop - start)
        if not self.contexts:
            raise UsageError(f"{self._link.uri}: no metadata context was selected")
        minimum = self.block_size.minimum if self.block_size else 1
        step = align_down(_STATUS_MAX, max(minimum, _STATUS_ALIGNMENT))
        collector = Collector(self.contexts, start)
        # What is still to be asked; the next range last.
        ranges = [(at, min(step, stop - at)) for at in range(start, stop, step)][::-1]
        flying: dict[int, Answer] = {}
        failure: PeerError | None = None
        for _ in range(_STATUS_CHUNKS_MAX):
            while ranges and failure is None and len(flying) < MAP_DEPTH:
                offset, length = ranges.pop()
                cookie = self._send(wire.CMD_BLOCK_STATUS, offset, length)
                flying[cookie] = Answer(offset, length)
            if not flying:
                # What was asked is answered, so the connection stays of use after a failure.
                if failure is not None:
                    raise failure
                return collector.maps()
            chunk = self._link.chunk()
            answer = flying.get(chunk.cookie)
            if answer is None:
                raise self._link.fail("block status: a reply to no request of ours")
            doing = f"block status at offset {answer.offset}"
            try:
                if chunk.kind & wire.CHUNK_FLAG_ERROR:
                    failure = failure or self._link.error_of(chunk, doing)
                elif chunk.kind != wire.CHUNK_NONE or chunk.payload:
                    collector.take(answer, chunk)
                if chunk.done:
                    del flying[chunk.cookie]
                    if failure is not None:
                        continue
                    reached = collector.finish(answer)
                    if reached < answer.offset + answer.length:
                        ranges.append((reached, answer.offset + answer.length - reached))
            except ProtocolError as error:
                raise self._link.fail(str(error)) from error
        raise self._link.fail(f"block status: endless replies for {stop - start} bytes")

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.export_size:
            raise UsageError(
                f"{self._link.uri}: range outside the disk: offset {offset}, length {length}, "
                f"size {self.export_size}"
            )

    def _send(self, command: int, offset: int, length: int, flags: int = 0) -> int:
        self._cookie += 1
        self._link.send(wire.pack_request(command, self._cookie, offset, length, flags))
        return self._cookie

    def _chunks(self, cookie: int, doing: str) -> Iterator[Chunk]:
        """Yield the chunks of a reply that carry something; raise what an error chunk says."""
        failure: PeerError | None = None
        for _ in range(_CHUNKS_MAX):
            chunk = self._link.chunk()
            if chunk.cookie != cookie:
                raise self._link.fail(f"{doing}: a reply to no request of ours")
            if chunk.kind & wire.CHUNK_FLAG_ERROR:
                failure = failure or self._link.error_of(chunk, doing)
            elif failure is None:
                yield chunk
            if chunk.done:
                if failure is not None:
                    raise failure
                return
        raise self._link.fail(f"{doing}: endless reply")


def list_exports(uri: str | NbdUri, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[ExportInfo]:
    """Return what a server offers; the export that the URI may name does not matter.

    Raises:
        UsageError: the URI is not one.
        PeerError: nobody answers, the server does not list, or it breaks the protocol.
    """
    link = Link(uri if isinstance(uri, NbdUri) else NbdUri.parse(uri), timeout)
    try:
        structured = _greet(link)
        names = []
        for reply in link.option(wire.OPT_LIST):
            if reply.kind == wire.REP_SERVER:
                names.append(_take_string(link, reply.data)[0])
            elif reply.kind != wire.REP_ACK:
                raise link.fail(f"cannot list exports: {reply.message}")
        infos = []
        for name in names:
            contexts = [c for c, _ in _list_contexts(link, name)] if structured else []
            infos.append(_ask_info(link, wire.OPT_INFO, name, contexts))
        for _ in link.option(wire.OPT_ABORT):
            pass
    finally:
        link.close()
    return infos


def _greet(link: Link) -> bool:
    """Take the greeting, agree on structured replies if possible; return whether it was."""
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
    kinds = [reply.kind for reply in link.option(wire.OPT_STRUCTURED_REPLY)]
    return kinds[-1] == wire.REP_ACK


def _take_string(link: Link, data: bytes) -> tuple[bytes, bytes]:
    """Split off a string with its length before it."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 or length > len(data) - 4:
        raise link.fail("a string longer than the reply that holds it")
    return data[4 : 4 + length], data[4 + length :]


def _list_contexts(link: Link, name: bytes) -> list[tuple[str, int]]:
    """Return every context of an export, in the server's order; none if it cannot list."""
    data = wire.pack_string(name) + wire.UINT32.pack(0)
    return _context_replies(link, wire.OPT_LIST_META_CONTEXT, data)


def _select_contexts(link: Link, name: bytes, wanted: Sequence[str]) -> dict[str, int]:
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
            raise link.fail(reply.message)
    return found


def _ask_info(link: Link, option: int, name: bytes, contexts: list[str]) -> ExportInfo:
    """Send INFO or GO and collect what the server tells."""
    kinds = (wire.INFO_NAME, wire.INFO_DESCRIPTION, wire.INFO_BLOCK_SIZE)
    request = b"".join(wire.UINT16.pack(kind) for kind in kinds)
    data = wire.pack_string(name) + wire.UINT16.pack(len(kinds)) + request
    told: dict[int, bytes] = {}
    for reply in link.option(option, data):
        if reply.kind == wire.REP_INFO and len(reply.data) >= wire.UINT16.size:
            told[int.from_bytes(reply.data[:2], "big")] = reply.data
        elif reply.kind == wire.REP_ERR_UNSUP and option == wire.OPT_GO:
            return _choose_by_name(link, name, contexts)
        elif reply.kind != wire.REP_ACK:
            raise link.fail(reply.message)
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
