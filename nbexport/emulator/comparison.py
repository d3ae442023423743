"""What two monitors answered to the same requests, compared.

Left out is what differs by nature: times, the version's numbers and package, and the names that
QEMU generates for nodes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def compare(
    recorded: Sequence[dict[str, Any]],
    replayed: Sequence[dict[str, Any]],
    requests: Sequence[Any],
    names: Mapping[str, str],
    place: tuple[int, int],
) -> tuple[int, list[Difference]]:
    """Compare what one client was sent.

    Args:
        recorded: the messages of the transcript: the greeting, answers, events.
        replayed: those that came now.
        requests: what was asked, in order.
        names: for generated names of the transcript, those of the other side.
        place: the numbers of the monitor and of its client.

    Returns:
        How many answers were compared, the greeting left out, and where they differ.
    """
    differences = []
    before, now = _answers(recorded), _answers(replayed)
    # the greeting answers nothing; the last is what came after all answers
    asked = [None, *requests]
    length = max(len(before), len(now))
    for index in range(length):
        # of two lists of unequal length, the last, incomplete ones belong together
        ours = _at(before, index, length)
        theirs = _at(now, index, length)
        if _masked(ours, names) != _masked(theirs, {}):
            last = index == length - 1
            request = None if last or index >= len(asked) else asked[index]
            differences.append(Difference(*place, request, ours, theirs))
    return max(length - 2, 0), differences


def _at(answers: list[Answer], index: int, length: int) -> Answer:
    if index == length - 1:
        return answers[-1]
    return answers[index] if index < len(answers) - 1 else Answer()


def _answers(messages: Sequence[dict[str, Any]]) -> list[Answer]:
    """Return the answers, and at the end one without a reply for the events after them."""
    answers = []
    events: list[dict[str, Any]] = []
    for message in messages:
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


def generated(value: Any) -> list[str]:
    """Return the generated names of a value, each once, in the order of their first mention."""
    return list(dict.fromkeys(_GENERATED.findall(json.dumps(value))))


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a text with other generated names in the place of those that ``names`` has."""
    return _GENERATED.sub(lambda found: names.get(found[0], found[0]), text)


def _masked(answer: Answer, names: Mapping[str, str]) -> tuple[list[Any], Any]:
    """Return what is compared: events and reply, with the other side's generated names."""
    text = json.dumps([answer.events, answer.reply], sort_keys=True)
    events, reply = json.loads(renamed(text, names))
    return events, reply
