"""TLS as a client: what a URI asks for, as Python's ``ssl`` wants it.

Files are laid out as QEMU and libnbd have them. Source: NBD protocol, "TLS support".
"""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nbexport.errors import SourceError, UsageError

if TYPE_CHECKING:
    import socket

    from nbexport.nbd.uri import NbdUri, TlsChoice

_KEYS_MAX = 1 << 20  # bytes of a file of shared keys: some ten thousand


def secure(connection: socket.socket, uri: NbdUri) -> ssl.SSLSocket:
    """Secure a connection on which the server is ready for it.

    Raises:
        UsageError: Python cannot do what was asked for.
        SourceError: a file is missing or no certificate or key.
        OSError: the two do not come to terms.
    """
    assert uri.tls is not None
    choice = uri.tls
    if choice.needs_name and choice.verify and choice.hostname is None and uri.socket is not None:
        raise UsageError("No hostname for certificate validation")
    if choice.anonymous:
        context = _anonymous()
    elif choice.psk_file is not None:
        context = _shared_key(choice)
    else:
        context = _certificates(choice)
    name = choice.hostname or (uri.host if uri.socket is None else "localhost")
    return context.wrap_socket(connection, server_hostname=name)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _anonymous() -> ssl.SSLContext:
    """Return what proves nothing; see `nbexport.nbd.tls.anonymous` for the other side."""
    context = _context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ADH:AECDH:!eNULL:@SECLEVEL=0")
    return context


def _certificates(choice: TlsChoice) -> ssl.SSLContext:
    context = _context()
    if not choice.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if choice.certificates is None:
        context.load_default_certs()
        return context
    folder = Path(choice.certificates)
    authority = folder / "ca-cert.pem"
    own, key = folder / "client-cert.pem", folder / "client-key.pem"
    try:
        context.load_verify_locations(authority)
    except OSError as error:
        raise SourceError(f"{authority}: {error.strerror or 'no certificate'}") from error
    if own.exists() or key.exists():
        try:
            context.load_cert_chain(own, key, choice.password)
        except OSError as error:
            raise SourceError(f"{own}: {error.strerror or 'no certificate and key'}") from error
    return context


def _shared_key(choice: TlsChoice) -> ssl.SSLContext:
    path = Path(choice.psk_file or "")
    name = choice.username or ""
    try:
        with path.open("rb") as file:
            text = file.read(_KEYS_MAX).decode("utf-8", "replace")
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    for line in text.splitlines():
        user, colon, digits = line.partition(":")
        if colon and (not name or user == name):
            try:
                key = bytes.fromhex(digits.strip())
            except ValueError as error:
                raise SourceError(f"{path}: the key of '{user}' is not hexadecimal") from error
            break
    else:
        raise SourceError(f"{path}: no key of '{name}'")
    context = _context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("PSK:!NULL")
    if sys.version_info >= (3, 13):
        context.set_psk_client_callback(lambda _hint: (user, key))
        return context
    else:  # noqa: RET505 - which of the two there is depends on Python's version
        raise UsageError("shared keys for TLS need Python 3.13")
