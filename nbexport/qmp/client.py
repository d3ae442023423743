"""A small blocking QMP client, for notebooks, tests and command lines."""

from __future__ import annotations

import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from nbexport.errors import PeerError
from nbexport.qmp.jsonstream import JsonStream
from nbexport.qmp.jsontext import encode
from nbexport.units import KiB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

DEFAULT_TIMEOUT = 30.0
# Events that nobody has taken are kept up to this many, some 200 bytes each; older ones go.
MAX_EVENTS = 10_000
_RECEIVE_SIZE = 64 * KiB


class QmpCommandError(PeerError):
    """The monitor answered a command with an error.

    Args:
        error_class: ``GenericError``, ``CommandNotFound``, ...
        desc: the text.
    """

    def __init__(self, error_class: str, desc: str) -> None:
        super().__init__(desc)
        self.error_class = error_class
        self.desc = desc


class QmpClient:
    """A connection to a monitor; a context manager that closes it.

    Args:
        address: path of a unix socket, or ``(host, port)``.
        timeout: longest wait for the connection, the greeting and each answer, in seconds.
        negotiate: whether to leave the negotiation mode at once.
        enable: capabilities to switch on.

    Attributes:
        greeting: the ``QMP`` object of the greeting.
        events: events that came and were not taken by `wait_event`, oldest first.

    Raises:
        PeerError: nobody listens there, or what answers is no monitor.
    """

    def __init__(
        self,
        address: str | Path | tuple[str, int],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        negotiate: bool = True,
        enable: Sequence[str] = (),
    ) -> None:
        self._timeout = timeout
        self._stream = JsonStream()
        self._serial = 0
        self.events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._shown = ":".join(map(str, address)) if isinstance(address, tuple) else str(address)
        try:
            if isinstance(address, tuple):
                self._socket = socket.create_connection(address, timeout)
            else:
                self._socket = _connect_unix(str(address), timeout)
        except OSError as error:
            raise PeerError(f"{self._shown}: cannot connect: {error}") from error
        try:
            greeting = self._receive(self._deadline())
            if not isinstance(greeting.get("QMP"), dict):
                raise PeerError(f"{self._shown}: no QMP greeting")
            self.greeting: dict[str, Any] = greeting["QMP"]
            if negotiate:
                self.execute("qmp_capabilities", {"enable": list(enable)} if enable else None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, **named: Any
    ) -> Any:
        """Run a command and return its result.

        Args:
            command: its name.
            arguments: its arguments, named as on the wire.
            named: further arguments; ``_`` in their names stands for ``-``.

        Raises:
            QmpCommandError: the monitor refuses.
            PeerError: no answer came in time, or the connection broke.
        """
        self._serial += 1
        request: dict[str, Any] = {"execute": command, "id": self._serial}
        given = dict(arguments or {})
        given.update((name.replace("_", "-"), value) for name, value in named.items())
        if given:
            request["arguments"] = given
        deadline = self._deadline()
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(encode(request).encode("ascii") + b"\n")
        except OSError as error:
            raise PeerError(f"{self._shown}: cannot send: {error}") from error
        while True:
            message = self._receive(deadline)
            if "event" in message:
                self.events.append(message)
            elif message.get("id") == self._serial or "id" not in message:
                return self._result(message)

    def _result(self, message: dict[str, Any]) -> Any:
        if "return" in message:
            return message["return"]
        error = message.get("error")
        if not isinstance(error, dict):
            raise PeerError(f"{self._shown}: neither result nor error: {encode(message)}")
        raise QmpCommandError(str(error.get("class")), str(error.get("desc")))

    def wait_event(self, name: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the oldest event of a name, waiting for it if none has come yet.

        Args:
            name: the event.
            timeout: longest wait, in seconds; the client's own if None.

        Raises:
            PeerError: it did not come in time, or the connection broke.
        """
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        for event in self.events:
            if event.get("event") == name:
                self.events.remove(event)
                return event
        while True:
            message = self._receive(deadline)
            if message.get("event") == name:
                return message
            if "event" in message:
                self.events.append(message)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while True:
            message = self._stream.next()
            if message is not None:
                if message.error is not None or not isinstance(message.value, dict):
                    raise PeerError(f"{self._shown}: not QMP: {message.error or message.value}")
                return message.value
            left = deadline - time.monotonic()
            if left <= 0:
                raise PeerError(f"{self._shown}: no answer in time")
            try:
                self._socket.settimeout(left)
                data = self._socket.recv(_RECEIVE_SIZE)
            except TimeoutError as error:
                raise PeerError(f"{self._shown}: no answer in time") from error
            except OSError as error:
                raise PeerError(f"{self._shown}: connection broke: {error}") from error
            if not data:
                raise PeerError(f"{self._shown}: the monitor closed the connection")
            self._stream.feed(data)


def _connect_unix(path: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
