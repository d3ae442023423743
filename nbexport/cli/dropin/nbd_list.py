"""``nbexport-nbd --list``."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from nbexport.cli.dropin.nbd import PORT
from nbexport.cli.dropin.stop import StopError
from nbexport.errors import CommandError, NbexportError
from nbexport.listening import UNIX_PATH_MAX
from nbexport.nbd import listing
from nbexport.nbd.uri import NbdUri

if TYPE_CHECKING:
    from nbexport.cli.dropin.nbd import Wanted

_UINT16 = 1 << 16


def print_list(wanted: Wanted) -> None:
    """Print what a server exports.

    Raises:
        StopError: it does not tell.
    """
    if wanted.socket is not None:
        if len(os.fsencode(wanted.socket)) > UNIX_PATH_MAX:
            raise StopError(
                f"UNIX socket path '{wanted.socket}' is too long",
                f"Path must be less than {UNIX_PATH_MAX} bytes",
            )
        uri = NbdUri(socket=wanted.socket)
    else:
        host, port = wanted.bind or "0.0.0.0", wanted.port or PORT  # noqa: S104 - qemu-nbd's
        uri = NbdUri(host=host, port=_port(host, port))
    try:
        if wanted.tls_creds is not None:
            assert wanted.objects is not None
            tls = wanted.objects.client_tls(wanted.tls_creds, wanted.tls_hostname)
            uri = replace(uri, tls=tls)
        found = listing.ask(uri)
    except (NbexportError, CommandError) as error:
        head, _, hint = str(error).partition("\n")
        raise StopError(head, hint) from error
    sys.stdout.write(listing.text(found))


def _port(host: str, text: str) -> int:
    """Return a port that may be given by the name of a service."""
    import socket  # noqa: PLC0415 - a unix socket needs none of it

    try:
        found = socket.getaddrinfo(host, text, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StopError(f"address resolution failed for {host}:{text}: {reason}") from error
    return int(found[0][4][1])
