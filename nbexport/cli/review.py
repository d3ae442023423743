"""``nbexport review``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nbexport.cli.review_rules import rules_command
from nbexport.errors import NbexportError, UsageError
from nbexport.qapi import parse_release
from nbexport.review.finding import Level
from nbexport.review.policy import FILE_NAME, Policy, find_policy, read_policy
from nbexport.review.report import (
    as_github,
    as_json,
    as_junit,
    as_mail,
    as_markdown,
    as_text,
    json_schema,
    replies,
)
from nbexport.review.run import Settings, review_change, review_sources, rule_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbexport.review.report import Review

_FORMS: dict[str, Callable[[Review], str]] = {
    "text": as_text,
    "json": as_json,
    "markdown": as_markdown,
    "github": as_github,
    "junit": as_junit,
    "mail": as_mail,
}
_UNREADABLE = 3


class _WithRules(click.Command):
    """The command, and beside it ``rules``, which takes the place of a schema source."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if args[:1] == ["rules"]:
            return rules_command.make_context(f"{info_name} rules", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


def _release(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
    return None if text is None else parse_release(text)


def _print_json_schema(context: click.Context, _parameter: click.Parameter, given: bool) -> None:  # noqa: FBT001 - click's signature
    if given:
        click.echo(json_schema(), nl=False)
        context.exit()


@click.command("review", cls=_WithRules)
@click.argument("sources", nargs=-1, required=True, metavar="[OLD NEW | BASE]")
@click.option(
    "--patch",
    metavar="FILE",
    help="Review a patch on top of BASE: a diff, a mail, a mailbox with a series; - for standard "
    "input.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(_FORMS)),
    default="text",
    show_default=True,
    help="mail is a reply to the patch, ready for git send-email; of OLD and NEW it quotes the "
    "difference.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write there instead of standard output; for mail a folder gets a file for each reply.",
)
@click.option(
    "--fail-on",
    type=click.Choice([str(level) for level in Level]),
    help="The lowest level of a finding that gives exit status 1.  [default: that of the policy "
    "file, else risky]",
)
@click.option(
    "--config",
    metavar="FILE",
    help=f"The policy file.  [default: {FILE_NAME} of this folder or of one above it]",
)
@click.option("--no-config", is_flag=True, help="Look at no policy file.")
@click.option(
    "--audit",
    is_flag=True,
    help="Judge all of the new schema, too: what the change leaves as it was is found as well.",
)
@click.option(
    "--release",
    metavar="RELEASE",
    help="The release under development, in which the new schema will ship.  [default: that of the "
    "policy file, of the VERSION file in QEMU's tree, or the next after release:...]",
)
@click.option(
    "-p",
    "--strip",
    type=click.IntRange(0, 99),
    metavar="N",
    help="Leave N leading folders of the patch's names out, as git apply does.  [default: 1]",
)
@click.option(
    "-C",
    "--context",
    type=click.IntRange(0, 999),
    metavar="N",
    help="Let a hunk apply where N lines of context match on each side, as git apply does.  "
    "[default: all]",
)
@click.option(
    "-D",
    "--define",
    "defines",
    multiple=True,
    metavar="SYMBOL",
    help="Configuration symbol of the build, such as CONFIG_LINUX; may be repeated, and then no "
    "other one is defined.  [default: all that occur]",
)
@click.option(
    "--as-of",
    metavar="RELEASE",
    callback=_release,
    help="Read schema text by the rules of that release.  [default: that of the VERSION file in "
    "QEMU's tree, else the newest rules]",
)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colour the text; auto does so on a terminal, unless NO_COLOR is set.",
)
@click.option(
    "--json-schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_json_schema,
    help="Print the JSON Schema of --format json and exit.",
)
@click.pass_context
def review_command(
    context_: click.Context,
    /,
    *,
    sources: tuple[str, ...],
    patch: str | None,
    form: str,
    output: str | None,
    fail_on: str | None,
    config: str | None,
    no_config: bool,
    audit: bool,
    release: str | None,
    strip: int | None,
    context: int | None,
    defines: tuple[str, ...],
    as_of: tuple[int, ...] | None,
    color: str,
) -> None:
    """Review an interface change: what differs on the wire, what it breaks, which promises.

    \b
      nbexport review release:5.1 release:5.2
      nbexport review git:../qemu@v9.0.0 git:../qemu@master --release 9.1
      nbexport review --patch series.mbox git:../qemu@master --format mail -o replies/
      git diff | nbexport review --patch - git:.@HEAD:qapi/qapi-schema.json
      nbexport review rules
      nbexport review rules leak-through-base

    OLD and NEW are schema sources: a schema file or folder, git:REPO@REV[:path], qmp:PATH or
    qmp:HOST:PORT (a running monitor), release:7.2 (the package's own data), or a JSON file with an
    answer to query-qmp-schema. A monitor and an answer tell neither documentation nor lines.
    multiple-bitmaps/base, /v3 to /v6 are revisions of a series that travel with the package.

    A patch is applied in memory onto BASE, a source that is text. It is a diff, a mail, or a
    mailbox: then patches are taken by their numbers, replies are left aside, and each patch and
    the series as a whole are reviewed. Hunks apply at an offset but without fuzz, as with git
    apply. Files that no schema is made of are skipped.

    The policy file sets levels, lets findings pass for a reason until a day, and names the release
    under development. Its sections are [review] (release, deprecation-window, fail-on),
    [review.levels] (a level or "off" by rule), [[review.ignore]] (rule, element, path, reason,
    expires) and [[review.approve]] (fingerprint, reason, expires).

    `nbexport review rules [RULE]` lists the rules, or explains one with examples.

    Exit status: 0 no finding at the level of --fail-on, 1 some, 2 wrong usage, 3 an input cannot
    be read. Of a series the whole counts: what a later patch mends is told but does not fail.
    """  # noqa: D301 - click wants the \b itself
    if patch is None and len(sources) != 2:
        raise click.UsageError("give OLD and NEW, or --patch FILE and BASE.", context_)
    if patch is not None and len(sources) != 1:
        raise click.UsageError("--patch takes one schema, its BASE.", context_)
    if patch is None and (strip is not None or context is not None):
        raise click.UsageError("-p and -C are about a patch: give --patch FILE.", context_)
    if config is not None and no_config:
        raise click.UsageError("give one of --config and --no-config.", context_)
    symbols = defines or None
    try:
        settings = Settings(
            _policy(config, no_config=no_config),
            _checked(release),
            None if fail_on is None else Level[fail_on.upper()],
            audit=audit,
        )
        if patch is not None or form == "mail":
            found = review_change(
                sources[0],
                sources[-1],
                patch or "",
                settings,
                strip=strip,
                context=context,
                defines=symbols,
                as_of=as_of,
            )
        else:
            found = review_sources(sources[0], sources[1], settings, defines=symbols, as_of=as_of)
    except UsageError as error:
        raise click.UsageError(f"{error}.", context_) from error
    except NbexportError as error:
        _stop(str(error))
    except OSError as error:
        _stop(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    try:
        _write(found, form, output, colour=_colours(color, output))
    except OSError as error:
        if output is None:
            raise
        raise click.UsageError(f"{error.filename}: {error.strerror}.", context_) from error
    if found.failed:
        raise SystemExit(1)


def _checked(release: str | None) -> str | None:
    if release is not None:
        parse_release(release)
    return release


def _policy(config: str | None, *, no_config: bool) -> Policy:
    if no_config:
        return Policy()
    if config is None:
        found = find_policy(Path.cwd())
        if found is None:
            return Policy()
        here = Path.cwd()
        config = str(found.relative_to(here) if found.is_relative_to(here) else found)
    return read_policy(config, rule_ids())


def _stop(message: str) -> None:
    click.echo(f"nbexport: {' '.join(message.split())}", err=True)
    raise SystemExit(_UNREADABLE)


def _colours(wish: str, output: str | None) -> bool:
    """Whether to colour (https://no-color.org: set to anything but the empty text is no)."""
    if wish != "auto":
        return wish == "always"
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return output is None and not plain and sys.stdout.isatty()


def _write(found: Review, form: str, output: str | None, *, colour: bool) -> None:
    text = as_text(found, colour=colour) if form == "text" else _FORMS[form](found)
    if output is None:
        click.echo(text, nl=False, color=colour)
        return
    path = Path(output)
    if form == "mail" and (output.endswith("/") or path.is_dir()):
        path.mkdir(parents=True, exist_ok=True)
        for number, mail in enumerate(replies(found), 1):
            name = path / f"{number:04}-{_file_name(mail.headers[0][1])}.eml"
            name.write_text(str(mail), encoding="utf-8")
            click.echo(str(name))
        return
    path.write_text(text, encoding="utf-8")


def _file_name(subject: str) -> str:
    """Return a subject as git makes names of files of it."""
    words = "".join(letter if letter.isalnum() else " " for letter in subject).split()
    return "-".join(words)[:52].lower()
