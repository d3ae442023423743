"""Notebooks at addresses: whatever papermill has a handler for (s3, gs, abs, hdfs, http, ...)."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from nbexport.errors import NotebookError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_T = TypeVar("_T")


def is_remote(name: str | Path) -> bool:
    """Return whether a name is an address and not a path of this machine."""
    return isinstance(name, str) and "://" in name


def file_name(address: str) -> str:
    """Return the last part of an address, as a file would be called."""
    return PurePosixPath(urlsplit(address).path).name


def sibling(address: str, name: str) -> str:
    """Return the address of another file beside the one at ``address``."""
    parts = urlsplit(address)
    return parts._replace(path=str(PurePosixPath(parts.path).with_name(name))).geturl()


def read_text(address: str) -> str:
    """Return what is at an address.

    Raises:
        NotebookError: it cannot be had; the address and the handler's reason are told.
    """
    from papermill.iorw import papermill_io  # noqa: PLC0415 - more than a second

    # (Its own `read` and `write` warn of what is no notebook.)
    text = _attempt(address, lambda: papermill_io.get_handler(address).read(address))
    return text.decode() if isinstance(text, bytes) else "".join(text)


def write_text(address: str, text: str) -> None:
    """Put text at an address.

    Raises:
        NotebookError: it cannot be put there; the address and the handler's reason are told.
    """
    from papermill.iorw import papermill_io  # noqa: PLC0415 - more than a second

    _attempt(address, lambda: papermill_io.get_handler(address).write(text, address))


def _attempt(address: str, act: Callable[[], _T]) -> _T:
    # Handlers raise whatever their libraries do: there is no class that these have in common.
    try:
        return act()
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise NotebookError(f"{address}: {reason}") from error
