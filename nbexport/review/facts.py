"""The differences of two schemas on the wire, each once, with all ways by which clients meet it.

Pairs of types form a graph: commands and events lead to a pair, members lead on. Each pair is
compared once, whatever leads to it, so types may refer to themselves. A difference is told once
for each piece of text that causes it, however many commands reach that text.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbexport.qapi.model import Command, Event
from nbexport.review.compare import Compared, Comparer, Edge, Kind, Local
from nbexport.review.finding import Direction, Place
from nbexport.review.wire import Side, is_introspected, place_of, type_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.qapi import Schema
    from nbexport.qapi.model import Type
    from nbexport.review.compare import Part

_Pair = tuple[int, int]
_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True, order=True)
class Reach:
    """A way by which a client meets a difference.

    Args:
        root: the command or event.
        element: the element of the wire: ``block-export-add.bitmaps[].node``; what a command
            returns is below ``COMMAND.returns``.
        path: the way through the schema's text: ``("block-export-add", "BlockExportOptions",
            "type=nbd", "BlockExportOptionsNbd", "bitmaps")``.
    """

    root: str
    element: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference on the wire.

    Args:
        kind: what is different.
        direction: who sends it; for features, conditions and flags of a command or event, and
            for these themselves, nobody.
        name: the command, event, member, value, feature or flag.
        owner: the definition whose text causes it, as the new schema names it if it is there.
        reaches: the commands and events by which it is met, one way for each; the shortest first.
        was: the form before in words: a type, a condition; of what is gone, too.
        now: the form now.
        old: where the old schema has it.
        new: where the new schema has it.
        old_part: the piece of the old schema.
        new_part: the piece of the new schema.
    """

    kind: Kind
    direction: Direction
    name: str
    owner: str
    reaches: tuple[Reach, ...]
    was: str = ""
    now: str = ""
    old: Place | None = None
    new: Place | None = None
    old_part: Part | None = field(default=None, compare=False, repr=False)
    new_part: Part | None = field(default=None, compare=False, repr=False)

    @property
    def root(self) -> str:
        """The command or event that stands for all."""
        return self.reaches[0].root

    @property
    def element(self) -> str:
        """The element of the wire."""
        return self.reaches[0].element

    @property
    def path(self) -> tuple[str, ...]:
        """The way to it."""
        return self.reaches[0].path

    @property
    def roots(self) -> tuple[str, ...]:
        """All commands and events that reach it."""
        return tuple(reach.root for reach in self.reaches)


def differences(old: Schema, new: Schema) -> list[Difference]:
    """Return how two schemas differ for clients.

    Names of types, bases and the split of unions into branches do not count; what a client may
    send and what it may receive does, each judged apart. Conditions are compared where both
    schemas are text and count all symbols as defined; a schema with chosen symbols, or one from
    introspection, is compared as that build has it.

    Args:
        old: the schema before.
        new: the schema after.

    Returns:
        The differences in the order of the new schema, then what only the old one has.
    """
    return _Walk(old, new).run()


FLAGS = {
    "allow_oob": "out-of-band",
    "allow_preconfig": "preconfig",
    "success_response": "reply",
    "gen": "checked",
}
"""The flags of a command that clients notice, and what each is called in a difference."""


class _Walk:
    def __init__(self, old: Schema, new: Schema) -> None:
        conditional = not any(
            is_introspected(schema) or schema.symbols != schema.all_symbols for schema in (old, new)
        )
        self._old = Side(old, conditional=conditional)
        self._new = Side(new, conditional=conditional)
        self._comparer = Comparer(self._old, self._new)
        self._flags = not any(map(is_introspected, (old, new)))
        # everything by the identity of both types, which the schemas keep alive
        self._pairs: dict[_Pair, Compared] = {}
        self._starts: list[tuple[str, Direction, Edge]] = []
        self._found: dict[_Key, tuple[Local, Direction, list[Reach]]] = {}

    def run(self) -> list[Difference]:
        old, new = self._calls(self._old), self._calls(self._new)
        for name, entity in new.items():
            before = old.get(name)
            if before is None or before.meta != entity.meta:
                self._added(entity)
            else:
                self._call(before, entity)
        for name, entity in old.items():
            after = new.get(name)
            if after is None or after.meta != entity.meta:
                self._removed(entity)
        self._explore()
        interesting = self._interesting()
        for root, direction, start in self._starts:
            if (id(start.old), id(start.new)) in interesting:
                self._reach(root, direction, start, interesting)
        return [self._difference(*entry) for entry in self._found.values()]

    def _calls(self, side: Side) -> dict[str, Command | Event]:
        return {
            entity.name: entity
            for entities in side.schema.modules.values()
            for entity in entities
            if isinstance(entity, Command | Event) and side.has(entity)
        }

    # -- commands and events ------------------------------------------------------------------

    def _added(self, entity: Command | Event) -> None:
        kind = Kind.COMMAND_ADDED if isinstance(entity, Command) else Kind.EVENT_ADDED
        self._add(
            Local(kind, "", (), entity.name, entity.name, new=entity, new_place=(entity.name, 0)),
            Direction.NONE,
            Reach(entity.name, entity.name, (entity.name,)),
        )

    def _removed(self, entity: Command | Event) -> None:
        kind = Kind.COMMAND_REMOVED if isinstance(entity, Command) else Kind.EVENT_REMOVED
        self._add(
            Local(kind, "", (), entity.name, entity.name, old=entity, old_place=(entity.name, 0)),
            Direction.NONE,
            Reach(entity.name, entity.name, (entity.name,)),
        )

    def _call(self, old: Command | Event, new: Command | Event) -> None:
        name = new.name
        for local in self._comparer.entities(old, new):
            self._add(local, Direction.NONE, Reach(name, name + local.suffix, (name, *local.steps)))
        arg = Edge("", (), self._arg(self._old, old), self._arg(self._new, new))
        if isinstance(old, Command) and isinstance(new, Command):
            self._command_flags(old, new)
            self._starts.append((name, Direction.SENDS, arg))
            self._returns(old, new)
        else:
            self._starts.append((name, Direction.RECEIVES, arg))

    def _arg(self, side: Side, entity: Command | Event) -> Type:
        return entity.arg_type or side.schema.empty

    def _command_flags(self, old: Command, new: Command) -> None:
        for flag, shown in FLAGS.items():
            if not self._flags and flag != "allow_oob":
                # introspection does not tell
                continue
            was, now = getattr(old, flag), getattr(new, flag)
            if was != now:
                kind = Kind.FLAG_ADDED if now else Kind.FLAG_REMOVED
                local = Local(
                    kind,
                    "",
                    (),
                    new.name,
                    shown,
                    old=old,
                    new=new,
                    old_place=(old.name, 0),
                    new_place=(new.name, 0),
                )
                self._add(local, Direction.NONE, Reach(new.name, new.name, (new.name, shown)))

    def _returns(self, old: Command, new: Command) -> None:
        was = old.ret_type or self._old.schema.empty
        now = new.ret_type or self._new.schema.empty
        verdict, edges = self._comparer.relate(was, now, ".returns", ("returns",))
        self._starts += [(new.name, Direction.RECEIVES, edge) for edge in edges]
        if verdict is not None:
            local = Local(
                verdict,
                ".returns",
                ("returns",),
                new.name,
                "returns",
                type_text(self._old, was),
                type_text(self._new, now),
                old,
                new,
                (old.name, 0),
                (new.name, 0),
            )
            reach = Reach(new.name, f"{new.name}.returns", (new.name, "returns"))
            self._add(local, Direction.RECEIVES, reach)

    # -- types ----------------------------------------------------------------------------------

    def _explore(self) -> None:
        """Compare every pair of types that something leads to."""
        waiting = [(start.old, start.new) for _, _, start in self._starts]
        while waiting:
            old, new = waiting.pop()
            key = id(old), id(new)
            if key not in self._pairs:
                compared = self._pairs[key] = self._comparer.types(old, new)
                waiting += [(edge.old, edge.new) for edge in compared.edges]

    def _interesting(self) -> set[_Pair]:
        """Return the pairs that differ, or lead to one that does."""
        above: dict[_Pair, list[_Pair]] = {}
        for key, compared in self._pairs.items():
            for edge in compared.edges:
                above.setdefault((id(edge.old), id(edge.new)), []).append(key)
        waiting = [key for key, compared in self._pairs.items() if compared.locals]
        found = set(waiting)
        while waiting:
            for key in above.get(waiting.pop(), ()):
                if key not in found:
                    found.add(key)
                    waiting.append(key)
        return found

    def _reach(self, root: str, direction: Direction, start: Edge, interesting: set[_Pair]) -> None:
        """Go from a command or event to the pairs that differ, the nearest first."""
        first = id(start.old), id(start.new)
        seen = {first}
        waiting = deque([(first, f"{root}{start.suffix}", (root, *start.steps))])
        while waiting:
            key, element, path = waiting.popleft()
            compared = self._pairs[key]
            for local in compared.locals:
                reach = Reach(root, element + local.suffix, path + local.steps)
                self._add(local, direction, reach)
            for edge in compared.edges:
                below = id(edge.old), id(edge.new)
                if below in interesting and below not in seen:
                    seen.add(below)
                    waiting.append((below, element + edge.suffix, path + edge.steps))

    # -- results --------------------------------------------------------------------------------

    def _add(self, local: Local, direction: Direction, reach: Reach) -> None:
        key: _Key = (
            *(direction, local.kind, local.owner, local.name, local.was, local.now),
            # a feature of a member is told apart from that of its neighbour by the line
            *(local.old_place, local.new_place),
        )
        known = self._found.get(key)
        if known is None:
            self._found[key] = local, direction, [reach]
        elif all(other.root != reach.root for other in known[2]):
            known[2].append(reach)

    def _difference(self, local: Local, direction: Direction, reaches: list[Reach]) -> Difference:
        reaches.sort(key=lambda reach: (len(reach.path), reach.element))
        return Difference(
            local.kind,
            direction,
            local.name,
            local.owner,
            tuple(reaches),
            local.was,
            local.now,
            _place(self._old, local.old_place),
            _place(self._new, local.new_place),
            local.old,
            local.new,
        )


def _place(side: Side, place: tuple[str, int] | None) -> Place | None:
    if place is None:
        return None
    entity = side.schema.entities.get(place[0])
    return None if entity is None else place_of(entity, place[1])


def differ(old: Schema, new: Schema) -> Iterator[str]:
    """Give the differences as lines of text, for a quick look."""
    for item in differences(old, new):
        arrow = f": {item.was} -> {item.now}" if item.was or item.now else ""
        yield f"{item.kind} {item.element}{arrow}"
