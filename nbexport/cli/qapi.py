"""``nbexport qapi``: look at schemas and check them."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import click

from nbexport.qapi import check_schema, introspect, parse_release
from nbexport.sources import Description, describe, load

if TYPE_CHECKING:
    from nbexport.qapi import QapiError
    from nbexport.sources.describe import Part

_WIDTH = 96

_DEFINE = click.option(
    "-D",
    "--define",
    "defines",
    multiple=True,
    metavar="SYMBOL",
    help="Configuration symbol of the build, such as CONFIG_LINUX; may be repeated, and then "
    "no other one is defined.  [default: all that occur]",
)


def _release(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
    return None if text is None else parse_release(text)


_AS_OF = click.option(
    "--as-of",
    metavar="RELEASE",
    callback=_release,
    help="Read schema text by the rules of that release: 5.2 has unions without discriminator and "
    "conditions in C.  [default: that of the VERSION file in QEMU's tree, else the newest rules]",
)


@click.group("qapi")
def qapi_group() -> None:
    """Look at QAPI schemas of any kind of source, and check schema files.

    A schema file or folder, a git revision, a running monitor, a release of the package's own data
    and a saved introspection are all named alike; each command's help shows how.
    """


@qapi_group.command("introspect")
@click.argument("source")
@_DEFINE
@_AS_OF
@click.option("--unmask", is_flag=True, help="Show the names of types instead of numbers.")
@click.option(
    "--release",
    metavar="RELEASE",
    help="Give the list the form of that release: enumerations have 'values' only before 6.2.  "
    "[default: that of the source, else the newest]",
)
def introspect_command(
    *,
    source: str,
    defines: tuple[str, ...],
    as_of: tuple[int, ...] | None,
    unmask: bool,
    release: str | None,
) -> None:
    """Print a schema as the answer to query-qmp-schema.

    \b
      nbexport qapi introspect qapi/qapi-schema.json --define CONFIG_LINUX
      nbexport qapi introspect git:../qemu@v7.2.0 --unmask
      nbexport qapi introspect release:5.2
      nbexport qapi introspect qmp:/tmp/qmp.sock

    SOURCE is a schema file or folder, git:REPO@REV[:path], qmp:PATH or qmp:HOST:PORT (a running
    monitor), release:7.2 (the package's own data), or a JSON file with such an answer, recordings
    of a monitor's replies included.
    """  # noqa: D301 - click wants the \b itself
    loaded = load(source, defines=defines or None, as_of=as_of)
    form = parse_release(release) if release is not None else loaded.release
    options = {} if form is None else {"release": form}
    click.echo(json.dumps(introspect(loaded.schema, unmask=unmask, **options), indent=2))


@qapi_group.command("show")
@click.argument("source")
@click.argument("name")
@_DEFINE
@_AS_OF
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show_command(
    *,
    source: str,
    name: str,
    defines: tuple[str, ...],
    as_of: tuple[int, ...] | None,
    as_json: bool,
) -> None:
    """Print one command, event or type with all members that it effectively has.

    \b
      nbexport qapi show release:7.2 block-export-add
      nbexport qapi show git:../qemu@v9.0.0 BlockdevOptions
      nbexport qapi show qmp:localhost:4444 nbd-server-start --json

    For each member: its name with a ? if it can be left out, its type, and where it comes from:
    own text, a base, or the branch of a union. Below it stand its features, conditions and
    documentation. For release: sources the history is computed from the package's data.

    SOURCE is a schema file or folder, git:REPO@REV[:path], qmp:PATH or qmp:HOST:PORT (a running
    monitor, which tells neither names of types nor documentation), release:7.2 (the package's own
    data), or a JSON file with an answer to query-qmp-schema.
    """  # noqa: D301 - click wants the \b itself
    loaded = load(source, defines=defines or None, as_of=as_of)
    found = describe(loaded.schema, name, with_history=loaded.kind == "release")
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
        return
    for line in _lines(found):
        click.echo(line.rstrip())


def _lines(found: Description) -> list[str]:
    """Lay a description out as text."""
    words = [found.meta, found.name]
    if found.flags:
        words.append(f"({', '.join(found.flags)})")
    lines = [" ".join(words)]
    for title, text in (
        ("defined at", found.place),
        ("since", found.since or ""),
        ("if", found.condition),
        ("returns", found.returns),
        ("tag", found.tag),
    ):
        if text:
            lines.append(f"  {title} {text}")
    for feature, text in found.features.items():
        lines += _wrapped(f"feature {feature}" + (f": {text}" if text else ""), "  ")
    if found.doc:
        lines += ["", *_wrapped(found.doc, "  ")]
    if found.parts:
        lines += ["", _TITLES.get(found.meta, "Members") + ":"]
        name_width = max(len(_name(part)) for part in found.parts)
        type_width = min(max(len(part.type) for part in found.parts), 30)
        for part in found.parts:
            lines += _part_lines(part, name_width, type_width)
    elif found.meta in ("command", "event", "struct"):
        lines += ["", "No members."]
    for tag, text in found.sections:
        lines += ["", *_wrapped(f"{tag}: {text}" if tag else text, "  ")]
    if found.releases:
        lines += ["", f"In releases {', '.join(found.releases)} of the package's data:"]
        lines += [f"  {item.release:6} {text}" for item in found.history for text in item.texts]
    return lines


_TITLES = {"command": "Arguments", "event": "Data", "enum": "Values", "alternate": "Choices"}


def _name(part: Part) -> str:
    return part.name + ("?" if part.optional else "")


def _part_lines(part: Part, name_width: int, type_width: int) -> list[str]:
    origin = f"{part.branch}: {part.origin}" if part.branch else part.origin
    shown = f"  {_name(part):{name_width}}"
    if part.type:
        shown += f"  {part.type:{type_width}}  {origin}"
    lines = [shown]
    notes = list(part.features)
    if part.condition:
        notes.append(f"if {part.condition}")
    if part.since:
        notes.append(f"since {part.since}")
    if notes:
        lines.append(f"      [{'; '.join(notes)}]")
    return lines + _wrapped(part.doc, "      ")


def _wrapped(text: str, margin: str) -> list[str]:
    """Fill the paragraphs of a text; what is indented keeps its lines."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        if not paragraph.strip():
            continue
        if lines:
            lines.append("")
        if paragraph.startswith(" ") or "\n " in paragraph:
            lines += [margin + line for line in paragraph.split("\n")]
        else:
            lines += textwrap.wrap(
                paragraph,
                _WIDTH,
                initial_indent=margin,
                subsequent_indent=margin,
                break_long_words=False,
                break_on_hyphens=False,
            )
    return lines


@qapi_group.command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--as-of",
    metavar="RELEASE",
    callback=_release,
    help="Apply the rules of that release.  [default: the newest ones]",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of the errors.")
def check_command(*, files: tuple[str, ...], as_of: tuple[int, ...] | None, as_json: bool) -> None:
    """Check schema FILEs, each the root of a schema, with the files that they include.

    \b
      nbexport qapi check qapi/qapi-schema.json
      nbexport qapi check --as-of 7.2 qapi/qapi-schema.json

    Each file's first error is told; QEMU's own front end stops there, too. A schema of an old
    release breaks today's rules: --as-of has it checked by those of its time.

    Errors go to standard error as a compiler prints them: file, line, the definition, and the
    chain of includes. With --json they are an array on standard output, empty if there are none.

    Exit status: 0 no errors, 1 errors, 2 wrong usage.
    """  # noqa: D301 - click wants the \b itself
    errors = check_schema(files, as_of=as_of)
    if as_json:
        click.echo(json.dumps([_error_json(error) for error in errors], indent=2))
    else:
        for error in errors:
            click.echo(str(error), err=True)
    if errors:
        raise SystemExit(1)


def _error_json(error: QapiError) -> dict[str, Any]:
    shown: dict[str, Any] = {"message": error.message}
    if error.info is not None:
        info = error.info
        shown |= {"file": info.path, "line": info.line}
        if error.column is not None:
            shown["column"] = error.column
        if info.name:
            shown |= {"meta": info.meta, "name": info.name}
        chain = []
        parent = info.parent
        while parent is not None:
            chain.append({"file": parent.path, "line": parent.line})
            parent = parent.parent
        if chain:
            shown["included-from"] = chain[::-1]
    return shown
