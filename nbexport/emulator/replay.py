"""Plays the commands of a transcript at another monitor, and tells what is answered differently.

What clients sent is sent again, byte for byte and in the order of the recording; before each piece
the answers are awaited that had come before it. Compared are the answers with the commands they
belong to, and the events with their place among the answers.

Left out of the comparison is what differs by nature (`nbexport.emulator.comparison`). A later
command that uses a name that QEMU generated for a node uses the one that the other monitor gave in
the same place. Relative file names are seen from the directory in which
the other process runs; absolute ones, and addresses, are used as they are, so images have to be
as they were before the recording.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.emulator import comparison
from nbexport.emulator.comparison import Comparison, Difference
from nbexport.emulator.release import Release
from nbexport.errors import PeerError, UsageError
from nbexport.qmp import CONNECTED, DISCONNECTED, RECEIVED, SENT
from nbexport.qmp.jsonstream import JsonStream
from nbexport.units import KiB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.emulator.transcript import Transcript

    Address = str | Path | tuple[str, int]

ANSWER_LIMIT_S = 5.0
"""How long an answer is waited for that the recording has."""
EVENT_LIMIT_S = 1.0
"""How long events are waited for that the recording has after the last answer."""
QUIET_S = 0.05
"""How long after that for events that the recording does not have."""
_CONNECT_LIMIT_S = 20.0
_RECEIVE = 64 * KiB


@dataclass
class _Side:
    """The messages that one client got, and the bytes that are still incomplete."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    replies: list[dict[str, Any]] = field(default_factory=list)
    stream: JsonStream = field(default_factory=JsonStream)

    def feed(self, data: bytes) -> None:
        self.stream.feed(data)
        while (message := self.stream.next()) is not None:
            if not isinstance(message.value, dict):
                raise PeerError(f"not QMP: {message.error or message.value!r}")
            self.messages.append(message.value)
            if "event" not in message.value:
                self.replies.append(message.value)


@dataclass
class _Conversation:
    """One client of the recording, and the one that plays it."""

    monitor: int
    number: int
    recorded: _Side = field(default_factory=_Side)
    replayed: _Side = field(default_factory=_Side)
    requests: list[Any] = field(default_factory=list)
    input: JsonStream = field(default_factory=JsonStream)
    socket: socket.socket | None = None
    # answers that were waited for in vain, and those whose generated names are known
    missing: int = 0
    learned: int = 0


def replay(
    transcript: Transcript,
    addresses: Sequence[Address],
    *,
    answer_limit: float = ANSWER_LIMIT_S,
) -> Comparison:
    """Play a transcript at running monitors.

    Args:
        transcript: what was recorded.
        addresses: for each of its monitors a unix socket's path or ``(host, port)``.
        answer_limit: how long to wait for each answer, in seconds.

    Raises:
        UsageError: there are fewer addresses than monitors.
        PeerError: nobody listens there, or what answers is no monitor.
    """
    if transcript.monitors > len(addresses):
        raise UsageError(
            f"the transcript has {transcript.monitors} monitors, {len(addresses)} given"
        )
    player = _Player(transcript, addresses, answer_limit)
    try:
        return player.run()
    finally:
        player.close()


def replay_at(
    transcript: Transcript,
    release: str,
    *,
    options: Sequence[str] = (),
    directory: Path | None = None,
    answer_limit: float = ANSWER_LIMIT_S,
) -> Comparison:
    """Play a transcript at the emulator, in a process of its own.

    Args:
        transcript: what was recorded.
        release: what to emulate.
        options: more of the command line of ``nbexport qmp``.
        directory: where relative file names are seen from; None for the current one.
        answer_limit: how long to wait for each answer, in seconds.

    Raises:
        UsageError: there is no such release, or an option is wrong.
        PeerError: the emulator did not start.
    """
    Release.parse(release)
    with tempfile.TemporaryDirectory(prefix="nbexport-") as folder:
        sockets = [Path(folder, f"{number}.sock") for number in range(max(transcript.monitors, 1))]
        command = [sys.executable, "-m", "nbexport", "qmp", "--release", release, *options]
        for path in sockets:
            command += ["--socket", str(path)]
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + _CONNECT_LIMIT_S
            while not sockets[-1].exists():
                if process.poll() is not None:
                    assert process.stderr is not None
                    lines = process.stderr.read().strip().splitlines()
                    raise UsageError(lines[-1] if lines else "the emulator did not start")
                if time.monotonic() > deadline:
                    raise PeerError(f"the emulator did not start in {_CONNECT_LIMIT_S:.0f} s")
                time.sleep(0.01)
            return replay(transcript, sockets, answer_limit=answer_limit)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_CONNECT_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


class _Player:
    def __init__(
        self, transcript: Transcript, addresses: Sequence[Address], answer_limit: float
    ) -> None:
        self._transcript = transcript
        self._addresses = addresses
        self._answer_limit = answer_limit
        self._current: dict[int, _Conversation] = {}
        self._all: list[_Conversation] = []
        # what the other monitor calls a node whose name was generated
        self._names: dict[str, str] = {}

    def run(self) -> Comparison:
        for entry in self._transcript.entries:
            if entry.direction == CONNECTED:
                self._connect(entry.monitor)
                continue
            conversation = self._current.get(entry.monitor)
            if conversation is None:
                raise PeerError(f"monitor {entry.monitor} has no client in the transcript")
            if entry.direction == SENT:
                conversation.recorded.feed(entry.data)
            elif entry.direction == RECEIVED:
                self._wait_all()
                self._note(conversation, entry.data)
                self._send(conversation, entry.data)
            else:
                assert entry.direction == DISCONNECTED
                self._wait_all()
                self._end(conversation)
        self._wait_all()
        for conversation in self._all:
            self._end(conversation)
        return self._compare()

    def close(self) -> None:
        for conversation in self._all:
            if conversation.socket is not None:
                conversation.socket.close()

    # -- playing ----------------------------------------------------------------------------

    def _connect(self, monitor: int) -> None:
        number = sum(each.monitor == monitor for each in self._all)
        conversation = _Conversation(monitor, number)
        try:
            limit = _CONNECT_LIMIT_S if number == 0 else self._answer_limit
            conversation.socket = _connected(self._addresses[monitor], limit)
        except PeerError:
            # a process that has ended meanwhile is seen as missing answers
            if number == 0:
                raise
        self._current[monitor] = conversation
        self._all.append(conversation)

    def _note(self, conversation: _Conversation, data: bytes) -> None:
        """Take the requests apart: they go into the report."""
        conversation.input.feed(data)
        while (message := conversation.input.next()) is not None:
            request = message.value if message.error is None else f"({message.error})"
            conversation.requests.append(request)

    def _send(self, conversation: _Conversation, data: bytes) -> None:
        if conversation.socket is None:
            return
        if self._names:
            text = comparison.renamed(data.decode("utf-8", "surrogateescape"), self._names)
            data = text.encode("utf-8", "surrogateescape")
        try:
            conversation.socket.settimeout(self._answer_limit)
            conversation.socket.sendall(data)
        except OSError:
            # it is seen as missing answers
            self._hang_up(conversation)

    def _wait_all(self) -> None:
        """Wait until every client has as many answers as in the recording."""
        for conversation in self._current.values():
            deadline = time.monotonic() + self._answer_limit
            wanted = len(conversation.recorded.replies)
            while (got := len(conversation.replayed.replies)) + conversation.missing < wanted:
                if not self._receive(conversation, deadline):
                    conversation.missing = wanted - got
            self._learn_names(conversation)

    def _end(self, conversation: _Conversation) -> None:
        """Wait for the last events, then close."""
        wanted = len(conversation.recorded.messages)
        deadline = time.monotonic() + EVENT_LIMIT_S
        while len(conversation.replayed.messages) < wanted:
            if not self._receive(conversation, deadline):
                break
        quiet = time.monotonic() + QUIET_S
        while self._receive(conversation, quiet):
            pass
        self._hang_up(conversation)

    def _hang_up(self, conversation: _Conversation) -> None:
        if conversation.socket is not None:
            conversation.socket.close()
            conversation.socket = None

    def _receive(self, conversation: _Conversation, deadline: float) -> bool:
        """Take some bytes; return whether there were any before the deadline."""
        left = deadline - time.monotonic()
        if conversation.socket is None or left <= 0:
            return False
        try:
            conversation.socket.settimeout(left)
            data = conversation.socket.recv(_RECEIVE)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        if not data:
            self._hang_up(conversation)
            return False
        conversation.replayed.feed(data)
        return True

    def _learn_names(self, conversation: _Conversation) -> None:
        """Pair the generated names of the answers that have come on both sides."""
        start = conversation.learned
        pairs = list(
            zip(
                conversation.recorded.replies[start:],
                conversation.replayed.replies[start:],
                strict=False,
            )
        )
        conversation.learned += len(pairs)
        for recorded, replayed in pairs:
            ours, theirs = comparison.generated(recorded), comparison.generated(replayed)
            if len(ours) == len(theirs):
                self._names.update(zip(ours, theirs, strict=True))

    def _compare(self) -> Comparison:
        differences: list[Difference] = []
        count = 0
        for conversation in self._all:
            answers, found = comparison.compare(
                conversation.recorded.messages,
                conversation.replayed.messages,
                conversation.requests,
                self._names,
                (conversation.monitor, conversation.number),
            )
            count += answers
            differences += found
        return Comparison(count, tuple(differences))


def _connected(address: Address, limit: float) -> socket.socket:
    """Connect; wait for a monitor that another client is leaving, or that is starting."""
    deadline = time.monotonic() + limit
    shown = ":".join(map(str, address)) if isinstance(address, tuple) else str(address)
    while True:
        try:
            if isinstance(address, tuple):
                return socket.create_connection(address, limit)
            made = socket.socket(socket.AF_UNIX)
            try:
                made.settimeout(limit)
                made.connect(str(address))
            except BaseException:
                made.close()
                raise
        except (FileNotFoundError, ConnectionRefusedError) as error:
            # its socket may not be there yet
            if time.monotonic() > deadline:
                raise PeerError(f"{shown}: cannot connect: {error.strerror}") from error
            time.sleep(0.01)
        except OSError as error:
            raise PeerError(f"{shown}: cannot connect: {error}") from error
        else:
            return made
