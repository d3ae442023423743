"""A monitor's session as data: named steps that any target can be asked, and what it answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbexport.emulator.targets import launch
from nbexport.errors import PeerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.emulator.targets import Target

Script = Mapping[str, tuple[str, Mapping[str, Any]]]
"""What each step is called in words, and its command with the arguments as on the wire."""

# Deleting an export may outlast its reply; a client that is cut loose has gone long before this.
_SETTLE_POLLS_MAX = 1000


@dataclass(frozen=True)
class StepAnswer:
    """What a target said to one step.

    Attributes:
        command: the command that was sent.
        reply: the whole reply, be it ``return`` or ``error``.
        before: events that came before the reply.
        after: events that came after it, as its consequence.
    """

    command: str
    reply: Mapping[str, Any]
    before: Sequence[Mapping[str, Any]] = ()
    after: Sequence[Mapping[str, Any]] = ()

    @property
    def refused(self) -> str | None:
        """The class of the error, None if the command was carried out."""
        error = self.reply.get("error")
        return None if error is None else str(error["class"])


def play(target: Target, script: Script) -> dict[str, StepAnswer]:
    """Send a script to a target, each step after the last one's answer.

    Args:
        target: who is asked.
        script: the steps; they may refer to what former steps have made.

    Returns:
        The answer to each step. Exports that a step deletes are gone when the next one begins, so
        their events are found with the step that caused them.

    Raises:
        PeerError: the target does not answer any more.
    """
    return {name: _ask(target, command, arguments) for name, (command, arguments) in script.items()}


def play_at(release: str, script: Script, options: Sequence[str] = ()) -> dict[str, StepAnswer]:
    """Send a script to an emulator of its own; see `play` and `nbexport.emulator.launch`."""
    with launch("emulated", release, options) as target:
        return play(target, script)


def told(answers: Mapping[str, StepAnswer]) -> dict[str, dict[str, Any]]:
    """Return answers as plain data, for programs to compare: what came, but not when."""
    return {
        step: {
            "reply": dict(answer.reply),
            **({"before": _plain(answer.before)} if answer.before else {}),
            **({"after": _plain(answer.after)} if answer.after else {}),
        }
        for step, answer in answers.items()
    }


def _plain(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: part for key, part in event.items() if key != "timestamp"} for event in events]


def _ask(target: Target, command: str, arguments: Mapping[str, Any]) -> StepAnswer:
    reply = target.ask(command, arguments)
    before = _take_events(target)
    _settle(target)
    return StepAnswer(command, reply, before, _take_events(target))


def _settle(target: Target) -> None:
    """Wait until no export is about to go: its event is then on this side of the last reply.

    Before there was `query-block-exports`, there were no events of exports either.
    """
    for _ in range(_SETTLE_POLLS_MAX):
        exports = target.ask("query-block-exports").get("return", ())
        if not any(export["shutting-down"] for export in exports):
            return
    raise PeerError(f"{target.name}: an export stays that is shutting down")


def _take_events(target: Target) -> tuple[dict[str, Any], ...]:
    events = tuple(target.qmp.events)
    target.qmp.events.clear()
    return events
