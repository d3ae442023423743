"""What an element of the interface looks like on the wire, release by release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport import qapi
from nbexport.errors import UsageError
from nbexport.qapi.model import ObjectType
from nbexport.sources.describe import parts_of
from nbexport.timeline.elements import find_element, parse_element

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.qapi import Schema
    from nbexport.timeline.elements import Form


@dataclass(frozen=True)
class EffectiveMember:
    """A member that a client may send, or is sent, wherever the schema's text declares it.

    Attributes:
        name: as on the wire.
        type: in the notation of the schema language: ``str``, ``[str]``, ``safe|hard``.
        optional: whether it can be left out.
        branch: ``type=nbd`` for a member that exists for that value of the tag only, else empty.
        features: ``deprecated``, ``unstable`` and the like.
    """

    name: str
    type: str
    optional: bool
    branch: str = ""
    features: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name, with the branch in brackets."""
        return f"{self.name} ({self.branch})" if self.branch else self.name

    def __str__(self) -> str:
        words = [self.type + ("?" if self.optional else ""), *self.features]
        return ", ".join(words)


def effective_members(schema: Schema, name: str) -> list[EffectiveMember] | None:
    """Return the members of a command's arguments, an event's data or a type, flattened.

    Bases come first, then own members, then those of each branch of a union, in the order of the
    schema; that is also the order in which QEMU looks at them.

    Args:
        schema: the interface.
        name: a command, an event or an object type.

    Returns:
        The members; None if the schema has nothing of that name.

    Raises:
        UsageError: it is a type without members.
    """
    entity = schema.command(name) or schema.event(name)
    kind = entity.arg_type if entity is not None else schema.find_type(name)
    if kind is None:
        return None if entity is None else []
    if not isinstance(kind, ObjectType):
        raise UsageError(f"{kind.describe()} has no members")
    return [
        EffectiveMember(part.name, part.type, part.optional, part.branch, part.features)
        for part in parts_of(schema, entity or kind)
    ]


@dataclass(frozen=True)
class History:
    """An element's members through releases.

    Attributes:
        name: the element.
        releases: the releases, in the order in which they were asked for.
        states: for each release the features of the element itself; None where it does not exist.
        members: for each title of a member its form in each release, None where it has none.
    """

    name: str
    releases: tuple[str, ...]
    states: tuple[tuple[str, ...] | None, ...]
    members: dict[str, tuple[EffectiveMember | None, ...]]


def history(name: str, releases: Sequence[str]) -> History:
    """Return what an element looks like in each release.

    Raises:
        UsageError: a release is not known, or the element exists in none of them.
    """
    forms: list[dict[str, EffectiveMember]] = []
    states: list[tuple[str, ...] | None] = []
    order: dict[str, None] = {}
    for release in releases:
        schema = qapi.load_release(release)
        members = effective_members(schema, name)
        entity = schema.command(name) or schema.event(name) or schema.find_type(name)
        states.append(
            None
            if members is None or entity is None
            else tuple(f.name for f in entity.features if schema.enabled(f))
        )
        forms.append({member.title: member for member in members or []})
        order.update(dict.fromkeys(forms[-1]))
    if all(state is None for state in states):
        raise UsageError(f"no element '{name}' in releases {', '.join(releases)}")
    return History(
        name,
        tuple(releases),
        tuple(states),
        {title: tuple(form.get(title) for form in forms) for title in order},
    )


ABSENT, PRESENT = "", "yes"


def availability(name: str, releases: Sequence[str]) -> tuple[str, ...]:
    """Return what each release has of an element.

    Args:
        name: the element in the notation of ``nbexport.timeline.elements``: a command,
            ``COMMAND MEMBER``, ``ENUM=VALUE``; a member of a branch counts, whatever the branch.
        releases: the releases to look at.

    Returns:
        For each release ``yes``; its features, such as ``deprecated``, where it has some; an
        empty text where it does not exist.

    Raises:
        UsageError: a release is not known, or the text names no element.
    """
    element = parse_element(name)
    forms = [find_element(qapi.load_release(release), element) for release in releases]
    return tuple(_availability(form) for form in forms)


def _availability(form: Form | None) -> str:
    if form is None:
        return ABSENT
    return ", ".join(dict.fromkeys([*form.inherited, *form.features])) or PRESENT
