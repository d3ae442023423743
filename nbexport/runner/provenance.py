"""What a run depends on besides its parameters: versions of this package, Python and the peers."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import platform
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbexport import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PEERS = (
    "qemu-nbd",
    "qemu-img",
    "qemu-storage-daemon",
    "qemu-system-x86_64",
    "nbdinfo",
    "nbdkit",
)
"""Programs that notebooks compare with, where they are installed."""

_PACKAGES = ("numpy", "matplotlib")
_TIME_LIMIT_S = 10.0


@dataclass(frozen=True)
class Provenance:
    """Where and when pages were made.

    Attributes:
        version: of this package.
        date: of the day, in UTC.
        packages: versions of this package and of what computes and draws.
        peers: what each peer calls itself, None for one that is not installed.
    """

    version: str
    date: str
    packages: Mapping[str, str]
    peers: Mapping[str, str | None]


def provenance() -> Provenance:
    """Look around: what is installed here, and which day it is."""
    packages = {"nbexport": __version__, "Python": platform.python_version()}
    packages |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    today = dt.datetime.now(tz=dt.UTC).strftime("%Y-%m-%d")
    return Provenance(__version__, today, packages, peer_versions())


def peer_versions(programs: Sequence[str] = PEERS) -> dict[str, str | None]:
    """Return the first line of what each program answers to ``--version``.

    One that is not installed has None; one that does not answer says so, for it would be a riddle
    in a comparison.
    """
    return {name: _ask(name) for name in programs}


def _ask(program: str) -> str | None:
    if shutil.which(program) is None:
        return None
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIME_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "installed, but does not answer"
    return (done.stdout or done.stderr).strip().partition("\n")[0] or "installed, but says nothing"
