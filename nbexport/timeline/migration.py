"""Which call an application makes on which release when one replaces another."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from nbexport.errors import UsageError
from nbexport.qapi import parse_release
from nbexport.timeline.computed import Snapshot, release_snapshots
from nbexport.timeline.elements import Element, find_element, pieces
from nbexport.timeline.lifecycle import day
from nbexport.timeline.mapping import Migration, chain
from nbexport.timeline.releases import deprecated_in

if TYPE_CHECKING:
    from collections.abc import Sequence

CLEAN, DEPRECATED, EXPERIMENTAL, ABSENT = "clean", "deprecated", "experimental", "absent"
_WORKS = (CLEAN, DEPRECATED, EXPERIMENTAL)
# So many releases without a gap are told by the first and the last one.
_MANY = 4


@dataclass(frozen=True, slots=True)
class Way:
    """A call that does the work.

    Attributes:
        command: its name.
        needs: the arguments that it is made with.
        title: the command, with the argument that makes the difference where two ways share it.
    """

    command: str
    needs: tuple[str, ...]
    title: str


@dataclass(frozen=True, slots=True)
class State:
    """What a release has of a way.

    Attributes:
        state: ``clean``; ``deprecated``; ``experimental``, which may change without notice; or
            ``absent``.
        why: what is missing, deprecated or experimental; empty for a clean one.
    """

    state: str
    why: str = ""

    @property
    def works(self) -> bool:
        """Whether the release takes the call."""
        return self.state in _WORKS

    @property
    def clean(self) -> bool:
        """Whether the release takes it and promises to go on doing so."""
        return self.state == CLEAN

    def __str__(self) -> str:
        return f"{self.state}: {self.why}" if self.why else self.state


@dataclass(frozen=True)
class Row:
    """One release of a plan.

    Attributes:
        release: its number.
        states: what it has of each way.
        choice: the way to go; None if there is none.
        switch: whether it differs from the release before.
    """

    release: str
    states: tuple[State, ...]
    choice: Way | None
    switch: bool = False


@dataclass(frozen=True)
class Plan:
    """What an application that supports several releases calls on each.

    Attributes:
        item: what is replaced.
        steps: the mappings, from each way to the next.
        ways: the calls, oldest first.
        used: the arguments of the first one that the application uses.
        no_deprecated: whether deprecated and experimental calls are refused.
        rows: one for each release, oldest first.
    """

    item: str
    steps: tuple[Migration, ...]
    ways: tuple[Way, ...]
    used: tuple[str, ...]
    no_deprecated: bool
    rows: tuple[Row, ...] = field(default=())

    @property
    def switches(self) -> tuple[Row, ...]:
        """The releases from which on another call is made."""
        return tuple(row for row in self.rows if row.switch)

    @property
    def both_clean(self) -> tuple[str, ...]:
        """The releases in which two ways are clean, so that a switch needs no look at them."""
        return tuple(row.release for row in self.rows if sum(s.clean for s in row.states) > 1)

    @property
    def both_work(self) -> tuple[str, ...]:
        """The releases that take two ways."""
        return tuple(row.release for row in self.rows if sum(s.works for s in row.states) > 1)

    @property
    def gaps(self) -> tuple[str, ...]:
        """The releases in which no way is open."""
        return tuple(row.release for row in self.rows if row.choice is None)

    def _listed(self, names: Sequence[str]) -> str:
        """Join releases: ``5.2, 6.0 and 6.1``, ``5.2 to 11.0`` where none of many is missing."""
        order = [row.release for row in self.rows]
        start = order.index(names[0])
        if len(names) >= _MANY and order[start : start + len(names)] == list(names):
            return f"{names[0]} to {names[-1]}"
        return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

    def sentences(self) -> list[str]:
        """Say what the plan comes to, a sentence for each thing to know."""
        first, last = self.rows[0].release, self.rows[-1].release
        span = f"in {first}" if first == last else f"from {first} to {last}"
        said = []
        if self.gaps:
            word = "clean call" if self.no_deprecated else "call"
            said.append(f"No {word} in {self._listed(self.gaps)}.")
        opening = self.rows[0].choice
        if opening is not None:
            kept = [row.release for row in takewhile(lambda row: row.choice == opening, self.rows)]
            until = f" all releases {span}" if len(kept) == len(self.rows) else ""
            said.append(f"{opening.title} does{until or f' in {self._listed(kept)}'}.")
        for row in self.switches:
            assert row.choice is not None
            said.append(f"From {row.release} on, {row.choice.title}.")
        frowned = [row.release for row in self.rows if row.choice and not self._clean(row)]
        if frowned:
            said.append(f"That is no clean call in {self._listed(frowned)}.")
        if self.both_work:
            said.append(f"Two calls work in {self._listed(self.both_work)}.")
        lost = [a for a in self.steps[0].arguments if not a.to and a.old in self.used]
        said += [f"{argument.old} has no counterpart: {argument.note}." for argument in lost]
        if len(self.rows) > 1:
            said.append(
                f"Two are clean in {self._listed(self.both_clean)}."
                if self.both_clean
                else f"In no release {span} are two of them clean: look for the new one, and take "
                "it where it is there."
            )
        return said

    def _clean(self, row: Row) -> bool:
        return row.choice is not None and row.states[self.ways.index(row.choice)].clean

    def as_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return {
            "item": self.item,
            "no-deprecated": self.no_deprecated,
            "arguments": list(self.used),
            "ways": [{"command": way.command, "arguments": list(way.needs)} for way in self.ways],
            "mapping": [_step_json(step) for step in self.steps],
            "releases": [self._row_json(row) for row in self.rows],
            "switches": [row.release for row in self.switches],
            "both-clean": list(self.both_clean),
            "both-work": list(self.both_work),
            "without-a-call": list(self.gaps),
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        date = day(row.release)
        states = {way.title: str(state) for way, state in zip(self.ways, row.states, strict=True)}
        return {
            "release": row.release,
            "date": date.isoformat() if date else None,
            "states": states,
            "call": row.choice.title if row.choice else None,
        }


def _step_json(step: Migration) -> dict[str, Any]:
    moved = [step.whole] if step.whole is not None else step.arguments
    return {
        "from": step.item,
        "to": step.to,
        "arguments": [
            {"old": a.old, "new": a.to or None, "as": a.form, "note": a.note} for a in moved
        ],
        "new": [
            {"name": n.name, "as": described(n.value, n.of, n.asked), "note": n.note}
            for n in step.new
        ],
        "note": step.note,
    }


def described(value: str, of: Sequence[str], asked: str) -> str:
    """Say where the value of a new argument comes from."""
    if value:
        return f'"{value}"'
    return ", else ".join(of) if of else asked


def plan(
    item: str,
    first: str,
    last: str,
    *,
    no_deprecated: bool = False,
    arguments: Sequence[str] = (),
) -> Plan:
    """Plan the migration away from a call.

    Without ``no_deprecated`` the oldest way that a release takes is gone, so that as few releases
    as can be differ; with it the newest one that is clean.

    Args:
        item: what is replaced: a command, or one of its arguments.
        first: the oldest release that the application supports.
        last: the newest one.
        no_deprecated: whether to refuse calls that are deprecated or experimental.
        arguments: the optional arguments of the old call that the application uses. None is one
            too many: a release that does not know one of them does not take the call.

    Raises:
        UsageError: nothing is known of the item, a release is not known or ``last`` is older than
            ``first``, or there is no such argument.
    """
    steps = chain(item)
    low, high = parse_release(first), parse_release(last)
    if high < low:
        raise UsageError(f"release {last} is older than {first}")
    snapshots = release_snapshots(first, last)
    newest = release_snapshots()[-1]
    if newest.release is not None and high[:2] > newest.release:
        raise UsageError(f"the interface of {last} has not been looked at: {newest.name} is newest")
    ways = _ways(steps, _used(steps[0], arguments))
    rows: list[Row] = []
    for snapshot in snapshots:
        states = tuple(_state(snapshot, way) for way in ways)
        choice = _choose(ways, states, no_deprecated=no_deprecated)
        before = rows[-1].choice if rows else choice
        rows.append(Row(snapshot.name, states, choice, choice is not None and choice != before))
    return Plan(steps[0].item, steps, ways, ways[0].needs, no_deprecated, tuple(rows))


def _used(step: Migration, arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments that an old call has: the required ones, and those asked for."""
    if step.whole is not None:
        if arguments:
            raise UsageError(f"all arguments of {step.command} move together")
        return ()
    required: dict[str, bool] = {}
    for snapshot in release_snapshots():
        for part in pieces(snapshot.schema, step.command):
            form = find_element(snapshot.schema, part)
            if form is not None and form.kind == "argument":
                required[part.path[0]] = not form.optional
    known = [argument.old for argument in step.arguments]
    for name in arguments:
        if name not in known:
            raise UsageError(f"{step.command} has no argument '{name}': {', '.join(known)}")
    return tuple(n for n in known if required.get(n) or n in arguments or n == step.argument)


def _ways(steps: Sequence[Migration], used: tuple[str, ...]) -> tuple[Way, ...]:
    first = steps[0]
    found = [Way(first.command, used, first.item)]
    for step in steps:
        used = step.targets(used)
        same = step.command == step.to
        moved = next((a.to for a in step.arguments if a.old == step.argument), "")
        found.append(Way(step.to, used, f"{step.to} {moved}" if same and moved else step.to))
    return tuple(found)


def _state(snapshot: Snapshot, way: Way) -> State:
    command = find_element(snapshot.schema, Element(way.command))
    if command is None or command.kind != "command":
        return State(ABSENT)
    listed = deprecated_in(snapshot.release or ())
    judged = [(way.command, command.deprecated or way.command in listed, command.unstable)]
    for name in way.needs:
        form = find_element(snapshot.schema, Element(way.command, (name,)))
        if form is None:
            return State(ABSENT, f"no argument {name}")
        judged.append((name, form.deprecated or f"{way.command} {name}" in listed, form.unstable))
    for name, is_deprecated, _ in judged:
        if is_deprecated:
            return State(DEPRECATED, "" if name == way.command else name)
    for name, _, is_unstable in judged:
        if is_unstable or name.startswith("x-"):
            return State(EXPERIMENTAL, "" if name == way.command else name)
    return State(CLEAN)


def _choose(ways: Sequence[Way], states: Sequence[State], *, no_deprecated: bool) -> Way | None:
    pairs = list(zip(ways, states, strict=True))
    if no_deprecated:
        return next((way for way, state in reversed(pairs) if state.clean), None)
    return next((way for way, state in pairs if state.works), None)
