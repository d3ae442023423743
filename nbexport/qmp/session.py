"""A QMP monitor's side of one connection: greeting, negotiation, requests, replies, events.

Bytes come in by `Session.receive_data`; `Session.next_request` gives the commands to run, in the
order in which QEMU would run them; their outcome goes back by `Session.reply` or `Session.fail`;
`Session.data_to_send` gives the bytes for the client. Whatever needs no command to be run
(malformed input, bad envelopes, negotiation) is answered here, in its turn.

The rules are those of QEMU's monitor: without the capability ``oob`` one request is read at a
time and the next is looked at only when it was answered; with it up to 8 wait in a queue and
``exec-oob`` overtakes them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nbexport.errors import CommandError
from nbexport.qapi.arrange import arrange
from nbexport.qapi.order import qdict_order
from nbexport.qapi.validate import validate
from nbexport.qmp.jsonstream import JsonStream, Message
from nbexport.qmp.jsontext import encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbexport.qapi.schema import Schema
    from nbexport.qmp.policy import CompatPolicy

# Requests that wait while one is being run, once oob is on; the same number as in QEMU.
REQUEST_QUEUE_MAX = 8
_NEGOTIATION = "qmp_capabilities"
_NOT_FOUND = "CommandNotFound"


@dataclass(frozen=True, slots=True)
class Request:
    """A command to be run.

    Args:
        command: its name, not yet looked up.
        arguments: its arguments, not yet checked; empty if there are none.
        id: what the reply has to echo; meaningful if ``has_id``.
        has_id: whether the client gave an id.
        oob: whether it was sent with ``exec-oob``.
    """

    command: str
    arguments: dict[str, Any]
    id: Any = None
    has_id: bool = False
    oob: bool = False


class Session:
    """One client's conversation; the greeting is there to be sent from the start.

    Args:
        schema: where ``qmp_capabilities`` is looked up to check its arguments.
        version: the result of ``query-version``, shown in the greeting.
        release: the release whose error texts are wanted.
        capabilities: what the greeting offers.
        pretty: print indented.
        policy: decides which members of events are sent; None sends all.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        version: Mapping[str, Any],
        release: tuple[int, ...],
        capabilities: Sequence[str] = ("oob",),
        pretty: bool = False,
        policy: CompatPolicy | None = None,
    ) -> None:
        self._hides = (
            partial(policy.hides, schema) if policy is not None and policy.hides_some else None
        )
        self._schema = schema
        self._release = release
        self._offered = tuple(capabilities)
        self._pretty = pretty
        self._stream = JsonStream(release)
        self._queue: deque[Message] = deque()
        self._urgent: deque[Request] = deque()
        self._output = bytearray()
        self._running: Request | None = None
        self.negotiated = False
        self.enabled: frozenset[str] = frozenset()
        query = schema.command("query-version")
        shown = arrange(schema, query.ret_type if query else None, dict(version))
        greeting = {"version": shown, "capabilities": list(self._offered)}
        self._send({"QMP": greeting})

    # -- bytes ------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._stream.feed(data)

    def data_to_send(self) -> bytes:
        """Return the bytes to send to the client, once."""
        data = bytes(self._output)
        self._output.clear()
        return data

    @property
    def wants_data(self) -> bool:
        """Whether reading on could bring anything: all input was looked at and a place is free."""
        return self._stream.buffered == 0 and self._room()

    def _room(self) -> bool:
        if "oob" in self.enabled:
            return len(self._queue) < REQUEST_QUEUE_MAX
        return not self._queue and self._running is None

    # -- requests ---------------------------------------------------------------------------

    def next_request(self) -> Request | None:
        """Return the next command to run, or None until more bytes or an answer come.

        A request that overtakes (``oob``) can come while another one is being run.
        """
        while True:
            self._read()
            if self._urgent:
                return self._urgent.popleft()
            if self._running is not None or not self._queue:
                return None
            request = self._examine(self._queue.popleft())
            if request is not None:
                self._running = request
                return request

    def _read(self) -> None:
        """Move messages from the stream to the queue as far as there is room."""
        while self._room():
            message = self._stream.next()
            if message is None:
                return
            value = message.value
            if isinstance(value, dict) and "exec-oob" in value and "execute" not in value:
                request = self._examine(message)
                if request is not None:
                    self._urgent.append(request)
            else:
                self._queue.append(message)

    def _examine(self, message: Message) -> Request | None:
        """Return a request to be run; answer at once what is none."""
        if message.error is not None:
            self._send_error(CommandError(message.error), None, has_id=False)
            return None
        value = message.value
        if not isinstance(value, dict):
            error = CommandError("QMP input must be a JSON object")
            self._send_error(error, None, has_id=False)
            return None
        has_id = "id" in value
        try:
            request = self._envelope(value)
            if self.negotiated:
                if request.command != _NEGOTIATION:
                    return request
                self._check_negotiation(request)
                raise CommandError(
                    "Capabilities negotiation is already complete, command ignored",
                    error_class=_NOT_FOUND,
                )
            if request.command != _NEGOTIATION:
                raise CommandError(
                    f"Expecting capabilities negotiation with '{_NEGOTIATION}'",
                    error_class=_NOT_FOUND,
                )
            self._check_negotiation(request)
            self._negotiate(request)
        except CommandError as error:
            self._send_error(error, value.get("id"), has_id=has_id)
        else:
            self._send_return({}, value.get("id"), has_id=has_id)
        return None

    def _envelope(self, value: dict[str, Any]) -> Request:
        """Check the members of a request in QEMU's order."""
        executing: str | None = None
        for name in qdict_order(value):
            member = value[name]
            if name == "execute" or (name == "exec-oob" and "oob" in self.enabled):
                if not isinstance(member, str):
                    raise CommandError(f"QMP input member '{name}' must be a string")
                if executing is not None:
                    raise CommandError(f"QMP input member '{name}' clashes with '{executing}'")
                executing = name
            elif name == "arguments":
                if not isinstance(member, dict):
                    raise CommandError("QMP input member 'arguments' must be an object")
            elif name != "id":
                raise CommandError(f"QMP input member '{name}' is unexpected")
        if executing is None:
            raise CommandError("QMP input lacks member 'execute'")
        return Request(
            value[executing],
            value.get("arguments", {}),
            value.get("id"),
            "id" in value,
            oob=executing == "exec-oob",
        )

    def _check_negotiation(self, request: Request) -> None:
        if request.oob:
            raise CommandError(f"The command {request.command} does not support OOB")
        command = self._schema.command(_NEGOTIATION)
        if command is None:
            raise CommandError(
                f"The command {_NEGOTIATION} has not been found", error_class=_NOT_FOUND
            )
        validate(self._schema, command.arg_type, request.arguments, release=self._release)

    def _negotiate(self, request: Request) -> None:
        wanted = request.arguments.get("enable", [])
        missing = [name for name in dict.fromkeys(wanted) if name not in self._offered]
        if missing:
            raise CommandError(f"Capability {', '.join(missing)} not available")
        self.enabled = frozenset(wanted)
        self.negotiated = True

    # -- answers ----------------------------------------------------------------------------

    def reply(self, request: Request, result: Any) -> None:
        """Answer a request with its result; None stands for the empty object."""
        self._answered(request)
        value = {} if result is None else result
        self._send_return(value, request.id, has_id=request.has_id)

    def fail(self, request: Request, error: CommandError) -> None:
        """Answer a request with an error."""
        self._answered(request)
        self._send_error(error, request.id, has_id=request.has_id)

    def finish(self, request: Request) -> None:
        """End a request without an answer, for commands without a success response."""
        self._answered(request)

    def _answered(self, request: Request) -> None:
        if self._running is request:
            self._running = None

    def event(self, name: str, data: Mapping[str, Any] | None, now: tuple[int, int]) -> None:
        """Send an event; before the negotiation is over it is dropped.

        Args:
            name: the event.
            data: its data; None for an event without.
            now: the time, seconds since 1970 and microseconds.
        """
        if not self.negotiated:
            return
        time = {"seconds": now[0], "microseconds": now[1]}
        envelope: dict[str, Any] = {"event": name, "timestamp": time}
        if data is not None:
            event = self._schema.event(name)
            kind = event.arg_type if event else None
            envelope["data"] = arrange(self._schema, kind, dict(data), hides=self._hides)
        self._send(envelope)

    def _send_return(self, value: Any, id_: Any, *, has_id: bool) -> None:
        self._send({"return": value, "id": id_} if has_id else {"return": value})

    def _send_error(self, error: CommandError, id_: Any, *, has_id: bool) -> None:
        body = {"class": error.error_class, "desc": error.desc}
        self._send({"error": body, "id": id_} if has_id else {"error": body})

    def _send(self, value: dict[str, Any]) -> None:
        self._output += encode(value, pretty=self._pretty).encode("ascii") + b"\r\n"
