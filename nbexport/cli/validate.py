"""``nbexport validate``."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from nbexport.errors import SourceError, UsageError
from nbexport.qapi.findings import ERROR, WARNING, Finding, validate_command
from nbexport.qapi.validate import NEWEST
from nbexport.qmp.jsonstream import JsonStream, Message
from nbexport.sources import LoadedSchema, load
from nbexport.timeline.releases import deprecated_in
from nbexport.units import KiB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Lines are read in pieces, so that a file of one long line costs no more than the reader's limit.
_PIECE = 64 * KiB
# What a monitor sends has one of these and no "execute"; logs hold both directions.
_FROM_MONITOR = ("return", "error", "event", "QMP")
_LEVELS = (ERROR, WARNING)


@dataclass(frozen=True, slots=True)
class Placed:
    """A value of the input.

    Attributes:
        line: the line on which it begins, from 1.
        message: the value, or what is wrong with it.
    """

    line: int
    message: Message


def read_stream(file: BinaryIO) -> Iterator[Placed]:
    """Give the JSON values of a stream with the lines on which they begin.

    A value that the end of the stream cuts off is given as an error.
    """
    stream = JsonStream()
    line = 1
    start: int | None = None
    while piece := file.readline(_PIECE):
        stream.feed(piece)
        rest = piece
        while True:
            if start is None and rest.strip():
                start = line
            message = stream.next()
            if message is None:
                break
            rest = piece[len(piece) - stream.buffered :]
            yield Placed(start or line, message)
            start = None
            if message.error is not None and not any(letter in rest for letter in b"{}[]:,"):
                # after an error the reader skips what has no structure
                rest = b""
        line += piece.endswith(b"\n")
    stream.feed(b"\n")
    last = stream.next()
    if last is not None:
        yield Placed(start or line, last)
    elif start is not None:
        yield Placed(start, Message(error="JSON parse error, the input ends inside of a value"))


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - closed below; only opening is guarded
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    with file:
        yield file


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one command.

    Attributes:
        file: name of the input.
        line: the line on which the command begins.
        command: its name, empty if it has none.
        findings: in the order in which QEMU would meet them.
    """

    file: str
    line: int
    command: str
    findings: tuple[Finding, ...]

    @property
    def accepted(self) -> bool:
        """Whether the release runs it."""
        return all(finding.level != ERROR for finding in self.findings)


def _text(verdict: Verdict) -> str:
    title = verdict.command or "(no command)"
    place = f"{verdict.file}:{verdict.line}: {title}"
    if not verdict.findings:
        return f"{place}: accepted"
    return "\n".join(
        f"{place}: {finding.level}: "
        + (f"{finding.path}: " if finding.path else "")
        + _sentence(finding)
        for finding in verdict.findings
    )


def _sentence(finding: Finding) -> str:
    hint = f" ({finding.instead})" if finding.instead else ""
    return f"{finding.message}{hint} [{finding.kind}]"


def _json(verdict: Verdict) -> str:
    shown: dict[str, Any] = {
        "file": verdict.file,
        "line": verdict.line,
        "command": verdict.command,
        "accepted": verdict.accepted,
        "findings": [finding.as_json() for finding in verdict.findings],
    }
    return json.dumps(shown)


def _github(verdict: Verdict) -> str:
    """Give workflow commands; the escapes are those of GitHub's toolkit."""
    lines = []
    for finding in verdict.findings:
        properties = {"file": verdict.file, "line": str(verdict.line), "title": finding.kind}
        if verdict.file == "-":
            del properties["file"]
        listed = ",".join(f"{key}={_escape(value, ',:')}" for key, value in properties.items())
        where = f"{verdict.command} {finding.path}".strip()
        hint = f" ({finding.instead})" if finding.instead else ""
        text = _escape(f"{where + ': ' if where else ''}{finding.message}{hint}", "")
        lines.append(f"::{finding.level} {listed}::{text}")
    return "\n".join(lines)


def _escape(text: str, more: str) -> str:
    for letter in "%\r\n" + more:
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text


_FORMATS: dict[str, Callable[[Verdict], str]] = {"text": _text, "json": _json, "github": _github}


@click.command("validate")
@click.argument("file", default="-", metavar="[FILE|-]")
@click.option("-r", "--release", metavar="RELEASE", help="Check against the interface of 7.2, say.")
@click.option(
    "--against",
    metavar="SOURCE",
    help="Check against another schema: a file or folder, git:REPO@REV[:path], qmp:ADDRESS, or a "
    "saved answer to query-qmp-schema.",
)
@click.option("--no-deprecated", is_flag=True, help="What is deprecated counts as an error.")
@click.option("--no-unstable", is_flag=True, help="What is unstable counts as an error.")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(_FORMATS)),
    default="text",
    show_default=True,
    help="json is one object a line, github is annotations for a workflow.",
)
@click.option(
    "--fail-on",
    type=click.Choice(_LEVELS),
    default=ERROR,
    show_default=True,
    help="The lowest level of a finding that gives exit status 1.",
)
def validate_stream(
    *,
    file: str,
    release: str | None,
    against: str | None,
    no_deprecated: bool,
    no_unstable: bool,
    form: str,
    fail_on: str,
) -> None:
    """Check the QMP commands in FILE, or on standard input, against a schema.

    \b
      nbexport validate --release 7.2 commands.json
      nbexport validate --release 7.2 --no-deprecated < monitor.log
      nbexport validate --against qmp:/tmp/qmp.sock --format github commands.json

    The input is a stream of JSON objects as a monitor reads them: over several lines, several in
    a line, or one a line as in a log; strings may have single quotes. Greetings, replies and
    events, as logs have them, are skipped. An array of commands is not taken apart: a monitor
    refuses it, and so does this.

    For each command every finding is reported with the file and the line where the command
    begins. Errors have QEMU's words, the first is the one that QEMU answers with: unknown command,
    unknown or missing argument, wrong type or value. Warnings tell of commands, arguments and
    values that are deprecated, with what to use instead if the schema says so, or unstable,
    wherever they are nested. What a command does is not looked at, only its form.

    A running monitor and a saved answer tell neither the width of integers nor the names of types,
    so numbers out of range pass.

    Exit status: 0 no findings at the level of --fail-on, 1 some, 2 wrong usage.
    """  # noqa: D301 - click wants the \b itself
    if (release is None) == (against is None):
        raise click.UsageError("give one of --release and --against.")
    try:
        loaded = load(f"release:{release}" if against is None else against)
    except UsageError as error:
        raise click.UsageError(f"{error}.") from error
    raised = [
        word for word, on in (("deprecated-", no_deprecated), ("unstable-", no_unstable)) if on
    ]
    name = "stdin" if file == "-" and form == "text" else file
    counts = dict.fromkeys(("commands", "accepted", "refused", "skipped"), 0)
    failed = False
    with _opened(file) as stream:
        for placed in read_stream(stream):
            verdict = _judge(loaded, placed, name, tuple(raised))
            if verdict is None:
                counts["skipped"] += 1
                continue
            counts["commands"] += 1
            counts["accepted" if verdict.accepted else "refused"] += 1
            levels = {finding.level for finding in verdict.findings}
            failed = failed or ERROR in levels or fail_on in levels
            shown = _FORMATS[form](verdict)
            if shown:
                click.echo(shown)
    if form == "text":
        click.echo(
            f"{counts['commands']} commands against {loaded.name}: {counts['accepted']} accepted, "
            f"{counts['refused']} refused; {counts['skipped']} other values skipped",
            err=True,
        )
    if failed:
        raise SystemExit(1)


def _judge(
    loaded: LoadedSchema, placed: Placed, file: str, raised: tuple[str, ...]
) -> Verdict | None:
    """Return the verdict on one value, None for what a monitor sent."""
    message = placed.message
    if message.error is not None:
        finding = Finding(ERROR, "not-a-command", "", message.error)
        return Verdict(file, placed.line, "", (finding,))
    value = message.value
    name = ""
    if isinstance(value, dict):
        given = value.get("execute", value.get("exec-oob"))
        name = given if isinstance(given, str) else ""
        if given is None and any(member in value for member in _FROM_MONITOR):
            return None
    findings = validate_command(loaded.schema, value, release=loaded.release or NEWEST)
    findings += _listed(loaded, name, value, findings)
    findings = [
        replace(finding, level=ERROR) if raised and finding.kind.startswith(raised) else finding
        for finding in findings
    ]
    return Verdict(file, placed.line, name, tuple(findings))


def _listed(
    loaded: LoadedSchema, name: str, value: Any, findings: list[Finding]
) -> Iterator[Finding]:
    """Give what is deprecated in the release although its schema does not say so."""
    if loaded.release is None or loaded.schema.command(name) is None:
        return
    told = {(finding.kind, finding.path) for finding in findings}
    known = deprecated_in(loaded.release)
    arguments = value.get("arguments")
    places = [("command", "execute" if "execute" in value else "exec-oob", name, name)]
    if isinstance(arguments, dict):
        places += [
            ("member", f"arguments.{member}", f"{name} {member}", member) for member in arguments
        ]
    for what, path, item, shown in places:
        entry = known.get(item)
        kind = f"deprecated-{what}"
        if entry is None or (kind, path) in told or ("unknown-member", path) in told:
            continue
        word = "argument" if what == "member" else what
        message = f"{word} '{shown}' is deprecated since {entry.deprecated}"
        instead = f"use {entry.replacement}" if entry.replacement else None
        yield Finding(WARNING, kind, path, message, instead, item.replace(" ", "."))
