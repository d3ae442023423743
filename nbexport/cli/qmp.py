"""``nbexport qmp``."""

from __future__ import annotations

from pathlib import Path

import click

from nbexport.emulator import (
    PROGRAMS,
    Comparison,
    MonitorAddress,
    Release,
    Transcript,
    replay,
    replay_at,
    run_monitor,
)
from nbexport.errors import NbexportError, UsageError
from nbexport.qmp import CompatPolicy

_PORT_MAX = 65535
_REMOVED = "removed="


def _host_port(value: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; an IPv6 address stands in brackets."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > _PORT_MAX:
        raise click.BadParameter(f"'{value}' is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _host_ports(
    ctx: click.Context,  # noqa: ARG001 - click's signature
    param: click.Parameter,  # noqa: ARG001 - click's signature
    values: tuple[str, ...],
) -> tuple[tuple[str, int], ...]:
    return tuple(map(_host_port, values))


def _removals(
    ctx: click.Context,  # noqa: ARG001 - click's signature
    param: click.Parameter,  # noqa: ARG001 - click's signature
    values: tuple[str, ...],
) -> tuple[str, ...]:
    """Return the names of ``removed=NAME,removed=NAME``."""
    names = []
    for value in values:
        for part in value.split(","):
            if not part.startswith(_REMOVED) or part == _REMOVED:
                raise click.BadParameter(f"'{part}' is not {_REMOVED}NAME")
            names.append(part.removeprefix(_REMOVED))
    return tuple(names)


@click.group("qmp", invoke_without_command=True)
@click.option(
    "-r",
    "--release",
    default="7.2",
    show_default=True,
    help="The QEMU release to behave as, from 2.12 to 11.0, or a stable one such as 7.2.14. A bare "
    "7.2 is the newest of its branch.",
)
@click.option(
    "-s", "--socket", "sockets", multiple=True, metavar="PATH", help="Listen on a unix socket."
)
@click.option(
    "--pretty-socket",
    "pretty_sockets",
    multiple=True,
    metavar="PATH",
    help="The same, with replies over several lines on this monitor alone.",
)
@click.option(
    "--tcp", multiple=True, metavar="HOST:PORT", callback=_host_ports, help="Listen on TCP."
)
@click.option("--stdio", is_flag=True, help="Talk on standard input and output.")
@click.option(
    "--program",
    type=click.Choice(PROGRAMS),
    default=PROGRAMS[0],
    show_default=True,
    help="The storage daemon leaves without a SHUTDOWN event, and has no --compat.",
)
@click.option("--pretty", is_flag=True, help="Print replies over several lines on every monitor.")
@click.option(
    "--compat",
    multiple=True,
    metavar="POLICY",
    help="What is done about deprecated and unstable interfaces, from 6.0 on, as QEMU's -compat: "
    "deprecated-input=accept|reject|crash, deprecated-output=accept|hide, and from 6.2 on "
    "unstable-input and unstable-output. The last one counts.",
)
@click.option(
    "--pretend",
    "removed",
    multiple=True,
    metavar="removed=NAME[,...]",
    callback=_removals,
    help="Take a command, an event, an argument (COMMAND.MEMBER) or a value out of the interface: "
    "what clients meet on the day after the removal.",
)
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a transcript of all monitors, for replay.",
)
@click.pass_context
def qmp_command(
    ctx: click.Context,
    *,
    release: str,
    sockets: tuple[str, ...],
    pretty_sockets: tuple[str, ...],
    tcp: tuple[tuple[str, int], ...],
    stdio: bool,
    program: str,
    pretty: bool,
    compat: tuple[str, ...],
    removed: tuple[str, ...],
    log: Path | None,
) -> None:
    """Run an emulated QMP monitor until a client sends quit.

    \b
      nbexport qmp --release 5.2 --socket /tmp/qmp.sock
      nbexport qmp --release 7.2 --stdio --log session.jsonl
      nbexport qmp --release 6.0 --socket a.sock --socket b.sock --compat deprecated-input=reject
      nbexport qmp --socket a.sock --pretend removed=nbd-server-add

    Commands are checked against the interface of the release and answered in its words. Exports
    are real: block-export-add serves the image that blockdev-add has opened, over NBD.
    Prints the addresses once clients can connect, except with --stdio.

    A monitor serves one client at a time, as QEMU's do; state survives a reconnect. With several
    addresses there are several monitors; events go to each that has finished its negotiation.
    """  # noqa: D301 - click wants the \b itself
    if ctx.invoked_subcommand is not None:
        return
    addresses = [MonitorAddress(path, pretty=pretty) for path in sockets]
    addresses += [MonitorAddress(path, pretty=True) for path in pretty_sockets]
    addresses += [MonitorAddress(host_port=where, pretty=pretty) for where in tcp]
    if stdio:
        addresses.append(MonitorAddress(stdio=True, pretty=pretty))
    if not addresses:
        raise click.UsageError("give at least one of --socket, --tcp and --stdio.")
    emulated = Release.parse(release)
    if compat and program != PROGRAMS[0]:
        raise click.UsageError(f"{program} has no --compat.")
    policy = None
    for text in compat:
        try:
            policy = CompatPolicy.parse(text, emulated.version)
        except UsageError as error:
            raise click.UsageError(f"--compat {text}: {error}") from error
    run_monitor(
        emulated,
        addresses,
        program=program,
        policy=policy,
        removed=removed,
        log=log,
        on_ready=click.echo,
    )


def _addresses(
    ctx: click.Context,  # noqa: ARG001 - click's signature
    param: click.Parameter,  # noqa: ARG001 - click's signature
    values: tuple[str, ...],
) -> tuple[Path | tuple[str, int], ...]:
    """Return addresses: with a slash, or without a port, a path."""
    found: list[Path | tuple[str, int]] = []
    for value in values:
        is_path = "/" in value or not value.rpartition(":")[2].isdecimal()
        found.append(Path(value) if is_path else _host_port(value))
    return tuple(found)


def _renames(
    ctx: click.Context,  # noqa: ARG001 - click's signature
    param: click.Parameter,  # noqa: ARG001 - click's signature
    values: tuple[str, ...],
) -> dict[str, str]:
    names = {}
    for value in values:
        old, equals, new = value.partition("=")
        if not old or not equals:
            raise click.BadParameter(f"'{value}' is not OLD=NEW")
        names[old] = new
    return names


@qmp_command.command("replay")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-r", "--release", help="The release to emulate.  [default: the recorded one]")
@click.option(
    "--qmp",
    "addresses",
    multiple=True,
    metavar="ADDRESS",
    callback=_addresses,
    help="A running monitor instead: PATH or HOST:PORT; once for each monitor of the transcript.",
)
@click.option(
    "-C",
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the emulator sees relative file names from.  [default: here]",
)
@click.option(
    "--rename",
    multiple=True,
    metavar="OLD=NEW",
    callback=_renames,
    help="Use NEW wherever the transcript says OLD, in file names for example.",
)
@click.option("--compat", metavar="POLICY", help="As for 'nbexport qmp'.")
@click.option("--pretend", multiple=True, metavar="removed=NAME", help="As for 'nbexport qmp'.")
def replay_command(
    *,
    file: Path,
    release: str | None,
    addresses: tuple[Path | tuple[str, int], ...],
    directory: Path | None,
    rename: dict[str, str],
    compat: str | None,
    pretend: tuple[str, ...],
) -> None:
    """Play the commands of the transcript FILE again, and print what is answered differently.

    \b
      nbexport qmp replay session.jsonl --release 11.0
      nbexport qmp replay session.jsonl --qmp /tmp/qmp.sock

    They go to another release of the emulator, or to a running monitor, of QEMU for example. For
    each difference the request is shown, then the recorded answer with '-' and the new one with
    '+', events before the answer included. Times, the version, and generated node names are not
    compared.

    Absolute file names are used as they are; relative ones are seen from --directory, or from the
    directory of the process at --qmp. Images must be as they were before the recording.

    Exit status: 0 all the same, 1 something differs, 2 it could not be played.
    """  # noqa: D301 - click wants the \b itself
    options = ["--compat", compat] if compat is not None else []
    for name in pretend:
        options += ["--pretend", name]
    if addresses and (release is not None or directory is not None or options):
        raise click.UsageError("--qmp does not go with options of the emulator.")
    try:
        transcript = Transcript.load(file).renamed(rename)
        found: Comparison
        if addresses:
            found = replay(transcript, addresses)
        else:
            found = replay_at(
                transcript, release or transcript.release, options=options, directory=directory
            )
    except NbexportError as error:
        click.echo(f"nbexport: {' '.join(str(error).split())}", err=True)
        raise SystemExit(2) from error
    for difference in found.differences:
        for line in difference.lines():
            click.echo(line)
    click.echo(f"{found.requests} answers, {len(found.differences)} differences", err=True)
    if not found.same:
        raise SystemExit(1)
