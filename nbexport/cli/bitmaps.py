"""Changing the bitmaps of an image: the actions of ``nbexport image bitmap``, as qemu-img's."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from nbexport import block
from nbexport.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.block import BitmapStore, NoBitmaps

ACTIONS: Final = ("add", "remove", "clear", "enable", "disable", "merge")
ORDER: Final = "nbexport.bitmap-actions"
"""Where a command's context keeps the actions: pairs of a name and, for merge, its bitmap."""

_SIZE = re.compile(r"\s*\+?(0[xX][0-9a-fA-F]+|[0-9]+(\.[0-9]*)?)([bBkKmMgGtTpPeE]?)")
_SUFFIXES: Final = "bkmgtpe"
_INT64_MAX: Final = (1 << 63) - 1
_UINT32: Final = 1 << 32


class BitmapCommand(click.Command):
    """A command that keeps the order in which its actions were given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note the actions, then parse as always."""
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        sources = iter(given.get("merge") or ())
        ctx.meta[ORDER] = [
            (parameter.name, next(sources) if parameter.name == "merge" else None)
            for parameter in order
            if parameter.name in ACTIONS
        ]
        return super().parse_args(ctx, args)


def stop(message: str, hint: str | None = None) -> NoReturn:
    """Print an error as qemu-img does, and end with its status."""
    click.echo(f"nbexport: {message}", err=True)
    if hint is not None:
        click.echo(hint, err=True)
    raise SystemExit(1)


def parse_granularity(text: str) -> int:
    """Return a size in bytes; a suffix stands for a power of 1024, and a fraction may need one."""
    found = _SIZE.fullmatch(text)
    value = 0.0
    if found is not None:
        digits, fraction, suffix = found.groups()
        shift = 10 * _SUFFIXES.index((suffix or "b").lower())
        if fraction is None:
            value = int(digits, 0 if digits[:2].lower() == "0x" else 10) << shift
        elif shift:
            value = int(float(digits) * (1 << shift))
        else:
            found = None
    if found is None:
        click.echo(
            "nbexport: Invalid granularity specified. You may use k, M, G, T, P or E suffixes for",
            err=True,
        )
        stop("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.")
    if value > _INT64_MAX:
        stop(f"Invalid granularity specified. Must be between 0 and {_INT64_MAX}.")
    return int(value)


def change(
    ctx: click.Context,
    words: tuple[str, ...],
    *,
    granularity: str | None,
    image_format: str | None,
    source_file: str | None,
    source_format: str | None,
) -> None:
    """Do the actions in the order in which they were given; stop at the first that fails.

    What was done before that stays done.
    """
    actions: list[tuple[str, str | None]] = ctx.meta[ORDER]
    names = {name for name, _ in actions}
    size = 0 if granularity is None else parse_granularity(granularity)
    if len(words) != 2:
        stop("Expecting filename and bitmap name")
    filename, bitmap = words
    if not actions:
        options = ", ".join(f"--{name}" for name in ACTIONS[:-1])
        stop(f"Need at least one of {options}, or --{ACTIONS[-1]}")
    if size and "add" not in names:
        stop("granularity only supported with --add")
    if source_format is not None and source_file is None:
        stop("-F only supported with -b")
    if source_file is not None and "merge" not in names:
        stop("Merge bitmap source file only supported with --merge")
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(_opened(filename, image_format))
        source: Any = store
        if source_file is not None:
            source = stack.enter_context(_source(source_file, source_format))
        for name, argument in actions:
            try:
                _act(store, name, bitmap, size, argument, source)
            except block.InconsistentBitmapError as error:
                stop(f"Operation {name} on bitmap {bitmap} failed: {error}", error.hint)
            except UsageError as error:
                stop(f"Operation {name} on bitmap {bitmap} failed: {error}")


def _act(
    store: BitmapStore | NoBitmaps,
    action: str,
    bitmap: str,
    granularity: int,
    argument: str | None,
    source: Any,
) -> None:
    if action == "add":
        # The number is one of 32 bits in the monitor's command that qemu-img makes of it.
        store.add(bitmap, granularity % _UINT32 if granularity else None)
    elif action == "merge":
        assert argument is not None
        store.find(bitmap)  # what is wrong with the target is told first
        found = source.bitmaps.get(argument)
        if found is None:
            raise UsageError(f"Dirty bitmap '{argument}' not found")
        store.merge(bitmap, found)
    else:
        getattr(store, action)(bitmap)


@contextlib.contextmanager
def _opened(filename: str, image_format: str | None) -> Iterator[BitmapStore | NoBitmaps]:
    with contextlib.ExitStack() as stack:
        try:
            store = stack.enter_context(block.edit_bitmaps(filename, format=image_format))
        except (OSError, FormatError, UsageError) as error:
            stop(f"Could not open '{filename}': {_text(error)}")
        yield store


@contextlib.contextmanager
def _source(filename: str, image_format: str | None) -> Iterator[block.BlockNode]:
    try:
        node = block.open_image(filename, format=image_format)
    except (OSError, FormatError, UsageError) as error:
        stop(f"Could not open '{filename}': {_text(error)}")
    with node:
        yield node


def _text(error: Exception) -> str:
    return error.message if isinstance(error, FormatError) else str(error)
