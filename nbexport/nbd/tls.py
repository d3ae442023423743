"""TLS for the server: credentials as QEMU keeps them in a folder, and the layer on a connection.

Sources: NBD protocol, "TLS support"; QEMU, ``docs/system/tls.rst``.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.errors import UsageError
from nbexport.nbd.negotiation import TlsMode
from nbexport.units import KiB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

CA_CERTIFICATE = "ca-cert.pem"
CA_REVOCATIONS = "ca-crl.pem"
SERVER_CERTIFICATE = "server-cert.pem"
SERVER_KEY = "server-key.pem"
PSK_KEYS = "keys.psk"

BATCH = 128 * KiB
"""Bytes that are encrypted before they are sent and others get their turn."""
PSK_LINES_MAX = 10_000
"""Users of a key file; each is a short line."""
_READ_SIZE = 64 * KiB

# Short names of the attributes of a distinguished name (RFC 4514, section 3).
_SHORT = {
    "commonName": "CN", "localityName": "L", "stateOrProvinceName": "ST",
    "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C",
    "streetAddress": "STREET", "domainComponent": "DC", "userId": "UID",
    "emailAddress": "EMAIL",
}  # fmt: skip
_TO_ESCAPE = re.compile(r'([,+"\\<>;=]|^[ #]| $)')

# The group ffdhe2048 (RFC 7919, appendix A.1), as OpenSSL reads it.
_DIFFIE_HELLMAN = """\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""


@dataclass(frozen=True)
class Tls:
    """How a server speaks TLS.

    Attributes:
        context: what OpenSSL needs.
        mode: whether clients may do without.
        allowed: distinguished names of the clients that are let in, as patterns with ``*`` and
            ``?``; None lets in every client whose certificate is good.
        authorize: asked about such a name after those patterns; None lets in everybody.
    """

    context: ssl.SSLContext
    mode: TlsMode = TlsMode.REQUIRED
    allowed: tuple[str, ...] | None = None
    authorize: Callable[[str], bool] | None = None


def x509(
    folder: str | Path,
    *,
    verify_peer: bool = True,
    mode: TlsMode = TlsMode.REQUIRED,
    allowed: Sequence[str] | None = None,
    password: str | None = None,
) -> Tls:
    """Return TLS with certificates from a folder laid out for QEMU's ``tls-creds-x509``.

    The folder holds ``ca-cert.pem``, ``server-cert.pem``, ``server-key.pem`` and maybe
    ``ca-crl.pem``.

    Args:
        folder: where they are.
        verify_peer: whether clients must have a certificate of that authority.
        mode: whether clients may do without TLS.
        allowed: as in `Tls`.
        password: opens the key, if it is protected.

    Raises:
        UsageError: a file is missing or wrong, or clients are to be told apart by certificates
            that they need not have.
    """
    if allowed is not None and not verify_peer:
        raise UsageError("clients cannot be authorized by a certificate that is not verified")
    place = Path(folder)
    authority = _file(place, CA_CERTIFICATE)
    certificate, key = _file(place, SERVER_CERTIFICATE), _file(place, SERVER_KEY)
    context = _context()
    try:
        context.load_cert_chain(certificate, key, password=password or _no_password(key))
    except (ssl.SSLError, OSError, ValueError) as error:
        raise UsageError(f"{certificate}, {key}: not a certificate and its key: {error}") from error
    _load(context, authority)
    if verify_peer:
        context.verify_mode = ssl.CERT_REQUIRED
    if (place / CA_REVOCATIONS).exists():
        _load(context, _file(place, CA_REVOCATIONS))
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return Tls(context, mode, None if allowed is None else tuple(allowed))


def psk(folder: str | Path, *, mode: TlsMode = TlsMode.REQUIRED) -> Tls:
    """Return TLS with shared keys from a folder laid out for QEMU's ``tls-creds-psk``.

    The folder holds ``keys.psk``: lines of a user's name, a colon and the key in hexadecimal.

    Args:
        folder: where it is.
        mode: whether clients may do without TLS.

    Raises:
        UsageError: the file is missing or wrong, or this Python cannot use shared keys.
    """
    context = _context()
    if not hasattr(context, "set_psk_server_callback"):
        raise UsageError("TLS with pre-shared keys needs Python 3.13 or later")
    keys = read_psk_keys(folder)
    set_callback: Callable[..., None] = context.set_psk_server_callback
    # OpenSSL's keys that come by callback go with a hash that TLS 1.3 clients may not choose.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("kECDHEPSK:kDHEPSK:kPSK:!eNULL")
    set_callback(lambda user: keys.get(user or "", b""))
    return Tls(context, mode)


def anonymous(*, mode: TlsMode = TlsMode.REQUIRED) -> Tls:
    """Return TLS that keeps secrets, and proves to nobody who the other side is.

    Args:
        mode: whether clients may do without TLS.
    """
    context = _context()
    # TLS 1.3 cannot do without certificates, and OpenSSL does only at its lowest level.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ADH:AECDH:!eNULL:@SECLEVEL=0")
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(_DIFFIE_HELLMAN)
        file.flush()
        context.load_dh_params(file.name)
    return Tls(context, mode)


def read_psk_keys(folder: str | Path) -> dict[str, bytes]:
    """Return the keys of ``keys.psk`` by user.

    Raises:
        UsageError: the file is missing, or a line is wrong.
    """
    path = _file(Path(folder), PSK_KEYS)
    keys: dict[str, bytes] = {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error
    if len(lines) > PSK_LINES_MAX:
        raise UsageError(f"{path}: more than {PSK_LINES_MAX} users")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        user, colon, text = line.rpartition(":")
        try:
            key = bytes.fromhex(text.strip())
        except ValueError:
            key = b""
        if not (colon and user and key):
            raise UsageError(f"{path}:{number}: not a user, a colon and a key in hexadecimal")
        keys[user] = key
    return keys


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Nobody comes back: each connection proves itself anew.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def _file(folder: Path, name: str) -> Path:
    """Return a file that must be there; QEMU's words if it is not."""
    path = folder / name
    try:
        with path.open("rb"):
            return path
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"Unable to access credentials {path}: {text}") from error


def _load(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(f"{path}: not a certificate or a list of them: {error}") from error


def _no_password(key: Path) -> Callable[[], str]:
    """Return what refuses a protected key, which OpenSSL would ask the terminal about."""

    def refuse() -> str:
        raise UsageError(f"{key}: is protected by a password, which is not supported")

    return refuse


def distinguished_name(certificate: dict[str, Any]) -> str:
    """Return the subject of a certificate as QEMU writes it for its authorization.

    Args:
        certificate: as ``ssl.SSLObject.getpeercert`` gives it.

    The attributes have the order of the certificate and their short names, so
    ``O=Example,CN=laptop``.
    """
    parts = []
    for relative in certificate.get("subject", ()):
        pairs = (f"{_SHORT.get(k, k)}={_TO_ESCAPE.sub(_escape, v)}" for k, v in relative)
        parts.append("+".join(pairs))
    return ",".join(parts)


def matches(name: str, pattern: str) -> bool:
    """Return whether a name fits a pattern, in which ``*`` and ``?`` are the only wildcards."""
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _escape(found: re.Match[str]) -> str:
    return "\\" + found.group()


class TlsLayer:
    """TLS on one connection, in memory: the stream moves the bytes.

    Args:
        context: the server's.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False

    @property
    def pending(self) -> bool:
        """Whether there is something to send."""
        return self._outgoing.pending > 0

    def take(self) -> bytes:
        """Return what is to be sent, once."""
        return self._outgoing.read()

    async def handshake(
        self, receive: Callable[[], Awaitable[bytes]], send: Callable[[], Awaitable[None]]
    ) -> None:
        """Come to terms with the client.

        Args:
            receive: gives bytes from the client, none at the end.
            send: sends what is pending.

        Raises:
            ConnectionError: that failed; the client has been told.
        """
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                await send()
                await self._feed(receive)
            except ssl.SSLError as error:
                await send()
                raise ConnectionAbortedError(f"TLS handshake failed: {error}") from error
            else:
                await send()
                self.established = True
                return

    async def read(
        self, receive: Callable[[], Awaitable[bytes]], send: Callable[[], Awaitable[None]]
    ) -> bytes:
        """Return what the client sent, or no bytes at the end; otherwise as `handshake`."""
        data = bytearray()
        while True:
            try:
                while len(data) < _READ_SIZE:
                    piece = self._object.read(_READ_SIZE)
                    if not piece:
                        break
                    data += piece
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return bytes(data)
            except ssl.SSLError as error:
                raise ConnectionAbortedError(f"TLS failed: {error}") from error
            else:
                return bytes(data)
            if data:
                return bytes(data)
            await send()
            await self._feed(receive)

    async def _feed(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        data = await receive()
        if data:
            self._incoming.write(data)
        elif self.established:
            self._incoming.write_eof()
        else:
            raise ConnectionResetError("the client left during the TLS handshake")

    def encrypt(self, pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
        """Yield buffers, encrypted in batches; small ones share a record."""
        small = bytearray()
        for piece in pieces:
            if len(small) + len(piece) <= BATCH:
                small += piece
                continue
            if small:
                yield self._encrypt(memoryview(small))
                small = bytearray()
            view = memoryview(piece)
            for start in range(0, len(view), BATCH):
                yield self._encrypt(view[start : start + BATCH])
        if small:
            yield self._encrypt(memoryview(small))

    def _encrypt(self, data: memoryview) -> bytes:
        try:
            while len(data):
                data = data[self._object.write(data) :]
        except ssl.SSLError as error:
            raise ConnectionAbortedError(f"TLS failed: {error}") from error
        return self._outgoing.read()

    def end(self) -> None:
        """Prepare the goodbye."""
        with contextlib.suppress(ssl.SSLError):  # the client's own goodbye is not waited for
            self._object.unwrap()

    def check(self, tls: Tls) -> None:
        """Let the client in only if its name is allowed.

        Args:
            tls: says whose is.

        Raises:
            ConnectionError: it is not.
        """
        if tls.allowed is None and tls.authorize is None:
            return
        name = distinguished_name(self._object.getpeercert() or {})
        allowed = tls.allowed is None or any(matches(name, each) for each in tls.allowed)
        if not allowed or (tls.authorize is not None and not tls.authorize(name)):
            raise ConnectionRefusedError(f"TLS x509 authz check for {name} is denied")
