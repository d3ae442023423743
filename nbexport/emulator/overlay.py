"""Temporary overlays: what is written goes to a file that has no name any more once it is open.

Source: qemu-nbd(8), ``--snapshot``; the texts were compared with QEMU 7.2.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.errors import CommandError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nbexport.emulator.graph import Node


def temporary_folder(*, large: bool = False) -> str:
    """Return where temporary files are made.

    Args:
        large: whether they may grow, so that a folder in memory is to be avoided.
    """
    folder = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - QEMU's
    return "/var/tmp" if large and folder == "/tmp" else folder  # noqa: S108


def overlay_options(base: Node, path: str, *, writable: bool, unmap: bool) -> dict[str, Any]:
    """Return the description of an overlay over ``base`` whose file is at ``path``."""
    return {
        "driver": "qcow2",
        "file": {"driver": "file", "filename": path, "discard": "unmap"},
        "backing": base.name,
        "read-only": not writable,
        "discard": "unmap" if unmap else "ignore",
        "cache": {"direct": False, "no-flush": True},
    }


@contextlib.contextmanager
def temporary_image(size: int) -> Iterator[str]:
    """Make an image of a disk of ``size`` bytes; its name is gone when the block ends.

    Raises:
        CommandError: it cannot be made.
    """
    path = ""
    try:
        fd, path = _make_file()
        os.close(fd)
        try:
            with block.FileNode(path, writable=True) as file:
                block.create(file, block.Plan(size=size))
        except (OSError, UsageError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise CommandError(f"Could not create temporary overlay '{path}': {reason}") from error
        yield path
    finally:
        if path:
            Path(path).unlink(missing_ok=True)


def _make_file() -> tuple[int, str]:
    folder = temporary_folder(large=True)
    try:
        return tempfile.mkstemp(prefix="vl.", dir=folder)
    except OSError as error:
        shown = error.filename or f"{folder}/vl.XXXXXX"
        raise CommandError(f"Could not open temporary file '{shown}': {error.strerror}") from error


def put_overlay(
    build: Callable[[dict[str, Any]], Node], base: Node, *, writable: bool, unmap: bool
) -> Node:
    """Return a new node that shows ``base`` and keeps what is written.

    Args:
        build: opens a node that is described.
        base: is only read.
        writable: whether anybody writes.
        unmap: whether trimming gives storage back.

    Raises:
        CommandError: it cannot be made.
    """
    with temporary_image(base.block.size) as path:
        return build(overlay_options(base, path, writable=writable, unmap=unmap))
