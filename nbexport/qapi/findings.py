"""What is wrong or unwise about a QMP command, all of it: errors, deprecated and unstable use.

Errors have QEMU's words, and the first one is the one that QEMU answers with; QEMU stops there,
this goes on. Deprecated and unstable members and values are found wherever they are nested, in
arrays, branches and alternates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbexport.qapi.model import SPECIAL_FEATURES
from nbexport.qapi.order import qdict_order
from nbexport.qapi.validate import NEWEST, Visitor

if TYPE_CHECKING:
    from nbexport.qapi.model import Entity, EnumMember, EnumType, Feature, Member
    from nbexport.qapi.schema import Schema

ERROR = "error"
WARNING = "warning"
# A command of 64 MiB can hold two million wrong values; some 300 bytes for each finding make
# this 0.3 MB.
MAX_FINDINGS = 1000

_IMPLICIT = "q_obj_"
_ROLES = ("-arg", "-base", "-wrapper")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a command.

    Attributes:
        level: ``error`` if the release refuses the command for it, else ``warning``.
        kind: ``not-a-command``, ``unknown-command``, ``no-oob``, ``unknown-member``,
            ``missing-member``, ``wrong-type``, ``out-of-range``, ``unknown-value``,
            ``deprecated-command``, ``deprecated-member``, ``deprecated-value`` and their
            ``unstable-`` counterparts, or ``more-findings`` where the list was cut.
        path: the place in the command, ``arguments.bitmaps[0].name`` for example; empty for the
            whole.
        message: one line; QEMU's words for errors.
        instead: what to use instead of something deprecated, from its documentation; None where
            the schema does not tell.
        entity: what the schema calls it: a command, ``TYPE.MEMBER``, ``ENUM.VALUE``; empty if
            the schema has nothing like it.
    """

    level: str
    kind: str
    path: str
    message: str
    instead: str | None = None
    entity: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the finding as a JSON object; a member without content is left out."""
        shown = {
            "level": self.level,
            "kind": self.kind,
            "path": self.path,
            "message": self.message,
            "instead": self.instead,
            "entity": self.entity,
        }
        return {name: value for name, value in shown.items() if value}


def validate_command(
    schema: Schema, command: Any, *, release: tuple[int, ...] = NEWEST
) -> list[Finding]:
    """Return everything that can be said about a command as sent.

    Args:
        schema: the interface that it is sent to.
        command: the whole JSON value: ``execute`` or ``exec-oob``, ``arguments``, ``id``.
        release: the release whose error texts are wanted.

    Returns:
        The findings in the order in which QEMU would meet them; none means accepted.
    """
    if not isinstance(command, Mapping):
        return [Finding(ERROR, "not-a-command", "", "QMP input must be a JSON object")]
    command = dict(command)
    findings: list[Finding] = []
    name = _envelope(command, findings)
    if name is None:
        return findings
    where = "exec-oob" if "exec-oob" in command and "execute" not in command else "execute"
    entity = schema.command(name)
    if entity is None:
        message = f"The command {name} has not been found"
        findings.append(Finding(ERROR, "unknown-command", where, message))
        return findings
    findings += [
        _used(feature, "command", name, where, entity=name, documented=entity)
        for feature in special_features(schema, entity.features)
    ]
    if where == "exec-oob" and not entity.allow_oob:
        message = f"The command {name} does not support OOB"
        findings.append(Finding(ERROR, "no-oob", where, message, entity=name))
    arguments = command.get("arguments", {})
    if isinstance(arguments, dict) and entity.gen:
        # a command that is not generated takes its arguments unchecked
        collector = _Collector(schema, release, name, findings)
        try:
            collector.run(entity.arg_type or schema.empty, arguments)
        except _EnoughError:
            findings.append(
                Finding(ERROR, "more-findings", "", f"findings after the first {MAX_FINDINGS}")
            )
    return findings


def _envelope(command: dict[str, Any], findings: list[Finding]) -> str | None:
    """Check the members of the request itself; return the command's name if it has one."""

    def fault(path: str, message: str) -> None:
        findings.append(Finding(ERROR, "not-a-command", path, message))

    name: str | None = None
    seen = ""
    clash = False
    for member in qdict_order(command):
        value = command[member]
        if member in ("execute", "exec-oob"):
            if not isinstance(value, str):
                fault(member, f"QMP input member '{member}' must be a string")
            elif seen:
                fault(member, f"QMP input member '{member}' clashes with '{seen}'")
                clash = True
            else:
                seen, name = member, value
        elif member == "arguments":
            if not isinstance(value, dict):
                fault(member, "QMP input member 'arguments' must be an object")
        elif member != "id":
            fault(member, f"QMP input member '{member}' is unexpected")
            if len(findings) >= MAX_FINDINGS:
                break
    if "execute" not in command and "exec-oob" not in command:
        fault("", "QMP input lacks member 'execute'")
    return None if clash else name


def special_features(schema: Schema, features: tuple[Feature, ...]) -> list[str]:
    """Return which of ``deprecated`` and ``unstable`` are among the features, in that order."""
    names = {feature.name for feature in features if schema.enabled(feature)}
    return [name for name in SPECIAL_FEATURES if name in names]


def _used(
    feature: str,
    what: str,
    name: str,
    path: str,
    *,
    entity: str,
    documented: Entity | None,
) -> Finding:
    """Return the finding for the use of something deprecated or unstable."""
    word = "argument" if what == "member" else what
    doc = documented.doc if documented is not None else None
    section = doc.features.get(feature) if doc is not None else None
    instead = " ".join(section.text.split()) if section is not None else ""
    return Finding(
        WARNING,
        f"{feature}-{what}",
        path,
        f"{word} '{name}' is {feature}",
        instead or None if feature == "deprecated" else None,
        entity,
    )


class _EnoughError(Exception):
    """The list of findings is full."""


class _Collector(Visitor):
    """A walk that goes on after faults and notes what is deprecated or unstable."""

    def __init__(
        self, schema: Schema, release: tuple[int, ...], command: str, findings: list[Finding]
    ) -> None:
        super().__init__(schema, release)
        self._command = command
        self._findings = findings

    def _note(self, finding: Finding) -> None:
        if len(self._findings) >= MAX_FINDINGS:
            raise _EnoughError
        self._findings.append(finding)

    def _where(self, name: str | None) -> str:
        path = self.path(name)
        if name is None and not path:
            return "arguments"
        return f"arguments.{path}"

    def fault(self, kind: str, name: str | None, message: str) -> None:
        """Note a fault."""
        self._note(Finding(ERROR, kind, self._where(name), message, entity=self._command))

    def uses_member(self, member: Member) -> None:
        """Note a member that is deprecated or unstable."""
        owner = owner_name(member.defined_in)
        for feature in special_features(self._schema, member.features):
            self._note(
                _used(
                    feature,
                    "member",
                    member.name,
                    self._where(member.name),
                    entity=f"{owner}.{member.name}" if owner else member.name,
                    documented=self._schema.entities.get(owner),
                )
            )

    def uses_value(self, kind: EnumType, value: EnumMember, name: str | None) -> None:
        """Note a value that is deprecated or unstable."""
        for feature in special_features(self._schema, value.features):
            self._note(
                _used(
                    feature,
                    "value",
                    value.name,
                    self._where(name),
                    entity=f"{kind.name}.{value.name}",
                    documented=kind,
                )
            )


def owner_name(defined_in: str) -> str:
    """Return the definition whose text holds the members of a type.

    The type of a command's inline arguments belongs to the command, that of a union's inline
    base to the union.
    """
    if not defined_in.startswith(_IMPLICIT):
        return defined_in
    name = defined_in.removeprefix(_IMPLICIT)
    for role in _ROLES:
        if name.endswith(role):
            return name.removesuffix(role)
    return name
