"""``nbexport qmp``."""

from __future__ import annotations

import click

from nbexport.emulator import PROGRAMS, MonitorAddress, Release, run_monitor

_PORT_MAX = 65535


def _host_port(
    ctx: click.Context,  # noqa: ARG001 - click's signature
    param: click.Parameter,  # noqa: ARG001 - click's signature
    value: str | None,
) -> tuple[str, int] | None:
    """Split ``HOST:PORT``; an IPv6 address stands in brackets."""
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > _PORT_MAX:
        raise click.BadParameter(f"'{value}' is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


@click.command("qmp")
@click.option(
    "-r",
    "--release",
    default="7.2",
    show_default=True,
    help="The QEMU release to behave as, from 2.12 to 11.0, or a stable one such as 7.2.14. A bare "
    "7.2 is the newest of its branch.",
)
@click.option("-s", "--socket", metavar="PATH", help="Listen on a unix socket.")
@click.option("--tcp", metavar="HOST:PORT", callback=_host_port, help="Listen on TCP.")
@click.option("--stdio", is_flag=True, help="Talk on standard input and output.")
@click.option(
    "--program",
    type=click.Choice(PROGRAMS),
    default=PROGRAMS[0],
    show_default=True,
    help="The storage daemon leaves without a SHUTDOWN event.",
)
@click.option("--pretty", is_flag=True, help="Print replies over several lines.")
def qmp_command(
    *,
    release: str,
    socket: str | None,
    tcp: tuple[str, int] | None,
    stdio: bool,
    program: str,
    pretty: bool,
) -> None:
    """Run an emulated QMP monitor until a client sends quit.

    \b
      nbexport qmp --release 5.2 --socket /tmp/qmp.sock
      nbexport qmp --release 7.2 --stdio

    Commands are checked against the interface of the release and answered in its words. Exports
    are real: block-export-add serves the image that blockdev-add has opened, over NBD, read-only.
    Prints the address once clients can connect, except with --stdio.

    A monitor serves one client at a time, as QEMU's do; state survives a reconnect.
    """  # noqa: D301 - click wants the \b itself
    if (socket is not None) + (tcp is not None) + stdio != 1:
        raise click.UsageError("give one of --socket, --tcp and --stdio.")
    run_monitor(
        Release.parse(release),
        MonitorAddress(socket, tcp, stdio),
        program=program,
        pretty=pretty,
        on_ready=click.echo,
    )
