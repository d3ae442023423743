"""What a monitor does about what is deprecated or unstable: QEMU's ``-compat``.

Input is accepted, rejected, or makes the process crash; output is sent or hidden. A thing that is
both deprecated and unstable is judged as deprecated first. The policy looks at a command when it
has been found and before its arguments are, at a member when the walk over the arguments comes to
it, at a value when it has been recognised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbexport.errors import CommandError, UsageError
from nbexport.qapi.findings import special_features
from nbexport.qapi.model import EnumMember, EnumType, Member, ObjectType
from nbexport.qapi.schema import Schema
from nbexport.qapi.validate import Visitor, validate
from nbexport.qmp.jsonstream import JsonStream

if TYPE_CHECKING:
    from nbexport.qapi.model import Event, Feature, Type

ACCEPT, REJECT, CRASH, HIDE = "accept", "reject", "crash", "hide"
# -compat came with the first, its options for what is unstable with the second
DEPRECATED_SINCE = (6, 0)
UNSTABLE_SINCE = (6, 2)
# values of enumerations have features since 6.2, which also took the quotes from an argument's name
_PLAIN_NAMES_SINCE = (6, 2)
_LIMIT = 64 * 1024


class PolicyCrashError(Exception):
    """The policy wants the process to end at once, without an answer."""


@dataclass(frozen=True)
class CompatPolicy:
    """What is done about deprecated and unstable interfaces.

    Attributes:
        deprecated_input: ``accept``, ``reject`` or ``crash``.
        deprecated_output: ``accept`` or ``hide``.
        unstable_input: as for what is deprecated.
        unstable_output: as for what is deprecated.
        release: the release whose texts are wanted.
    """

    deprecated_input: str = ACCEPT
    deprecated_output: str = ACCEPT
    unstable_input: str = ACCEPT
    unstable_output: str = ACCEPT
    release: tuple[int, ...] = (9999,)

    @classmethod
    def parse(cls, text: str, release: tuple[int, ...]) -> CompatPolicy:
        """Return the policy that the argument of ``-compat`` asks for.

        Args:
            text: ``name=value,...`` or a JSON object; a comma in a value is doubled.
            release: the release that is asked.

        Raises:
            UsageError: the release has no policies, or not this one; the text is QEMU's.
        """
        if release < DEPRECATED_SINCE:
            raise UsageError("invalid option")
        value = _json(text) if text.startswith("{") else _key_values(text)
        kind = _option_type(release)
        known = [member.name for member in kind.members]
        for name, member in value.items():
            if isinstance(member, dict) and name in known:
                raise UsageError(f"Parameters '{name}.*' are unexpected")
        try:
            validate(Schema([], root="compat"), kind, value, release=release)
        except CommandError as error:
            raise UsageError(error.desc) from error
        options = {name.replace("-", "_"): setting for name, setting in value.items()}
        return cls(**options, release=release)

    # -- input ------------------------------------------------------------------------------

    def check_input(
        self, schema: Schema, features: tuple[Feature, ...], what: str, name: str
    ) -> None:
        """Let something pass that a client uses, or not.

        Args:
            schema: decides which features are compiled in.
            features: those of the thing.
            what: ``command``, ``parameter`` or ``value``.
            name: its name.

        Raises:
            CommandError: it is rejected.
            PolicyCrashError: the process has to crash.
        """
        if not features:
            return
        for feature in special_features(schema, features):
            wanted = self.deprecated_input if feature == "deprecated" else self.unstable_input
            if wanted == CRASH:
                raise PolicyCrashError
            if wanted == REJECT:
                quoted = what == "parameter" and self.release < _PLAIN_NAMES_SINCE
                shown = f"'{name}'" if quoted else name
                error_class = "CommandNotFound" if what == "command" else "GenericError"
                raise CommandError(
                    f"{feature.capitalize()} {what} {shown} disabled by policy",
                    error_class=error_class,
                )

    def validate(self, schema: Schema, kind: Type | None, value: Any) -> None:
        """Check arguments against their type and this policy, in the order of one walk.

        Raises:
            CommandError: they do not fit, or use what is rejected.
            PolicyCrashError: the process has to crash.
        """
        _PolicyVisitor(schema, self).run(kind or schema.empty, value)

    # -- output -----------------------------------------------------------------------------

    @property
    def hides_some(self) -> bool:
        """Whether any output is hidden."""
        return HIDE in (self.deprecated_output, self.unstable_output)

    def hides(self, schema: Schema, part: Member | Event) -> bool:
        """Return whether a member or an event is left out of what is sent."""
        if not part.features or not self.hides_some:
            return False
        found = special_features(schema, part.features)
        return (self.deprecated_output == HIDE and "deprecated" in found) or (
            self.unstable_output == HIDE and "unstable" in found
        )

    def filter_schema(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return an introspection without what is deprecated, if that is hidden.

        Commands, events, types and members of objects go; values of enumerations, and what is
        unstable, stay, as in QEMU. The types that only a removed command used stay, too.
        """
        if self.deprecated_output != HIDE:
            return entries
        shown = []
        for entry in entries:
            if "deprecated" in entry.get("features", ()):
                continue
            if entry["meta-type"] == "object":
                members = [
                    member
                    for member in entry["members"]
                    if "deprecated" not in member.get("features", ())
                ]
                shown.append(entry | {"members": members})
            else:
                shown.append(entry)
        return shown


class _PolicyVisitor(Visitor):
    """The walk over arguments, with a look at the features of what is used."""

    def __init__(self, schema: Schema, policy: CompatPolicy) -> None:
        super().__init__(schema, policy.release)
        self._policy = policy

    def uses_member(self, member: Member) -> None:
        self._policy.check_input(self._schema, member.features, "parameter", member.name)

    def uses_value(self, kind: EnumType, value: EnumMember, name: str | None) -> None:  # noqa: ARG002 - the walk's signature
        self._policy.check_input(self._schema, value.features, "value", value.name)


def _option_type(release: tuple[int, ...]) -> ObjectType:
    """Return the type of the option's argument in a release."""
    settings = {
        "input": EnumType(
            "CompatPolicyInput", members=tuple(map(EnumMember, (ACCEPT, REJECT, CRASH)))
        ),
        "output": EnumType("CompatPolicyOutput", members=tuple(map(EnumMember, (ACCEPT, HIDE)))),
    }
    kinds = ["deprecated"] if release < UNSTABLE_SINCE else ["deprecated", "unstable"]
    members = []
    for kind in kinds:
        for direction, type_ in settings.items():
            member = Member(f"{kind}-{direction}", type_.name, optional=True)
            member.type = type_
            members.append(member)
    policy = ObjectType("CompatPolicy")
    policy.local_members = policy.members = tuple(members)
    return policy


def _json(text: str) -> dict[str, Any]:
    stream = JsonStream()
    stream.feed(text.encode() + b"\n")
    message = stream.next()
    if message is None or message.error is not None or stream.next() is not None:
        raise UsageError("not one JSON object" if message is None else str(message.error))
    assert isinstance(message.value, dict)
    return message.value


def _key_values(text: str) -> dict[str, Any]:
    """Return the pairs of QEMU's ``key=value,...``; the last one of a key counts."""
    if len(text) > _LIMIT:
        raise UsageError(f"more than {_LIMIT} characters")
    pairs: dict[str, Any] = {}
    if not text:
        return pairs
    for part in text.replace(",,", "\0").removesuffix(",").split(","):
        key, equals, value = part.replace("\0", ",").partition("=")
        if not key:
            raise UsageError("Invalid parameter ''")
        if not equals:
            raise UsageError(f"Expected '=' after parameter '{key}'")
        first, dot, _rest = key.partition(".")
        pairs[first] = {} if dot else value
    return pairs
