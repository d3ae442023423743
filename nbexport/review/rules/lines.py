"""What a rule about the wire is made of: a line of a table, and the small schemas it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport.qapi.model import Member
from nbexport.review.finding import Direction, Level
from nbexport.review.rules.registry import Example
from nbexport.review.rules.subject import named_experiment

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbexport.review.compare import Kind
    from nbexport.review.facts import Difference

SENDS, RECEIVES, NOBODY = Direction.SENDS, Direction.RECEIVES, Direction.NONE
BREAKING, RISKY, NOTICE, INFO = Level.BREAKING, Level.RISKY, Level.NOTICE, Level.INFO
SPECIAL = ("deprecated", "unstable")

KEEP = "Keep it, deprecate it, and remove it when the window is over."


def call(data: str, *, more: str = "") -> str:
    """Return a schema with one command that takes arguments."""
    return f"{{ 'command': 'add-map', 'data': {data}{more} }}\n"


def result(data: str) -> str:
    """Return a schema with one command that returns an object."""
    return f"{{ 'struct': 'Map', 'data': {data} }}\n{{ 'command': 'get-map', 'returns': 'Map' }}\n"


def values(data: str, *, returned: bool = False) -> str:
    """Return a schema with an enumeration that is sent or returned."""
    mode = f"{{ 'enum': 'Mode', 'data': {data} }}\n"
    return mode + (result("{ 'mode': 'Mode' }") if returned else call("{ 'mode': 'Mode' }"))


def plain(*words: str) -> str:
    """Return a schema out of definitions."""
    return "".join(f"{{ {word} }}\n" for word in words)


def change(old: str, new: str) -> Example:
    """Return an example out of two texts."""
    return Example(old, new)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: a rule, and which differences it is about."""

    id: str
    level: Level
    what: str
    direction: Direction
    kind: Kind
    message: str
    reason: str
    fix: str
    positive: Example
    negative: Example
    opposite: str
    only: Callable[[Difference], bool] = lambda _: True
    companions: tuple[str, ...] = ()


def required(difference: Difference) -> bool:
    """Whether a difference is about a member that is always there."""
    part = difference.new_part or difference.old_part
    return isinstance(part, Member) and not part.optional


def optional(difference: Difference) -> bool:
    """Whether a difference is about a member that may be missing."""
    return not required(difference)


def plain_feature(difference: Difference) -> bool:
    """Whether a feature is one that no policy acts on."""
    return difference.name not in SPECIAL


def announced_feature(difference: Difference) -> bool:
    """Whether a new feature changes no promise; ``unstable`` does not where the name says it."""
    return plain_feature(difference) or (
        difference.name == "unstable"
        and all(named_experiment(reach.element) for reach in difference.reaches)
    )


def named(name: str) -> Callable[[Difference], bool]:
    """Return the test for differences of one name."""
    return lambda difference: difference.name == name


NAME = "{ 'name': 'str' }"
BOTH = "{ 'name': 'str', '*size': 'int' }"
ANY = "{ 'name': 'str', 'size': 'int' }"
