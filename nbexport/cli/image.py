"""``nbexport image``: what an image is, what is where in it, and its bitmaps."""

from __future__ import annotations

import json
from typing import Any

import click

from nbexport import block
from nbexport.cli.bitmaps import ORDER, BitmapCommand, change, stop
from nbexport.errors import UsageError
from nbexport.units import format_size

_FORMAT = click.option(
    "-f", "--format", "image_format", help="qcow2 or raw.  [default: look at the image]"
)
_OUTPUT = click.option(
    "--output",
    type=click.Choice(["human", "json"]),
    default="human",
    show_default=True,
    help="How to print it; json has the members that qemu-img gives.",
)
_SHARE = click.option(
    "-U",
    "--force-share",
    is_flag=True,
    help="Do not mind another process that writes the image; what is read may be torn.",
)

_NO_CHECK = 63
"""Exit status, qemu-img's, where there is nothing that could be checked."""


@click.group("image")
def image_group() -> None:
    """Look at disk images, check them, and change their bitmaps."""


@image_group.command("info")
@click.argument("image")
@_FORMAT
@_SHARE
@_OUTPUT
def info_command(*, image: str, image_format: str | None, force_share: bool, output: str) -> None:
    """Print the facts of IMAGE: sizes, format, snapshots, bitmaps.

    The backing file is named, not opened.
    """
    facts = block.image_info(image, format=image_format, force_share=force_share)
    if output == "json":
        click.echo(json.dumps(facts, indent=4))
        return
    for line in _lines(facts, ""):
        click.echo(line)


def _lines(value: dict[str, Any], indent: str) -> list[str]:
    lines: list[str] = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *_lines(item, indent + "    ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(f"{indent}{key}:")
            for number, member in enumerate(item):
                lines += [f"{indent}    [{number}]:", *_lines(member, indent + "        ")]
        elif isinstance(item, list):
            lines.append(f"{indent}{key}: {', '.join(item) or 'none'}")
        elif isinstance(item, bool):
            lines.append(f"{indent}{key}: {'true' if item else 'false'}")
        elif key.endswith("-size"):
            lines.append(f"{indent}{key}: {format_size(item)} ({item} bytes)")
        else:
            lines.append(f"{indent}{key}: {item}")
    return lines


@image_group.command("map")
@click.argument("image")
@click.option("-l", "--snapshot", metavar="ID|NAME", help="Map this internal snapshot instead.")
@_FORMAT
@_SHARE
@_OUTPUT
def map_command(
    *, image: str, snapshot: str | None, image_format: str | None, force_share: bool, output: str
) -> None:
    """Print which file of the chain of IMAGE holds what, and where in it.

    The human table has the ranges with data only, as qemu-img's; json has all.
    """
    with block.open_image(
        image, format=image_format, snapshot=snapshot, force_share=force_share
    ) as node:
        found = block.image_map(node)
        names = [layer.filename for layer in node.chain()]
    if output == "json":
        click.echo(found.json())
        return
    rows = [entry for entry in found.entries() if entry["data"] and not entry["zero"]]
    if any("offset" not in row for row in rows):
        raise UsageError(f"{image}: File contains external, encrypted or compressed clusters.")
    click.echo(f"{'Offset':<15} {'Length':<15} {'Mapped to':<15} File")
    for row in rows:
        numbers = (f"{row[key]:#x}" if row[key] else "0" for key in ("start", "length", "offset"))
        click.echo(" ".join(f"{number:<15}" for number in numbers) + f" {names[row['depth']]}")


@image_group.command("bitmap", cls=BitmapCommand)
@click.argument("words", nargs=-1, metavar="IMAGE [BITMAP]")
@click.option("--list", "listing", is_flag=True, help="List the bitmaps of the image.")
@click.option("--add", is_flag=True, help="Make an empty bitmap.")
@click.option("--remove", is_flag=True, help="Delete it.")
@click.option("--clear", is_flag=True, help="Mark everything clean.")
@click.option("--enable", is_flag=True, help="Have writes recorded.")
@click.option("--disable", is_flag=True, help="Have writes not recorded.")
@click.option("--merge", multiple=True, metavar="NAME", help="Mark what bitmap NAME marks too.")
@click.option("-b", "--source-file", metavar="IMAGE", help="Where --merge finds its bitmaps.")
@click.option("-F", "--source-format", metavar="FORMAT", help="Its format.")
@click.option("-g", "--granularity", metavar="SIZE", help="Of --add; k, M, G may follow.")
@_FORMAT
@_SHARE
@_OUTPUT
@click.pass_context
def bitmap_command(
    ctx: click.Context,
    /,
    *,
    words: tuple[str, ...],
    listing: bool,
    source_file: str | None,
    source_format: str | None,
    granularity: str | None,
    image_format: str | None,
    force_share: bool,
    output: str,
    **_: object,
) -> None:
    """Change the persistent dirty bitmaps of an image, or list them.

    \b
      nbexport image bitmap --add -g 64k disk.qcow2 b0
      nbexport image bitmap --merge b1 --disable disk.qcow2 b0
      nbexport image bitmap --list disk.qcow2

    Actions are done in the order given, as by qemu-img, up to the first that fails; what was done
    before it stays done. Exit status 1 if one fails.

    The list tells name, granularity, flags and dirty bytes. An inconsistent bitmap has no count:
    its writer did not close the image.
    """  # noqa: D301 - click wants the \b itself
    if not listing:
        if force_share:
            stop("force-share=on can only be used with read-only images")
        change(
            ctx,
            words,
            granularity=granularity,
            image_format=image_format,
            source_file=source_file,
            source_format=source_format,
        )
        return
    if len(words) != 1 or ctx.meta[ORDER]:
        raise click.UsageError("--list takes one image, and no action goes with it.")
    with block.open_image(words[0], format=image_format, force_share=force_share) as node:
        rows = [
            block.bitmap_facts(bitmap)
            | ({} if bitmap.bitmap is None else {"count": bitmap.bitmap.count})
            for bitmap in node.bitmaps.values()
        ]
    if output == "json":
        click.echo(json.dumps(rows))
        return
    click.echo(f"{'Granularity':<12} {'Dirty bytes':<15} {'Flags':<12} Name")
    for row in rows:
        flags = ",".join(row["flags"]) or "-"
        click.echo(
            f"{row['granularity']:<12} {row.get('count', '-'):<15} {flags:<12} {row['name']}"
        )


@image_group.command("check")
@click.argument("image")
@_FORMAT
@_SHARE
@_OUTPUT
def check_command(*, image: str, image_format: str | None, force_share: bool, output: str) -> None:
    """Compare the reference counts of IMAGE with what refers to its clusters.

    Exit status: 0 sound, 1 the check could not be made, 2 corrupt, 3 leaked clusters only, 63 the
    format has nothing to check. The image is not repaired.
    """
    found = block.check_image(image, format=image_format, force_share=force_share)
    if found is None:
        click.echo("nbexport: This image format does not support checks", err=True)
        raise SystemExit(_NO_CHECK)
    for message in found.messages:
        click.echo(message, err=True)
    if output == "json":
        click.echo(json.dumps(_check_facts(image, found), indent=4))
    else:
        for line in _check_lines(found):
            click.echo(line)
    if found.check_errors:
        raise SystemExit(1)
    raise SystemExit(2 if found.corruptions else 3 if found.leaks else 0)


def _check_facts(image: str, found: block.CheckResult) -> dict[str, Any]:
    facts = {
        "filename": image,
        "format": "qcow2",
        "check-errors": found.check_errors,
        "image-end-offset": found.image_end_offset,
    }
    counts = {
        "corruptions": found.corruptions,
        "leaks": found.leaks,
        "total-clusters": found.total_clusters,
        "allocated-clusters": found.allocated_clusters,
        "fragmented-clusters": found.fragmented_clusters,
        "compressed-clusters": found.compressed_clusters,
    }
    return facts | {name: count for name, count in counts.items() if count}


def _check_lines(found: block.CheckResult) -> list[str]:
    lines: list[str] = []
    if found.corruptions:
        lines.append(f"{found.corruptions} errors were found on the image.")
    if found.leaks:
        lines.append(f"{found.leaks} leaked clusters were found on the image.")
    if found.check_errors:
        lines.append(f"{found.check_errors} internal errors have occurred during the check.")
    if not lines:
        lines.append("No errors were found on the image.")
    if found.total_clusters and found.allocated_clusters:
        shares = (
            found.allocated_clusters / found.total_clusters,
            found.fragmented_clusters / found.allocated_clusters,
            found.compressed_clusters / found.allocated_clusters,
        )
        lines.append(
            f"{found.allocated_clusters}/{found.total_clusters} = {shares[0]:.2%} allocated, "
            f"{shares[1]:.2%} fragmented, {shares[2]:.2%} compressed clusters"
        )
    if found.image_end_offset:
        lines.append(f"Image end offset: {found.image_end_offset}")
    return lines
