"""Plays the commands of a transcript at another monitor, and tells what is answered differently.

What clients sent is sent again, byte for byte and in the order of the recording; before each piece
the answers are awaited that had come before it. Compared are the answers with the commands they
belong to, and the events with their place among the answers.

Left out of the comparison is what differs by nature: times, the version's numbers and package, and
the names that QEMU generates for nodes. A later command that uses such a name uses the one that
the other monitor gave in the same place. Relative file names are seen from the directory in which
the other process runs; absolute ones, and addresses, are used as they are, so images have to be
as they were before the recording.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
_GENERATED = re.compile(r"#block\d+")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came after a request: the events before the answer, then the answer.

    Attributes:
        events: what came since the answer before, masked.
        reply: ``return`` or ``error``, or the greeting, masked; None where none came.
    """

    events: tuple[dict[str, Any], ...] = ()
    reply: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One request that was answered differently.

    Attributes:
        monitor: which monitor, from 0.
        connection: which client of it, from 0.
        request: the request as it was sent, None for the greeting and for what came at the end.
        recorded: what the transcript has.
        replayed: what came now.
    """

    monitor: int
    connection: int
    request: Any
    recorded: Answer
    replayed: Answer

    def lines(self) -> list[str]:
        """Return it as text, the two answers below the request."""
        shown = "(no request)" if self.request is None else json.dumps(self.request)
        lines = [f"monitor {self.monitor}, client {self.connection}: {shown}"]
        for mark, answer in (("-", self.recorded), ("+", self.replayed)):
            lines += [f"{mark} {json.dumps(event)}" for event in answer.events]
            reply = "(no answer)" if answer.reply is None else json.dumps(answer.reply)
            lines.append(f"{mark} {reply}")
        return lines


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a replay found.

    Attributes:
        requests: how many answers were compared, greetings left out.
        differences: in the order of the recording, client by client.
    """

    requests: int
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


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
            text = data.decode("utf-8", "surrogateescape")
            text = _GENERATED.sub(lambda found: self._names.get(found[0], found[0]), text)
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
            ours, theirs = _generated(recorded), _generated(replayed)
            if len(ours) == len(theirs):
                self._names.update(zip(ours, theirs, strict=True))

    # -- comparing --------------------------------------------------------------------------

    def _compare(self) -> Comparison:
        differences = []
        count = 0
        for conversation in self._all:
            recorded = _answers(conversation.recorded)
            replayed = _answers(conversation.replayed)
            # the greeting answers nothing; the last is what came after all answers
            requests = [None, *conversation.requests]
            length = max(len(recorded), len(replayed))
            count += max(length - 2, 0)
            for index in range(length):
                # of two lists of unequal length, the last, incomplete ones belong together
                ours = _at(recorded, index, length)
                theirs = _at(replayed, index, length)
                if _masked(ours, self._names) != _masked(theirs, {}):
                    last = index == length - 1
                    request = None if last or index >= len(requests) else requests[index]
                    differences.append(
                        Difference(conversation.monitor, conversation.number, request, ours, theirs)
                    )
        return Comparison(count, tuple(differences))


def _at(answers: list[Answer], index: int, length: int) -> Answer:
    if index == length - 1:
        return answers[-1]
    return answers[index] if index < len(answers) - 1 else Answer()


def _answers(side: _Side) -> list[Answer]:
    """Return the answers, and at the end one without a reply for the events after them."""
    answers = []
    events: list[dict[str, Any]] = []
    for message in side.messages:
        shown = _mask(message)
        if "event" in message:
            events.append(shown)
        else:
            answers.append(Answer(tuple(events), shown))
            events = []
    return [*answers, Answer(tuple(events))]


def _mask(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without what differs by nature."""
    shown = {name: value for name, value in message.items() if name != "timestamp"}
    greeting = shown.get("QMP")
    if isinstance(greeting, dict) and "version" in greeting:
        shown["QMP"] = {**greeting, "version": "(masked)"}
    result = shown.get("return")
    if isinstance(result, dict) and result.keys() == {"qemu", "package"}:
        shown["return"] = "(masked)"
    return shown


def _generated(value: Any) -> list[str]:
    """Return the generated names of a value, each once, in the order of their first mention."""
    return list(dict.fromkeys(_GENERATED.findall(json.dumps(value))))


def _masked(answer: Answer, names: dict[str, str]) -> tuple[list[Any], Any]:
    """Return what is compared: events and reply, with the other side's generated names."""
    text = json.dumps([answer.events, answer.reply], sort_keys=True)
    text = _GENERATED.sub(lambda found: names.get(found[0], found[0]), text)
    events, reply = json.loads(text)
    return events, reply


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
