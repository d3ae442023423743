"""The entry point: finds the command, and turns errors into one line and an exit status."""

from __future__ import annotations

import importlib
import os
import sys

import click

from nbexport import __version__
from nbexport.errors import NbexportError

# Where each command lives, and its line in the help: a module is imported when its command runs.
_COMMANDS = {
    "bench": ("nbexport.cli.bench:bench_command", "Compare the NBD server with other ones."),
    "copy": ("nbexport.cli.transfer:copy_command", "Copy an export, or what changed, to a file."),
    "image": ("nbexport.cli.image:image_group", "Look at disk images, and check them."),
    "info": ("nbexport.cli.asking:info_command", "Tell what a server says of its exports."),
    "list": ("nbexport.cli.asking:list_command", "List the exports of a server."),
    "map": ("nbexport.cli.asking:map_command", "Print an export's extents, context by context."),
    "matrix": ("nbexport.cli.matrix:matrix_command", "Run notebooks over releases and more."),
    "migrate": ("nbexport.cli.migrate:migrate_command", "Plan what to call instead, and when."),
    "qapi": ("nbexport.cli.qapi:qapi_group", "Look at QAPI schemas, and check them."),
    "qmp": ("nbexport.cli.qmp:qmp_command", "Run emulated QMP monitors of a QEMU release."),
    "review": ("nbexport.cli.review:review_command", "Review a change of an interface."),
    "run": ("nbexport.cli.notebooks:run_command", "Run one notebook with parameters."),
    "serve": ("nbexport.cli.nbd:serve_command", "Serve a disk image and its bitmaps over NBD."),
    "site": ("nbexport.cli.notebooks:site_command", "Run the notebooks and build the site."),
    "timeline": ("nbexport.cli.timeline:timeline_command", "Tell when elements came and went."),
    "validate": ("nbexport.cli.validate:validate_stream", "Check QMP commands against a release."),
}


class _Commands(click.Group):
    """Imports a command only when it is called: some need libraries that take a second."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nbexport", message="%(prog)s %(version)s")
def cli() -> None:
    """Export a disk's dirty bitmaps over NBD, as QEMU does.

    Serve an image with its bitmaps, look at any export's maps, stand in for the monitor of a QEMU
    release, and run the notebooks that explain the interface.

    Exit status: 0 success, 1 the input or a peer is at fault, 2 wrong usage.
    """


def main() -> None:
    """Run the command line; print any expected error as one line on standard error."""
    try:
        cli(standalone_mode=True)
    except NbexportError as error:
        _stop(str(error))
    except BrokenPipeError:
        # The reader of our output has left (`nbexport map ... | head`); that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _stop(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _stop(message: str) -> None:
    one_line = " ".join(message.split())
    click.echo(f"nbexport: {one_line}", err=True)
    sys.exit(1)
