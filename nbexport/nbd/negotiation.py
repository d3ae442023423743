"""The server's side of the newstyle handshake, without I/O.

Bytes come in by `ServerNegotiation.receive_data`, answers go out by `data_to_send`; when `choice`
is set the handshake is over and `trailing_data` holds what the client sent behind it; when
`closed` is set the connection is to be closed. When `starting_tls` is set the caller sends what is
left, wraps the connection and calls `tls_started`.

An option is one entry of the table at the end of the class and one method. A method raises
OptionError to refuse the option and ProtocolError to end the connection.

Source: NBD protocol, "Newstyle negotiation"; texts and order are those of QEMU 7.2.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nbexport.errors import OptionError, ProtocolError
from nbexport.nbd import wire
from nbexport.nbd.contexts import MetaContext, select
from nbexport.nbd.optionbody import OptionBody, unexpected_length
from nbexport.nbd.profile import QEMU_7_2, Profile
from nbexport.units import KiB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nbexport.nbd.export import Export

OUTPUT_MAX = 256 * KiB
"""Answers that may wait to be sent before the next option is looked at: a client that asks for the
list a thousand times in one piece costs one list beyond this, not a thousand."""

_WITHOUT_DATA = frozenset(
    (wire.OPT_LIST, wire.OPT_STARTTLS, wire.OPT_STRUCTURED_REPLY, wire.OPT_EXTENDED_HEADERS)
)


class TlsMode(enum.StrEnum):
    """Whether a server speaks TLS: not at all, with who wants to, or with nobody else."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True)
class Choice:
    """What a client has chosen when the handshake is over.

    Attributes:
        export: the export.
        structured: whether structured replies were agreed.
        contexts: the metadata contexts that were selected for this export.
        extended: whether extended headers were agreed.
        alignment: the request alignment in bytes that the client was told because it asked.
    """

    export: Export
    structured: bool
    contexts: tuple[MetaContext, ...]
    extended: bool = False
    alignment: int = 1

    @property
    def chunked(self) -> bool:
        """Whether replies come in chunks."""
        return self.structured or self.extended


class ServerNegotiation:
    """The handshake of one connection.

    Args:
        exports: gives the exports by name, in the order in which they are listed.
        profile: whom to behave like.
        tls: whether the connection can, or must, be secured first.

    Attributes:
        choice: what the client chose, once it did.
        starting_tls: whether the client was told to begin with TLS.
        secure: whether it did.
        closed: whether the connection is to be closed, after what is left to send.
    """

    def __init__(
        self,
        exports: Callable[[], Mapping[str, Export]],
        *,
        profile: Profile = QEMU_7_2,
        tls: TlsMode = TlsMode.NONE,
    ) -> None:
        self.choice: Choice | None = None
        self.closed = False
        self.starting_tls = False
        self.secure = False
        self._profile = profile
        self._tls = tls
        self._exports = exports
        self._input = bytearray()
        self._output = bytearray(
            wire.GREETING.pack(
                wire.GREETING_MAGIC,
                wire.OPTION_MAGIC,
                wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES,
            )
        )
        self._flags: int | None = None
        self._option: tuple[int, int] | None = None  # number and length of the one being read
        self._to_drop = 0
        self._after_drop: OptionError | None = None
        self._closes_after_drop = False
        self._structured = False
        self._extended = False
        self._selected_for: Export | None = None
        self._selected: tuple[MetaContext, ...] = ()

    def data_to_send(self) -> bytes:
        """Return bytes to send to the client, once; more may follow until none are returned."""
        data = bytes(self._output)
        self._output.clear()
        if len(data) >= OUTPUT_MAX:
            self._proceed()
        return data

    def trailing_data(self) -> bytes:
        """Return what came behind the option that ended the handshake."""
        data = bytes(self._input)
        self._input.clear()
        return data

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self.closed:
            return
        self._input += data
        self._proceed()

    def _proceed(self) -> None:
        """Handle what has come, as far as there is room for the answers."""
        try:
            while self.choice is None and len(self._output) < OUTPUT_MAX and self._step():
                pass
        except ProtocolError:
            self.closed = True
        if self.closed:
            self._input.clear()

    def receive_eof(self) -> None:
        """Take the end of the client's data: whatever was begun is over."""
        self.closed = True

    def tls_started(self) -> None:
        """Note that the connection is secure: what was agreed before may be somebody else's."""
        self.starting_tls, self.secure = False, True
        self._structured = self._extended = False
        self._selected_for, self._selected = None, ()

    # One piece of input at a time

    def _step(self) -> bool:
        """Handle the next piece of input if it is complete; return whether there was one."""
        if self.closed or self.starting_tls:
            return False
        if self._to_drop:
            return self._drop()
        if self._flags is None:
            return self._read_flags()
        if self._option is None:
            return self._read_option()
        return self._read_body()

    def _take(self, length: int) -> bytes:
        data = bytes(self._input[:length])
        del self._input[:length]
        return data

    def _read_flags(self) -> bool:
        if len(self._input) < wire.CLIENT_FLAGS.size:
            return False
        (flags,) = wire.CLIENT_FLAGS.unpack(self._take(wire.CLIENT_FLAGS.size))
        if flags & ~(wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES):
            raise ProtocolError(f"unknown client flags {flags:#x}")
        self._flags = flags
        return True

    def _read_option(self) -> bool:
        if len(self._input) < wire.OPTION.size:
            return False
        magic, option, length = wire.OPTION.unpack(self._take(wire.OPTION.size))
        if magic != wire.OPTION_MAGIC:
            raise ProtocolError(f"bad option magic {magic:#x}")
        if length > wire.OPTION_LENGTH_MAX:
            raise ProtocolError(f"option {option} of {length} bytes")
        assert self._flags is not None
        if not self._flags & wire.FLAG_FIXED_NEWSTYLE and option != wire.OPT_EXPORT_NAME:
            raise ProtocolError(f"option {option} from a client that cannot negotiate")
        if option == wire.OPT_EXPORT_NAME and length > wire.STRING_MAX:
            raise ProtocolError(f"export name of {length} bytes")
        before_tls = self._tls is TlsMode.REQUIRED and not self.secure
        if before_tls and option == wire.OPT_EXPORT_NAME:
            raise ProtocolError("an export was chosen before TLS")
        # Abort ends the connection, so nobody waits for the data that it may announce.
        self._option = option, 0 if option == wire.OPT_ABORT else length
        if before_tls and option not in {wire.OPT_STARTTLS, wire.OPT_ABORT}:
            text = f"Option {option:#x} not permitted before TLS"
            self._begin_drop(length, OptionError(wire.REP_ERR_TLS_REQD, text))
        elif option not in self._ANSWERS or (
            option == wire.OPT_EXTENDED_HEADERS and not self._profile.extended
        ):
            # Nothing of its data matters, so nothing of it is kept.
            text = f"Unsupported option {option} ({wire.option_name(option)})"
            self._begin_drop(length, OptionError(wire.REP_ERR_UNSUP, text))
        elif length and option in _WITHOUT_DATA:
            self._begin_drop(length, unexpected_length(option))
            # Who cannot even begin TLS, and may do nothing else, is of no use.
            self._closes_after_drop = before_tls
        elif self._option[1] > wire.OPTION_BODY_MAX:
            text = f"option '{wire.option_name(option)}' is too long"
            self._begin_drop(length, OptionError(wire.REP_ERR_TOO_BIG, text))
        return True

    def _begin_drop(self, length: int, error: OptionError) -> None:
        self._to_drop, self._after_drop = length, error
        if not length:
            self._refuse(error)

    def _drop(self) -> bool:
        length = min(self._to_drop, len(self._input))
        del self._input[:length]
        self._to_drop -= length
        if self._to_drop:
            return False
        assert self._after_drop is not None
        self._refuse(self._after_drop)
        return True

    def _read_body(self) -> bool:
        assert self._option is not None
        option, length = self._option
        if len(self._input) < length:
            return False
        body = OptionBody(option, self._take(length))
        try:
            self._ANSWERS[option](self, body)
        except OptionError as error:
            self._refuse(error)
        self._option = None
        return True

    def _refuse(self, error: OptionError) -> None:
        self._reply(error.reply, error.message.encode("utf-8", "backslashreplace"))
        self._option = None
        self._after_drop = None
        self.closed = self._closes_after_drop

    def _reply(self, kind: int, data: bytes = b"") -> None:
        assert self._option is not None
        self._output += wire.pack_option_reply(self._option[0], kind, data)

    # The options

    def _find(self, name: bytes) -> Export:
        """Return an export by the name that a client sent; raises OptionError."""
        text = name.decode("utf-8", "surrogateescape")
        export = self._exports().get(text)
        if export is None:
            # The text is UTF-8 whatever the name was, and wherever it was cut.
            shown = name[: wire.ECHO_MAX].decode("utf-8", "replace")
            if len(name) >= wire.ECHO_MAX:
                shown += "..."
            raise OptionError(wire.REP_ERR_UNKNOWN, f"export '{shown}' not present")
        return export

    def _selected_of(self, export: Export) -> tuple[MetaContext, ...]:
        return self._selected if self._selected_for is export else ()

    def _finish(self, export: Export, alignment: int = 1) -> None:
        contexts = self._selected_of(export)
        self.choice = Choice(export, self._structured, contexts, self._extended, alignment)

    def _flags_of(self, export: Export, *, going: bool) -> int:
        """Return the transmission flags as they are with what was agreed so far."""
        payload = self._extended and (not going or bool(self._selected_of(export)))
        flags = export.flags(structured=self._structured or self._extended, payload=payload)
        return flags & ~self._profile.unknown_flags

    def _export_name(self, body: OptionBody) -> None:
        assert self._option is not None
        if self._extended:
            raise ProtocolError("an export was chosen by name after extended headers")
        try:
            export = self._find(body.take(self._option[1]))
        except OptionError as error:
            # This option has no way to answer.
            raise ProtocolError(error.message) from error
        flags = self._flags_of(export, going=True)
        self._output += wire.EXPORT_NAME_REPLY.pack(export.size, flags)
        if not (self._flags or 0) & wire.FLAG_NO_ZEROES:
            self._output += wire.EXPORT_NAME_PADDING
        self._finish(export)

    def _abort(self, _body: OptionBody) -> None:
        self._reply(wire.REP_ACK)
        self.closed = True

    def _list(self, _body: OptionBody) -> None:
        for export in self._exports().values():
            name = export.name.encode("utf-8", "surrogateescape")
            description = (export.description or "").encode("utf-8", "surrogateescape")
            self._reply(wire.REP_SERVER, wire.pack_string(name) + description)
        self._reply(wire.REP_ACK)

    def _starttls(self, _body: OptionBody) -> None:
        if self._tls is TlsMode.NONE:
            raise OptionError(wire.REP_ERR_POLICY, "TLS not configured")
        if self.secure:
            raise OptionError(wire.REP_ERR_INVALID, "TLS already enabled")
        if self._input:
            # Somebody between the client and us may have put them there, to be taken for what
            # comes through TLS.
            raise ProtocolError("data came behind STARTTLS before it was answered")
        self._reply(wire.REP_ACK)
        self.starting_tls = True

    def _info(self, body: OptionBody) -> None:
        self._describe(body, going=False)

    def _go(self, body: OptionBody) -> None:
        self._finish(*self._describe(body, going=True))

    def _describe(self, body: OptionBody, *, going: bool) -> tuple[Export, int]:
        """Answer INFO or GO with all that is known of an export; return it and its alignment."""
        name = body.name()
        wanted = {body.uint16() for _ in range(body.uint16())}
        body.end()
        export = self._find(name)
        if wire.INFO_NAME in wanted:
            self._reply(wire.REP_INFO, wire.UINT16.pack(wire.INFO_NAME) + name)
        if export.description:
            text = export.description.encode("utf-8", "surrogateescape")
            self._reply(wire.REP_INFO, wire.UINT16.pack(wire.INFO_DESCRIPTION) + text)
        aware = wire.INFO_BLOCK_SIZE in wanted
        minimum = export.request_alignment if aware or not going else 1
        maximum = min(export.request_max or wire.PAYLOAD_MAX, wire.PAYLOAD_MAX)
        sizes = minimum, max(wire.BLOCK_PREFERRED, minimum), maximum
        self._reply(wire.REP_INFO, wire.INFO_BLOCK_SIZE_DATA.pack(wire.INFO_BLOCK_SIZE, *sizes))
        flags = self._flags_of(export, going=going)
        data = wire.INFO_EXPORT_DATA.pack(wire.INFO_EXPORT, export.size, flags)
        self._reply(wire.REP_INFO, data)
        if not going and not aware and export.request_alignment > 1:
            message = "request NBD_INFO_BLOCK_SIZE to use this export"
            raise OptionError(wire.REP_ERR_BLOCK_SIZE_REQD, message)
        self._reply(wire.REP_ACK)
        return export, minimum

    def _structured_reply(self, _body: OptionBody) -> None:
        if self._extended:
            text = "extended headers already negotiated"
            raise OptionError(wire.REP_ERR_EXT_HEADER_REQD, text)
        if self._structured:
            text = "structured reply already negotiated"
            raise OptionError(wire.REP_ERR_INVALID, text)
        self._reply(wire.REP_ACK)
        self._structured = True

    def _extended_headers(self, _body: OptionBody) -> None:
        if self._extended:
            text = "extended headers already negotiated"
            raise OptionError(wire.REP_ERR_INVALID, text)
        self._reply(wire.REP_ACK)
        self._extended = True

    def _list_meta_context(self, body: OptionBody) -> None:
        export, count, queries = self._read_queries(body)
        if count:
            contexts = select(export.contexts, queries, listing=True)
        else:
            contexts = list(export.contexts)
        for context in contexts:
            self._reply_context(0, context)
        self._reply(wire.REP_ACK)

    def _set_meta_context(self, body: OptionBody) -> None:
        if not (self._structured or self._extended):
            what = wire.option_name(wire.OPT_SET_META_CONTEXT)
            text = f"request option '{what}' when structured reply is not negotiated"
            raise OptionError(wire.REP_ERR_INVALID, text)
        self._selected_for, self._selected = None, ()
        export, _, queries = self._read_queries(body)
        contexts = select(export.contexts, queries, listing=False)
        for context in contexts:
            self._reply_context(context.id, context)
        self._reply(wire.REP_ACK)
        self._selected_for, self._selected = export, tuple(contexts)

    def _read_queries(self, body: OptionBody) -> tuple[Export, int, list[bytes]]:
        """Return the export, the number of queries, and those that could name a context."""
        export = self._find(body.name())
        queries = []
        count = body.uint32()
        for _ in range(count):
            length = body.uint32()
            if length > wire.STRING_MAX:
                body.take(length)
            else:
                queries.append(body.text(length))
        # QEMU lets bytes behind the last query pass; the protocol calls the option invalid.
        body.end()
        return export, count, queries

    def _reply_context(self, number: int, context: MetaContext) -> None:
        name = context.name.encode("utf-8", "surrogateescape")
        self._reply(wire.REP_META_CONTEXT, wire.CONTEXT_ID.pack(number) + name)

    _ANSWERS: ClassVar[dict[int, Callable[[ServerNegotiation, OptionBody], None]]] = {
        wire.OPT_EXPORT_NAME: _export_name,
        wire.OPT_ABORT: _abort,
        wire.OPT_LIST: _list,
        wire.OPT_STARTTLS: _starttls,
        wire.OPT_INFO: _info,
        wire.OPT_GO: _go,
        wire.OPT_STRUCTURED_REPLY: _structured_reply,
        wire.OPT_LIST_META_CONTEXT: _list_meta_context,
        wire.OPT_SET_META_CONTEXT: _set_meta_context,
        wire.OPT_EXTENDED_HEADERS: _extended_headers,
    }
