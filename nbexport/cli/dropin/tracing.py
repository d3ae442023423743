"""``--trace``: read and checked; there are no trace events here."""

from __future__ import annotations

import sys
from pathlib import Path

from nbexport.cli.dropin.stop import StopError


def check_trace(text: str) -> None:
    """Check the value of ``--trace``.

    Raises:
        StopError: it has an unknown part, or names a file that cannot be read.
        SystemExit: it asks for the list of events, which is empty.
    """
    if text in {"help", "?"}:
        sys.exit(0)
    for number, part in enumerate(text.split(",")):
        name, equals, value = part.partition("=")
        if not equals and number == 0:
            continue
        if name not in {"enable", "events", "file"}:
            raise StopError(f"Invalid parameter '{name}'")
        if name == "events":
            try:
                Path(value).read_bytes()
            except OSError as error:
                sys.stderr.write(f"qemu-nbd:{value}: {error.strerror}\n")
                sys.exit(1)
