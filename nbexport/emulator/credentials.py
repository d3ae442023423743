"""TLS credentials as the monitor makes them: what is checked of their files, and in which words.

OpenSSL reads the files here and GnuTLS in QEMU. The checks and their order are QEMU's; where a
text ends with GnuTLS's reason, the common reasons are translated.

Source: QEMU's ``docs/system/tls.rst``.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.errors import CommandError, UsageError
from nbexport.nbd import TlsChoice, tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_CA_NAME, _REVOCATIONS_NAME = tls.CA_CERTIFICATE, tls.CA_REVOCATIONS
PSK_KEY_MIN = 4
"""Bytes of a client's shared key, below which GnuTLS refuses it."""

# Results of a verification (OpenSSL's x509_vfy.h) that say when a certificate is good.
_NOT_YET, _EXPIRED = 9, 10
_NO_ISSUER = {2, 18, 19, 20, 21}
_REVOKED = 23
# A purpose that a certificate is not for counts only if its extension is critical.
_PURPOSE = 26


@dataclass(frozen=True)
class Credentials:
    """One side's credentials.

    Attributes:
        server: whether they are for the side that listens.
        verifies: whether the other side shows a certificate, which then can be authorized.
        make: returns the server's TLS; it raises UsageError if this Python cannot do it.
        choice: what a client does with them; None for a server's.
    """

    server: bool
    verifies: bool
    make: Callable[[], tls.Tls]
    choice: TlsChoice | None = None

    def for_client(self, hostname: str | None) -> TlsChoice:
        """Return what a client of these credentials does.

        Args:
            hostname: the name that the server's certificate must have; None for the host's.
        """
        assert self.choice is not None, "checked by who looked them up"
        return replace(self.choice, hostname=hostname)

    def for_server(self, authorize: Callable[[str], bool] | None) -> tls.Tls:
        """Return TLS for a server.

        Args:
            authorize: says whether a client of that distinguished name is let in; None lets in
                every client. Asked only where clients show certificates.

        Raises:
            CommandError: this Python cannot do it.
        """
        try:
            made = self.make()
        except UsageError as error:
            raise CommandError(str(error)) from error
        return replace(made, authorize=authorize) if self.verifies else made


def _is_server(properties: Mapping[str, Any]) -> bool:
    return bool(properties.get("endpoint", "client") == "server")


def anonymous(properties: Mapping[str, Any]) -> Credentials:
    """Return ``tls-creds-anon``, which need no file."""
    choice = None if _is_server(properties) else TlsChoice(anonymous=True)
    return Credentials(_is_server(properties), verifies=False, make=tls.anonymous, choice=choice)


def shared_keys(properties: Mapping[str, Any]) -> Credentials:
    """Return ``tls-creds-psk``.

    Raises:
        CommandError: the key file is missing, or a client's key is not in it.
    """
    server = _is_server(properties)
    if server and "username" in properties:
        raise CommandError("username should not be set when endpoint=server")
    path = _access(properties, tls.PSK_KEYS)
    choice = None
    if not server:
        user = properties.get("username", "qemu")
        _check_client_key(path, user)
        choice = TlsChoice(psk_file=str(path), username=user)
        return Credentials(server=False, verifies=False, make=_no_server, choice=choice)
    return Credentials(server=True, verifies=False, make=lambda: tls.psk(path.parent))


def _check_client_key(path: Path, user: str) -> None:
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        lines = (line.rstrip("\n") for line in file)
        found = next((line for line in lines if line.startswith(f"{user}:")), None)
    if found is None:
        raise CommandError(f"Username {user} not found in PSK file {path}")
    try:
        key = bytes.fromhex(found[len(user) + 1 :])
    except ValueError:
        raise CommandError("Cannot set PSK client credentials: Error in parsing.") from None
    if len(key) < PSK_KEY_MIN:
        raise CommandError("Cannot set PSK client credentials: The request is invalid.")


def certificates(properties: Mapping[str, Any], find_password: Callable[[str], str]) -> Credentials:
    """Return ``tls-creds-x509``.

    Args:
        properties: of the object.
        find_password: returns the text of a secret by its id.

    Raises:
        CommandError: a file is missing or wrong, or the certificates do not go together.
    """
    server = _is_server(properties)
    side = "server" if server else "client"
    authority = _access(properties, _CA_NAME)
    if server:
        # What is not there need not be; what cannot be read must not be passed over.
        _access(properties, _REVOCATIONS_NAME, required=False)
    certificate = _access(properties, f"{side}-cert.pem", required=server)
    key = _access(properties, f"{side}-key.pem", required=server)
    files = _Files(
        side, authority, *(each if each.exists() else None for each in (certificate, key))
    )
    sane = properties.get("sanity-check", True)
    if sane:
        files.check_alone()
    password = None
    trouble = None
    if files.certificate is not None and files.key is not None:
        if "passwordid" in properties:
            password = find_password(properties["passwordid"])
        trouble = files.load(password)
        if sane and trouble is None:
            files.check_together(password)
    if trouble is not None:
        raise trouble
    if not server:
        choice = TlsChoice(
            str(authority.parent),
            verify=properties.get("verify-peer", True),
            password=password,
            needs_name=True,
        )
        return Credentials(server=False, verifies=True, make=_no_server, choice=choice)
    _check_revocations(authority.parent / _REVOCATIONS_NAME)
    verify = properties.get("verify-peer", True)
    try:
        made = tls.x509(authority.parent, verify_peer=verify, password=password)
    except UsageError as error:
        raise CommandError(str(error)) from error
    return Credentials(server=True, verifies=verify, make=lambda: made)


def _no_server() -> tls.Tls:
    raise UsageError("these credentials are for a client")


def _access(properties: Mapping[str, Any], name: str, *, required: bool = True) -> Path:
    """Return a file of the folder; one that is required must be readable."""
    if "dir" not in properties:
        if required:
            raise CommandError("Missing 'dir' property value")
        return Path()
    path = Path(properties["dir"]) / name
    try:
        with path.open("rb"):
            return path
    except FileNotFoundError as error:
        if not required:
            return path
        reason = str(error.strerror)
    except (OSError, ValueError) as error:
        reason = str(error.strerror if isinstance(error, OSError) else error)
    raise CommandError(f"Unable to access credentials {path}: {reason}")


def _check_revocations(path: Path) -> None:
    if not path.exists():
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise CommandError(f"Cannot load CRL '{path}': Base64 decoding error.") from error


@dataclass(frozen=True)
class _Files:
    """The files of one side; those that may be missing are None."""

    side: str
    authority: Path
    certificate: Path | None
    key: Path | None

    def check_alone(self) -> None:
        """Check each certificate by itself."""
        own = None if self.certificate is None else _read(self.certificate)
        if self.certificate is not None and own is not None:
            if _BEGIN not in own:
                raise self._no_import("Base64 unexpected header error.")
            end = own.find(_END)
            single = own[own.index(_BEGIN) : end + len(_END)] if end >= 0 else own
            try:
                stats = _parse(single)[0]
            except ssl.SSLError:
                raise self._no_import("ASN1 parser: Error in DER parsing.") from None
            if stats["x509_ca"]:
                raise CommandError(
                    f"The certificate {self.certificate} basic constraints show a CA, but we need "
                    f"one for a {self.side}"
                )
        try:
            stats, found = _parse(_read(self.authority))
        except ssl.SSLError:
            stats, found = {"x509": 0, "x509_ca": 0}, []
        if not stats["x509"]:
            raise CommandError(f"Unable to import CA certificate list {self.authority}")
        now = time.time()
        for each in found:
            if ssl.cert_time_to_seconds(each["notAfter"]) < now:
                raise CommandError(f"The CA certificate {self.authority} has expired")
            if ssl.cert_time_to_seconds(each["notBefore"]) > now:
                raise CommandError(f"The CA certificate {self.authority} is not yet active")
        if stats["x509"] != stats["x509_ca"]:
            raise CommandError(
                f"The certificate {self.authority} basic constraints do not show a CA"
            )

    def _no_import(self, reason: str) -> CommandError:
        return CommandError(
            f"Unable to import {self.side} certificate {self.certificate}: {reason}"
        )

    def load(self, password: str | None) -> CommandError | None:
        """Return what is wrong with the certificate and its key together."""
        assert self.certificate is not None
        assert self.key is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        asked = False

        def answer() -> str:
            nonlocal asked
            asked = True
            return password or ""

        try:
            context.load_cert_chain(self.certificate, self.key, password=answer)
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = str(error)
            if asked:
                reason = "Decryption has failed."
            elif _BEGIN not in _read(self.certificate):
                reason = "Base64 decoding error."
            elif isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
                reason = "The certificate and the given key do not match."
            elif "PRIVATE KEY" not in _read(self.key):
                reason = "The requested data were not available."
            return CommandError(
                f"Cannot load certificate '{self.certificate}' & key '{self.key}': {reason}"
            )
        return None

    def check_together(self, password: str | None) -> None:
        """Check the certificate against its authority, by showing it to oneself."""
        code = _verification(self, password)
        name = self.certificate
        if code == _EXPIRED:
            raise CommandError(f"The {self.side} certificate {name} has expired")
        if code == _NOT_YET:
            raise CommandError(f"The {self.side} certificate {name} is not yet active")
        if code in {0, _PURPOSE}:
            return
        reason = "The certificate is not trusted"
        if code in _NO_ISSUER:
            reason = "The certificate hasn't got a known issuer"
        raise CommandError(
            f"Our own certificate {name} failed validation against {self.authority}: {reason}"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text("latin-1")
    except OSError as error:
        raise CommandError(f"Cannot load CA cert list {path}: {error.strerror}") from error


def _parse(text: str) -> tuple[dict[str, int], list[Any]]:
    """Return how many certificates a text holds, and those that are an authority's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if text.isascii() and text.strip():
        context.load_verify_locations(cadata=text)
    return context.cert_store_stats(), context.get_ca_certs()


def _verification(files: _Files, password: str | None) -> int:
    """Return OpenSSL's result of verifying a certificate, 0 for a good one."""
    assert files.certificate is not None
    listener = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener.load_cert_chain(files.certificate, files.key, password=lambda: password or "")
    caller = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    caller.check_hostname = False
    caller.load_verify_locations(files.authority)
    to_listener, to_caller = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        listener.wrap_bio(to_listener, to_caller, server_side=True),
        caller.wrap_bio(to_caller, to_listener),
    )
    for _turn in range(4):  # a handshake has two round trips at the most
        for side in sides:
            try:
                with _waiting():
                    side.do_handshake()
            except ssl.SSLCertVerificationError as error:
                return error.verify_code
            except ssl.SSLError:
                return -1
    return 0


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    with contextlib.suppress(ssl.SSLWantReadError):
        yield
