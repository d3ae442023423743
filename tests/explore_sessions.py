"""Play generated monitor sessions at QEMU and at the emulator for as long as wanted.

    python tests/explore_sessions.py [PROGRAM [SECONDS [SEED]]]

Each kind of difference is printed once, with the session that showed it; the exit status tells
whether there was one. The tests run a few such sessions; this looks for more.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
import time
from pathlib import Path

import qmp_family
from hypothesis import HealthCheck, Phase, given, seed, settings
from qmp_play import DAEMON, Command, Pair, make_files, show

IMAGE = Path(__file__).parent.parent / "data" / "images" / "two-bitmaps.qcow2"
EXAMPLES_MAX = 1_000_000


class TimeIsUpError(Exception):
    """Ends the search."""


def kind_of(difference: str) -> str:
    """Return the first step's difference without names and numbers."""
    lines = [line for line in difference.partition("\n> ")[0].splitlines() if line[:1] in "+-"]
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "*", "\n".join(lines))


def explore(program: str, seconds: float, first: int) -> int:
    """Return how many kinds of differences were found."""
    seen: set[str] = set()
    played = 0
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in ("files", "pair"):
            (folder / each).mkdir()
        make_files(folder / "files", IMAGE)
        with Pair(program, folder / "pair", folder / "files") as pair:

            @seed(first)
            @settings(
                max_examples=EXAMPLES_MAX,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(qmp_family.sessions())
            def play(steps: list[Command]) -> None:
                nonlocal played
                if time.monotonic() > end:
                    raise TimeIsUpError
                played += 1
                try:
                    difference = pair.difference(steps)
                except AssertionError as error:
                    difference = f"+{error}"
                if difference and kind_of(difference) not in seen:
                    seen.add(kind_of(difference))
                    print(difference, *map(show, steps), "", sep="\n", flush=True)

            with contextlib.suppress(TimeIsUpError):
                play()
    print(f"{played} sessions, {len(seen)} kinds of differences")
    return len(seen)


if __name__ == "__main__":
    program, duration, start = [*sys.argv[1:], *[DAEMON, "60", "0"][len(sys.argv) - 1 :]]
    sys.exit(bool(explore(program, float(duration), int(start))))
